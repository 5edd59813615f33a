"""Train a 784-500-500-10 tanh network on MNIST with Keras.

It classifies 97.97 % of the 10,000 test images correctly (mean of seeds 0 to 4; 97.94
to 98.01) after 100 epochs, which take about 200 s on two cores of an Intel Xeon
(Emerald Rapids), with Python 3.11.7, keras 3.15.1, tensorflow 2.21.0, numpy 2.4.6.
"""

# What `uv run train_mnist.py` installs:
# /// script
# requires-python = ">=3.10,<3.14"
# dependencies = ["keras>=3.7,<4", "tensorflow>=2.16.1,<3", "numpy>=1.26,<3",
#                 "matplotlib>=3.8,<4"]
# ///

import contextlib
import hashlib
import io
import json
import os
import signal
import sys
import time
import urllib.request
from numbers import Integral, Real
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # TensorFlow: fewer notes
if __name__ == "__main__" and "ipykernel" not in sys.modules:  # not in a notebook
    if len(sys.argv) > 1:
        print("No options: edit the constants at the top of the file", file=sys.stderr)
        sys.exit(2)
    # `import keras` imports matplotlib, which fails if MPLBACKEND names a backend that
    # is not here, as a notebook may have it for `!python`; agg always works.
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
VALIDATION_SPLIT = 0.3  # fraction held back, to choose constants by; 0: none
# Model
HIDDEN_UNITS = (500, 500)  # width of each hidden layer; (300,) is one layer
ACTIVATION = "tanh"  # of the hidden layers, any Keras activation by name
DROPOUT = 0.5  # fraction of hidden outputs dropped in training, against overfitting
# Training, by stochastic gradient descent, one batch per step
LEARNING_RATE = 0.01  # above 0; a step subtracts this times the loss's gradient
DECAY = 1e-6  # at step n, the learning rate is LEARNING_RATE / (1 + DECAY * n)
LINEAR_DECAY = False  # True: not DECAY, but evenly down to 0 after the last step
WEIGHT_DECAY = 0.0  # a step also subtracts this * rate * weight, against overfitting
MOMENTUM = 0.9  # fraction of the previous update added to this one; at least 0, below 1
NESTEROV = True  # True: take the gradient where the momentum alone would lead
BATCH_SIZE = 200  # images per step
EPOCHS = 100  # passes over the training images left by VALIDATION_SPLIT
SEED = 0  # 0 to 2**32 - 1; same seed, CPU and versions: the same result
# Output
MODEL_PATH = "mnist_mlp.keras"  # the trained model; None: not saved
PLOT_PATH = "mnist_mlp.png"  # loss curves, confusion matrix, mistakes; None: not drawn
LOG_PATH = "mnist_mlp.jsonl"  # a line of JSON is added by each run; None: not written

# Logged are the names from DATA_PATH to LOG_PATH; put a constant of yours between.
names = list(globals())  # in the order of their definition
constant_names = names[names.index("DATA_PATH") : names.index("LOG_PATH") + 1]


def main():
    """Load, train, save, evaluate, report, log and draw.

    Returns the test loss (nats, see warn_if_guessing) and accuracy (0 to 1). Exits with
    a message if a constant or a file is wrong. Once the run is logged, raises
    FloatingPointError if it diverged, KeyboardInterrupt if a signal stopped it.
    """
    check_constants()
    keras.utils.set_random_seed(int(SEED))
    (images, labels), (test_images, test_labels) = load_data(DATA_PATH)
    for part, x, y in ("training", images, labels), ("test", test_images, test_labels):
        print(f"{part + ' images':15} {x.shape} {x.dtype}, labels {y.shape}")
    x_train, y_train, x_val, y_val = split(*preprocess(images, labels))
    model = build_model(x_train, images.shape[1:])
    model.summary()
    history, seconds, stopped_by = train(model, x_train, y_train, x_val, y_val)
    run = {"seconds": seconds, "epochs": len(history["loss"])}
    run["interrupted"] = stopped_by is not None
    if not all(np.isfinite(weights).all() for weights in model.get_weights()):
        for result in "val_loss", "val_accuracy", "test_loss", "test_accuracy":
            run[result] = None
        save(LOG_PATH, lambda path: append_run(path, run), atomically=False)
        raise FloatingPointError("Weights NaN or infinite: lower the learning rate")
    saved = [save(MODEL_PATH, model.save)]
    if len(x_val):  # anew: EarlyStopping, if you add it, may restore earlier weights
        run["val_loss"], run["val_accuracy"], _ = evaluate(model, x_val, y_val)
        print("val_loss {val_loss:f}, val_accuracy {val_accuracy:f}".format(**run))
    x_test, y_test = preprocess(test_images, test_labels)
    loss, accuracy, probabilities = evaluate(model, x_test, y_test)
    run |= {"test_loss": loss, "test_accuracy": accuracy}
    confusion_matrix = np.zeros((10, 10), int)  # [true digit, predicted digit]
    np.add.at(confusion_matrix, (test_labels, probabilities.argmax(axis=1)), 1)
    report(loss, accuracy, confusion_matrix)
    if accuracy < 0.5:
        warn_if_guessing(y_test, probabilities, run.get("val_accuracy", 0))
    saved.append(save(LOG_PATH, lambda path: append_run(path, run), atomically=False))
    if PLOT_PATH is not None:
        test = test_images, test_labels, probabilities
        figure = draw(history, confusion_matrix, *test)
        if figure is not None:
            saved.append(save(PLOT_PATH, figure.savefig))
    if stopped_by is not None:  # so that a loop around main() ends, too
        raise KeyboardInterrupt(stopped_by)
    if __name__ == "__main__" and not all(saved):  # tell the shell
        sys.exit(1)
    return loss, accuracy


