"""Train a 784-500-500-10 tanh network on MNIST with Keras.

It reads 97.95 % of the 10,000 test images right after 100 epochs (97.90 to 97.98 with
the seeds 0, 1, 2 on an AMD EPYC Zen 5), which take three minutes on two cores of a Zen 3,
without a GPU (Python 3.11.7, keras 3.15.1, tensorflow 2.21.0, numpy 2.4.6). Change the
constants below and run `python train_mnist.py` again.
"""

import contextlib
import io
import math
import os
import re
import signal
import socket
import sys
import tempfile
import threading
import time
from functools import partial
from numbers import Integral, Real
from pathlib import Path

# Read once, when TensorFlow is imported; a value that is already set wins.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

# Data
SEED = 0  # of every random number, 0 to 2**32 - 1; repeats a run on the same machine
DATA_PATH = "mnist.npz"  # the data set; mnist.npz is downloaded if it is missing
DATA_URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"  # where mnist.npz is
DATA_SHA256 = "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"  # of mnist.npz, 64 hex digits
STANDARDIZE = True  # scale pixels to mean 0, standard deviation 1; False: feed them raw
VALIDATION_SPLIT = 0.3  # share of the training images held out, 0 up to 1

# Model
HIDDEN_UNITS = (500, 500)  # width of each hidden layer; (300,) is one layer
ACTIVATION = "tanh"  # of the hidden layers, any Keras activation by name
DROPOUT = 0.5  # share of each hidden layer's outputs dropped in training, 0 up to 1
DTYPE_POLICY = "float32"  # a Keras policy; "mixed_bfloat16" suits a CPU that has it

# Optimizer: stochastic gradient descent
LEARNING_RATE = 0.01  # at the first step, above 0
DECAY = 1e-6  # the rate at step n is LEARNING_RATE / (1 + DECAY * n), 0 or more
MOMENTUM = 0.9  # share of the last update that is kept, 0 up to 1
NESTEROV = True  # look ahead along the momentum, True or False

# Training
BATCH_SIZE = 200  # images per step
EPOCHS = 100  # passes over the training images

# Output
MODEL_PATH = "mnist_mlp.keras"  # the trained model; None: not saved
PLOT_PATH = "mnist_mlp.png"  # curves, confusions and mistakes; None: not drawn


def main():
    """Load, train, evaluate, report, save and draw, by the constants above.

    Raises:
        SystemExit: with a line that says what is wrong; with status 130 after a
            Ctrl-C; with status 1 if a file could not be written.
    """
    check_constants()
    keras.utils.set_random_seed(int(SEED))
    (x_train, y_train), (x_test, y_test) = load_data(DATA_PATH)
    print(f"training images {x_train.shape} {x_train.dtype}, labels {y_train.shape}")
    print(f"test images     {x_test.shape} {x_test.dtype}, labels {y_test.shape}")

    inputs, targets = preprocess(x_train, y_train)
    model = build_model(inputs)
    model.summary()
    history, interrupted = train(model, inputs, targets)

    loss, accuracy, probabilities = evaluate(model, *preprocess(x_test, y_test))
    if not np.isfinite([history["loss"][-1], loss]).all():
        raise SystemExit(
            "The loss became NaN or infinite, so nothing is saved: "
            f"LEARNING_RATE = {LEARNING_RATE} is probably too high"
        )
    confusions = np.zeros((10, 10), int)  # how often each label was read as each digit
    np.add.at(confusions, (y_test, probabilities.argmax(axis=1)), 1)
    report(history["loss"][-1], loss, accuracy, confusions)

    saved = save(MODEL_PATH, model.save)
    picture = partial(draw, history, confusions, x_test, y_test, probabilities)
    drawn = save(PLOT_PATH, picture)
    if interrupted:
        sys.exit(130)
    if not (saved and drawn):
        sys.exit(1)


# The network and its training


