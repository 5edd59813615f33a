"""The data file: what is welcome, what is refused, and that it is never changed."""

import hashlib
import os
import zipfile

import numpy as np
import pytest
from helpers import ROOT

import train_mnist

KINDS = ["uint8", "int8", "uint16", ">i4", "uint64", ">f2", "float32", "longdouble"]


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
    assert line.startswith(f"{path}: ")
    assert "\n" not in line
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]
    return line


def save(path, arrays, **changes):
    """Write the arrays, some of them changed or (None) left out, to an npz file."""
    arrays = {k: v for k, v in {**arrays, **changes}.items() if v is not None}
    np.savez_compressed(path, **arrays)
    return path


def test_bundled_file_is_the_published_one(monkeypatch, tmp_path):
    """It is found beside the script, from wherever that is started."""
    content = (ROOT / "mnist.npz").read_bytes()
    assert hashlib.sha256(content).hexdigest() == train_mnist.DATA_SHA256
    monkeypatch.chdir(tmp_path)
    (x_train, y_train), (x_test, y_test) = train_mnist.load_data("mnist.npz")
    assert (x_train.shape, x_train.dtype) == ((60000, 28, 28), "uint8")
    assert (x_test.shape, x_test.dtype) == ((10000, 28, 28), "uint8")
    assert (y_train.shape, y_test.shape) == ((60000,), (10000,))
    assert y_train[:5].tolist() == [5, 0, 4, 1, 9]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("error")
def test_integer_and_float_pixels_are_welcome(kind, small, tmp_path):
    pixels = {x: (small[x] // 2).astype(kind) for x in ("x_train", "x_test")}
    loaded = train_mnist.load_data(save(tmp_path / "a.npz", small, **pixels))
    for (images, _), name in zip(loaded, pixels, strict=True):
        assert images.dtype == ("uint8" if kind == "uint8" else "float32")
        assert images.dtype.isnative
        assert (images == small[name] // 2).all()


def test_any_npz_file_is_welcome(small, tmp_path):
    """Whatever its name, its further arrays, their order in memory and their sizes."""
    path = tmp_path / "any.name"
    images = {x: np.asfortranarray(small[x][:, :5, :3]) for x in ("x_train", "x_test")}
    with open(path, "wb") as file:
        np.savez(file, **{**small, **images}, extra=np.arange(3))
    (x_train, y_train), (x_test, _) = train_mnist.load_data(path)
    assert (x_train == images["x_train"]).all()
    assert (y_train == small["y_train"]).all()
    assert (x_test == images["x_test"]).all()


POINTER = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:731c5\nsize 11490434\n"
)
NOT_NPZ = [b"", POINTER, b"<!DOCTYPE html>", b"\x80\x04N.", b"PK\x03\x04 no more"]


@pytest.mark.parametrize("content", [*NOT_NPZ, b"\x93NUMPY\x01\x00" + bytes(200)])
def test_not_npz(content, tmp_path):
    """Nobody is advised to unpickle it; mnist.npz can be downloaded again."""
    for name in "mnist.npz", "a.npz":
        (tmp_path / name).write_bytes(content)
        line = refusal(tmp_path / name)
        assert "not an npz file" in line
        assert "pickle" not in line
        assert ("delete it, and the next run downloads it" in line) == (name[0] == "m")
        (tmp_path / name).unlink()


@pytest.mark.parametrize("fraction", [0.001, 0.3, 0.9, 0.9999])
def test_half_a_download(fraction, small, tmp_path):
    path = save(tmp_path / "mnist.npz", small)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * fraction)])
    assert "not an npz file; delete it" in refusal(path)


def flip_bits(path, random):
    content = bytearray(path.read_bytes())
    content[random.integers(len(content))] ^= 1 << int(random.integers(8))
    path.write_bytes(content)


def break_member(path, random):
    """Change one byte of an array's header, and zip it again."""
    with zipfile.ZipFile(path) as archive:
        members = {name: bytearray(archive.read(name)) for name in archive.namelist()}
    broken = members[random.choice(list(members))]
    broken[random.integers(130)] = random.integers(256)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, bytes(content))


def encrypt(path, random):
    """Say of each member that it is encrypted."""
    content = path.read_bytes().replace(b"PK\x01\x02\x14\x03\x14\x00\x00", b"%")
    content = content.replace(b"%", b"PK\x01\x02\x14\x03\x14\x00\x01")
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [flip_bits, break_member, encrypt])
def test_damaged(damage, small, tmp_path):
    """It is refused in one line, or in a place (a date, a pixel) that is none's."""
    path = tmp_path / "a.npz"
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(1 if damage is encrypt else 200):
        save(path, {name: array[:4] for name, array in small.items()})
        damage(path, random)
        try:
            (images, labels), _ = train_mnist.load_data(path)
        except SystemExit as refusal:
            assert refusal.code.startswith(f"{path}: ")
            assert "\n" not in refusal.code
            refused += 1
        else:
            assert (len(images), len(labels)) == (4, 4)
    assert refused > (0 if damage is encrypt else 100)


