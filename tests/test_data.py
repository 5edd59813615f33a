"""The data file: what is welcome, what is refused, and that it is never changed."""

import hashlib
import io
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
from benchmark import peak_memory
from conftest import ROOT

import train_mnist

KINDS = ["int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"]
KINDS += ["float16", "float32", "float64"]


def refusal(path):
    """The line with which load_data refuses a file, which it must leave as it is."""
    before = path.read_bytes()
    with pytest.raises(SystemExit) as refused:
        train_mnist.load_data(path)
    line = refused.value.code
    assert str(path) in line
    assert "\n" not in line
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]
    return line


def save(path, arrays, **changes):
    """Write the arrays, some of them changed or (None) left out, to an npz file."""
    arrays = {k: v for k, v in {**arrays, **changes}.items() if v is not None}
    np.savez_compressed(path, **arrays)
    return path


def test_bundled_file_is_the_published_one():
    content = (ROOT / "mnist.npz").read_bytes()
    assert len(content) == 11_490_434
    assert hashlib.sha256(content).hexdigest() == train_mnist.DATA_SHA256


def test_shapes_and_dtypes(mnist):
    (x_train, y_train), (x_test, y_test) = mnist
    assert (x_train.shape, x_train.dtype) == ((60000, 28, 28), "uint8")
    assert (x_test.shape, x_test.dtype) == ((10000, 28, 28), "uint8")
    assert (y_train.shape, y_test.shape) == ((60000,), (10000,))
    assert y_train[:5].tolist() == [5, 0, 4, 1, 9]


