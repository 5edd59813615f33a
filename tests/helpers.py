"""What several test files use: the script's folder, edited copies, its processes."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import train_mnist

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
FILES = ["mnist_mlp.jsonl", "mnist_mlp.keras", "mnist_mlp.png"]
CONSTANTS = {name: x for name, x in vars(train_mnist).items() if name.isupper()}
on_posix = pytest.mark.skipif(
    os.name != "posix", reason="Windows can't send Ctrl-C to one process alone"
)


def edited(folder, *edits, **constants):
    """Copy the script to a folder, edited by hand; return its path.

    An edit is a pair: the text to find, once in the script, and the text to put there.
    """
    script = (ROOT / "train_mnist.py").read_text(encoding="utf-8")
    lines = script.splitlines(keepends=True)
    for name, value in constants.items():
        (line,) = [line for line in lines if line.startswith(f"{name} = ")]
        edits = *edits, (f"\n{line}", f"\n{name} = {value!r}\n")
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


def start_script(path, environment=(), args=(), **streams):
    """Start the script as a user does, from another folder than its own."""
    settings = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUTF8": "1"}
    return subprocess.Popen(
        [sys.executable, "-W", "always::UserWarning", str(path), *args],
        cwd=path.anchor,
        env={**os.environ, **settings, **dict(environment)},
        text=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams},
    )


def result(process):
    """Wait for a process; return its status, what of stdout is not yet read, and stderr.

    Of stderr, without TensorFlow's notes.
    """
    out = "" if not process.stdout or process.stdout.closed else process.stdout.read()
    notes = ("WARNING: All log messages before", "I0000 ", "E0000 ", "W0000 ")
    lines = [x for x in process.stderr.read().splitlines() if not x.startswith(notes)]
    return process.wait(60), out, [x for x in lines if " tensorflow/c" not in x]


def wait_for_line(process, start):
    """Read what a process prints up to a line that begins so."""
    for line in process.stdout:
        if line.startswith(start):
            return
    raise AssertionError(f"ended without a line {start!r}: {process.stderr.read()}")
