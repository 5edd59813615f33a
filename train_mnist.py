"""Train a 784-500-500-10 tanh network on MNIST with Keras.

It classifies 97.97 % of the 10,000 test images correctly (mean of seeds 0, 1 and 2;
97.91 to 98.03) after 100 epochs, which take 158 s on two cores of an AMD EPYC (Zen 4),
no GPU, with Python 3.11.7, keras 3.15.1, tensorflow 2.21.0 and numpy 2.4.6.
"""

# What `uv run train_mnist.py` installs:
# /// script
# requires-python = ">=3.10,<3.14"
# dependencies = ["keras>=3.7,<4", "tensorflow>=2.16.1,<3", "numpy>=1.26,<3",
#                 "matplotlib>=3.8,<4"]
# ///

import contextlib
import hashlib
import json
import os
import signal
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # TensorFlow: warnings and errors
if __name__ == "__main__" and "ipykernel" not in sys.modules:
    # `import keras` imports matplotlib, which fails if MPLBACKEND names a backend that
    # isn't here, such as a notebook's, which `!python` inherits; agg always works.
    os.environ["MPLBACKEND"] = "agg"
import keras
import numpy as np

# Data; relative paths, here and below, start at this script's folder
DATA_PATH = "mnist.npz"  # the data set
# Only a missing mnist.npz is downloaded from DATA_URL; it must have this SHA-256.
DATA_URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
DATA_SHA256 = "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"
STANDARDIZE = True  # scale pixels to mean 0, standard deviation 1; False: feed them raw
SHIFT = 0.0  # move each training image at random, by up to this fraction of its size
VALIDATION_SPLIT = 0.3  # last fraction of the training set, to choose constants by
# Model
HIDDEN_UNITS = (500, 500)  # width of each hidden layer; (300,) is one layer
ACTIVATION = "tanh"  # of the hidden layers, any Keras activation by name
DROPOUT = 0.5  # fraction of hidden outputs dropped in training; at least 0, below 1
# Training, by stochastic gradient descent, one batch per step
LEARNING_RATE = 0.01  # above 0; a step changes the weights by this times the gradient
DECAY = 1e-6  # at step n, the learning rate is LEARNING_RATE / (1 + DECAY * n)
MOMENTUM = 0.9  # fraction of the previous update added to this one; at least 0, below 1
NESTEROV = True  # take the gradient after the momentum part of a step; True or False
BATCH_SIZE = 200  # images per step
EPOCHS = 100  # passes over the training images left by VALIDATION_SPLIT
SEED = 0  # 0 to 2**32 - 1; same seed, CPU and versions: the same result
# Output
MODEL_PATH = "mnist_mlp.keras"  # the trained model; None: not saved
PLOT_PATH = "mnist_mlp.png"  # loss curves, confusion matrix, mistakes; None: not drawn
LOG_PATH = "mnist_mlp.jsonl"  # a line of JSON is added by each run; None: not written


