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
from helpers import (
    ROOT,
    edited,
    on_posix,
    own_lines,
    read_rest,
    wait_for_line,
)
from PIL import Image

import train_mnist

FILES = ["mnist_mlp.jsonl", "mnist_mlp.keras", "mnist_mlp.png", "train_mnist.py"]


@pytest.fixture(scope="module", autouse=True)
def all_started(whole_run_started):
    """The run on the bundled file goes on beside the first tests."""


@pytest.fixture
def main(quick, capsys):
    """Runs main; returns its results and what it printed."""

    def main(**values):
        quick(**values)
        results = train_mnist.main()
        return results, capsys.readouterr().out

    return main


@pytest.fixture
def quick_copy(small_file, tmp_path):
    """Makes a copy of the script that trains a small network on small data."""
    data = {"DATA_PATH": str(small_file), "HIDDEN_UNITS": (50,)}
    return lambda *edits, **constants: edited(tmp_path, *edits, **data, **constants)


def without_times(out):
    out = re.sub(r" - \d+m?s - \d+[mu]?s/step", "", out.partition("Epoch 1/")[2])
    return re.sub(r"The training took .*", "", out)


def test_same_seed_same_results(main):
    first, out = main(EPOCHS=2)
    again, out_again = main()
    assert first == again
    assert without_times(out) == without_times(out_again)
    assert main(SEED=1)[0] != first
    assert (type(first[0]), type(first[1])) == (float, float)


