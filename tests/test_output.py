"""What a run shows and leaves: the report, the picture, the saved model."""

import builtins
import io
import os
import signal
import sys

import keras
import numpy as np
import pytest
from helpers import ROOT, confusion_matrix, file_size_limit
from PIL import Image

import train_mnist

LOSSES = {"loss": [0.5, 0.4, 0.3], "val_loss": [0.6, 0.45, 0.5]}


def accuracy_of(out):
    return float(out.partition("The accuracy of the model is ")[2].split()[0])


def test_a_short_training_learns(whole_run):
    _, out = whole_run
    assert accuracy_of(out) > 0.95
    assert float(out.partition("The test loss is ")[2].split()[0]) < 0.16


def test_nothing_else_is_printed_or_left(whole_run):
    folder, out = whole_run
    assert not set(out) & set("\x1b\b\r")
    left = sorted(os.listdir(folder))
    assert left == ["model.keras", "plot.png", "train_mnist.py"]
    assert out.splitlines()[-2:] == [f"Wrote {folder / name}" for name in left[:2]]


def test_saved_model(whole_run):
    """It takes raw pixels, loads with Keras alone, and gives the printed accuracy."""
    folder, out = whole_run
    model = keras.models.load_model(folder / "model.keras")
    assert model.input_shape == (None, 784)
    assert model.inputs[0].dtype == "uint8"
    assert model.steps_per_execution == 1  # as the torch backend demands
    with np.load(ROOT / "mnist.npz") as data:
        probabilities = model.predict(data["x_test"].reshape(-1, 784), verbose=0)
        accuracy = (probabilities.argmax(axis=1) == data["y_test"]).mean()
    assert f"{accuracy:f}" == f"{accuracy_of(out):f}"


def test_picture_of_a_run(whole_run):
    """Three panels, 13 x 4.6 inches at 120 dots per inch, each with something in it."""
    folder, _ = whole_run
    with Image.open(folder / "plot.png") as picture:
        assert (picture.format, picture.size) == ("PNG", (1560, 552))
        pixels = np.asarray(picture.convert("L"))
    assert all(panel.std() > 10 for panel in np.array_split(pixels, 3, axis=1))


@pytest.fixture
def drawn(mnist):
    """Draws 20 test images, of which some are mistaken: {index: confidence}."""
    _, (images, labels) = mnist
    images, labels = images[:20], labels[:20]

    def drawn(mistakes, losses=LOSSES):
        probabilities = np.eye(10)[labels] * 0.9
        for i, confidence in mistakes.items():
            probabilities[i] = 0
            probabilities[i, (labels[i] + 1) % 10] = confidence
        confusions = confusion_matrix(labels, probabilities.argmax(axis=1))
        figure = train_mnist.draw(losses, confusions, images, labels, probabilities)
        losses, matrix, *gallery = figure.get_axes()
        return figure, losses, matrix, gallery

    drawn.images, drawn.labels = images, labels
    return drawn


def test_loss_curves(drawn):
    figure, axes, *_ = drawn({})
    assert figure.get_size_inches().tolist() == [13, 4.6]
    assert figure.dpi == 120
    assert figure.get_layout_engine().__class__.__name__ == "ConstrainedLayoutEngine"
    labels = {"loss": "training, DROPOUT=0.5", "val_loss": "validation"}
    for line, name in zip(axes.get_lines(), LOSSES, strict=True):
        assert line.get_xdata().tolist() == [1, 2, 3]
        assert line.get_ydata().tolist() == LOSSES[name]
        assert line.get_label() == labels[name]
        assert (line.get_marker(), line.get_linestyle()) == (".", "-")
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == list(labels.values())
    assert axes.get_title() == "Loss curves"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "cross-entropy (nats)")
    assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "log")
    figure.canvas.draw()
    assert all(tick == int(tick) for tick in axes.get_xticks())
    for minor in False, True:
        texts = [label.get_text() for label in axes.get_yticklabels(minor=minor)]
        assert all(float(text) for text in texts if text)
    minor = axes.yaxis.get_minorticklocs()
    assert {f"{tick:.0e}"[0] for tick in minor} == {"2", "3", "5"}
    assert any(texts)
    for lines in axes.xaxis.get_gridlines(), axes.yaxis.get_minorticklines():
        assert lines
    for tick in axes.yaxis.get_major_ticks() + axes.yaxis.get_minor_ticks():
        assert tick.gridline.get_visible()
        assert tick.gridline.get_alpha() == 0.3