def main():
    """Load, train, save, evaluate, report and draw.

    Returns the test loss (nats) and the test accuracy (0 to 1). Exits with a message
    that says what is wrong with a constant or a file, or that the loss is not finite.
    If Ctrl-C ended the training early, raises KeyboardInterrupt after all of this.
    """
    check_constants()
    keras.utils.set_random_seed(SEED)
    (images, labels), (test_images, test_labels) = load_data(DATA_PATH)
    for part, x, y in ("training", images, labels), ("test", test_images, test_labels):
        print(f"{part + ' images':15} {x.shape} {x.dtype}, labels {y.shape}")
    x_train, y_train, x_val, y_val = split(*preprocess(images, labels))
    model = build_model(x_train, images.shape[1:])
    model.summary()
    history, seconds, interrupted = train(model, x_train, y_train, x_val, y_val)
    saved = [save(MODEL_PATH, lambda path: write_atomically(path, model.save))]

    x_test, y_test = preprocess(test_images, test_labels)
    loss, accuracy, probabilities = evaluate(model, x_test, y_test)
    confusions = np.zeros((10, 10), int)  # rows: the true digit, columns: the predicted
    np.add.at(confusions, (test_labels, probabilities.argmax(axis=1)), 1)
    report(loss, accuracy, confusions)
    run = {name: values[-1] for name, values in history.items()}
    run |= {"test_loss": loss, "test_accuracy": accuracy}
    run |= {"seconds": seconds, "interrupted": interrupted}
    saved.append(save(LOG_PATH, lambda path: append_run(path, run)))
    if PLOT_PATH is not None:
        figure = draw(history, confusions, test_images, test_labels, probabilities)
        if figure is not None:
            write = figure.savefig
            saved.append(save(PLOT_PATH, lambda path: write_atomically(path, write)))
    if interrupted:  # so that a loop around main() ends, too
        raise KeyboardInterrupt("the training was ended early")
    if __name__ == "__main__" and not all(saved):  # tell the shell
        sys.exit(1)
    return loss, accuracy


# The data, the network and its training
def load_data(path):
    """Load a data set in MNIST's layout from an npz file, which is never changed.

    A missing mnist.npz is downloaded. Returns two pairs, training and test set: images,
    (N, height, width), uint8 if stored as uint8, else float32; labels, (N,), integers 0
    to 9. Exits with a message that says what is wrong with the file.
    """
    path = beside_script(path)
    if not os.path.lexists(path):  # lexists also finds a broken link, which is kept
        if path.name != "mnist.npz":
            sys.exit(f"{path}: no such file, see DATA_PATH")
        download(path)
    images, labels, test_images, test_labels = read_arrays(path)
    if images.dtype != "uint8":  # uint8 stays uint8, which saves memory
        images, test_images = images.astype("float32"), test_images.astype("float32")
    return (images, labels), (test_images, test_labels)


def preprocess(images, labels):
    """Return images as rows, (N, pixels), and labels one-hot, (N, 10) float32."""
    one_hot = labels[:, None] == np.arange(10)  # True at the digit's place in the row
    return images.reshape(len(images), -1), one_hot.astype("float32")


def split(x, y):
    """Return x_train, y_train, x_val, y_val; the validation set is the end of x and y.

    Exits with a message if a set asked for is empty; prints one if x_train lacks a
    digit of y.
    """
    count = int(len(x) * (1 - VALIDATION_SPLIT))
    if count == 0 or (VALIDATION_SPLIT > 0 and count == len(x)):
        found = f"not {count} and {len(x) - count}"
        sys.exit(f"{VALIDATION_SPLIT = }: must leave images for both sets, {found}")
    # Digits that occur, but not in the training set, as in a file sorted by digit
    digits = np.flatnonzero(y.any(axis=0) & ~y[:count].any(axis=0)).tolist()
    if digits:
        left = f"leaves no image of {digits} to train on"
        print(f"{VALIDATION_SPLIT = } {left}: shuffle {DATA_PATH}")
    return x[:count], y[:count], x[count:], y[count:]


def build_model(x_train, image_shape):
    """Build and compile the network for rows x_train of images of image_shape.

    Returns a keras.Sequential from rows of raw pixels, (N, height * width) of x_train's
    dtype, to the digits' probabilities, (N, 10) float32.
    """
    model = keras.Sequential([keras.Input(x_train.shape[1:], dtype=x_train.dtype.name)])
    if STANDARDIZE:
        # One mean and variance for all pixels; 10,000 images do, all would take 0.3 GB.
        normalization = keras.layers.Normalization(axis=None)
        normalization.adapt(x_train[:10_000])
        model.add(normalization)
    if SHIFT > 0:
        shift = keras.layers.RandomTranslation(  # like Dropout, only in training
            SHIFT, SHIFT, fill_mode="nearest", data_format="channels_last"
        )
        model.add(keras.layers.Reshape((*image_shape, 1)))
        model.add(shift)
        model.add(keras.layers.Flatten())
    for units in HIDDEN_UNITS:
        model.add(keras.layers.Dense(units, activation=ACTIVATION))
        model.add(keras.layers.Dropout(DROPOUT))
    model.add(keras.layers.Dense(10, activation="softmax"))
    # float(): with an int rate Keras would round DECAY; it refuses an int MOMENTUM.
    # For ReduceLROnPlateau, which sets the rate, put a number instead of the schedule.
    rate = keras.optimizers.schedules.InverseTimeDecay(
        float(LEARNING_RATE), decay_steps=1, decay_rate=float(DECAY)
    )
    sgd = keras.optimizers.SGD(rate, momentum=float(MOMENTUM), nesterov=NESTEROV)
    model.compile(optimizer=sgd, loss="categorical_crossentropy", metrics=["accuracy"])
    return model


