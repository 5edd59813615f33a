"""The download, from a server on 127.0.0.1 that misbehaves in every way."""

import hashlib
import os
import signal
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from helpers import edited, own_lines

import train_mnist

WRONG = b"<html>Please log in to this network</html>"
WRONG_SHA256 = hashlib.sha256(WRONG).hexdigest()


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
            content = WRONG
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
    """Makes every time-out at most 0.3 seconds; lists those that were asked for."""
    urlopen, asked = urllib.request.urlopen, []

    def impatient(url, timeout):
        asked.append(timeout)
        return urlopen(url, timeout=min(timeout, 0.3))

    monkeypatch.setattr(urllib.request, "urlopen", impatient)
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
    assert capsys.readouterr().out == f"Downloading {server.url('good')}\n"
    fetch(server.url("good"))
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("way", "cause"),
    [
        ("missing", "404"),
        ("cut", "IncompleteRead"),
        ("unmeasured", "SHA-256 is "),
        ("wrong", f"SHA-256 is {WRONG_SHA256}, not DATA_SHA256"),
        ("silent", "timed out"),
        ("stalled", "timed out"),
    ],
)
def test_misbehaving_server(way, cause, server, fetch, timeouts, tmp_path):
    with pytest.raises(SystemExit) as refused:
        fetch(server.url(way))
    line = refused.value.code
    assert "\n" not in line
    assert line.startswith(f"{tmp_path / 'mnist.npz'}: not downloaded (")
    assert line.endswith(f"); save {server.url(way)} there by hand")
    assert cause in line
    assert os.listdir(tmp_path) == []
    assert timeouts == [30]


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


def test_folder_that_cannot_be_written(server, fetch, monkeypatch, tmp_path):
    path = tmp_path / "missing" / "mnist.npz"
    monkeypatch.setattr(train_mnist, "DATA_URL", server.url("good"))
    with pytest.raises(SystemExit) as refused:
        train_mnist.load_data(path)
    assert f"{path}: not downloaded (FileNotFoundError(" in refused.value.code


def test_digest_that_is_none(server, fetch, monkeypatch, tmp_path):
    for digest in "", "731c", "g" * 64, None:
        monkeypatch.setattr(train_mnist, "DATA_SHA256", digest)
        with pytest.raises(SystemExit, match="not downloaded"):
            fetch(server.url("good"))
        assert os.listdir(tmp_path) == []


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


def wait_for(count, requests):
    """Wait until the server has so many requests."""
    deadline = time.monotonic() + 60
    while len(requests) < count and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(requests) == count


def test_two_at_once_and_a_third_killed(
    server, fetch, start, tmp_path, tmp_path_factory
):
    path = tmp_path / "mnist.npz"
    constants = {"DATA_PATH": str(path), "DATA_URL": server.url("waiting")}
    killed = start(edited(tmp_path_factory.mktemp("script"), **constants))
    try:
        wait_for(1, server.requests)
        with ThreadPoolExecutor() as pool:
            ours = [pool.submit(fetch, server.url("waiting")) for _ in range(2)]
            wait_for(3, server.requests)
            time.sleep(0.2)
            assert not path.exists()
            killed.kill()
            killed.wait()
            assert not path.exists()
            server.go_on.set()
            for one in ours:
                assert len(one.result(60)[0][0]) == 3000
    finally:
        server.go_on.set()
    assert os.listdir(tmp_path) == ["mnist.npz"]
    assert path.read_bytes() == server.content


def test_interrupt_while_downloading(server, start, tmp_path):
    """Before and after the training, Ctrl-C ends the script with a line."""
    process = start(edited(tmp_path, DATA_URL=server.url("waiting")))
    wait_for(1, server.requests)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, own_lines(err)) == (130, ["Interrupted."])
    assert out == f"Downloading {server.url('waiting')}\n"
    assert os.listdir(tmp_path) == ["train_mnist.py"]
