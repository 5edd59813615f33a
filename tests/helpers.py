"""What several test files use: the script's folder and texts, edited copies of it."""

import importlib.util
import re
from pathlib import Path

import train_mnist

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
FILES = ["mnist_mlp.jsonl", "mnist_mlp.keras", "mnist_mlp.png"]
CONSTANTS = {name: x for name, x in vars(train_mnist).items() if name.isupper()}


def edited(folder, *edits, **constants):
    """Copy the script to a folder, edited by hand; return its path.

    An edit is a pair: the text to find, once in the script, and the text to put there.
    """
    script = (ROOT / "train_mnist.py").read_text(encoding="utf-8")
    for name, value in constants.items():
        line = re.search(rf"^{name} = .*\n", script, re.MULTILINE)[0]
        edits = *edits, (line, f"{name} = {value!r}\n")
    for old, new in edits:
        assert script.count(old) == 1, old
        script = script.replace(old, new)
    path = Path(folder) / "train_mnist.py"
    path.write_text(script, encoding="utf-8")
    return path


def load(path):
    """Import a copy of the script as a module of its own."""
    spec = importlib.util.spec_from_file_location("copy_of_train_mnist", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
