"""The README: its code runs as it stands there, its claims are the script's."""

import ast
import gzip
import os
import re
import runpy
import shutil
import struct

import matplotlib
import numpy as np
import pytest
from helpers import CONSTANTS, ROOT
from PIL import Image, ImageDraw, ImageFont

import train_mnist

README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "tests" / "RESULTS.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
DIGIT, IDX, NOTEBOOK = [
    next(b for b in BLOCKS if mark in b) for mark in ("load_model", "gzip", "main()")
]
RECIPES = [block for block in BLOCKS if block not in (DIGIT, IDX, NOTEBOOK)]
FONTS = os.path.join(os.path.dirname(matplotlib.__file__), "mpl-data", "fonts", "ttf")
OTHERS = {"KERAS_BACKEND", "PIL"}  # which are no constants of the script


def assignments(code):
    """The constants that a piece of code sets, one to a line, as {name: value}."""
    lines = [line.split(" = ") for line in code.strip().splitlines()]
    return {name: ast.literal_eval(value) for name, value in lines}


def test_page():
    assert len(README.splitlines()) <= 180


@pytest.fixture
def read(whole_run, tmp_path, monkeypatch, capsys):
    """Has the README's code classify a picture; returns the digit that it prints."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(whole_run[0] / "model.keras", "mnist_mlp.keras")
    (tmp_path / "digit.py").write_text(DIGIT)

    def read(picture):
        picture.save("digit.png")
        runpy.run_path("digit.py")
        return capsys.readouterr().out.split()[-1]

    return read


def font(size):
    return ImageFont.truetype(os.path.join(FONTS, "DejaVuSans.ttf"), size)


def test_own_digit(read):
    """Ten digits of a font, dark on light, at several sizes and places."""
    assert len(DIGIT.strip().splitlines()) <= 10
    right = 0
    for digit in range(10):
        page = Image.new("RGB", (400, 300), (240, 235, 220))
        place = (20 + 30 * digit, 10 + 15 * digit)
        pen = ImageDraw.Draw(page)
        pen.text(place, str(digit), (20, 30, 90), font(40 + 20 * (digit % 4)))
        right += read(page) == str(digit)
    assert right >= 8


def test_own_digit_on_a_photo(read):
    """Ten digits on grey paper, half in the shadow, with the noise of a camera."""
    light = np.linspace(220, 130, 400)
    noise = np.random.default_rng(0).normal(0, 5, (400, 400))
    right = 0
    for digit in range(10):
        page = Image.new("L", (400, 400), 255)
        ImageDraw.Draw(page).text((150, 100), str(digit), 0, font(150))
        photo = 40 + (light - 40) * np.array(page) / 255 + noise
        right += read(Image.fromarray(photo.astype("uint8"))) == str(digit)
    assert right >= 8


def test_another_data_set(small, tmp_path, monkeypatch):
    """Four small idx files become an npz file that load_data welcomes."""
    monkeypatch.chdir(tmp_path)
    for part, name in ("train", "train"), ("t10k", "test"):
        x, y = small[f"x_{name}"], small[f"y_{name}"]
        with gzip.open(f"{part}-images-idx3-ubyte.gz", "wb") as file:
            file.write(struct.pack(">4i", 2051, *x.shape) + x.tobytes())
        with gzip.open(f"{part}-labels-idx1-ubyte.gz", "wb") as file:
            file.write(struct.pack(">2i", 2049, len(y)) + y.tobytes())
    (tmp_path / "convert.py").write_text(IDX)
    runpy.run_path("convert.py")
    (path,) = tmp_path.glob("*.npz")
    (x_train, y_train), (x_test, y_test) = train_mnist.load_data(path)
    assert (x_train == small["x_train"]).all()
    assert (y_train == small["y_train"]).all()
    assert (x_test == small["x_test"]).all()
    assert (y_test == small["y_test"]).all()


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe(recipe, constants):
    """A block of constants to paste, which the script's own check accepts."""
    constants(**assignments(recipe))
    train_mnist.check_constants()


def test_every_assignment_in_the_text_is_accepted(constants):
    """As `DROPOUT = 0` is, in a sentence or a table, of the README and the results."""
    assert len(RECIPES) == 3
    found = re.findall(r"`([A-Z][A-Z_0-9]+ = [^`]+)`", README + RESULTS)
    assert len(found) > 3
    for code in found:
        constants(**assignments(code))
        train_mnist.check_constants()


def test_sweep(quick, monkeypatch, tmp_path):
    """The notebook's code sets constants that exist, and collects the results."""
    monkeypatch.setattr(train_mnist, "main", lambda: (0.1, train_mnist.SEED))
    quick()  # what the code sets is put back after the test
    for name in re.findall(r"train_mnist\.([A-Z_]+)", NOTEBOOK):
        monkeypatch.setattr(train_mnist, name, getattr(train_mnist, name))
    (tmp_path / "sweep.py").write_text(NOTEBOOK)
    results = runpy.run_path(str(tmp_path / "sweep.py"))["results"]
    assert results == {seed: (0.1, seed) for seed in (0, 1, 2)}


def test_constants_that_are_named_exist():
    text = README + RESULTS
    code = re.findall(r"```(?:python|sh|powershell)\n(.*?)```", text, flags=re.DOTALL)
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    code += re.findall(r"`([^`\n]+)`", text)
    named = set(re.findall(r"(?<![\w\"'.])[A-Z][A-Z_0-9]{2,}\b", "\n".join(code)))
    named |= set(re.findall(r"train_mnist\.([A-Z]\w*)", "\n".join(code)))
    assert named - OTHERS == CONSTANTS.keys()


def test_links_and_pictures_are_there():
    (picture,) = re.findall(r"!\[.*?\]\((.*?)\)", README)
    assert np.asarray(Image.open(ROOT / picture)).std() > 10
    targets = re.findall(r"\]\(([^)#:]+)\)", README)
    assert "tests/RESULTS.md" in targets
    for target in targets:
        assert (ROOT / target).exists(), target
