"""The constants: their defaults, and that each is checked before anything is loaded."""

import os
import re
import runpy
from fractions import Fraction
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import CONSTANTS, ROOT

import train_mnist

SCRIPT = (ROOT / "train_mnist.py").read_text(encoding="utf-8")
NAN, INF = float("nan"), float("inf")
COUNTS = [0, -5, 2.5, "200", True, None, NAN, INF, 200.0, np.int64(200)]
NO_FILES = ["no/such/folder/x", "a" * 300, "nul\0byte", "train_mnist.py/x"]
SHARES = [-0.1, 1, 1.0, 1.5, NAN, INF, "0.5", None, True, False, np.int64(0)]
SHARES += [Fraction(1, 2), 1e400, [], np.zeros((2, 2))]
COUNT, SHARE = "a positive int", "an int or float, at least 0, below 1"
FILE = "None or a {} file in a writable folder"
BAD = {
    "DATA_PATH": ("the path of an npz file", ["", "/", None, 3, "~nobody-here/m.npz"]),
    "DATA_URL": ("an address", ["", None, 3]),
    "STANDARDIZE": ("True or False", ["yes", 1, None]),
    "VALIDATION_SPLIT": (SHARE, SHARES),
    "HIDDEN_UNITS": (
        "a tuple of ints, 1 to 20000",
        [500, "5", None, {500}, (500, 0), (500, -5), (2.5,), ("200",), (True,)]
        + [(None,), (20_001,), (10**9,), (np.int64(5),)],
    ),
    "ACTIVATION": (
        'a name, such as "tanh"',
        ["tahn", "", None, 3, "Dense", "glu", "threshold", [], keras.ops.tanh],
    ),
    "DROPOUT": (SHARE, SHARES),
    "LEARNING_RATE": (
        "an int or float above 0",
        [0, 0.0, -0.01, 9e-39, 1e38, NAN, INF, 10**400, "0.01", None, True]
        + [np.int64(1), Fraction(1, 2)],
    ),
    "DECAY": (
        "an int or float, at least 0",
        [-1e-6, 1e38, NAN, INF, 10**400, "0", None, False, np.int64(0)],
    ),
    "MOMENTUM": (SHARE, SHARES),
    "NESTEROV": ("True or False", ["no", None, 0]),
    "BATCH_SIZE": (COUNT, COUNTS),
    "EPOCHS": (COUNT, COUNTS),
    "SEED": ("an int, 0 to 2**32 - 1", [-1, 2**32, 1.5, "0", None, True, False]),
    "MODEL_PATH": (
        FILE.format(".keras"),
        ["", "model", 3, True, "model.h5", "m.png", "~model.keras"]
        + [f"{x}.keras" for x in NO_FILES],
    ),
    "PLOT_PATH": (
        FILE.format(".png"),
        ["", "plot", 3, True, "plot.jpg", "p.keras", "~plot.png"]
        + [f"{x}.png" for x in NO_FILES],
    ),
}
GOOD = {
    "DATA_PATH": ["x", Path("x.npz"), "~/mnist.npz", "/mnist.npz"],
    "DATA_URL": ["x"],
    "DATA_SHA256": ["", "731C" * 16],
    "STANDARDIZE": [True, False],
    "VALIDATION_SPLIT": [0, 0.0, 0.999, np.float32(0.3), np.float64(0.3)],
    "HIDDEN_UNITS": [(), [1], (20_000, 20_000)],
    "ACTIVATION": ["relu"],
    "DROPOUT": [0, 0.999, np.float16(0.5)],
    "LEARNING_RATE": [1e-38, 9.9e37, 1, np.float32(0.1), np.float64(0.1)],
    "DECAY": [0, 1, 9.9e37, np.float32(0.1)],
    "MOMENTUM": [0, 0.0, 0.999, np.float64(0.9)],
    "NESTEROV": [True, False],
    "BATCH_SIZE": [1, 10**30],
    "EPOCHS": [1, 10**30],
    "SEED": [0, 2**32 - 1],
    "MODEL_PATH": [None, "x.keras", Path("x.keras")],
    "PLOT_PATH": [None, "x.png", Path("x.png")],
}


def test_defaults_are_the_documented_ones():
    fresh = runpy.run_path(str(ROOT / "train_mnist.py"))
    names = re.findall(r"^([A-Z][A-Z_0-9]*) = ", SCRIPT, flags=re.MULTILINE)
    assert {name: fresh[name] for name in names} == CONSTANTS


def test_every_constant_has_a_rule_and_a_comment():
    """But the digest, which a mismatch names."""
    assert BAD.keys() | {"DATA_SHA256"} == GOOD.keys() == CONSTANTS.keys()
    for name in CONSTANTS:
        assert re.search(rf"^{name} = .*  # \S", SCRIPT, flags=re.MULTILINE), name
        assert (f'(f"{{{name} = }}"' in SCRIPT) == (name in BAD)


