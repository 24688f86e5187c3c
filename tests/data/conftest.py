"""A web server on this machine which misbehaves as told, and a small MNIST for it to serve."""

from __future__ import annotations

import gzip
import hashlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from cnet.data import mnist_digits
from cnet.data._idx_codec import header

Behaviour = Callable[[BaseHTTPRequestHandler], None]


class Server:
    """Answers each path as the table ``answers`` says: with bytes, a status code, or a function of the handler."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes | int | Behaviour] = {}
        self.requests: list[str] = []
        # A behaviour which hangs waits for this, so that no test outlives its server.
        self.released = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.requests.append(self.path)
                answer = server.answers.get(self.path, 404)
                if callable(answer):
                    answer(self)
                elif isinstance(answer, int):
                    self.send_error(answer)
                else:
                    server.send(self, answer)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @staticmethod
    def send(handler: BaseHTTPRequestHandler, content: bytes, promised: int | None = None) -> None:
        """Answer with the content, and promise its length or another."""
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content) if promised is None else promised))
        handler.end_headers()
        handler.wfile.write(content)
        handler.wfile.flush()

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    running = Server()
    yield running
    running.close()


@pytest.fixture
def small_mnist() -> dict[str, np.ndarray]:
    """Four arrays in the form of MNIST's files, under their names."""
    generator = np.random.default_rng(0)
    return {
        "train-images-idx3-ubyte": generator.integers(256, size=(20, 28, 28), dtype=np.uint8),
        "train-labels-idx1-ubyte": np.arange(20, dtype=np.uint8) % 10,
        "t10k-images-idx3-ubyte": generator.integers(256, size=(10, 28, 28), dtype=np.uint8),
        "t10k-labels-idx1-ubyte": np.arange(10, dtype=np.uint8),
    }


@pytest.fixture
def mirror(server: Server, small_mnist: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server which passes for the only mirror of MNIST, of which ``small_mnist`` passes for the original."""
    hashes = {}
    for name, array in small_mnist.items():
        content = header(array) + array.tobytes()
        hashes[name] = hashlib.sha256(content).hexdigest()
        server.answers[f"/{name}.gz"] = gzip.compress(content)
    monkeypatch.setattr(mnist_digits, "_FILES", hashes)
    monkeypatch.setattr(mnist_digits, "_MIRRORS", (server.url,))
    return server