def load_data(path):
    """Load a data set in MNIST's layout from an npz file, which is never changed.

    Args:
        path: the file, relative to this script's folder or absolute. If it is missing
            and its name is mnist.npz, it is downloaded from DATA_URL.

    Returns:
        (x_train, y_train), (x_test, y_test): images, (N, height, width), of any
        integer or float dtype, and labels, (N,), integers 0 to 9.

    Raises:
        SystemExit: one line with the file and what is wrong with it.
    """
    path = absolute(path)
    if not os.path.lexists(path):  # even a link to nowhere is the user's file
        download(path)
    names = ("x_train", "y_train", "x_test", "y_test")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = [file[name] for name in names]
    # NumPy, zipfile and zlib raise a dozen kinds for a file that is damaged.
    except Exception as error:
        layout = f"an npz file with {', '.join(names)}"
        raise SystemExit(f"{path}: not {layout} ({one_line(error)})") from error
    # Keras takes numbers in the byte order of the machine only.
    arrays = [a.astype(a.dtype.newbyteorder("="), copy=False) for a in arrays]
    check_arrays(path, *arrays)
    x_train, y_train, x_test, y_test = arrays
    return (x_train, y_train), (x_test, y_test)


def preprocess(images, labels):
    """Flatten images, (N, height, width), and encode labels, (N,), one-hot.

    Returns:
        (N, height * width) of the images' dtype, not copied, and (N, 10) bool.
    """
    return images.reshape(len(images), -1), labels[:, None] == np.arange(10)


def build_model(x):
    """Build and compile the network for images x, (N, pixels), by the constants.

    Returns:
        A keras.Sequential: raw pixels of x's dtype in, the probability of each of the
        10 digits out, (N, 10) float32 (float64 by that policy). If STANDARDIZE, it
        keeps the mean and the standard deviation of all pixels of x.
    """
    keras.config.set_dtype_policy(DTYPE_POLICY)
    # Fewer bits pay in the hidden layers' products. Elsewhere they would cost time
    # (random numbers) or precision (pixels of more than 8 bits, probabilities).
    precise = "float64" if DTYPE_POLICY == "float64" else "float32"
    model = keras.Sequential([keras.Input(x.shape[1:], dtype=x.dtype.name)])
    if STANDARDIZE:
        mean = x.mean(dtype="float64")
        # x.std() would copy the images to float64; einsum needs no copy.
        mean_square = np.einsum("ij,ij->", x, x, dtype="float64") / x.size
        std = math.sqrt(max(mean_square - mean**2, 0))
        # Pixels that are all one value, to float32's precision, are only shifted.
        scale = 1 / std if std > 1e-6 * abs(mean) else 1.0
        model.add(keras.layers.Rescaling(scale, -mean * scale, dtype=precise))
    for units in HIDDEN_UNITS:
        model.add(keras.layers.Dense(int(units), activation=ACTIVATION))
        model.add(keras.layers.Dropout(float(DROPOUT), dtype=precise))
    model.add(keras.layers.Dense(10, activation="softmax", dtype=precise))
    # LEARNING_RATE / (1 + DECAY * step), which `decay` was before Keras 3.
    schedule = keras.optimizers.schedules.InverseTimeDecay
    rate = schedule(float(LEARNING_RATE), decay_steps=1, decay_rate=float(DECAY))
    sgd = keras.optimizers.SGD(rate, momentum=float(MOMENTUM), nesterov=NESTEROV)
    model.compile(optimizer=sgd, loss="categorical_crossentropy")
    return model


def train(model, x, y):
    """Fit the model to images x, (N, pixels), and one-hot labels y, (N, 10).

    Returns:
        The losses (nats) by epoch, as {"loss": [...], "val_loss": [...]}, without
        val_loss if nothing is held out; and whether Ctrl-C ended the training early.

    Raises:
        SystemExit: VALIDATION_SPLIT leaves no image to train or to validate with.
    """
    count = math.floor(len(x) * (1 - float(VALIDATION_SPLIT)))  # as Keras rounds it
    if count == 0 or (VALIDATION_SPLIT > 0 and count == len(x)):
        raise SystemExit(
            f"VALIDATION_SPLIT = {VALIDATION_SPLIT}: must leave at least one image to "
            f"train and one to validate with, not {count} and {len(x) - count}"
        )
    batch_size = min(int(BATCH_SIZE), count)
    steps = math.ceil(count / batch_size)
    if keras.backend.backend() != "torch":  # which runs one step at a time
        # Python between two steps costs a fifth of an epoch. About 0.1 s of work
        # (30 steps by default) keeps Ctrl-C and, 7 times an epoch, the bar alive.
        at_once = min(4e9 / (batch_size * model.count_params()), steps / 7)
        # Not by compile(), which would write it into the saved model.
        model.steps_per_execution = max(1, int(at_once))
    if keras.backend.backend() == "tensorflow":
        free_in_background(model)
    is_live = sys.stdout.isatty() or "ipykernel" in sys.modules  # or in a notebook
    handler, previous = InterruptHandler(), signal.getsignal(signal.SIGINT)
    start = time.perf_counter()
    try:
        history = model.fit(
            x,
            y,
            batch_size=batch_size,
            epochs=int(EPOCHS),
            steps_per_epoch=steps,  # without it Keras sets up each epoch's data twice
            shuffle=True,
            validation_split=float(VALIDATION_SPLIT),
            verbose=1 if is_live else 2,  # a bar, or plain lines
            callbacks=[handler, keras.callbacks.TerminateOnNaN()],
        ).history
    finally:
        model.train_function = None  # it holds on to the last epoch's data
        with contextlib.suppress(ValueError):  # in a thread, which gets no Ctrl-C
            signal.signal(signal.SIGINT, previous)
    if handler.interrupted:
        print(f"Interrupted after {handler.whole_epochs} of {EPOCHS} epochs.")
    print(f"The training took {time.perf_counter() - start:.1f} s.")
    return history, handler.interrupted


