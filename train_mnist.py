"""Train a 784-500-500-10 tanh network on MNIST with Keras.

It classifies 97.95 % of the 10,000 test images correctly (97.90 to 97.98, seeds 0 to 2)
after 100 epochs, which take 137 s on two cores of an Intel Xeon (Sapphire Rapids), no
GPU, with Python 3.11.7, keras 3.15.1, tensorflow 2.21.0 and numpy 2.4.6.
"""

# /// script
# requires-python = ">=3.10,<3.14"
# dependencies = ["keras>=3.7,<4", "tensorflow>=2.16.1,<3", "numpy>=1.26,<3",
#                 "matplotlib>=3.8,<4"]
# ///

import contextlib
import hashlib
import io
import os
import signal
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # hides most of the start-up log
try:
    import matplotlib  # noqa: F401  # Keras imports it, too; fails if MPLBACKEND is bad
except (ImportError, ValueError):
    sys.modules["matplotlib"] = None  # ImportError for Keras and draw, which do without
import keras
import numpy as np

# Data; relative paths, here and below, start at this script's folder
DATA_PATH = "mnist.npz"  # the data set; mnist.npz is downloaded if it is missing
DATA_URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"  # download address
DATA_SHA256 = "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"  # hash
STANDARDIZE = True  # scale pixels to mean 0, standard deviation 1; False: feed them raw
VALIDATION_SPLIT = 0.3  # fraction at x_train's end for validation; at least 0, below 1
# Model
HIDDEN_UNITS = (500, 500)  # width of each hidden layer; (300,) is one layer
ACTIVATION = "tanh"  # of the hidden layers, any Keras activation by name
DROPOUT = 0.5  # fraction of hidden outputs dropped in training; at least 0, below 1
# Training, by stochastic gradient descent, one batch per step
LEARNING_RATE = 0.01  # step size at the first step, above 0
DECAY = 1e-6  # the step size at step n is LEARNING_RATE / (1 + DECAY * n); at least 0
MOMENTUM = 0.9  # fraction of the last update that is kept; at least 0, below 1
NESTEROV = True  # take the gradient one momentum step ahead, True or False
BATCH_SIZE = 200  # images per step
EPOCHS = 100  # passes over the training images left by VALIDATION_SPLIT
SEED = 0  # 0 to 2**32 - 1; the same seed on the same machine gives the same result
# Output
MODEL_PATH = "mnist_mlp.keras"  # the trained model; None: not saved
PLOT_PATH = "mnist_mlp.png"  # loss curves, confusion matrix, mistakes; None: not drawn


def main():
    """Load, train, evaluate, report, save and draw, as the constants say.

    Returns the test loss (nats) and the test accuracy (0 to 1). Raises SystemExit: with
    a line that says what is wrong, 130 after Ctrl-C in fit, 1 if writing a file fails.
    """
    check_constants()
    keras.utils.set_random_seed(SEED)
    (images, labels), (test_images, test_labels) = load_data(DATA_PATH)
    for part, x, y in ("training", images, labels), ("test", test_images, test_labels):
        print(f"{part + ' images':15} {x.shape} {x.dtype}, labels {y.shape}")
    x, y = preprocess(images, labels)
    model = build_model(x)
    model.summary()
    history, interrupted = train(model, x, y)

    x, y = preprocess(test_images, test_labels)
    loss, accuracy, probabilities = evaluate(model, x, y)
    if not np.isfinite([history["loss"][-1], loss]).all():
        sys.exit(f"Loss NaN or infinite: {LEARNING_RATE = } is probably too high")
    confusions = np.zeros((10, 10), int)  # rows: the true digit, columns: the predicted
    np.add.at(confusions, (test_labels, probabilities.argmax(axis=1)), 1)
    report(loss, accuracy, confusions)
    all_saved = MODEL_PATH is None or save(MODEL_PATH, model.save)
    if PLOT_PATH is not None:
        figure = draw(history, confusions, test_images, test_labels, probabilities)
        all_saved &= figure is None or save(PLOT_PATH, figure.savefig)
    if interrupted or not all_saved:
        sys.exit(130 if interrupted else 1)
    return loss, accuracy


