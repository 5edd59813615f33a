"""The network and its training: what is built, what it is fed, how it is trained."""

import json
import re
import signal
import sys
from unittest.mock import Mock

import keras
import numpy as np
import pytest
from helpers import FILES, README, edited, load

import train_mnist

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"


@pytest.fixture
def rows(small):
    return train_mnist.preprocess(small["x_train"], small["y_train"])


@pytest.fixture
def parts(rows):
    """Training and validation set, and the images' size, as train takes them."""
    x, y = rows
    return x[:2100], y[:2100], x[2100:], y[2100:], (28, 28)


def test_preprocess(rows, small):
    x, y = rows
    assert (x.shape, x.dtype, y.dtype) == ((3000, 784), "uint8", "float32")
    assert (x[7] == small["x_train"][7].ravel()).all()
    assert (y == (np.arange(10) == small["y_train"][:, None])).all()


@pytest.mark.parametrize("fraction", [0.3, 0])
def test_validation_set_is_the_end(fraction, rows, quick, monkeypatch):
    train = Mock(side_effect=StopIteration)
    monkeypatch.setattr(train_mnist, "train", train)
    quick(VALIDATION_SPLIT=fraction)
    with pytest.raises(StopIteration):
        train_mnist.main()
    _, x_train, y_train, x_val, y_val, size = train.call_args.args
    assert (len(x_train), size) == (2100 if fraction else 3000, (28, 28))
    assert (np.concatenate([x_train, x_val]) == rows[0]).all()
    assert (np.concatenate([y_train, y_val]) == rows[1]).all()


def test_layers(rows, constants):
    constants(HIDDEN_UNITS=[80, 40], ACTIVATION="gelu", DROPOUT=0.25)
    model = train_mnist.build_model(rows[0])
    _, *dense = [layer for layer in model.layers if not hasattr(layer, "rate")]
    assert [layer.units for layer in dense] == [80, 40, 10]
    functions = [layer.activation.__name__ for layer in dense]
    assert functions == ["gelu", "gelu", "softmax"]
    assert [model.layers[i].rate for i in (2, 4)] == [0.25, 0.25]
    assert model.loss == "categorical_crossentropy"
    assert (model.input_shape, model.inputs[0].dtype) == ((None, 784), "float32")


@pytest.mark.parametrize(
    ("rate", "decay", "linear", "nesterov"),
    [(0.01, 1e-6, False, True), (1, 0.5, False, False), (1, 1, True, True)],
)
def test_optimizer(rate, decay, linear, nesterov, rows, constants):
    """Integers are as good as floats; linear: 0 after 2 epochs of 11 steps."""
    constants(LEARNING_RATE=rate, DECAY=decay, LINEAR_DECAY=linear, MOMENTUM=0.25)
    constants(WEIGHT_DECAY=rate, BATCH_SIZE=287, EPOCHS=2, NESTEROV=nesterov)
    optimizer = train_mnist.build_model(rows[0]).optimizer
    assert isinstance(optimizer, keras.optimizers.SGD)
    assert (optimizer.momentum, optimizer.nesterov) == (0.25, nesterov)
    assert optimizer.weight_decay == rate
    for step in 0, 1, 11, 22:
        optimizer.iterations.assign(step)
        expected = rate * (1 - step / 22) if linear else rate / (1 + decay * step)
        now = float(optimizer.learning_rate)
        assert now == pytest.approx(expected, rel=1e-6, abs=1e-8)
    constants(WEIGHT_DECAY=0)
    assert train_mnist.build_model(rows[0]).optimizer.weight_decay is None


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_pixels_are_standardized_in_the_model(dtype, rows, constants):
    x = rows[0].astype(dtype)
    scaled = np.array(train_mnist.build_model(x).layers[0](x))
    assert (scaled.mean(), scaled.std()) == pytest.approx((0, 1), abs=1e-4)
    assert scaled[0, 0] == pytest.approx(-x.mean() / x.std(), rel=1e-4)
    blank = np.full((50, 9), 7, dtype)
    assert np.isfinite(train_mnist.build_model(blank).predict_on_batch(blank)).all()
    constants(STANDARDIZE=False)
    assert type(train_mnist.build_model(x).layers[0]) is keras.layers.Dense


