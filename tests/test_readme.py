"""The README and the results: their code and their constants are the script's."""

import ast
import gzip
import re
import runpy
import struct

import numpy as np
import pytest
from helpers import CONSTANTS, README, ROOT
from PIL import Image

import train_mnist

RESULTS = (ROOT / "tests" / "RESULTS.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
RECIPES = [block for block in BLOCKS if "import" not in block]
(CONVERT,) = [block for block in BLOCKS if "gzip" in block]
(SWEEP,) = [block for block in BLOCKS if "main()" in block]


def assignments(pattern, text):
    """The constants that a text sets, and their values."""
    found = re.findall(pattern, text, re.MULTILINE)
    assert {name for name, _ in found} <= CONSTANTS.keys()
    return [(name, ast.literal_eval(value)) for name, value in found]


def test_recipes_and_every_assignment_in_the_text(constants):
    """The script's own check accepts them, as `DROPOUT = 0` in a sentence."""
    assert len(RECIPES) == 4
    for recipe in RECIPES:
        constants(**{**CONSTANTS, **dict(assignments(r"^([A-Z_]+) = (.*)$", recipe))})
        train_mnist.check_constants()
    for name, value in assignments(r"`([A-Z][A-Z_0-9]+) = ([^`]+)`", README + RESULTS):
        constants(**{**CONSTANTS, name: value})
        train_mnist.check_constants()


def idx(array):
    """The content of an idx file."""
    header = struct.pack(f">{1 + array.ndim}i", 2048 + array.ndim, *array.shape)
    return header + array.tobytes()


IMAGES = np.random.default_rng(0).integers(0, 256, (20, 28, 28), "uint8")
LABELS = np.arange(20, dtype="uint8") % 10


@pytest.fixture
def convert(tmp_path, monkeypatch):
    """Four small idx files, and the function that runs the program beside them."""
    for part in "train", "t10k":
        for name, array in ("images-idx3", IMAGES), ("labels-idx1", LABELS):
            content = gzip.compress(idx(array))
            (tmp_path / f"{part}-{name}-ubyte.gz").write_bytes(content)
    (tmp_path / "convert.py").write_text(CONVERT)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return lambda: runpy.run_path(str(tmp_path / "convert.py"))


@pytest.mark.parametrize(
    "name", [None, "t10k-images-idx3-ubyte", "t10k-images.idx3-ubyte"]
)
def test_another_data_set(name, convert, tmp_path):
    """Four idx files, packed or not, become an npz file that load_data welcomes."""
    if name:
        (tmp_path / "t10k-images-idx3-ubyte.gz").unlink()
        (tmp_path / name).write_bytes(idx(IMAGES))
    convert()
    (path,) = tmp_path.glob("*.npz")
    for x, y in train_mnist.load_data(path):
        assert (x == IMAGES).all()
        assert (y == LABELS).all()


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"<html>",
        gzip.compress(b"<html>", mtime=0),
        gzip.compress(idx(IMAGES), mtime=0)[:-99],
        b"",
    ]
    + [idx(IMAGES)[:-1], idx(IMAGES) + b"0", idx(LABELS), idx(IMAGES[:9])],
)
def test_a_file_to_fetch_again(content, convert, tmp_path):
    """Missing, a page, cut off, of another kind or length: one line names it."""
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(SystemExit, match=r"^t10k[^\n]+fetch [^\n]+$"):
        convert()
    assert not [*tmp_path.glob("*.npz")]


def test_sweep(constants, monkeypatch, tmp_path):
    """The notebook's code sets constants that exist, and collects the results."""
    monkeypatch.setattr(train_mnist, "main", lambda: (0.1, train_mnist.SEED))
    for name in re.findall(r"train_mnist\.([A-Z_]+)", SWEEP):
        constants(**{name: CONSTANTS[name]})  # is set back after the test
    (tmp_path / "sweep.py").write_text(SWEEP)
    results = runpy.run_path(str(tmp_path / "sweep.py"))["results"]
    assert results == {seed: (0.1, seed) for seed in (0, 1, 2)}


def test_links_and_pictures_are_there():
    (picture,) = re.findall(r"!\[.*?\]\((.*?)\)", README)
    assert np.asarray(Image.open(ROOT / picture)).std() > 10
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
    headings = re.findall(r"^## (.*)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}
    assert {*re.findall(r"\]\(#([^)]+)\)", README)} <= anchors
