"""The network and its training: what is built, what it is fed, how it is trained."""

import re
import signal
import sys
import threading
import types

import keras
import numpy as np
import pytest
from helpers import ROOT, edited, load, press_ctrl_c

import train_mnist


@pytest.fixture
def parts(small):
    """Training and validation part, as main splits them."""
    rows = train_mnist.preprocess(small["x_train"], small["y_train"])
    return train_mnist.split(*rows)


@pytest.fixture
def build(parts):
    """Builds the model for the small data set, by the constants of the moment."""
    return lambda: train_mnist.build_model(parts[0], (28, 28))


def test_preprocess(small):
    images, labels = small["x_train"], small["y_train"]
    x, y = train_mnist.preprocess(images, labels)
    assert (x.shape, x.dtype) == ((3000, 784), "uint8")
    assert np.shares_memory(x, images)
    assert (x.reshape(images.shape) == images).all()
    assert (y.shape, y.dtype) == ((3000, 10), "float32")
    assert (y == np.eye(10)[labels]).all()


@pytest.mark.parametrize(("fraction", "count"), [(0.3, 2100), (0, 3000), (0.9996, 1)])
def test_split(fraction, count, small, constants):
    """The training part comes first, the validation part is the rest."""
    constants(VALIDATION_SPLIT=fraction)
    rows = train_mnist.preprocess(small["x_train"], small["y_train"])
    x_train, y_train, x_val, y_val = train_mnist.split(*rows)
    assert (len(x_train), len(x_val)) == (count, 3000 - count)
    for whole, pieces in zip(rows, ((x_train, x_val), (y_train, y_val)), strict=True):
        assert (np.concatenate(pieces) == whole).all()


@pytest.mark.parametrize(("fraction", "found"), [(0.9999, "0 and"), (1e-18, "and 0")])
def test_split_that_leaves_nothing(fraction, found, small, constants):
    constants(VALIDATION_SPLIT=fraction)
    rows = train_mnist.preprocess(small["x_train"], small["y_train"])
    with pytest.raises(SystemExit, match=f"^VALIDATION_SPLIT = {fraction}.*{found}"):
        train_mnist.split(*rows)


def test_split_of_sorted_images(small, capsys, constants):
    """A line says which digits are in no training image; 5 and 6 are in none at all."""
    labels = np.sort(small["y_train"])
    kept = (labels != 5) & (labels != 6)
    rows = train_mnist.preprocess(small["x_train"][kept], labels[kept])
    train_mnist.split(*rows)
    (line,) = capsys.readouterr().out.splitlines()
    assert "VALIDATION_SPLIT = 0.3" in line
    assert "[8, 9]" in line
    assert "shuffle mnist.npz" in line
    constants(VALIDATION_SPLIT=0)
    train_mnist.split(*rows)
    assert capsys.readouterr().out == ""


def test_layers(build):
    model = build()
    kinds = ["Normalization", "Dense", "Dropout", "Dense", "Dropout", "Dense"]
    assert [type(layer).__name__ for layer in model.layers] == kinds
    _, first, drop_1, second, drop_2, last = model.layers
    assert [layer.units for layer in (first, second, last)] == [500, 500, 10]
    assert [x.activation.__name__ for x in (first, second)] == ["tanh", "tanh"]
    assert last.activation.__name__ == "softmax"
    assert (drop_1.rate, drop_2.rate) == (0.5, 0.5)
    assert sum(np.prod(w.shape) for w in model.trainable_weights) == 648_010
    assert model.loss == "categorical_crossentropy"
    assert model.input_shape == (None, 784)
    assert model.inputs[0].dtype == "uint8"
    assert model.output_shape == (None, 10)


@pytest.mark.parametrize("units", [(), (300,), [800, 400, 200]])
def test_hidden_units(units, build, constants):
    constants(HIDDEN_UNITS=units)
    dense = [x.units for x in build().layers if isinstance(x, keras.layers.Dense)]
    assert dense == [*units, 10]


def test_optimizer(build, constants):
    optimizer = build().optimizer
    assert isinstance(optimizer, keras.optimizers.SGD)
    assert (optimizer.momentum, optimizer.nesterov) == (0.9, True)
    for step, rate in (0, 0.01), (1, 0.01 / 1.000001), (10**6, 0.005):
        optimizer.iterations.assign(step)
        assert float(optimizer.learning_rate) == pytest.approx(rate, rel=1e-6)
    constants(NESTEROV=False)
    assert build().optimizer.nesterov is False


