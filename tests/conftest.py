"""Fixtures: small data, constants for the time of a test, the script's processes."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT, edited

import train_mnist

# A job in the background of a shell is to ignore Ctrl-C; the tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def small():
    """The four arrays of a small data set: 3,000 and 500 of MNIST's images."""
    with np.load(ROOT / "mnist.npz") as data:
        return {k: data[k][: 3000 if "train" in k else 500] for k in data.files}


@pytest.fixture(scope="session")
def small_file(small, tmp_path_factory):
    """The small data set as an npz file."""
    path = tmp_path_factory.mktemp("data") / "small.npz"
    np.savez_compressed(path, **small)
    return path


@pytest.fixture
def constants(monkeypatch):
    """Sets constants of the module, by keyword, for the time of a test."""

    def constants(**values):
        for name, value in values.items():
            monkeypatch.setattr(train_mnist, name, value)

    return constants


@pytest.fixture
def quick(constants, small_file):
    """Has main train a small network on small data, and write nothing."""
    constants(DATA_PATH=str(small_file), HIDDEN_UNITS=(50,), EPOCHS=1)
    constants(MODEL_PATH=None, PLOT_PATH=None, LOG_PATH=None)
    return constants


@pytest.fixture
def main(quick, capsys):
    """Runs main with constants; returns its results and what it printed."""

    def main(**values):
        quick(**values)
        return train_mnist.main(), capsys.readouterr().out

    return main


@pytest.fixture
def copy(small_file, tmp_path):
    """Copies the script, edited, with a small network and small data."""
    small = {"DATA_PATH": str(small_file), "HIDDEN_UNITS": (50,)}
    return lambda *edits, **constants: edited(tmp_path, *edits, **small, **constants)


@pytest.fixture(scope="session")
def start():
    """Starts a program as a user does, from another folder than its own."""
    processes = []

    def start(path, **environment):
        command = [sys.executable, "-W", "always::UserWarning", str(path)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        place = {"cwd": path.anchor, "env": {**os.environ, **environment}}
        processes.append(subprocess.Popen(command, **pipes, **place))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()


@pytest.fixture(scope="session")
def whole_run(start, tmp_path_factory):
    """The folder and the output of a run on the bundled file."""
    folder = tmp_path_factory.mktemp("run")
    data = {"DATA_PATH": str(ROOT / "mnist.npz"), "EPOCHS": 2}
    path = edited(folder, LEARNING_RATE=0.05, DROPOUT=0.25, **data)
    process = start(path)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0 and "UserWarning" not in err, err
    return folder, out