# The data, the network and its training
def load_data(path):
    """Load a data set in MNIST's layout from an npz file, which is never changed.

    A missing mnist.npz is downloaded. Returns two pairs, training and test set: images,
    (N, height, width), uint8 if stored as uint8, else float32; labels, (N,), integers 0
    to 9. Raises SystemExit with a line that says what is wrong with the file.
    """
    path = beside_script(path)
    if not os.path.lexists(path):  # lexists also finds a broken link, which is kept
        if path.name != "mnist.npz":
            sys.exit(f"{path}: no such file, see DATA_PATH")
        download(path)
    names = ("x_train", "y_train", "x_test", "y_test")
    try:
        with np.load(path) as file:
            arrays = [np.asarray(file[name]) for name in names]  # asarray: may be bytes
    except Exception as error:  # a damaged file raises any of a dozen exception types
        raise SystemExit(f"{path}: not an npz file with {names} ({error!r})") from error
    check_arrays(path, arrays)
    images, labels, test_images, test_labels = arrays
    if images.dtype != "uint8":  # uint8 stays uint8, which saves memory
        images, test_images = images.astype("float32"), test_images.astype("float32")
    return (images, labels), (test_images, test_labels)


def preprocess(images, labels):
    """Return images as pixel rows, (N, pixels), and labels as one-hot rows, (N, 10)."""
    return images.reshape(len(images), -1), keras.utils.to_categorical(labels, 10)


def build_model(x):
    """Build and compile the network for images x, (N, pixels), as the constants say.

    Returns a keras.Sequential from pixels, (N, pixels) of x's dtype, to the digits'
    probabilities, (N, 10) float32. STANDARDIZE uses the mean and variance of all of x.
    """
    model = keras.Sequential([keras.Input(x.shape[1:], dtype=x.dtype.name)])
    if STANDARDIZE:
        mean = x.mean(dtype="float64")
        # Mean of x * x; x.var() would copy all of x to float64, einsum only parts.
        mean_square = np.einsum("ij,ij->", x, x, dtype="float64") / x.size
        variance = max(mean_square - mean**2, 0.0)  # rounding can leave it below 0
        model.add(keras.layers.Normalization(axis=None, mean=mean, variance=variance))
    for units in HIDDEN_UNITS:
        model.add(keras.layers.Dense(units, activation=ACTIVATION))
        model.add(keras.layers.Dropout(DROPOUT))
    model.add(keras.layers.Dense(10, activation="softmax"))
    # Like Keras 2's `decay`. float(): given ints, Keras would round DECAY or fail.
    schedules = keras.optimizers.schedules
    rate = schedules.InverseTimeDecay(float(LEARNING_RATE), 1, float(DECAY))
    sgd = keras.optimizers.SGD(rate, momentum=float(MOMENTUM), nesterov=NESTEROV)
    model.compile(optimizer=sgd, loss="categorical_crossentropy")
    return model


def train(model, x, y):
    """Fit the model to images x, (N, pixels), and one-hot labels y, (N, 10).

    Returns the losses by epoch (nats), {"loss": [...], "val_loss": [...] if validated},
    and whether Ctrl-C ended it early. Raises SystemExit if the split empties a part.
    """
    count = int(len(x) * (1 - VALIDATION_SPLIT))  # the others are for validation
    if count == 0 or (VALIDATION_SPLIT > 0 and count == len(x)):
        found = f"not {count} and {len(x) - count}"
        sys.exit(f"{VALIDATION_SPLIT = }: must leave images for both parts, {found}")
    batch_size = min(BATCH_SIZE, count)  # a huge BATCH_SIZE would overflow 64 bits
    speed_up(model)
    handler = InterruptHandler()
    start = time.perf_counter()
    history = model.fit(
        x[:count],
        y[:count],
        batch_size=batch_size,
        epochs=EPOCHS,
        validation_data=(x[count:], y[count:]) if count < len(x) else None,
        steps_per_epoch=int(np.ceil(count / batch_size)),  # as by default, but faster
        verbose=1 if sys.stdout.isatty() or "ipykernel" in sys.modules else 2,  # 1: bar
        callbacks=[handler, keras.callbacks.TerminateOnNaN()],
    ).history
    if handler.interrupted:
        print(f"Interrupted in epoch {len(history['loss'])} of {EPOCHS}.")
    print(f"The training took {time.perf_counter() - start:.1f} s.")
    model.train_function = None  # it holds the last epoch's data; fit makes a new one
    return history, handler.interrupted


