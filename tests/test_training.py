"""The network, its optimizer, and how a run ends: well, interrupted, or refused."""

import math
import os
import re
import signal
import time

import keras
import numpy as np
import pytest
from conftest import edited, own_lines, start

import train_mnist


@pytest.fixture
def build(small):
    """Builds the model for the small data set, by the constants of the moment."""
    images, _ = train_mnist.preprocess(small["x_train"], small["y_train"])
    return lambda: train_mnist.build_model(images)


def run(capsys, status=None):
    """Run main; return the lines it printed. It must end with the exit status."""
    if status is None:
        train_mnist.main()
    else:
        with pytest.raises(SystemExit) as end:
            train_mnist.main()
        assert end.value.code == status
    return capsys.readouterr().out.splitlines()


def results(lines):
    """The digits of a run, from its first epoch on, but for the times it took."""
    first = next(i for i, line in enumerate(lines) if line.startswith("Epoch 1/"))
    timed = ("The training took", "Wrote")
    digits = [line for line in lines[first:] if not line.startswith(timed)]
    return [re.sub(r" - \d+\.\d+s", "", line) for line in digits]


def test_layers(build):
    model = build()
    kinds = ["Rescaling", "Dense", "Dropout", "Dense", "Dropout", "Dense"]
    assert [type(layer).__name__ for layer in model.layers] == kinds
    _, first, drop_1, second, drop_2, last = model.layers
    assert [layer.units for layer in (first, second, last)] == [500, 500, 10]
    assert [x.activation.__name__ for x in (first, second)] == ["tanh", "tanh"]
    assert last.activation.__name__ == "softmax"
    assert (drop_1.rate, drop_2.rate) == (0.5, 0.5)
    assert model.count_params() == 648_010
    assert model.loss == "categorical_crossentropy"
    assert model.input_shape == (None, 784)
    assert model.inputs[0].dtype == "uint8"


def test_optimizer(build):
    optimizer = build().optimizer
    assert isinstance(optimizer, keras.optimizers.SGD)
    assert (optimizer.momentum, optimizer.nesterov) == (0.9, True)
    for step, rate in (0, 0.01), (1, 0.01 / 1.000001), (10**6, 0.005):
        optimizer.iterations.assign(step)
        assert float(optimizer.learning_rate) == pytest.approx(rate, rel=1e-6)


def test_pixels_are_standardized_in_the_model(build, small, script):
    images = small["x_train"].reshape(-1, 784)
    scaled = keras.ops.convert_to_numpy(build().layers[0](images))
    assert scaled.dtype == "float32"
    assert scaled.mean() == pytest.approx(0, abs=1e-4)
    assert scaled.std() == pytest.approx(1, abs=1e-4)
    assert scaled[0, 0] == pytest.approx(-images.mean() / images.std(), rel=1e-4)
    script.STANDARDIZE = False
    assert type(build().layers[0]).__name__ == "Dense"


@pytest.mark.parametrize("value", [0, 7, 7.1, -1e9])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_images_that_are_all_one_value(value, dtype):
    images = np.full((50, 9), value).astype(dtype)
    probabilities = train_mnist.build_model(images).predict(images, verbose=0)
    assert np.isfinite(probabilities).all()


@pytest.mark.parametrize("units", [(), (300,), [800, 400, 200]])
def test_hidden_units(units, build, script):
    script.HIDDEN_UNITS = units
    dense = [x.units for x in build().layers if isinstance(x, keras.layers.Dense)]
    assert dense == [*units, 10]


def test_what_fit_is_asked(script, monkeypatch, capsys):
    asked = {}
    fit = keras.Sequential.fit

    def spy(model, x, y, **options):
        asked.update(options, x=x, y=y)
        return fit(model, x, y, **options)

    monkeypatch.setattr(keras.Sequential, "fit", spy)
    run(capsys)
    assert (asked["x"].shape, asked["x"].dtype) == ((3000, 784), "uint8")
    assert asked["y"].shape == (3000, 10)
    for name, value in {
        "batch_size": 200,
        "epochs": 1,
        "shuffle": True,
        "validation_split": 0.3,
    }.items():
        assert asked[name] == value


