"""The script as it is on Keras's other backends, where they are installed.

CI runs this with JAX, where TensorFlow is not installed. With PyTorch it is run by
hand: in an environment with torch, `KERAS_BACKEND=torch python -m pytest` this file.
"""

import importlib.util
import os
import re
import signal

import numpy as np
import pytest
from helpers import edited, own_lines, read_rest, wait_for_line

SKIPPED = [name for name in ("jax", "torch") if not importlib.util.find_spec(name)]


@pytest.fixture(params=["jax", "torch"])
def started(request, small, tmp_path, start):
    """Starts the script on a backend, with batches and splits that leave a rest."""
    if request.param in SKIPPED:
        pytest.skip(f"{request.param} is not installed")
    arrays = {name: array[:990] for name, array in small.items()}
    np.savez(tmp_path / "data.npz", **arrays)

    def started(**constants):
        path = edited(tmp_path, DATA_PATH="data.npz", BATCH_SIZE=37, **constants)
        backend = {"KERAS_BACKEND": request.param}
        return start(path, "-W", "always::UserWarning", environment=backend)

    return started


def test_a_run(started, tmp_path):
    process = started(EPOCHS=2)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, own_lines(err)) == (0, [])
    assert float(re.search(r"The accuracy of the model is (.*)", out)[1]) > 0.5
    assert (tmp_path / "mnist_mlp.keras").exists()
    assert (tmp_path / "mnist_mlp.png").exists()


@pytest.mark.parametrize("dtype", [">i8", "float64"])
@pytest.mark.parametrize("split", [0, 0.99])
def test_nothing_held_out_or_nearly_all(split, dtype, started, tmp_path):
    """0.99 leaves nine images to train with, less than a batch."""
    process_constants = {"EPOCHS": 1, "HIDDEN_UNITS": (30,), "VALIDATION_SPLIT": split}
    with np.load(tmp_path / "data.npz") as data:
        arrays = dict(data)
    for name in "x_train", "x_test":
        arrays[name] = arrays[name].astype(dtype)
    np.savez(tmp_path / "data.npz", **arrays)
    process = started(**process_constants)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, own_lines(err)) == (0, [])
    assert ("val_loss" in out) == (split > 0)


def test_interrupt(started, tmp_path):
    process = started(EPOCHS=5000)
    wait_for_line(process, "Epoch 3/")
    process.send_signal(signal.SIGINT)
    out, err = read_rest(process)
    assert (process.returncode, own_lines(err)) == (130, [])
    assert re.search(r"Interrupted in epoch \d+ of 5000\.", out)
    assert "The accuracy of the model is" in out
    assert (tmp_path / "mnist_mlp.keras").exists()


def test_interrupt_that_ends_the_reader_too(started, tmp_path):
    process = started(EPOCHS=5000)
    wait_for_line(process, "Epoch 3/")
    process.stdout.close()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert own_lines(process.stderr.read()) == []
    assert {"mnist_mlp.keras", "mnist_mlp.png"} < set(os.listdir(tmp_path))


def test_infinite_loss(started, tmp_path):
    process = started(EPOCHS=50, ACTIVATION="relu", LEARNING_RATE=1e30)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    (line,) = own_lines(err)
    assert "LEARNING_RATE = 1e+30" in line
    assert "The accuracy" not in out
    assert not (tmp_path / "mnist_mlp.keras").exists()