@pytest.mark.parametrize("name", BAD)
def test_refused(name, constants, monkeypatch):
    monkeypatch.setattr(train_mnist, "load_data", None)  # nothing is loaded
    allowed, values = BAD[name]
    for value in values:
        constants(**{name: value})
        with pytest.raises(SystemExit) as refusal:
            train_mnist.main()
        line = f"{name} = {value!r}: must be {allowed}"
        assert refusal.value.code == line.replace("\n", " ")


@pytest.mark.parametrize("name", GOOD)
def test_accepted(name, constants):
    for value in GOOD[name]:
        constants(**{name: value})
        train_mnist.check_constants()


def test_output_is_not_a_folder_or_the_data(tmp_path, constants):
    (tmp_path / "folder.keras").mkdir()
    (tmp_path / "data.keras").touch()
    constants(DATA_PATH=str(tmp_path / "data.keras"))
    for name in "folder.keras", "data.keras":
        constants(MODEL_PATH=str(tmp_path / name))
        with pytest.raises(SystemExit, match="^MODEL_PATH = "):
            train_mnist.check_constants()


def test_output_folder_must_be_writable(tmp_path, constants):
    """Noticed before the training, and by trying: root may write where modes say no."""
    folder = tmp_path / "folder"
    folder.mkdir()
    if os.name == "posix" and os.geteuid() == 0:
        folder = Path("/proc")
    else:
        folder.chmod(0o500)
    if not folder.is_dir():
        pytest.skip("no folder here that cannot be written to")
    constants(PLOT_PATH=folder / "plot.png")
    with pytest.raises(SystemExit, match="^PLOT_PATH = .* in a writable folder$"):
        train_mnist.check_constants()


def test_check_leaves_nothing(tmp_path, constants, monkeypatch):
    """What it tries the folder with is hidden, in that folder, and goes again."""
    tried = []
    touch = Path.touch
    monkeypatch.setattr(Path, "touch", lambda path: tried.append(path) or touch(path))
    constants(MODEL_PATH=tmp_path / "model.keras", PLOT_PATH=None)
    train_mnist.check_constants()
    (path,) = tried
    assert path.name == "model.keras"
    assert path.parent.name.startswith(".mnist-")
    assert path.parent.parent == tmp_path
    assert list(tmp_path.iterdir()) == []


NUMPY_FLOATS = {
    "VALIDATION_SPLIT": np.float32(0.3),
    "DROPOUT": np.float16(0.5),
    "LEARNING_RATE": np.logspace(-2, -1, 3)[1],
    "DECAY": np.float32(1e-6),
    "MOMENTUM": np.float64(0.9),
}
EXTREMES = {
    "SEED": 2**32 - 1,
    "BATCH_SIZE": 10**30,
    "HIDDEN_UNITS": [1],
    "DECAY": 9e37,
    "MOMENTUM": 0,
}


@pytest.mark.parametrize("values", [NUMPY_FLOATS, EXTREMES])
def test_what_is_accepted_runs(values, quick, tmp_path):
    """As far as a saved model that can be loaded, whose file has no room for NumPy."""
    quick(MODEL_PATH=tmp_path / "model.keras", **values)
    train_mnist.main()
    keras.models.load_model(tmp_path / "model.keras")


def test_any_activation_of_keras_that_fits_is_accepted(constants):
    names = [name for name in dir(keras.activations) if name[0].islower()]
    names = set(names) - {"get", "serialize", "deserialize"}
    names -= {"glu", "threshold"}  # one halves the width, one wants parameters
    assert len(names) > 20
    for name in names:
        constants(ACTIVATION=name)
        train_mnist.check_constants()


def test_start_up_log_of_tensorflow(monkeypatch):
    """It is hidden, unless the environment says otherwise."""
    for before, after in (None, "3"), ("0", "0"):
        monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
        if before:
            monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", before)
        runpy.run_path(str(ROOT / "train_mnist.py"))
        assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == after


def test_metadata_is_that_of_requirements():
    """The block by which `uv run train_mnist.py` installs what the script needs."""
    block = re.search(r"^# /// script\n((?:#.*\n)+?)# ///$", SCRIPT, re.MULTILINE)[1]
    metadata = "".join(line.removeprefix("#") for line in block.splitlines())
    assert re.search(r'requires-python = "(.*?)"', metadata)[1] == ">=3.10,<3.14"
    (listed,) = re.findall(r"dependencies = \[(.*)\]", metadata)
    required = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    required = [line.partition("#")[0].strip() for line in required]
    assert re.findall(r'"(.*?)"', listed) == required


def test_form_of_the_script():
    lines = SCRIPT.splitlines()
    assert len(lines) <= 450
    assert [n for n in lines if len(n) > 88 and not n.startswith("DATA_URL")] == []
