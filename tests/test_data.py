"""The data file: what is welcome, what is refused and left as it is, the download."""

import hashlib
import os
import signal
import socket
import threading
import urllib.request
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from unittest.mock import Mock

import numpy as np
import pytest
from helpers import ROOT, edited, on_posix, result, wait_for_line

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
    assert "pickle" not in refused.value.code  # nobody is advised to unpickle it
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
    changes = {k: arrays[k][:, :5, :9].astype(kind) // 2 for k in ("x_train", "x_test")}
    loaded = train_mnist.load_data(save("any.name", extra=np.arange(3), **changes))
    for (images, labels), part in zip(loaded, ("train", "test"), strict=True):
        assert images.dtype.name == ("uint8" if kind == "uint8" else "float32")
        assert images.dtype.isnative
        assert (images == changes[f"x_{part}"]).all()
        assert (labels == arrays[f"y_{part}"]).all()


NOT_NPZ = [b"", b"<!DOCTYPE html>", b"\x80\x04N.", b"PK\x03\x04 no more"]


@pytest.mark.parametrize("name", ["mnist.npz", "a.npz"])
@pytest.mark.parametrize("content", [*NOT_NPZ, b"\x93NUMPY\x01\x00" + bytes(99), None])
def test_not_npz(content, name, save):
    """None: cut off. Only mnist.npz can be downloaded again."""
    path = save(name)
    path.write_bytes(path.read_bytes()[:-9] if content is None else content)
    line = refusal(path)
    assert "not an npz file" in line
    assert ("delete it, and the next run downloads it" in line) == (name[0] == "m")


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
    ],
)
def test_unfit_array(name, change, held, arrays, save):
    """The line says what is needed, and what each array of the file holds."""
    line = refusal(save(**{name: change(arrays[name])}))
    assert "a.npz: needs x_train and x_test, integers or finite floats, (N, hei" in line
    assert "y_train and y_test, integers 0 to 9, (N,); it holds " in line
    assert held in line


@pytest.mark.parametrize("name", ["x_train", "x_test"])
@pytest.mark.parametrize("pixel", [np.nan, -3.1e38, 1e300])
def test_pixel_that_float32_cannot_hold(pixel, name, arrays, save):
    images = {k: arrays[k] * 1e36 for k in ("x_train", "x_test")}
    train_mnist.load_data(save(**images))
    images[name][3, 14, 14] = pixel
    assert str(pixel) in refusal(save(**images))


@pytest.mark.parametrize("name", ["x_train", "x_test"])
@pytest.mark.parametrize("top", [23, 2700])
def test_one_part_scaled(top, name, arrays, save):
    """To less than a tenth, or more than ten times, of the other's maximum of 255."""
    images = {k: arrays[k].astype("float32") for k in ("x_train", "x_test")}
    images[name] *= top / images[name].max()
    line = refusal(save(**images))
    assert str(float(top)) in line and "255.0" in line
    images[name] *= 0.9 if top > 255 else 1.2
    train_mnist.load_data(save(**images))
    images[name][:] = 0  # blank images have no range
    train_mnist.load_data(save(**images))


@pytest.mark.parametrize("name", ["folder", "missing.npz", "~no-such-user/a.npz"])
def test_no_file(name, tmp_path, monkeypatch):
    monkeypatch.setattr(train_mnist, "__file__", str(tmp_path / "train_mnist.py"))
    (tmp_path / "folder").mkdir()
    kind = "not an npz file" if name == "folder" else "no such file"
    with pytest.raises(SystemExit, match=f"{name}: {kind}"):
        train_mnist.load_data(name)
    assert os.listdir(tmp_path) == ["folder"]


# The download, from 127.0.0.1
@pytest.fixture
def serve(monkeypatch, tmp_path_factory):
    """Serves a file, cut to a length if that is given; returns its address."""
    folder, servers = tmp_path_factory.mktemp("served"), []
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)

    class Handler(SimpleHTTPRequestHandler):
        def copyfile(self, source, outputfile):
            outputfile.write(source.read()[: self.server.length])

        def log_message(self, *args):
            pass

    def serve(content, length=None):
        (folder / "mnist.npz").write_bytes(content)
        handler = partial(Handler, directory=folder)
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), handler))
        servers[-1].length = length
        threading.Thread(target=servers[-1].serve_forever, args=(0.02,)).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/mnist.npz"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def silent():
    """The address of a server that never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/mnist.npz"


@pytest.fixture
def fetch(constants, small_file, tmp_path):
    """Has load_data fetch the small data set from an address to a new folder."""
    sha256 = hashlib.sha256(small_file.read_bytes()).hexdigest()
    constants(DATA_SHA256=sha256.upper())

    def fetch(url, path=tmp_path / "mnist.npz"):
        constants(DATA_URL=url)
        return train_mnist.load_data(path)

    return fetch


def test_download(serve, fetch, small_file, tmp_path, capsys):
    """It is fetched once."""
    url = serve(small_file.read_bytes())
    for _ in range(2):
        (x_train, _), _ = fetch(url)
        assert len(x_train) == 3000
    assert os.listdir(tmp_path) == ["mnist.npz"]
    assert (tmp_path / "mnist.npz").read_bytes() == small_file.read_bytes()
    assert capsys.readouterr().out == f"Downloading {url}\n"


@pytest.mark.parametrize(
    ("way", "cause"),
    [
        ("missing", "404"),
        ("cut", "IncompleteRead"),
        ("wrong", hashlib.sha256(b"<html>").hexdigest()),
        ("silent", "timed out"),
        ("mnist.npz", "unknown url type"),
        ("folder", "FileNotFoundError"),
        ("disk", "I/O error"),
    ],
)
def test_failing_download(
    way, cause, serve, silent, fetch, small_file, monkeypatch, tmp_path
):
    """A line with the cause; nothing is left. Of the timeout, 1 % is waited for here."""
    good = serve(
        b"<html>" if way == "wrong" else small_file.read_bytes(),
        length=99 if way == "cut" else None,
    )
    url = {"missing": f"{good}x", "silent": silent, "mnist.npz": "mnist.npz"}
    path = tmp_path / ("folder/mnist.npz" if way == "folder" else "mnist.npz")
    urlopen = urllib.request.urlopen

    def impatient(url, timeout):
        assert timeout <= 60
        return urlopen(url, timeout=timeout / 100)

    monkeypatch.setattr(urllib.request, "urlopen", impatient)
    if way == "disk":
        monkeypatch.setattr(os, "replace", Mock(side_effect=OSError(5, "I/O error")))
    with pytest.raises(SystemExit) as refused:
        fetch(url.get(way, good), path)
    line = refused.value.code
    assert line.startswith(f"{path}: not downloaded (")
    assert cause in line and url.get(way, good) in line
    assert "\n" not in line
    assert os.listdir(tmp_path) == []


@on_posix
def test_interrupt_while_downloading(silent, start, tmp_path):
    """Before and after the training, Ctrl-C ends the script with a line."""
    process = start(edited(tmp_path, DATA_URL=silent))
    wait_for_line(process, "Downloading")
    process.send_signal(signal.SIGINT)
    assert result(process) == (130, "", ["Interrupted."])
    assert os.listdir(tmp_path) == ["train_mnist.py"]