class InterruptHandler(keras.callbacks.Callback):
    """Has Ctrl-C end fit, but not the program; counts the whole epochs."""

    interrupted = False
    whole_epochs = 0

    def on_train_begin(self, logs=None):
        with contextlib.suppress(ValueError):  # in a thread, which gets no Ctrl-C
            signal.signal(signal.SIGINT, self.handle)

    def on_train_batch_end(self, step, logs=None):
        self.whole_epochs += step + 1 >= self.params["steps"]

    def handle(self, signum, frame):
        self.interrupted = self.model.stop_training = True
        # A second Ctrl-C ends a script at once, even within a step of minutes, but
        # must not end the kernel of a notebook (there, Python has set ps1).
        is_interactive = hasattr(sys, "ps1")
        second = signal.default_int_handler if is_interactive else signal.SIG_DFL
        signal.signal(signal.SIGINT, second)


def evaluate(model, x, y):
    """Measure the model on images x, (N, pixels), and one-hot labels y, (N, 10).

    Returns:
        The mean loss (nats), the accuracy (share of images whose most probable
        digit is the label, 0 to 1), and the probabilities, (N, 10).
    """
    loss = model.evaluate(x, y, batch_size=500, verbose=0)
    probabilities = model.predict(x, batch_size=500, verbose=0)
    correct = probabilities.argmax(axis=1) == y.argmax(axis=1)
    return loss, correct.mean(), probabilities


# What a run shows and leaves


def report(train_loss, loss, accuracy, confusions):
    """Print the results, each digit's accuracy, and the commonest confusions."""
    print("test set")
    print(f"The test loss is {loss:f}")
    print(f"The accuracy of the model is {accuracy:f}")
    if train_loss >= math.log(10):
        print("No better than guessing: the training loss is not below ln 10 = 2.303.")
        print(f"LEARNING_RATE = {LEARNING_RATE} may be too high or too low.")
    totals, correct = confusions.sum(axis=1), confusions.diagonal()
    errors = confusions - np.diag(correct)
    print(f"{errors.sum()} of {totals.sum()} test images are wrong.")
    print("digit    " + "".join(f"{digit:6d}" for digit in range(10)))
    shares = (f"{c / n:6.3f}" if n else "     -" for c, n in zip(correct, totals))
    print("accuracy " + "".join(shares))
    width = len(str(errors.max()))
    for place in np.argsort(-errors, axis=None, kind="stable")[:5]:
        label, prediction = divmod(place, 10)
        if count := errors[label, prediction]:
            times = "time" if count == 1 else "times"
            print(f"  {label} read as {prediction}: {count:{width}d} {times}")


def save(path, write):
    """Have write(path) write a file; return whether it could, or say why it couldn't."""
    if path is None:
        return True
    path = absolute(path)
    try:
        with replacing(path) as new:
            write(new)
    except ImportError as error:  # only the picture needs more than Keras
        print(f"No picture ({error}). To get it: pip install matplotlib")
    except OSError as error:
        print(f"{path}: not written ({one_line(error)})", file=sys.stderr)
        return False
    else:
        print(f"Wrote {path}")
    return True