# The data, the network and its training
def load_data(path):
    """Return training and test set of an npz file; download a missing mnist.npz.

    Each is a pair: images, (N, height, width), uint8 if stored so, else float32; and
    labels, (N,), integers 0 to 9. Exits with a message that says what is wrong.
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
    """Return flattened images, (N, pixels), and one-hot labels, (N, 10) float32.

    One-hot: 1 at the digit's place, else 0, so 3 becomes 0001000000.
    """
    one_hot = keras.utils.to_categorical(labels, 10)
    return images.reshape(len(images), -1), one_hot.astype("float32")


def split(x, y):
    """Return x_train, y_train, x_val, y_val; the validation set is the end of x and y.

    Exits if a set asked for is empty; prints a line if x_train lacks a digit of y.
    """
    count = int(len(x) * (1 - float(VALIDATION_SPLIT)))
    if count == 0 or (VALIDATION_SPLIT > 0 and count == len(x)):
        found = f"not {count} and {len(x) - count}"
        sys.exit(f"{VALIDATION_SPLIT = }: must leave images for both sets, {found}")
    lacking = np.flatnonzero(y.any(axis=0) & ~y[:count].any(axis=0)).tolist()
    if lacking:  # as in a file that is sorted by digit
        left = f"leaves no image of {lacking} to train on"
        print(f"{VALIDATION_SPLIT = } {left}: shuffle {DATA_PATH}")
    return x[:count], y[:count], x[count:], y[count:]


def build_model(x_train, image_shape):
    """Build and compile the network for x_train, flattened images of image_shape.

    Returns a keras.Sequential from raw pixels, (N, height * width), to the digits'
    probabilities, (N, 10) float32.
    """
    model = keras.Sequential([keras.Input(x_train.shape[1:])])
    if STANDARDIZE:
        normalization = keras.layers.Normalization(axis=None)  # one mean for all pixels
        normalization.adapt(x_train[:10_000])  # measures it; all would take 0.3 GB
        model.add(normalization)
    if SHIFT > 0:  # like Dropout, only in training
        model.add(keras.layers.Reshape((*image_shape, 1)))  # 1: one grey value
        fractions = float(SHIFT), float(SHIFT)  # of the height and the width
        model.add(keras.layers.RandomTranslation(*fractions, fill_mode="nearest"))
        model.add(keras.layers.Flatten())
    for units in HIDDEN_UNITS:
        model.add(keras.layers.Dense(int(units), activation=ACTIVATION))
        model.add(keras.layers.Dropout(float(DROPOUT)))
    model.add(keras.layers.Dense(10, activation="softmax"))
    schedules = keras.optimizers.schedules
    # float(): with an int rate Keras rounds DECAY, and an int momentum it refuses.
    rate = float(LEARNING_RATE)  # with no schedule, a callback that you add may set it
    if LINEAR_DECAY:
        steps = float(EPOCHS * np.ceil(len(x_train) / BATCH_SIZE))
        rate = schedules.PolynomialDecay(rate, steps, end_learning_rate=0.0)  # power 1
    elif DECAY > 0:
        rate = schedules.InverseTimeDecay(rate, decay_steps=1, decay_rate=float(DECAY))
    optimizer = keras.optimizers.SGD(
        rate,
        momentum=float(MOMENTUM),
        nesterov=NESTEROV,
        weight_decay=float(WEIGHT_DECAY) or None,  # 0 would only take time
    )
    model.compile(optimizer, loss="categorical_crossentropy", metrics=["accuracy"])
    return model


def train(model, x_train, y_train, x_val, y_val):
    """Fit the model to flattened images, (N, pixels), and one-hot labels, (N, 10).

    Returns the values by epoch, {"loss": [nats, ...], "accuracy": [0 to 1, ...]} and
    the same of the validation set as "val_...", unless that is empty; the time in
    seconds; and the number of the signal that ended it early, or None.
    """
    backend = keras.backend.backend()  # "tensorflow", if no other has been chosen
    if backend == "tensorflow":  # the dataset shuffles, so fit need not
        options = {"x": to_dataset(x_train, y_train, shuffle=True), "shuffle": False}
        validation_data = to_dataset(x_val, y_val, shuffle=False)
    else:
        options = {"x": x_train, "y": y_train, "batch_size": int(BATCH_SIZE)}
        validation_data = x_val, y_val
    if backend != "torch":  # PyTorch can take only one step at a time
        # Ten steps run as one, with less of Keras's code in between: a fifth less time.
        # An argument of compile() would be saved with the model, and fail in PyTorch.
        model.steps_per_execution = 10
    # IDLE's window calls itself a terminal, but is not the process's own stdout.
    has_bar = sys.stdout.isatty() and sys.stdout is sys.__stdout__
    start = time.perf_counter()
    with StopOnSignal() as stop_on_signal:
        history = model.fit(
            **options,
            epochs=int(EPOCHS),
            validation_data=validation_data if len(x_val) else None,
            # 1: a progress bar; 2: a line per epoch
            verbose=1 if has_bar or "ipykernel" in sys.modules else 2,
            callbacks=[stop_on_signal, keras.callbacks.TerminateOnNaN()],
        ).history
    if stop_on_signal.number is not None:
        print(f"Interrupted in epoch {len(history['loss'])} of {EPOCHS}.")
    seconds = time.perf_counter() - start
    print(f"The training took {seconds:.1f} s.")
    return history, seconds, stop_on_signal.number


def evaluate(model, x, y):
    """Return the loss (nats), accuracy (0 to 1) and probabilities, (N, 10), on x, y."""
    loss = model.evaluate(x, y, verbose=0, return_dict=True)["loss"]
    probabilities = model.predict(x, verbose=0)
    accuracy = np.mean(probabilities.argmax(axis=1) == y.argmax(axis=1))
    return loss, float(accuracy), probabilities


# The results: on the screen, in files, in a picture
def report(loss, accuracy, confusion_matrix):
    """Print the results, each digit's accuracy, and the most common mistakes."""
    print(f"test set\nThe test loss is {loss:f}")
    print(f"The accuracy of the model is {accuracy:f}")
    totals, correct = confusion_matrix.sum(axis=1), confusion_matrix.diagonal()
    errors = confusion_matrix - np.diag(correct)
    print(f"{errors.sum()} of {totals.sum()} test images are wrong.")
    print("digit    " + "".join(f"{digit:6d}" for digit in range(10)))
    shares = (f"{c / n:6.3f}" if n else "     -" for c, n in zip(correct, totals))
    print("accuracy " + "".join(shares))
    most_common = sorted(np.ndenumerate(errors), key=lambda cell: -cell[1])[:5]
    for (label, prediction), count in most_common:
        if count:
            print(f"  {label} read as {prediction}: {count}")


