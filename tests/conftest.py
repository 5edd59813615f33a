"""What the tests share: the script as a module, small data, and its own process."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
sys.dont_write_bytecode = True

import train_mnist


@pytest.fixture(scope="session")
def mnist():
    """The bundled file's arrays, as load_data returns them."""
    return train_mnist.load_data(ROOT / "mnist.npz")


@pytest.fixture(scope="session")
def small(mnist):
    """The four arrays of a small data set: 3,000 and 500 of MNIST's images."""
    (x_train, y_train), (x_test, y_test) = mnist
    return {
        "x_train": x_train[:3000],
        "y_train": y_train[:3000],
        "x_test": x_test[:500],
        "y_test": y_test[:500],
    }


@pytest.fixture(scope="session")
def small_file(small, tmp_path_factory):
    """The small data set as an npz file."""
    path = tmp_path_factory.mktemp("data") / "small.npz"
    np.savez_compressed(path, **small)
    return path


@pytest.fixture
def script(small_file, monkeypatch):
    """The module, set to train a small network on small data and to write nothing."""
    monkeypatch.setattr(train_mnist, "DATA_PATH", str(small_file))
    monkeypatch.setattr(train_mnist, "HIDDEN_UNITS", (50,))
    monkeypatch.setattr(train_mnist, "EPOCHS", 1)
    monkeypatch.setattr(train_mnist, "MODEL_PATH", None)
    monkeypatch.setattr(train_mnist, "PLOT_PATH", None)
    return monkeypatch_proxy(monkeypatch)


def monkeypatch_proxy(monkeypatch):
    """An object whose attributes are the module's, set for the time of a test."""

    class Script:
        def __getattr__(self, name):
            return getattr(train_mnist, name)

        def __setattr__(self, name, value):
            monkeypatch.setattr(train_mnist, name, value)

    return Script()


def edited(folder, **constants):
    """Copy the script to a folder with constants edited by hand; return its path."""
    lines = (ROOT / "train_mnist.py").read_text(encoding="utf-8").splitlines()
    for name, value in constants.items():
        at = [i for i, line in enumerate(lines) if line.startswith(f"{name} = ")]
        assert len(at) == 1, name
        comment = lines[at[0]].partition("  # ")[2]
        lines[at[0]] = f"{name} = {value!r}  # {comment}"
    path = Path(folder) / "train_mnist.py"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def start(path, *options, environment=(), **kwargs):
    """Start the script as a user does, from another folder than its own."""
    kwargs.setdefault("stdout", subprocess.PIPE)
    kwargs.setdefault("stderr", subprocess.PIPE)
    changes = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUTF8": "1", **dict(environment)}
    command = [sys.executable, *options, str(path)]
    kwargs["env"] = {**os.environ, **changes}
    return subprocess.Popen(command, cwd="/", text=True, **kwargs)


def own_lines(stderr):
    """The lines of stderr that are not TensorFlow's start-up notes."""
    notes = ("WARNING: All log messages before", "I0000 ", "E0000 ", "W0000 ")
    return [line for line in stderr.splitlines() if not line.startswith(notes)]


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A run on the bundled file, as a script with edited constants elsewhere."""
    folder = tmp_path_factory.mktemp("run")
    path = edited(
        folder,
        DATA_PATH=str(ROOT / "mnist.npz"),
        EPOCHS=2,
        LEARNING_RATE=0.05,
        DROPOUT=0.25,
        MODEL_PATH="model.keras",
        PLOT_PATH="plot.png",
    )
    process = start(path, "-W", "always::UserWarning", "-W", "always::FutureWarning")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return folder, out, err
