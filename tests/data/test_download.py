from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler
from queue import Empty
from typing import Any
from urllib.error import URLError

import pytest

from cnet.data import _download
from cnet.data._download import DownloadError, fetch

MOST = 1 << 20


def refuse(content: bytes) -> bytes:
    raise ValueError("not this one")


def test_download_gives_what_accept_makes_of_the_content(server: Any) -> None:
    content = bytes(range(256)) * 1000
    server.answers["/a"] = content
    assert fetch([server.url + "a"], lambda received: (len(received), received == content), MOST) == (256000, True)
    assert server.requests == ["/a"]


def test_download_without_a_promised_length(server: Any) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(b"whole")

    server.answers["/a"] = answer
    assert fetch([server.url + "a"], bytes, MOST) == b"whole"


def test_download_turns_to_the_next_server(server: Any) -> None:
    def break_off(handler: BaseHTTPRequestHandler) -> None:
        server.send(handler, b"part", promised=100)

    server.answers |= {"/error": 503, "/broken": break_off, "/good": b"good"}
    urls = [server.url + path for path in ("absent", "error", "broken", "good")]
    assert fetch(urls, bytes, MOST) == b"good"
    assert server.requests == ["/absent", "/error", "/broken", "/good"]


def test_download_turns_to_the_next_server_when_content_is_refused(server: Any) -> None:
    server.answers |= {"/wrong": b"wrong", "/good": b"good"}
    urls = [server.url + "wrong", server.url + "good"]
    assert fetch(urls, lambda content: content if content == b"good" else refuse(content), MOST) == b"good"


def test_download_tells_the_first_failure(server: Any) -> None:
    server.answers["/wrong"] = b"wrong"
    host = server.url.removeprefix("http://").rstrip("/")
    with pytest.raises(DownloadError, match=f"^{host} sent a damaged or different file$"):
        fetch([server.url + "wrong", server.url + "absent"], refuse, MOST)
    with pytest.raises(DownloadError, match=f"^{host} answered 404 Not Found$"):
        fetch([server.url + "absent", server.url + "wrong"], refuse, MOST)
    with pytest.raises(DownloadError, match=r"^no server to ask$"):
        fetch([], bytes, MOST)


