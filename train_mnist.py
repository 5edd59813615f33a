"""Train a 784-500-500-10 tanh network to read MNIST's handwritten digits, with Keras.

After 100 epochs (100 to 180 s on two cores of an AMD EPYC), it classifies 97.97% of
the 10,000 test images correctly. This is the mean of five runs (seeds 0 to 4: 97.94 to
98.01%) with Python 3.11.7, keras 3.15.1, tensorflow 2.21.0 and numpy 2.4.6.
"""

# The tool uv reads this: `uv run train_mnist.py` installs the packages by itself.
# /// script
# requires-python = ">=3.10,<3.14"
# dependencies = ["keras>=3.7,<4", "tensorflow>=2.16.1,<3", "numpy>=1.26,<3",
#                 "matplotlib>=3.8,<4"]
# ///

import contextlib
import gc
import json
import os
import signal
import sys
import time
from pathlib import Path

# Keras leaves the arithmetic to TensorFlow. (The README says how to choose JAX or
# PyTorch instead; then TensorFlow still shuffles and batches the images.)
import keras
import numpy as np
import tensorflow as tf

try:
    from matplotlib.figure import Figure
except ImportError as error:
    print(f"matplotlib is missing, so no picture will be drawn: {error}")
    Figure = None

# Data
DATA_PATH = "mnist.npz"  # the images; if mnist.npz is missing, Keras downloads them
STANDARDIZE = True  # scale the pixels to mean 0 and standard deviation 1
SHIFT = 0  # shift each training image at random, by up to this many pixels each way
VALIDATION_SPLIT = 0.3  # keep the last 30% of the training images for validation
# Model
HIDDEN_UNITS = (500, 500)  # units in each hidden layer; (300,) is a single layer
ACTIVATION = "tanh"  # of the hidden layers; any name that Keras knows, such as "relu"
DROPOUT = 0.5  # fraction of the hidden units switched off at random in training
# Training, by gradient descent: each step uses one batch of random images
LEARNING_RATE = 0.01  # how far a step moves the weights against the gradient
DECAY = 1e-6  # after n steps, the learning rate is LEARNING_RATE / (1 + DECAY * n)
LINEAR_DECAY = False  # True: the learning rate falls evenly to 0 instead
#   (If you add Keras's ReduceLROnPlateau, set DECAY = 0 and LINEAR_DECAY = False.)
WEIGHT_DECAY = 0.0  # each step subtracts this * learning rate * weight from a weight
MOMENTUM = 0.9  # fraction of the previous step that is added to this one
NESTEROV = True  # move the weights by the momentum first, then compute the gradient
BATCH_SIZE = 200  # images per step
EPOCHS = 100  # how many times the network sees each training image
SEED = 0  # the same seed gives the same result, with the same processor and versions
# Results (None: no such file is written)
MODEL_PATH = "mnist_mlp.keras"  # the trained model
PLOT_PATH = "mnist_mlp.png"  # loss curves, confusion matrix, mistakes
LOG_PATH = "mnist_mlp.jsonl"  # a line for each run: its constants and results

# Relative paths start in this file's folder. A notebook cell has no __file__.
folder = Path(__file__).parent if "__file__" in globals() else Path()