def test_integers_for_the_optimizer_are_as_good_as_floats(build, constants):
    """An integer rate would have Keras round the decay to an integer, too."""
    constants(LEARNING_RATE=1, MOMENTUM=0)
    optimizer = build().optimizer
    optimizer.iterations.assign(10**6)
    assert float(optimizer.learning_rate) == pytest.approx(0.5)
    constants(DECAY=1)
    optimizer = build().optimizer
    optimizer.iterations.assign(4)
    assert float(optimizer.learning_rate) == pytest.approx(0.2)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_pixels_are_standardized_in_the_model(dtype, small, constants):
    images = small["x_train"].reshape(-1, 784).astype(dtype)
    layer = train_mnist.build_model(images, (28, 28)).layers[0]
    scaled = keras.ops.convert_to_numpy(layer(images))
    assert scaled.dtype == "float32"
    assert scaled.mean() == pytest.approx(0, abs=1e-4)
    assert scaled.std() == pytest.approx(1, abs=1e-4)
    assert scaled[0, 0] == pytest.approx(-images.mean() / images.std(), rel=1e-4)
    constants(STANDARDIZE=False)
    model = train_mnist.build_model(images, (28, 28))
    assert type(model.layers[0]).__name__ == "Dense"
    assert model.inputs[0].dtype == dtype


@pytest.mark.parametrize("value", [0, 7.1, -1e9, 9e18])
def test_images_that_are_all_one_value(value):
    images = np.full((50, 9), value, "float32")
    model = train_mnist.build_model(images, (3, 3))
    assert np.isfinite(model.predict_on_batch(images)).all()


def test_shift_moves_the_training_images_only(constants):
    """By up to a quarter of 8 rows and 12 columns, each image by its own distance."""
    constants(SHIFT=0.25, STANDARDIZE=False)
    images = np.zeros((200, 8, 12), "uint8")
    images[:, 4, 6] = 200
    x = images.reshape(200, -1)
    reshape, translation, flatten, *_ = train_mnist.build_model(x, (8, 12)).layers
    assert (np.array(flatten(reshape(x))) == x).all()
    for training in True, False:
        moved = np.array(translation(reshape(x), training=training))[..., 0]
        total = moved.sum(axis=(1, 2))
        rows, columns = (
            (moved * i).sum(axis=(1, 2)) / total - place
            for i, place in zip(np.indices((8, 12)), (4, 6), strict=True)
        )
        assert total == pytest.approx(200, rel=1e-3)
        assert abs(rows).max() <= 2.01
        assert abs(columns).max() <= 3.01
        if training:
            assert len(set(rows.round(3))) > 150
            assert (abs(rows).max(), abs(columns).max()) > (1.8, 2.7)
        else:
            assert (moved == images).all()


def test_trained_with_shift(quick, small, tmp_path):
    """On images of 14 x 10: the saved model takes raw pixels, and says the same twice."""
    arrays = {k: v[:, ::2, ::3] if k[0] == "x" else v for k, v in small.items()}
    np.savez(tmp_path / "other.npz", **arrays)
    quick(SHIFT=0.1, MODEL_PATH=tmp_path / "model.keras", EPOCHS=3, LEARNING_RATE=0.05)
    quick(DATA_PATH=tmp_path / "other.npz")
    _, accuracy = train_mnist.main()
    model = keras.models.load_model(tmp_path / "model.keras")
    x = arrays["x_test"].reshape(500, -1)
    probabilities = model.predict(x, verbose=0)
    assert (probabilities == model.predict(x, verbose=0)).all()
    right = (probabilities.argmax(axis=1) == arrays["y_test"]).mean()
    assert right == pytest.approx(accuracy)
    assert right > 0.6


