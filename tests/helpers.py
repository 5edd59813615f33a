"""What several test files use: the script's folder, edited copies, small data."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
CONSTANTS = {
    "DATA_PATH": "mnist.npz",
    "DATA_URL": (
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
    ),
    "DATA_SHA256": "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1",
    "STANDARDIZE": True,
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
}


def edited(folder, **constants):
    """Copy the script to a folder with constants edited by hand; return its path."""
    lines = (ROOT / "train_mnist.py").read_text(encoding="utf-8").splitlines()
    for name, value in constants.items():
        (at,) = [i for i, line in enumerate(lines) if line.startswith(f"{name} = ")]
        comment = lines[at].partition("  # ")[2]
        lines[at] = f"{name} = {value!r}  # {comment}"
    path = Path(folder) / "train_mnist.py"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def start_script(path, *options, environment=(), **kwargs):
    """Start the script as a user does, from another folder than its own."""
    kwargs.setdefault("stdout", subprocess.PIPE)
    kwargs.setdefault("stderr", subprocess.PIPE)
    changes = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUTF8": "1", **dict(environment)}
    command = [sys.executable, *options, str(path)]
    kwargs["env"] = {**os.environ, **changes}
    return subprocess.Popen(command, cwd="/", text=True, **kwargs)


def end_process(process):
    """Have a process end, whatever it does, and close its pipes."""
    process.kill()
    process.wait()
    for pipe in filter(None, (process.stdout, process.stderr)):
        pipe.close()


def own_lines(stderr):
    """The lines of stderr that are not TensorFlow's start-up notes."""
    notes = ("WARNING: All log messages before", "I0000 ", "E0000 ", "W0000 ")
    return [line for line in stderr.splitlines() if not line.startswith(notes)]


def wait_for_line(process, start):
    """Read what a process prints up to a line that begins so."""
    for line in process.stdout:
        if line.startswith(start):
            return
    raise AssertionError(f"ended without a line {start!r}")


def read_rest(process):
    """Wait for a process to end; return what of stdout is not yet read, and stderr.

    communicate would lose what wait_for_line has read ahead.
    """
    out, err = process.stdout.read(), process.stderr.read()
    process.wait()
    return out, err


def confusion_matrix(labels, predictions):
    """How often each label was read as each digit, (10, 10)."""
    return np.histogram2d(labels, predictions, np.arange(11))[0].astype(int)


@contextlib.contextmanager
def file_size_limit(count):
    """Let this process write no file of more than so many bytes."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


sys.path.insert(0, str(ROOT))
sys.dont_write_bytecode = True
os.environ.pop("TF_CPP_MIN_LOG_LEVEL", None)
