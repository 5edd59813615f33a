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
    press_ctrl_c,
    read_rest,
    start_script,
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


def test_accuracy_is_of_the_test_set(main, small, tmp_path):
    """Shifted by one, the labels of the test set alone make nearly all wrong."""
    changed = {**small, "y_test": (small["y_test"] + 1) % 10}
    np.savez(tmp_path / "shifted.npz", **changed)
    (_, accuracy), out = main(DATA_PATH=tmp_path / "shifted.npz", EPOCHS=3)
    assert accuracy < 0.2
    confused = re.findall(r"(\d) read as (\d):", out)
    assert len(confused) == 5
    assert all(int(label) == (int(read) + 1) % 10 for label, read in confused)


def test_one_digit_is_no_guess(main, small, tmp_path):
    """A test set of sevens, most of them classified as such."""
    seven = small["y_test"] == 7
    changed = {"x_test": small["x_test"][seven], "y_test": small["y_test"][seven]}
    np.savez(tmp_path / "seven.npz", **{**small, **changed})
    (_, accuracy), out = main(DATA_PATH=tmp_path / "seven.npz", EPOCHS=3)
    assert accuracy > 0.5
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
        lambda handler, epoch, logs=None: press_ctrl_c() if epoch == 2 else None,
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


def run_as_script(path, monkeypatch):
    """Run a copy of the script in this process, as the main module."""
    monkeypatch.setenv("MPLBACKEND", "agg")  # is set back after the test
    runpy.run_path(str(path), run_name="__main__")


def test_closed_stdout(small_file, tmp_path, monkeypatch):
    """After `>&-` Python has no stdout: all is written, and nothing complains."""
    data = {"DATA_PATH": str(small_file), "EPOCHS": 1, "HIDDEN_UNITS": (50,)}
    path = edited(tmp_path, **data)
    monkeypatch.setattr(sys, "stdout", None)
    run_as_script(path, monkeypatch)
    assert sorted(os.listdir(tmp_path)) == FILES


def test_mistake_is_a_line(tmp_path, monkeypatch, capsys):
    """Of a script, sys.exit writes it to stderr, with status 1."""
    with pytest.raises(SystemExit, match="^EPOCHS = 0: must be a positive int$"):
        run_as_script(edited(tmp_path, EPOCHS=0), monkeypatch)
    assert capsys.readouterr() == ("", "")


def test_status_of_a_run_that_lost_a_file(small_file, tmp_path, monkeypatch):
    """1 for a script; main itself returns its results."""
    data = {"DATA_PATH": str(small_file), "EPOCHS": 1, "HIDDEN_UNITS": (50,)}
    with pytest.raises(SystemExit) as end:
        run_as_script(edited(tmp_path, LOST_FILE, **data), monkeypatch)
    assert end.value.code == 1
    assert sorted(os.listdir(tmp_path)) == sorted({*FILES} - {"mnist_mlp.png"})


LOST_FILE = (
    "    os.replace(new, path)\n",
    "    os.replace(new if new.suffix != '.png' else 'x', path)\n",
)


# Processes of their own
def test_output(whole_run):
    folder, out = whole_run
    lines = out.splitlines()
    assert lines[0] == "training images (60000, 28, 28) uint8, labels (60000,)"
    assert lines[1] == "test images     (10000, 28, 28) uint8, labels (10000,)"
    values = r" - ".join(
        rf"{name}: \d\.\d{{4}}"
        for name in ("accuracy", "loss", "val_accuracy", "val_loss")
    )
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
    assert "guessing" not in out
    wrote = [line for line in lines if line.startswith("Wrote")]
    assert sorted(wrote) == [f"Wrote {folder / name}" for name in FILES[:3]]
    assert sorted(os.listdir(folder)) == FILES


def test_saved_model(whole_run):
    """It takes raw pixels, loads with Keras alone, and gives the printed accuracy."""
    folder, out = whole_run
    model = keras.models.load_model(folder / "mnist_mlp.keras")
    assert model.input_shape == (None, 784)
    assert model.inputs[0].dtype == "uint8"
    assert model.steps_per_execution == 1  # as PyTorch demands
    with np.load(ROOT / "mnist.npz") as data:
        probabilities = model.predict(data["x_test"].reshape(-1, 784), verbose=0)
        accuracy = (probabilities.argmax(axis=1) == data["y_test"]).mean()
    assert f"The accuracy of the model is {accuracy:f}\n" in out
    with Image.open(folder / "mnist_mlp.png") as picture:
        assert picture.format == "PNG"
        assert np.asarray(picture).std() > 10


@on_posix
def test_background_job_with_the_backend_of_a_notebook(small_file, tmp_path, start):
    """A shell has its jobs ignore Ctrl-C; `!python` inherits MPLBACKEND."""
    data = {"DATA_PATH": str(small_file), "HIDDEN_UNITS": (50,)}
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    inherited = {"MPLBACKEND": "nothing_that_exists"}
    process = start(edited(tmp_path, EPOCHS=20, **data), environment=inherited)
    signal.signal(signal.SIGINT, before)
    wait_for_line(process, "Epoch 2/")
    process.send_signal(signal.SIGINT)
    out, err = read_rest(process)
    assert (process.returncode, own_lines(err)) == (0, [])
    assert "Epoch 20/20" in out
    assert "Interrupted" not in out
    assert sorted(os.listdir(tmp_path)) == FILES


@on_posix
def test_ctrl_c_that_ends_the_reader_too(small_file, tmp_path, start):
    """As in `python train_mnist.py | tee log`: all is saved, nothing complains."""
    data = {"DATA_PATH": str(small_file), "HIDDEN_UNITS": (50,)}
    process = start(edited(tmp_path, EPOCHS=5000, **data))
    wait_for_line(process, "Epoch 3/")
    process.stdout.close()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert own_lines(process.stderr.read()) == []
    assert sorted(os.listdir(tmp_path)) == FILES


@on_posix
def test_terminal(small_file, tmp_path):
    """On a tty the bar; Ctrl-C ends the training, and the run goes on to its results."""
    pty = pytest.importorskip("pty")
    data = {"DATA_PATH": str(small_file), "HIDDEN_UNITS": (50,)}
    terminal, theirs = pty.openpty()
    process = start_script(
        edited(tmp_path, EPOCHS=2000, **data),
        environment={"COLUMNS": "80", "LINES": "24"},
        stdin=theirs,
        stdout=theirs,
    )
    os.close(theirs)
    with process, open(terminal, "rb", buffering=0) as screen:
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
    assert sorted(os.listdir(tmp_path)) == FILES
