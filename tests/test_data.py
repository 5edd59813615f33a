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
def arrays(small):
    """A hundred images and ten are enough here."""
    return {
        name: array[: 100 if "train" in name else 10] for name, array in small.items()
    }


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
    assert (x_train.shape, x_train.dtype) == ((60000, 28, 28), "uint8")
    assert (x_test.shape, x_test.dtype) == ((10000, 28, 28), "uint8")
    assert (y_train.shape, y_test.shape) == ((60000,), (10000,))
    assert y_train[:5].tolist() == [5, 0, 4, 1, 9]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("error")
def test_any_npz_file_is_welcome(kind, arrays, save):
    """Whatever its pixels, its name, its further arrays, and its order in memory."""
    pixels = {
        x: np.asfortranarray(arrays[x][:, :5, :9] // 2).astype(kind)
        for x in ("x_train", "x_test")
    }
    loaded = train_mnist.load_data(save("any.name", extra=np.arange(3), **pixels))
    for (images, labels), part in zip(loaded, ("train", "test"), strict=True):
        assert images.dtype == ("uint8" if kind == "uint8" else "float32")
        assert images.dtype.isnative
        assert (images == pixels[f"x_{part}"]).all()
        assert (labels == arrays[f"y_{part}"]).all()


POINTER = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:731c5\nsize 11490434\n"
)
NOT_NPZ = [b"", POINTER, b"<!DOCTYPE html>", b"\x80\x04N.", b"PK\x03\x04 no more"]


@pytest.mark.parametrize("name", ["mnist.npz", "a.npz"])
@pytest.mark.parametrize("content", [*NOT_NPZ, b"\x93NUMPY\x01\x00" + bytes(200), 0.9])
def test_not_npz(content, name, save):
    """Nobody is advised to unpickle it; mnist.npz can be downloaded again."""
    path = save(name)
    if content == 0.9:  # a download that was cut
        content = path.read_bytes()[: int(path.stat().st_size * content)]
    path.write_bytes(content)
    line = refusal(path)
    assert "not an npz file" in line
    assert "pickle" not in line
    assert ("delete it, and the next run downloads it" in line) == (name[0] == "m")


def flip_a_bit(path, random):
    content = bytearray(path.read_bytes())
    content[random.integers(len(content))] ^= 1 << int(random.integers(8))
    path.write_bytes(content)


def break_a_header(path, random):
    """Change one byte of an array's header, the magic bytes included; zip it again."""
    with zipfile.ZipFile(path) as archive:
        members = {name: bytearray(archive.read(name)) for name in archive.namelist()}
    at = random.integers(4) if random.integers(2) else random.integers(130)
    members[random.choice(list(members))][at] = random.integers(256)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, bytes(content))


@pytest.mark.parametrize("damage", [flip_a_bit, break_a_header])
def test_damaged(damage, save, arrays):
    """It is refused in one line, or in a place (a date, say) that changes nothing."""
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        path = save(**{name: array[:4] for name, array in arrays.items()})
        damage(path, random)
        try:
            (images, labels), _ = train_mnist.load_data(path)
        except SystemExit as refusal:
            assert refusal.code.startswith(f"{path}: ")
            assert "\n" not in refusal.code
            refused += 1
        else:
            assert (len(images), len(labels)) == (4, 4)
    assert refused > 50


@pytest.mark.parametrize(
    ("name", "kind"), [("x_test", "integers or floats"), ("y_train", "integers")]
)
def test_objects_and_other_names(name, kind, arrays, save):
    """Nothing is unpickled, nobody is told to; the line says which arrays there are."""
    line = refusal(save(**{name: arrays[name].astype(object)}))
    assert f"{name} must hold {kind}; " in line
    assert "pickle" not in line
    line = refusal(save(**{name: None, "arr_0": arrays[name]}))
    assert f"{name} must hold {kind}; " in line
    assert "'arr_0'" in line


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
def test_unfit_array(name, change, right, arrays, save):
    line = refusal(save(**{name: change(arrays[name])}))
    assert f"a.npz: {name} must {'' if right == LABELS else right}" in line
    assert right in line


@pytest.mark.parametrize("name", ["x_train", "x_test"])
@pytest.mark.parametrize("pixel", [np.nan, np.inf, -1e19, 1e300])
def test_pixels_that_float32_cannot_standardize(pixel, name, arrays, save):
    """The variance of pixels of 9.9e18 still fits into float32."""
    images = {x: arrays[x].astype(float) for x in ("x_train", "x_test")}
    for x in images.values():
        x[3, 14, 14] = np.copysign(9.9e18, pixel)
    train_mnist.load_data(save(**images))
    images[name][3, 14, 14] = pixel
    assert f"{name} must hold no NaN" in refusal(save(**images))


@pytest.mark.parametrize("name", ["x_train", "x_test"])
@pytest.mark.parametrize("top", [1, 23, 2700])
def test_one_part_scaled(top, name, arrays, save):
    """To less than a tenth, or more than ten times, of the other's maximum of 255."""
    tops = {"x_train": 255, "x_test": 255, name: top}
    images = {x: arrays[x].astype("float32") for x in tops}
    images = {x: image * (tops[x] / image.max()) for x, image in images.items()}
    line = refusal(save(**images))
    assert str(float(top)) in line
    assert "255.0" in line
    images[name] *= 0.9 if top > 255 else 26 / top
    train_mnist.load_data(save(**images))
    images[name][:] = 0  # a blank test image has no range
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
