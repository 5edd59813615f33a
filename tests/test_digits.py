"""The README's two programs, for a picture of a digit and for the mouse."""

import re
import runpy
from pathlib import Path

import keras
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from helpers import README
from matplotlib.backend_bases import MouseEvent
from PIL import Image, ImageDraw, ImageFont, ImageOps

BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
DIGIT, DRAW = [block for block in BLOCKS if "load_model" in block]
FONT = Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")


@pytest.fixture(scope="module")
def model(whole_run):
    return keras.models.load_model(whole_run[0] / "mnist_mlp.keras")


@pytest.fixture(autouse=True)
def setting(model, monkeypatch, tmp_path):
    """A folder for the picture, and what the model was asked to classify."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(keras.models, "load_model", lambda path: model)
    monkeypatch.setattr(plt, "show", lambda: None)
    plt.switch_backend("agg")
    yield
    plt.close("all")


def run(code):
    Path("program.py").write_text(code, encoding="utf-8")
    runpy.run_path("program.py")


def mask(digit=3, size=200, page=(400, 300), at=(220, 140)):
    """A light digit on black; no digit, a blank page."""
    ink = Image.new("L", page)
    font = ImageFont.truetype(str(FONT), size)
    ImageDraw.Draw(ink).text(at, str(digit), 255, font, anchor="mm")
    return ink


def transparent(mode, grey, ink):
    return Image.merge(mode, [*[Image.new("L", ink.size, grey)] * (len(mode) - 1), ink])


def photo(ink, light=200, shadow=200, noise=5.0):
    """Dark ink on paper, lighter on the left than on the right."""
    paper = np.linspace(light, shadow, ink.width) - 0.7 * light * np.array(ink) / 255.0
    noise = np.random.default_rng(0).normal(0, noise, paper.shape)
    return Image.fromarray(np.uint8((paper + noise).clip(0, 255)))


def in_16_bits(picture):
    return Image.fromarray(np.array(picture).astype("uint16") * 257)


def pen(page):
    """A thin 3 on a large sheet."""
    sheet = Image.new("L", page, 255)
    x, y, r = page[0] // 3, page[1] // 3, page[1] // 8
    for top, start, end in (y - 2 * r, -140, 90), (y, -90, 140):
        ImageDraw.Draw(sheet).arc((x - r, top, x + r, top + 2 * r), start, end, 0, 8)
    return sheet


INK, BLANK = mask(), mask("")
THREES = {
    "RGBA black": transparent("RGBA", 0, INK),
    "RGBA white": transparent("RGBA", 255, INK),
    "LA black": transparent("LA", 0, INK),
    "palette": transparent("RGBA", 0, INK).quantize(2),
    "chalkboard": ImageOps.invert(photo(INK)),
    "28 x 28": mask(3, 26, (28, 28), (14, 14)),
    "16 bits": in_16_bits(photo(INK)),
    "1 bit": ImageOps.invert(INK).convert("1"),
    "RGB": ImageOps.invert(INK).convert("RGB"),
    "shadow": photo(INK, 220, 130),
    "corner": photo(mask(3, 100, (640, 480), (70, 400))),
    "cropped": ImageOps.invert(INK.crop(INK.getbbox())),
    "pen": pen((2480, 3508)),
    "phone": photo(mask(3, 1500, (3000, 4000), (1300, 2200)), 220, 130),
    "turned": photo(INK).transpose(Image.ROTATE_90),
}
BLANKS = {
    "white": Image.new("RGB", BLANK.size, "white"),
    "black": BLANK,
    "grey": Image.new("L", BLANK.size, 128),
    "noise": photo(BLANK, noise=3),
    "RGBA": transparent("RGBA", 0, BLANK),
    "LA": transparent("LA", 200, BLANK),
    "16 bits": in_16_bits(Image.new("L", BLANK.size, 200)),
}


@pytest.mark.parametrize("kind", THREES)
def test_picture(kind, capsys):
    """The three likeliest digits and their probabilities, the right one first."""
    exif = Image.Exif()
    exif[0x112] = 6 if kind == "turned" else 1  # by 90 degrees
    THREES[kind].save("digit.png", exif=exif)
    run(DIGIT)
    lines = [line.split(": ") for line in capsys.readouterr().out.splitlines()]
    assert (len(lines), lines[0][0]) == (3, "3")
    probabilities = [float(probability.rstrip("%")) for _, probability in lines]
    assert probabilities == sorted(probabilities, reverse=True)
    assert 50 < sum(probabilities) <= 100.2


@pytest.mark.parametrize("kind", BLANKS)
def test_blank_page(kind):
    BLANKS[kind].save("digit.png")
    with pytest.raises(SystemExit, match="no digit found"):
        run(DIGIT)


def test_all_digits(capsys):
    """Of a font, on paper that lies half in the shadow."""
    for digit in range(10):
        photo(mask(digit, 80), 220, 130).save("digit.png")
        run(DIGIT)
    lines = capsys.readouterr().out.splitlines()[::3]
    assert sum(line.startswith(f"{i}: ") for i, line in enumerate(lines)) >= 8


@pytest.fixture
def window(monkeypatch):
    """Starts the program; returns its axes and a function that drags the mouse."""
    monkeypatch.setattr(plt, "get_backend", lambda: "tkagg")
    run(DRAW)
    axes = plt.gca()
    canvas = axes.figure.canvas

    def drag(*points, button=1):
        names = ["button_press"] + ["motion_notify"] * len(points) + ["button_release"]
        for name, point in zip(names, [points[0], *points, points[-1]], strict=True):
            x, y = axes.transData.transform(point)
            pressed = None if name == "motion_notify" else button
            event = MouseEvent(f"{name}_event", canvas, x, y, pressed)
            canvas.callbacks.process(event.name, event)
        return np.array(axes.images[0].get_array())

    return axes, drag


def test_mouse(window):
    """A 7 of two quick lines is whole, centred and classified; then it is cleared."""
    axes, drag = window
    ink = drag((4, 4), (16, 4), (10, 22))
    assert axes.get_title().startswith("7: ")
    assert axes.get_title().count("%") == 3
    centre = [np.average(i, weights=ink) for i in np.indices(ink.shape)]
    assert centre == pytest.approx([14, 14], abs=0.51)
    assert ink.max() == 255
    assert (ink.max(axis=1) > 200).sum() >= 18
    assert ((ink > 0) & (ink < 200)).any()  # the brush is soft
    assert (drag((14, 14), (20, 14)) > 127).sum() > (ink > 127).sum()
    assert not drag((14, 14), button=3).any()
    assert not drag((-9, -9), (-8, 90)).any()
    assert "%" not in axes.get_title()


def test_without_a_window_system():
    with pytest.raises(SystemExit, match=r"^no window system[^\n]+$"):
        run(DRAW)
