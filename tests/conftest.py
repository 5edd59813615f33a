"""Fixtures: the script as a module, small data, and the script's own processes."""

import signal

import numpy as np
import pytest
from helpers import ROOT, edited, end_process, own_lines, start_script

import train_mnist

# A job in the background of a shell is to ignore Ctrl-C; the tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)


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
def constants(monkeypatch):
    """Sets constants of the module, by keyword, for the time of a test."""

    def constants(**values):
        for name, value in values.items():
            assert hasattr(train_mnist, name), name
            monkeypatch.setattr(train_mnist, name, value)

    return constants


@pytest.fixture
def quick(constants, small_file):
    """Has main train a small network on small data, and write nothing."""
    constants(DATA_PATH=str(small_file), HIDDEN_UNITS=(50,), EPOCHS=1)
    constants(MODEL_PATH=None, PLOT_PATH=None)
    return constants


@pytest.fixture
def untrained(quick, monkeypatch):
    """As quick, but main goes on with these losses, of no training."""

    def untrained(train=0.3, evaluate=0.2, **values):
        quick(**values)
        history = {"loss": [train], "val_loss": [0.2]}
        results = evaluate, 0.5, np.eye(10)[np.arange(500) % 10]
        monkeypatch.setattr(train_mnist, "train", lambda *args: (history, False))
        monkeypatch.setattr(train_mnist, "evaluate", lambda *args: results)

    return untrained


@pytest.fixture
def start():
    """Starts the script in a process, which does not outlive the test."""
    processes = []

    def start(*args, **kwargs):
        processes.append(start_script(*args, **kwargs))
        return processes[-1]

    yield start
    for process in processes:
        end_process(process)


@pytest.fixture(scope="session", autouse=True)
def whole_run_started(tmp_path_factory):
    """A run on the bundled file, by a script with edited constants elsewhere.

    It begins with the first test, and runs beside the others until one wants it.
    """
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
    process = start_script(path, "-W", "always::UserWarning")
    yield folder, process
    end_process(process)


@pytest.fixture(scope="session")
def whole_run(whole_run_started):
    """The folder and the output of the run on the bundled file, when it has ended."""
    folder, process = whole_run_started
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert own_lines(err) == []
    return folder, out
