"""Train a 784-500-500-10 tanh network on MNIST with Keras.

It reads 97.95 % of the 10,000 test images right after 100 epochs (97.90 to 97.98 with
the seeds 0, 1, 2), which take under two minutes on two cores of an AMD EPYC, without a
GPU (Python 3.11.7, keras 3.15.1, tensorflow 2.21.0, numpy 2.4.6). Change the constants
below and run `python train_mnist.py` again.
"""

import contextlib
import math
import os
import signal
import socket
import sys
import tempfile
import time
import zipfile
from functools import partial
from pathlib import Path

# Read once, when TensorFlow is imported; a value that is already set wins.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

# Data
SEED = 0  # of every random number, 0 to 2**32 - 1; the same seed, the same digits
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
BATCH_SIZE = 200  # images a step
EPOCHS = 100  # passes over the training images

# Output
MODEL_PATH = "mnist_mlp.keras"  # the trained model; None: not saved
PLOT_PATH = "mnist_mlp.png"  # curves, confusions and mistakes; None: not drawn


def absolute(path):
    """Return path as a Path; a relative one is relative to this script's folder."""
    return Path(__file__).resolve().parent / Path(path).expanduser()


def is_integer(value, low=1, high=math.inf):
    """Return whether value is an integer, not a bool, from low to high."""
    integers = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    return integers and low <= value <= high


def is_number(value, below=math.inf):
    """Return whether value is a number, not a bool or NaN, from 0 up to below."""
    numbers = isinstance(value, (float, np.floating)) or is_integer(value, 0)
    return numbers and 0 <= value < below


def is_path(value):
    """Return whether value is a str or a path-like object, and not empty."""
    return isinstance(value, (str, os.PathLike)) and bool(os.fspath(value))


def is_output(value, suffix):
    """Return whether value is None, or a file that a run may write."""
    if value is None or not is_path(value):
        return value is None
    path = absolute(value)
    is_free = not path.is_dir() and path != absolute(DATA_PATH)
    return path.suffix == suffix and path.parent.is_dir() and is_free


def is_activation(value):
    """Return whether value names a Keras activation that keeps a layer's width."""
    try:
        function = keras.activations.get(value if isinstance(value, str) else "")
        return function(np.zeros((1, 2), "float32")).shape == (1, 2)
    except (ValueError, TypeError):  # no such name; an activation with parameters
        return False


def check_constants():
    """Refuse a constant whose value can't be meant.

    Raises:
        SystemExit: one line with the constant, its value and what would be right.
    """
    policies = "float32 float64 float16 bfloat16 mixed_float16 mixed_bfloat16"
    share = "a number, at least 0, below 1"
    widths = "a tuple of positive integers, such as (500, 500) or (300,)"
    file = "None, or a {} file in a folder that exists"
    rules = (  # names, whether a value is right, what is right
        ("SEED", lambda v: is_integer(v, 0, 2**32 - 1), "an integer, 0 to 2**32 - 1"),
        ("DATA_PATH DATA_URL", is_path, "a path or an address, not empty"),
        ("DATA_SHA256", lambda v: isinstance(v, str) and len(v) == 64, "64 hex digits"),
        ("STANDARDIZE NESTEROV", lambda v: isinstance(v, bool), "True or False"),
        ("VALIDATION_SPLIT DROPOUT MOMENTUM", lambda v: is_number(v, 1), share),
        ("HIDDEN_UNITS", lambda v: isinstance(v, (tuple, list)), widths),
        ("HIDDEN_UNITS", lambda v: all(map(is_integer, v)), widths),
        ("ACTIVATION", is_activation, 'a Keras activation by name, such as "tanh"'),
        ("DTYPE_POLICY", lambda v: v in policies.split(), f"one of {policies}"),
        ("LEARNING_RATE", lambda v: is_number(v) and v > 0, "a finite number above 0"),
        ("DECAY", is_number, "a finite number, 0 or more"),
        ("BATCH_SIZE EPOCHS", is_integer, "a positive integer"),
        ("MODEL_PATH", lambda v: is_output(v, ".keras"), file.format(".keras")),
        ("PLOT_PATH", lambda v: is_output(v, ".png"), file.format(".png")),
    )
    for names, is_right, right in rules:
        for name in names.split():
            if not is_right(value := globals()[name]):
                raise SystemExit(f"{name} = {value!r}: must be {right}")


