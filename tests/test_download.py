"""The download, from a server on 127.0.0.1 that misbehaves in every way."""

import hashlib
import os
import signal
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from helpers import edited, on_posix, result

import train_mnist

WRONG = b"<html>Please log in to this network</html>"


class Handler(BaseHTTPRequestHandler):
    """Serves one file, in a way that is told by the first part of the path."""

    def do_GET(self):
        server, way = self.server, self.path.split("/")[-2]
        content = WRONG if way == "wrong" else server.content
        half = len(content) // 2
        self.send_response(404 if way == "missing" else 200)
        if way != "unmeasured":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:half])
        server.half_sent.release()
        if way == "waiting":
            server.go_on.wait(60)
        if way not in ("cut", "unmeasured"):
            self.wfile.write(content[half:])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(small_file):
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads, server.handle_error = True, lambda *args: None
        server.content = small_file.read_bytes()
        server.half_sent = threading.Semaphore(0)  # once for each request
        server.go_on = threading.Event()
        server.url = f"http://127.0.0.1:{server.server_port}/{{}}/mnist.npz".format
        threading.Thread(target=server.serve_forever, args=(0.02,)).start()
        yield server
        server.go_on.set()
        server.shutdown()


@pytest.fixture
def fetch(server, constants, monkeypatch, tmp_path):
    """Has load_data fetch the served file to a new folder."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    constants(DATA_SHA256=hashlib.sha256(server.content).hexdigest().upper())

    def fetch(url, path=tmp_path / "mnist.npz"):
        constants(DATA_URL=url)
        return train_mnist.load_data(path)

    return fetch


def test_download(server, fetch, tmp_path, capsys):
    """It is fetched once."""
    for _ in range(2):
        (x_train, _), _ = fetch(server.url("good"))
        assert len(x_train) == 3000
    assert os.listdir(tmp_path) == ["mnist.npz"]
    assert (tmp_path / "mnist.npz").read_bytes() == server.content
    assert capsys.readouterr().out == f"Downloading {server.url('good')}\n"


@pytest.mark.parametrize(
    ("way", "cause"),
    [
        ("missing", "404"),
        ("cut", "IncompleteRead"),
        ("unmeasured", "SHA-256 is "),
        ("wrong", hashlib.sha256(WRONG).hexdigest()),
        ("waiting", "timed out"),
        ("mnist.npz", "unknown url type"),
    ],
)
def test_misbehaving_server(way, cause, server, fetch, monkeypatch, tmp_path):
    """A line with the cause; nothing is left. Of the timeout, 1 % is waited for here."""
    urlopen = urllib.request.urlopen

    def impatient(url, timeout):
        return urlopen(url, timeout=timeout / 100)

    monkeypatch.setattr(urllib.request, "urlopen", impatient)
    url = server.url(way) if way.isalpha() else way
    with pytest.raises(SystemExit) as refused:
        fetch(url)
    line = refused.value.code
    assert line.startswith(f"{tmp_path / 'mnist.npz'}: not downloaded (")
    assert cause in line
    assert url in line
    assert "\n" not in line
    assert os.listdir(tmp_path) == []


def test_no_folder_no_server_and_a_disk_that_fails(
    server, fetch, monkeypatch, tmp_path
):
    """What was downloaded is there only when it has been moved to its place."""

    def fail(new, path):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(SystemExit, match="Input/output error"):
            fetch(server.url("good"))
    with pytest.raises(SystemExit, match="not downloaded .FileNotFoundError"):
        fetch(server.url("good"), tmp_path / "missing" / "mnist.npz")
    server.server_close()
    with pytest.raises(SystemExit, match="not downloaded ."):
        fetch(server.url("good"))
    assert os.listdir(tmp_path) == []


@on_posix
def test_interrupt_while_downloading(server, start, tmp_path):
    """Before and after the training, Ctrl-C ends the script with a line."""
    process = start(edited(tmp_path, DATA_URL=server.url("waiting")))
    assert server.half_sent.acquire(timeout=60)
    process.send_signal(signal.SIGINT)
    out = f"Downloading {server.url('waiting')}\n"
    assert result(process) == (130, out, ["Interrupted."])
    assert os.listdir(tmp_path) == ["train_mnist.py"]
