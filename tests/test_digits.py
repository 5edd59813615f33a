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
from matplotlib.backend_bases import FigureManagerBase, MouseEvent
from PIL import Image, ImageDraw, ImageFont, ImageOps

BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
DIGIT, DRAW = [block for block in BLOCKS if "load_model" in block]
FONT = Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")


@pytest.fixture(scope="module")
def model(whole_run):
    return keras.models.load_model(whole_run[0] / "mnist_mlp.keras")


@pytest.fixture(autouse=True)
def folder(model, monkeypatch, tmp_path):
    """The programs' folder, with a stand-in for the model; the working one is another."""
    load = keras.models.load_model
    quick = lambda path: model if Path(path).read_bytes() == b"model" else load(path)
    monkeypatch.setattr(keras.models, "load_model", quick)
    plt.switch_backend("agg")
    monkeypatch.setattr(plt, "FigureManagerBase", None)  # as if agg opened windows
    monkeypatch.setattr(plt, "show", lambda: None)
    (tmp_path / "mnist_mlp.keras").write_bytes(b"model")
    monkeypatch.chdir("/")
    yield tmp_path
    plt.close("all")


def run(code, folder):
    (folder / "program.py").write_text(code, encoding="utf-8")
    runpy.run_path(str(folder / "program.py"))


def mask(digit=3, size=200, page=(400, 300), at=(220, 140)):
    """A light digit on black; no digit, a blank page."""
    ink, font = Image.new("L", page), ImageFont.truetype(str(FONT), size)
    ImageDraw.Draw(ink).text(at, str(digit), 255, font, anchor="mm")
    return ink


def photo(ink, light=200, shadow=200, noise=5.0):
    """Dark ink on paper, lighter on the left than on the right."""
    paper = np.linspace(light, shadow, ink.width) - 0.7 * light * np.array(ink) / 255.0
    paper += np.random.default_rng(0).normal(0, noise, paper.shape)
    return Image.fromarray(np.uint8(paper.clip(0, 255)))


def drawn(*lines, grey=40, width=14, sheet=None):
    """Lines on the photo of a 3, or on a sheet."""
    sheet = sheet or photo(mask())
    for line in lines:
        ImageDraw.Draw(sheet).line(line, grey, width)
    return sheet


INK, SHEET = mask(), Image.new("L", (400, 300), 220)
TRANSPARENT = Image.merge("LA", [Image.new("L", INK.size, 255), INK])
SEVEN = (800, 900, 1700, 900, 1200, 2500)
FIVE = (165, 65, 160, 125, 205, 120, 235, 150, 235, 190, 150, 215), (190, 65, 245, 62)
SQUARES = [((i, 0), (i, 300)) for i in range(10, 400, 20)]
SQUARES += [((0, i), (400, i)) for i in range(10, 300, 20)]
PENCIL = drawn(*SQUARES, grey=150, width=1, sheet=SHEET.copy())
PENCIL.paste(110, mask=INK)
PICTURES = {  # the digit, or what is said instead, and how it is shown
    "3 white on clear": TRANSPARENT,
    "3 palette": TRANSPARENT.convert("RGBA").quantize(2),
    "3 chalkboard": ImageOps.invert(photo(INK)),
    "3 28 x 28": mask(3, 26, (28, 28), (14, 14)),
    "3 16 bits": Image.fromarray(np.array(photo(INK)).astype("uint16") * 257),
    "3 cropped": ImageOps.invert(INK.crop(INK.getbbox())),
    "7 pen": drawn(SEVEN, grey=0, width=8, sheet=Image.new("L", (2480, 3508), 255)),
    "3 phone": photo(mask(3, 1500, (3000, 4000), (1300, 2200)), 220, 130),
    "3 turned": photo(INK).transpose(Image.ROTATE_90),
    "3 table": drawn((0, 0, 399, 0, 399, 299, 0, 299, 0, 0), width=60),
    "3 light table": drawn((0, 0, 0, 299, 399, 299), grey=255, width=70),
    "3 frame": drawn((60, 12, 384, 10, 380, 282, 62, 286, 60, 12), width=8),
    "3 specks": drawn((20, 20, 22, 20), (380, 250, 382, 250), grey=0, width=2),
    "3 squares": PENCIL,
    "5 of two parts": drawn(*FIVE, sheet=SHEET.copy()),
    "more than one digit found": photo(mask("42", 80, at=(200, 140))),
    "no digit found": photo(mask(""), noise=3),
    **{f"{digit} small": photo(mask(digit, 80), 220, 130) for digit in (0, 1, 8)},
}


