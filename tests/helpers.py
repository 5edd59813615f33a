"""What several test files use: the script's folder, edited copies, its processes."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CONSTANTS = {
    "DATA_PATH": "mnist.npz",
    "DATA_URL": (
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
    ),
    "DATA_SHA256": "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1",
    "STANDARDIZE": True,
    "SHIFT": 0.0,
    "VALIDATION_SPLIT": 0.3,
    "HIDDEN_UNITS": (500, 500),
    "ACTIVATION": "tanh",
    "DROPOUT": 0.5,
    "LEARNING_RATE": 0.01,
    "DECAY": 1e-6,
    "MOMENTUM": 0.9,
    "NESTEROV": True,
    "BATCH_SIZE": 200,
    "EPOCHS": 100,
    "SEED": 0,
    "MODEL_PATH": "mnist_mlp.keras",
    "PLOT_PATH": "mnist_mlp.png",
    "LOG_PATH": "mnist_mlp.jsonl",
}
on_posix = pytest.mark.skipif(
    os.name != "posix", reason="Windows can't send Ctrl-C to one process alone"
)


def edited(folder, *edits, **constants):
    """Copy the script to a folder, edited by hand; return its path.

    An edit is a pair: the text to find, once in the script, and the text to put there.
    """
    script = (ROOT / "train_mnist.py").read_text(encoding="utf-8")
    for old, new in edits:
        assert script.count(old) == 1, old
        script = script.replace(old, new)
    lines = script.splitlines()
    for name, value in constants.items():
        (at,) = [i for i, line in enumerate(lines) if line.startswith(f"{name} = ")]
        lines[at] = f"{name} = {value!r}  # edited"
    path = Path(folder) / "train_mnist.py"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def load(path):
    """Import a copy of the script as a module of its own."""
    spec = importlib.util.spec_from_file_location("copy_of_train_mnist", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def start_script(path, *options, environment=(), **kwargs):
    """Start the script as a user does, from another folder than its own."""
    changes = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUTF8": "1", **dict(environment)}
    kwargs = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **kwargs}
    kwargs["env"] = {**os.environ, **changes}
    command = [sys.executable, *options, str(path)]
    return subprocess.Popen(command, cwd=Path(path).anchor, text=True, **kwargs)


def end_process(process):
    """Have a process end, whatever it does, and close its pipes."""
    process.kill()
    process.wait()
    for pipe in filter(None, (process.stdout, process.stderr)):
        pipe.close()


def own_lines(stderr):
    """The lines of stderr that are not TensorFlow's notes."""
    notes = ("WARNING: All log messages before", "I0000 ", "E0000 ", "W0000 ")
    lines = [line for line in stderr.splitlines() if not line.startswith(notes)]
    return [line for line in lines if " tensorflow/c" not in line]


def wait_for_line(process, start):
    """Read what a process prints up to a line that begins so."""
    for line in process.stdout:
        if line.startswith(start):
            return
    raise AssertionError(f"ended without a line {start!r}: {process.stderr.read()}")


def read_rest(process):
    """Wait for a process to end; return what of stdout is not yet read, and stderr.

    communicate would lose what wait_for_line has read ahead.
    """
    out, err = process.stdout.read(), process.stderr.read()
    process.wait()
    return out, err
