"""The data file: what is welcome, what is refused, and that it is never changed."""

import hashlib
import os

import numpy as np
import pytest
from helpers import ROOT

import train_mnist


@pytest.fixture(scope="module")
def arrays(small):
    """A hundred images and ten are enough here."""
    return {k: v[: 100 if "train" in k else 10] for k, v in small.items()}


@pytest.fixture
def save(arrays, tmp_path):
    """Writes the arrays, some changed or (None) left out, to an npz file."""

    def save(name="a.npz", **changes):
        changed = {k: v for k, v in {**arrays, **changes}.items() if v is not None}
        with open(tmp_path / name, "wb") as file:
            np.savez_compressed(file, **changed)
        return tmp_path / name

    return save


def refusal(path):
    """The line with which load_data refuses a file, which it must leave as it is."""
    before = path.read_bytes()
    with pytest.raises(SystemExit) as refused:
        train_mnist.load_data(path)
    assert refused.value.code.startswith(f"{path}: ")
    assert "\n" not in refused.value.code
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]
    return refused.value.code


def test_bundled_file_is_the_published_one(monkeypatch, tmp_path):
    """It is found beside the script, from wherever that is started."""
    content = (ROOT / "mnist.npz").read_bytes()
    assert hashlib.sha256(content).hexdigest() == train_mnist.DATA_SHA256
    monkeypatch.chdir(tmp_path)
    (x_train, y_train), (x_test, y_test) = train_mnist.load_data("mnist.npz")
    assert (x_train.shape, x_test.shape) == ((60000, 28, 28), (10000, 28, 28))
    assert (y_train.shape, y_test.shape) == ((60000,), (10000,))
    assert y_train[:5].tolist() == [5, 0, 4, 1, 9]