def warn_if_guessing(y, probabilities, val_accuracy):
    """Print a line if probabilities, (N, 10), are hardly better than ten equal ones.

    Their cross-entropy decides: minus the natural logarithm of the true digit's
    probability, averaged; its unit is the nat. It is ln 10 = 2.303 for ten equal ones.
    The loss won't do: a kernel_regularizer, if you add one, adds penalties to it.
    """
    cross_entropy = keras.losses.CategoricalCrossentropy()(y, probabilities)
    # 1 % less: knowing only how common each digit is gives 2.301. "not <": or a NaN.
    if not float(cross_entropy) < 0.99 * np.log(10):
        cause = "the learning rate may be too high or too low"
        if val_accuracy > 0.5:  # no guess
            cause = "test images and labels don't fit, unlike the validation set's"
        print(f"No better than guessing: {cause}")


def save(path, write, atomically=True):
    """Have write(path) make a file, unless path is None; return whether it worked."""
    if path is None:
        return True
    path = beside_script(path)
    try:
        if atomically:
            write_atomically(path, write)
        else:
            write(path)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        # The disk is full, say, or there is a layer that Keras can't save.
        print(f"{path}: not written ({error!r})", file=sys.stderr)
        return False
    with contextlib.suppress(UnicodeEncodeError):  # a path that the console can't show
        print(f"Wrote {path}")
    return True