def main():
    """Train, save and test a model; return its test loss and test accuracy (0 to 1).

    The loss is the cross-entropy (see compile): minus the natural logarithm of the
    probability that the model gives to the right digit, averaged over the images. (On
    JAX and PyTorch, Keras counts a probability below 1e-7 as 1e-7.) AssertionError is
    raised if a constant is wrong, FloatingPointError if a weight is infinite or NaN.
    """
    check_constants()
    gc.collect()  # In a notebook, main may run many times: this frees earlier models.
    keras.utils.set_random_seed(SEED)

    (images, labels), (test_images, test_labels) = load_data(folder / DATA_PATH)
    # One-hot labels are the ten probabilities of a perfect answer: 3 is 0001000000.
    one_hot = keras.utils.to_categorical(labels, 10)
    n_train = round(len(images) * (1 - VALIDATION_SPLIT))
    x_train, y_train = images[:n_train], one_hot[:n_train]
    x_val, y_val = images[n_train:], one_hot[n_train:]
    x_test, y_test = test_images, keras.utils.to_categorical(test_labels, 10)
    print(f"training images {images.shape} {images.dtype}, test images {x_test.shape}")
    if set(labels[:n_train]) != set(labels):
        print(f"Warning: the first {n_train} images lack some digits; shuffle them")

    model = build_model(x_train)
    model.summary()
    print("Before the training, the network guesses:")
    model.evaluate(to_dataset(x_train[:1000], y_train[:1000]), verbose=2)
    start = time.perf_counter()
    history = train(model, x_train, y_train, x_val, y_val)
    seconds = round(time.perf_counter() - start, 1)
    print(f"The training took {seconds} s.")
    # If the steps are much too large, weights become infinite or NaN (not a number).
    if not all(np.isfinite(weights).all() for weights in model.get_weights()):
        raise FloatingPointError("the training diverged: lower the learning rate")
    if MODEL_PATH:
        model.save(folder / MODEL_PATH)
        print(f"Wrote {MODEL_PATH}")

    results = {"seconds": seconds, "epochs": len(history["loss"])}
    # Measure again: a callback that you add may have gone back to earlier weights.
    for name, x, y in (("val", x_val, y_val), ("test", x_test, y_test)):
        if len(x):  # With VALIDATION_SPLIT = 0, there are no validation images.
            metrics = model.evaluate(to_dataset(x, y), verbose=0, return_dict=True)
            for metric, value in metrics.items():  # Some metrics are lists of numbers.
                results[f"{name}_{metric}"] = np.round(value, 6).tolist()
    probabilities = model.predict(to_dataset(x_test, y_test), verbose=0)  # (N, 10)
    predictions = probabilities.argmax(axis=1)  # the most probable digit of each image
    loss, accuracy = results["test_loss"], float(np.mean(predictions == test_labels))
    print(f"The test loss is {loss:f}")
    print(f"The accuracy of the model is {accuracy:f}")
    if LOG_PATH:
        log(results)
    if PLOT_PATH and Figure:
        draw(history, test_images, test_labels, probabilities)
    return loss, accuracy


def load_data(path):
    """Return the training set and the test set of an npz file, which holds arrays.

    Each is a pair: N images, (N, height, width), and their labels, (N,), from 0 to 9.
    Raises SystemExit, with a line that says why, if the file can't be used.
    """
    try:
        if path.name == "mnist.npz" and not path.exists():
            print("mnist.npz is missing; Keras downloads MNIST to a folder of its own")
            return keras.datasets.mnist.load_data()
        with np.load(path) as data:
            images, labels = data["x_train"], data["y_train"]
            test_images, test_labels = data["x_test"], data["y_test"]
        for x, digits in ((images, labels), (test_images, test_labels)):
            if x.ndim != 3 or len(x) == 0 or x.shape[1:] != images.shape[1:]:
                raise ValueError("images must be (N, height, width), all of one size")
            if x.dtype != images.dtype or not np.isfinite(x).all():
                raise ValueError("images must be finite numbers, all of one dtype")
            if digits.shape != x.shape[:1] or not np.isin(digits, range(10)).all():
                raise ValueError("labels must be 0 to 9, (N,), one for each image")
    except Exception as error:  # A damaged file can raise a dozen kinds of exception.
        raise SystemExit(f"No data could be read from {path}: {error!r}") from error
    if images.dtype != "uint8":  # Bytes stay bytes, to save memory.
        images, test_images = images.astype("float32"), test_images.astype("float32")
    return (images, labels.astype(int)), (test_images, test_labels.astype(int))