def test_relative_path_is_relative_to_the_script(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert len(train_mnist.load_data("mnist.npz")[0][0]) == 60000


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", KINDS)
def test_integer_and_float_pixels_are_welcome(kind, order, small, tmp_path):
    dtype = np.dtype(kind).newbyteorder(order)
    pixels = {x: (small[x] // 2).astype(dtype) for x in ("x_train", "x_test")}
    (x_train, _), _ = train_mnist.load_data(save(tmp_path / "a.npz", small, **pixels))
    assert x_train.dtype == kind
    assert (x_train == small["x_train"] // 2).all()


def test_any_npz_file_is_welcome(small, tmp_path):
    stored = tmp_path / "any.name"
    with open(stored, "wb") as file:
        np.savez(file, **small, extra=np.arange(3))
    (x_train, y_train), (x_test, _) = train_mnist.load_data(stored)
    assert (x_train == small["x_train"]).all()
    assert (y_train == small["y_train"]).all()
    fortran = np.asfortranarray(small["x_test"][:7, :5, :3])
    path = save(tmp_path / "b.npz", small, x_test=fortran, y_test=small["y_test"][:7])
    with pytest.raises(SystemExit, match="x_test must have the size of x_train's"):
        train_mnist.load_data(path)
    changes = {"x_train": small["x_train"][:, :5, :3], "x_test": fortran}
    path = save(path, small, **changes, y_test=small["y_test"][:7].astype("int64"))
    assert (train_mnist.load_data(path)[1][0] == x_test[:7, :5, :3]).all()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not an npz file\n",
        b"<!DOCTYPE html><html><body>502 Bad Gateway</body></html>",
        pickle.dumps([1, 2, 3]),
        b"PK\x03\x04 and nothing else",
        b"PK\x05\x06" + bytes(18),
        b"\x93NUMPY\x01\x00" + bytes(200),
    ],
)
def test_not_npz(content, tmp_path):
    path = tmp_path / "mnist.npz"
    path.write_bytes(content)
    assert "not an npz file" in refusal(path)


def test_bare_npy(small, tmp_path):
    np.save(tmp_path / "a.npy", small["x_train"])
    assert "not an npz file" in refusal(tmp_path / "a.npy")


@pytest.mark.parametrize("share", [0.001, 0.3, 0.9, 0.9999])
def test_truncated(share, small_file, tmp_path):
    content = small_file.read_bytes()
    path = tmp_path / "mnist.npz"
    path.write_bytes(content[: int(len(content) * share)])
    assert "not an npz file" in refusal(path)


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_flipped_bits(write, small, tmp_path):
    """A flipped bit is refused, or in a place (a date, say) that changes nothing."""
    path = tmp_path / "mnist.npz"
    arrays = {name: array[:40] for name, array in small.items()}
    write(path, **arrays)
    content = path.read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for at in random.integers(0, len(content), 300).tolist():
        flipped = bytearray(content)
        flipped[at] ^= 1 << int(random.integers(8))
        path.write_bytes(flipped)
        try:
            loaded = [a for pair in train_mnist.load_data(path) for a in pair]
        except SystemExit as refusal:
            assert str(path) in refusal.code
            refused += 1
        else:
            for array, name in zip(loaded, arrays, strict=True):
                assert (array == arrays[name]).all()
                assert array.dtype == arrays[name].dtype
    assert refused > 200


@pytest.mark.parametrize("name", ["x_train", "y_train", "x_test", "y_test"])
def test_missing_array(name, small, tmp_path):
    line = refusal(save(tmp_path / "a.npz", small, **{name: None}))
    assert f"'{name} is not a file in the archive'" in line


class Trap:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_pickled_object_is_never_run(small, tmp_path):
    trap = tmp_path / "trap"
    (tmp_path / "data").mkdir()
    labels = np.array([Trap(trap)], dtype=object)
    assert "Object arrays" in refusal(
        save(tmp_path / "data" / "a.npz", small, y_test=labels)
    )
    assert not trap.exists()


@pytest.mark.parametrize(
    ("name", "change", "right"),
    [
        ("x_train", lambda x: x.reshape(len(x), -1), "have the shape (N, height"),
        ("x_train", lambda x: x[..., None], "have the shape (N, height"),
        ("x_test", lambda x: x[0, 0, 0], "have the shape (N, height"),
        ("x_train", lambda x: x.astype(complex), "hold integers or floats"),
        ("x_train", lambda x: x.astype(str), "hold integers or floats"),
        ("x_train", lambda x: x > 99, "hold integers or floats"),
        ("x_train", lambda x: x.astype("m8[s]"), "hold integers or floats"),
        ("x_test", lambda x: x.astype("longdouble"), "of at most 64 bits"),
        ("x_test", lambda x: x[:, :14], "have the size of x_train's"),
        ("x_train", lambda x: np.where(x == 7, np.nan, x), "NaN or infinite"),
        ("x_test", lambda x: np.where(x == 7, -np.inf, x), "NaN or infinite"),
        ("x_test", lambda x: x * 1e300, "NaN or infinite"),
        ("x_train", lambda x: x[:0], "hold images"),
        ("x_train", lambda x: x[:, :0], "hold images"),
        ("y_train", lambda y: y[:-1], "hold one label per image"),
        ("y_test", lambda y: y[:, None], "hold one label per image"),
        ("y_test", lambda y: y.astype(float), "hold integers"),
        ("y_test", lambda y: y > 4, "hold integers"),
        ("y_train", lambda y: y + 1, "hold 0 to 9"),
        ("y_train", lambda y: y.astype(int) - 1, "hold 0 to 9"),
    ],
)
def test_unfit_array(name, change, right, small, tmp_path):
    with np.errstate(over="ignore"):
        changed = change(small[name])
    if changed.dtype.kind == "f" and changed.dtype.itemsize <= 8 and "bits" in right:
        pytest.skip("longdouble has 64 bits here")
    line = refusal(save(tmp_path / "a.npz", small, **{name: changed}))
    assert f"{name} must " in line
    assert right in line
    assert f"{changed.dtype} {changed.shape}" in line


@pytest.mark.parametrize("count", [10**6, 10**13, 10**30])
def test_header_that_claims_too_much(count, small, tmp_path):
    pytest.importorskip("resource")  # with which peak_memory measures
    member = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, 28, 28)}
    np.lib.format.write_array_header_1_0(member, header)
    path = save(tmp_path / "a.npz", small, x_train=None)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x_train.npy", member.getvalue() + bytes(1000))
    before = peak_memory()
    refusal(path)
    assert peak_memory() - before < 50  # MB


def test_encrypted(small_file, tmp_path):
    content = bytearray(small_file.read_bytes())
    at = 0
    while (at := content.find(b"PK\x01\x02", at + 1)) > 0:
        flags = struct.unpack_from("<H", content, at + 8)[0]
        struct.pack_into("<H", content, at + 8, flags | 1)
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    assert "encrypted" in refusal(path)


def test_folder_missing_file_and_dead_link(tmp_path):
    for name in "folder", "missing.npz", "link.npz":
        path = tmp_path / name
        if name == "folder":
            path.mkdir()
        if name == "link.npz":
            path.symlink_to(tmp_path / "nowhere")
        with pytest.raises(SystemExit) as refused:
            train_mnist.load_data(path)
        assert str(path) in refused.value.code
    assert sorted(os.listdir(tmp_path)) == ["folder", "link.npz"]
