"""The report, the log of the runs, the picture, and how files are written."""

import json
import os

import numpy as np
import pytest

import train_mnist


def test_report(capsys):
    confusions = np.zeros((10, 10), int)
    confusions[4, [4, 9]], confusions[7, [7, 9]], confusions[1, 1] = (9, 11), (3, 2), 3
    confusions[0, 1:6] = 1, 1, 2, 1, 1
    train_mnist.report(2.5, 15 / 34, confusions)
    _, loss, accuracy, wrong, _, by_digit, *mistakes = capsys.readouterr().out.split(
        "\n"
    )
    assert (loss[-8:], accuracy[-8:], wrong[:8]) == ("2.500000", "0.441176", "19 of 34")
    assert by_digit.split()[1:6] == ["0.000", "1.000", "0.000", "0.000", "0.450"]
    assert [mistake[-13:] for mistake in mistakes[:2]] == [
        "read as 9: 11",
        " read as 3: 2",
    ]
    assert len(mistakes) == 5 + 1


def test_runs_are_logged(quick, tmp_path, capsys):
    """A line each: versions, all constants, results; and what has changed is told."""
    path = tmp_path / "log.jsonl"
    quick(LOG_PATH=path, SEED=np.int64(0))
    loss, accuracy = train_mnist.main()
    quick(DROPOUT=0.2, HIDDEN_UNITS=(60,))
    train_mnist.main()
    out = capsys.readouterr().out
    first, second = map(json.loads, path.read_text("utf-8").splitlines())
    assert (first["test_loss"], first["test_accuracy"]) == (loss, round(accuracy, 6))
    assert (first["interrupted"], first["epochs"], first["SEED"]) == (False, 1, 0)
    assert f" val_accuracy: {first['val_accuracy']:.4f}" in out
    assert f"The training took {first['seconds']:.1f} s." in out
    assert {"keras", "backend", "val_loss", "DATA_URL"} <= first.keys()
    changed = {k for k in first if first[k] != second[k]} - {"seconds", "time"}
    assert {k for k in changed if k.isupper()} == {"DROPOUT", "HIDDEN_UNITS"}
    _, _, told = out.partition(f"Since the run of {first['time']}:\n")
    assert {line.split()[0] for line in told.splitlines()} == changed
    assert "  DROPOUT 0.5 -> 0.2\n" in told


def test_log_after_something_that_is_no_run(constants, tmp_path, capsys):
    """Nothing is lost, and a Path, an array and a NaN are logged, too."""
    constants(LOG_PATH=tmp_path / "log.jsonl")
    (tmp_path / "log.jsonl").write_text('{"half\n', "utf-8")
    train_mnist.log({"test_loss": np.nan, "test_f1": [0.5, 1.0]})
    before, line = (tmp_path / "log.jsonl").read_text("utf-8").splitlines()
    run = json.loads(line)
    assert before == '{"half'
    assert (run["test_loss"], run["test_f1"]) == (None, [0.5, 1.0])
    assert run["LOG_PATH"] == str(tmp_path / "log.jsonl")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("names", [("loss", "val_loss"), ("loss",)])
@pytest.mark.parametrize("mistakes", [[], [3, 5, 13], [*range(15)]])
def test_picture(names, mistakes, tmp_path):
    """The losses by name; the counts, without colour where right; the mistakes, sorted."""
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
        assert ("validation" in line.get_label()) == (name == "val_loss")
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


def test_without_matplotlib(quick, tmp_path, monkeypatch):
    monkeypatch.setattr(train_mnist, "Figure", None)
    quick(PLOT_PATH=tmp_path / "plot.png")
    train_mnist.main()
    assert os.listdir(tmp_path) == []


def test_files_are_moved_to_their_place_when_whole(tmp_path):
    """Whoever is stopped while writing keeps the earlier file."""
    path = tmp_path / "a.txt"
    path.write_text("earlier")

    def write(new, content):
        new.write_text("half")
        assert (path.read_text(), new.suffix) == ("earlier", ".txt")
        new.write_text(content)

    with pytest.raises(TypeError):
        train_mnist.save(path, lambda new: write(new, None))
    train_mnist.save(path, lambda new: write(new, "new"))
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]
