"""The script as it is on Keras's other backends, where they are installed."""

import importlib.util
import re
import signal

import numpy as np
import pytest
from conftest import edited, own_lines, start

SKIPPED = [name for name in ("jax", "torch") if not importlib.util.find_spec(name)]


@pytest.fixture(params=["jax", "torch"])
def started(request, small, tmp_path):
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


@pytest.mark.parametrize("split", [0, 0.99])
def test_nothing_held_out_or_nearly_all(split, started):
    """0.99 leaves nine images to train with, less than a batch."""
    process = started(EPOCHS=1, VALIDATION_SPLIT=split, HIDDEN_UNITS=(30,))
    out, err = process.communicate(timeout=120)
    assert (process.returncode, own_lines(err)) == (0, [])
    assert ("val_loss" in out) == (split > 0)


def test_interrupt(started, tmp_path):
    process = started(EPOCHS=5000)
    for line in process.stdout:
        if line.startswith("Epoch 3/"):
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, own_lines(err)) == (130, [])
    assert re.search(r"Interrupted after \d+ of 5000 epochs\.", out)
    assert "The accuracy of the model is" in out
    assert (tmp_path / "mnist_mlp.keras").exists()


def test_infinite_loss(started, tmp_path):
    process = started(EPOCHS=50, ACTIVATION="relu", LEARNING_RATE=1e30)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    (line,) = own_lines(err)
    assert "LEARNING_RATE = 1e+30" in line
    assert "The accuracy" not in out
    assert not (tmp_path / "mnist_mlp.keras").exists()
