"""The data file: what is welcome, what is refused and left as it is, the download."""

import hashlib
import os
import signal
import socket
import threading
import urllib.request
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


PIXELS = [(1, 0, np.nan), (1e36, -2.9e38, -3.1e38), (1e36, 2.9e38, 3.1e38)]
PIXELS += [(1, 2500, 2600)]  # the other part's largest is 255


@pytest.mark.parametrize("name", ["x_train", "x_test"])
@pytest.mark.parametrize(("scale", "good", "bad"), PIXELS)
def test_pixel(scale, good, bad, name, arrays, save):
    """It is finite, as a float32 too, and the parts are alike in range, or blank."""
    images = {k: arrays[k] * float(scale) for k in ("x_train", "x_test")}
    images[name][3, 14, 14] = good
    train_mnist.load_data(save(**images))
    images[name][3, 14, 14] = bad
    assert str(bad) in refusal(save(**images))
    images[name][:] = 0
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
OK = b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n"


@pytest.fixture
def serve(monkeypatch):
    """Serves an answer, once, or nothing, for good; returns the address."""
    servers = []
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)

    def answer_once(server, answer):
        with server.accept()[0] as connection:
            connection.recv(9999)
            connection.sendall(answer)

    def serve(answer):
        servers.append(socket.create_server(("127.0.0.1", 0)))
        if answer is not None:
            threading.Thread(target=answer_once, args=(servers[-1], answer)).start()
        return f"http://127.0.0.1:{servers[-1].getsockname()[1]}/mnist.npz"

    yield serve
    for server in servers:
        server.close()


def test_download(serve, small_file, constants, tmp_path, capsys):
    """It is fetched once."""
    content = small_file.read_bytes()
    url = serve(OK % len(content) + content)
    constants(DATA_URL=url, DATA_SHA256=hashlib.sha256(content).hexdigest().upper())
    for _ in range(2):
        (x_train, _), _ = train_mnist.load_data(tmp_path / "mnist.npz")
        assert len(x_train) == 3000
    assert os.listdir(tmp_path) == ["mnist.npz"]
    assert (tmp_path / "mnist.npz").read_bytes() == content
    assert capsys.readouterr().out == f"Downloading {url}\n"


@pytest.mark.parametrize(
    ("answer", "folder", "cause"),
    [
        (b"HTTP/1.0 404 Not Found\r\n\r\n", "", "404"),
        (OK % 99 + b"right", "", "IncompleteRead"),
        (OK % 5 + b"wrong", "", hashlib.sha256(b"wrong").hexdigest()),
        (None, "", "timed out"),
        (OK % 5 + b"right", "", "I/O error"),
        (OK % 5 + b"right", "missing", "FileNotFoundError"),
        ("mnist.npz", "", "unknown url type"),
    ],
)
def test_failing_download(
    answer, folder, cause, serve, constants, monkeypatch, tmp_path
):
    """A line with the cause; nothing is left. Of the timeout, 1 % is waited for here."""
    urlopen = urllib.request.urlopen

    def impatient(url, timeout):
        assert timeout <= 60
        return urlopen(url, timeout=timeout / 100)

    monkeypatch.setattr(urllib.request, "urlopen", impatient)
    monkeypatch.setattr(os, "replace", Mock(side_effect=OSError(5, "I/O error")))
    url = answer if isinstance(answer, str) else serve(answer)
    constants(DATA_URL=url, DATA_SHA256=hashlib.sha256(b"right").hexdigest())
    path = tmp_path / folder / "mnist.npz"
    with pytest.raises(SystemExit) as refused:
        train_mnist.load_data(path)
    line = refused.value.code
    assert line.startswith(f"{path}: not downloaded (")
    assert cause in line and url in line
    assert "\n" not in line
    assert os.listdir(tmp_path) == []


@on_posix
def test_interrupt_while_downloading(serve, start, tmp_path):
    """Before and after the training, Ctrl-C ends the script with a line."""
    process = start(edited(tmp_path, DATA_URL=serve(None)))
    wait_for_line(process, "Downloading")
    process.send_signal(signal.SIGINT)
    assert result(process) == (130, "", ["Interrupted."])
    assert os.listdir(tmp_path) == ["train_mnist.py"]
