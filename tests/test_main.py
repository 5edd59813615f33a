"""A run from end to end: what it prints, and how it ends: well, interrupted, refused."""

import importlib.util
import math
import os
import re
import runpy
import signal
import sys

import numpy as np
import pytest
from helpers import (
    edited,
    end_process,
    own_lines,
    read_rest,
    start_script,
    wait_for_line,
)

import train_mnist


def run_main(capsys, status=None):
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


@pytest.fixture(scope="module", autouse=os.name == "posix")
def jobs(small_file, tmp_path_factory):
    """Three runs that end in three ways, side by side: {name: (folder, process)}.

    They begin with the first test, and start up beside it.
    """
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    size = {"COLUMNS": "80", "LINES": "24"}  # this pseudo-terminal has none
    inherited = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    if importlib.util.find_spec("matplotlib_inline"):
        inherited = {"MPLBACKEND": "nothing_that_exists"}
    jobs = {}
    for name, epochs, environment, options in (
        ("background", 20, inherited, {}),
        ("reader", 5000, {}, {}),
        ("terminal", 2000, size, {"stdout": theirs, "stdin": theirs}),
    ):
        folder = tmp_path_factory.mktemp(name)
        data = {"DATA_PATH": str(small_file), "HIDDEN_UNITS": (50,)}
        path = edited(folder, EPOCHS=epochs, **data)
        if name == "background":  # a shell has its jobs ignore Ctrl-C
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        process = start_script(path, environment=environment, **options)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        jobs[name] = folder, process
    os.close(theirs)
    jobs["terminal"] += (ours,)
    yield jobs
    for _, process, *_ in jobs.values():
        end_process(process)
    os.close(ours)


def test_printed_lines_and_repeatability(quick, capsys):
    quick(EPOCHS=2)
    first = run_main(capsys)
    assert first[0] == "training images (3000, 28, 28) uint8, labels (3000,)"
    assert first[1] == "test images     (500, 28, 28) uint8, labels (500,)"
    text = "\n".join(first)
    assert "Total params: 39,760" in text
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
    assert results(run_main(capsys)) == results(first)
    quick(SEED=1)
    assert results(run_main(capsys)) != results(first)


def test_background_job_with_the_backend_of_a_notebook(jobs):
    """A shell has its jobs ignore Ctrl-C; `!python` inherits MPLBACKEND."""
    folder, process = jobs["background"]
    wait_for_line(process, "Epoch 2/")
    process.send_signal(signal.SIGINT)
    out, err = read_rest(process)
    assert (process.returncode, own_lines(err)) == (0, [])
    assert "Epoch 20/20" in out
    assert "Interrupted" not in out
    left = sorted(os.listdir(folder))
    if old_matplotlib():
        assert "mnist_mlp.png" in left
        return
    assert re.search(r"^No picture: .*, or unset MPLBACKEND \(", out, re.MULTILINE)
    assert left == ["mnist_mlp.keras", "train_mnist.py"]


def old_matplotlib():
    """Before 3.9 it took any module:// for a backend."""
    import matplotlib

    given_by_name = importlib.util.find_spec("matplotlib_inline")
    return matplotlib.__version_info__[:2] < (3, 9) and not given_by_name


def test_interrupt_that_ends_the_reader_too(jobs):
    """As in `python train_mnist.py | tee log`: all is saved, nothing complains."""
    folder, process = jobs["reader"]
    wait_for_line(process, "Epoch 3/")
    process.stdout.close()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert own_lines(process.stderr.read()) == []
    left = sorted(os.listdir(folder))
    assert left == ["mnist_mlp.keras", "mnist_mlp.png", "train_mnist.py"]


def test_terminal(jobs):
    """On a tty the bar; a Ctrl-C ends the training, and the run goes on to its results."""
    folder, process, terminal = jobs["terminal"]
    shown = read_until(terminal, b"Epoch 2/2000")
    process.send_signal(signal.SIGINT)
    shown += read_until(terminal, b"mnist_mlp.png")
    assert process.wait(60) == 130
    assert own_lines(process.stderr.read()) == []
    text = shown.decode()
    assert "\x1b[32m" in text
    assert re.search(r"Interrupted in epoch \d+ of 2000\.", text)
    assert text.index("Interrupted") < text.index("The accuracy of the model is")
    assert (folder / "mnist_mlp.keras").exists()


def test_main_returns_the_printed_results(quick, capsys):
    """A notebook can collect them in a sweep; a batch of few images is as good."""
    quick(STANDARDIZE=False, BATCH_SIZE=7, HIDDEN_UNITS=())
    loss, accuracy = train_mnist.main()
    text = capsys.readouterr().out
    assert f"The test loss is {loss:f}\n" in text
    assert f"The accuracy of the model is {accuracy:f}\n" in text
    assert (type(loss), type(accuracy)) == (float, float)


def test_accuracy_is_of_the_test_set(quick, small, tmp_path, capsys):
    """Shifted by one, the labels of the test set alone make nearly all wrong."""
    changed = {**small, "y_test": (small["y_test"] + 1) % 10}
    np.savez(tmp_path / "shifted.npz", **changed)
    quick(DATA_PATH=tmp_path / "shifted.npz")
    text = "\n".join(run_main(capsys))
    assert float(re.search(r"accuracy of the model is (.*)", text)[1]) < 0.2
    confused = re.findall(r"(\d) read as (\d):", text)
    assert len(confused) == 5
    assert all(int(label) == (int(read) + 1) % 10 for label, read in confused)