def given_to_fit(*arrays):
    """What train hands to fit."""
    model = Mock()
    keras.utils.set_random_seed(train_mnist.SEED)
    train_mnist.train(model, *arrays)
    return model.fit.call_args.kwargs


@pytest.mark.parametrize(("size", "batch_size"), [(470, 173), (7, 10**6)])
@pytest.mark.skipif(not ON_TENSORFLOW, reason="Keras shuffles arrays itself")
def test_every_image_is_seen_once_an_epoch(size, batch_size, constants):
    """In another order each epoch, and in the file's for the validation."""
    constants(BATCH_SIZE=batch_size)
    x = np.arange(size)[:, None]
    given = given_to_fit(x, x * 2, x, x * 2, (1, 1))
    for data, count in (given["x"], 3), (given["validation_data"], 1):
        assert len(data) == -(-size // batch_size)
        orders = set()
        for _ in range(3):
            seen, targets = map(np.concatenate, zip(*data.as_numpy_iterator()))
            assert (targets == seen * 2).all()
            orders.add(tuple(seen.ravel()))
        assert len(orders) == count
        assert {tuple(sorted(order)) for order in orders} == {tuple(range(size))}
    assert orders == {tuple(range(size))}


def places(data):
    """Where each image's one bright pixel is, (N, 2), by the image's number."""
    x, number = map(np.concatenate, zip(*data.as_numpy_iterator(), strict=True))
    assert (np.sort(x)[:, :-1] == 0).all() and (x.max(axis=1) == 200).all()
    at = np.unravel_index(x.argmax(axis=1), (8, 12))
    return np.transpose(at)[number.argsort()].tolist()


def test_shift_moves_the_training_images_only(constants):
    """By up to a quarter of 8 rows and 12 columns, each image by its own distance."""
    pytest.importorskip("tensorflow")
    constants(SHIFT=0.25, BATCH_SIZE=70)
    x, numbers = np.zeros((200, 8 * 12), "uint8"), np.arange(200)
    x[:, 4 * 12 + 6] = 200
    given = given_to_fit(x, numbers, x, numbers, (8, 12))
    first, second = places(given["x"]), places(given["x"])
    everywhere = {(row, column) for row in range(2, 7) for column in range(3, 10)}
    assert {*map(tuple, first + second)} == everywhere
    assert first != second  # anew in each epoch
    given_again = given_to_fit(x, numbers, x, numbers, (8, 12))
    assert [places(given_again["x"]) for _ in range(2)] == [first, second]
    constants(SEED=1)
    assert places(given_to_fit(x, numbers, x, numbers, (8, 12))["x"]) != first
    assert places(given["validation_data"]) == [[4, 6]] * 200


def test_saved_model_never_moves_images(quick, rows, tmp_path, request):
    """Whatever the recipe and keras.json; nor does what it is exported to."""
    pytest.importorskip("tensorflow")
    before = keras.config.image_data_format()
    request.addfinalizer(lambda: keras.config.set_image_data_format(before))
    accuracies = []
    for data_format in "channels_last", "channels_first":
        keras.config.set_image_data_format(data_format)
        path = tmp_path / f"{data_format}.keras"
        quick(MODEL_PATH=path, SHIFT=0.1, DROPOUT=0, LEARNING_RATE=0.05, EPOCHS=2)
        accuracies.append(train_mnist.main())
    assert accuracies[0] == accuracies[1]
    model = keras.models.load_model(path)
    kinds = {type(layer).__name__ for layer in model.layers}
    assert kinds == {"Rescaling", "Dense", "Dropout"}
    x = rows[0][:9].astype("float32")
    probabilities = model.predict(x, verbose=0)
    called = keras.ops.convert_to_numpy(model(x))
    assert called == pytest.approx(probabilities, abs=1e-5)
    for name in "onnx", "onnxruntime", "tf2onnx":
        pytest.importorskip(name)
    import onnxruntime

    model.export(tmp_path / "m.onnx", format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    (given,) = session.get_inputs()
    (exported,) = session.run(None, {given.name: x})
    assert exported == pytest.approx(probabilities, abs=1e-5)


def test_train_and_evaluate(quick, parts):
    """On all images, in 22 steps an epoch, of which ten are run at a time."""
    quick(BATCH_SIZE=97, EPOCHS=2)
    model = train_mnist.build_model(parts[0])
    history, interrupted = train_mnist.train(model, *parts)
    assert (int(model.optimizer.iterations), interrupted) == (2 * 22, False)
    assert history.keys() == {"loss", "accuracy", "val_loss", "val_accuracy"}
    scores = train_mnist.evaluate(model, *parts[2:4], "val")
    last = {name: history[name][1] for name in ("val_loss", "val_accuracy")}
    assert scores == pytest.approx(last, rel=1e-4)


EDITS = re.findall(r"^\| .* \| `(.*?)` \| `(.*?)` \|$", README, re.MULTILINE)
METRICS = '"accuracy"]', '"accuracy", keras.metrics.F1Score()]'
L2 = "activation=ACTIVATION)", 'activation=ACTIVATION, kernel_regularizer="l2")'
CONVOLUTION = (
    "    for units in HIDDEN_UNITS:",
    """    model.add(keras.layers.Reshape((28, 28, 1)))
    model.add(keras.layers.Conv2D(8, 3, strides=2, activation=ACTIVATION))
    model.add(keras.layers.Flatten())
    for units in HIDDEN_UNITS:""",
)


@pytest.mark.parametrize("edit", [*EDITS, METRICS, L2, CONVOLUTION])
def test_edits_that_users_make_first(edit, small_file, tmp_path):
    """Each metric is in the log."""
    data = {"DATA_PATH": str(small_file), "HIDDEN_UNITS": (50,), "EPOCHS": 3}
    data["DECAY"] = 0 if "ReduceLR" in edit[1] else 1e-6
    if "load_model" in edit[1]:  # there is a model to go on from
        load(edited(tmp_path, **data)).main()
    _, accuracy = load(edited(tmp_path, edit, **data)).main()
    assert accuracy > 0.6
    assert all((tmp_path / name).exists() for name in FILES)
    run = json.loads((tmp_path / FILES[0]).read_text().splitlines()[-1])
    assert ("val_f1_score" in run) == ("test_f1_score" in run) == (edit == METRICS)


def test_what_is_logged_is_the_saved_model_s(parts, small_file, tmp_path):
    """Best weights are restored, here after an epoch that diverged."""
    stop = "keras.callbacks.EarlyStopping(patience=2, restore_best_weights=True)"
    change = "lambda epoch, rate: 1e30 if epoch > 1 else 0.1"
    stop += f", keras.callbacks.LearningRateScheduler({change})"
    edit = "callbacks=[stop_on_ctrl_c,", f"callbacks=[stop_on_ctrl_c, {stop},"
    data = {"DATA_PATH": str(small_file), "HIDDEN_UNITS": (50,), "LEARNING_RATE": 0.1}
    data |= {"ACTIVATION": "relu", "EPOCHS": 25, "DROPOUT": 0, "DECAY": 0}
    load(edited(tmp_path, edit, **data)).main()
    run = json.loads((tmp_path / FILES[0]).read_text())
    saved = keras.models.load_model(tmp_path / FILES[1]).evaluate(
        *parts[2:4], verbose=0
    )
    assert [run["val_loss"], run["val_accuracy"]] == pytest.approx(saved, rel=1e-4)
    assert run["val_accuracy"] > 0.8
    assert run["epochs"] < 25


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
    history, interrupted = train_mnist.train(model, *parts)
    assert interrupted is True
    assert len(history["val_loss"]) == 1
    assert "Stopped in epoch 1 of 50." in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) is handler
    presses += [signal.SIGINT] * 2
    with pytest.raises(KeyboardInterrupt):
        train_mnist.train(model, *parts)
    assert signal.signal(signal.SIGINT, before) is handler


@pytest.mark.parametrize(("notebook", "verbose"), [(False, 2), (True, 1)])
def test_progress_bar(notebook, verbose, parts, monkeypatch):
    """None in a window that only calls itself a terminal, as IDLE's."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(train_mnist, "in_notebook", notebook)
    assert given_to_fit(*parts)["verbose"] == verbose