def test_download_leaves_other_errors_of_accept_alone(server: Any) -> None:
    server.answers["/a"] = b"a"

    def fail(content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        fetch([server.url + "a", server.url + "b"], fail, MOST)
    assert server.requests == ["/a"]


def test_download_notices_a_connection_closed_early(server: Any) -> None:
    server.answers["/a"] = lambda handler: server.send(handler, b"x" * 10, promised=100)
    with pytest.raises(DownloadError, match=r"closed after 10 of 100 bytes$"):
        fetch([server.url + "a"], bytes, MOST)


def test_download_stops_at_the_most_bytes(server: Any) -> None:
    def flood(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not server.released.is_set():
            try:
                handler.wfile.write(bytes(1 << 16))
            except OSError:
                break

    server.answers["/a"] = flood
    with pytest.raises(DownloadError, match="sent more than 100,000 bytes"):
        fetch([server.url + "a"], bytes, 100_000)


def test_download_gives_up_a_stalled_transfer(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def stall(handler: BaseHTTPRequestHandler) -> None:
        server.send(handler, b"x" * 10, promised=100)
        server.released.wait()

    server.answers["/a"] = stall
    monkeypatch.setattr(_download, "STALL_SECONDS", 0.05)
    with pytest.raises(DownloadError, match=r"stalled after (10|0) bytes|did not answer"):
        fetch([server.url + "a"], bytes, MOST)


def test_download_gives_up_a_transfer_which_trickles(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def trickle(handler: BaseHTTPRequestHandler) -> None:
        server.send(handler, b"", promised=1 << 20)
        while not server.released.wait(0.01):
            try:
                handler.wfile.write(b"x")
            except OSError:
                break

    server.answers["/a"] = trickle
    monkeypatch.setattr(_download, "TRANSFER_SECONDS", 0.1)
    with pytest.raises(DownloadError, match="stalled after"):
        fetch([server.url + "a"], bytes, MOST)


def test_download_gives_up_a_server_which_does_not_answer(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answers |= {"/mute": lambda handler: server.released.wait() and None, "/good": b"good"}
    monkeypatch.setattr(_download, "ANSWER_SECONDS", 1.0)
    assert fetch([server.url + "mute", server.url + "good"], bytes, MOST) == b"good"


def test_download_turns_to_the_next_server_after_a_long_transfer(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def refuse_late(content: bytes) -> bytes:
        nonlocal now
        now += 100.0
        return content if content == b"good" else refuse(content)

    server.answers |= {"/wrong": b"wrong", "/good": b"good"}
    monkeypatch.setattr(_download, "monotonic", lambda: now)
    assert fetch([server.url + "wrong", server.url + "good"], refuse_late, MOST) == b"good"


@pytest.mark.parametrize(
    "error",
    [
        URLError(socket.gaierror(socket.EAI_NONAME, "Name or service not known")),
        URLError(socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")),
        URLError(OSError(errno.ENETUNREACH, "Network is unreachable")),
        OSError(errno.EHOSTUNREACH, "No route to host"),
    ],
)
def test_download_without_a_network_asks_one_server_only(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def unreachable(url: str) -> None:
        asked.append(url)
        raise error

    monkeypatch.setattr(_download, "_open", unreachable)
    with pytest.raises(DownloadError, match=r"^no network$"):
        fetch(["http://one/a", "http://two/a"], bytes, MOST)
    assert asked == ["http://one/a"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (URLError(ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")), "one: Connection refused"),
        (URLError(TimeoutError("timed out")), "one did not answer"),
        (TimeoutError("timed out"), "one did not answer"),
        (URLError("unknown url type: x"), "one: <urlopen error unknown url type: x>"),
        (ValueError("bad"), "one: bad"),
        (RuntimeError(), "one: RuntimeError"),
    ],
)
def test_download_tells_why(error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(url: str) -> None:
        raise error

    monkeypatch.setattr(_download, "_open", fail)
    with pytest.raises(DownloadError) as caught:
        fetch(["http://one/a", "http://two/a"], bytes, MOST)
    assert str(caught.value) == reason
    assert not caught.value.offline


def test_download_waits_five_seconds_at_most_for_all_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    # Time stands still but for the waiting: what is summed up is the patience, not how fast this machine is.
    now = 1000.0

    class NeverFilled:
        def put(self, message: Any) -> None:
            pass

        def get(self, timeout: float) -> Any:
            nonlocal now
            now += timeout
            raise Empty

    monkeypatch.setattr(_download, "SimpleQueue", NeverFilled)
    monkeypatch.setattr(_download, "monotonic", lambda: now)
    monkeypatch.setattr(_download, "_open", lambda url: refuse(b""))
    with pytest.raises(DownloadError, match=r"^one did not answer$"):
        fetch([f"http://{host}/a" for host in ("one", "two", "three", "four")], bytes, MOST)
    assert now - 1000.0 == 5.0


def test_download_is_not_held_up_by_a_lookup_which_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def hang(url: str) -> None:
        released.wait()
        raise OSError("late")

    monkeypatch.setattr(_download, "_open", hang)
    monkeypatch.setattr(_download, "ANSWER_SECONDS", 0.01)
    with pytest.raises(DownloadError, match=r"^one did not answer$"):
        fetch(["http://one/a", "http://two/a"], bytes, MOST)
    released.set()


def test_download_leaves_no_thread_behind(server: Any) -> None:
    server.answers["/a"] = bytes(1 << 20)
    with pytest.raises(DownloadError, match="sent more than 10 bytes"):
        fetch([server.url + "a"], bytes, 10)
    for thread in threading.enumerate():
        if thread.name == "cnet-download":
            thread.join(timeout=20)
            assert not thread.is_alive()


def test_import_loads_no_network_code() -> None:
    script = "import sys, cnet.data; print(sorted({'urllib.request', 'http.client', 'ssl'} & set(sys.modules)))"
    loaded = "import sys, numpy; print(sorted({'urllib.request', 'http.client', 'ssl'} & set(sys.modules)))"
    outputs = [
        subprocess.run([sys.executable, "-c", code], env=subprocess_environment(), capture_output=True, check=True)
        for code in (script, loaded)
    ]
    assert outputs[0].stdout == outputs[1].stdout


def subprocess_environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