@pytest.mark.parametrize(
    "values",
    [
        {"MOMENTUM": 0, "DROPOUT": 0, "DECAY": 0, "VALIDATION_SPLIT": 0},
        {"BATCH_SIZE": 5000, "ACTIVATION": "relu", "NESTEROV": False},
    ],
)
def test_other_constants_work(values, quick, capsys):
    quick(**values)
    text = "\n".join(run_main(capsys))
    assert ("val_loss" in text) == (train_mnist.VALIDATION_SPLIT > 0)
    assert math.isfinite(float(re.search(r"The test loss is (.*)", text)[1]))


@pytest.mark.parametrize("dtype", [">i2", "float64"])
def test_other_data_is_trained_on(dtype, quick, small, tmp_path, capsys):
    """Images of another size and dtype, labels of another, digits that are missing."""
    arrays = {k: v[v.shape[0] // 2 :] for k, v in small.items()}
    for name in "x_train", "x_test":
        arrays[name] = (arrays[name][:, ::2, ::3] // 2).astype(dtype)
    for name in "y_train", "y_test":
        arrays[name] = arrays[name].astype(dtype if dtype[0] != "f" else "uint8") % 4
    np.savez(tmp_path / "other.npz", **arrays)
    quick(DATA_PATH=tmp_path / "other.npz", PLOT_PATH=tmp_path / "other.png")
    text = "\n".join(run_main(capsys))
    assert "training images (1500, 14, 10) float32, labels (1500,)" in text
    assert float(re.search(r"accuracy of the model is (.*)", text)[1]) > 0.3
    assert (tmp_path / "other.png").exists()


def test_infinite_loss_stops_and_saves_nothing(quick, tmp_path, capsys):
    quick(ACTIVATION="relu", LEARNING_RATE=1e30, EPOCHS=50)
    quick(MODEL_PATH=tmp_path / "model.keras")
    with pytest.raises(SystemExit) as refused:
        train_mnist.main()
    line = "LEARNING_RATE = 1e+30 is probably too high"
    assert refused.value.code == f"Loss NaN or infinite: {line}"
    out = capsys.readouterr().out
    assert out.count("Epoch ") < 3
    assert "The accuracy" not in out
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("where", "bad"), [("train", math.inf), ("evaluate", math.nan)]
)
def test_loss_that_is_infinite_only_once(where, bad, untrained, capsys):
    """Either loss is enough."""
    untrained(**{where: bad})
    with pytest.raises(SystemExit, match="LEARNING_RATE = 0.01 is probably too high"):
        train_mnist.main()
    assert "The accuracy" not in capsys.readouterr().out


def test_no_better_than_guessing(quick, capsys):
    quick(LEARNING_RATE=1e-37)
    text = "\n".join(run_main(capsys))
    assert "No better than guessing" in text
    assert "LEARNING_RATE = 1e-37 may be too high or too low" in text


def test_interrupt(quick, monkeypatch, tmp_path, capsys):
    """Ctrl-C in the third epoch; results, model and picture are there all the same."""
    quick(EPOCHS=50, MODEL_PATH=tmp_path / "model.keras")
    quick(PLOT_PATH=tmp_path / "plot.png")

    def press(handler, epoch, logs=None):
        if epoch == 2:
            signal.raise_signal(signal.SIGINT)

    handler = train_mnist.InterruptHandler
    monkeypatch.setattr(handler, "on_epoch_begin", press)
    before = signal.getsignal(signal.SIGINT)
    lines = run_main(capsys, status=130)
    assert signal.getsignal(signal.SIGINT) is before
    assert "Interrupted in epoch 3 of 50." in lines
    assert sum(line.startswith("Epoch ") for line in lines) == 3
    assert any(line.startswith("The accuracy of the model is") for line in lines)
    assert sorted(os.listdir(tmp_path)) == ["model.keras", "plot.png"]
    assert "guessing" not in "\n".join(lines)


def test_interrupt_during_validation(quick, monkeypatch, capsys):
    """The epoch was whole by then, and no further one begins."""
    quick(EPOCHS=50)

    def press(handler, logs=None):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(train_mnist.InterruptHandler, "on_test_begin", press)
    lines = run_main(capsys, status=130)
    assert "Interrupted in epoch 1 of 50." in lines
    assert sum(line.startswith("Epoch ") for line in lines) == 1


def test_second_interrupt_acts_as_usual(quick, monkeypatch, capsys):
    """A KeyboardInterrupt, which the kernel of a notebook survives."""
    before = signal.getsignal(signal.SIGINT)

    def press(handler, epoch, logs=None):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(train_mnist.InterruptHandler, "on_epoch_begin", press)
    with pytest.raises(KeyboardInterrupt):
        train_mnist.main()
    assert signal.getsignal(signal.SIGINT) is before


def test_closed_stdout(small_file, tmp_path, monkeypatch):
    """After `>&-` Python has no stdout: all is written, and nothing complains."""
    path = edited(tmp_path, DATA_PATH=str(small_file), EPOCHS=1, HIDDEN_UNITS=(50,))
    monkeypatch.setattr(sys, "stdout", None)
    runpy.run_path(str(path), run_name="__main__")
    left = sorted(os.listdir(tmp_path))
    assert left == ["mnist_mlp.keras", "mnist_mlp.png", "train_mnist.py"]


def test_mistake_is_a_line(tmp_path, capsys):
    """Of a script, sys.exit writes it to stderr, with status 1."""
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(edited(tmp_path, EPOCHS=0)), run_name="__main__")
    assert end.value.code == "EPOCHS = 0: must be a positive int"
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("kind", [ValueError, OSError, RuntimeError])
def test_bug_keeps_its_traceback(kind, quick, monkeypatch):
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
