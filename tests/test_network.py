"""The network and its training: what is built, what it is fed, how it is trained."""

import json
import re
import signal
import sys
import threading
from unittest.mock import Mock

import keras
import numpy as np
import pytest
from helpers import FILES, README, edited, load

import train_mnist


@pytest.fixture
def rows(small):
    return train_mnist.preprocess(small["x_train"], small["y_train"])


@pytest.fixture
def build(rows):
    """Builds the model for the small data set, by the constants of the moment."""
    return lambda: train_mnist.build_model(rows[0], (28, 28))


@pytest.mark.parametrize(("fraction", "count"), [(0.3, 2100), (0, 3000), (0.9996, 1)])
def test_preprocess_and_split(fraction, count, rows, small, constants):
    """The training set comes first, the validation set is the rest; none is empty."""
    x, y = rows
    assert (x.shape, x.dtype) == ((3000, 784), "uint8")
    assert y.dtype == "float32"
    assert (y == np.eye(10)[small["y_train"]]).all()
    constants(VALIDATION_SPLIT=fraction)
    x_train, y_train, x_val, y_val = train_mnist.split(x, y)
    assert len(x_train) == count
    assert (np.concatenate([x_train, x_val]) == x).all()
    assert (np.concatenate([y_train, y_val]) == y).all()


def test_split_that_leaves_nothing_of_a_set_or_digit(rows, constants, capsys):
    """A line says which digits are in no training image; 5 and 6 are in none at all."""
    x, y = rows
    train_mnist.split(x, y)
    order = np.argsort(y.argmax(axis=1))
    order = order[y[order][:, [5, 6]].sum(axis=1) == 0]
    train_mnist.split(x[order], y[order])
    (line,) = capsys.readouterr().out.splitlines()
    assert "leaves no image of [8, 9] to train on" in line
    for fraction in 0.9999, 1e-18:
        constants(VALIDATION_SPLIT=fraction)
        with pytest.raises(SystemExit, match=f"^VALIDATION_SPLIT = {fraction}: must"):
            train_mnist.split(x, y)


def test_layers(build, constants):
    constants(HIDDEN_UNITS=[80, 40], ACTIVATION="gelu", DROPOUT=0.25)
    model = build()
    normalization, first, dropout, second, dropout_2, last = model.layers
    assert type(normalization) is keras.layers.Normalization
    assert [layer.units for layer in (first, second, last)] == [80, 40, 10]
    functions = [layer.activation.__name__ for layer in (first, second, last)]
    assert functions == ["gelu", "gelu", "softmax"]
    assert (dropout.rate, dropout_2.rate) == (0.25, 0.25)
    assert model.loss == "categorical_crossentropy"
    assert (model.input_shape, model.inputs[0].dtype) == ((None, 784), "float32")


@pytest.mark.parametrize(
    ("rate", "decay", "linear", "nesterov"),
    [(0.01, 1e-6, False, True), (1, 0.5, False, False), (1, 1, True, True)],
)
def test_optimizer(rate, decay, linear, nesterov, build, constants):
    """Integers are as good as floats; linear: 0 after 2 epochs of 11 steps."""
    constants(LEARNING_RATE=rate, DECAY=decay, LINEAR_DECAY=linear, MOMENTUM=0.25)
    constants(WEIGHT_DECAY=rate, BATCH_SIZE=287, EPOCHS=2, NESTEROV=nesterov)
    optimizer = build().optimizer
    assert isinstance(optimizer, keras.optimizers.SGD)
    assert (optimizer.momentum, optimizer.nesterov) == (0.25, nesterov)
    assert optimizer.weight_decay == rate
    for step in 0, 1, 11, 22:
        optimizer.iterations.assign(step)
        expected = rate * (1 - step / 22) if linear else rate / (1 + decay * step)
        now = float(optimizer.learning_rate)
        assert now == pytest.approx(expected, rel=1e-6, abs=1e-8)
    constants(WEIGHT_DECAY=0)
    assert build().optimizer.weight_decay is None


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_pixels_are_standardized_in_the_model(dtype, rows, constants):
    x = rows[0].astype(dtype)
    scaled = np.array(train_mnist.build_model(x, (28, 28)).layers[0](x))
    assert (scaled.mean(), scaled.std()) == pytest.approx((0, 1), abs=1e-4)
    assert scaled[0, 0] == pytest.approx(-x.mean() / x.std(), rel=1e-4)
    blank = np.full((50, 9), 7.1, dtype)
    model = train_mnist.build_model(blank, (3, 3))
    assert np.isfinite(model.predict_on_batch(blank)).all()
    constants(STANDARDIZE=False)
    model = train_mnist.build_model(x, (28, 28))
    assert type(model.layers[0]).__name__ == "Dense"
    assert model.inputs[0].dtype == "float32"  # does not cut 200.7 to 200


