"""The README and the results: their constants are the script's, their programs work."""

import ast
import importlib.util
import re
import runpy
import shutil

import keras
import numpy as np
import pytest
from helpers import CONSTANTS, README, ROOT, edited, load
from PIL import Image

import train_mnist

RESULTS = (ROOT / "tests" / "RESULTS.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
RECIPES = [block for block in BLOCKS if "import" not in block]
(CLASSIFY,) = [block for block in BLOCKS if "x_test" in block and "savez" not in block]
(CONVERT,) = [block for block in BLOCKS if "savez" in block]


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_is_pasted_below_the_constants(recipe, tmp_path):
    """The last value counts; the script's own check accepts all of them."""
    with_recipe = load(
        edited(tmp_path, ("\n\n\ndef main():", f"\n{recipe}\n\ndef main():"))
    )
    values = dict(re.findall(r"^([A-Z_]+) = ([^ \n]*)", recipe, re.MULTILINE))
    assert len(values) > 5 and values.keys() <= CONSTANTS.keys()
    for name, value in values.items():
        assert getattr(with_recipe, name) == ast.literal_eval(value)
    with_recipe.check_constants()


def test_every_assignment_in_the_text(constants):
    """The script's own check accepts it, as `DROPOUT = 0` in a sentence."""
    found = re.findall(r"`([A-Z][A-Z_0-9]+) = ([^`]+)`", README + RESULTS)
    assert {name for name, _ in found} <= CONSTANTS.keys() | {"OPTIMIZER"}
    for name, value in found:
        if name in CONSTANTS:
            constants(**{**CONSTANTS, name: ast.literal_eval(value)})
            train_mnist.check_constants()


def test_links_and_pictures_are_there():
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert np.asarray(Image.open(ROOT / picture)).std() > 10
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
    headings = re.findall(r"^## (.*)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}
    assert {*re.findall(r"\]\(#([^)]+)\)", README)} <= anchors


def run(code, folder, monkeypatch):
    """Run a program of the README, saved in a folder."""
    monkeypatch.chdir(folder)
    (folder / "program.py").write_text(code, encoding="utf-8")
    return runpy.run_path(str(folder / "program.py"))


def test_other_data_sets(small, monkeypatch, tmp_path):
    """Each becomes a file that load_data takes."""
    data = (small["x_train"], small["y_train"]), (small["x_test"], small["y_test"])
    monkeypatch.setattr(keras.datasets.fashion_mnist, "load_data", lambda: data)
    for (images, labels), part in zip(data, ("train", "test"), strict=True):
        np.savez(tmp_path / f"kmnist-{part}-imgs.npz", images)
        np.savez(tmp_path / f"kmnist-{part}-labels.npz", labels)
    run(CONVERT, tmp_path, monkeypatch)
    for name in "fashion_mnist", "kmnist":
        for loaded, given in zip(
            train_mnist.load_data(tmp_path / f"{name}.npz"), data, strict=True
        ):
            assert (loaded[0] == given[0]).all() and (loaded[1] == given[1]).all()


def test_classify_and_export(whole_run, monkeypatch, capsys, tmp_path):
    """The first test image, a 7, from the folder of the model and the data."""
    for path in whole_run[0] / "mnist_mlp.keras", ROOT / "mnist.npz":
        shutil.copy(path, tmp_path)
    exports = re.findall(r"`(model\.export\(.*?\))`", README)
    if not all(importlib.util.find_spec(name) for name in ("tensorflow", "tf2onnx")):
        exports = []
    run("\n".join([CLASSIFY, *exports]), tmp_path, monkeypatch)
    assert re.search(
        r"^7 read as 7, [\d.]+% confident$", capsys.readouterr().out, re.MULTILINE
    )
    assert len([*tmp_path.glob("mnist_mlp*")]) == 1 + len(exports)