def test_printed_lines_and_repeatability(script, capsys):
    script.EPOCHS = 2
    first = run(capsys)
    text = "\n".join(first)
    assert "training images (3000, 28, 28) uint8, labels (3000,)" in text
    assert "Total params: 648,010" in text
    epochs = [line for line in first if line.startswith("Epoch ")]
    assert len(epochs) == 2
    for line in epochs:
        assert re.fullmatch(
            r"Epoch \d/2 - \d+\.\d\ds - loss: \d\.\d{4} - val_loss: \d\.\d{4}", line
        )
    at = first.index("test set")
    assert re.fullmatch(r"The test loss is \d\.\d{6}", first[at + 1])
    accuracy = re.fullmatch(r"The accuracy of the model is (\d\.\d{6})", first[at + 2])
    wrong = re.fullmatch(r"(\d+) of 500 test images are wrong\.", first[at + 3])
    assert 1 - int(wrong[1]) / 500 == pytest.approx(float(accuracy[1]))
    assert "\x1b" not in text and "\b" not in text and "\r" not in text
    assert results(run(capsys)) == results(first)
    script.SEED = 1
    assert results(run(capsys)) != results(first)


def test_accuracy_is_of_the_test_set(script, small, tmp_path, capsys):
    """Shifted by one, the labels of the test set alone make nearly all wrong."""
    changed = {**small, "y_test": (small["y_test"] + 1) % 10}
    np.savez(tmp_path / "shifted.npz", **changed)
    script.DATA_PATH = tmp_path / "shifted.npz"
    text = "\n".join(run(capsys))
    assert float(re.search(r"accuracy of the model is (.*)", text)[1]) < 0.2


@pytest.mark.parametrize(
    "constants",
    [
        {"MOMENTUM": 0, "DROPOUT": 0, "DECAY": 0, "VALIDATION_SPLIT": 0},
        {"HIDDEN_UNITS": (50,), "BATCH_SIZE": 5000, "ACTIVATION": "relu"},
        {"DTYPE_POLICY": "mixed_bfloat16", "STANDARDIZE": False, "BATCH_SIZE": 7},
        {"DTYPE_POLICY": "mixed_float16", "HIDDEN_UNITS": ()},
    ],
)
def test_other_constants_work(constants, script, capsys):
    for name, value in constants.items():
        setattr(script, name, value)
    text = "\n".join(run(capsys))
    assert ("val_loss" in text) == (script.VALIDATION_SPLIT > 0)
    assert math.isfinite(float(re.search(r"The test loss is (.*)", text)[1]))


