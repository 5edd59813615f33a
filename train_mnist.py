"""Train a 784-500-500-10 tanh network on MNIST with Keras.

It classifies 97.97 % of the 10,000 test images correctly (mean of seeds 0 to 4; 97.94
to 98.01) after 100 epochs, which take about 100 s on two cores of an AMD EPYC (family
26), with Python 3.11.7, keras 3.15.1, tensorflow 2.21.0, numpy 2.4.6.
"""

# What `uv run train_mnist.py` installs:
# /// script
# requires-python = ">=3.10,<3.14"
# dependencies = ["keras>=3.7,<4", "tensorflow>=2.16.1,<3", "numpy>=1.26,<3",
#                 "matplotlib>=3.8,<4"]
# ///

import contextlib
import json
import os
import signal
import sys
import time
import zipfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # TensorFlow prints less
in_notebook = "ipykernel" in sys.modules
if __name__ == "__main__" and not in_notebook:
    # A notebook's `!python` hands on a matplotlib setting, and `import keras` fails.
    os.environ["MPLBACKEND"] = "agg"  # draws to files
import keras  # which leaves the arithmetic to TensorFlow, JAX or PyTorch, its backend
import numpy as np

try:
    from matplotlib.figure import Figure  # without pyplot, it opens no window
except ImportError as error:
    print(f"No picture will be drawn: pip install -U matplotlib ({error!r})")
    Figure = None

# Data; relative paths, here and below, start at this script's folder
DATA_PATH = "mnist.npz"  # the data set; a missing mnist.npz is downloaded
DATA_URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
DATA_SHA256 = "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"
STANDARDIZE = True  # scale pixels to mean 0, standard deviation 1; False: feed them raw
SHIFT = 0.0  # move each training image at random, by up to this part of its size
VALIDATION_SPLIT = 0.3  # last fraction, held back to choose constants by; 0: none
# Model
HIDDEN_UNITS = (500, 500)  # width of each hidden layer; (300,) is one layer
ACTIVATION = "tanh"  # of the hidden layers, any Keras activation by name
DROPOUT = 0.5  # fraction of hidden outputs dropped in training, against overfitting
# Training, by stochastic gradient descent, one batch per step
LEARNING_RATE = 0.01  # a step subtracts this times the loss's gradient
DECAY = 1e-6  # at step n, the learning rate is LEARNING_RATE / (1 + DECAY * n)
LINEAR_DECAY = False  # True: not DECAY, but evenly down to 0 after the last step
WEIGHT_DECAY = 0.0  # a step also subtracts this * rate * weight, against overfitting
MOMENTUM = 0.9  # fraction of the previous update added to this one
NESTEROV = True  # True: take the gradient where the momentum alone would lead
BATCH_SIZE = 200  # images per step
EPOCHS = 100  # passes over the training images left by VALIDATION_SPLIT
SEED = 0  # same seed, CPU and versions: the same result
# Output; None: not written
MODEL_PATH = "mnist_mlp.keras"  # the trained model
PLOT_PATH = "mnist_mlp.png"  # loss curves, confusion matrix, mistakes
LOG_PATH = "mnist_mlp.jsonl"  # a line of JSON is added by each run


