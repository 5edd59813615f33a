"""The constants: their defaults, and that each is checked before anything is loaded."""

import os
import re
from fractions import Fraction
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import CONSTANTS, ROOT

import train_mnist

NAN, INF = float("nan"), float("inf")
FRACTION = [-0.1, 1, NAN, "0.5", None, True, np.True_, []], [0, 0.999, Fraction(1, 3)]
SWITCH = ["yes", 1, None], [True, False]
COUNT = [0, -5, 2.5, "200", True, None, NAN, INF]
WIDTHS = [500, "5", None, {5}, (500, 0), (2.5,), (True,), (20_001,)]
RATES = [0, -0.01, 9e-39, 1e38, NAN, INF, "0.01", None, True]
DECAYS = [-1e-6, 1e38, NAN, "0", None, False], [0, 1, 9.9e37, np.float32(0.5)]


def output(suffix):
    bad = [3, "model", "a.h5", f"no/folder/x{suffix}", f"train_mnist.py/x{suffix}"]
    return bad, [None, Path(f"x{suffix}"), f"~nobody{suffix}"]


RULES = {  # the constant: bad values, and good ones
    "DATA_PATH": ([None, 3], ["x", Path("x.npz"), "~nobody/mnist.npz"]),
    "DATA_URL": (["", None, 3], ["x"]),
    "HIDDEN_UNITS": (WIDTHS, [(), [1], (20_000, np.int64(20_000))]),
    "ACTIVATION": (["tahn", "", None, 3, "Dense", [], len], ["relu"]),
    "LEARNING_RATE": (RATES, [1e-38, 9.9e37, 1, np.float64(0.1)]),
    "BATCH_SIZE": ([*COUNT, 2**31], [1, 2**31 - 1, np.uint8(200)]),
    "EPOCHS": (COUNT, [1, 10**30]),
    "SEED": ([-1, 2**32, 1.5, "0", None, True], [0, 2**32 - 1, np.int64(3)]),
    "MODEL_PATH": output(".keras"),
    "PLOT_PATH": output(".png"),
    "LOG_PATH": output(".jsonl"),
}
for names, rule in (
    ("STANDARDIZE LINEAR_DECAY NESTEROV", SWITCH),
    ("SHIFT VALIDATION_SPLIT DROPOUT MOMENTUM", FRACTION),
    ("DECAY WEIGHT_DECAY", DECAYS),
):
    RULES |= dict.fromkeys(names.split(), rule)


def test_defaults():
    """Those of the tutorial; what it has not is off. Each constant has its rule."""
    tutorial = {"VALIDATION_SPLIT": 0.3, "HIDDEN_UNITS": (500, 500), "DROPOUT": 0.5}
    tutorial |= {"LEARNING_RATE": 0.01, "DECAY": 1e-6, "MOMENTUM": 0.9}
    tutorial |= {"BATCH_SIZE": 200, "EPOCHS": 100, "ACTIVATION": "tanh"}
    tutorial |= {"NESTEROV": True, "LINEAR_DECAY": False, "WEIGHT_DECAY": 0, "SHIFT": 0}
    assert {name: CONSTANTS[name] for name in tutorial} == tutorial
    assert {*RULES, "DATA_SHA256"} == {*CONSTANTS} == {*train_mnist.constant_names}
    train_mnist.check_constants()


@pytest.mark.parametrize("name", RULES)
def test_check(name, constants, monkeypatch):
    """A bad value is refused in one line that names the constant and shows it."""
    monkeypatch.setattr(train_mnist, "load_data", None)  # nothing is loaded
    bad, good = RULES[name]
    for value in bad:
        constants(**{name: value})
        with pytest.raises(SystemExit) as refusal:
            train_mnist.main()
        assert refusal.value.code.startswith(f"{name} = {value!r}: must be ")
        assert "\n" not in refusal.value.code
    for value in good:
        constants(**{name: value})
        train_mnist.check_constants()


@pytest.mark.parametrize("name", ["folder", "data", "file", "new"])
def test_output_that_cannot_be_written(name, tmp_path, constants, monkeypatch):
    """For root, every folder and file can be; hence the stand-in for os.access."""
    (tmp_path / "folder.keras").mkdir()
    (tmp_path / "file.keras").touch()
    path = tmp_path / f"{name}.keras"
    constants(DATA_PATH=str(tmp_path / "data.keras"), MODEL_PATH=path)
    protected = {"file": path, "new": tmp_path}.get(name)
    monkeypatch.setattr(os, "access", lambda path, mode: path != protected)
    with pytest.raises(SystemExit, match="^MODEL_PATH = .* in a writable folder$"):
        train_mnist.check_constants()


LARGE = {"SEED": 2**32 - 1, "BATCH_SIZE": 2**31 - 1, "DECAY": 9e37, "HIDDEN_UNITS": [1]}
NONE = dict.fromkeys(("MOMENTUM", "DROPOUT", "DECAY", "VALIDATION_SPLIT"), 0)
NONE |= {"ACTIVATION": "relu", "NESTEROV": False, "HIDDEN_UNITS": ()}
OF_NUMPY = {"SEED": np.int64(3), "HIDDEN_UNITS": (np.int32(30),), "EPOCHS": np.int8(1)}
OF_NUMPY |= {"LEARNING_RATE": np.float32(0.1), "DECAY": np.int64(1)}
OF_NUMPY |= {"DROPOUT": Fraction(1, 4), "BATCH_SIZE": np.uint8(200)}
LINEAR = {"LINEAR_DECAY": True, "BATCH_SIZE": 7, "STANDARDIZE": False}


@pytest.mark.parametrize("values", [LARGE, NONE, OF_NUMPY, OF_NUMPY | LINEAR])
def test_what_is_accepted_runs(values, quick, tmp_path, capsys):
    """As far as a line in the log and a saved model that can be loaded."""
    path = tmp_path / "model.keras"
    quick(MODEL_PATH=path, LOG_PATH=tmp_path / "log.jsonl", **values)
    train_mnist.main()
    keras.models.load_model(path)
    out, err = capsys.readouterr()
    assert err == ""
    assert ("val_loss" in out) == (train_mnist.VALIDATION_SPLIT > 0)


def test_where_there_is_no_file(monkeypatch, tmp_path):
    """Pasted into a notebook's cell, the script writes to the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delattr(train_mnist, "__file__")
    assert train_mnist.beside_script("a.npz") == tmp_path / "a.npz"
    assert train_mnist.beside_script("~/a.npz") == Path.home() / "a.npz"


def test_metadata_is_that_of_requirements():
    """The block by which `uv run train_mnist.py` installs what the script needs."""
    script = (ROOT / "train_mnist.py").read_text(encoding="utf-8")
    block = re.search(r"^# /// script\n((?:#.*\n)+?)# ///$", script, re.MULTILINE)[1]
    required = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    required = [line.partition("#")[0].strip() for line in required]
    assert re.findall(r'"(.*?)"', block) == [">=3.10,<3.14", *required]
