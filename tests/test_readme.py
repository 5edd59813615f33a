"""The README: its code runs as it stands there, its claims are the script's."""

import gzip
import os
import re
import runpy
import shutil
import struct

import matplotlib
import numpy as np
from helpers import ROOT
from PIL import Image, ImageDraw, ImageFont

import train_mnist

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
DIGIT, IDX = [next(b for b in BLOCKS if mark in b) for mark in ("load_model", "gzip")]
FONTS = os.path.join(os.path.dirname(matplotlib.__file__), "mpl-data", "fonts", "ttf")


def test_own_digit(whole_run, tmp_path, monkeypatch, capsys):
    """Ten digits of a font, dark on light, at several sizes and places."""
    assert len(DIGIT.strip().splitlines()) <= 10
    monkeypatch.chdir(tmp_path)
    shutil.copy(whole_run[0] / "model.keras", "mnist_mlp.keras")
    (tmp_path / "digit.py").write_text(DIGIT)
    font = os.path.join(FONTS, "DejaVuSans.ttf")
    right = 0
    for digit in range(10):
        page = Image.new("RGB", (400, 300), (240, 235, 220))
        size = 40 + 20 * (digit % 4)
        place = (20 + 30 * digit, 10 + 15 * digit)
        pen = ImageDraw.Draw(page)
        pen.text(place, str(digit), (20, 30, 90), ImageFont.truetype(font, size))
        page.save("digit.png")
        runpy.run_path("digit.py")
        right += capsys.readouterr().out.split()[-1] == str(digit)
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


def test_every_constant_is_named():
    script = (ROOT / "train_mnist.py").read_text(encoding="utf-8")
    for name in re.findall(r"^([A-Z_0-9]+) = ", script, flags=re.MULTILINE):
        assert f"`{name}" in README, name


def test_picture_is_there():
    (picture,) = re.findall(r"!\[.*?\]\((.*?)\)", README)
    assert np.asarray(Image.open(ROOT / picture)).std() > 10