def main():
    """Load the data; train, save and evaluate a model; report, log and draw.

    Returns the test loss (cross-entropy in nats: with the natural logarithm) and
    accuracy (0 to 1). A wrong constant raises AssertionError or another error; an
    unusable data file exits with a line. At the end, raises KeyboardInterrupt if Ctrl-C
    stopped the training, else FloatingPointError if a weight became infinite or NaN.
    """
    check_constants()
    keras.utils.clear_session()  # frees what an earlier call of main left in memory
    keras.utils.set_random_seed(int(SEED))  # int(), here and below: of a NumPy integer
    (images, labels), (test_images, test_labels) = load_data(beside_script(DATA_PATH))
    print(f"training images {images.shape} {images.dtype}, labels {labels.shape}")
    print(f"test images {test_images.shape}, labels {test_labels.shape}")
    x, y = preprocess(images, labels)
    x_test, y_test = preprocess(test_images, test_labels)
    n = int(len(x) * (1 - VALIDATION_SPLIT))
    assert n > 0, f"{VALIDATION_SPLIT = } leaves no image to train on"
    x_train, y_train, x_val, y_val = x[:n], y[:n], x[n:], y[n:]
    if set(labels[:n]) != set(labels):  # as in a file that is sorted by digit
        print(f"Some digits are not among the first {n} images: shuffle {DATA_PATH}")

    model = build_model(x_train)
    model.summary()
    start = time.perf_counter()
    size = images.shape[1:]  # (height, width)
    history, interrupted = train(model, x_train, y_train, x_val, y_val, size)
    seconds = round(time.perf_counter() - start, 1)
    print(f"The training took {seconds} s.")
    diverged = not all(np.isfinite(weights).all() for weights in model.get_weights())
    if MODEL_PATH and not diverged:  # at once, so that nothing below can lose it
        save(MODEL_PATH, model.save)

    results = {"seconds": seconds, "epochs": len(history["loss"])}
    results["interrupted"] = interrupted
    if len(x_val):  # again: EarlyStopping, if you add it, may restore earlier weights
        results.update(evaluate(model, x_val, y_val, "val"))
    results.update(evaluate(model, x_test, y_test, "test"))
    probabilities = model.predict(x_test, int(BATCH_SIZE), verbose=0)  # (N, 10)
    predictions = probabilities.argmax(axis=1)  # the likeliest digits
    loss, accuracy = results["test_loss"], float(np.mean(predictions == test_labels))
    confusion_matrix = np.zeros((10, 10), int)  # [true digit, predicted digit]
    np.add.at(confusion_matrix, (test_labels, predictions), 1)  # counts each pair
    report(loss, accuracy, confusion_matrix)
    if LOG_PATH:
        log(results)
    if PLOT_PATH and Figure and not diverged:
        fig = draw(history, confusion_matrix, test_images, test_labels, probabilities)
        save(PLOT_PATH, fig.savefig)

    if interrupted:  # to end a loop of yours around main, too
        raise KeyboardInterrupt
    if diverged:
        raise FloatingPointError("diverged, no model is saved: lower the learning rate")
    return loss, accuracy


# The data, the network and its training
def load_data(path):
    """Return training and test set of an npz file; download a missing mnist.npz.

    Each is a pair: images, (N, height, width), uint8 if stored so, else float32; and
    labels, (N,), integers 0 to 9. Exits with a line if the file is unusable.
    """
    try:
        if path.name == "mnist.npz" and not path.exists():
            new = keras.utils.get_file(
                "new-mnist.npz",
                DATA_URL,
                file_hash=DATA_SHA256,
                cache_dir=path.parent,
                cache_subdir="",
            )
            os.replace(new, path)  # only a whole file gets that name
        if path.exists() and not zipfile.is_zipfile(path):
            raise ValueError("no npz file, or half of one")
        with np.load(path) as file:
            x_train, y_train = file["x_train"], file["y_train"]
            x_test, y_test = file["x_test"], file["y_test"]
        check_data(x_train, y_train, x_test, y_test)
    except Exception as error:  # noqa: BLE001 (for ruff); damage raises a dozen types
        sys.exit(f"{path}: {error!r} (a missing mnist.npz comes from {DATA_URL})")
    if not x_train.dtype == x_test.dtype == "uint8":  # uint8 saves memory
        x_train, x_test = x_train.astype("float32"), x_test.astype("float32")
    return (x_train, y_train.astype(int)), (x_test, y_test.astype(int))


def preprocess(images, labels):
    """Return flattened images, (N, pixels), and one-hot labels, (N, 10) float32.

    One-hot: 1 at the digit's place, else 0, so 3 becomes 0001000000, row 3 of np.eye.
    """
    return images.reshape(len(images), -1), np.eye(10, dtype="float32")[labels]


def build_model(x_train):
    """Build and compile the network for x_train, flattened images.

    Returns a keras.Sequential from raw pixels, (N, height * width), to the digits'
    probabilities, (N, 10) float32.
    """
    model = keras.Sequential([keras.Input(x_train.shape[1:])])
    if STANDARDIZE:
        pixels = x_train[:10_000].astype("float32")  # enough of them, to save memory
        mean, deviation = float(pixels.mean()), float(max(pixels.std(), 1e-7))
        # (pixel - mean) / deviation, in the model, which thus takes raw pixels
        model.add(keras.layers.Rescaling(1 / deviation, offset=-mean / deviation))
    for units in HIDDEN_UNITS:
        model.add(keras.layers.Dense(int(units), activation=ACTIVATION))
        model.add(keras.layers.Dropout(float(DROPOUT)))
    model.add(keras.layers.Dense(10, activation="softmax"))
    rate = float(LEARNING_RATE)  # given an int, 1, Keras would round DECAY to 0
    if LINEAR_DECAY:
        steps = EPOCHS * int(np.ceil(len(x_train) / BATCH_SIZE))
        # By default, the polynomial is of degree 1, a straight line.
        rate = keras.optimizers.schedules.PolynomialDecay(rate, steps, 0.0)
    elif DECAY > 0:
        rate = keras.optimizers.schedules.InverseTimeDecay(rate, 1, float(DECAY))
    optimizer = keras.optimizers.SGD(
        rate,
        momentum=float(MOMENTUM),
        nesterov=NESTEROV,
        weight_decay=float(WEIGHT_DECAY) or None,  # 0 would only take time
    )
    model.compile(optimizer, loss="categorical_crossentropy", metrics=["accuracy"])
    return model


