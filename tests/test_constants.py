"""The constants: their defaults, and that a wrong one is refused before the training."""

import os
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import CONSTANTS, ROOT

import train_mnist

NAN = float("nan")
WRONG = [
    *(("EPOCHS", x) for x in (0, -1, 2.5, None)),
    *(("BATCH_SIZE", x) for x in (0, -5, 2.5, "200")),
    *(("VALIDATION_SPLIT", x) for x in (1.0, -0.1, NAN, 0.9999)),
    *(("DROPOUT", x) for x in (1.0, -0.2)),
    *(("SHIFT", x) for x in (1, -0.1, NAN)),
    *(("LEARNING_RATE", x) for x in (0, -1, NAN, float("inf"))),
    *((name, x) for name in ("DECAY", "WEIGHT_DECAY") for x in (-1, float("inf"))),
    *(("SEED", x) for x in (-1, 2**32, "x")),
    *(("HIDDEN_UNITS", x) for x in ("many", (500, 0), (2.5,))),
    ("MODEL_PATH", "model.h5"),
    *((f"{name}_PATH", "no/folder/x.keras") for name in ("MODEL", "PLOT", "LOG")),
]


def test_defaults():
    """Those of the tutorial; what it has not is off."""
    tutorial = {"VALIDATION_SPLIT": 0.3, "HIDDEN_UNITS": (500, 500), "DROPOUT": 0.5}
    tutorial |= {"LEARNING_RATE": 0.01, "DECAY": 1e-6, "MOMENTUM": 0.9}
    tutorial |= {"BATCH_SIZE": 200, "EPOCHS": 100, "ACTIVATION": "tanh"}
    tutorial |= {"NESTEROV": True, "LINEAR_DECAY": False, "WEIGHT_DECAY": 0, "SHIFT": 0}
    assert {name: CONSTANTS[name] for name in tutorial} == tutorial
    train_mnist.check_constants()


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_wrong(name, value, quick, monkeypatch):
    """The last line of the error shows the value, and nothing is trained."""
    monkeypatch.setattr(train_mnist, "train", None)
    quick(**{name: value})
    with pytest.raises(AssertionError) as refusal:
        train_mnist.main()
    assert repr(value) in str(refusal.value).splitlines()[0]


@pytest.mark.parametrize(("name", "value"), [("ACTIVATION", "tahn"), ("MOMENTUM", 1.5)])
def test_what_keras_refuses(name, value, quick, monkeypatch):
    """By its own argument's name, and before the training."""
    monkeypatch.setattr(train_mnist, "train", None)
    quick(**{name: value})
    with pytest.raises(ValueError, match=r"activation.*tahn|momentum"):
        train_mnist.main()


def test_read_only_folder(constants, monkeypatch, tmp_path):
    """For root, every folder is writable; hence the stand-in for os.access."""
    constants(LOG_PATH=tmp_path / "a.jsonl")
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(AssertionError, match="a.jsonl"):
        train_mnist.check_constants()


NONE = dict.fromkeys(("MOMENTUM", "DROPOUT", "DECAY", "VALIDATION_SPLIT"), 0)
NONE |= {"ACTIVATION": "relu", "NESTEROV": False, "HIDDEN_UNITS": ()}
OF_NUMPY = {"SEED": np.int64(3), "HIDDEN_UNITS": (np.int32(30),), "EPOCHS": np.int64(1)}
OF_NUMPY |= {"LEARNING_RATE": np.float32(0.1), "DECAY": np.int64(1)}
OF_NUMPY |= {"DROPOUT": np.float32(0.25), "BATCH_SIZE": np.int64(200)}
LINEAR = {"LINEAR_DECAY": True, "BATCH_SIZE": 7, "WEIGHT_DECAY": np.float32(1e-3)}


@pytest.mark.parametrize("values", [NONE, OF_NUMPY, OF_NUMPY | LINEAR])
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