def build_model(x_train):
    """Return a keras.Sequential, ready to be trained on the images x_train.

    It takes raw pixels, (N, height, width), and returns probabilities, (N, 10).
    """
    model = keras.Sequential([keras.Input(x_train.shape[1:])])
    if STANDARDIZE:
        pixels = x_train[:10_000].astype("float32")  # enough images for an estimate
        mean, std = float(pixels.mean()), float(pixels.std())
        # This is (pixel - mean) / std. As a layer, it is saved with the model.
        model.add(keras.layers.Rescaling(1 / std, offset=-mean / std))
    model.add(keras.layers.Flatten())  # 28 x 28 pixels become a row of 784.
    for units in HIDDEN_UNITS:
        model.add(keras.layers.Dense(units, activation=ACTIVATION))
        model.add(keras.layers.Dropout(DROPOUT))
    # Softmax turns the ten outputs into probabilities, which the loss and draw need.
    model.add(keras.layers.Dense(10, activation="softmax"))

    learning_rate = float(LEARNING_RATE)  # With an int, Keras would round DECAY to 0.
    if LINEAR_DECAY:
        steps = EPOCHS * int(np.ceil(len(x_train) / BATCH_SIZE))
        learning_rate = keras.optimizers.schedules.PolynomialDecay(
            learning_rate, decay_steps=steps, end_learning_rate=0.0, power=1.0
        )
    elif DECAY > 0:
        learning_rate = keras.optimizers.schedules.InverseTimeDecay(
            learning_rate, decay_steps=1, decay_rate=DECAY
        )
    optimizer = keras.optimizers.SGD(  # stochastic gradient descent
        learning_rate,
        momentum=float(MOMENTUM),  # Keras refuses an int, such as 0.
        nesterov=NESTEROV,
        weight_decay=WEIGHT_DECAY if WEIGHT_DECAY > 0 else None,  # None turns it off.
    )
    # To compile a model is to tell Keras how to train it, and what to measure.
    model.compile(
        optimizer=optimizer, loss="categorical_crossentropy", metrics=["accuracy"]
    )
    if keras.config.backend() != "torch":  # PyTorch doesn't have this.
        # Ten steps run in a row before Python code, such as a callback, has its turn.
        # That saves a quarter of the time. It is set here, not in compile, so that it
        # isn't saved with the model: PyTorch could not use such a model.
        model.steps_per_execution = 10
    return model


def train(model, x_train, y_train, x_val, y_val):
    """Fit the model to images, (N, height, width), and one-hot labels, (N, 10).

    Returns what was measured in each epoch, {"loss": [...], "accuracy": [...]}, and the
    same for the validation images, if there are any, as "val_loss" and "val_accuracy".
    """
    return model.fit(
        to_dataset(x_train, y_train, training=True),
        epochs=EPOCHS,
        shuffle=False,  # to_dataset shuffles.
        validation_data=to_dataset(x_val, y_val) if len(x_val) else None,
        # 1 is a progress bar, for a terminal; 2 is a line per epoch, for a file.
        verbose=1 if sys.stdout.isatty() else 2,
        # Callbacks are objects whose methods Keras calls during the training.
        callbacks=[StopOnCtrlC(), keras.callbacks.TerminateOnNaN()],
    ).history


def to_dataset(x, y, training=False):
    """Return images and one-hot labels as a tf.data.Dataset of batches.

    For training, they are shuffled, and shifted by up to SHIFT, anew in each epoch. If
    fit were given arrays, it would use the same order in each epoch (on TensorFlow).
    """
    x, y = tf.constant(x), tf.constant(y)  # as TensorFlow's own arrays
    random = tf.random.Generator.from_seed(SEED)

    def load_batch(indices):  # the indices of the images in one batch
        images, one_hot = tf.gather(x, indices), tf.gather(y, indices)  # x[indices]
        if training and SHIFT > 0:
            images = shift(images, random)
        return images, one_hot

    # It takes less time and memory to shuffle the indices of the images, 0 to N - 1,
    # than the images. The operations of load_batch then run for each batch of indices.
    dataset = tf.data.Dataset.range(len(x))
    if training:
        dataset = dataset.shuffle(buffer_size=len(x))  # The buffer holds all indices.
    dataset = dataset.batch(BATCH_SIZE).map(load_batch)
    # TensorFlow would tune and reorganize these operations while they run. For so few,
    # that costs memory, and at times it holds up the training for seconds.
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    return dataset.prefetch(2).with_options(options)  # Two batches are kept ready.


