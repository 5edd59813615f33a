"""The log of the runs, and the picture."""

import json
import os

import numpy as np
import pytest
from matplotlib.figure import Figure

import train_mnist


def test_runs_are_logged(main, tmp_path):
    """A line each: versions, all constants, results; and what has changed is told."""
    (loss, accuracy), out = main(LOG_PATH=tmp_path / "log.jsonl")
    assert "Since the run" not in out
    _, told = main(DROPOUT=0.2, HIDDEN_UNITS=(60,))
    lines = (tmp_path / "log.jsonl").read_text("utf-8").splitlines()
    first, second = map(json.loads, lines)
    assert (first["test_loss"], first["test_accuracy"]) == (loss, round(accuracy, 6))
    assert (first["epochs"], first["SEED"]) == (1, 0)
    assert f" val_accuracy: {first['val_accuracy']:.4f}" in out
    assert f"The training took {first['seconds']:.1f} s." in out
    assert {"keras", "backend", "val_loss", "DATA_PATH", "LOG_PATH"} <= first.keys()
    changed = {k for k in first if first[k] != second[k]} - {"seconds", "time"}
    assert {k for k in changed if k.isupper()} == {"DROPOUT", "HIDDEN_UNITS"}
    _, _, told = told.partition(f"Since the run of {first['time']}:\n")
    assert {line.split()[0] for line in told.splitlines()} == changed
    assert "  DROPOUT 0.5 -> 0.2\n" in told


@pytest.mark.parametrize("before", ['{"half', '{"half\n', "5\n", "\n", ""])
def test_log_after_something_that_is_no_run(before, constants, tmp_path, capsys):
    """Nothing is lost, and a Path is logged, too."""
    constants(LOG_PATH=tmp_path / "log.jsonl")
    (tmp_path / "log.jsonl").write_text(before, "utf-8")
    train_mnist.log({"test_f1": [0.5, 1.0]})
    assert (tmp_path / "log.jsonl").read_text("utf-8").startswith(before)
    line = (tmp_path / "log.jsonl").read_text("utf-8").splitlines()[-1]
    assert json.loads(line)["test_f1"] == [0.5, 1.0]
    assert json.loads(line)["LOG_PATH"] == str(tmp_path / "log.jsonl")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("names", [("loss", "val_loss"), ("loss",)])
@pytest.mark.parametrize("mistakes", [[], [3, 5, 13], [*range(15)]])
def test_picture(names, mistakes, constants, tmp_path, monkeypatch, capsys):
    """The losses by name; the counts, without colour where right; the mistakes."""
    figure = Figure(layout="constrained")
    monkeypatch.setattr(train_mnist, "Figure", lambda **size: figure)
    constants(PLOT_PATH=str(tmp_path / "plot.png"))
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28), "uint8")
    labels, predictions = np.arange(20) % 10, np.arange(20) % 10
    predictions[mistakes] = (predictions[mistakes] + 1) % 10
    confidence = 0.5 + np.arange(20) * 7 % 20 / 50
    probabilities = np.eye(10)[predictions] * confidence[:, None]
    history = {"accuracy": [0.7, 0.8], **{name: [len(name), 0.3] for name in names}}
    train_mnist.draw(history, images, labels, probabilities)
    assert (tmp_path / "plot.png").exists() and "Wrote " in capsys.readouterr().out

    curves, matrix, *places = figure.get_axes()
    words = [curves.get_title(), curves.get_xlabel(), curves.get_ylabel()]
    assert words == ["Loss curves", "epoch", "loss"]
    for line, name in zip(curves.get_lines(), names, strict=True):
        assert line.get_xydata().tolist() == [[1, len(name)], [2, 0.3]]
        assert ("validation" in line.get_label()) == (name == "val_loss")
    assert len(curves.get_legend().get_texts()) == len(names)
    assert curves.get_yscale() == "log" and curves.get_xgridlines()[0].get_visible()
    ticks = [text.get_text() for text in curves.get_yticklabels(minor=True)]
    assert "0.5" in ticks and "2" in ticks
    assert all(tick == int(tick) for tick in curves.get_xticks())

    confusions = np.histogram2d(labels, predictions, np.arange(11))[0].astype(int)
    shown = {(*text.get_position()[::-1],): text.get_text() for text in matrix.texts}
    assert shown == {at: str(count or "") for at, count in np.ndenumerate(confusions)}
    colours = matrix.get_images()[0].get_array()
    assert (colours == confusions * (1 - np.eye(10))).all()
    assert (matrix.get_ylabel(), len(matrix.get_xticks())) == ("true digit", 10)

    order = sorted(mistakes, key=lambda i: -confidence[i])[:12]
    assert sum(bool(axes.get_images()) for axes in places) == len(order)
    assert not any(axes.axison for axes in places)
    for axes, i in zip(places, order, strict=False):
        assert (axes.get_images()[0].get_array() == images[i]).all()
        title = f"{labels[i]} read as {predictions[i]}\n{confidence[i]:.1%}"
        assert axes.get_title() == title


def test_without_matplotlib(main, tmp_path, monkeypatch):
    monkeypatch.setattr(train_mnist, "Figure", None)
    main(PLOT_PATH=tmp_path / "plot.png")
    assert os.listdir(tmp_path) == []