@pytest.mark.parametrize("kind", ["uint8", ">i4", "uint64", ">f2", "longdouble"])
@pytest.mark.filterwarnings("error")
def test_any_npz_file_is_welcome(kind, arrays, save):
    """Whatever its pixels, its name and its further arrays."""
    changes = {k: arrays[k][:, :5, :9].astype(kind) for k in ("x_train", "x_test")}
    changes = {k: x // 2 for k, x in changes.items()}
    loaded = train_mnist.load_data(save("any.name", extra=np.arange(3), **changes))
    for (images, labels), part in zip(loaded, ("train", "test"), strict=True):
        assert images.dtype.name == ("uint8" if kind == "uint8" else "float32")
        assert images.dtype.isnative
        assert (images == changes[f"x_{part}"]).all()
        assert (labels == arrays[f"y_{part}"]).all()


NOT_NPZ = [b"", b"<!DOCTYPE html>", b"\x80\x04N.", b"PK\x03\x04 no more", None]


@pytest.mark.parametrize("name", ["mnist.npz", "a.npz"])
@pytest.mark.parametrize("content", [*NOT_NPZ, b"\x93NUMPY\x01\x00" + bytes(99)])
def test_not_npz(content, name, save):
    """Nobody is advised to unpickle it; mnist.npz can be downloaded again."""
    path = save(name)
    path.write_bytes(path.read_bytes()[:-9] if content is None else content)
    line = refusal(path)
    assert "not an npz file" in line
    assert "pickle" not in line
    assert ("delete it, and the next run downloads it" in line) == (name[0] == "m")


def test_flipped_bits(save, arrays):
    """Refused in one line, or in a place (a date, say) that changes nothing."""
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        path = save(**{k: v[:4] for k, v in arrays.items()})
        content = bytearray(path.read_bytes())
        content[random.integers(len(content))] ^= 1 << int(random.integers(8))
        path.write_bytes(content)
        try:
            (images, labels), _ = train_mnist.load_data(path)
        except SystemExit as refusal:
            assert refusal.code.startswith(f"{path}: ")
            assert "\n" not in refusal.code
            refused += 1
        else:
            assert (images == arrays["x_train"][:4]).all()
            assert (labels == arrays["y_train"][:4]).all()
    assert refused > 100


def far(x, pixel):
    """Pixels up to 2.9e38, which float32 can hold, but for one."""
    x = x.astype(float)
    x[3, 14, 13:15] = pixel, 2.9e38
    return x


@pytest.mark.parametrize(
    ("name", "change", "held"),
    [
        ("x_train", lambda x: None, "['x_test', 'y_train', 'y_test']"),
        ("x_test", lambda x: x.astype(object), "(ValueError)"),
        ("x_train", lambda x: x.reshape(len(x), -1), "uint8 (100, 784) 0 to 255"),
        ("x_train", lambda x: x > 99, "bool (100, 28, 28) False to True"),
        ("x_test", lambda x: x[:0], "(ValueError)"),
        ("x_test", lambda x: x[:, :14], "uint8 (10, 14, 28) 0 to 255"),
        ("x_test", lambda x: x.astype("int16"), "int16 (10, 28, 28) 0 to 255"),
        ("y_train", lambda y: y[:-1], "uint8 (99,) 0 to 9"),
        ("y_test", lambda y: y.astype(float), "float64 (10,) 0.0 to 9.0"),
        ("y_train", lambda y: y + 1, "uint8 (100,) 1 to 10"),
        ("y_test", lambda y: y.astype(int) - 1, "int64 (10,) -1 to 8"),
        ("x_train", lambda x: far(x, np.nan), "float64 (100, 28, 28) nan to nan"),
        ("x_test", lambda x: far(x, -np.inf), "float64 (10, 28, 28) -inf to 2.9e+38"),
        ("x_test", lambda x: far(x, -3.1e38), "-3.1e+38 to 2.9e+38"),
        ("x_train", lambda x: far(x, 1e300), "float64 (100, 28, 28) 0.0 to 1e+300"),
    ],
)
def test_unfit_array(name, change, held, arrays, save):
    """The line says what is needed, and what each array of the file holds."""
    changed, others = change(arrays[name]), {}
    if changed is not None and changed.dtype == "float64" and name[0] == "x":
        others = {k: far(arrays[k], 2.9e38) for k in ("x_train", "x_test")}
        train_mnist.load_data(save(**others))
    line = refusal(save(**{**others, name: changed}))
    assert "a.npz: needs x_train and x_test, integers or finite floats, (N, hei" in line
    assert "y_train and y_test, integers 0 to 9, (N,); it holds " in line
    assert held in line
    assert "pickle" not in line


@pytest.mark.parametrize("name", ["x_train", "x_test"])
@pytest.mark.parametrize("top", [1, 23, 2700])
def test_one_part_scaled(top, name, arrays, save):
    """To less than a tenth, or more than ten times, of the other's maximum of 255."""
    tops = {"x_train": 255, "x_test": 255, name: top}
    images = {k: arrays[k].astype("float32") for k in tops}
    images = {k: x * (tops[k] / x.max()) for k, x in images.items()}
    line = refusal(save(**images))
    assert str(float(top)) in line and "255.0" in line
    images[name] *= 0.9 if top > 255 else 26 / top
    train_mnist.load_data(save(**images))
    images[name][:] = 0  # blank images have no range
    train_mnist.load_data(save(**images))


@pytest.mark.parametrize("name", ["folder", "missing.npz", "~no-such-user/a.npz"])
def test_no_file(name, tmp_path, monkeypatch):
    monkeypatch.setattr(train_mnist, "__file__", str(tmp_path / "train_mnist.py"))
    (tmp_path / "folder").mkdir()
    kind = "not an npz file" if name == "folder" else "no such file"
    with pytest.raises(SystemExit) as refused:
        train_mnist.load_data(name)
    assert refused.value.code.startswith(f"{tmp_path / name}: {kind}")
    assert os.listdir(tmp_path) == ["folder"]
