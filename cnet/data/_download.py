"""Fetch a small file over HTTP, and know soon when that cannot be done.

No timeout of a socket bounds a name lookup, a host with many addresses or an answer that trickles. So the transfer runs
in a thread of its own which hands over what arrives, and the caller decides how long it waits::

    caller  <- inbox <-  thread
            answered, chunk, chunk, ..., finished (or an exception)

Import this module where it is used: the standard library's network code takes longer to load than the rest of cnet.
"""

from __future__ import annotations

import errno
import math
import socket
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from threading import Event, Thread
from time import monotonic
from typing import Any, Literal, TypeAlias, TypeVar
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

# Seconds. A server has the first to answer; all servers together, until one answers, have the second.
ANSWER_SECONDS = 3.0
ALL_ANSWERS_SECONDS = 5.0
# A transfer may pause for the first and last for the second.
STALL_SECONDS = 10.0
TRANSFER_SECONDS = 600.0
_CHUNK_BYTES = 1 << 16

_NO_NETWORK = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN}

T = TypeVar("T")
Message: TypeAlias = "bytes | DownloadError | Literal['answered', 'finished']"


class DownloadError(Exception):
    """Why there is no file, in a few words; ``offline`` if no other server can do better."""

    def __init__(self, reason: str, offline: bool = False) -> None:
        super().__init__(reason)
        self.offline = offline


def fetch(urls: Sequence[str], accept: Callable[[bytes], T], most_bytes: int) -> T:
    """``accept(content)`` for the first URL whose content it does not refuse with a ``ValueError``.

    Raises `DownloadError`, with the reason of the first URL, once all have failed, the network is seen to be absent or
    none has answered for `ALL_ANSWERS_SECONDS`.
    """
    first_failure = None
    deadline = monotonic() + ALL_ANSWERS_SECONDS
    for url in urls:
        patience = min(ANSWER_SECONDS, deadline - monotonic())
        if patience <= 0:
            break
        try:
            with _Transfer(url) as transfer:
                transfer.wait_for_answer(patience)
                # There is a network: should this transfer fail, however late, the next server gets its turn.
                deadline = math.inf
                return accept(transfer.content(most_bytes))
        except ValueError:
            failure = DownloadError(f"{_host(url)} sent a damaged or different file")
        except DownloadError as error:
            failure = error
        first_failure = first_failure or failure
        if failure.offline:
            break
    raise first_failure or DownloadError("no server to ask")


class _Transfer:
    """One request, under way in its thread until the block ends."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._inbox: SimpleQueue[Message] = SimpleQueue()
        self._abandoned = Event()
        # A daemon: a lookup which hangs must not keep the process from ending.
        self._thread = Thread(target=self._run, name="cnet-download", daemon=True)

    def __enter__(self) -> _Transfer:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._abandoned.set()

    def wait_for_answer(self, seconds: float) -> None:
        self._next(seconds, "did not answer")

    def content(self, most_bytes: int) -> bytes:
        content = bytearray()
        deadline = monotonic() + TRANSFER_SECONDS
        while True:
            patience = min(STALL_SECONDS, max(0.0, deadline - monotonic()))
            chunk = self._next(patience, f"stalled after {len(content):,} bytes")
            if not isinstance(chunk, bytes):
                return bytes(content)
            content += chunk
            if len(content) > most_bytes:
                raise DownloadError(f"{_host(self._url)} sent more than {most_bytes:,} bytes")

    def _next(self, seconds: float, complaint: str) -> Message:
        try:
            message = self._inbox.get(timeout=seconds)
        except Empty:
            raise DownloadError(f"{_host(self._url)} {complaint}") from None
        if isinstance(message, DownloadError):
            raise message
        return message

    def _run(self) -> None:
        try:
            with _open(self._url) as response:
                self._inbox.put("answered")
                received = 0
                while not self._abandoned.is_set() and (chunk := response.read1(_CHUNK_BYTES)):
                    received += len(chunk)
                    self._inbox.put(chunk)
                # http.client takes a connection closed early for the end of the file.
                promised = response.headers.get("Content-Length", "")
                if promised.isdigit() and received != int(promised):
                    raise DownloadError(f"{_host(self._url)} closed after {received:,} of {int(promised):,} bytes")
            self._inbox.put("finished")
        except Exception as error:
            self._inbox.put(_explain(self._url, error))


def _open(url: str) -> Any:
    return urlopen(Request(url, headers={"User-Agent": "cnet"}), timeout=STALL_SECONDS)


def _explain(url: str, error: Exception) -> DownloadError:
    if isinstance(error, DownloadError):
        return error
    if isinstance(error, HTTPError):
        with error:
            return DownloadError(f"{_host(url)} answered {error.code} {error.reason}".rstrip())
    cause = error.reason if isinstance(error, URLError) and isinstance(error.reason, Exception) else error
    if isinstance(cause, socket.gaierror) or (isinstance(cause, OSError) and cause.errno in _NO_NETWORK):
        return DownloadError("no network", offline=True)
    if isinstance(cause, TimeoutError):
        return DownloadError(f"{_host(url)} did not answer")
    text = (cause.strerror if isinstance(cause, OSError) else None) or str(cause) or type(cause).__name__
    return DownloadError(f"{_host(url)}: {text}")


def _host(url: str) -> str:
    return url.partition("://")[2].partition("/")[0]