def draw(history, confusions, images, labels, probabilities, path):
    """Draw the losses, the confusions and the surest mistakes to a PNG file.

    Args:
        history: the losses by epoch, as train returns them.
        confusions: (10, 10) integers, how often each label was read as each digit.
        images, labels, probabilities: (N, height, width), (N,) and (N, 10).
        path: the file.
    """
    # Imported here, as nothing else needs it; Figure alone opens no window.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.6), dpi=120, layout="constrained")
    curves, matrix, gallery = figure.subfigures(1, 3, width_ratios=(4, 4, 4.2))

    axes = curves.subplots()
    epochs = range(1, len(history["loss"]) + 1)
    line = "." if len(epochs) == 1 else "-"  # a line needs two points
    for name, label in ("loss", "training, with dropout"), ("val_loss", "validation"):
        if name in history:
            axes.plot(epochs, history[name], line, label=label)
    axes.set(title="Loss by epoch", xlabel="epoch", ylabel="cross-entropy (nats)")
    axes.set_yscale("log")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.grid(which="both", alpha=0.3)
    axes.legend()

    axes = matrix.subplots()
    errors = np.where(np.eye(10), 0, confusions)  # the diagonal would drown the rest
    axes.imshow(errors, cmap="Oranges")
    for (label, prediction), count in np.ndenumerate(confusions):
        is_dark = errors[label, prediction] > errors.max() / 2
        color = "0.6" if label == prediction else "white" if is_dark else "black"
        text = axes.text(prediction, label, count or "", color=color, fontsize=8)
        text.set(ha="center", va="center")
    axes.set(title="Test images: what was read as what", xlabel="read as")
    axes.set(ylabel="digit", xticks=range(10), yticks=range(10))

    predictions = probabilities.argmax(axis=1)
    mistakes = np.flatnonzero(predictions != labels)
    surest = mistakes[np.argsort(-probabilities[mistakes].max(axis=1))][:12]
    gallery.suptitle("Its surest mistakes" if len(surest) else "No mistakes")
    for axes, i in zip(gallery.subplots(3, 4).flat, surest):
        axes.imshow(images[i], cmap="gray_r")
        sure = f"{probabilities[i].max():.1%} sure"
        axes.set_title(f"{labels[i]} read as {predictions[i]}\n{sure}", fontsize=8)
    for axes in gallery.axes:
        axes.axis("off")
    figure.savefig(path)


# What keeps a run safe and quick


def check_constants():
    """Refuse a constant that can't be meant, in a line that says what would be right."""
    path, output = (str, os.PathLike), (str, os.PathLike, type(None))
    share, widths = "a number, at least 0, below 1", "a tuple of positive integers"
    policies = "float32 float64 float16 bfloat16 mixed_float16 mixed_bfloat16"
    file = "None, or a {} file in a folder that can be written to"
    rules = (  # constants, their type, whether a value is allowed, what is allowed
        ("SEED", Integral, lambda v: 0 <= v < 2**32, "an integer, 0 to 2**32 - 1"),
        ("DATA_PATH", path, lambda v: str(v) and absolute(v), "a path, not empty"),
        ("DATA_URL", str, len, "an address, not empty"),
        ("DATA_SHA256", str, re.compile("[0-9A-Fa-f]{64}").fullmatch, "64 hex digits"),
        ("STANDARDIZE NESTEROV", bool, lambda v: True, "True or False"),
        ("VALIDATION_SPLIT DROPOUT MOMENTUM", Real, lambda v: 0 <= v < 1, share),
        ("HIDDEN_UNITS", (tuple, list), lambda v: all(map(is_count, v)), widths),
        ("ACTIVATION", str, keeps_width, 'a Keras activation by name, such as "tanh"'),
        ("DTYPE_POLICY", str, lambda v: v in policies.split(), f"one of {policies}"),
        ("LEARNING_RATE", Real, lambda v: 0 < v < 1e38, "a number above 0, below 1e38"),
        ("DECAY", Real, lambda v: 0 <= v < 1e38, "a number, at least 0, below 1e38"),
        ("BATCH_SIZE EPOCHS", Integral, is_count, "a positive integer"),
        ("MODEL_PATH", output, partial(is_output, ".keras"), file.format(".keras")),
        ("PLOT_PATH", output, partial(is_output, ".png"), file.format(".png")),
    )
    for names, kind, is_allowed, allowed in rules:
        for name in names.split():
            value = globals()[name]
            try:
                ok = isinstance(value, kind) and is_allowed(value)
            except (OSError, RuntimeError, TypeError, ValueError):
                ok = False  # a path or a name of which pathlib or Keras says no
            # To Python True is the number 1, too; a constant is not meant so.
            if not ok or isinstance(value, bool) != (kind is bool):
                raise SystemExit(f"{name} = {value!r}: must be {allowed}")


