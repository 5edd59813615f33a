"""The data file: what is welcome, what is refused and left as it is, the download."""

import hashlib
import os
from unittest.mock import Mock

import keras
import numpy as np
import pytest
from helpers import ROOT

import train_mnist

SHA256 = "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"  # Keras's


@pytest.fixture
def save(small, tmp_path):
    """Writes a hundred images and ten, changed by functions, to an npz file."""

    def save(**changes):
        data = {k: v[: 100 if "train" in k else 10] for k, v in small.items()}
        data |= {name: change(data[name]) for name, change in changes.items()}
        np.savez(tmp_path / "a.npz", **{k: v for k, v in data.items() if v is not None})
        return tmp_path / "a.npz"

    return save


def refusal(path):
    """The line with which load_data refuses a file, which it must leave as it is."""
    before = path.read_bytes()
    with pytest.raises(SystemExit, match="^.*$") as refused:
        train_mnist.load_data(path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]
    return refused.value.code.split(f"{path}: ")[1]


@pytest.mark.parametrize("kind", ["uint8", ">i4", "float64"])
def test_any_npz_file_is_welcome(kind, save):
    """Whatever its pixels and labels, and its name."""
    change = lambda x: x[:, :5, :9].astype(kind) // 2
    path = save(x_train=change, x_test=change, y_test=lambda y: y.astype(kind))
    loaded, data = train_mnist.load_data(path), np.load(path)
    for (images, labels), part in zip(loaded, ("train", "test"), strict=True):
        assert images.dtype == ("uint8" if kind == "uint8" else "float32")
        assert (images == data[f"x_{part}"]).all()
        assert labels.dtype == int and (labels == data[f"y_{part}"]).all()


DAMAGES = [lambda b: b"", lambda b: b"<!DOCTYPE html>", lambda b: b"\x80\x04N."]
DAMAGES += [lambda b: b[:-9], lambda b: b[:9999] + b"damage" + b[10005:]]


@pytest.mark.parametrize("damage", DAMAGES)
def test_not_npz(damage, save):
    path = save()
    path.write_bytes(damage(path.read_bytes()))
    refusal(path)


@pytest.mark.parametrize(
    ("name", "change", "fault"),
    [
        ("x_train", lambda x: None, "x_train"),
        ("x_test", lambda x: x.astype(object), "pickle"),
        ("x_train", lambda x: x.reshape(len(x), -1), "images"),
        ("x_test", lambda x: x[:0], "images"),
        ("x_test", lambda x: x[:, :14], "images"),
        ("x_test", lambda x: x / 255, "dtype"),
        ("x_train x_test", lambda x: np.where(x == 255, np.nan, x), "finite"),
        ("y_train", lambda y: y[:-1], "labels"),
        ("y_test", lambda y: y + 0.5, "labels"),
        ("y_train", lambda y: y + 1, "labels"),
    ],
)
def test_unfit_array(name, change, fault, save):
    assert fault in refusal(save(**dict.fromkeys(name.split(), change)))


def test_download(tmp_path, monkeypatch, capsys):
    """Keras's own, and only if mnist.npz is missing; a failure is one line."""
    digest = hashlib.sha256((ROOT / "mnist.npz").read_bytes()).hexdigest()
    assert digest == SHA256  # as Keras checks it
    answers = Mock(side_effect=["data", OSError("no network")])
    monkeypatch.setattr(keras.datasets.mnist, "load_data", answers)
    with pytest.raises(SystemExit, match="other.npz: FileNotFoundError"):
        train_mnist.load_data(tmp_path / "other.npz")
    assert len(train_mnist.load_data(ROOT / "mnist.npz")[0][0]) == 60000
    assert train_mnist.load_data(tmp_path / "mnist.npz") == "data"
    assert "mnist.npz is missing" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="^.*mnist.npz: .*no network.*$"):
        train_mnist.load_data(tmp_path / "mnist.npz")
