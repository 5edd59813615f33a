"""Every constant is checked before anything is loaded or trained."""

from pathlib import Path

import keras
import numpy as np
import pytest

import train_mnist

NAN, INF = float("nan"), float("inf")
COUNTS = [0, -5, 2.5, "200", True, None, NAN, INF, 200.0]
SHARES = [-0.1, 1, 1.0, 1.5, NAN, INF, "0.5", None, True]
BAD = {
    "SEED": [-1, 2**32, 1.5, "0", None, True],
    "DATA_PATH": ["", None, 3],
    "DATA_URL": ["", None],
    "DATA_SHA256": ["", None, "731c"],
    "STANDARDIZE": ["yes", 1, None],
    "VALIDATION_SPLIT": SHARES,
    "HIDDEN_UNITS": [500, (500, 0), (500, -5), (2.5,), ("200",), (True,), (None,), "5"],
    "ACTIVATION": ["tahn", "", None, 3, "Dense", "glu", "threshold"],
    "DROPOUT": SHARES,
    "DTYPE_POLICY": ["float31", "bfloat", "", None, "int32", 32],
    "LEARNING_RATE": [0, 0.0, -0.01, NAN, INF, "0.01", None, True],
    "DECAY": [-1e-6, NAN, INF, "0", None],
    "MOMENTUM": SHARES,
    "NESTEROV": ["no", None],
    "BATCH_SIZE": COUNTS,
    "EPOCHS": COUNTS,
    "MODEL_PATH": ["", "model.h5", "model", "no/such/folder/model.keras", 3],
    "PLOT_PATH": ["", "plot.jpg", "plot", "no/such/folder/plot.png", 3],
}


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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SEED", 0),
        ("SEED", 2**32 - 1),
        ("VALIDATION_SPLIT", 0),
        ("HIDDEN_UNITS", (300,)),
        ("HIDDEN_UNITS", [800, 400, 200]),
        ("DROPOUT", 0),
        ("DTYPE_POLICY", "mixed_bfloat16"),
        ("LEARNING_RATE", 1),
        ("LEARNING_RATE", np.float32(0.1)),
        ("DECAY", 0),
        ("MOMENTUM", 0),
        ("NESTEROV", False),
        ("BATCH_SIZE", np.int64(64)),
        ("MODEL_PATH", None),
        ("PLOT_PATH", None),
    ],
)
def test_accepted(name, value, monkeypatch):
    monkeypatch.setattr(train_mnist, name, value)
    train_mnist.check_constants()


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
