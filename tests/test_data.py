"""The data file: what is welcome, what is refused and left as it is, the download."""

import hashlib
import os
import socket
import threading

import numpy as np
import pytest
from helpers import ROOT

import train_mnist


@pytest.fixture
def arrays(small):
    """A hundred images and ten are enough here."""
    return {k: v[: 100 if "train" in k else 10] for k, v in small.items()}


@pytest.fixture
def save(arrays, tmp_path):
    """Writes the arrays, some changed or (None) left out, to an npz file."""

    def save(**changes):
        changed = {k: v for k, v in {**arrays, **changes}.items() if v is not None}
        np.savez_compressed(tmp_path / "a.npz", **changed)
        return tmp_path / "a.npz"

    return save


def refusal(path):
    """The line with which load_data refuses a file, which it must leave as it is."""
    before = path.read_bytes()
    with pytest.raises(SystemExit) as refused:
        train_mnist.load_data(path)
    line = refused.value.code
    assert line.startswith(f"{path}: ") and "\n" not in line
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]
    return line


def test_bundled_file_is_the_published_one(monkeypatch, tmp_path):
    """It is found beside the script, from wherever that is started."""
    content = (ROOT / "mnist.npz").read_bytes()
    assert hashlib.sha256(content).hexdigest() == train_mnist.DATA_SHA256
    monkeypatch.chdir(tmp_path)
    data = train_mnist.load_data(train_mnist.beside_script("mnist.npz"))
    assert [x.shape for x, _ in data] == [(60000, 28, 28), (10000, 28, 28)]
    assert data[0][1][:5].tolist() == [5, 0, 4, 1, 9]


@pytest.mark.parametrize("kind", ["uint8", ">i4", "float64"])
def test_any_npz_file_is_welcome(kind, arrays, save):
    """Whatever its pixels and labels, its name and its further arrays."""
    changes = {k: arrays[k][:, :5, :9].astype(kind) // 2 for k in ("x_train", "x_test")}
    changes["y_test"] = arrays["y_test"].astype(kind)
    loaded = train_mnist.load_data(save(extra=np.arange(3), **changes))
    for (images, labels), part in zip(loaded, ("train", "test"), strict=True):
        assert images.dtype == ("uint8" if kind == "uint8" else "float32")
        assert (images == changes[f"x_{part}"]).all()
        assert labels.dtype == int
        assert (labels == arrays[f"y_{part}"]).all()


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html>", b"\x80\x04N.", -9, 9999])
def test_not_npz(content, save):
    """Or cut off, or with another byte. Nobody is advised to unpickle what is there."""
    path = save()
    whole = bytearray(path.read_bytes())
    if isinstance(content, bytes):
        whole[:] = content
    elif content < 0:
        del whole[content:]
    else:
        whole[content] ^= 255
    path.write_bytes(whole)
    assert "pickle" not in refusal(path)


@pytest.mark.parametrize(
    ("name", "change", "fault"),
    [
        ("x_train", lambda x: None, "x_train"),
        ("x_test", lambda x: x.astype(object), "pickle"),
        ("x_train", lambda x: x.reshape(len(x), -1), "images"),
        ("x_train", lambda x: x.astype(str), "Error"),
        ("x_test", lambda x: np.where(x == 255, np.nan, x), "images"),
        ("x_test", lambda x: x[:0], "zero-size"),
        ("x_test", lambda x: x[:, :14], "size"),
        ("y_train", lambda y: y[:-1], "labels"),
        ("y_test", lambda y: y + 0.5, "labels"),
        ("y_train", lambda y: y + 1, "labels"),
        ("y_test", lambda y: y.astype(int) - 1, "labels"),
    ],
)
def test_unfit_array(name, change, fault, arrays, save):
    assert fault in refusal(save(**{name: change(arrays[name])}))


@pytest.mark.parametrize("name", ["folder", "missing.npz", "no/folder/mnist.npz"])
def test_no_file(name, tmp_path, constants):
    constants(DATA_URL="http://127.0.0.1:9/mnist.npz")
    (tmp_path / "folder").mkdir()
    with pytest.raises(SystemExit, match=f"^.*{name}: .*"):
        train_mnist.load_data(tmp_path / name)
    assert os.listdir(tmp_path / "folder") == []


# The download, from 127.0.0.1
OK = b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n"


@pytest.fixture
def serve(monkeypatch):
    """Serves an answer, once; returns the address."""
    monkeypatch.setenv("no_proxy", "*")

    def answer_once(server, answer):
        with server, server.accept()[0] as connection:
            connection.recv(9999)
            connection.sendall(answer)

    def serve(answer):
        server = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=answer_once, args=(server, answer)).start()
        return f"http://127.0.0.1:{server.getsockname()[1]}/mnist.npz"

    return serve


def test_download(serve, small_file, constants, tmp_path):
    """It is fetched once; half a download that was left behind does no harm."""
    content = small_file.read_bytes()
    url = serve(OK % len(content) + content)
    constants(DATA_URL=url, DATA_SHA256=hashlib.sha256(content).hexdigest())
    (tmp_path / "new-mnist.npz").write_bytes(content[:99])
    for _ in range(2):
        (x_train, _), _ = train_mnist.load_data(tmp_path / "mnist.npz")
        assert len(x_train) == 3000
    assert os.listdir(tmp_path) == ["mnist.npz"]
    assert (tmp_path / "mnist.npz").read_bytes() == content


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (b"HTTP/1.0 404 Not Found\r\n\r\n", "404"),
        (OK % 99 + b"right", "retrieval incomplete"),
        (OK % 5 + b"wrong", "corrupted"),
    ],
)
def test_failing_download(answer, cause, serve, constants, tmp_path):
    """A line with the cause and the address; there is no mnist.npz."""
    url = serve(answer)
    constants(DATA_URL=url, DATA_SHA256=hashlib.sha256(b"right").hexdigest())
    with pytest.raises(SystemExit) as refused:
        train_mnist.load_data(tmp_path / "mnist.npz")
    line = refused.value.code
    assert cause in line and url in line and "\n" not in line
    assert not (tmp_path / "mnist.npz").exists()