def one_line(error):
    """The type and the message of an exception, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


@contextlib.contextmanager
def replacing(path):
    """Yield a path to write to; move the file to path once it is complete.

    The new file is in a folder of its own beside path, so that whatever ends the
    process, path holds its earlier content or the new one, never a part.
    """
    with tempfile.TemporaryDirectory(prefix=".mnist-", dir=path.parent) as folder:
        new = Path(folder, path.name)
        yield new
        with open(new, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(new, path)


def download(path):
    """Fetch DATA_URL, which must have the checksum DATA_SHA256, to path.

    Raises:
        SystemExit: one line with the address and the cause; path is untouched.
    """
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30)  # seconds without a byte; get_file sets none
    if not sys.stdout.isatty():
        keras.config.disable_interactive_logging()  # the bar's control characters
        print(f"Downloading data from {DATA_URL}", flush=True)
    try:
        with replacing(path) as new:
            keras.utils.get_file(
                new.name,
                DATA_URL,
                cache_dir=new.parent,
                cache_subdir="",
                file_hash=DATA_SHA256.lower(),
            )
    # get_file raises a plain Exception for most of what goes wrong.
    except Exception as error:
        cause = f"could not be fetched from {DATA_URL} ({one_line(error)})"
        by_hand = f"by hand, save what a browser gets there in {path.parent}"
        raise SystemExit(f"{path}: {cause}; {by_hand}") from error
    finally:
        socket.setdefaulttimeout(timeout)
        keras.config.enable_interactive_logging()


def read_arrays(path):
    """Read the four arrays of an npz file, in the order of load_data.

    Raises:
        SystemExit: one line, if path can't be read whole as an npz file.
    """
    arrays = []
    try:
        with zipfile.ZipFile(path) as archive:
            for name in ("x_train", "y_train", "x_test", "y_test"):
                with archive.open(f"{name}.npy") as member:
                    array = np.lib.format.read_array(member, allow_pickle=False)
                    # At the end of a member zipfile compares its checksum, which
                    # np.load, stopping at the last number, may never see.
                    if member.read(1):
                        raise ValueError(f"{name} is longer than its header says")
                native = array.dtype.newbyteorder("=")
                arrays.append(array.astype(native, copy=False))
    # zipfile, zlib and NumPy raise a dozen kinds for a file that is not right.
    except Exception as error:
        right = "an npz file with x_train, y_train, x_test and y_test"
        raise SystemExit(f"{path}: not {right} ({one_line(error)})") from error
    return arrays


def load_data(path):
    """Load a data set in MNIST's layout from an npz file.

    Args:
        path: the file; a relative path is relative to this script's folder. If it
            is missing and its name is mnist.npz, it is downloaded from DATA_URL.

    Returns:
        (x_train, y_train), (x_test, y_test): images of shape (N, height, width),
        of any integer or float dtype, and labels of shape (N,), integers 0 to 9.

    Raises:
        SystemExit: one line with the file and what is wrong with it. A file that
            is there is never changed.
    """
    path = absolute(path)
    # lexists: a link to nowhere is the user's, too.
    if not os.path.lexists(path):
        if path.name != "mnist.npz":
            raise SystemExit(f"{path}: no such file, see DATA_PATH")
        download(path)
    x_train, y_train, x_test, y_test = read_arrays(path)
    limit = np.finfo("float32").max  # beyond it a pixel is infinite in the model

    def require(condition, wrong):
        if not condition:
            raise SystemExit(f"{path}: {wrong}")

    for part, x, y in ("train", x_train, y_train), ("test", x_test, y_test):
        is_real = x.dtype.kind in "uif" and x.dtype.itemsize <= 8
        images = f"x_{part}, {x.dtype} of shape {x.shape},"
        require(x.ndim == 3 and is_real, f"{images} must be (N, height, width) numbers")
        require(x.size > 0, f"{images} holds no images")
        is_finite = -limit <= x.min() and x.max() <= limit  # false for NaN, too
        require(is_finite, f"{images} has NaN or infinite pixels")
        is_label = y.shape == (len(x),) and y.dtype.kind in "ui"
        labels = f"y_{part}, {y.dtype} of shape {y.shape},"
        require(is_label, f"{labels} must be ({len(x)},) integers, one an image")
        require(0 <= y.min() and y.max() <= 9, f"{labels} has labels outside 0 to 9")
    sizes = f"{x_test.shape[1:]}, those of x_train {x_train.shape[1:]}"
    require(x_test.shape[1:] == x_train.shape[1:], f"the images of x_test are {sizes}")
    return (x_train, y_train), (x_test, y_test)


def preprocess(images, labels):
    """Flatten images and encode labels one-hot.

    Args:
        images: (N, height, width), any dtype.
        labels: (N,), integers 0 to 9.

    Returns:
        (N, height * width) of the images' dtype, not copied, and (N, 10) bool.
    """
    return images.reshape(len(images), -1), labels[:, None] == np.arange(10)


def build_model(images):
    """Build and compile the network for training images, by the constants above.

    Args:
        images: (N, pixels), integers or floats. Their dtype and number of pixels
            are the model's input; their mean and standard deviation, over all N
            and all pixels, are kept in the model if STANDARDIZE.

    Returns:
        A compiled keras.Sequential: raw pixels in, the probability of each of the
        10 digits out, (N, 10) float32 (float64 by that policy).
    """
    keras.config.set_dtype_policy(DTYPE_POLICY)
    # Fewer bits pay in the hidden layers' products. Elsewhere they would cost time
    # (random numbers) or precision (pixels of more than 8 bits, probabilities).
    full = "float64" if DTYPE_POLICY == "float64" else "float32"
    model = keras.Sequential([keras.Input(images.shape[1:], dtype=images.dtype.name)])
    if STANDARDIZE:
        mean = images.mean(dtype="float64")
        # images.std() would copy the images to float64; einsum needs no copy.
        squares = np.einsum("ij,ij->", images, images, dtype="float64")
        std = math.sqrt(max(squares / images.size - mean**2, 0))
        # Pixels that are all one value, to float32's precision, are only shifted.
        scale = 1 / std if std > 1e-6 * abs(mean) else 1.0
        model.add(keras.layers.Rescaling(scale, -mean * scale, dtype=full))
    for units in HIDDEN_UNITS:
        model.add(keras.layers.Dense(units, activation=ACTIVATION))
        model.add(keras.layers.Dropout(DROPOUT, dtype=full))
    model.add(keras.layers.Dense(10, activation="softmax", dtype=full))
    model.compile(
        loss="categorical_crossentropy",
        optimizer=keras.optimizers.SGD(
            # LEARNING_RATE / (1 + DECAY * step): what `decay` was before Keras 3.
            keras.optimizers.schedules.InverseTimeDecay(LEARNING_RATE, 1, DECAY),
            momentum=float(MOMENTUM),  # SGD refuses the integer 0
            nesterov=NESTEROV,
        ),
    )
    return model


class Monitor(keras.callbacks.Callback):
    """Stops fit after a Ctrl-C, counts whole epochs, prints a plain line for each."""

    def __init__(self):
        super().__init__()
        self.interrupted = False
        self.epochs = 0

    def interrupt(self, signum, frame):
        """Handle SIGINT: note the first, let the operating system act on a second."""
        self.interrupted = True
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self.steps = batch + 1
        if self.interrupted:
            self.model.stop_training = True

    def on_epoch_end(self, epoch, logs=None):
        self.epochs += self.steps >= self.params["steps"]
        if self.interrupted:
            self.model.stop_training = True
        if not sys.stdout.isatty():
            seconds = time.perf_counter() - self.start
            losses = "".join(f" - {name}: {logs[name]:.4f}" for name in logs)
            print(f"Epoch {epoch + 1}/{EPOCHS} - {seconds:.2f}s{losses}", flush=True)


def train(model, x, y):
    """Train the model; a Ctrl-C ends the training, not the run.

    Args:
        model: compiled; it is changed in place.
        x: images, (N, pixels).
        y: one-hot labels, (N, 10).

    Returns:
        The losses by epoch, as `{"loss": [...], "val_loss": [...]}` (no val_loss
        without VALIDATION_SPLIT), and whether Ctrl-C was pressed.

    Raises:
        SystemExit: the split leaves no images, or the loss is NaN or infinite.
    """
    count = int(len(x) * (1 - VALIDATION_SPLIT))  # as Keras counts
    if count == 0 or (VALIDATION_SPLIT > 0 and count == len(x)):
        wrong = f"leaves {count} of {len(x)} images to train with, the rest to validate"
        split = f"VALIDATION_SPLIT = {VALIDATION_SPLIT}"
        raise SystemExit(f"{split} {wrong}: each needs at least one")
    if keras.backend.backend() != "torch":  # which runs one step at a time
        # Python between two steps costs a fifth of an epoch. About 0.1 s of work
        # (30 steps by default) keeps Ctrl-C and, 7 times an epoch, the bar alive.
        steps = min(4e9 / (BATCH_SIZE * model.count_params()), count / BATCH_SIZE / 7)
        # Not by compile(), which would write it into the saved model.
        model.steps_per_execution = max(1, int(steps))
    monitor = Monitor()
    previous = signal.signal(signal.SIGINT, monitor.interrupt)
    start = time.perf_counter()
    try:
        history = model.fit(
            x,
            y,
            batch_size=BATCH_SIZE,
            epochs=EPOCHS,
            shuffle=True,
            validation_split=VALIDATION_SPLIT,
            validation_batch_size=2000,  # in batches of 200 it takes twice as long
            verbose=1 if sys.stdout.isatty() else 0,
            callbacks=[monitor, keras.callbacks.TerminateOnNaN()],
        ).history
    finally:
        signal.signal(signal.SIGINT, previous)
    seconds = time.perf_counter() - start
    if monitor.interrupted:
        print(f"Interrupted after {monitor.epochs} of {EPOCHS} epochs.")
    print(f"The training took {seconds:.1f} s.")
    refuse_infinite(history["loss"][-1])
    return history, monitor.interrupted


def refuse_infinite(loss):
    """Raise SystemExit, naming LEARNING_RATE, if the loss is NaN or infinite."""
    if not math.isfinite(loss):
        cause = f"LEARNING_RATE = {LEARNING_RATE} is probably too high"
        raise SystemExit(f"The loss became {loss}, nothing is saved: {cause}")


def evaluate(model, x, y):
    """Measure the model on a test set.

    Args:
        model: compiled.
        x: images, (N, pixels).
        y: one-hot labels, (N, 10).

    Returns:
        The mean loss, the accuracy (share of images whose most probable digit is
        the label, 0 to 1), and the probabilities, (N, 10).

    Raises:
        SystemExit: the loss is NaN or infinite.
    """
    loss = model.evaluate(x, y, batch_size=2000, verbose=0)
    refuse_infinite(loss)
    probabilities = model.predict(x, batch_size=2000, verbose=0)
    correct = np.sum(probabilities.argmax(axis=1) == y.argmax(axis=1))
    return loss, correct / len(y), probabilities


def count_confusions(labels, predictions):
    """Count how often each digit was read as each: (10, 10), [label, prediction]."""
    confusions = np.zeros((10, 10), "int64")
    np.add.at(confusions, (labels, predictions), 1)
    return confusions


def report(confusions):
    """Print the number of errors, each digit's accuracy, the commonest confusions.

    Args:
        confusions: (10, 10) counts, [label, prediction].
    """
    counts, right = confusions.sum(axis=1), confusions.diagonal()
    print(f"{counts.sum() - right.sum()} of {counts.sum()} test images are wrong.")
    shares = [f"{r / n:6.3f}" if n else "     -" for r, n in zip(right, counts)]
    print("digit    " + "".join(f"{digit:6d}" for digit in range(10)))
    print("accuracy " + "".join(shares))
    errors = confusions - np.diag(right)
    commonest = np.argsort(-errors, axis=None, kind="stable")[:5]
    for label, prediction in zip(*np.unravel_index(commonest, errors.shape)):
        if count := errors[label, prediction]:
            times = "time" if count == 1 else "times"
            width = len(str(errors.max()))
            print(f"  {label} read as {prediction}: {count:{width}d} {times}")


def write(path, save):
    """Have save(file) write a file and move it to path, or say why it can't be.

    Args:
        path: MODEL_PATH or PLOT_PATH, or None: nothing is written.
        save: writes the file whose Path it is given.

    Returns:
        Whether all is well; if not, a line on stderr has named the file.
    """
    if path is None:
        return True
    path = absolute(path)
    try:
        with replacing(path) as new:
            save(new)
    except OSError as error:
        print(f"{path}: not written ({one_line(error)})", file=sys.stderr)
        return False
    print(f"Wrote {path}")
    return True


def draw(history, images, labels, probabilities, file):
    """Draw the losses, the confusions and the surest mistakes to a PNG file.

    Args:
        history: the losses by epoch, as train returns them.
        images: the test images, (N, height, width).
        labels: (N,), integers 0 to 9.
        probabilities: (N, 10).
        file: where to.
    """
    # Imported here, as nothing else needs it; Figure alone opens no window.
    from matplotlib.figure import Figure

    predictions = probabilities.argmax(axis=1)
    confusions = count_confusions(labels, predictions)
    figure = Figure(figsize=(13, 4.6), dpi=120, layout="constrained")
    left, middle, right = figure.subfigures(1, 3, width_ratios=(4, 4, 4.2))

    axes = left.subplots()
    epochs = range(1, len(history["loss"]) + 1)
    style = "." if len(epochs) == 1 else "-"  # a line needs two points
    for name, title in ("loss", "training, with dropout"), ("val_loss", "validation"):
        if name in history:
            axes.plot(epochs, history[name], style, label=title)
    axes.set(title="Loss by epoch", xlabel="epoch", ylabel="cross-entropy (nats)")
    axes.set_yscale("log")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.grid(which="both", alpha=0.3)
    axes.legend()

    axes = middle.subplots()
    errors = np.where(np.eye(10), 0, confusions)  # the diagonal would drown the rest
    axes.imshow(errors, cmap="Oranges")
    for (label, prediction), count in np.ndenumerate(confusions):
        if count:
            dark = errors[label, prediction] > errors.max() / 2
            color = "0.6" if label == prediction else "white" if dark else "black"
            style = {"ha": "center", "va": "center", "fontsize": 8, "color": color}
            axes.text(prediction, label, count, **style)
    axes.set(title="Test images: what was read as what", xlabel="read as")
    axes.set(ylabel="digit", xticks=range(10), yticks=range(10))

    wrong = np.flatnonzero(predictions != labels)
    surest = wrong[np.argsort(-probabilities[wrong].max(axis=1))][:12]
    right.suptitle("Its surest mistakes" if len(surest) else "No mistakes")
    for axes, i in zip(right.subplots(3, 4).flat, surest):
        axes.imshow(images[i], cmap="gray_r")
        share = f"{probabilities[i].max():.1%} sure"
        axes.set_title(f"{labels[i]} read as {predictions[i]}\n{share}", fontsize=8)
    for axes in right.axes:
        axes.axis("off")
    figure.savefig(file)


def main():
    """Load, train, evaluate, report, save and draw, by the constants above.

    Raises:
        SystemExit: a mistake, in one line; or status 130 after a Ctrl-C, status 1
            if a file could not be written.
    """
    check_constants()
    keras.utils.set_random_seed(SEED)
    (x_train, y_train), (x_test, y_test) = load_data(DATA_PATH)
    print(f"training images {x_train.shape} {x_train.dtype}, labels {y_train.shape}")
    print(f"test images     {x_test.shape} {x_test.dtype}, labels {y_test.shape}")

    inputs, targets = preprocess(x_train, y_train)
    model = build_model(inputs)
    model.summary()
    history, interrupted = train(model, inputs, targets)

    loss, accuracy, probabilities = evaluate(model, *preprocess(x_test, y_test))
    print("test set")
    print(f"The test loss is {loss:f}")
    print(f"The accuracy of the model is {accuracy:f}")
    if (final := history["loss"][-1]) >= math.log(10):
        print(f"No better than guessing: a training loss of {final:.3f} is not below")
        print(f"ln 10 = 2.303. LEARNING_RATE = {LEARNING_RATE} may be too high.")
    report(count_confusions(y_test, probabilities.argmax(axis=1)))

    written = [write(MODEL_PATH, model.save)]
    picture = partial(draw, history, x_test, y_test, probabilities)
    try:
        written.append(write(PLOT_PATH, picture))
    except ImportError as error:
        print(f"No picture ({error}). To get it: pip install matplotlib")
    if interrupted:
        sys.exit(130)
    if not all(written):
        sys.exit(1)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)
