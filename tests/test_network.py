"""The network and its training: what is built, what it is fed, how it is trained."""

import json
import re
import signal
import sys
from unittest.mock import Mock

import keras
import numpy as np
import pytest
from helpers import FILES, README, load

import train_mnist


@pytest.fixture
def parts(small):
    """Training and validation set, as train takes them."""
    x, y = small["x_train"], np.eye(10, dtype="float32")[small["y_train"]]
    return x[:2100], y[:2100], x[2100:], y[2100:]


def test_validation_set_is_the_end(small, quick, monkeypatch):
    train = Mock(side_effect=StopIteration)
    monkeypatch.setattr(train_mnist, "train", train)
    quick(VALIDATION_SPLIT=0.2)
    with pytest.raises(StopIteration):
        train_mnist.main()
    _, x_train, y_train, x_val, y_val = train.call_args.args
    assert len(x_train) == len(y_train) == 2400
    assert (np.concatenate([x_train, x_val]) == small["x_train"]).all()
    one_hot = np.arange(10) == small["y_train"][:, None]
    assert (np.concatenate([y_train, y_val]) == one_hot).all()


def test_layers(small, constants):
    constants(HIDDEN_UNITS=[80, 40], ACTIVATION="gelu", DROPOUT=0.25)
    model = train_mnist.build_model(small["x_train"])
    kinds = ["Rescaling", "Flatten", *["Dense", "Dropout"] * 2, "Dense"]
    assert [type(layer).__name__ for layer in model.layers] == kinds
    dense = [(layer.units, layer.activation.__name__) for layer in model.layers[2::2]]
    assert dense == [(80, "gelu"), (40, "gelu"), (10, "softmax")]
    assert [layer.rate for layer in model.layers[3::2]] == [0.25, 0.25]
    assert model.loss == "categorical_crossentropy"
    on_torch = keras.config.backend() == "torch"
    assert model.steps_per_execution == (1 if on_torch else 10)


@pytest.mark.parametrize(
    ("rate", "decay", "linear", "nesterov"),
    [(0.01, 1e-6, False, True), (1, 0.5, False, False), (1, 1, True, True)],
)
def test_optimizer(rate, decay, linear, nesterov, small, constants):
    """Integers are as good as floats; linear: 0 after 2 epochs of 11 steps."""
    constants(LEARNING_RATE=rate, DECAY=decay, LINEAR_DECAY=linear, MOMENTUM=0.25)
    constants(WEIGHT_DECAY=rate, BATCH_SIZE=287, EPOCHS=2, NESTEROV=nesterov)
    optimizer = train_mnist.build_model(small["x_train"]).optimizer
    assert isinstance(optimizer, keras.optimizers.SGD)
    assert (optimizer.momentum, optimizer.nesterov) == (0.25, nesterov)
    assert optimizer.weight_decay == rate
    for step in 0, 1, 11, 22:
        optimizer.iterations.assign(step)
        expected = rate * (1 - step / 22) if linear else rate / (1 + decay * step)
        now = float(optimizer.learning_rate)
        assert now == pytest.approx(expected, rel=1e-6, abs=1e-8)
    constants(WEIGHT_DECAY=0, LINEAR_DECAY=False, DECAY=0)
    optimizer = train_mnist.build_model(small["x_train"]).optimizer
    assert optimizer.weight_decay is None
    optimizer.learning_rate = 0.125  # as a callback may, if there is no schedule


def test_pixels_are_standardized_in_the_model(small, constants):
    x = small["x_train"]
    scaled = np.array(train_mnist.build_model(x).layers[0](x))
    assert (scaled.mean(), scaled.std()) == pytest.approx((0, 1), abs=1e-4)
    assert scaled[0, 0, 0] == pytest.approx(-x.mean() / x.std(), rel=1e-4)
    constants(STANDARDIZE=False)
    assert type(train_mnist.build_model(x).layers[0]) is keras.layers.Flatten


def given_to_fit(*arrays):
    """What train hands to fit."""
    model = Mock()
    keras.utils.set_random_seed(train_mnist.SEED)
    train_mnist.train(model, *arrays)
    (data,) = model.fit.call_args.args
    return data, model.fit.call_args.kwargs