@pytest.mark.parametrize(
    ("size", "batch_size"), [(470, 173), (10, 5), (11, 5), (7, 10**6)]
)
def test_every_image_is_seen_once_an_epoch(size, batch_size, constants):
    """In another order each epoch, and in the file's for the validation."""
    pytest.importorskip("tensorflow")
    constants(BATCH_SIZE=batch_size)
    x = np.arange(size)[:, None]
    keras.utils.set_random_seed(0)
    for shuffle in True, False:
        data = train_mnist.to_dataset(x, x * 2, shuffle=shuffle)
        orders = []
        for _ in range(3):
            batches = list(data.as_numpy_iterator())
            assert len(batches) == len(data) == -(-size // batch_size)
            seen, targets = map(np.concatenate, zip(*batches, strict=True))
            assert (targets == seen * 2).all()
            orders.append(tuple(seen.ravel()))
        assert {tuple(sorted(order)) for order in orders} == {tuple(range(size))}
        assert len(set(orders)) == (3 if shuffle else 1)


def test_train(quick, parts, build, capsys):
    """On all images, in 22 steps an epoch, of which ten are run at a time."""
    quick(BATCH_SIZE=97, EPOCHS=2)
    model = build()
    history, seconds, interrupted = train_mnist.train(model, *parts)
    assert int(model.optimizer.iterations) == 2 * 22
    assert history.keys() == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert all(len(values) == 2 for values in history.values())
    assert f"The training took {seconds:.1f} s." in capsys.readouterr().out
    assert not interrupted
    loss, accuracy, probabilities = train_mnist.evaluate(model, *parts[2:])
    assert loss == pytest.approx(history["val_loss"][-1], rel=1e-4)
    assert accuracy == pytest.approx(history["val_accuracy"][-1])
    assert probabilities.shape == (900, 10)


README = (ROOT / "README.md").read_text(encoding="utf-8")
EDITS = re.findall(r"^\| .* \| `(.*?)` \| `(.*?)` \|$", README, re.MULTILINE)
METRIC = '"accuracy"]', '"accuracy", keras.metrics.TopKCategoricalAccuracy(3)]'
NO_METRIC = ', metrics=["accuracy"]', ""
UNITS = "    for units in HIDDEN_UNITS:\n"
CONV = f"""    model.add(keras.layers.Reshape((28, 28, 1)))
    model.add(keras.layers.Conv2D(4, 3))
    model.add(keras.layers.Flatten())
{UNITS}"""


@pytest.mark.parametrize("edit", [*EDITS, METRIC, NO_METRIC, (UNITS, CONV)])
def test_edits_that_users_make_first(edit, small_file, tmp_path):
    data = {"DATA_PATH": str(small_file), "HIDDEN_UNITS": (50,), "EPOCHS": 3}
    _, accuracy = load(edited(tmp_path, edit, **data)).main()
    assert accuracy > 0.6
    for name in "mnist_mlp.keras", "mnist_mlp.png", "mnist_mlp.jsonl":
        assert (tmp_path / name).exists()


@pytest.mark.parametrize(
    ("terminal", "notebook", "verbose"), [(0, 0, 2), (1, 0, 1), (0, 1, 1)]
)
def test_progress_bar(terminal, notebook, verbose, quick, parts, build, monkeypatch):
    """On a terminal and in a notebook."""
    asked = {}
    monkeypatch.setattr(sys.stdout, "isatty", lambda: bool(terminal))
    if notebook:
        monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    fit = keras.Sequential.fit

    def noted_fit(*args, **options):
        asked.update(options)
        return fit(*args, **{**options, "verbose": 0})

    monkeypatch.setattr(keras.Sequential, "fit", noted_fit)
    train_mnist.train(build(), *parts)
    assert asked["verbose"] == verbose


class PressCtrlC(keras.callbacks.Callback):
    """Sends Ctrl-C at a place in the third epoch, as many times as told."""

    def __init__(self, place, times):
        super().__init__()
        setattr(self, place, self.press)
        self.times, self.epoch = times, 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def press(self, *args, **kwargs):
        while self.epoch == 2 and self.times:
            self.times -= 1
            press_ctrl_c()


@pytest.fixture
def pressing(quick, parts, build, monkeypatch):
    """Trains for up to 50 epochs, with Ctrl-C pressed; returns what train does."""
    fit = keras.Sequential.fit

    def pressing(place, times=1, epochs=50):
        def fit_pressed(*args, callbacks, **options):
            callbacks = [*callbacks, PressCtrlC(place, times)]
            return fit(*args, callbacks=callbacks, **options)

        monkeypatch.setattr(keras.Sequential, "fit", fit_pressed)
        quick(EPOCHS=epochs, BATCH_SIZE=20)
        return train_mnist.train(build(), *parts)

    return pressing


@pytest.mark.parametrize("place", ["on_train_batch_begin", "on_test_begin"])
def test_ctrl_c_ends_the_training_early(place, pressing, capsys):
    """After the step; during the validation, after that."""
    before = signal.getsignal(signal.SIGINT)
    history, _, interrupted = pressing(place)
    assert interrupted
    assert len(history["val_loss"]) == 3
    out = capsys.readouterr().out
    assert out.count("Stopping after this step; Ctrl-C again ends at once.") == 1
    assert "Interrupted in epoch 3 of 50." in out
    assert signal.getsignal(signal.SIGINT) is before


def test_second_ctrl_c_acts_as_usual(pressing):
    """A KeyboardInterrupt, which the kernel of a notebook survives."""
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        pressing("on_train_batch_begin", times=2)
    assert signal.getsignal(signal.SIGINT) is before


def test_handler_is_given_back_if_fit_fails(quick, parts, build):
    before = signal.getsignal(signal.SIGINT)
    x_train, y_train, x_val, y_val = parts
    with pytest.raises(ValueError):
        train_mnist.train(build(), x_train, y_train[:, :4], x_val, y_val)
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_that_is_ignored_stays_ignored(pressing):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        _, _, interrupted = pressing("on_train_batch_begin", 3, epochs=4)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert not interrupted


def test_trains_in_a_thread(quick, capsys):
    """Where Python lets nobody handle Ctrl-C, the training runs all the same."""
    thread = threading.Thread(target=train_mnist.main)
    thread.start()
    thread.join()
    assert "The accuracy of the model is" in capsys.readouterr().out


def test_evaluate():
    """The mean loss, the fraction of right digits, and the probabilities as they are."""
    model = keras.Sequential([keras.Input((10,)), keras.layers.Softmax()])
    model.compile(loss="categorical_crossentropy", metrics=["mse", "accuracy"])
    x = np.log(np.array([[0.91] + [0.01] * 9, [0.11, 0.01] + [0.11] * 8], "float32"))
    loss, accuracy, probabilities = train_mnist.evaluate(model, x, np.eye(10)[:2])
    assert loss == pytest.approx(-np.log([0.91, 0.01]).mean(), rel=1e-4)
    assert (type(loss), type(accuracy), accuracy) == (float, float, 0.5)
    assert probabilities == pytest.approx(np.exp(x), rel=1e-4)
