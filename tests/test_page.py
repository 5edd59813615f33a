"""The README's page for own digits: its preparation, and the page in a browser."""

import json
import os
import re
import runpy
import shutil
import socket
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from helpers import README
from PIL import Image, ImageDraw, ImageFont, ImageOps

gr = pytest.importorskip("gradio")
pytest.importorskip("skimage")

(PAGE,) = re.findall(r"```python\n([^`]*gradio[^`]*)```", README)
FONT = Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")
CHROMIUM = shutil.which("chromium") or ("CI" in os.environ and os.name == "posix")


def ink(text="3", size=200, page=(400, 300), at=(220, 140)):
    """Light text on black."""
    picture, font = Image.new("L", page), ImageFont.truetype(str(FONT), size)
    ImageDraw.Draw(picture).text(at, text, 255, font, anchor="mm")
    return picture


def photo(ink, light=200, shadow=200, *lines, width=14):
    """Dark ink on noisy paper, lighter on the left than on the right, with lines."""
    paper = np.linspace(light, shadow, ink.width) * (1 - np.array(ink) / 360)
    paper += np.random.default_rng(0).normal(0, 5, paper.shape)
    picture = Image.fromarray(np.uint8(paper.clip(0, 255)))
    for line in lines:
        ImageDraw.Draw(picture).line(line, 40, width)
    return picture


FIVE = (165, 65, 160, 125, 205, 120, 235, 150, 235, 190, 150, 215), (190, 65, 245, 62)
FRAME = (60, 12, 384, 10, 380, 282, 62, 286, 60, 12)
TABLE = (0, 0, 399, 0, 399, 299, 0, 299, 0, 0)
PICTURES = {  # what is read or said, and how it is shown
    "3 phone": photo(ink("3", 1500, (3000, 4000), (1300, 2200)), 220, 130),
    "7 chalk": ImageOps.invert(photo(ink("7"))),
    "3 white on clear": Image.merge("LA", [Image.new("L", (400, 300), 255), ink()]),
    "3 black on clear": Image.merge("LA", [Image.new("L", (400, 300), 0), ink()]),
    "3 as in MNIST": ink("3", 26, (28, 28), (14, 14)),
    "3 specks": photo(ink(), 200, 200, (20, 20, 22, 20), (350, 50, 352, 50), width=3),
    "3 line at the border": photo(ink(), 200, 200, (0, 20, 399, 10)),
    "3 table": photo(ink(), 200, 200, TABLE, width=60),
    "3 frame": photo(ink(), 200, 200, FRAME),
    "3 far from a stroke": photo(ink(), 200, 200, (20, 20, 20, 70), width=8),
    "5 of two parts": photo(ink(""), 200, 200, *FIVE),
    "more than one digit": photo(ink("42", 80, at=(200, 140))),
    "no digit on paper": photo(ink("")),
    "no digit in a strip": Image.new("L", (600, 3), 200),
    "no digit at all": None,
}


@pytest.fixture(scope="module")
def page(whole_run, tmp_path_factory):
    """The names of the program, which another program may import."""
    folder = tmp_path_factory.mktemp("page")
    shutil.copy(whole_run[0] / "mnist_mlp.keras", folder)
    (folder / "page.py").write_text(PAGE, "utf-8")
    return runpy.run_path(str(folder / "page.py"))


@pytest.mark.parametrize("kind", PICTURES)
def test_prepare(kind, page):
    """28 x 28, light on black, 20 pixels large, its centre of mass in the middle."""
    if "digit" in kind:
        with pytest.raises(gr.Error, match=kind[:8]) as error:
            page["prepare"](PICTURES[kind])
        assert error.value.print_exception is False
        return
    answer, seen = page["read"]({"composite": PICTURES[kind]})
    assert max(answer, key=answer.get) == kind[0] and len(answer) == 10
    assert (seen.shape, seen.dtype) == ((252, 252), "uint8")
    digit = page["prepare"](PICTURES[kind])
    assert digit.shape == (28, 28) and digit.min() == 0 and 240 < digit.max() < 256
    rows, columns = (np.flatnonzero((digit > 25).any(axis=i)) for i in (1, 0))
    assert max(np.ptp(rows), np.ptp(columns)) in (18, 19, 20, 21)
    centre = [np.average(i, weights=digit) for i in np.indices(digit.shape)]
    assert centre == pytest.approx([14, 14], abs=0.7)


