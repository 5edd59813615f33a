"""The data file: what is welcome, what is refused, and that it is never changed."""

import hashlib
import io
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
from helpers import ROOT

import train_mnist

KINDS = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"]
KINDS += ["float16", "float32", "float64", "longdouble"]


@pytest.fixture(scope="module")
def small(small):
    """A hundred images and ten are enough here."""
    sizes = {"train": 100, "test": 10}
    return {name: small[name][: sizes[name[2:]]] for name in small}


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
@pytest.mark.filterwarnings("error")
def test_integer_and_float_pixels_are_welcome(kind, order, small, tmp_path):
    dtype = np.dtype(kind).newbyteorder(order)
    pixels = {x: (small[x] // 2).astype(dtype) for x in ("x_train", "x_test")}
    loaded = train_mnist.load_data(save(tmp_path / "a.npz", small, **pixels))
    for (images, _), name in zip(loaded, pixels, strict=True):
        assert images.dtype == ("uint8" if kind == "uint8" else "float32")
        assert images.dtype.isnative
        assert (images == small[name] // 2).all()


def test_any_npz_file_is_welcome(small, tmp_path):
    stored = tmp_path / "any.name"
    with open(stored, "wb") as file:
        np.savez(file, **small, extra=np.arange(3))
    (x_train, y_train), (x_test, _) = train_mnist.load_data(stored)
    assert (x_train == small["x_train"]).all()
    assert (y_train == small["y_train"]).all()
    fortran = np.asfortranarray(small["x_test"][:7, :5, :3])
    path = save(tmp_path / "b.npz", small, x_test=fortran, y_test=small["y_test"][:7])
    with pytest.raises(SystemExit, match="x_test must have the image size and the dt"):
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
def test_truncated(share, small, tmp_path):
    content = save(tmp_path / "mnist.npz", small).read_bytes()
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


IMAGES, WITHIN = "hold integers or floats, (N, height, width)", "none beyond 1e19"
ALIKE, LABELS = "have the image size and the dtype of x_train", "one integer per image"


@pytest.mark.parametrize(
    ("name", "change", "right"),
    [
        ("x_train", lambda x: x.reshape(len(x), -1), IMAGES),
        ("x_train", lambda x: x[..., None], IMAGES),
        ("x_test", lambda x: x[0, 0, 0], IMAGES),
        ("x_train", lambda x: x.astype(complex), IMAGES),
        ("x_train", lambda x: x.astype(str), IMAGES),
        ("x_train", lambda x: x > 99, IMAGES),
        ("x_train", lambda x: x.astype("m8[s]"), IMAGES),
        ("x_train", lambda x: x[:0], IMAGES),
        ("x_train", lambda x: x[:, :0], IMAGES),
        ("x_test", lambda x: x[:, :14], ALIKE),
        ("x_test", lambda x: x[:, :, :14], ALIKE),
        ("x_test", lambda x: x.astype("int16"), ALIKE),
        ("x_test", lambda x: x / 255, ALIKE),
        ("y_train", lambda y: y[:-1], LABELS),
        ("y_test", lambda y: y[:, None], LABELS),
        ("y_test", lambda y: y.astype(float), LABELS),
        ("y_test", lambda y: y > 4, LABELS),
        ("y_train", lambda y: y + 1, "hold 0 to 9 only"),
        ("y_test", lambda y: y.astype(int) - 1, "hold 0 to 9 only"),
    ],
)
def test_unfit_array(name, change, right, small, tmp_path):
    changed = change(small[name])
    line = refusal(save(tmp_path / "a.npz", small, **{name: changed}))
    assert f"a.npz: {name} must " in line
    assert right in line
    assert f"({name[0]} {changed.dtype} {changed.shape}" in line.replace(", y", ", (y")


@pytest.mark.parametrize("name", ["x_train", "x_test"])
@pytest.mark.parametrize("pixel", [np.nan, np.inf, -np.inf, 1e19, -1e19, 1e300])
def test_pixels_that_float32_cannot_standardize(pixel, name, small, tmp_path):
    """A square of 9.9e18 still fits into float32."""
    images = {x: small[x].astype(float) for x in ("x_train", "x_test")}
    images[name][3, 14, 14] = np.copysign(9.9e18, pixel)
    train_mnist.load_data(save(tmp_path / "a.npz", small, **images))
    images[name][3, 14, 14] = pixel
    line = refusal(save(tmp_path / "a.npz", small, **images))
    assert f"{name} must hold no NaN or infinite pixels, {WITHIN} " in line


@pytest.mark.parametrize("name", ["x_train", "y_train", "x_test", "y_test"])
@pytest.mark.parametrize("content", [b"", b"no array at all", bytes(3000)])
def test_member_that_is_no_array(content, name, small, tmp_path):
    """NumPy returns the bytes of a member that does not begin as an array does."""
    path = save(tmp_path / "a.npz", small, **{name: None})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{name}.npy", content)
    assert f"{name} must hold" in refusal(path)


def test_broken_members(small, tmp_path):
    """What was broken before it was zipped is loaded, or refused in one line."""
    arrays = {name: array[:4] for name, array in small.items()}
    members = {}
    for name, array in arrays.items():
        with io.BytesIO() as file:
            np.save(file, array)
            members[name] = file.getvalue()
    path = tmp_path / "a.npz"
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(400):
        name = random.choice(list(members))
        broken = bytearray(members[name])
        at = int(random.integers(130 if random.integers(4) else len(broken)))
        broken[at : at + int(random.integers(3))] = random.bytes(random.integers(3))
        with zipfile.ZipFile(path, "w") as archive:
            for member, content in {**members, name: bytes(broken)}.items():
                archive.writestr(f"{member}.npy", content)
        try:
            (images, labels), _ = train_mnist.load_data(path)
        except SystemExit as refusal:
            assert str(path) in refusal.code
            assert "\n" not in refusal.code
            refused += 1
        else:
            assert len(images) == len(labels)
    assert refused > 100


@pytest.mark.parametrize("count", [10**13, 10**30])
def test_header_that_claims_too_much(count, small, tmp_path):
    member = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, 28, 28)}
    np.lib.format.write_array_header_1_0(member, header)
    path = save(tmp_path / "a.npz", small, x_train=None)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x_train.npy", member.getvalue() + bytes(1000))
    refusal(path)


def test_encrypted(small, tmp_path):
    content = bytearray(save(tmp_path / "a.npz", small).read_bytes())
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