def train(model, x_train, y_train, x_val, y_val):
    """Fit the model to images, (N, pixels), and one-hot labels, (N, 10).

    Returns the values by epoch, {"loss": [nats, ...], "accuracy": [0 to 1, ...]} and
    the same of the validation set as "val_...", unless that is empty; the time in
    seconds; and whether Ctrl-C ended it early. Exits with a message if the last loss is
    not finite.
    """
    backend = keras.backend.backend()  # "tensorflow", if no other has been chosen
    if backend == "tensorflow":  # the dataset shuffles, so fit need not
        data = {"x": to_dataset(x_train, y_train, shuffle=True), "shuffle": False}
        validation_data = to_dataset(x_val, y_val, shuffle=False)
    else:
        data = {"x": x_train, "y": y_train, "batch_size": BATCH_SIZE}
        validation_data = x_val, y_val
    if backend != "torch":  # PyTorch can take only one step at a time
        # Ten steps run as one: Keras's code between steps takes a fifth of the time.
        # Not in compile(): the model file would hold it, and not run with PyTorch.
        model.steps_per_execution = 10
    start = time.perf_counter()
    with InterruptHandler() as handler:
        history = model.fit(
            **data,
            epochs=EPOCHS,
            validation_data=validation_data if len(x_val) else None,
            # 1: a progress bar; 2: a line per epoch
            verbose=1 if sys.stdout.isatty() or "ipykernel" in sys.modules else 2,
            callbacks=[handler, keras.callbacks.TerminateOnNaN()],
        ).history
    if handler.interrupted:
        print(f"Interrupted in epoch {len(history['loss'])} of {EPOCHS}.")
    seconds = time.perf_counter() - start
    print(f"The training took {seconds:.1f} s.")
    losses = [values[-1] for name, values in history.items() if name.endswith("loss")]
    if not np.isfinite(losses).all():
        sys.exit(f"Loss NaN or infinite: {LEARNING_RATE = } is probably too high")
    return history, seconds, handler.interrupted


def to_dataset(x, y, shuffle):
    """Return x and y as a tf.data.Dataset of batches, as fit itself makes of arrays.

    But fit's, once a seed is set, repeats one order in every epoch; with shuffle, this
    one draws a new one. And fit's stalls after epochs, for up to as long as an epoch
    takes: TensorFlow wakes its autotuning thread before it sets the flag that tells it
    to stop, so the thread sleeps on, and is waited for. Hence no autotuning here.
    """
    import tensorflow as tf

    x, y = tf.convert_to_tensor(x), tf.convert_to_tensor(y)
    indices = tf.range(len(x))
    data = tf.data.Dataset.from_tensors(indices)  # one element; rebatch cuts it up
    if shuffle:  # in an order drawn from a new seed, a pair of numbers, in each epoch
        seeds = tf.data.Dataset.random(rerandomize_each_iteration=True).batch(2).take(1)
        reorder = tf.random.experimental.stateless_shuffle
        data = seeds.map(lambda seed: reorder(indices, seed))
    data = data.rebatch(BATCH_SIZE).map(lambda i: (tf.gather(x, i), tf.gather(y, i)))
    steps = int(np.ceil(len(x) / BATCH_SIZE))
    data = data.apply(tf.data.experimental.assert_cardinality(steps)).prefetch(2)
    options = tf.data.Options()
    options.autotune.enabled = False
    # The default optimizations would copy x.
    options.experimental_optimization.apply_default_optimizations = False
    return data.with_options(options)


