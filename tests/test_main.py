"""A run from end to end: what it prints and leaves, and the ways in which it ends."""

import json
import os
import re
import runpy
import signal
import sys

import keras
import numpy as np
import pytest
from helpers import FILES, ROOT, edited, on_posix, result, wait_for_line
from PIL import Image

import train_mnist

ALL = [*FILES, "train_mnist.py"]


@pytest.fixture
def main(quick, capsys):
    """Runs main; returns its results and what it printed."""

    def main(**values):
        quick(**values)
        return train_mnist.main(), capsys.readouterr().out

    return main


@pytest.fixture
def quick_copy(small_file, tmp_path):
    """Makes a copy of the script, in a new folder, that trains a small network."""
    data = {"DATA_PATH": str(small_file), "HIDDEN_UNITS": (50,)}
    folder = tmp_path / "folder"
    folder.mkdir()
    return lambda *edits, **constants: edited(folder, *edits, **data, **constants)


def test_same_seed_same_results(main):
    first, out = main(EPOCHS=2)
    again, out_again = main()
    epochs, epochs_again = (re.findall("accuracy: .*", x) for x in (out, out_again))
    assert (first, epochs) == (again, epochs_again)
    assert len(epochs) == 2
    assert main(SEED=1)[0] != first
    assert (type(first[0]), type(first[1])) == (float, float)


@pytest.mark.parametrize("dtype", ["uint8", "float64"])
def test_results_are_of_the_test_set(dtype, main, small, tmp_path):
    """Of 14 x 10 pixels, with labels raised by one, which make nearly all wrong."""
    arrays = {k: v[:, ::2, ::3].astype(dtype) for k, v in small.items() if k[0] == "x"}
    labels = {"y_train": small["y_train"], "y_test": (small["y_test"] + 1) % 10}
    np.savez(tmp_path / "a.npz", **arrays, **labels)
    paths = {"DATA_PATH": tmp_path / "a.npz", "MODEL_PATH": tmp_path / "a.keras"}
    (_, accuracy), out = main(LEARNING_RATE=0.05, EPOCHS=3, **paths)
    kind = "uint8" if dtype == "uint8" else "float32"
    assert f"training images (3000, 14, 10) {kind}, l" in out
    confused = re.findall(r"(\d) read as (\d):", out)
    assert all(int(label) == (int(read) + 1) % 10 for label, read in confused)
    model = keras.models.load_model(tmp_path / "a.keras")
    read = model.predict(arrays["x_test"].reshape(500, -1), verbose=0).argmax(axis=1)
    assert (read == small["y_test"]).mean() > 0.6
    assert (read == labels["y_test"]).mean() == pytest.approx(accuracy)


def test_file_that_is_sorted_by_digit(main, small, tmp_path):
    """The images held back are the last ones: a line says that digits are missing."""
    order = np.argsort(small["y_train"])
    arrays = {k: v[order] if "train" in k else v for k, v in small.items()}
    np.savez(tmp_path / "a.npz", **arrays)
    assert "not among the first 2100 images" in main(DATA_PATH=tmp_path / "a.npz")[1]
    assert "not among" not in main(VALIDATION_SPLIT=0)[1]


def test_divergence(main, tmp_path, capsys):
    """The training ends at once and is logged; earlier files stay as they are."""
    model, log, plot = (tmp_path / name for name in ("a.keras", "a.jsonl", "a.png"))
    model.write_text("earlier")
    plot.write_text("earlier")
    paths = {"MODEL_PATH": model, "LOG_PATH": log, "PLOT_PATH": plot}
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        main(ACTIVATION="relu", LEARNING_RATE=1e30, EPOCHS=50, **paths)
    assert capsys.readouterr().out.count("Epoch ") < 3
    assert model.read_text() == plot.read_text() == "earlier"
    run = json.loads(log.read_text())
    assert run["val_loss"] is run["test_loss"] is None
    _, out = main(LEARNING_RATE=0.1, EPOCHS=1)
    assert "  LEARNING_RATE 1e+30 -> 0.1\n" in out


