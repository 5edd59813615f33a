"""The download, from a server on 127.0.0.1 that misbehaves in every way."""

import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import keras
import pytest
from conftest import ROOT

import train_mnist


class Server(ThreadingHTTPServer):
    """Serves one file, in a way that is told by the first part of the path."""

    daemon_threads = True

    def __init__(self, content):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = content
        self.requests = []
        self.go_on = threading.Event()

    def url(self, way):
        return f"http://127.0.0.1:{self.server_port}/{way}/mnist.npz"

    def handle_error(self, request, client_address):
        pass  # a client that was killed


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, content = self.server, self.server.content
        server.requests.append(self.path)
        way = self.path.split("/")[-2]
        if way == "missing":
            return self.send_error(404)
        if way == "silent":
            server.go_on.wait(60)
            return None
        if way == "wrong":
            content = b"<html>Please log in to this network</html>"
        self.send_response(200)
        if way != "unmeasured":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])
        self.wfile.flush()
        if way in ("cut", "unmeasured"):
            return None
        if way in ("stalled", "waiting"):
            server.go_on.wait(60)
        self.wfile.write(content[len(content) // 2 :])
        return None

    def log_message(self, *args):
        pass


@pytest.fixture
def server(small_file):
    server = Server(small_file.read_bytes())
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.go_on.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def timeouts(monkeypatch):
    """Makes every default time-out at most one second; lists those that were set."""
    set_timeout, asked = socket.setdefaulttimeout, []

    def shortened(seconds):
        asked.append(seconds)
        set_timeout(seconds and min(seconds, 1))

    monkeypatch.setattr(socket, "setdefaulttimeout", shortened)
    return asked


@pytest.fixture
def fetch(server, monkeypatch, tmp_path):
    """Has load_data fetch the served file to a new folder."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    sha = hashlib.sha256(server.content).hexdigest()
    monkeypatch.setattr(train_mnist, "DATA_SHA256", sha.upper())

    def fetch(url):
        monkeypatch.setattr(train_mnist, "DATA_URL", url)
        return train_mnist.load_data(tmp_path / "mnist.npz")

    return fetch


def test_download(server, fetch, tmp_path, capsys):
    (x_train, _), _ = fetch(server.url("good"))
    assert len(x_train) == 3000
    assert os.listdir(tmp_path) == ["mnist.npz"]
    assert (tmp_path / "mnist.npz").read_bytes() == server.content
    url = server.url("good")
    assert capsys.readouterr().out == f"Downloading data from {url}\n"
    assert socket.getdefaulttimeout() is None
    assert keras.config.is_interactive_logging_enabled()
    fetch(server.url("good"))
    assert len(server.requests) == 1


def test_progress_bar_on_a_terminal(server, fetch, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    fetch(server.url("good"))
    shown = capsys.readouterr().out
    assert shown.count("Downloading data from") == 1
    assert f"{len(server.content)}/{len(server.content)}" in shown


@pytest.mark.parametrize(
    ("way", "cause"),
    [
        ("missing", "404"),
        ("cut", "got only"),
        ("unmeasured", "hash"),
        ("wrong", "hash"),
        ("silent", "timed out"),
        ("stalled", "timed out"),
    ],
)
def test_misbehaving_server(way, cause, server, fetch, timeouts, tmp_path):
    with pytest.raises(SystemExit) as refused:
        fetch(server.url(way))
    line = refused.value.code
    assert "\n" not in line
    for part in (str(tmp_path / "mnist.npz"), server.url(way), cause, "by hand"):
        assert part in line
    assert os.listdir(tmp_path) == []
    assert timeouts == [30, None]


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9/mnist.npz",  # nobody listens to the discard port
        "http://no-such-host.invalid/mnist.npz",
        "gopher://127.0.0.1/mnist.npz",
        "mnist.npz",
        "http://[/mnist.npz",
    ],
)
def test_unreachable(url, fetch, tmp_path):
    with pytest.raises(SystemExit) as refused:
        fetch(url)
    assert url in refused.value.code
    assert "\n" not in refused.value.code
    assert os.listdir(tmp_path) == []


def test_folder_that_cannot_be_written(server, fetch, tmp_path):
    path = tmp_path / "missing" / "mnist.npz"
    with pytest.raises(SystemExit) as refused:
        train_mnist.load_data(path)
    assert str(path) in refused.value.code
    assert server.requests == []


def test_only_mnist_is_fetched(server, fetch, tmp_path):
    with pytest.raises(SystemExit, match="fashion.npz: no such file"):
        train_mnist.load_data(tmp_path / "fashion.npz")
    assert server.requests == []


def test_proxy_of_the_environment(server, fetch, monkeypatch):
    urllib.request.install_opener(None)  # made once a process, with its proxies
    monkeypatch.setenv("http_proxy", server.url("").removesuffix("/mnist.npz"))
    fetch("http://host.invalid/good/mnist.npz")
    urllib.request.install_opener(None)
    assert server.requests == ["http://host.invalid/good/mnist.npz"]


def fetching(server, path, way):
    """Start a process that loads a missing file from the server."""
    sha = hashlib.sha256(server.content).hexdigest()
    code = (
        "import train_mnist as t\n"
        f"t.DATA_URL, t.DATA_SHA256 = {server.url(way)!r}, {sha!r}\n"
        f"print(len(t.load_data({str(path)!r})[0][0]))\n"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, **pipes)


def wait_for(count, requests):
    """Wait until the server has so many requests."""
    deadline = time.monotonic() + 60
    while len(requests) < count and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(requests) == count


def test_two_at_once_and_a_third_killed(server, fetch, tmp_path):
    path = tmp_path / "mnist.npz"
    other, killed = (fetching(server, path, "waiting") for _ in range(2))
    wait_for(2, server.requests)
    with ThreadPoolExecutor() as pool:
        ours = pool.submit(fetch, server.url("waiting"))
        wait_for(3, server.requests)
        time.sleep(0.2)
        assert not path.exists()
        killed.kill()
        killed.communicate()
        assert not path.exists()
        server.go_on.set()
        assert len(ours.result(60)[0][0]) == 3000
    out, _ = other.communicate(timeout=60)
    assert other.returncode == 0
    assert out.endswith("\n3000\n")
    assert path.read_bytes() == server.content
    # A kill leaves no file but a hidden folder, which .gitignore covers.
    assert len(os.listdir(tmp_path)) <= 2
    path.unlink()
    fetch(server.url("good"))