def evaluate(model, x, y):
    """Return the loss (nats), accuracy (0 to 1) and probabilities, (N, 10), on x, y."""
    loss = model.evaluate(x, y, verbose=0, return_dict=True)["loss"]
    probabilities = model.predict(x, verbose=0)
    accuracy = np.mean(probabilities.argmax(axis=1) == y.argmax(axis=1))
    return loss, float(accuracy), probabilities


# The results: on the screen, in files, in a picture
def report(loss, accuracy, confusions):
    """Print the results, each digit's accuracy, and the most common confusions."""
    print(f"test set\nThe test loss is {loss:f}")
    print(f"The accuracy of the model is {accuracy:f}")
    totals, correct = confusions.sum(axis=1), confusions.diagonal()
    if not loss < np.log(10):  # 2.303, the loss of ten equal probabilities; also if NaN
        print(f"No better than guessing: {LEARNING_RATE = } may be too high or too low")
    errors = confusions - np.diag(correct)
    print(f"{errors.sum()} of {totals.sum()} test images are wrong.")
    print("digit    " + "".join(f"{digit:6d}" for digit in range(10)))
    shares = (f"{c / n:6.3f}" if n else "     -" for c, n in zip(correct, totals))
    print("accuracy " + "".join(shares))
    most_common = sorted(np.ndenumerate(errors), key=lambda cell: -cell[1])[:5]
    for (label, prediction), count in most_common:
        if count:
            print(f"  {label} read as {prediction}: {count}")


def save(path, write):
    """Call write(path), unless path is None; return whether it worked."""
    if path is None:
        return True
    path = beside_script(path)
    try:
        write(path)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        # The disk is full, say, or there is a layer that Keras can't save.
        print(f"{path}: not written ({error!r})", file=sys.stderr)
        return False
    with contextlib.suppress(UnicodeEncodeError):  # stdout may lack the path's letters
        print(f"Wrote {path}")
    return True


def append_run(path, run):
    """Append a run and all constants to a file as one line of JSON; print changes."""
    constants = {name: value for name, value in globals().items() if name.isupper()}
    run = {"time": time.strftime("%Y-%m-%d %H:%M:%S"), **run, **constants}
    line = json.dumps(run, default=str)
    with open(path, "a+", encoding="utf-8", errors="replace") as file:
        file.seek(0)
        before = file.read()
        newline = "\n" if before and not before.endswith("\n") else ""
        file.write(f"{newline}{line}\n")
    # Nothing is said if the line before is missing, or lacks a constant or a result.
    with contextlib.suppress(LookupError, TypeError, ValueError):
        old, new = json.loads(before.splitlines()[-1]), json.loads(line)
        changes = [f"Since the run of {old['time'][:16]}:"]
        for name in constants:
            if old[name] != new[name]:
                changes.append(f"  {name} {old[name]} -> {new[name]}")
        names = [n for n in ("val_loss", "val_accuracy") if n in old and n in new]
        names.append("test_accuracy")
        results = [f"{name} {old[name]:.4f} -> {new[name]:.4f}" for name in names]
        changes.append("  " + ", ".join(results).replace("test_", "test "))
        print("\n".join(changes))