@pytest.mark.parametrize("kind", PICTURES)
def test_picture(kind, folder, capsys):
    """The three likeliest digits and their probabilities, the right one first."""
    exif = Image.Exif()
    exif[0x112] = 6 if "turned" in kind else 1  # by 90 degrees
    PICTURES[kind].save(folder / "digit.png", exif=exif)
    if "found" in kind:
        with pytest.raises(SystemExit, match=f"^{kind}$"):
            run(DIGIT, folder)
        return
    run(DIGIT, folder)
    lines = [line.split(": ") for line in capsys.readouterr().out.splitlines()]
    assert (len(lines), lines[0][0]) == (3, kind[0])
    probabilities = [float(probability.rstrip("%")) for _, probability in lines]
    assert probabilities == sorted(probabilities, reverse=True)
    assert 50 < sum(probabilities) <= 100.2


@pytest.mark.parametrize("content", [None, b"\0\0\0\x18ftypheic", b"text"])
@pytest.mark.parametrize(
    ("code", "name", "advice"),
    [(DIGIT, "digit.png", "export it as PNG or JPEG")]
    + [(code, "mnist_mlp.keras", "train first") for code in (DIGIT, DRAW)],
)
def test_missing_or_damaged_file(code, name, advice, content, folder):
    """An iPhone's HEIC, too, is none: one line says what to do."""
    SHEET.save(folder / "digit.png")
    (folder / name).unlink()
    if content:
        (folder / name).write_bytes(content)
    with pytest.raises(SystemExit, match=rf"^no [^\n]*{name} [^\n]*{advice}[^\n]*$"):
        run(code, folder)


def test_mouse(folder):
    """A 7 of two quick lines is whole, centred and classified; then it is cleared."""
    run(DRAW, folder)
    axes = plt.gca()

    def drag(*points, button=1):
        names = ["button_press"] + ["motion_notify"] * len(points) + ["button_release"]
        for name, point in zip(names, [points[0], *points, points[-1]], strict=True):
            x, y = axes.transData.transform(point)
            pressed = None if name == "motion_notify" else button
            event = MouseEvent(f"{name}_event", axes.figure.canvas, x, y, pressed)
            event.canvas.callbacks.process(event.name, event)
        return np.array(axes.images[0].get_array())

    ink = drag((4, 4), (16, 4), (10, 22))
    assert re.fullmatch(r"7: [\d.]+%(  \d: [\d.]+%){2}", axes.get_title())
    centre = [np.average(i, weights=ink) for i in np.indices(ink.shape)]
    assert centre == pytest.approx([14, 14], abs=0.51)
    assert (ink.max(axis=1) > 200).sum() >= 18
    assert {0, 255} < {*ink.ravel()}  # the brush is soft
    assert (drag((14, 14), (20, 14)) > 127).sum() > (ink > 127).sum()
    assert not drag((14, 14), button=3).any()
    assert not drag((-9, -9), (-8, 90)).any()
    assert "%" not in axes.get_title()


@pytest.mark.parametrize("backend", ["agg", "svg", "pdf", "ps"])
def test_backend_without_a_window(backend, folder, monkeypatch):
    monkeypatch.setattr(plt, "FigureManagerBase", FigureManagerBase)
    plt.switch_backend(backend)
    with pytest.raises(SystemExit, match=r"^no window system[^\n]+$"):
        run(DRAW, folder)