@pytest.mark.parametrize("dtype", ["int8", "uint64", "float64"])
def test_other_data_is_trained_on(dtype, script, small, tmp_path, capsys):
    """Images of another size and dtype, labels of another, digits that are missing."""
    arrays = {k: v[v.shape[0] // 2 :] for k, v in small.items()}
    for name in "x_train", "x_test":
        arrays[name] = (arrays[name][:, ::2, ::3] // 2).astype(dtype)
    for name in "y_train", "y_test":
        arrays[name] = arrays[name].astype(dtype if dtype[0] != "f" else "uint8") % 4
    np.savez(tmp_path / "other.npz", **arrays)
    script.DATA_PATH = tmp_path / "other.npz"
    script.PLOT_PATH = tmp_path / "other.png"
    text = "\n".join(run(capsys))
    assert f"training images (1500, 14, 10) {dtype}, labels (1500,)" in text
    assert (tmp_path / "other.png").exists()


def test_split_that_leaves_nothing(script):
    script.VALIDATION_SPLIT = 0.9999
    with pytest.raises(SystemExit, match="^VALIDATION_SPLIT = 0.9999 leaves 0 of 3000"):
        train_mnist.main()
    script.VALIDATION_SPLIT = 1e-18
    with pytest.raises(SystemExit, match="leaves 3000 of 3000"):
        train_mnist.main()


def test_infinite_loss_stops_and_saves_nothing(script, tmp_path, capsys):
    script.ACTIVATION, script.LEARNING_RATE, script.EPOCHS = "relu", 1e30, 50
    script.MODEL_PATH = tmp_path / "model.keras"
    with pytest.raises(SystemExit) as refused:
        train_mnist.main()
    assert "LEARNING_RATE = 1e+30" in refused.value.code
    out = capsys.readouterr().out
    assert out.count("Epoch ") < 3
    assert "The accuracy" not in out
    assert not script.MODEL_PATH.exists()


def test_loss_that_is_infinite_only_at_the_end():
    with pytest.raises(SystemExit, match="LEARNING_RATE"):
        train_mnist.refuse_infinite(float("inf"))
    assert train_mnist.refuse_infinite(2.3) is None


def test_no_better_than_guessing(script, capsys):
    script.LEARNING_RATE = 1000.0
    text = "\n".join(run(capsys))
    assert "No better than guessing" in text
    assert "LEARNING_RATE = 1000.0" in text
    script.LEARNING_RATE = 0.01
    assert "guessing" not in "\n".join(run(capsys))


def test_interrupt(script, monkeypatch, tmp_path, capsys):
    """Ctrl-C in the third epoch; results, model and picture are there all the same."""
    script.EPOCHS = 50
    script.MODEL_PATH = tmp_path / "model.keras"
    script.PLOT_PATH = tmp_path / "plot.png"
    begin = train_mnist.Monitor.on_epoch_begin

    def press(monitor, epoch, logs=None):
        begin(monitor, epoch, logs)
        if epoch == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(train_mnist.Monitor, "on_epoch_begin", press)
    before = signal.getsignal(signal.SIGINT)
    lines = run(capsys, status=130)
    assert signal.getsignal(signal.SIGINT) is before
    assert "Interrupted after 2 of 50 epochs." in lines
    assert sum(line.startswith("Epoch ") for line in lines) == 3
    assert any(line.startswith("The accuracy of the model is") for line in lines)
    assert sorted(os.listdir(tmp_path)) == ["model.keras", "plot.png"]


def test_steps_an_execution(script, build, small, monkeypatch):
    """The bar moves at least 7 times an epoch; wide layers keep Ctrl-C answered."""
    x, y = train_mnist.preprocess(small["x_train"], small["y_train"])
    monkeypatch.setattr(keras.Sequential, "fit", lambda *_, **__: 1 / 0)

    def steps(times):
        model = build()
        with pytest.raises(ZeroDivisionError):
            train_mnist.train(model, np.tile(x, (times, 1)), np.tile(y, (times, 1)))
        return model.steps_per_execution

    assert [steps(1), steps(20)] == [1, 30]
    script.HIDDEN_UNITS = (4000, 4000)
    assert steps(20) == 1


def test_terminal(small_file, tmp_path):
    """On a tty the bar; a Ctrl-C ends the training, and the run goes on to its results."""
    pty = pytest.importorskip("pty")
    constants = {"DATA_PATH": str(small_file), "EPOCHS": 2000, "PLOT_PATH": None}
    path = edited(tmp_path, **constants)
    ours, theirs = pty.openpty()
    process = start(path, stdout=theirs, stdin=theirs)
    os.close(theirs)
    shown = read_until(ours, b"Epoch 2/2000")
    process.send_signal(signal.SIGINT)
    shown += read_until(ours, b"Wrote")
    assert process.wait(60) == 130
    assert own_lines(process.communicate()[1]) == []
    text = shown.decode()
    assert "\x1b[32m" in text
    assert re.search(r"Interrupted after \d+ of 2000 epochs\.", text)
    assert text.index("Interrupted") < text.index("The accuracy of the model is")
    assert (tmp_path / "mnist_mlp.keras").exists()


def test_second_interrupt_ends_at_once(small_file, tmp_path):
    # One step takes seconds here: there is time for a second Ctrl-C.
    constants = {"DATA_PATH": str(small_file), "BATCH_SIZE": 2100}
    path = edited(tmp_path, HIDDEN_UNITS=(6000, 6000), EPOCHS=9, **constants)
    process = start(path)
    for line in process.stdout:
        if line.startswith("Epoch 1/"):
            break
    process.send_signal(signal.SIGINT)
    time.sleep(0.1)
    pressed = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - pressed < 2
    assert process.returncode in (130, -signal.SIGINT)
    assert "Traceback" not in err
    assert "The accuracy" not in out


def read_until(descriptor, mark):
    """Read a pseudo-terminal up to the mark, or its end."""
    shown = b""
    while mark not in shown:
        try:
            shown += os.read(descriptor, 4096)
        except OSError:
            break
    return shown