def train(model, x_train, y_train, x_val, y_val, size):
    """Fit the model to flattened images, (N, pixels), and one-hot labels, (N, 10).

    size: (height, width) of an image before it was flattened. Returns the values by
    epoch, {"loss": [nats, ...], "accuracy": [0 to 1, ...]} and, as "val_...", those of
    the validation set, unless that is empty; and whether Ctrl-C stopped it.
    """
    # fit takes arrays, too, but on TensorFlow a dataset is quicker and shuffles better
    # (see to_dataset), and a dataset can move the images, on any backend.
    if SHIFT > 0 or keras.backend.backend() == "tensorflow":
        x = to_dataset(x_train, y_train, training=True, size=size)
        data = {"x": x, "shuffle": False}  # x has the labels, too, and shuffles itself
        validation_data = to_dataset(x_val, y_val)
    else:
        data = {"x": x_train, "y": y_train, "batch_size": int(BATCH_SIZE)}
        validation_data = x_val, y_val
    if keras.backend.backend() != "torch":  # PyTorch takes one step at a time
        # Ten steps run as one, in a fifth less time; callbacks are called after ten.
        # As an argument of compile() it would be saved, and PyTorch refuses it.
        model.steps_per_execution = 10
    # IDLE's window, which replaces stdout, calls itself a terminal, but shows no bar.
    has_bar = in_notebook or (sys.stdout.isatty() and sys.stdout is sys.__stdout__)
    stop_on_ctrl_c = StopOnCtrlC()
    usual = signal.signal(signal.SIGINT, stop_on_ctrl_c.on_ctrl_c)  # SIGINT: Ctrl-C
    try:
        history = model.fit(
            **data,  # as if written here: x=..., and so on
            epochs=EPOCHS,
            validation_data=validation_data if len(x_val) else None,
            verbose=1 if has_bar else 2,  # 1: a progress bar, 2: a line per epoch
            # EarlyStopping() could join; with DECAY = 0, ReduceLROnPlateau(), too.
            callbacks=[stop_on_ctrl_c, keras.callbacks.TerminateOnNaN()],
        ).history
    finally:
        signal.signal(signal.SIGINT, usual)
    if stop_on_ctrl_c.pressed:
        print(f"Stopped in epoch {len(history['loss'])} of {EPOCHS}.")
    return history, stop_on_ctrl_c.pressed


def to_dataset(x, y, training=False, size=None):
    """Return x and y as a tf.data.Dataset of batches.

    For the training, it shuffles them and moves the images, (height, width) = size, by
    SHIFT, anew in each epoch. fit, given arrays, would make a dataset that repeats one
    order in all epochs, and at times pauses for seconds, for a thread that tunes it.
    """
    import tensorflow as tf  # JAX and PyTorch need it for SHIFT alone

    x, y = tf.convert_to_tensor(x), tf.convert_to_tensor(y)
    random = tf.random.Generator.from_seed(int(SEED))

    def shift(x, y):
        # By whole pixels; keras.layers.RandomTranslation takes six times as long.
        images = tf.reshape(x, (-1, *size))
        for n in size:  # rows first, then columns
            distances = n * random.uniform((tf.shape(x)[0], 1), -SHIFT, SHIFT)
            rows = tf.range(n) + tf.cast(tf.round(distances), "int32")  # old rows
            rows = tf.clip_by_value(rows, 0, n - 1)  # beyond the edge: the edge again
            images = tf.gather(images, rows, batch_dims=1)  # image i takes its rows[i]
            images = tf.transpose(images, (0, 2, 1))  # columns become rows; later, back
        return tf.reshape(images, tf.shape(x)), y

    indices = tf.data.Dataset.range(len(x))
    if training:
        indices = indices.shuffle(len(x))  # among all of them
    batches = indices.batch(BATCH_SIZE)
    batches = batches.map(lambda i: (tf.gather(x, i), tf.gather(y, i)))  # x[i], y[i]
    if training and SHIFT > 0:
        batches = batches.map(shift)
    options = tf.data.Options()
    options.autotune.enabled = False  # without that thread
    options.experimental_optimization.apply_default_optimizations = False  # they copy x
    return batches.prefetch(2).with_options(options)  # two are prepared ahead