def shift(images, random):
    """Shift each image of a batch, (n, height, width), by its own random offset.

    Each image gets a frame of zeros, black, SHIFT pixels wide. Then a part of the
    original size is cut out of it, at a random place.
    """
    # TensorFlow runs this code once, records its operations (the random ones, too), and
    # repeats them for each batch. images.shape has no n yet; tf.shape finds it then.
    n = tf.shape(images)[0]
    height, width = images.shape[1:]
    images = tf.pad(images, [(0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT)])
    first_rows = random.uniform((n, 1), 0, 2 * SHIFT + 1, "int32")  # 0 to 2 * SHIFT
    first_columns = random.uniform((n, 1), 0, 2 * SHIFT + 1, "int32")
    # Where the first row is 2, the rows are [2, 3, ..., height + 1].
    rows = first_rows + tf.range(height)  # (n, 1) + (height,) gives (n, height).
    columns = first_columns + tf.range(width)
    # For each image i, this is images[i][rows[i]], and then images[i][:, columns[i]].
    images = tf.gather(images, rows, axis=1, batch_dims=1)
    return tf.gather(images, columns, axis=2, batch_dims=1)


class StopOnCtrlC(keras.callbacks.Callback):
    """Lets Ctrl-C end the training early, so that main goes on with what was learned.

    Keras sets self.model, and calls the methods that begin with on_train or on_epoch.
    """

    def on_train_begin(self, logs=None):
        self.pressed = False
        # Ctrl-C (SIGINT) now calls on_ctrl_c; what it called until now is returned.
        self.previous_handler = signal.signal(signal.SIGINT, self.on_ctrl_c)

    def on_ctrl_c(self, signal_number, stack_frame):
        self.pressed = True
        signal.signal(signal.SIGINT, self.previous_handler)  # A second press ends main.

    def on_train_batch_end(self, batch, logs=None):
        if self.pressed:
            self.model.stop_training = True

    def on_epoch_end(self, epoch, logs=None):
        self.on_train_batch_end(epoch)  # Ctrl-C may come during the validation, too.

    def on_train_end(self, logs=None):
        signal.signal(signal.SIGINT, self.previous_handler)
        if self.pressed:
            print("The training was stopped by Ctrl-C.")


def log(results):
    """Add results and constants to LOG_PATH, as a line of JSON; print what changed."""
    run = {"time": time.strftime("%Y-%m-%d %H:%M:%S")}
    run.update(keras=keras.__version__, backend=keras.config.backend())
    # globals() holds all names of this file; those in capitals are the constants.
    run.update({name: value for name, value in globals().items() if name.isupper()})
    line = json.dumps(run | results, default=str)  # A Path, for example, becomes text.
    path = folder / LOG_PATH
    earlier = path.read_text("utf-8") if path.exists() else ""
    if earlier and not earlier.endswith("\n"):  # The last line was cut off.
        line = "\n" + line
    with open(path, "a", encoding="utf-8") as file:
        file.write(line + "\n")
    # Without an earlier line, or with a damaged one, nothing is compared. The new line
    # is read back, too, since JSON turns tuples into lists.
    with contextlib.suppress(LookupError, TypeError, ValueError):
        old, new = json.loads(earlier.splitlines()[-1]), json.loads(line)
        print(f"Since the run of {old['time']}:")
        for name in old | new:
            if name not in ("time", "seconds") and new.get(name) != old.get(name):
                print(f"  {name} {old.get(name)} -> {new.get(name)}")