def test_loss_curve_of_a_run_without_validation(drawn):
    _, axes, *_ = drawn({}, {"loss": [0.5]})
    (line,) = axes.get_lines()
    assert line.get_xydata().tolist() == [[1, 0.5]]
    assert all(tick == int(tick) for tick in axes.get_xticks())


def test_confusion_matrix(drawn):
    _, _, axes, _ = drawn({0: 0.8, 1: 0.7, 17: 0.6})
    assert axes.get_title() == "Confusion matrix"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted digit", "true digit")
    for ticks in axes.get_xticks(), axes.get_yticks():
        assert ticks.tolist() == list(range(10))
    expected = confusion_matrix(drawn.labels, drawn.labels)
    for i in 0, 1, 17:
        expected[drawn.labels[i], drawn.labels[i]] -= 1
        expected[drawn.labels[i], (drawn.labels[i] + 1) % 10] += 1
    shown = np.zeros((10, 10), int)
    for text in axes.texts:
        column, row = text.get_position()
        shown[row, column] = int(text.get_text() or 0)
        assert (text.get_ha(), text.get_va()) == ("center", "center")
        assert text.get_fontsize() == 8
        assert (text.get_text() == "") == (expected[row, column] == 0)
    assert (shown == expected).all()
    assert shown[7, 8] == 2  # both sevens
    (image,) = axes.get_images()
    assert (image.get_array() == expected * (1 - np.eye(10))).all()
    assert image.get_clim() == (0, 4)
    assert image.get_cmap().name == "Oranges"


def test_most_confident_mistakes(drawn):
    figure, _, _, gallery = drawn({3: 0.62, 5: 0.999, 2: 0.75})
    assert figure.subfigs[2].get_suptitle() == "Most confident mistakes"
    assert len(gallery) == 12
    assert not any(axes.axison for axes in gallery)
    for axes, i, confidence in zip(gallery, (5, 2, 3), ("99.9%", "75.0%", "62.0%")):
        (image,) = axes.get_images()
        assert (image.get_array() == drawn.images[i]).all()
        assert image.get_cmap().name == "gray_r"
        label = drawn.labels[i]
        read = f"{label} read as {(label + 1) % 10}\n{confidence} confident"
        assert axes.get_title() == read
        assert axes.title.get_fontsize() == 8
    assert not any(axes.get_images() or axes.get_title() for axes in gallery[3:])
    columns = {round(axes.get_subplotspec().colspan.start) for axes in gallery}
    assert columns == {0, 1, 2, 3}


def test_more_mistakes_than_places(drawn):
    _, _, _, gallery = drawn({i: 0.99 - i / 100 for i in range(15)})
    for i, axes in enumerate(gallery):
        (image,) = axes.get_images()
        assert (image.get_array() == drawn.images[i]).all()


def test_picture_without_mistakes(drawn, tmp_path):
    figure, *_, gallery = drawn({}, {"loss": [0.5]})
    assert not any(axes.get_images() for axes in gallery)
    figure.savefig(tmp_path / "plot.png")


def test_report(capsys):
    labels = np.array([4] * 20 + [7] * 5 + [1] * 3 + [0] * 6, "uint8")
    predictions = [9] * 11 + [4] * 9 + [9] * 2 + [7] * 3 + [1] * 3
    predictions += [1, 2, 3, 3, 4, 5]
    confusions = confusion_matrix(labels, predictions)
    train_mnist.report(0.25, 15 / 34, confusions)
    assert capsys.readouterr().out.splitlines() == [
        "test set",
        "The test loss is 0.250000",
        "The accuracy of the model is 0.441176",
        "No better than guessing: LEARNING_RATE = 0.01 may be too high or too low",
        "19 of 34 test images are wrong.",
        "digit         0     1     2     3     4     5     6     7     8     9",
        "accuracy  0.000 1.000     -     - 0.450     -     - 0.600     -     -",
        "  4 read as 9: 11",
        "  0 read as 3: 2",
        "  7 read as 9: 2",
        "  0 read as 1: 1",
        "  0 read as 2: 1",
    ]


@pytest.mark.parametrize(("right", "guessed"), [(19, True), (20, True), (21, False)])
def test_guessing_is_saying_the_commonest_digit(right, guessed, capsys):
    """Of 34 images, 20 show a four."""
    confusions = np.zeros((10, 10), int)
    confusions[4, 4], confusions[4, 9] = right - 8, 28 - right
    confusions[7, 7], confusions[1, 2] = 8, 6
    train_mnist.report(0.25, right / 34, confusions)
    assert ("guessing" in capsys.readouterr().out) == guessed


def test_report_without_mistakes(capsys):
    train_mnist.report(0.25, 1, np.eye(10, dtype=int))
    assert capsys.readouterr().out.splitlines()[-1] == "accuracy " + " 1.000" * 10


def test_without_matplotlib(untrained, tmp_path, monkeypatch, capsys):
    untrained(PLOT_PATH=tmp_path / "plot.png")
    real_import = builtins.__import__

    def importing(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", importing)
    train_mnist.main()
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("No picture: pip install matplotlib, or unset MPLBACKEND")
    assert "(ModuleNotFoundError(\"No module named 'matplotlib" in line
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("limit", [20_000, 400_000])
def test_full_disk(limit, untrained, tmp_path, capsys):
    """The results are there before the line on stderr; the earlier files stay."""
    pytest.importorskip("resource")
    model, plot = tmp_path / "model.keras", tmp_path / "plot.png"
    untrained(MODEL_PATH=model, PLOT_PATH=plot, HIDDEN_UNITS=(150,))
    model.write_text("earlier")
    plot.write_text("earlier")
    with file_size_limit(limit), pytest.raises(SystemExit) as end:
        train_mnist.main()
    assert end.value.code == 1
    out, err = capsys.readouterr()
    assert "The accuracy of the model is" in out
    lost = [model, plot] if limit == 20_000 else [model]
    lines = err.splitlines()
    for line, path in zip(lines, lost, strict=True):
        assert line.startswith(f"{path}: not written (OSError(")
        assert path.read_text() == "earlier"
    assert (f"Wrote {plot}" in out) == (plot not in lost)
    assert f"Wrote {model}" not in out
    assert sorted(os.listdir(tmp_path)) == ["model.keras", "plot.png"]


def test_picture_that_cannot_be_written(untrained, tmp_path, monkeypatch, capsys):
    """The model is written, and the status is 1 all the same."""
    write = train_mnist.write_atomically

    def write_no_picture(path, content):
        if path.suffix == ".png":
            raise PermissionError(13, "Permission denied")
        write(path, content)

    monkeypatch.setattr(train_mnist, "write_atomically", write_no_picture)
    untrained(MODEL_PATH=tmp_path / "model.keras", PLOT_PATH=tmp_path / "plot.png")
    with pytest.raises(SystemExit) as end:
        train_mnist.main()
    assert end.value.code == 1
    assert "plot.png: not written (PermissionError(13" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["model.keras"]


def test_nothing_is_drawn_if_nothing_is_written(untrained, monkeypatch):
    untrained()
    monkeypatch.setattr(train_mnist, "draw", None)
    train_mnist.main()


def test_folder_that_stdout_cannot_spell(tmp_path, monkeypatch):
    """As on a Windows that is not in UTF-8, with the output in a file."""
    folder = tmp_path / "\u0141"
    folder.mkdir()
    output = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", output)
    assert train_mnist.save(folder / "a.txt", lambda path: path.write_text("new"))
    assert os.listdir(folder) == ["a.txt"]


def test_writing_is_synced_and_beside_the_target(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(1) or fsync(file))

    def write(path):
        assert path.parent.parent == tmp_path
        assert path.parent.name.startswith(".mnist-")
        assert path.name == "a.txt"
        path.write_text("new")
        assert not (tmp_path / "a.txt").exists()

    train_mnist.write_atomically(tmp_path / "a.txt", write)
    assert (tmp_path / "a.txt").read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]
    assert synced == [1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a process to kill")
def test_kill_while_saving_leaves_the_earlier_file(tmp_path):
    path = tmp_path / "model.keras"
    path.write_text("earlier")

    def half(file):
        file.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)

    if (child := os.fork()) == 0:
        try:
            train_mnist.write_atomically(path, half)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert path.read_text() == "earlier"


def test_pipe_whose_reader_is_gone():
    """What is written comes through at once, and goes nowhere when nobody reads."""
    reader, writer = os.pipe()
    with open(writer, "w", encoding="utf-8") as stream:
        train_mnist.ignore_write_errors(stream)
        stream.write("one\n")
        assert os.read(reader, 100) == b"one\n"
        os.close(reader)
        for _ in range(3):
            print("two", file=stream, flush=True)
    assert sys.stdout is not stream


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a full device")
def test_output_to_a_full_disk():
    with open("/dev/full", "w", encoding="utf-8") as stream:
        train_mnist.ignore_write_errors(stream)
        for _ in range(3):
            print("one", file=stream, flush=True)