@pytest.mark.parametrize(("size", "batch_size"), [(470, 173), (7, 10**6)])
def test_every_image_is_seen_once_an_epoch(size, batch_size, constants):
    """In another order each epoch, and in the file's for the validation."""
    constants(BATCH_SIZE=batch_size)
    x = np.arange(size)[:, None]
    training, given = given_to_fit(x, x * 2, x, x * 2)
    for data, count in (training, 3), (given["validation_data"], 1):
        assert len(data) == -(-size // batch_size)
        orders = set()
        for _ in range(3):
            seen, targets = map(np.concatenate, zip(*data.as_numpy_iterator()))
            assert (targets == seen * 2).all()
            orders.add(tuple(seen.ravel()))
        assert len(orders) == count
        assert {tuple(sorted(order)) for order in orders} == {tuple(range(size))}
    assert orders == {tuple(range(size))}
    assert data.options().autotune.enabled is False
    assert given_to_fit(x, x, x[:0], x[:0])[1]["validation_data"] is None


def places(data):
    """Where each image's one bright pixel is, [[row, column], ...]."""
    x, number = map(np.concatenate, zip(*data.as_numpy_iterator(), strict=True))
    assert (x.sum(axis=(1, 2)) == x.max(axis=(1, 2))).all() and x.max() == 200
    at = np.unravel_index(x.reshape(len(x), -1).argmax(axis=1), (8, 12))
    return np.transpose(at)[number.argsort()].tolist()


def test_shift_shifts_the_training_images_only(constants):
    """By up to two pixels each way, each image by its own; what comes in is black."""
    constants(SHIFT=2, BATCH_SIZE=70)
    x, numbers = np.zeros((200, 8, 12), "uint8"), np.arange(200)
    x[:, 4, 6] = 200
    training, given = given_to_fit(x, numbers, x, numbers)
    first, second = places(training), places(training)
    everywhere = {(row, column) for row in range(2, 7) for column in range(4, 9)}
    assert {*map(tuple, first + second)} == everywhere
    assert first != second  # anew in each epoch
    training_again, _ = given_to_fit(x, numbers, x, numbers)
    assert [places(training_again) for _ in range(2)] == [first, second]
    constants(SEED=1)
    assert places(given_to_fit(x, numbers, x, numbers)[0]) != first
    assert places(given["validation_data"]) == [[4, 6]] * 200


def test_saved_model_never_shifts_images(main, small, tmp_path):
    """Nor does what it is exported to, which has one input."""
    path = tmp_path / "a.keras"
    main(MODEL_PATH=path, SHIFT=3, DROPOUT=0, LEARNING_RATE=0.05, EPOCHS=2)
    model = keras.models.load_model(path)
    x = small["x_train"][:9].astype("float32")
    probabilities = model.predict(x, verbose=0)
    for name in "onnx", "onnxruntime", "tf2onnx":
        pytest.importorskip(name)
    import onnxruntime

    model.export(path.with_suffix(".onnx"), format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(path.with_suffix(".onnx"))
    (given,) = session.get_inputs()
    (exported,) = session.run(None, {given.name: x})
    assert exported == pytest.approx(probabilities, abs=1e-5)


def test_train(quick, parts, capsys):
    """On all images, in 22 steps an epoch; Ctrl-C is as before, afterwards."""
    quick(BATCH_SIZE=97, EPOCHS=2)
    model, before = train_mnist.build_model(parts[0]), signal.getsignal(signal.SIGINT)
    history = train_mnist.train(model, *parts)
    assert signal.getsignal(signal.SIGINT) is before
    assert "Ctrl-C" not in capsys.readouterr().out
    assert int(model.optimizer.iterations) == 2 * 22
    assert history.keys() == {"loss", "accuracy", "val_loss", "val_accuracy"}
    last = history["val_loss"][1], history["val_accuracy"][1]
    assert model.evaluate(*parts[2:], verbose=0) == pytest.approx(last, rel=1e-4)


EDITS = re.findall(r"^\| .* \| `(.*?)` \| `(.*?)` \|$", README, re.MULTILINE)
GO_ON = EDITS.pop()
PLATEAU = "callbacks=[", "callbacks=[keras.callbacks.ReduceLROnPlateau(patience=0), "
METRICS = '"accuracy"]', '"accuracy", keras.metrics.F1Score()]'
FLATTEN = "model.add(keras.layers.Flatten())"
CONVOLUTION = "model.add(keras.layers.Reshape((28, 28, 1))); "
CONVOLUTION += f"model.add(keras.layers.Conv2D(8, 3, strides=2)); {FLATTEN}"


@pytest.mark.parametrize("edit", [*EDITS, PLATEAU, METRICS, (FLATTEN, CONVOLUTION)])
def test_edits_that_users_make_first(edit, copy, tmp_path):
    """Each metric is in the log."""
    _, accuracy = load(copy(edit, EPOCHS=3, DECAY=0)).main()
    assert accuracy > 0.6 and (tmp_path / FILES[2]).exists()
    run = json.loads((tmp_path / FILES[0]).read_text())
    assert ("val_f1_score" in run) == ("test_f1_score" in run) == (edit == METRICS)


def test_constants_count_when_a_training_goes_on(copy):
    """Also after LINEAR_DECAY, with which the rate ended at 0."""
    before = load(copy(EPOCHS=2, LINEAR_DECAY=True)).main()
    still = load(copy(GO_ON, EPOCHS=1, LEARNING_RATE=1e-12)).main()
    assert still == pytest.approx(before, abs=1e-5)
    after = load(copy(GO_ON, EPOCHS=1, LEARNING_RATE=0.05)).main()
    assert after[0] < before[0] - 0.05


def test_what_is_logged_is_the_saved_model_s(parts, copy, tmp_path):
    """Best weights are restored, here after an epoch that diverged."""
    stop = "keras.callbacks.EarlyStopping(patience=2, restore_best_weights=True)"
    change = "lambda epoch, rate: 1e30 if epoch > 1 else 0.1"
    stop += f", keras.callbacks.LearningRateScheduler({change})"
    edit = "callbacks=[", f"callbacks=[{stop}, "
    constants = {"ACTIVATION": "relu", "EPOCHS": 25, "DROPOUT": 0, "DECAY": 0}
    load(copy(edit, LEARNING_RATE=0.1, **constants)).main()
    run = json.loads((tmp_path / FILES[0]).read_text())
    model = keras.models.load_model(tmp_path / FILES[1])
    saved = model.evaluate(*parts[2:], verbose=0)
    assert [run["val_loss"], run["val_accuracy"]] == pytest.approx(saved, rel=1e-4)
    assert saved[1] > 0.8 and run["epochs"] < 25


@pytest.mark.parametrize("place", ["on_train_batch_begin", "on_test_begin"])
def test_ctrl_c_ends_the_training_early(place, quick, parts, monkeypatch, capsys):
    """After the step; during the validation, after that. A second one ends at once."""
    quick(EPOCHS=50, BATCH_SIZE=20)
    presses, handler = [signal.SIGINT], Mock()
    before = signal.signal(signal.SIGINT, handler)

    def press(*args, **kwargs):
        while presses:
            signal.raise_signal(presses.pop())

    monkeypatch.setattr(train_mnist.StopOnCtrlC, place, press)
    model = train_mnist.build_model(parts[0])
    history = train_mnist.train(model, *parts)
    assert len(history["val_loss"]) == 1
    assert int(model.optimizer.iterations) < (21 if "batch" in place else 106)
    assert "stopped by Ctrl-C" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) is handler
    handler.side_effect = KeyboardInterrupt
    presses += [signal.SIGINT] * 2
    with pytest.raises(KeyboardInterrupt):
        train_mnist.train(model, *parts)
    assert signal.signal(signal.SIGINT, before) is handler


@pytest.mark.parametrize(("terminal", "verbose"), [(False, 2), (True, 1)])
def test_progress_bar(terminal, verbose, parts, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    assert given_to_fit(*parts)[1]["verbose"] == verbose
