"""What a run leaves: the saved model, the picture, and the lines about mistakes."""

import builtins
import os
import signal
import struct
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import ROOT, own_lines

import train_mnist


def png_size(path):
    """The width and the height of a PNG file, in pixels."""
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert content.endswith(b"IEND\xaeB`\x82")
    return struct.unpack(">II", content[16:24])


def confusion_matrix(labels, predictions):
    """How often each label was read as each digit, (10, 10)."""
    return np.histogram2d(labels, predictions, np.arange(11))[0].astype(int)


def accuracy_of(out):
    return float(out.partition("The accuracy of the model is ")[2].split()[0])


def test_a_short_training_learns(run):
    _, out, _ = run
    assert accuracy_of(out) > 0.95
    assert float(out.partition("The test loss is ")[2].split()[0]) < 0.16


def test_nothing_else_is_printed_or_left(run):
    folder, out, err = run
    assert own_lines(err) == []
    assert not set(out) & set("\x1b\b\r")
    left = sorted(os.listdir(folder))
    assert left == ["model.keras", "plot.png", "train_mnist.py"]


def test_saved_model_loads_with_keras_alone(run):
    folder, out, _ = run
    code = (
        "import keras, numpy as np\n"
        f"data = np.load({str(ROOT / 'mnist.npz')!r})\n"
        f"model = keras.models.load_model({str(folder / 'model.keras')!r})\n"
        "p = model.predict(data['x_test'].reshape(-1, 784), verbose=0)\n"
        "print('%f' % (p.argmax(1) == data['y_test']).mean())\n"
    )
    command = [sys.executable, "-c", code]
    found = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=folder
    )
    assert found.stdout.strip() == f"{accuracy_of(out):f}"


def test_saved_model_is_plain(run):
    folder, _, _ = run
    model = keras.models.load_model(folder / "model.keras")
    assert model.input_shape == (None, 784)
    assert model.inputs[0].dtype == "uint8"
    assert model.steps_per_execution == 1  # as the torch backend demands


def test_picture_of_a_run(run):
    folder, _, _ = run
    width, height = png_size(folder / "plot.png")
    assert 1000 < width < 2000
    assert 400 < height < 1000


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("epochs", [1, 3])
def test_picture_without_validation_or_mistakes(shift, epochs, mnist, tmp_path):
    _, (images, labels) = mnist
    images, labels = images[:20], labels[:20]
    losses = {"loss": [0.5, 0.4, 0.3][:epochs]}
    file = tmp_path / "plot.png"
    predictions = (labels + shift) % 10
    confusions = confusion_matrix(labels, predictions)
    train_mnist.draw(losses, confusions, images, labels, np.eye(10)[predictions], file)
    png_size(file)


def test_report(capsys):
    labels = np.array([4] * 20 + [7] * 4 + [1] * 3, "uint8")
    predictions = np.array([9] * 11 + [4] * 9 + [9] * 1 + [7] * 3 + [1] * 3)
    confusions = confusion_matrix(labels, predictions)
    train_mnist.report(0.5, 0.25, 15 / 27, confusions)
    assert capsys.readouterr().out.splitlines() == [
        "test set",
        "The test loss is 0.250000",
        "The accuracy of the model is 0.555556",
        "12 of 27 test images are wrong.",
        "digit         0     1     2     3     4     5     6     7     8     9",
        "accuracy      - 1.000     -     - 0.450     -     - 0.750     -     -",
        "  4 read as 9: 11 times",
        "  7 read as 9:  1 time",
    ]


def test_without_matplotlib(script, tmp_path, monkeypatch, capsys):
    script.PLOT_PATH = tmp_path / "plot.png"
    real_import = builtins.__import__

    def importing(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", importing)
    train_mnist.main()
    assert "pip install matplotlib" in capsys.readouterr().out.splitlines()[-1]
    assert os.listdir(tmp_path) == []


def test_full_disk(script, tmp_path, capsys):
    """The results are there before the line on stderr; the earlier files stay."""
    resource = pytest.importorskip("resource")
    script.MODEL_PATH = tmp_path / "model.keras"
    script.PLOT_PATH = tmp_path / "plot.png"
    for path in script.MODEL_PATH, script.PLOT_PATH:
        path.write_text("earlier")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(SystemExit) as end:
            train_mnist.main()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert end.value.code == 1
    out, err = capsys.readouterr()
    assert "The accuracy of the model is" in out
    first, second = err.splitlines()
    assert str(script.MODEL_PATH) in first
    assert str(script.PLOT_PATH) in second
    assert script.MODEL_PATH.read_text() == script.PLOT_PATH.read_text() == "earlier"
    assert sorted(os.listdir(tmp_path)) == ["model.keras", "plot.png"]


def test_kill_while_saving_leaves_the_earlier_file(tmp_path):
    path = tmp_path / "model.keras"
    path.write_text("earlier")
    code = (
        "import os, train_mnist\n"
        "def half(file):\n"
        "    file.write_text('half')\n"
        f"    os.kill(os.getpid(), {int(getattr(signal, 'SIGKILL', 9))})\n"
        f"train_mnist.save({str(path)!r}, half)\n"
    )
    command = [sys.executable, "-c", code]
    killed = subprocess.run(command, check=False, cwd=ROOT, capture_output=True)
    assert killed.returncode != 0
    assert path.read_text() == "earlier"