def test_shift_moves_the_training_images_only(constants):
    """By up to a quarter of 8 rows and 12 columns, each image by its own distance."""
    constants(SHIFT=0.25, STANDARDIZE=False)
    x = np.zeros((200, 8 * 12), "uint8")
    x[:, 4 * 12 + 6] = 200
    reshape, shift, flatten, *_ = train_mnist.build_model(x, (8, 12)).layers
    assert (np.array(flatten(shift(reshape(x), training=False))) == x).all()
    moved = np.array(shift(reshape(x), training=True))[..., 0]
    total = moved.sum(axis=(1, 2))
    row, column = ((moved * i).sum(axis=(1, 2)) / total for i in np.indices((8, 12)))
    assert (row.min(), row.max()) == pytest.approx((2, 6), abs=0.2)
    assert (column.min(), column.max()) == pytest.approx((3, 9), abs=0.3)
    assert len(set(row.round(3))) > 150


@pytest.mark.parametrize(("size", "batch_size"), [(470, 173), (10, 5), (7, 10**6)])
def test_every_image_is_seen_once_an_epoch(size, batch_size, constants):
    """In another order each epoch, and in the file's for the validation."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("Keras shuffles arrays itself")
    model = Mock()
    constants(BATCH_SIZE=batch_size)
    keras.utils.set_random_seed(0)
    x = np.arange(size)[:, None]
    train_mnist.train(model, x, x * 2, x, x * 2)
    given = model.fit.call_args.kwargs
    for data, count in (given["x"], 3), (given["validation_data"], 1):
        assert len(data) == -(-size // batch_size)
        orders = set()
        for _ in range(3):
            batches = zip(*data.as_numpy_iterator(), strict=True)
            seen, targets = map(np.concatenate, batches)
            assert sorted(seen.ravel()) == [*range(size)]
            assert (targets == seen * 2).all()
            orders.add(tuple(seen.ravel()))
        assert len(orders) == count
    assert orders == {tuple(range(size))}


def test_train_and_evaluate(quick, rows, build):
    """On all images, in 22 steps an epoch, of which ten are run at a time."""
    quick(BATCH_SIZE=97, EPOCHS=2)
    model, parts = build(), train_mnist.split(*rows)
    history, _, stopped_by = train_mnist.train(model, *parts)
    assert int(model.optimizer.iterations) == 2 * 22
    assert history.keys() == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert stopped_by is None
    loss, accuracy, probabilities = train_mnist.evaluate(model, *parts[2:])
    assert loss == pytest.approx(history["val_loss"][1], rel=1e-4)
    assert accuracy == pytest.approx(history["val_accuracy"][1])
    assert probabilities.shape == (900, 10)
    assert probabilities.sum(axis=1) == pytest.approx(1)


EDITS = re.findall(r"^\| .* \| `(.*?)` \| `(.*?)` \|$", README, re.MULTILINE)
METRIC = '"accuracy"]', '"accuracy", keras.metrics.TopKCategoricalAccuracy(3)]'
L2 = "activation=ACTIVATION)", 'activation=ACTIVATION, kernel_regularizer="l2")'
CONVOLUTION = (
    "    for units in HIDDEN_UNITS:",
    """    model.add(keras.layers.Reshape((*image_shape, 1)))
    model.add(keras.layers.Conv2D(8, 3, strides=2, activation=ACTIVATION))
    model.add(keras.layers.Flatten())
    for units in HIDDEN_UNITS:""",
)


@pytest.mark.parametrize("edit", [*EDITS, METRIC, L2, CONVOLUTION])
def test_edits_that_users_make_first(edit, small_file, tmp_path):
    assert len(EDITS) == 4
    data = {"DATA_PATH": str(small_file), "HIDDEN_UNITS": (50,), "EPOCHS": 3}
    data["DECAY"] = 0 if "ReduceLR" in edit[1] else 1e-6
    _, accuracy = load(edited(tmp_path, edit, **data)).main()
    assert accuracy > 0.6
    assert all((tmp_path / name).exists() for name in FILES)


@pytest.mark.parametrize("break_off", [False, True])
def test_what_is_logged_is_the_saved_model_s(break_off, rows, small_file, tmp_path):
    """Best weights are restored, after worse epochs or after one that diverged."""
    stop = "keras.callbacks.EarlyStopping(patience=2, restore_best_weights=True)"
    if break_off:
        change = "lambda epoch, rate: 1e30 if epoch > 1 else 0.1"
        stop += f", keras.callbacks.LearningRateScheduler({change})"
    edit = "callbacks=[stop_on_signal,", f"callbacks=[stop_on_signal, {stop},"
    data = {"DATA_PATH": str(small_file), "HIDDEN_UNITS": (50,), "LEARNING_RATE": 0.1}
    data |= {"ACTIVATION": "relu", "EPOCHS": 25, "DROPOUT": 0, "DECAY": 0}
    load(edited(tmp_path, edit, **data)).main()
    run = json.loads((tmp_path / FILES[0]).read_text())
    model = keras.models.load_model(tmp_path / FILES[1])
    saved = model.evaluate(*train_mnist.split(*rows)[2:], verbose=0)
    assert [run["val_loss"], run["val_accuracy"]] == pytest.approx(saved, rel=1e-4)
    assert run["val_accuracy"] > 0.8
    assert run["epochs"] < 25


@pytest.mark.parametrize("place", ["on_train_batch_begin", "on_test_begin"])
def test_ctrl_c_ends_the_training_early(place, quick, rows, build, monkeypatch, capsys):
    """After the step; during the validation, after that. A second one ends at once."""
    quick(EPOCHS=50, BATCH_SIZE=20)
    presses, handler = [signal.SIGINT], signal.getsignal(signal.SIGINT)

    def press(*args, **kwargs):
        while presses:
            signal.raise_signal(presses.pop())

    monkeypatch.setattr(train_mnist.StopOnSignal, place, press)
    history, _, number = train_mnist.train(build(), *train_mnist.split(*rows))
    assert number == signal.SIGINT
    assert len(history["val_loss"]) == 1
    out = capsys.readouterr().out
    assert out.count("Stopping after this step; Ctrl-C again ends at once.") == 1
    assert "Interrupted in epoch 1 of 50." in out
    presses += [signal.SIGINT] * 2
    with pytest.raises(KeyboardInterrupt):
        train_mnist.train(build(), *train_mnist.split(*rows))
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize(("notebook", "verbose"), [(False, 2), (True, 1)])
def test_progress_bar(notebook, verbose, build, rows, monkeypatch):
    """None in a window that only calls itself a terminal, as IDLE's. Here, fit fails."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    if notebook:
        monkeypatch.setitem(sys.modules, "ipykernel", sys)
    handler, fit = signal.getsignal(signal.SIGINT), Mock(side_effect=TypeError)
    monkeypatch.setattr(keras.Sequential, "fit", fit)
    with pytest.raises(TypeError):
        train_mnist.train(build(), *train_mnist.split(*rows))
    assert fit.call_args.kwargs["verbose"] == verbose
    assert signal.getsignal(signal.SIGINT) is handler


def test_trains_in_a_thread(quick, capsys):
    """Where Python lets nobody handle Ctrl-C, the training runs all the same."""
    thread = threading.Thread(target=train_mnist.main)
    thread.start()
    thread.join()
    assert "The accuracy of the model is" in capsys.readouterr().out