def evaluate(model, x, y):
    """Return the loss (nats), accuracy (0 to 1) and probabilities, (N, 10), on x, y."""
    loss = model.evaluate(x, y, verbose=0)
    probabilities = model.predict(x, verbose=0)
    accuracy = np.mean(probabilities.argmax(axis=1) == y.argmax(axis=1))
    return loss, float(accuracy), probabilities


# The results: on the screen, in files, in a picture
def report(loss, accuracy, confusions):
    """Print the results, each digit's accuracy, and the commonest confusions."""
    print(f"test set\nThe test loss is {loss:f}")
    print(f"The accuracy of the model is {accuracy:f}")
    totals, correct = confusions.sum(axis=1), confusions.diagonal()
    if correct.sum() <= totals.max():  # as good as always saying the commonest digit
        print(f"No better than guessing: {LEARNING_RATE = } may be too high or too low")
    errors = confusions - np.diag(correct)
    print(f"{errors.sum()} of {totals.sum()} test images are wrong.")
    print("digit    " + "".join(f"{digit:6d}" for digit in range(10)))
    shares = (f"{c / n:6.3f}" if n else "     -" for c, n in zip(correct, totals))
    print("accuracy " + "".join(shares))
    commonest = sorted(np.ndenumerate(errors), key=lambda cell: -cell[1])[:5]
    for (label, prediction), count in commonest:
        if count:
            print(f"  {label} read as {prediction}: {count}")


def save(path, write):
    """Write a file with write(path); return whether it worked."""
    path = beside_script(path)
    try:
        write_atomically(path, write)
    except OSError as error:
        print(f"{path}: not written ({error!r})", file=sys.stderr)
        return False
    with contextlib.suppress(UnicodeEncodeError):  # stdout may lack the path's letters
        print(f"Wrote {path}")
    return True


def draw(history, confusions, images, labels, probabilities):
    """Return a Figure of what a run gave, or None if matplotlib does not load.

    Takes the test set's images, (N, height, width), labels, (N,), and probabilities.
    """
    try:
        from matplotlib.figure import Figure  # without pyplot, it opens no window
    except ImportError as error:
        print(f"No picture: pip install matplotlib, or unset MPLBACKEND ({error!r})")
        return None
    figure = Figure(figsize=(13, 4.6), dpi=120, layout="constrained")
    left, middle, right = figure.subfigures(1, 3)
    draw_losses(left.subplots(), history)
    draw_confusions(middle.subplots(), confusions)
    right.suptitle("Most confident mistakes")
    draw_mistakes(right.subplots(3, 4).ravel(), images, labels, probabilities)
    return figure


def draw_losses(axes, history):
    """Draw the loss curves on a log scale; dropout raises the training loss."""
    epochs = range(1, len(history["loss"]) + 1)
    for losses, label in zip(history.values(), (f"training, {DROPOUT=}", "validation")):
        axes.semilogy(epochs, losses, ".-", label=label, subs=(2, 3, 5))
    axes.set(title="Loss curves", xlabel="epoch", ylabel="cross-entropy (nats)")
    axes.locator_params(axis="x", integer=True, min_n_ticks=1)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.grid(which="both", alpha=0.3)
    axes.legend()


def draw_confusions(axes, confusions):
    """Draw the confusion matrix; the colours show the errors alone."""
    errors = np.where(np.eye(10), 0, confusions)  # the diagonal would drown the rest
    axes.imshow(errors, cmap="Oranges", vmax=2 * errors.max())  # pale under the text
    for (label, prediction), count in np.ndenumerate(confusions):
        axes.text(prediction, label, count or "", ha="center", va="center", fontsize=8)
    axes.set(title="Confusion matrix", xlabel="predicted digit", ylabel="true digit")
    axes.set(xticks=range(10), yticks=range(10))


def draw_mistakes(grid, images, labels, probabilities):
    """Draw the misclassified images, the most confident first, on a grid of axes."""
    predictions, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    mistakes = np.flatnonzero(predictions != labels)
    for axes in grid:
        axes.axis("off")
    for axes, i in zip(grid, sorted(mistakes, key=lambda i: -confidence[i])):
        axes.imshow(images[i], cmap="gray_r")
        title = f"{labels[i]} read as {predictions[i]}\n{confidence[i]:.1%} confident"
        axes.set_title(title, fontsize=8)


