"""The constants: their defaults, and that a wrong one is refused before the training."""

import code
import os
import re
from pathlib import Path

import keras
import pytest
from helpers import CONSTANTS, ROOT

import train_mnist

NAN = float("nan")
WRONG = {"EPOCHS": (0, -1, 2.5, None), "BATCH_SIZE": (0, -5, 2.5, "200")}
WRONG |= {"VALIDATION_SPLIT": (1.0, -0.1, NAN), "DROPOUT": (1.0, -0.2)}
WRONG |= {"SHIFT": (0.1, -1), "LEARNING_RATE": (0, -1, NAN), "DECAY": (-1, NAN)}
WRONG |= {"WEIGHT_DECAY": (-1, NAN), "HIDDEN_UNITS": ("many", 300)}
WRONG |= {f"{name}_PATH": ("no/folder/x.keras",) for name in ("MODEL", "PLOT", "LOG")}
WRONG["MODEL_PATH"] += ("model.h5",)
WRONG = [(name, value) for name, values in WRONG.items() for value in values]
BY_KERAS = [("ACTIVATION", "tahn"), ("MOMENTUM", 1.5), ("SEED", -1), ("SEED", "x")]
if not keras.__version__.startswith("3.7."):
    BY_KERAS += [("HIDDEN_UNITS", (500, 0))]


def test_defaults():
    """Those of the tutorial; what it has not is off."""
    tutorial = {"VALIDATION_SPLIT": 0.3, "HIDDEN_UNITS": (500, 500), "DROPOUT": 0.5}
    tutorial |= {"LEARNING_RATE": 0.01, "DECAY": 1e-6, "MOMENTUM": 0.9}
    tutorial |= {"BATCH_SIZE": 200, "EPOCHS": 100, "ACTIVATION": "tanh"}
    tutorial |= {"NESTEROV": True, "LINEAR_DECAY": False, "WEIGHT_DECAY": 0, "SHIFT": 0}
    assert {name: CONSTANTS[name] for name in tutorial} == tutorial
    train_mnist.check_constants()


@pytest.mark.parametrize(("name", "value"), WRONG + BY_KERAS)
def test_wrong(name, value, quick, monkeypatch):
    """The script shows the value, Keras its argument's name, and nothing is trained."""
    monkeypatch.setattr(train_mnist, "train", None)
    quick(**{name: value})
    with pytest.raises((AssertionError, TypeError, ValueError)) as refusal:
        train_mnist.main()
    if (name, value) in BY_KERAS:
        assert name.lower().removeprefix("hidden_") in str(refusal.value).lower()
    else:
        assert f"{value!r}" in str(refusal.value).splitlines()[0]


def test_read_only_folder(monkeypatch):
    """For root, every folder is writable; hence the stand-in for os.access."""
    monkeypatch.setattr(os, "access", lambda path, mode: path != ROOT)
    with pytest.raises(AssertionError, match="mnist_mlp.keras.*read-only"):
        train_mnist.check_constants()


NONE = dict.fromkeys(("MOMENTUM", "DROPOUT", "DECAY", "VALIDATION_SPLIT"), 0)
NONE |= {"ACTIVATION": "relu", "NESTEROV": False, "HIDDEN_UNITS": (), "EPOCHS": 1}
LINEAR = {"LINEAR_DECAY": True, "LEARNING_RATE": 1, "BATCH_SIZE": 70, "WEIGHT_DECAY": 1}


@pytest.mark.parametrize("values", [NONE, LINEAR])
def test_what_is_accepted_runs(values, main, tmp_path):
    """As far as a line in the log and a saved model that can be loaded."""
    path = tmp_path / "model.keras"
    _, out = main(MODEL_PATH=path, LOG_PATH=tmp_path / "log.jsonl", **values)
    keras.models.load_model(path)
    assert ("val_loss" in out) == (train_mnist.VALIDATION_SPLIT > 0)


def test_pasted_into_a_notebook():
    """Where a cell is no file, paths start at the working folder."""
    cell = code.InteractiveInterpreter({"__name__": "cell"})
    cell.runcode((ROOT / "train_mnist.py").read_text(encoding="utf-8"))
    assert cell.locals["folder"] == Path()
    assert train_mnist.folder == ROOT


def test_metadata_is_that_of_requirements():
    """The block by which `uv run train_mnist.py` installs what the script needs."""
    script = (ROOT / "train_mnist.py").read_text(encoding="utf-8")
    block = re.search(r"^# /// script\n((?:#.*\n)+?)# ///$", script, re.MULTILINE)[1]
    required = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    required = [line.partition("#")[0].strip() for line in required]
    assert re.findall(r'"(.*?)"', block) == [">=3.10,<3.14", *required]