def evaluate(model, x, y, name):
    """Return the metrics on x, y, with name "val": {"val_loss": nats, ...}."""
    scores = model.evaluate(x, y, int(BATCH_SIZE), verbose=0, return_dict=True)
    return {f"{name}_{key}": np.round(n, 6).tolist() for key, n in scores.items()}


# The results: on the screen, in the log, in a picture
def report(loss, accuracy, confusion_matrix):
    """Print the results, each digit's accuracy, and the most common mistakes."""
    print(f"test set\nThe test loss is {loss:f}")
    print(f"The accuracy of the model is {accuracy:f}")
    totals, correct = confusion_matrix.sum(axis=1), confusion_matrix.diagonal()
    errors = confusion_matrix - np.diag(correct)
    print(f"{errors.sum()} of {totals.sum()} test images are wrong.")
    print("digit    " + "".join(f"{digit:6d}" for digit in range(10)))
    shares = correct / np.maximum(totals, 1)  # 1: no division by 0
    print("accuracy " + "".join(f"{share:6.3f}" for share in shares))
    # ndenumerate gives each cell as ((row, column), value).
    most_common = sorted(np.ndenumerate(errors), key=lambda cell: -cell[1])[:5]
    for (label, prediction), count in most_common:
        if count:
            print(f"  {label} read as {prediction}: {count}")


def log(results):
    """Append results and constants to LOG_PATH as a line of JSON; print changes."""
    run = {"time": time.strftime("%Y-%m-%d %H:%M:%S")}
    run.update(keras=keras.__version__, backend=keras.backend.backend())
    run.update((name, x) for name, x in globals().items() if name.isupper())
    for name, value in results.items():  # numbers, or lists, if you add F1Score
        run[name] = np.where(np.isfinite(value), value, None).tolist()  # no NaN in JSON
    # default: what becomes of a value that JSON does not know, a NumPy number or a Path
    default = lambda x: x.item() if isinstance(x, np.generic) else str(x)
    line = json.dumps(run, default=default)
    path = beside_script(LOG_PATH)
    earlier = path.read_text("utf-8").splitlines() if path.exists() else []
    with open(path, "a", encoding="utf-8") as file:
        file.write(line + "\n")
    with contextlib.suppress(LookupError, ValueError):  # no earlier run, or half a line
        old, new = json.loads(earlier[-1]), json.loads(line)
        print(f"Since the run of {old['time']}:")
        for name in new:
            if name not in ("time", "seconds") and new[name] != old.get(name):
                print(f"  {name} {old.get(name)} -> {new[name]}")


def draw(history, confusion_matrix, images, labels, probabilities):
    """Return a Figure: the loss by epoch, the confusion matrix, the surest mistakes.

    Takes the test set's images, (N, height, width), labels, (N,), and probabilities.
    """
    fig = Figure(figsize=(13, 4.6), dpi=120, layout="constrained")
    left, middle, right = fig.subfigures(1, 3)
    axes = left.subplots()
    # DROPOUT and SHIFT handicap the training; its loss is a mean over the epoch.
    training = f"training (DROPOUT {DROPOUT}, SHIFT {SHIFT})"
    for name, label in ("loss", training), ("val_loss", "validation"):
        if name in history:
            epochs = range(1, len(history[name]) + 1)
            axes.plot(epochs, history[name], ".-", label=label)
    axes.set(title="Loss curves", xlabel="epoch", ylabel="loss (nats)")
    axes.locator_params(axis="x", integer=True, min_n_ticks=1)
    axes.set_yscale("log", subs=(2, 3, 5))  # ticks at 2, 3 and 5 times 10**n, too
    axes.yaxis.set_major_formatter("{x:g}")  # 0.02, not 2 x 10**-2
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.grid(which="both", alpha=0.3)
    axes.legend()

    axes = middle.subplots()
    # The colours leave out the right answers, whose counts are a hundred times larger.
    errors = np.where(np.eye(10), 0, confusion_matrix)  # 0 on the diagonal
    axes.imshow(errors, cmap="Oranges", vmax=2 * errors.max())  # 2: pale under the text
    for (label, prediction), count in np.ndenumerate(confusion_matrix):
        axes.text(prediction, label, count or "", ha="center", va="center", fontsize=8)
    axes.set(title="Confusion matrix", xlabel="predicted digit", ylabel="true digit")
    axes.set(xticks=range(10), yticks=range(10))

    right.suptitle("Most confident mistakes")
    predictions, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    mistakes = np.flatnonzero(predictions != labels)  # their indices
    grid = right.subplots(3, 4).ravel()
    for axes in grid:
        axes.axis("off")
    # zip ends with the shorter: after 12 mistakes, or earlier.
    for axes, i in zip(grid, sorted(mistakes, key=lambda i: -confidence[i])):
        axes.imshow(images[i], cmap="gray_r")
        title = f"{labels[i]} read as {predictions[i]}\n{confidence[i]:.1%} confident"
        axes.set_title(title, fontsize=8)
    return fig


