"""The README and the results: their code and their constants are the script's."""

import ast
import gzip
import re
import runpy
import struct

import numpy as np
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


def test_another_data_set(tmp_path, monkeypatch):
    """Four small idx files become an npz file that load_data welcomes."""
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28), "uint8")
    labels = np.arange(20, dtype="uint8") % 10
    for part in "train", "t10k":
        with gzip.open(f"{part}-images-idx3-ubyte.gz", "wb") as file:
            file.write(struct.pack(">4i", 2051, *images.shape) + images.tobytes())
        with gzip.open(f"{part}-labels-idx1-ubyte.gz", "wb") as file:
            file.write(struct.pack(">2i", 2049, len(labels)) + labels.tobytes())
    (tmp_path / "convert.py").write_text(CONVERT)
    runpy.run_path("convert.py")
    (path,) = tmp_path.glob("*.npz")
    for x, y in train_mnist.load_data(path):
        assert (x == images).all()
        assert (y == labels).all()


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