def draw(history, images, labels, probabilities):
    """Draw the loss curves, the confusion matrix and the mistakes into PLOT_PATH.

    Takes the test set's images, (N, height, width), labels, (N,), and the model's
    probabilities, (N, 10).
    """
    predictions, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    fig = Figure(figsize=(9.5, 3.5), dpi=160, layout="constrained")
    left, middle, right = fig.subfigures(1, 3)
    curves = left.subplots()
    for name, legend in (("loss", "training"), ("val_loss", "validation")):
        if name in history:
            epochs = range(1, len(history[name]) + 1)
            curves.plot(epochs, history[name], ".-", label=legend)
    curves.set(title="Loss curves", xlabel="epoch", ylabel="loss")
    curves.set_yscale("log", subs=(2, 3, 5))  # ticks at 0.2, 0.3, 0.5, 1, 2, and so on
    # "{x:g}" writes 0.02 instead of a power of ten.
    curves.yaxis.set(major_formatter="{x:g}", minor_formatter="{x:g}")
    curves.locator_params(axis="x", integer=True)
    curves.grid(which="both", alpha=0.3)
    curves.legend()

    matrix = middle.subplots()
    counts = np.zeros((10, 10), int)
    for label, prediction in zip(labels, predictions):
        counts[label, prediction] += 1
    mistakes = np.where(np.eye(10), 0, counts)  # 0 on the diagonal
    # vmax is the value of the darkest colour. At twice the maximum, all stay pale.
    matrix.imshow(mistakes, cmap="Oranges", vmax=2 * mistakes.max())
    for (row, column), count in np.ndenumerate(counts):
        matrix.text(column, row, count or "", ha="center", va="center", fontsize=8)
    matrix.set(title="Confusion matrix", xlabel="predicted digit", ylabel="true digit")
    matrix.set(xticks=range(10), yticks=range(10))

    right.suptitle("Most confident mistakes")
    misread = np.flatnonzero(predictions != labels)  # the indices of these images
    misread = sorted(misread, key=lambda i: confidence[i], reverse=True)
    places = right.subplots(3, 4).ravel()
    for place in places:
        place.axis("off")
    for place, i in zip(places, misread):  # zip ends with the shorter of the two.
        place.imshow(images[i], cmap="gray_r")
        title = f"{labels[i]} read as {predictions[i]}\n{confidence[i]:.1%}"
        place.set_title(title, fontsize=8)
    fig.savefig(folder / PLOT_PATH)
    print(f"Wrote {PLOT_PATH}")


def check_constants():
    """Raise AssertionError for wrong constants that Keras would accept."""
    assert isinstance(HIDDEN_UNITS, tuple | list), f"{HIDDEN_UNITS = }: write (300,)"
    assert isinstance(BATCH_SIZE, int) and BATCH_SIZE > 0, f"{BATCH_SIZE = }"
    assert isinstance(EPOCHS, int) and EPOCHS > 0, f"{EPOCHS = }"
    assert isinstance(SHIFT, int) and SHIFT >= 0, f"{SHIFT = }"
    assert 0 <= VALIDATION_SPLIT < 1, f"{VALIDATION_SPLIT = }"
    assert 0 <= DROPOUT < 1, f"{DROPOUT = }"
    assert LEARNING_RATE > 0, f"{LEARNING_RATE = }"
    assert DECAY >= 0, f"{DECAY = }"
    assert WEIGHT_DECAY >= 0, f"{WEIGHT_DECAY = }"
    assert not MODEL_PATH or str(MODEL_PATH).endswith(".keras"), f"{MODEL_PATH = }"
    for path in MODEL_PATH, PLOT_PATH, LOG_PATH:
        writable = not path or os.access((folder / path).parent, os.W_OK)
        assert writable, f"{path = }: its folder is missing or read-only"


if __name__ == "__main__":
    main()