def append_run(path, run):
    """Append a run and all constants to a file as one line of JSON; print changes."""
    run = {"time": time.strftime("%Y-%m-%d %H:%M:%S"), **run}
    for name in "val_loss", "test_loss":
        if run.get(name) is not None and not np.isfinite(run[name]):
            run[name] = None  # JSON has no NaN
    run |= {name: globals()[name] for name in constant_names}
    # JSON knows neither NumPy's numbers, which become Python's, nor Paths: their text.
    line = json.dumps(run, default=lambda x: x.item() if hasattr(x, "item") else str(x))
    with open(path, "a+", encoding="utf-8", errors="replace") as file:
        file.seek(0)
        before = file.read()
        newline = "\n" if before and not before.endswith("\n") else ""
        file.write(f"{newline}{line}\n")
    # Suppressed: the file was empty, or its last line is no run.
    with contextlib.suppress(LookupError, TypeError, ValueError):
        print_changes(json.loads(before.splitlines()[-1]), json.loads(line))


def print_changes(old, new):
    """Print the constants and results that differ between two runs of the log."""
    lines = [f"Since the run of {old['time'][:16]}:"]
    for name in constant_names:
        if name not in old or old[name] != new[name]:
            lines.append(f"  {name} {old.get(name, '(new)')} -> {new[name]}")
    epochs = [run.get("epochs", run["EPOCHS"]) for run in (old, new)]
    if epochs != [old["EPOCHS"], new["EPOCHS"]]:  # one was stopped early
        lines.append(f"  epochs trained {epochs[0]} -> {epochs[1]}")
    results = []
    for name in "val_loss", "val_accuracy", "test_accuracy":
        if name in old and name in new:
            # JSON's null, here None, stands for a NaN.
            a, b = ("nan" if x is None else f"{x:.4f}" for x in (old[name], new[name]))
            results.append(f"{name.replace('test_', 'test ')} {a} -> {b}")
    lines.append(f"  {', '.join(results)}")
    print("\n".join(lines))


def draw(history, confusion_matrix, images, labels, probabilities):
    """Return a Figure of a run, or None if matplotlib does not load.

    Takes the test set's images, (N, height, width), labels, (N,), and probabilities.
    """
    try:
        from matplotlib.figure import Figure  # without pyplot, it opens no window
    except ImportError as error:
        print(f"No picture: pip install matplotlib ({error!r})")
        return None
    figure = Figure(figsize=(13, 4.6), dpi=120, layout="constrained")
    left, middle, right = figure.subfigures(1, 3)

    axes = left.subplots()
    # DROPOUT handicaps the training: its loss may be above the validation's.
    for name, label in ("loss", f"training, {DROPOUT=}"), ("val_loss", "validation"):
        if name in history:
            epochs = range(1, len(history[name]) + 1)
            axes.plot(epochs, history[name], ".-", label=label)
    axes.set(title="Loss curves", xlabel="epoch", ylabel="loss (nats)")
    axes.locator_params(axis="x", integer=True, min_n_ticks=1)
    axes.set_yscale("log", subs=(2, 3, 5))  # ticks at 2, 3 and 5 times 10**n, too
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.grid(which="both", alpha=0.3)
    axes.legend()

    axes = middle.subplots()
    # The colours leave out the right answers, whose counts are a hundred times larger.
    errors = np.where(np.eye(10), 0, confusion_matrix)
    axes.imshow(errors, cmap="Oranges", vmax=2 * errors.max())  # 2: pale under the text
    for (label, prediction), count in np.ndenumerate(confusion_matrix):
        axes.text(prediction, label, count or "", ha="center", va="center", fontsize=8)
    axes.set(title="Confusion matrix", xlabel="predicted digit", ylabel="true digit")
    axes.set(xticks=range(10), yticks=range(10))

    right.suptitle("Most confident mistakes")
    predictions, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    mistakes = np.flatnonzero(predictions != labels)
    grid = right.subplots(3, 4).ravel()
    for axes in grid:
        axes.axis("off")
    for axes, i in zip(grid, sorted(mistakes, key=lambda i: -confidence[i])):
        axes.imshow(images[i], cmap="gray_r")
        title = f"{labels[i]} read as {predictions[i]}\n{confidence[i]:.1%} confident"
        axes.set_title(title, fontsize=8)
    return figure


