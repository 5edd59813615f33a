"""A run from end to end: what it prints and leaves, and the ways in which it ends."""

import json
import os
import re
import signal
from unittest.mock import Mock

import keras
import numpy as np
import pytest
from helpers import FILES, ROOT, load
from PIL import Image

ALL = [*FILES, "train_mnist.py"]  # in alphabetical order


def test_same_seed_same_results(main):
    first, out = main(EPOCHS=2)
    again, out_again = main()
    epochs, epochs_again = (re.findall("accuracy: .*", x) for x in (out, out_again))
    assert (first, epochs) == (again, epochs_again) and "lack" not in out
    assert len(epochs) == 3 and main(SEED=1)[0] != first


def test_a_baseline_changes_no_number(copy, tmp_path):
    """Calls before the training: on JAX, main's own one has taken fit's extra batch."""
    calls = "model.evaluate(x_val, y_val); model.predict(x_val)"
    for edits in (), (("model.summary()", calls),):
        load(copy(*edits, EPOCHS=1, BATCH_SIZE=20, PLOT_PATH=None)).main()
    first, second = map(json.loads, (tmp_path / FILES[0]).read_text().splitlines())
    scores = {name for name in first if name.startswith(("val_", "test_"))}
    assert len(scores) == 4
    assert {k: first[k] for k in scores} == {k: second[k] for k in scores}


@pytest.mark.parametrize("dtype", ["uint8", "float64"])
def test_results_are_of_the_test_set(dtype, main, small, tmp_path):
    """Of 14 x 10 pixels, with labels raised by one, which make nearly all wrong."""
    arrays = {k: v[:, ::2, ::3].astype(dtype) for k, v in small.items() if k[0] == "x"}
    labels = {"y_train": small["y_train"], "y_test": (small["y_test"] + 1) % 10}
    np.savez(tmp_path / "a.npz", **arrays, **labels)
    paths = {"DATA_PATH": tmp_path / "a.npz", "MODEL_PATH": tmp_path / "a.keras"}
    (loss, accuracy), out = main(LEARNING_RATE=0.05, EPOCHS=3, **paths)
    assert f"test loss is {loss:f}\nThe accuracy of the model is {accuracy:f}\n" in out
    model = keras.models.load_model(tmp_path / "a.keras")
    probabilities = model.predict(arrays["x_test"], verbose=0)
    right = probabilities[np.arange(500), labels["y_test"]]
    assert loss == pytest.approx(-np.log(right).mean(), rel=1e-4)
    assert (probabilities.argmax(axis=1) == small["y_test"]).mean() > 0.6
    assert (probabilities.argmax(axis=1) == labels["y_test"]).mean() == accuracy


def test_file_that_is_sorted_by_digit(main, small, tmp_path):
    """The images held back are the last ones: a line says that digits are missing."""
    order = np.argsort(small["y_train"])
    arrays = {k: v[order] if "train" in k else v for k, v in small.items()}
    np.savez(tmp_path / "a.npz", **arrays)
    assert "first 2100 images lack some" in main(DATA_PATH=tmp_path / "a.npz")[1]


def test_divergence(main, tmp_path, capsys):
    """The training ends at once; no earlier file is touched."""
    paths = {f"{x}_PATH": tmp_path / f"{x}.keras" for x in ("MODEL", "LOG", "PLOT")}
    for path in paths.values():
        path.write_text("earlier")
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        main(ACTIVATION="relu", LEARNING_RATE=1e30, EPOCHS=50, **paths)
    assert capsys.readouterr().out.count("Epoch ") < 3
    assert {path.read_text() for path in paths.values()} == {"earlier"}


def test_mistake_after_the_training(main, monkeypatch, tmp_path):
    """Or a second, impatient Ctrl-C: the model is kept."""
    predict = Mock(side_effect=KeyboardInterrupt)
    monkeypatch.setattr(keras.Sequential, "predict", predict)
    with pytest.raises(KeyboardInterrupt):
        main(MODEL_PATH=tmp_path / "a.keras")
    assert os.listdir(tmp_path) == ["a.keras"]


def test_policy_is_kept(main, request):
    """What the user has set in Keras stays, here a precision."""
    request.addfinalizer(lambda: keras.config.set_dtype_policy("float32"))
    keras.config.set_dtype_policy("mixed_bfloat16")
    assert main(EPOCHS=3)[0][1] > 0.6
    assert keras.config.dtype_policy().name == "mixed_bfloat16"


# Processes of their own
def test_output_and_files(whole_run):
    """The model takes raw pixels, loads with Keras alone, gives the same accuracy."""
    folder, out = whole_run
    lines = out.splitlines()
    assert lines[0].startswith("training images (60000, 28, 28) uint8, test images (10")
    assert " Total params: 648,010 (2.47 MB)" in lines
    assert "Epoch 2/2" in lines and not set(out) & set("\x1b\b\r")  # no bar
    assert sum(line.startswith("210/210 - ") for line in lines) == 2
    assert [f"Wrote {name}" in lines for name in FILES[1:]] == [True, True]
    assert sorted(os.listdir(folder)) == ALL
    model = keras.models.load_model(folder / "mnist_mlp.keras")
    assert model.steps_per_execution == 1  # as PyTorch demands
    with np.load(ROOT / "mnist.npz") as data:
        probabilities = model.predict(data["x_test"], verbose=0)
        right = (probabilities.argmax(axis=1) == data["y_test"]).sum()
    at = lines.index(f"The accuracy of the model is {right / 10_000:f}")
    assert re.fullmatch(r"The test loss is 0\.1\d{5}", lines[at - 1])
    with Image.open(folder / "mnist_mlp.png") as picture:
        assert picture.size == (1520, 560) and np.asarray(picture).std() > 10


@pytest.mark.skipif(os.name != "posix", reason="Windows can't send it to one process")
def test_ctrl_c(start, copy, tmp_path):
    """The training ends early, all is written; the folder's name can't be printed."""
    (folder := tmp_path / "数字").mkdir()
    script = copy(EPOCHS=5000).rename(folder / "train_mnist.py")
    process = start(script, PYTHONIOENCODING="cp1252")
    assert any(line.startswith("Epoch 2/") for line in process.stdout)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    assert "stopped by Ctrl-C" in out and "The accuracy of the model is " in out
    assert sorted(os.listdir(folder)) == ALL
    assert 1 < json.loads((folder / FILES[0]).read_text())["epochs"] < 5000