def is_count(value):
    """Return whether value is a positive integer; True is none."""
    return isinstance(value, Integral) and value is not True and value > 0


def keeps_width(activation):
    """Return whether a layer's outputs are as many after this activation."""
    outputs = keras.activations.get(activation)(np.zeros((1, 2), "float32"))
    return outputs.shape == (1, 2)


def is_output(suffix, path):
    """Return whether path is None, or a file that a run can write: it tries to."""
    if path is None:
        return True
    path = absolute(path)
    with tempfile.TemporaryDirectory(prefix=".mnist-", dir=path.parent) as folder:
        Path(folder, path.name).touch()
    return path.suffix == suffix and not path.is_dir() and path != absolute(DATA_PATH)


def absolute(path):
    """Return path as a Path; a relative one is relative to this script's folder."""
    return Path(__file__).resolve().parent / Path(path).expanduser()


def check_arrays(path, x_train, y_train, x_test, y_test):
    """Refuse arrays that are not images and their labels, in one line."""
    size = x_train.shape[1:]
    limit = np.finfo("float32").max  # beyond it a pixel is infinite in the model
    rules = (  # array, whether it is allowed, what it must do
        ("x", lambda x, y: x.ndim == 3, "have the shape (N, height, width)"),
        ("x", lambda x, y: x.dtype.kind in "iuf", "hold integers or floats"),
        ("x", lambda x, y: x.dtype.itemsize <= 8, "hold numbers of at most 64 bits"),
        ("x", lambda x, y: x.size > 0, "hold images"),
        ("x", lambda x, y: x.shape[1:] == size, "have the size of x_train's images"),
        ("x", lambda x, y: -limit <= x.min(), "hold no NaN or infinite pixels"),
        ("x", lambda x, y: x.max() <= limit, "hold no NaN or infinite pixels"),
        ("y", lambda x, y: y.shape == x.shape[:1], "hold one label per image"),
        ("y", lambda x, y: y.dtype.kind in "iu", "hold integers"),
        ("y", lambda x, y: 0 <= y.min() and y.max() <= 9, "hold 0 to 9 only"),
    )
    for part, x, y in ("train", x_train, y_train), ("test", x_test, y_test):
        for name, is_allowed, allowed in rules:
            if not is_allowed(x, y):
                arrays = f"x {x.dtype} {x.shape}, y {y.dtype} {y.shape}"
                raise SystemExit(f"{path}: {name}_{part} must {allowed} ({arrays})")


def download(path):
    """Fetch mnist.npz from DATA_URL to path, complete and checked, or not at all."""
    if path.name != "mnist.npz":
        raise SystemExit(f"{path}: no such file, see DATA_PATH")
    screen = sys.stdout
    if not screen.isatty():
        print(f"Downloading data from {DATA_URL}", flush=True)
        screen = io.StringIO()  # for the bar's control characters
    sha256 = DATA_SHA256.lower()  # get_file compares letters, not numbers
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30)  # seconds without a byte; get_file sets none
    try:
        with replacing(path) as new, contextlib.redirect_stdout(screen):
            keras.utils.get_file(
                new.name, DATA_URL, cache_subdir=new.parent, file_hash=sha256
            )
    # get_file raises a plain Exception for most of what goes wrong.
    except Exception as error:
        raise SystemExit(
            f"{path}: could not be fetched from {DATA_URL} ({one_line(error)}); "
            f"by hand, save what a browser gets there in {path.parent}"
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)


def free_in_background(model):
    """Have threads free the epochs' iterators: tf.data sleeps up to seconds over one."""
    model.make_train_function()
    run_steps = model.train_function
    iterators = [None]  # those that threads are freeing, and the one in use

    def train_function(iterator):
        if iterator is not iterators[-1]:
            iterators.append(iterator)
            threading.Thread(target=iterators.pop, args=(0,)).start()
        return run_steps(iterator)

    model.train_function = train_function


@contextlib.contextmanager
def replacing(path):
    """Yield a path beside path to write to; once it is complete, move it to path."""
    with tempfile.TemporaryDirectory(prefix=".mnist-", dir=path.parent) as folder:
        new = Path(folder, path.name)
        yield new
        with open(new, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(new, path)


def one_line(error):
    """Return the type and the message of an exception, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)
