"""Write a file whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from cnet import _check


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a stream whose bytes become ``path`` at once when the block ends, and vanish if it raises.

    A reader, a crash or a second writer sees the old file or the new one, never a part: the bytes go to a file beside
    ``path`` (a rename is atomic only within one file system) and reach the disk before they take its name.
    """
    if not path.parent.is_dir():
        text = _check.message(str(path), "its folder does not exist", remedy="Create the folder first.")
        raise FileNotFoundError(text)
    # Not tempfile: its files are private to the user (mode 0600), and the rename would pass that on to ``path``.
    beside = path.with_name(f".{path.name}.{os.urandom(8).hex()}.part")
    try:
        with open(beside, "xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(beside, path)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise
