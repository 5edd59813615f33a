"""The README and the results: their constants are the script's, their programs work."""

import ast
import gzip
import re
import runpy
import struct
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from helpers import CONSTANTS, README, ROOT
from matplotlib.backend_bases import FigureManagerBase, MouseEvent
from PIL import Image, ImageDraw, ImageFont, ImageOps

import train_mnist

RESULTS = (ROOT / "tests" / "RESULTS.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
RECIPES = [block for block in BLOCKS if "import" not in block]
(SWEEP,) = [block for block in BLOCKS if "main()" in block]
(CONVERT,) = [block for block in BLOCKS if "gzip" in block]
(CLASSIFY,) = [block for block in BLOCKS if "x_test" in block and "gzip" not in block]
(DIGIT,) = [block for block in BLOCKS if "digit.png" in block]
(DRAW,) = [block for block in BLOCKS if "plt.show()" in block]
FONT = Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")


def assignments(pattern, text):
    """The constants that a text sets, and their values."""
    found = re.findall(pattern, text, re.MULTILINE)
    assert {name for name, _ in found} <= CONSTANTS.keys()
    return [(name, ast.literal_eval(value)) for name, value in found]


def test_recipes_and_every_assignment_in_the_text(constants):
    """The script's own check accepts them, as `DROPOUT = 0` in a sentence."""
    sets = [dict(assignments(r"^([A-Z_]+) = (.*)$", recipe)) for recipe in RECIPES]
    assert len(sets) > 1
    found = assignments(r"`([A-Z][A-Z_0-9]+) = ([^`]+)`", README + RESULTS)
    for values in sets + [{name: value} for name, value in found]:
        constants(**{**CONSTANTS, **values})
        train_mnist.check_constants()


def test_links_and_pictures_are_there():
    (picture,) = re.findall(r"!\[.*?\]\((.*?)\)", README)
    assert np.asarray(Image.open(ROOT / picture)).std() > 10
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
    headings = re.findall(r"^## (.*)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}
    assert {*re.findall(r"\]\(#([^)]+)\)", README)} <= anchors


def run(code, folder):
    (folder / "program.py").write_text(code, encoding="utf-8")
    return runpy.run_path(str(folder / "program.py"))


def test_sweep(constants, monkeypatch, tmp_path):
    """The notebook's code sets constants that exist, and collects the results."""
    monkeypatch.setattr(train_mnist, "main", lambda: (0.1, train_mnist.SEED))
    for name in re.findall(r"train_mnist\.([A-Z_]+)", SWEEP):
        constants(**{name: CONSTANTS[name]})  # is set back after the test
    assert run(SWEEP, tmp_path)["results"] == {seed: (0.1, seed) for seed in (0, 1, 2)}


# Another data set
def idx(array):
    """The content of an idx file."""
    header = struct.pack(f">{1 + array.ndim}i", 2048 + array.ndim, *array.shape)
    return header + array.tobytes()


IMAGES = np.random.default_rng(0).integers(0, 256, (20, 28, 28), "uint8")
LABELS = np.arange(20, dtype="uint8") % 10
PACKED = gzip.compress(idx(IMAGES), mtime=0)
LAST = "t10k-images-idx3-ubyte.gz"


@pytest.fixture
def idx_files(tmp_path):
    for part in "train", "t10k":
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(PACKED)
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(idx(LABELS))
    return tmp_path


@pytest.mark.parametrize("name", [LAST, LAST[:-3], "t10k-images.idx3-ubyte"])
def test_another_data_set(name, idx_files):
    """Four idx files, packed or not, become an npz file that load_data welcomes."""
    (idx_files / LAST).unlink()
    (idx_files / name).write_bytes(PACKED if name == LAST else idx(IMAGES))
    run(CONVERT, idx_files)
    (path,) = idx_files.glob("*.npz")
    for x, y in train_mnist.load_data(path):
        assert (x == IMAGES).all() and (y == LABELS).all()


OTHERS = [idx(IMAGES)[:-1], idx(LABELS), idx(IMAGES[:9])]


@pytest.mark.parametrize("content", [None, b"<html>", PACKED[:-99], b"", *OTHERS])
def test_a_file_to_fetch_again(content, idx_files):
    """Missing, a page, cut off, of another kind or length: one line names it."""
    path = idx_files / LAST
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(SystemExit, match=r"^t10k[^\n]+fetch [^\n]+$"):
        run(CONVERT, idx_files)
    assert not [*idx_files.glob("*.npz")]


# Own digits
@pytest.fixture
def folder(whole_run, monkeypatch, tmp_path):
    """The programs' folder, with the model; the working folder is another."""
    plt.switch_backend("agg")
    monkeypatch.setattr(plt, "FigureManagerBase", None)  # as if agg opened windows
    monkeypatch.setattr(plt, "show", lambda: None)
    model = (whole_run[0] / "mnist_mlp.keras").read_bytes()
    (tmp_path / "mnist_mlp.keras").write_bytes(model)
    (tmp_path / "mnist.npz").symlink_to(ROOT / "mnist.npz")
    monkeypatch.chdir("/")
    yield tmp_path
    plt.close("all")


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
FIVE = (165, 65, 160, 125, 205, 120, 235, 150, 235, 190, 150, 215), (190, 65, 245, 62)
FRAME = (60, 12, 384, 10, 380, 282, 62, 286, 60, 12)
SQUARES = [((i, 0), (i, 300)) for i in range(10, 400, 20)]
SQUARES += [((0, i), (400, i)) for i in range(10, 300, 20)]
PENCIL = drawn(*SQUARES, grey=150, width=1, sheet=SHEET.copy())
PENCIL.paste(110, mask=INK)
PICTURES = {  # the digit, or what is said instead, and how it is shown
    "3 white on clear": TRANSPARENT,
    "3 chalkboard": ImageOps.invert(photo(INK)),
    "3 28 x 28": mask(3, 26, (28, 28), (14, 14)),
    "3 16 bits": Image.fromarray(np.array(photo(INK)).astype("uint16") * 257),
    "3 cropped": ImageOps.invert(INK.crop(INK.getbbox())),
    "3 phone": photo(mask(3, 1500, (3000, 4000), (1300, 2200)), 220, 130),
    "3 turned": photo(INK).transpose(Image.ROTATE_90),
    "3 table": drawn((0, 0, 399, 0, 399, 299, 0, 299, 0, 0), width=60),
    "3 specks": drawn((20, 20, 22, 20), (380, 250, 382, 250), grey=0, width=2),
    "3 squares": PENCIL,
    "5 of two parts": drawn(*FIVE, sheet=SHEET.copy()),
    "more than one digit found": photo(mask("42", 80, at=(200, 140))),
    "no digit found": photo(mask(""), noise=3),
    "5 of two parts in a frame": drawn(*FIVE, FRAME, sheet=SHEET.copy()),
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
    lines = capsys.readouterr().out.splitlines()
    assert (len(lines), lines[0][0]) == (3, kind[0])
    probabilities = [float(line.split(": ")[1].rstrip("%")) for line in lines]
    assert probabilities == sorted(probabilities, reverse=True)
    assert 50 < sum(probabilities) <= 100.2


PNG, MODEL = "digit.png .*export it as PNG", "mnist_mlp.keras .*train first"


@pytest.mark.parametrize("content", [None, b"\0\0\0\x18ftypheic"])
@pytest.mark.parametrize(
    ("code", "line"), [(DIGIT, PNG), (DIGIT, MODEL), (DRAW, MODEL)]
)
def test_missing_or_damaged_file(code, line, content, folder):
    """An iPhone's HEIC, too, is none: one line says what to do."""
    SHEET.save(folder / "digit.png")
    path = folder / line.split()[0]
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(SystemExit, match=f"^no .*{line}.*$"):  # a dot is no new line
        run(code, folder)


def test_classify_a_test_image(folder, monkeypatch, capsys):
    """The first test image, a 7, from the folder of the model and the data."""
    monkeypatch.chdir(folder)
    run(CLASSIFY, folder)
    line = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(r"7 read as 7, [\d.]+% confident", line)


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


@pytest.mark.parametrize("backend", ["agg", "svg", "pdf"])
def test_backend_without_a_window(backend, folder, monkeypatch):
    monkeypatch.setattr(plt, "FigureManagerBase", FigureManagerBase)
    plt.switch_backend(backend)
    with pytest.raises(SystemExit, match=r"^no window system[^\n]+$"):
        run(DRAW, folder)
