"""The script as it is on Keras's other backends, where they are installed.

CI runs this with JAX, where TensorFlow is not installed. With PyTorch it is run by
hand: in an environment with torch, `KERAS_BACKEND=torch python -m pytest` this file.
"""

import importlib.util
import os
import signal

import numpy as np
import pytest
from helpers import FILES, edited, on_posix, result, wait_for_line


@pytest.fixture(params=["jax", "torch"])
def started(request, small, tmp_path, start):
    """Starts the script on a backend, with batches and splits that leave a rest."""
    if not importlib.util.find_spec(request.param):
        pytest.skip(f"{request.param} is not installed")

    def started(dtype="uint8", **constants):
        arrays = {name: array[:990] for name, array in small.items()}
        for name in "x_train", "x_test":
            arrays[name] = arrays[name].astype(dtype)
        np.savez(tmp_path / "data.npz", **arrays)
        path = edited(tmp_path, DATA_PATH="data.npz", BATCH_SIZE=37, **constants)
        return start(path, {"KERAS_BACKEND": request.param})

    return started


@pytest.mark.parametrize(
    ("dtype", "constants"),
    [
        ("uint8", {"EPOCHS": 2, "SHIFT": 0.05}),
        (">i8", {"EPOCHS": 1, "VALIDATION_SPLIT": 0}),
        ("float64", {"EPOCHS": 1, "VALIDATION_SPLIT": 0.99}),  # leaves nine images
    ],
)
def test_a_run(dtype, constants, started, tmp_path):
    status, out, err = result(started(dtype, **constants))
    assert (status, err) == (0, [])
    assert ("val_loss" in out) == (constants.get("VALIDATION_SPLIT") != 0)
    if dtype == "uint8":
        assert float(out.partition("accuracy of the model is ")[2].split()[0]) > 0.5
    assert {*FILES} < {*os.listdir(tmp_path)}


@on_posix
@pytest.mark.parametrize("reader", [True, False])
def test_ctrl_c(reader, started, tmp_path):
    """Also where it ends the reader of the output, as in `... | tee log`."""
    process = started(EPOCHS=5000)
    wait_for_line(process, "Epoch 3/")
    if not reader:
        process.stdout.close()
    process.send_signal(signal.SIGINT)
    status, out, err = result(process)
    assert (status, err) == (130, [])
    assert ("Interrupted in epoch " in out) == reader
    assert {*FILES} < {*os.listdir(tmp_path)}


def test_loss_that_is_not_finite(started, tmp_path):
    process = started(EPOCHS=50, ACTIVATION="relu", LEARNING_RATE=1e30)
    status, out, (line,) = result(process)
    assert (status, "LEARNING_RATE = 1e+30" in line) == (1, True)
    assert "The accuracy" not in out
    assert not {*FILES} & {*os.listdir(tmp_path)}
