"""The report, the log of the runs, the picture, and how files are written."""

import json
import os
import sys
import threading

import numpy as np
import pytest
from helpers import CONSTANTS, edited, load, on_posix

import train_mnist


def test_report(capsys):
    confusions = np.zeros((10, 10), int)
    confusions[4, [4, 9]], confusions[7, [7, 9]], confusions[1, 1] = (9, 11), (3, 2), 3
    confusions[0, 1:6] = 1, 1, 2, 1, 1
    train_mnist.report(2.5, 15 / 34, confusions)
    assert capsys.readouterr().out.splitlines() == [
        "test set",
        "The test loss is 2.500000",
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


@pytest.mark.parametrize("true", [0.104, 0.101, 0, np.nan])
def test_guess(true, capsys):
    """It is no better than equal probabilities."""
    probabilities = np.where(np.eye(10), true, (1 - true) / 9)
    for val_accuracy, cause in (0.5, "the learning rate"), (0.9, "test images and"):
        train_mnist.warn_if_guessing(np.eye(10), probabilities, val_accuracy)
        said = capsys.readouterr().out
        start = "" if true == 0.104 else f"No better than guessing: {cause}"
        assert (said.startswith(start), bool(said)) == (True, bool(start))


# The log of the runs
@pytest.fixture
def log(monkeypatch, tmp_path):
    """Logs a run, at 05:52."""
    moment = "2026-11-25 05:52:01"
    monkeypatch.setattr(train_mnist.time, "strftime", lambda layout: moment)

    def log(test=0.9431, epochs=100, **validation):
        run = {"epochs": epochs, **validation, "test_accuracy": test}
        train_mnist.append_run(log.path, run)

    log.path = tmp_path / "log.jsonl"
    return log


def test_runs_are_logged(quick, tmp_path, monkeypatch, capsys):
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
    for name in "val_loss", "val_accuracy":
        assert f" {name}: {first[name]:.4f}" in out
        assert f"{name} {first[name]:f}" in out
    assert f"The training took {first['seconds']:.1f} s." in out
    assert {k for k in first if k.isupper() and first[k] != second[k]} == {"DROPOUT"}
    assert (first["HIDDEN_UNITS"], first["LOG_PATH"]) == ([50], str(path))
    assert f"Since the run of {first['time'][:16]}:\n  DROPOUT 0.5 -> 0.2\n" in out


def test_changes_are_told(log, constants, tmp_path, capsys):
    """Of constants, of which one is new, of results, and of the epochs trained.

    The constants are those of the file; names above and below them are not logged.
    """
    log(val_loss=0.21749, val_accuracy=0.93)
    constants(DROPOUT=0.2, HIDDEN_UNITS=(30,))
    log(0.9526, val_loss=0.16984, val_accuracy=0.9521)
    places = {"A": "\n# Data; ", "L2": "\nSEED", "B": "\n\ndef main"}
    edits = [(place, f"\n{name} = 0.0{place}") for name, place in places.items()]
    changed = load(edited(tmp_path, *edits, DROPOUT=0.2, HIDDEN_UNITS=(30,)))
    changed.append_run(log.path, {"epochs": 3, "test_accuracy": 0.9431})
    validation = "val_loss 0.2175 -> 0.1698, val_accuracy 0.9300 -> 0.9521"
    assert capsys.readouterr().out.splitlines() == [
        "Since the run of 2026-11-25 05:52:",
        "  HIDDEN_UNITS [500, 500] -> [30]",
        "  DROPOUT 0.5 -> 0.2",
        f"  {validation}, test accuracy 0.9431 -> 0.9526",
        "Since the run of 2026-11-25 05:52:",
        "  L2 (new) -> 0.0",
        "  epochs trained 100 -> 3",
        "  test accuracy 0.9526 -> 0.9431",
    ]


BROKEN = ["\n", "{", "[1]", '{"time": 3}', '{"time": ""}', "\ufeff\u2028"]
BROKEN += [json.dumps({**CONSTANTS, "time": "", "test_accuracy": "?"})]


@pytest.mark.parametrize("line", BROKEN)
def test_line_before_that_is_no_run(line, log, capsys):
    """Nothing is said, nothing lost, and the new line is whole."""
    before = b"\xff\xfe\n" + line.encode()
    log.path.write_bytes(before)
    log()
    assert capsys.readouterr().out == ""
    after = log.path.read_bytes()
    assert after.startswith(before)
    assert json.loads(after.splitlines()[-1])["test_accuracy"] == 0.9431


def test_two_at_once(log):
    """Neither loses what the other adds meanwhile."""
    runs = [threading.Thread(target=lambda: [log() for _ in range(100)]) for _ in "ab"]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    lines = log.path.read_text().split("\n")
    assert len([json.loads(line) for line in lines if line]) == 200


# The picture
@pytest.mark.parametrize("names", [("loss", "val_loss"), ("loss",)])
@pytest.mark.parametrize("mistakes", [(), (3, 5, 13), range(15)])
def test_picture(names, mistakes, tmp_path):
    """The losses by name; the counts, without colour where right; the mistakes, sorted."""
    mistakes = [*mistakes]
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28), "uint8")
    labels, predictions = np.arange(20) % 10, np.arange(20) % 10
    predictions[mistakes] = (predictions[mistakes] + 1) % 10
    confidence = 0.5 + np.arange(20) * 7 % 20 / 50
    probabilities = np.eye(10)[predictions] * confidence[:, None]
    confusions = np.histogram2d(labels, predictions, np.arange(11))[0].astype(int)
    history = {"accuracy": [0.7, 0.8], **{name: [len(name), 4] for name in names}}
    figure = train_mnist.draw(history, confusions, images, labels, probabilities)
    figure.savefig(tmp_path / "plot.png")
    losses, matrix, *places = figure.get_axes()
    for line, name in zip(losses.get_lines(), names, strict=True):
        assert line.get_xydata().tolist() == [[1, len(name)], [2, 4]]
    texts = [text.get_text() for text in losses.get_legend().get_texts()]
    assert texts == ["training, DROPOUT=0.5", "validation"][: len(names)]
    shown = {(*text.get_position()[::-1],): text.get_text() for text in matrix.texts}
    assert shown == {at: str(count or "") for at, count in np.ndenumerate(confusions)}
    colours = matrix.get_images()[0].get_array()
    assert (colours == confusions * (1 - np.eye(10))).all()
    assert matrix.get_ylabel() == "true digit"
    order = sorted(mistakes, key=lambda i: -confidence[i])[:12]
    assert sum(bool(axes.get_images()) for axes in places) == len(order)
    for axes, i in zip(places, order, strict=False):
        assert (axes.get_images()[0].get_array() == images[i]).all()
        title = f"{labels[i]} read as {predictions[i]}\n{confidence[i]:.1%} confident"
        assert axes.get_title() == title


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
            log.mkdir()  # only now: the check of the constants has passed
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


@pytest.mark.parametrize("linked", [False, pytest.param(True, marks=on_posix)])
def test_files_are_moved_to_their_place_when_whole(linked, tmp_path):
    """Whoever is killed while writing leaves the earlier file, and a link stays one."""
    path = target = tmp_path / "mnist.npz"
    if linked:
        target = tmp_path / "a.txt"
        path.symlink_to(target)
        with pytest.raises(SystemExit, match="not an npz file"):  # no download
            train_mnist.load_data(path)
    target.write_text("earlier")

    def write(new, content):
        new.write_text("half")
        assert (path.read_text(), new.suffix) == ("earlier", ".npz")
        new.write_text(content)

    with pytest.raises(TypeError):
        train_mnist.write_atomically(path, lambda new: write(new, None))
    train_mnist.write_atomically(path, lambda new: write(new, "new"))
    assert target.read_text() == "new"
    assert path.is_symlink() == linked
    assert len(os.listdir(tmp_path)) == 1 + linked