def test_ctrl_c_wins_over_divergence(quick, monkeypatch, tmp_path):
    """Or a loop that catches FloatingPointError would go on; both are logged."""
    train = train_mnist.train

    def diverge(model, *arguments):
        history, _ = train(model, *arguments)
        model.set_weights([w * np.nan for w in model.get_weights()])
        return history, True

    monkeypatch.setattr(train_mnist, "train", diverge)
    quick(LOG_PATH=tmp_path / "a.jsonl")
    with pytest.raises(KeyboardInterrupt):
        train_mnist.main()
    run = json.loads((tmp_path / "a.jsonl").read_text())
    assert (run["interrupted"], run["test_loss"]) == (True, None)


def test_mistake_after_the_training(quick, monkeypatch, tmp_path):
    """Or a second, impatient Ctrl-C in the evaluation: the model is kept."""
    quick(MODEL_PATH=tmp_path / "a.keras")
    monkeypatch.setattr(train_mnist, "evaluate", None)
    with pytest.raises(TypeError):
        train_mnist.main()
    assert os.listdir(tmp_path) == ["a.keras"]


def test_script_that_diverges(quick_copy, monkeypatch):
    """A line, and the status 1; a notebook's MPLBACKEND does no harm."""
    path = quick_copy(LEARNING_RATE=1e30, ACTIVATION="relu")
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.none")
    monkeypatch.setattr(sys, "argv", ["train_mnist.py"])
    with pytest.raises(SystemExit, match="^diverged.*rate$"):
        runpy.run_path(str(path), run_name="__main__")
    assert os.environ["MPLBACKEND"] == "agg"
    assert sorted(os.listdir(path.parent)) == [FILES[0], ALL[3]]


def test_argument(quick_copy, monkeypatch):
    """There are no options: a line, and nothing is trained."""
    path = quick_copy()
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setattr(sys, "argv", ["train_mnist.py", "--help"])
    with pytest.raises(SystemExit, match="^No options"):
        runpy.run_path(str(path), run_name="__main__")
    assert os.listdir(path.parent) == ["train_mnist.py"]


# Processes of their own
def test_output_and_files(whole_run):
    """The model takes raw pixels, loads with Keras alone, gives the same accuracy."""
    folder, out = whole_run
    lines = out.splitlines()
    assert lines[0] == "training images (60000, 28, 28) uint8, labels (60000,)"
    assert lines[1] == "test images (10000, 28, 28), labels (10000,)"
    values = (
        r"accuracy: 0\.\d{4} - loss: 0\.\d{4} - val_accuracy: 0\..* - val_loss: 0\..*"
    )
    for epoch in 1, 2:
        line = lines[lines.index(f"Epoch {epoch}/2") + 1]
        assert re.fullmatch(rf"210/210 - \d+s - \d+m?s/step - {values}", line)
    assert not set(out) & set("\x1b\b\r")
    wrote = [line for line in lines if line.startswith("Wrote")]
    assert sorted(wrote) == [f"Wrote {folder / name}" for name in FILES[1:]]
    assert sorted(os.listdir(folder)) == ALL
    model = keras.models.load_model(folder / "mnist_mlp.keras")
    assert (model.input_shape, model.inputs[0].dtype) == ((None, 784), "float32")
    assert model.steps_per_execution == 1  # as PyTorch demands
    with np.load(ROOT / "mnist.npz") as data:
        probabilities = model.predict(data["x_test"].reshape(-1, 784), verbose=0)
        right = (probabilities.argmax(axis=1) == data["y_test"]).sum()
    at = lines.index("test set")
    assert re.fullmatch(r"The test loss is 0\.1\d{5}", lines[at + 1])
    assert lines[at + 2] == f"The accuracy of the model is {right / 10_000:f}"
    assert lines[at + 3] == f"{10_000 - right} of 10000 test images are wrong."
    with Image.open(folder / "mnist_mlp.png") as picture:
        assert np.asarray(picture).std() > 10


@on_posix
def test_ctrl_c(quick_copy, start):
    """The training ends early, all is written, and the shell is told."""
    path = quick_copy(EPOCHS=5000)
    process = start(path)
    wait_for_line(process, "Epoch 2/")
    process.send_signal(signal.SIGINT)
    status, out, err = result(process)
    assert (status, err) == (130, [])
    assert "Stopped in epoch " in out
    assert sorted(os.listdir(path.parent)) == ALL
    assert json.loads((path.parent / FILES[0]).read_text())["interrupted"] is True
