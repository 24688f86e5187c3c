"""Ctrl-C at a moment that suits the training."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interruption:
    """Whether somebody asked to stop.

    Attributes
    ----------
    requested : bool
        Set by the first Ctrl-C.
    """

    def __init__(self) -> None:
        self.requested = False

    def check(self) -> None:
        """Raise KeyboardInterrupt if somebody asked."""
        if self.requested:
            raise KeyboardInterrupt

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        # Whoever asks twice does not want to wait for the end of a step.
        self.check()
        self.requested = True


@contextmanager
def held_back() -> Iterator[Interruption]:
    """Let the first Ctrl-C only be noted, so that no step is torn apart; the second raises KeyboardInterrupt.

    Python delivers signals to the main thread, and a program may have its own idea of Ctrl-C: in another thread, or
    under another handler than Python's own, nothing changes.

    Examples
    --------
    >>> import signal
    >>> from cnet.training._interruption import held_back
    >>> with held_back() as interruption:
    ...     signal.raise_signal(signal.SIGINT)
    ...     print(interruption.requested)
    True
    """
    interruption = Interruption()
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield interruption
        return
    signal.signal(signal.SIGINT, interruption._on_signal)
    try:
        yield interruption
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