@pytest.mark.parametrize("dtype", [">i2", "float64"])
def test_other_data(dtype, main, small, tmp_path):
    """Images of another size and dtype, and digits that are missing."""
    arrays = {k: v[v.shape[0] // 2 :] for k, v in small.items()}
    for name in "x_train", "x_test":
        arrays[name] = (arrays[name][:, ::2, ::3] // 2).astype(dtype)
    for name in "y_train", "y_test":
        arrays[name] = arrays[name].astype("int64") % 4
    np.savez(tmp_path / "other.npz", **arrays)
    data = {"DATA_PATH": tmp_path / "other.npz", "PLOT_PATH": tmp_path / "other.png"}
    (_, accuracy), out = main(**data)
    assert "training images (1500, 14, 10) float32, labels (1500,)" in out
    assert accuracy > 0.3
    assert (tmp_path / "other.png").exists()


@pytest.mark.parametrize(
    ("kept", "labels"), [(range(10), lambda y: (y + 1) % 10), ([7], lambda y: y)]
)
def test_results_are_of_the_test_set(kept, labels, main, small, tmp_path):
    """Labels shifted by one make nearly all wrong; sevens alone are no guess."""
    kept = np.isin(small["y_test"], kept)
    changed = {"x_test": small["x_test"][kept], "y_test": labels(small["y_test"][kept])}
    np.savez(tmp_path / "a.npz", **{**small, **changed})
    (_, accuracy), out = main(DATA_PATH=tmp_path / "a.npz", EPOCHS=3)
    confused = re.findall(r"(\d) read as (\d):", out)
    if kept.all():
        assert accuracy < 0.2
        assert all(int(label) == (int(read) + 1) % 10 for label, read in confused)
        assert len(confused) == 5
    else:
        assert accuracy > 0.5
        assert {label for label, _ in confused} == {"7"}
        assert "guessing" not in out


@pytest.mark.parametrize("rate", [1e-37, 1e30])
def test_no_better_than_guessing(rate, main):
    _, out = main(LEARNING_RATE=rate)
    assert f"No better than guessing: LEARNING_RATE = {rate} may be" in out


def test_loss_that_is_not_finite(quick, tmp_path, capsys):
    """The training ends at once, and earlier files stay as they are."""
    files = {"MODEL_PATH": tmp_path / "model.keras", "LOG_PATH": tmp_path / "a.jsonl"}
    files["MODEL_PATH"].write_text("earlier")
    quick(ACTIVATION="relu", LEARNING_RATE=1e30, EPOCHS=50, **files)
    with pytest.raises(SystemExit, match="LEARNING_RATE = 1e[+]30 is probably too hi"):
        train_mnist.main()
    out = capsys.readouterr().out
    assert out.count("Epoch ") < 3
    assert "The accuracy" not in out
    assert files["MODEL_PATH"].read_text() == "earlier"
    assert os.listdir(tmp_path) == ["model.keras"]


def test_ctrl_c(quick, monkeypatch, tmp_path, capsys):
    """All is saved and reported; then a KeyboardInterrupt ends a sweep, too."""
    quick(EPOCHS=50, MODEL_PATH=tmp_path / "model.keras")
    quick(PLOT_PATH=tmp_path / "plot.png", LOG_PATH=tmp_path / "log.jsonl")
    monkeypatch.setattr(
        train_mnist.InterruptHandler,
        "on_epoch_begin",
        lambda handler, epoch, logs=None: (
            epoch == 2 and signal.raise_signal(signal.SIGINT)
        ),
    )
    with pytest.raises(KeyboardInterrupt):
        train_mnist.main()
    out = capsys.readouterr().out
    assert "Interrupted in epoch 3 of 50." in out
    assert "The accuracy of the model is" in out
    assert sorted(os.listdir(tmp_path)) == ["log.jsonl", "model.keras", "plot.png"]
    assert json.loads((tmp_path / "log.jsonl").read_text())["interrupted"]


def test_mistake_after_the_training(quick, monkeypatch, tmp_path):
    """The model is kept, and a bug keeps its traceback."""
    quick(MODEL_PATH=tmp_path / "model.keras")
    monkeypatch.setattr(train_mnist, "report", None)
    with pytest.raises(TypeError):
        train_mnist.main()
    assert os.listdir(tmp_path) == ["model.keras"]


LOST = (
    "os.replace(new, path)",
    "os.replace(new, path if path.suffix != '.png' else '/')",
)


def run_as_script(path, monkeypatch):
    """Run a copy of the script in this process, as the main module."""
    monkeypatch.setenv("MPLBACKEND", "agg")  # is set back after the test
    runpy.run_path(str(path), run_name="__main__")


def test_closed_stdout(quick_copy, monkeypatch):
    """After `>&-` Python has no stdout: all is written, and nothing complains."""
    monkeypatch.setattr(sys, "stdout", None)
    path = quick_copy(EPOCHS=1)
    run_as_script(path, monkeypatch)
    assert sorted(os.listdir(path.parent)) == FILES


def test_mistake_is_a_line(quick_copy, monkeypatch, capsys):
    """Of a script, sys.exit writes it to stderr, with status 1."""
    with pytest.raises(SystemExit, match="^EPOCHS = 0: must be a positive int$"):
        run_as_script(quick_copy(EPOCHS=0), monkeypatch)
    assert capsys.readouterr() == ("", "")


def test_status_of_a_run_that_lost_a_file(quick_copy, monkeypatch):
    """1 for a script; main itself returns its results, see test_output."""
    path = quick_copy(LOST, EPOCHS=1)
    with pytest.raises(SystemExit) as end:
        run_as_script(path, monkeypatch)
    assert end.value.code == 1
    assert sorted(os.listdir(path.parent)) == [n for n in FILES if n[-3:] != "png"]


# Processes of their own
def test_output(whole_run):
    folder, out = whole_run
    lines = out.splitlines()
    assert lines[0] == "training images (60000, 28, 28) uint8, labels (60000,)"
    assert lines[1] == "test images     (10000, 28, 28) uint8, labels (10000,)"
    names = ("accuracy", "loss", "val_accuracy", "val_loss")
    values = " - ".join(rf"{name}: \d\.\d{{4}}" for name in names)
    for epoch in 1, 2:
        line = lines[lines.index(f"Epoch {epoch}/2") + 1]
        assert re.fullmatch(rf"210/210 - \d+s - \d+m?s/step - {values}", line)
    at = lines.index("test set")
    loss = re.fullmatch(r"The test loss is (\d\.\d{6})", lines[at + 1])
    accuracy = re.fullmatch(r"The accuracy of the model is (\d\.\d{6})", lines[at + 2])
    assert float(loss[1]) < 0.16
    assert float(accuracy[1]) > 0.95
    wrong = round(10_000 * (1 - float(accuracy[1])))
    assert lines[at + 3] == f"{wrong} of 10000 test images are wrong."
    assert not set(out) & set("\x1b\b\r")
    wrote = [line for line in lines if line.startswith("Wrote")]
    assert sorted(wrote) == [f"Wrote {folder / name}" for name in FILES[:3]]
    assert sorted(os.listdir(folder)) == FILES


def test_files(whole_run):
    """The model takes raw pixels, loads with Keras alone, gives the same accuracy."""
    folder, out = whole_run
    model = keras.models.load_model(folder / "mnist_mlp.keras")
    assert (model.input_shape, model.inputs[0].dtype) == ((None, 784), "uint8")
    assert model.steps_per_execution == 1  # as PyTorch demands
    with np.load(ROOT / "mnist.npz") as data:
        probabilities = model.predict(data["x_test"].reshape(-1, 784), verbose=0)
        accuracy = (probabilities.argmax(axis=1) == data["y_test"]).mean()
    assert f"The accuracy of the model is {accuracy:f}\n" in out
    with Image.open(folder / "mnist_mlp.png") as picture:
        assert picture.format == "PNG"
        assert np.asarray(picture).std() > 10


@on_posix
def test_background_job_with_the_backend_of_a_notebook(quick_copy, start):
    """A shell has its jobs ignore Ctrl-C; `!python` inherits MPLBACKEND."""
    path = quick_copy(EPOCHS=20)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    process = start(path, environment={"MPLBACKEND": "nothing_that_exists"})
    signal.signal(signal.SIGINT, before)
    wait_for_line(process, "Epoch 2/")
    process.send_signal(signal.SIGINT)
    out, err = read_rest(process)
    assert (process.returncode, own_lines(err)) == (0, [])
    assert "Epoch 20/20" in out
    assert "Interrupted" not in out
    assert sorted(os.listdir(path.parent)) == FILES


@on_posix
def test_ctrl_c_that_ends_the_reader_too(quick_copy, start):
    """As in `python train_mnist.py | tee log`: all is saved, nothing complains."""
    path = quick_copy(EPOCHS=5000)
    process = start(path)
    wait_for_line(process, "Epoch 3/")
    process.stdout.close()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert own_lines(process.stderr.read()) == []
    assert sorted(os.listdir(path.parent)) == FILES


@on_posix
def test_terminal(quick_copy, start):
    """On a tty the bar; Ctrl-C ends the training, and the run goes on to its results."""
    pty = pytest.importorskip("pty")
    path = quick_copy(EPOCHS=2000)
    terminal, theirs = pty.openpty()
    size = {"COLUMNS": "80", "LINES": "24"}
    process = start(path, environment=size, stdin=theirs, stdout=theirs)
    os.close(theirs)
    with open(terminal, "rb", buffering=0) as screen:
        shown = b""
        while b"Epoch 2/2000" not in shown:
            shown += screen.read(4096)
        process.send_signal(signal.SIGINT)
        while b"mnist_mlp.png" not in shown:
            shown += screen.read(4096)
        assert process.wait(60) == 130
    assert own_lines(process.stderr.read()) == []
    text = shown.decode()
    assert "\x1b[32m" in text
    assert re.search(r"Interrupted in epoch \d+ of 2000\.", text)
    assert text.index("Interrupted") < text.index("The accuracy of the model is")
    assert sorted(os.listdir(path.parent)) == FILES
