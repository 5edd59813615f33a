"""The report, the log of the runs, the picture, and how files are written."""

import io
import json
import os
import sys

import numpy as np
import pytest
from helpers import CONSTANTS

import train_mnist


def test_report(capsys):
    confusions = np.zeros((10, 10), int)
    confusions[4, [4, 9]], confusions[7, [7, 9]], confusions[1, 1] = (9, 11), (3, 2), 3
    confusions[0, 1:6] = 1, 1, 2, 1, 1
    train_mnist.report(0.25, 15 / 34, confusions)
    assert capsys.readouterr().out.splitlines() == [
        "test set",
        "The test loss is 0.250000",
        "The accuracy of the model is 0.441176",
        "19 of 34 test images are wrong.",
        "digit         0     1     2     3     4     5     6     7     8     9",
        "accuracy  0.000 1.000     -     - 0.450     -     - 0.600     -     -",
        "  4 read as 9: 11",
        "  0 read as 3: 2",
        "  7 read as 9: 2",
        "  0 read as 1: 1",
        "  0 read as 2: 1",
    ]


@pytest.mark.parametrize(
    ("loss", "guessed"), [(2.302, False), (2.303, True), (np.inf, True), (np.nan, True)]
)
def test_guessing_is_a_loss_of_equal_probabilities(loss, guessed, capsys):
    """Whatever the accuracy. Without mistakes, none are listed."""
    train_mnist.report(loss, 1, np.eye(10, dtype=int))
    lines = capsys.readouterr().out.splitlines()
    assert ("LEARNING_RATE = 0.01 may be too high" in lines[3]) == guessed
    assert lines[-1] == "accuracy " + " 1.000" * 10


# The log of the runs
@pytest.fixture
def log(monkeypatch, tmp_path):
    """Logs a run, at 05:52."""
    path = tmp_path / "log.jsonl"
    moment = "2026-11-25 05:52:01"
    monkeypatch.setattr(train_mnist.time, "strftime", lambda layout: moment)

    def log(**values):
        run = {"val_loss": 0.21749, "val_accuracy": 0.93}
        run |= {"test_accuracy": 0.9431, **values}
        train_mnist.append_run(path, {k: v for k, v in run.items() if v is not None})

    log.path = path
    return log


def test_runs_are_logged(quick, tmp_path, capsys):
    """A line each, with the whole numbers that are printed, and all constants."""
    path = tmp_path / "log.jsonl"
    quick(LOG_PATH=path)
    loss, accuracy = train_mnist.main()
    quick(DROPOUT=0.2)
    train_mnist.main()
    out = capsys.readouterr().out
    first, second = map(json.loads, path.read_text().splitlines())
    assert (first["test_loss"], first["test_accuracy"]) == (loss, accuracy)
    assert first["interrupted"] is False
    for name in "loss", "accuracy", "val_loss", "val_accuracy":
        assert f" {name}: {first[name]:.4f}" in out
    assert f"The training took {first['seconds']:.1f} s." in out
    assert CONSTANTS.keys() < first.keys()
    assert {k for k in first if k.isupper() and first[k] != second[k]} == {"DROPOUT"}
    assert (first["HIDDEN_UNITS"], first["LOG_PATH"]) == ([50], str(path))
    assert f"Since the run of {first['time'][:16]}:\n  DROPOUT 0.5 -> 0.2\n" in out


def test_changes_are_told(log, constants, capsys):
    log()
    assert capsys.readouterr().out == ""
    constants(DROPOUT=0.2, HIDDEN_UNITS=(30,))
    test = "test accuracy 0.9431 -> 0.9526"
    log(val_loss=0.16984, val_accuracy=0.9521, test_accuracy=0.9526)
    assert capsys.readouterr().out.splitlines() == [
        "Since the run of 2026-11-25 05:52:",
        "  HIDDEN_UNITS [500, 500] -> [30]",
        "  DROPOUT 0.5 -> 0.2",
        f"  val_loss 0.2175 -> 0.1698, val_accuracy 0.9300 -> 0.9521, {test}",
    ]
    log(val_loss=None, val_accuracy=None)
    assert capsys.readouterr().out.splitlines()[1:] == [
        "  test accuracy 0.9526 -> 0.9431"
    ]


@pytest.mark.parametrize(
    "line",
    ["\n", "{", "[1]", "3", '"time"', '{"time": 3}', '{"time": "2026"}', "\ufeff\u2028"]
    + [
        json.dumps({**CONSTANTS, "time": "", "test_accuracy": a})
        for a in ("high", None)
    ],
)
def test_line_before_that_is_no_run(line, log, capsys):
    """Nothing is said, nothing lost, and the new line is whole."""
    before = b"\xff\xfe\n" + line.encode()
    log.path.write_bytes(before)
    log()
    assert capsys.readouterr().out == ""
    after = log.path.read_bytes()
    assert after.startswith(before)
    assert json.loads(after.splitlines()[-1])["test_accuracy"] == 0.9431


def test_two_runs_at_once(log):
    """Each appends its whole line, whatever the other has added since it began."""
    with open(log.path, "a+", encoding="utf-8") as other:
        log()
        other.write(f"{json.dumps({'time': 'other'})}\n")
    log()
    times = [json.loads(line)["time"] for line in log.path.read_text().splitlines()]
    assert times == ["2026-11-25 05:52:01", "other", "2026-11-25 05:52:01"]


# The picture
@pytest.mark.parametrize("names", [("loss", "val_loss"), ("loss",)])
@pytest.mark.parametrize("mistakes", [(), (3, 5, 13), tuple(range(15))])
def test_picture(names, mistakes, tmp_path):
    """The losses by name; the counts, without colour where right; the mistakes, sorted."""
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28), "uint8")
    labels, predictions = np.arange(20) % 10, np.arange(20) % 10
    predictions[[*mistakes]] += 1
    predictions %= 10
    probabilities = np.eye(10)[predictions] * (
        0.5 + np.arange(20)[:, None] * 7 % 20 / 50
    )
    confusions = np.histogram2d(labels, predictions, np.arange(11))[0].astype(int)
    history = {"accuracy": [0.7, 0.8], "loss": [5, 4], "val_loss": [6, 4.5]}
    history = {name: history[name] for name in ("accuracy", *names)}
    figure = train_mnist.draw(history, confusions, images, labels, probabilities)
    losses, matrix, *places = figure.get_axes()
    for line, name in zip(losses.get_lines(), names, strict=True):
        assert line.get_xydata().tolist() == [
            [1, history[name][0]],
            [2, history[name][1]],
        ]
    texts = [text.get_text() for text in losses.get_legend().get_texts()]
    assert texts == ["training, DROPOUT=0.5", "validation"][: len(names)]
    shown = {(*text.get_position()[::-1],): text.get_text() for text in matrix.texts}
    assert shown == {at: str(count or "") for at, count in np.ndenumerate(confusions)}
    (image,) = matrix.get_images()
    assert (image.get_array() == confusions * (1 - np.eye(10))).all()
    assert (matrix.get_xlabel(), matrix.get_ylabel()) == (
        "predicted digit",
        "true digit",
    )
    order = sorted(mistakes, key=lambda i: -probabilities[i].max())
    assert [bool(axes.get_images()) for axes in places] == [
        i < len(order) for i in range(12)
    ]
    for axes, i in zip(places, order, strict=False):
        assert (axes.get_images()[0].get_array() == images[i]).all()
        confidence = f"{probabilities[i].max():.1%} confident"
        assert axes.get_title() == f"{labels[i]} read as {predictions[i]}\n{confidence}"
    figure.savefig(tmp_path / "plot.png")


def test_without_matplotlib(quick, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # can't be imported
    quick(PLOT_PATH=tmp_path / "plot.png")
    train_mnist.main()
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("No picture: pip install matplotlib")
    assert os.listdir(tmp_path) == []


# How files are written
def test_file_that_cannot_be_written(quick, tmp_path, monkeypatch, capsys):
    """A line each on stderr; the earlier file stays, the others are written."""
    model, plot, log = (tmp_path / name for name in ("a.keras", "a.png", "a.jsonl"))
    replace = os.replace

    def full(new, path):
        if path == model:
            log.mkdir()
            raise OSError(28, "No space left on device")
        replace(new, path)

    model.write_text("earlier")
    monkeypatch.setattr(os, "replace", full)
    quick(MODEL_PATH=model, PLOT_PATH=plot, LOG_PATH=log)
    _, accuracy = train_mnist.main()
    out, err = capsys.readouterr()
    for line, path in zip(err.splitlines(), (model, log), strict=True):
        assert line.startswith(f"{path}: not written (")
        assert f"Wrote {path}" not in out
    assert f"The accuracy of the model is {accuracy:f}\n" in out
    assert f"Wrote {plot}" in out
    assert model.read_text() == "earlier"
    assert sorted(os.listdir(tmp_path)) == ["a.jsonl", "a.keras", "a.png"]


def test_folder_that_stdout_cannot_spell(tmp_path, monkeypatch):
    """As on a Windows that is not in UTF-8, with the output in a file."""
    folder = tmp_path / "\u0141"
    folder.mkdir()
    output = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", output)
    assert train_mnist.save(folder / "a.txt", lambda path: path.write_text("new"))
    assert os.listdir(folder) == ["a.txt"]


def test_files_are_moved_to_their_place_when_whole(tmp_path):
    """Whoever is killed while writing leaves the earlier file. A link stays a link."""
    path, link = tmp_path / "a.txt", tmp_path / "link.txt"
    path.write_text("earlier")
    if os.name == "posix":
        link.symlink_to(path)

    def write(new):
        assert new.parent.parent == tmp_path
        assert new.parent.name.startswith(".mnist-")
        new.write_text("new")
        assert path.read_text() == "earlier"

    train_mnist.write_atomically(link if os.name == "posix" else path, write)
    assert path.read_text() == "new"
    assert link.is_symlink() == (os.name == "posix")
    with pytest.raises(ValueError):
        train_mnist.write_atomically(
            path, lambda new: new.write_text("half") + int("?")
        )
    assert path.read_text() == "new"
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
