"""Every constant is checked before anything is loaded or trained."""

import os
from fractions import Fraction
from pathlib import Path

import keras
import numpy as np
import pytest

import train_mnist

NAN, INF = float("nan"), float("inf")
COUNTS = [0, -5, 2.5, "200", True, None, NAN, INF, 200.0]
NO_FILES = ["no/such/folder/x", "a" * 300, "nul\0byte", "train_mnist.py/x"]
SHARES = [-0.1, 1, 1.0, 1.5, NAN, INF, "0.5", None, True]
BAD = {
    "SEED": [-1, 2**32, 1.5, "0", None, True],
    "DATA_PATH": ["", None, 3, "~no-such-user/mnist.npz"],
    "DATA_URL": ["", None],
    "DATA_SHA256": ["", None, "731c", "g" * 64, "0" * 63 + "\n", 10**63],
    "STANDARDIZE": ["yes", 1, None],
    "VALIDATION_SPLIT": SHARES,
    "HIDDEN_UNITS": [500, (500, 0), (500, -5), (2.5,), ("200",), (True,), (None,), "5"],
    "ACTIVATION": ["tahn", "", None, 3, "Dense", "glu", "threshold"],
    "DROPOUT": SHARES,
    "DTYPE_POLICY": ["float31", "bfloat", "", None, "int32", 32],
    "LEARNING_RATE": [0, 0.0, -0.01, NAN, INF, 10**400, "0.01", None, True],
    "DECAY": [-1e-6, NAN, INF, 10**400, "0", None, False],
    "MOMENTUM": SHARES,
    "NESTEROV": ["no", None],
    "BATCH_SIZE": COUNTS,
    "EPOCHS": COUNTS,
    "MODEL_PATH": ["model.h5", "~model.keras", *(f"{x}.keras" for x in NO_FILES)],
    "PLOT_PATH": ["plot.jpg", "~plot.png", *(f"{x}.png" for x in NO_FILES)],
}
BAD["MODEL_PATH"] += ["", "model", 3]
BAD["PLOT_PATH"] += ["", "plot", 3, True]


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name in BAD for value in BAD[name]]
)
def test_refused(name, value, monkeypatch):
    monkeypatch.setattr(train_mnist, name, value)
    monkeypatch.setattr(train_mnist, "load_data", None)  # nothing is loaded
    with pytest.raises(SystemExit) as refusal:
        train_mnist.main()
    line = refusal.value.code
    assert line.startswith(f"{name} = {value!r}: must be ")
    assert "\n" not in line


def test_output_is_not_a_folder_or_the_data(tmp_path, monkeypatch):
    (tmp_path / "folder.keras").mkdir()
    (tmp_path / "data.keras").touch()
    monkeypatch.setattr(train_mnist, "DATA_PATH", str(tmp_path / "data.keras"))
    for name in "folder.keras", "data.keras":
        monkeypatch.setattr(train_mnist, "MODEL_PATH", str(tmp_path / name))
        with pytest.raises(SystemExit, match="^MODEL_PATH = "):
            train_mnist.check_constants()


def test_output_folder_must_be_writable(tmp_path, monkeypatch):
    """Noticed before the training, and by trying: root may write where modes say no."""
    folder = tmp_path / "folder"
    folder.mkdir()
    if os.name == "posix" and os.geteuid() == 0:
        folder = Path("/proc")
    else:
        folder.chmod(0o500)
    if not folder.is_dir():
        pytest.skip("no folder here that cannot be written to")
    monkeypatch.setattr(train_mnist, "PLOT_PATH", folder / "plot.png")
    with pytest.raises(SystemExit, match="^PLOT_PATH = .* in a folder that can be wr"):
        train_mnist.check_constants()


def test_check_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(train_mnist, "MODEL_PATH", tmp_path / "model.keras")
    train_mnist.check_constants()
    assert list(tmp_path.iterdir()) == []


NUMPY_NUMBERS = {
    "SEED": np.int64(1),
    "VALIDATION_SPLIT": np.float32(0.3),
    "HIDDEN_UNITS": (np.int64(30), np.uint8(20)),
    "DROPOUT": np.float16(0.5),
    "LEARNING_RATE": np.float32(0.1),
    "DECAY": np.int64(1),
    "MOMENTUM": np.float64(0.9),
    "BATCH_SIZE": np.int64(64),
    "EPOCHS": np.uint8(1),
}
FRACTIONS = {
    "VALIDATION_SPLIT": Fraction(1, 3),
    "DROPOUT": Fraction(1, 2),
    "LEARNING_RATE": Fraction(1, 100),
    "DECAY": Fraction(1, 1000),
    "MOMENTUM": Fraction(9, 10),
}
EXTREMES = {
    "SEED": 2**32 - 1,
    "DATA_SHA256": "731C" * 16,
    "BATCH_SIZE": 10**30,
    "HIDDEN_UNITS": [1],
    "DECAY": 1e37,
}


@pytest.mark.parametrize("constants", [NUMPY_NUMBERS, FRACTIONS, EXTREMES])
def test_what_is_accepted_runs(constants, script, tmp_path):
    """As far as a saved model that can be loaded, whose file has no room for NumPy."""
    script.MODEL_PATH = tmp_path / "model.keras"
    for name, value in constants.items():
        setattr(script, name, value)
    train_mnist.main()
    keras.models.load_model(tmp_path / "model.keras")


def test_any_activation_of_keras_that_fits_is_accepted(monkeypatch):
    names = [name for name in dir(keras.activations) if name[0].islower()]
    names = set(names) - {"get", "serialize", "deserialize"}
    names -= {"glu", "threshold"}  # one halves the width, one wants parameters
    assert len(names) > 20
    for name in names:
        monkeypatch.setattr(train_mnist, "ACTIVATION", name)
        train_mnist.check_constants()


def test_constants_are_one_to_a_line_with_a_comment():
    text = Path(train_mnist.__file__).read_text(encoding="utf-8")
    for name in BAD:
        assert f"\n{name} = " in text
        line = text.partition(f"\n{name} = ")[2].splitlines()[0]
        assert "  # " in line