# Speed, Ctrl-C, and the checks of constants and files
def speed_up(model):
    """Have fit spend less time between the steps and between the epochs."""
    # Keras's code between steps takes a fifth of the time: run it once in ten steps.
    # Not set in compile(): it would be saved, and PyTorch could not run the model.
    if keras.backend.backend() != "torch":
        model.steps_per_execution = 10
    if keras.backend.backend() == "tensorflow":
        with contextlib.suppress(AttributeError):  # a later Keras may differ
            free_in_background(model)


def free_in_background(model):
    """Have threads free the data of finished epochs, while fit goes on.

    Freeing an epoch's iterator makes TensorFlow sleep, for up to as long as the epoch
    took. Keras has no setting for it, so this wraps model.train_function, which fit
    calls with the iterator. If a later Keras has none, only speed is lost.
    """
    model.make_train_function()
    run_steps = model.train_function
    iterators = [None]  # the last one is in use; dropping an older one frees it

    def train_function(iterator):
        if iterator is not iterators[-1]:  # an epoch has begun
            iterators.append(iterator)
            with contextlib.suppress(RuntimeError):  # no thread can be started
                threading.Thread(target=iterators.pop, args=(0,)).start()
        return run_steps(iterator)

    model.train_function = train_function


class InterruptHandler(keras.callbacks.Callback):
    """Make the first Ctrl-C stop fit early; a second one acts as usual."""

    interrupted = False

    def on_train_begin(self, logs=None):
        self.model_in_fit = self.model  # with JAX, self.model in stop loses the weights
        # Only the main thread may set handlers. A job run with & keeps ignoring Ctrl-C.
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
            self.previous = signal.signal(signal.SIGINT, self.stop)

    def stop(self, signum, frame):
        self.interrupted = self.model_in_fit.stop_training = True
        self.on_train_end()  # gives Ctrl-C back to the previous handler

    def on_train_end(self, logs=None):
        if signal.getsignal(signal.SIGINT) == self.stop:
            signal.signal(signal.SIGINT, self.previous)


def check_constants():
    """Exit, with a line that says what is allowed, if a constant cannot work."""
    fraction, rate = "an int or float, at least 0, below 1", "an int or float above 0"
    ints, file = "a tuple of ints, 1 to 20000", "None or a {} file in a writable folder"
    widths = HIDDEN_UNITS if isinstance(HIDDEN_UNITS, (tuple, list)) else [0]
    rules = (  # the constant and its value, whether it works, what is allowed
        (f"{DATA_PATH = }", is_path(DATA_PATH), "the path of an npz file"),
        (f"{DATA_URL = }", isinstance(DATA_URL, str) and DATA_URL != "", "an address"),
        (f"{STANDARDIZE = }", isinstance(STANDARDIZE, bool), "True or False"),
        (f"{VALIDATION_SPLIT = }", is_number(VALIDATION_SPLIT, 0, 1), fraction),
        (f"{HIDDEN_UNITS = }", all(is_number(n, 1, 20_001, int) for n in widths), ints),
        (f"{ACTIVATION = }", is_activation(ACTIVATION), 'a name, such as "tanh"'),
        (f"{DROPOUT = }", is_number(DROPOUT, 0, 1), fraction),
        (f"{LEARNING_RATE = }", is_number(LEARNING_RATE, 1e-38, 1e38), rate),
        (f"{DECAY = }", is_number(DECAY, 0, 1e38), "an int or float, at least 0"),
        (f"{MOMENTUM = }", is_number(MOMENTUM, 0, 1), fraction),
        (f"{NESTEROV = }", isinstance(NESTEROV, bool), "True or False"),
        (f"{BATCH_SIZE = }", is_number(BATCH_SIZE, 1, np.inf, int), "a positive int"),
        (f"{EPOCHS = }", is_number(EPOCHS, 1, np.inf, int), "a positive int"),
        (f"{SEED = }", is_number(SEED, 0, 2**32, int), "an int, 0 to 2**32 - 1"),
        (f"{MODEL_PATH = }", is_output(MODEL_PATH, ".keras"), file.format(".keras")),
        (f"{PLOT_PATH = }", is_output(PLOT_PATH, ".png"), file.format(".png")),
    )
    for constant, works, allowed in rules:
        if not works:
            sys.exit(f"{constant}: must be {allowed}".replace("\n", " "))  # one line