# Speed, signals, the checks of constants and files, the download
def to_dataset(x, y, shuffle):
    """Return x and y as a tf.data.Dataset of batches; shuffle: anew in each epoch.

    Keras would make a dataset of arrays itself, but with a seed repeat one order in all
    epochs, and stall between some, while the thread sleeps that tunes its buffers.
    """
    import tensorflow as tf

    x, y = tf.convert_to_tensor(x), tf.convert_to_tensor(y)
    data = tf.data.Dataset.range(len(x))  # the images' numbers, 0, 1, ...
    if shuffle:
        data = data.shuffle(len(x))  # among all of them
    # i: a batch of numbers; gather takes the rows of these numbers.
    data = data.batch(int(BATCH_SIZE)).map(lambda i: (tf.gather(x, i), tf.gather(y, i)))
    options = tf.data.Options()
    options.autotune.enabled = False  # this thread, of the data, not of the weights
    # The default optimizations of a dataset would copy x.
    options.experimental_optimization.apply_default_optimizations = False
    return data.prefetch(2).with_options(options)  # 2 batches are prepared ahead


class StopOnSignal(keras.callbacks.Callback):
    """Around fit, has the first signal end it early; a second one acts as usual."""

    number = None  # of the signal, once it has come

    def __enter__(self):
        self.previous = {}  # each signal's handler: the function called when it comes
        # SIGINT: Ctrl-C; SIGTERM: kill; SIGHUP, not on Windows: the terminal is closed
        hang_up = getattr(signal, "SIGHUP", signal.SIGTERM)
        for number in {signal.SIGINT, signal.SIGTERM, hang_up}:
            # One that is ignored, as after `nohup`, stays so; None: it isn't Python's.
            if signal.getsignal(number) not in (None, signal.SIG_IGN):
                with contextlib.suppress(ValueError):  # only the main thread may set it
                    # signal() sets a new handler, and returns the previous one.
                    self.previous[number] = signal.signal(number, self.on_signal)
        return self

    def on_signal(self, number, frame):
        self.number = number  # only noted: the step that fit is in must end first
        self.__exit__()  # a second signal finds the previous handlers

    def stop(self, index, logs=None):
        if self.number is None or self.model.stop_training:
            return
        self.model.stop_training = True
        try:
            print("\nStopping after this step; Ctrl-C again ends at once.", flush=True)
        except OSError:  # Ctrl-C has ended `tee`, too, or the terminal is closed
            sys.stdout = io.StringIO()  # what is printed from now on, nobody sees

    # fit calls these two; the signal may also come while the model is validated.
    on_train_batch_end = on_epoch_end = stop

    def __exit__(self, *error):
        while self.previous:
            signal.signal(*self.previous.popitem())


def check_constants():
    """Exit, with a line that says what is allowed, if a constant cannot work."""
    number, switch = "an int or float", "True or False"
    file = "None or a {} file in a writable folder"
    fraction, is_width = f"{number}, at least 0, below 1", within(1, 20_001, Integral)
    rules = (  # constants, the test that each must pass, what is allowed
        ("DATA_PATH", lambda x: isinstance(x, (str, Path)), "the path of an npz file"),
        ("DATA_URL", lambda x: isinstance(x, str) and x != "", "an address"),
        ("STANDARDIZE LINEAR_DECAY NESTEROV", lambda x: type(x) is bool, switch),
        ("SHIFT VALIDATION_SPLIT DROPOUT MOMENTUM", within(0, 1), fraction),
        (
            "HIDDEN_UNITS",
            lambda x: isinstance(x, (tuple, list)) and all(map(is_width, x)),
            "a tuple of ints, 1 to 20000",
        ),
        ("ACTIVATION", lambda x: x in dir(keras.activations), "a Keras activation"),
        ("LEARNING_RATE", within(1e-38, 1e38), f"{number} above 0, below 1e38"),
        ("DECAY WEIGHT_DECAY", within(0, 1e38), f"{number}, at least 0, below 1e38"),
        ("BATCH_SIZE", within(1, 2**31, Integral), "a positive int below 2**31"),
        ("EPOCHS", within(1, np.inf, Integral), "a positive int"),
        ("SEED", within(0, 2**32, Integral), "an int, 0 to 2**32 - 1"),
        ("MODEL_PATH", lambda x: is_output(x, ".keras"), file.format(".keras")),
        ("PLOT_PATH", lambda x: is_output(x, ".png"), file.format(".png")),
        ("LOG_PATH", lambda x: is_output(x, ".jsonl"), file.format(".jsonl")),
    )
    for names, is_ok, allowed in rules:
        for name in names.split():
            if not is_ok(globals()[name]):
                line = f"{name} = {globals()[name]!r}: must be {allowed}"
                sys.exit(line.replace("\n", " "))