def test_without_a_model(tmp_path):
    """One line tells why."""
    (tmp_path / "page.py").write_text(PAGE, "utf-8")
    with pytest.raises(SystemExit, match="^mnist_mlp.keras can't be loaded: File not"):
        runpy.run_path(str(tmp_path / "page.py"))


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium")
@pytest.mark.timeout(300)
def test_in_a_browser(page, tmp_path, start):
    """Draw, clear, draw, upload; PAGE_PNG: where to save a picture of the page."""
    webdriver = pytest.importorskip("selenium.webdriver")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    process = start(Path(page["__file__"]), GRADIO_SERVER_PORT=str(port))
    assert any(f"127.0.0.1:{port}" in line for line in process.stdout)
    options = webdriver.ChromeOptions()
    flags = "headless=new no-sandbox enable-unsafe-swiftshader window-size=1000,560"
    for flag in f"{flags} disable-background-networking no-first-run".split():
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    browser = webdriver.Chrome(options=options)
    browser.implicitly_wait(20)  # seconds, for what is looked for to be there
    find = lambda css: browser.find_element("css selector", css)

    def says(words, draw=lambda: None):
        """Draw and submit, if need be again, until this is read, or the message."""
        said = "@data-testid='label-output-value' or contains(@class, 'toast-body')"
        for _ in range(6):
            draw()
            find("button.primary").click()
            if browser.find_elements("xpath", f"//*[{said}][contains(., '{words}')]"):
                return
        pytest.fail(f"{words} is not read")

    def draw(*points):
        pen, canvas = webdriver.ActionChains(browser, duration=20), find("canvas")
        pen.move_to_element_with_offset(canvas, *points[0]).click_and_hold()
        for point in points[1:]:
            pen.move_to_element_with_offset(canvas, *point)
        pen.release().perform()

    # As a hand draws: a 7 with a slanted bar, a bent stem and a hook.
    seven = (-52, -70), (-10, -76), (52, -84), (36, -40), (12, 10), (-4, 60), (-8, 92)
    turned, upload = Image.Exif(), tmp_path / "turned.jpg"
    turned[0x112] = 6  # by 90 degrees
    photo(ink("3")).transpose(Image.ROTATE_90).save(upload, exif=turned)
    try:
        browser.get(f"http://127.0.0.1:{port}")
        find("button[aria-label=Brush]")
        says("7", lambda: draw(*seven))
        browser.save_screenshot(os.environ.get("PAGE_PNG", str(tmp_path / "page.png")))
        find("[aria-label='Clear canvas']").click()
        says("no digit found")
        find("button[aria-label=Brush]").click()
        says("1", lambda: draw((0, -90), (0, 90)))
        find("[aria-label='Clear canvas']").click()
        find("input[type=file]").send_keys(str(upload))
        says("3")
        events = [json.loads(x["message"]) for x in browser.get_log("performance")]
    finally:
        browser.quit()
        process.kill()
    sent = [e["message"]["params"] for e in events if "request" in str(e)]
    sent = [x for x in sent if f":{port}" in x.get("documentURL", "")]  # by the page
    urls = [x["request"]["url"] for x in sent if "request" in x]
    urls = [url for url in urls if not url.startswith(("data:", "blob:"))]
    assert urls and all(url.startswith(f"http://127.0.0.1:{port}/") for url in urls)
    assert "Traceback" not in process.stderr.read()