# Files, Ctrl-C, the checks of data and constants
def beside_script(path):
    """Return path as a Path, from this script's folder, or that of a notebook."""
    folder = Path(__file__).resolve().parent if "__file__" in globals() else Path.cwd()
    return folder / Path(path).expanduser()


def save(path, write):
    """Have the function write make a file, and move it to path when it is whole."""
    path = beside_script(path)
    new = path.with_name(f"new-{path.name}")
    write(new)
    os.replace(new, path)
    print(f"Wrote {path}")


class StopOnCtrlC(keras.callbacks.Callback):
    """Has Ctrl-C end fit after the steps it is in; a second one ends all, unsaved."""

    pressed = False

    def on_ctrl_c(self, *unused):  # Python passes the signal's number and a stack frame
        self.pressed = True  # only noted: on JAX, the model must not be used just now
        signal.signal(signal.SIGINT, signal.default_int_handler)  # for a second one

    def on_train_batch_end(self, batch, logs=None):  # Keras calls it, and sets model
        if self.pressed:
            self.model.stop_training = True

    on_epoch_end = on_train_batch_end  # if it was pressed during the validation


def check_data(x_train, y_train, x_test, y_test):
    """Raise ValueError unless these are images and labels as load_data needs them."""
    for x, y in (x_train, y_train), (x_test, y_test):
        if x.ndim != 3 or not np.isfinite([x.min(), x.max()]).all():
            raise ValueError("images must be finite numbers, (N, height, width)")
        if x.shape[1:] != x_train.shape[1:]:
            raise ValueError("all images must be of one size")
        if y.shape != x.shape[:1] or not set(y) <= set(range(10)):
            raise ValueError("labels must be 0 to 9, (N,), one for each image")


def check_constants():
    """Raise AssertionError for what would else fail late, or never."""
    for path in MODEL_PATH, PLOT_PATH, LOG_PATH:
        can_write = not path or os.access(beside_script(path).parent, os.W_OK)
        assert can_write, f"{path = }: its folder is missing or read-only"
    assert not MODEL_PATH or str(MODEL_PATH).endswith(".keras"), f"{MODEL_PATH = }"
    is_count = lambda n: isinstance(n, (int, np.integer)) and n > 0  # NumPy's, too
    assert SEED == 0 or (is_count(SEED) and SEED < 2**32), f"{SEED = }"
    assert is_count(BATCH_SIZE), f"{BATCH_SIZE = }"
    assert is_count(EPOCHS), f"{EPOCHS = }"
    assert all(map(is_count, HIDDEN_UNITS)), f"{HIDDEN_UNITS = }"
    assert 0 <= SHIFT < 1, f"{SHIFT = }"
    assert 0 <= VALIDATION_SPLIT < 1, f"{VALIDATION_SPLIT = }"
    assert 0 <= DROPOUT < 1, f"{DROPOUT = }"
    assert 0 < LEARNING_RATE < np.inf, f"{LEARNING_RATE = }"
    assert 0 <= DECAY < np.inf, f"{DECAY = }"
    assert 0 <= WEIGHT_DECAY < np.inf, f"{WEIGHT_DECAY = }"


if __name__ == "__main__":
    if len(sys.argv) > 1 and not in_notebook:
        sys.exit("No options: edit the constants at the top of the file")
    try:
        main()
    except FloatingPointError as error:
        sys.exit(f"{error}")
    except KeyboardInterrupt:
        sys.exit(130)  # as a shell says that Ctrl-C ended a program
