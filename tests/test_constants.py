"""The constants: their defaults, and that each is checked before anything is loaded."""

import os
import re
import runpy
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import CONSTANTS, ROOT

import train_mnist

NAN, INF = float("nan"), float("inf")
FRACTION = [-0.1, 1, NAN, "0.5", None, True, np.float16(0.3), []]
COUNT = [0, -5, 2.5, "200", True, None, NAN, INF]
OUTPUT = [3, True, "", "model", "no/such/folder/x{}", "train_mnist.py/x{}"]
OUTPUT += ["a" * 300 + "{}"]
BAD = {
    "DATA_PATH": [None, 3],
    "DATA_URL": ["", None, 3],
    "STANDARDIZE": ["yes", 1, None],
    "SHIFT": FRACTION,
    "VALIDATION_SPLIT": FRACTION,
    "HIDDEN_UNITS": [500, "5", None, {5}, (500, 0), (2.5,), (True,), (20_001,)],
    "ACTIVATION": ["tahn", "", None, 3, "Dense", [], keras.activations.tanh],
    "DROPOUT": FRACTION,
    "LEARNING_RATE": [0, -0.01, 9e-39, 1e38, NAN, INF, "0.01", None, True],
    "DECAY": [-1e-6, 1e38, NAN, "0", None, False],
    "MOMENTUM": FRACTION,
    "NESTEROV": ["no", None, 0],
    "BATCH_SIZE": [*COUNT, 2**31],
    "EPOCHS": COUNT,
    "SEED": [-1, 2**32, 1.5, "0", None, True],
    "MODEL_PATH": [str(path).format(".keras") for path in OUTPUT] + [3, "m.h5"],
    "PLOT_PATH": [str(path).format(".png") for path in OUTPUT] + [3, "p.jpg"],
    "LOG_PATH": [str(path).format(".jsonl") for path in OUTPUT] + [3, "l.json"],
}
GOOD = {
    "DATA_PATH": ["x", Path("x.npz"), "~nobody/mnist.npz"],
    "SHIFT": [0, 0.999],
    "VALIDATION_SPLIT": [0, 0.999, np.float64(0.3)],
    "HIDDEN_UNITS": [(), [1], (20_000, 20_000)],
    "LEARNING_RATE": [1e-38, 9.9e37, 1, np.float64(0.1)],
    "DECAY": [0, 1, 9.9e37],
    "BATCH_SIZE": [1, 2**31 - 1],
    "EPOCHS": [1, 10**30],
    "SEED": [0, 2**32 - 1],
    "MODEL_PATH": [None, Path("x.keras"), "~nobody.keras"],
    "LOG_PATH": [None, "x.jsonl"],
}


def test_defaults_are_the_documented_ones():
    fresh = runpy.run_path(str(ROOT / "train_mnist.py"))
    assert {k: v for k, v in fresh.items() if k.isupper()} == CONSTANTS
    assert BAD.keys() | {"DATA_SHA256"} == CONSTANTS.keys()  # each is checked


@pytest.mark.parametrize("name", BAD)
def test_check(name, constants, monkeypatch):
    """A bad value is refused in one line that names the constant and shows it."""
    monkeypatch.setattr(train_mnist, "load_data", None)  # nothing is loaded
    for value in BAD[name]:
        constants(**{name: value})
        with pytest.raises(SystemExit) as refusal:
            train_mnist.main()
        assert refusal.value.code.startswith(f"{name} = {value!r}: must be ")
        assert "\n" not in refusal.value.code
    for value in GOOD.get(name, []):
        constants(**{name: value})
        train_mnist.check_constants()


def test_output_is_not_a_folder_the_data_or_out_of_reach(
    tmp_path, constants, monkeypatch
):
    """For root, every folder can be written; hence the stand-in."""
    (tmp_path / "folder.keras").mkdir()
    constants(DATA_PATH=str(tmp_path / "data.keras"))
    for name in "folder.keras", "data.keras", "a.keras":
        constants(MODEL_PATH=tmp_path / name)
        if name == "a.keras":
            train_mnist.check_constants()
            monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
        with pytest.raises(SystemExit, match="^MODEL_PATH = .* in a writable folder$"):
            train_mnist.check_constants()


@pytest.mark.parametrize(
    "values",
    [
        {
            "SEED": 2**32 - 1,
            "BATCH_SIZE": 2**31 - 1,
            "HIDDEN_UNITS": [1],
            "DECAY": 9e37,
        },
        {"MOMENTUM": 0, "DROPOUT": 0, "DECAY": 0, "VALIDATION_SPLIT": 0},
        {"BATCH_SIZE": 7, "ACTIVATION": "relu", "NESTEROV": False, "HIDDEN_UNITS": ()},
        {
            "LEARNING_RATE": np.logspace(-2, -1, 3)[1],
            "STANDARDIZE": False,
            "SHIFT": 0.2,
        },
    ],
)
def test_what_is_accepted_runs(values, quick, tmp_path, capsys):
    """As far as a saved model that can be loaded."""
    quick(MODEL_PATH=tmp_path / "model.keras", **values)
    loss, accuracy = train_mnist.main()
    keras.models.load_model(tmp_path / "model.keras")
    out = capsys.readouterr().out
    assert (
        f"The test loss is {loss:f}\nThe accuracy of the model is {accuracy:f}" in out
    )
    assert ("val_loss" in out) == (train_mnist.VALIDATION_SPLIT > 0)


def test_where_there_is_no_file(monkeypatch, tmp_path):
    """Pasted into a notebook's cell, the script writes to the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delattr(train_mnist, "__file__")
    assert train_mnist.beside_script("a.npz") == tmp_path / "a.npz"


def test_metadata_is_that_of_requirements():
    """The block by which `uv run train_mnist.py` installs what the script needs."""
    script = (ROOT / "train_mnist.py").read_text(encoding="utf-8")
    block = re.search(r"^# /// script\n((?:#.*\n)+?)# ///$", script, re.MULTILINE)[1]
    required = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    required = [line.partition("#")[0].strip() for line in required]
    assert re.findall(r'"(.*?)"', block) == [">=3.10,<3.14", *required]