def within(low, below, kind=Real):
    """Return a function that says whether its x is a number, low <= x < below."""
    return lambda x: isinstance(x, kind) and type(x) is not bool and low <= x < below


def is_output(path, suffix):
    """Return whether path is None or a file of this suffix that can be written."""
    if path is None:
        return True
    if not isinstance(path, (str, Path)) or Path(path).suffix != suffix:
        return False
    path = beside_script(path).resolve()  # what a link leads to
    if os.path.isdir(path) or path == beside_script(DATA_PATH).resolve():
        return False
    if os.path.exists(path) and not os.access(path, os.W_OK):  # write-protected
        return False
    return os.path.isdir(path.parent) and os.access(path.parent, os.W_OK)


def beside_script(path):
    """Return path as a Path; a relative one is relative to this script's folder."""
    in_file = "__file__" in globals()  # not if it was pasted into a notebook
    folder = Path(__file__).resolve().parent if in_file else Path.cwd()
    return folder / os.path.expanduser(path)


def read_arrays(path):
    """Return x_train, y_train, x_test, y_test of an npz file; exit if unfit."""
    fault = "not an npz file"
    if path.name == "mnist.npz":
        fault += "; delete it, and the next run downloads it"
    needs = "needs x_train and x_test, integers or finite floats, (N, height, width), "
    needs += "alike in size, dtype and range; y_train and y_test, integers 0 to 9, (N,)"
    try:
        with np.load(path) as file:
            fault = f"{needs}; it holds {file.files}"
            arrays = [file[name] for name in ("x_train", "y_train", "x_test", "y_test")]
        held = [f"{a.dtype} {a.shape} {a.min()} to {a.max()}" for a in arrays]
        fault = f"{needs}; it holds {', '.join(held)}"
        if are_data(*arrays):
            return arrays
    except Exception as error:  # noqa: BLE001 (for ruff); damage raises a dozen types
        # Without its text: NumPy's may advise to unpickle, which runs foreign code.
        fault += f" ({type(error).__name__})"
    sys.exit(f"{path}: {fault}")


def are_data(x_train, y_train, x_test, y_test):
    """Return whether arrays are images and labels as read_arrays needs them."""
    for x, y in (x_train, y_train), (x_test, y_test):
        if x.ndim != 3 or x.dtype.kind not in "iuf" or y.dtype.kind not in "iu":
            return False
        if x.shape[1:] != x_train.shape[1:] or x.dtype != x_train.dtype:
            return False
        if y.shape != x.shape[:1] or y.min() < 0 or y.max() > 9:
            return False
        if not -3e38 < float(x.min()) <= float(x.max()) < 3e38:  # NaN, or over float32
            return False
    low, high = sorted(float(x.max()) for x in (x_train, x_test))
    return not 0 < 10 * low < high  # as if only one of the two had been scaled


def download(path):
    """Download DATA_URL to path, complete and checked, or not at all.

    keras.utils.get_file has no timeout, and leaves half a file if it is killed.
    """
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
    """Have write make a file beside path, then move it there: never half a file."""
    target = path.resolve()  # replace what a link leads to, not the link
    new = target.with_name(f".mnist-{os.getpid()}{path.suffix}")
    try:
        write(new)
        os.replace(new, target)
    finally:
        new.unlink(missing_ok=True)


if __name__ == "__main__":
    if sys.stdout is None:  # the shell has closed it
        sys.stdout = io.StringIO()
    try:
        main()
    except FloatingPointError as error:
        sys.exit(str(error))
    except KeyboardInterrupt as interrupt:
        number = interrupt.args[0] if interrupt.args else signal.SIGINT
        if not interrupt.args:  # not in the training, of which main has told
            print("Interrupted.", file=sys.stderr)
        sys.exit(128 + number)  # as a shell says that a signal ended a program