def is_number(value, low, below, kinds=(int, float, np.floating)):
    """Return whether value is a number, low <= value < below; a bool is not."""
    return isinstance(value, kinds) and type(value) is not bool and low <= value < below


def is_activation(name):
    with contextlib.suppress(AttributeError, RuntimeError, TypeError, ValueError):
        outputs = keras.activations.get(name)(np.zeros((1, 2), "float32"))
        return isinstance(name, str) and outputs.shape == (1, 2)  # glu halves the width
    return False


def is_path(path):
    with contextlib.suppress(RuntimeError, TypeError):  # "~nobody/mnist.npz", None
        return str(path) != "" and beside_script(path).name != ""
    return False


def is_output(path, suffix):
    """Return whether path is None or a file of this suffix that can be written."""
    with contextlib.suppress(OSError, RuntimeError, TypeError, ValueError):
        path = beside_script(path)
        with tempfile.TemporaryDirectory(prefix=".mnist-", dir=path.parent) as folder:
            Path(folder, path.name).touch()
        is_taken = path.is_dir() or path == beside_script(DATA_PATH)
        return path.suffix == suffix and not is_taken
    return path is None  # None ends up here: Path(None) raises TypeError


def beside_script(path):
    """Return path as a Path; a relative one is relative to this script's folder."""
    return Path(__file__).resolve().parent / Path(path).expanduser()


def check_arrays(path, arrays):
    """Exit unless arrays are images and labels; a pixel's square must fit float32."""
    for part, images, labels in ("train", *arrays[:2]), ("test", *arrays[2:]):
        fault = None
        if images.ndim != 3 or images.size == 0 or images.dtype.kind not in "iuf":
            fault = f"x_{part} must hold integers or floats, (N, height, width)"
        elif images.shape[1:] != arrays[0].shape[1:] or images.dtype != arrays[0].dtype:
            fault = "x_test must have the image size and the dtype of x_train"
        elif not -1e19 < float(images.min()) <= float(images.max()) < 1e19:
            fault = f"x_{part} must hold no NaN or infinite pixels, none beyond 1e19"
        elif labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
            fault = f"y_{part} must hold one integer per image"
        elif labels.min() < 0 or labels.max() > 9:
            fault = f"y_{part} must hold 0 to 9 only"
        if fault:
            found = f"x {images.dtype} {images.shape}, y {labels.dtype} {labels.shape}"
            sys.exit(f"{path}: {fault} ({found})")


def download(path):
    """Download DATA_URL to path, complete and checked, or not at all."""
    print(f"Downloading {DATA_URL}", flush=True)
    try:
        with urllib.request.urlopen(DATA_URL, timeout=30) as response:  # seconds
            content = response.read()
        sha256 = hashlib.sha256(content)
        if sha256.digest() != bytes.fromhex(DATA_SHA256):
            raise ValueError(f"SHA-256 is {sha256.hexdigest()}, not DATA_SHA256")
        write_atomically(path, lambda new: new.write_bytes(content))
    except Exception as error:  # of the address, the network, the server or the disk
        by_hand = f"save {DATA_URL} there by hand"
        raise SystemExit(f"{path}: not downloaded ({error!r}); {by_hand}") from error


def write_atomically(path, write):
    """Have write make a file in a folder beside path, then move the file to path."""
    with tempfile.TemporaryDirectory(prefix=".mnist-", dir=path.parent) as folder:
        new = Path(folder, path.name)
        write(new)
        with open(new, "rb+") as file:
            os.fsync(file.fileno())  # or a power cut could leave an empty file
        os.replace(new, path)


def ignore_write_errors(stream):
    """Make stream drop its output once it can't be written, so that the run goes on."""

    def write(text, original_write=stream.write):
        try:
            original_write(text)
            stream.flush()
        except OSError:  # no reader, terminal or space: from now on, it goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

    stream.write = write


if __name__ == "__main__":
    sys.stdout = sys.stdout or io.StringIO()  # it is None if the shell closed it
    ignore_write_errors(sys.stdout)  # Ctrl-C in `python train_mnist.py | tee` ends tee
    try:
        main()
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)