def draw(history, confusions, images, labels, probabilities):
    """Return a Figure of what a run gave, or None if matplotlib does not load.

    Takes the test set's images, (N, height, width), labels, (N,), and probabilities.
    """
    try:
        from matplotlib.figure import Figure  # without pyplot, it opens no window
    except ImportError as error:
        print(f"No picture: pip install matplotlib ({error!r})")
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
    axes.plot(epochs, history["loss"], ".-", label=f"training, {DROPOUT=}")
    if "val_loss" in history:
        axes.plot(epochs, history["val_loss"], ".-", label="validation")
    axes.set(title="Loss curves", xlabel="epoch", ylabel="cross-entropy (nats)")
    axes.locator_params(axis="x", integer=True, min_n_ticks=1)
    axes.set_yscale("log", subs=(2, 3, 5))
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


# Ctrl-C, the checks of constants and files, the download
class InterruptHandler(keras.callbacks.Callback):
    """Around fit, makes the first Ctrl-C end it early; a second one acts as usual.

    Ctrl-C calls on_ctrl_c at any moment within fit; on_train_batch_end then stops it.
    """

    interrupted = False

    def __enter__(self):
        self.previous = signal.getsignal(signal.SIGINT)
        if self.previous not in (None, signal.SIG_IGN):  # SIG_IGN: a job run with &
            with contextlib.suppress(ValueError):  # only the main thread may set it
                signal.signal(signal.SIGINT, self.on_ctrl_c)
        return self

    def on_ctrl_c(self, signum, frame):
        self.interrupted = True  # only noted: the step that fit is in must end first
        signal.signal(signal.SIGINT, self.previous)

    def on_train_batch_end(self, batch, logs=None):
        if not self.interrupted or self.model.stop_training:
            return
        self.model.stop_training = True
        try:
            print("\nStopping after this step; Ctrl-C again ends at once.", flush=True)
        except OSError:  # the same Ctrl-C ended `tee`: nobody reads the output any more
            discard_output()

    def on_epoch_end(self, epoch, logs=None):
        self.on_train_batch_end(None)  # Ctrl-C may have come while validating

    def __exit__(self, *error):
        if signal.getsignal(signal.SIGINT) == self.on_ctrl_c:
            signal.signal(signal.SIGINT, self.previous)


def discard_output():
    """Have what is printed from now on go nowhere."""
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, it stays open


def check_constants():
    """Exit, with a line that says what is allowed, if a constant cannot work."""
    npz = "the path of an npz file"
    switch = "True or False"
    fraction = "an int or float, at least 0, below 1"
    activation = 'a name in keras.activations, such as "tanh"'
    rate = "an int or float above 0, below 1e38"
    decay = "an int or float, at least 0, below 1e38"
    batch = "a positive int below 2**31"
    file = "None or a {} file in a writable folder"
    rules = (  # the constant and its value, whether it is ok, what is allowed
        (f"{DATA_PATH = }", isinstance(DATA_PATH, (str, Path)), npz),
        (f"{DATA_URL = }", isinstance(DATA_URL, str) and DATA_URL != "", "an address"),
        (f"{STANDARDIZE = }", isinstance(STANDARDIZE, bool), switch),
        (f"{SHIFT = }", is_number(SHIFT, 0, 1), fraction),
        (f"{VALIDATION_SPLIT = }", is_number(VALIDATION_SPLIT, 0, 1), fraction),
        (f"{HIDDEN_UNITS = }", are_widths(HIDDEN_UNITS), "a tuple of ints, 1 to 20000"),
        (f"{ACTIVATION = }", ACTIVATION in dir(keras.activations), activation),
        (f"{DROPOUT = }", is_number(DROPOUT, 0, 1), fraction),
        (f"{LEARNING_RATE = }", is_number(LEARNING_RATE, 1e-38, 1e38), rate),
        (f"{DECAY = }", is_number(DECAY, 0, 1e38), decay),
        (f"{MOMENTUM = }", is_number(MOMENTUM, 0, 1), fraction),
        (f"{NESTEROV = }", isinstance(NESTEROV, bool), switch),
        (f"{BATCH_SIZE = }", is_number(BATCH_SIZE, 1, 2**31, int), batch),
        (f"{EPOCHS = }", is_number(EPOCHS, 1, np.inf, int), "a positive int"),
        (f"{SEED = }", is_number(SEED, 0, 2**32, int), "an int, 0 to 2**32 - 1"),
        (f"{MODEL_PATH = }", is_output(MODEL_PATH, ".keras"), file.format(".keras")),
        (f"{PLOT_PATH = }", is_output(PLOT_PATH, ".png"), file.format(".png")),
        (f"{LOG_PATH = }", is_output(LOG_PATH, ".jsonl"), file.format(".jsonl")),
    )
    for constant, ok, allowed in rules:
        if not ok:
            sys.exit(f"{constant}: must be {allowed}".replace("\n", " "))  # one line


