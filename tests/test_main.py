"""A run from end to end: what it prints, and how it ends: well, interrupted, refused."""

import math
import os
import re
import signal
import sys
import time

import numpy as np
import pytest
from conftest import edited, own_lines, start

import train_mnist


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
    return [re.sub(r" - \d+s - \d+m?s/step", "", line) for line in digits]


def test_printed_lines_and_repeatability(script, capsys):
    script.HIDDEN_UNITS, script.EPOCHS = (500, 500), 2
    first = run(capsys)
    text = "\n".join(first)
    assert "training images (3000, 28, 28) uint8, labels (3000,)" in text
    assert "Total params: 648,010" in text
    assert "guessing" not in text
    for epoch in 1, 2:
        line = first[first.index(f"Epoch {epoch}/2") + 1]
        losses = r" - loss: \d\.\d{4} - val_loss: \d\.\d{4}"
        assert re.fullmatch(rf"11/11 - \d+s - \d+m?s/step{losses}", line)
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
    confused = re.findall(r"(\d) read as (\d):", text)
    assert len(confused) == 5
    assert all(int(label) == (int(read) + 1) % 10 for label, read in confused)


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


@pytest.mark.parametrize("where", ["train", "evaluate"])
def test_loss_that_is_infinite_only_once(where, script, monkeypatch, capsys):
    """Either loss is enough: float16 can lose a step's loss and keep its weights."""
    real = getattr(train_mnist, where)

    def infinite(*args):
        result = real(*args)
        if where == "train":
            result[0]["loss"][-1] = math.nan
            return result
        return math.inf, *result[1:]

    monkeypatch.setattr(train_mnist, where, infinite)
    with pytest.raises(SystemExit, match="LEARNING_RATE = 0.01 is probably too high"):
        train_mnist.main()
    assert "The accuracy" not in capsys.readouterr().out


def test_no_better_than_guessing(script, capsys):
    for rate in 1000.0, 1e-7:
        script.LEARNING_RATE = rate
        text = "\n".join(run(capsys))
        assert "No better than guessing" in text
        assert f"LEARNING_RATE = {rate} may be too high or too low" in text


def test_interrupt(script, monkeypatch, tmp_path, capsys):
    """Ctrl-C in the third epoch; results, model and picture are there all the same."""
    script.EPOCHS = 50
    script.MODEL_PATH = tmp_path / "model.keras"
    script.PLOT_PATH = tmp_path / "plot.png"

    def press(handler, epoch, logs=None):
        if epoch == 2:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(train_mnist.InterruptHandler, "on_epoch_begin", press)
    before = signal.getsignal(signal.SIGINT)
    lines = run(capsys, status=130)
    assert signal.getsignal(signal.SIGINT) is before
    assert "Interrupted after 2 of 50 epochs." in lines
    assert sum(line.startswith("Epoch ") for line in lines) == 3
    assert any(line.startswith("The accuracy of the model is") for line in lines)
    assert sorted(os.listdir(tmp_path)) == ["model.keras", "plot.png"]


def test_terminal(small_file, tmp_path):
    """On a tty the bar; a Ctrl-C ends the training, and the run goes on to its results."""
    pty = pytest.importorskip("pty")
    constants = {"DATA_PATH": str(small_file), "EPOCHS": 2000, "PLOT_PATH": None}
    path = edited(tmp_path, **constants)
    ours, theirs = pty.openpty()
    size = {"COLUMNS": "80", "LINES": "24"}  # this pseudo-terminal has none
    process = start(path, environment=size, stdout=theirs, stdin=theirs)
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


def test_interrupt_during_validation(script, monkeypatch, capsys):
    """The epoch was whole by then, and no further one begins."""
    script.EPOCHS = 50

    def press(handler, logs=None):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(train_mnist.InterruptHandler, "on_test_begin", press)
    lines = run(capsys, status=130)
    assert "Interrupted after 1 of 50 epochs." in lines
    assert sum(line.startswith("Epoch ") for line in lines) == 1


def test_second_interrupt_ends_at_once(small_file, tmp_path):
    # One step takes seconds here: there is time for a second Ctrl-C.
    constants = {"DATA_PATH": str(small_file), "BATCH_SIZE": 2100}
    path = edited(tmp_path, HIDDEN_UNITS=(6000, 6000), EPOCHS=9, **constants)
    process = start(path)
    for line in process.stdout:
        if line.startswith("Epoch 1/"):
            break
    pressed = time.monotonic()
    # Two signals that come as one are one: press until it ends.
    while process.poll() is None and time.monotonic() - pressed < 30:
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
    assert time.monotonic() - pressed < 3
    out, err = process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT)
    assert "Traceback" not in err
    assert "The accuracy" not in out


def test_second_interrupt_in_an_interactive_session(script, monkeypatch, capsys):
    """It is a KeyboardInterrupt there: the kernel of a notebook must live."""
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    before = signal.getsignal(signal.SIGINT)

    def press(handler, epoch, logs=None):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(train_mnist.InterruptHandler, "on_epoch_begin", press)
    with pytest.raises(KeyboardInterrupt):
        train_mnist.main()
    assert signal.getsignal(signal.SIGINT) is before


def test_mistake_is_a_line(tmp_path):
    process = start(edited(tmp_path, EPOCHS=0))
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert own_lines(err) == ["EPOCHS = 0: must be a positive integer"]


@pytest.mark.parametrize("kind", [ValueError, OSError, RuntimeError])
def test_bug_keeps_its_traceback(kind, script, monkeypatch):
    """An error that no rule names is not dressed up as a mistake of the user's."""

    def bug(*args):
        raise kind("a bug")

    monkeypatch.setattr(train_mnist, "build_model", bug)
    with pytest.raises(kind, match="a bug"):
        train_mnist.main()


def read_until(descriptor, mark):
    """Read a pseudo-terminal up to the mark, or its end."""
    shown = b""
    while mark not in shown:
        try:
            shown += os.read(descriptor, 4096)
        except OSError:
            break
    return shown
