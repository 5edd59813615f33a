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
from helpers import FILES, ROOT, edited, result
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
    return lambda **constants: edited(tmp_path, **data, **constants)


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


@pytest.mark.parametrize(
    ("options", "line", "left"),
    [([], "^diverged.*rate$", [FILES[0], ALL[3]]), (["-h"], "^No options", ALL[3:])],
)
def test_script_that_fails(options, line, left, quick_copy, monkeypatch):
    """In a line, and with the status 1; a notebook's MPLBACKEND does no harm."""
    path = quick_copy(LEARNING_RATE=1e30, ACTIVATION="relu")
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.none")
    monkeypatch.setattr(sys, "argv", ["train_mnist.py", *options])
    with pytest.raises(SystemExit, match=line):
        runpy.run_path(str(path), run_name="__main__")
    assert os.environ["MPLBACKEND"] == "agg"
    assert sorted(os.listdir(path.parent)) == left


# Processes of their own
def test_output_and_files(whole_run):
    """The model takes raw pixels, loads with Keras alone, gives the same accuracy."""
    folder, out = whole_run
    lines = out.splitlines()
    assert lines[0] == "training images (60000, 28, 28) uint8, labels (60000,)"
    assert lines[1] == "test images (10000, 28, 28), labels (10000,)"
    assert "Epoch 2/2" in lines and not set(out) & set("\x1b\b\r")  # no bar
    assert sum(line.startswith("210/210 - ") for line in lines) == 2
    assert [f"Wrote {folder / name}" in lines for name in FILES[1:]] == [True, True]
    assert sorted(os.listdir(folder)) == ALL
    model = keras.models.load_model(folder / "mnist_mlp.keras")
    assert model.steps_per_execution == 1  # as PyTorch demands
    with np.load(ROOT / "mnist.npz") as data:
        probabilities = model.predict(data["x_test"].reshape(-1, 784), verbose=0)
        right = (probabilities.argmax(axis=1) == data["y_test"]).sum()
    at = lines.index("test set")
    assert re.fullmatch(r"The test loss is 0\.1\d{5}", lines[at + 1])
    assert lines[at + 2] == f"The accuracy of the model is {right / 10_000:f}"
    with Image.open(folder / "mnist_mlp.png") as picture:
        assert np.asarray(picture).std() > 10


@pytest.mark.skipif(os.name != "posix", reason="Windows can't send it to one process")
def test_ctrl_c(quick_copy, start):
    """The training ends early, all is written, and the shell is told."""
    path = quick_copy(EPOCHS=5000)
    process = start(path)
    assert any(line.startswith("Epoch 2/") for line in process.stdout)
    process.send_signal(signal.SIGINT)
    status, out, err = result(process)
    assert (status, err) == (130, [])
    assert "Stopped in epoch " in out
    assert sorted(os.listdir(path.parent)) == ALL
    assert json.loads((path.parent / FILES[0]).read_text())["interrupted"] is True