def is_number(value, low, below, kinds=(int, float)):
    """Return whether value is a number, low <= value < below; a bool is not."""
    return isinstance(value, kinds) and type(value) is not bool and low <= value < below


def are_widths(units):
    if not isinstance(units, (tuple, list)):
        return False
    return all(is_number(width, 1, 20_001, int) for width in units)


def is_output(path, suffix):
    """Return whether path is None or a file of this suffix that can be written."""
    if path is None:
        return True
    if not isinstance(path, (str, Path)) or Path(path).suffix != suffix:
        return False
    path = beside_script(path).resolve()  # what a link leads to
    if os.path.isdir(path) or path == beside_script(str(DATA_PATH)).resolve():
        return False
    if os.path.exists(path) and not os.access(path, os.W_OK):  # write-protected
        return False
    is_short = len(os.fsencode(path.name)) < 256  # what file systems take
    return is_short and path.parent.is_dir() and os.access(path.parent, os.W_OK)


def beside_script(path):
    """Return path as a Path; a relative one is relative to this script's folder."""
    in_file = "__file__" in globals()  # not if it was pasted into a notebook
    folder = Path(__file__).resolve().parent if in_file else Path.cwd()
    return folder / os.path.expanduser(path)


def read_arrays(path):
    """Return x_train, y_train, x_test and y_test of an npz file, after a check."""
    arrays = []
    fault = "not an npz file"  # here and below: what is wrong if the next step fails
    if path.name == "mnist.npz":
        fault += "; delete it, and the next run downloads it"
    try:
        with np.load(path) as file:
            for name in ("x_train", "y_train", "x_test", "y_test"):
                kind = "integers or floats" if name[0] == "x" else "integers"
                fault = f"{name} must hold {kind}; among {file.files}, it can't be read"
                # asarray: NumPy returns a member that is no array as bytes.
                arrays.append(np.asarray(file[name]))
    except Exception as error:  # a damaged file raises any of a dozen exception types
        # The text of a ValueError advises to unpickle, which would run foreign code.
        cause = type(error).__name__ if isinstance(error, ValueError) else repr(error)
        raise SystemExit(f"{path}: {fault} ({cause})") from error
    check_arrays(path, arrays)
    return arrays


def check_arrays(path, arrays):
    """Exit unless arrays are images and labels.

    Pixels beyond 1e19 are refused: float32 can't hold their squares, for the variance.
    """
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
    tops = [float(images.max()) for images in (arrays[0], arrays[2])]
    if 0 < 10 * min(tops) < max(tops):  # the one was scaled, the other was not
        sys.exit(f"{path}: x_train and x_test differ in range, maxima {tops}")


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
    """Have write make a temporary file, then move it to path: never half a file."""
    target = path.resolve()  # replace what a link leads to, not the link
    with tempfile.TemporaryDirectory(prefix=".mnist-", dir=target.parent) as folder:
        new = Path(folder, path.name)
        write(new)
        os.replace(new, target)


if __name__ == "__main__":
    if sys.stdout is None:  # the shell has closed it
        discard_output()
    try:
        main()
    except KeyboardInterrupt as interrupt:
        if not interrupt.args:  # else it came in the training, which main has reported
            print("Interrupted.", file=sys.stderr)
        sys.exit(130)
