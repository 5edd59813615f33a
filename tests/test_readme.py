"""The README and the results: their constants are the script's, their programs work."""

import ast
import re
import runpy
import shutil

import keras
import pytest
from helpers import CONSTANTS, README, ROOT, edited, load

import train_mnist

RESULTS = (ROOT / "tests" / "RESULTS.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
SETTINGS = [block for block in BLOCKS if "import" not in block]
(PREDICT,) = [block for block in BLOCKS if "x_test" in block and "savez" not in block]
(FASHION,) = [block for block in BLOCKS if "savez" in block]


@pytest.mark.parametrize("block", SETTINGS)
def test_settings_are_pasted_below_the_constants(block, tmp_path):
    """The last value counts; the script's own check accepts all of them."""
    edit = "\n\n# Relative paths start", f"\n{block}\n# Relative paths start"
    pasted = load(edited(tmp_path, edit))
    values = dict(re.findall(r"^([A-Z_]+) = ([^ \n]*)", block, re.MULTILINE))
    assert len(values) > 4 and values.keys() <= CONSTANTS.keys()
    for name, value in values.items():
        assert getattr(pasted, name) == ast.literal_eval(value)
    pasted.check_constants()


def test_every_assignment_in_the_text(constants):
    """The script's own check accepts it, as `DROPOUT = 0` in a sentence."""
    found = re.findall(r"`([A-Z][A-Z_0-9]+) = ([^`]+)`", README + RESULTS)
    assert {name for name, _ in found} <= CONSTANTS.keys() | {"NOTE"}
    for name, value in found:
        if name in CONSTANTS:
            constants(**{**CONSTANTS, name: ast.literal_eval(value)})
            train_mnist.check_constants()


def test_links_and_pictures_are_there():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
    headings = re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}
    assert {*re.findall(r"\]\(#([^)]+)\)", README)} <= anchors


def run(code, folder, monkeypatch):
    """Run a program of the README, saved in a folder; return its names."""
    monkeypatch.chdir(folder)
    (folder / "program.py").write_text(code, encoding="utf-8")
    return runpy.run_path(str(folder / "program.py"))


def test_other_pictures(small, monkeypatch, tmp_path):
    """They become a file that load_data takes."""
    data = (small["x_train"], small["y_train"]), (small["x_test"], small["y_test"])
    monkeypatch.setattr(keras.datasets.fashion_mnist, "load_data", lambda: data)
    run(FASHION, tmp_path, monkeypatch)
    loaded = train_mnist.load_data(tmp_path / "fashion_mnist.npz")
    for (images, labels), given in zip(loaded, data, strict=True):
        assert (images == given[0]).all() and (labels == given[1]).all()


def test_predict(whole_run, monkeypatch, capsys, tmp_path):
    """In the folder of the model and the data; the README shows such an output."""
    for path in whole_run[0] / "mnist_mlp.keras", ROOT / "mnist.npz":
        shutil.copy(path, tmp_path)
    run(PREDICT, tmp_path, monkeypatch)
    lines = re.findall(r"^read as (\d), [\d.]+% confident$", README, re.MULTILINE)
    out = re.findall(r"read as (\d), [\d.]+% confident\n", capsys.readouterr().out)
    assert lines == out == ["7", "2"]