class Trap:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize(
    ("name", "kind"), [("x_test", "integers or floats"), ("y_train", "integers")]
)
def test_objects_are_never_unpickled(name, kind, small, tmp_path):
    (tmp_path / "data").mkdir()
    objects = small[name].astype(object)
    objects[0] = Trap(tmp_path / "trap")
    line = refusal(save(tmp_path / "data" / "a.npz", small, **{name: objects}))
    assert f"{name} must hold {kind}" in line
    assert "allow_pickle" not in line
    assert os.listdir(tmp_path) == ["data"]


def test_other_names(small, tmp_path):
    """The line says which arrays there are."""
    path = tmp_path / "a.npz"
    np.savez(path, train_images=small["x_train"], arr_0=small["y_train"])
    line = refusal(path)
    assert "x_train" in line
    assert "['train_images', 'arr_0']" in line


def test_member_that_is_no_array(small, tmp_path):
    """NumPy returns the bytes of a member that does not begin as an array does."""
    path = save(tmp_path / "a.npz", small, y_test=None)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("y_test.npy", b"no array at all")
    assert "y_test must hold" in refusal(path)


IMAGES, LABELS = "hold integers or floats, (N, height, width)", "one integer per image"
ALIKE = "have the image size and the dtype of x_train"


@pytest.mark.parametrize(
    ("name", "change", "right"),
    [
        ("x_train", lambda x: x.reshape(len(x), -1), IMAGES),
        ("x_test", lambda x: x[..., None], IMAGES),
        ("x_train", lambda x: x.astype(complex), IMAGES),
        ("x_train", lambda x: x > 99, IMAGES),
        ("x_test", lambda x: x[:0], IMAGES),
        ("x_test", lambda x: x[:, :14], ALIKE),
        ("x_test", lambda x: x.astype("int16"), ALIKE),
        ("y_train", lambda y: y[:-1], LABELS),
        ("y_test", lambda y: y[:, None], LABELS),
        ("y_test", lambda y: y.astype(float), LABELS),
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
@pytest.mark.parametrize("pixel", [np.nan, np.inf, -1e19, 1e300])
def test_pixels_that_float32_cannot_standardize(pixel, name, small, tmp_path):
    """The variance of pixels of 9.9e18 still fits into float32."""
    images = {x: small[x].astype(float) for x in ("x_train", "x_test")}
    for x in images.values():
        x[3, 14, 14] = np.copysign(9.9e18, pixel)
    train_mnist.load_data(save(tmp_path / "a.npz", small, **images))
    images[name][3, 14, 14] = pixel
    line = refusal(save(tmp_path / "a.npz", small, **images))
    assert f"{name} must hold no NaN" in line


@pytest.mark.parametrize("name", ["x_train", "x_test"])
@pytest.mark.parametrize(("factor", "ok"), [(1 / 255, False), (11, False), (9, True)])
def test_one_part_scaled(factor, ok, name, small, tmp_path):
    images = {x: small[x].astype("float32") for x in ("x_train", "x_test")}
    tops = [images[x].max() for x in images]
    images[name] *= factor * max(tops) / images[name].max()
    path = save(tmp_path / "a.npz", small, **images)
    if ok:
        train_mnist.load_data(path)
        return
    line = refusal(path)
    for x in images.values():
        assert str(float(x.max())) in line


def test_blank_test_image(small, tmp_path):
    """Nothing is said of a range where there is none."""
    blank = np.zeros((1, 28, 28), "uint8")
    changes = {"x_test": blank, "y_test": small["y_test"][:1]}
    train_mnist.load_data(save(tmp_path / "a.npz", small, **changes))


@pytest.mark.parametrize("name", ["folder", "missing.npz", "~no-such-user/a.npz"])
def test_no_file(name, tmp_path, monkeypatch):
    monkeypatch.setattr(train_mnist, "__file__", str(tmp_path / "train_mnist.py"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(SystemExit) as refused:
        train_mnist.load_data(name)
    assert refused.value.code.startswith(f"{tmp_path / name}: ")
    assert ("no such file" in refused.value.code) == (name != "folder")
    assert os.listdir(tmp_path) == ["folder"]


def test_dead_link_is_kept(tmp_path):
    path = tmp_path / "mnist.npz"
    try:
        path.symlink_to(tmp_path / "nowhere")
    except OSError:
        pytest.skip("Windows makes links for those with a right to")
    with pytest.raises(SystemExit, match="not an npz file"):
        train_mnist.load_data(path)
    assert path.is_symlink()
