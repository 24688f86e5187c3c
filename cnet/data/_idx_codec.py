"""The IDX format: one array of numbers behind a header of a few bytes.

::

    offset  bytes  meaning
    0       2      zero
    2       1      type code: 0x08 uint8, 0x09 int8, 0x0B int16, 0x0C int32, 0x0D float32, 0x0E float64
    3       1      number of dimensions, d
    4       4 d    sizes, as big-endian unsigned integers, slowest axis first
    4 + 4d         the elements in C order, big-endian

Files often come compressed with gzip. A gzip file begins with bytes that no IDX file can begin with, so the content
alone tells the two apart.
"""

from __future__ import annotations

import gzip
import io
import math
import struct
import sys
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnet import _check

DTYPES: dict[int, np.dtype[Any]] = {
    0x08: np.dtype(">u1"),
    0x09: np.dtype(">i1"),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"),
    0x0E: np.dtype(">f8"),
}
CODES = {dtype.newbyteorder("="): code for code, dtype in DTYPES.items()}
# The most that every supported NumPy can hold.
MOST_DIMENSIONS = 32
_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK_BYTES = 1 << 20


def header(array: NDArray[Any]) -> bytes:
    """The bytes before the elements in the plain IDX file which holds ``array``."""
    code = CODES[array.dtype.newbyteorder("=")]
    return struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape)


def decode(stream: io.BufferedReader, subject: str, most_bytes: int = sys.maxsize) -> NDArray[Any]:
    """Read one array from a stream, plain or gzip, as `read_idx` does; ``subject`` opens its error messages.

    Elements which the header says take more than ``most_bytes`` are refused before they are read: a bound for data
    from a stranger, where even the truth may be too much.
    """
    if not stream.peek(len(_GZIP_MAGIC)).startswith(_GZIP_MAGIC):
        return _decode_plain(stream, subject, most_bytes)
    try:
        with gzip.GzipFile(fileobj=stream, mode="rb") as inflated:
            return _decode_plain(inflated, subject, most_bytes)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        received = f"its gzip data is damaged or cut short ({error})"
        raise ValueError(_check.message(subject, received, "a whole gzip file", "Fetch the file again.")) from error


def _decode_plain(stream: io.BufferedIOBase, subject: str, most_bytes: int) -> NDArray[Any]:
    dtype, shape = _read_header(stream, subject)
    # Zero sizes count as one: NumPy cannot represent huge axes even beside an empty one.
    extent = math.prod(size for size in shape if size) * dtype.itemsize
    if extent > min(most_bytes, sys.maxsize):
        received = f"declares {dtype.name} elements of shape {shape}, {extent:,} bytes"
        raise ValueError(_check.message(subject, received, f"at most {min(most_bytes, sys.maxsize):,} bytes"))
    count = math.prod(shape) * dtype.itemsize
    data = _read(stream, count)
    if len(data) < count:
        received = f"ends after {len(data):,} bytes of elements"
        expected = f"{count:,} for {dtype.name} of shape {shape}"
        raise ValueError(_check.message(subject, received, expected, "The file is cut short: fetch it again."))
    # This read also makes gzip verify its checksum, which it does only on reaching the end.
    if stream.read(1):
        raise ValueError(_check.message(subject, f"has more bytes after the {count:,} of its elements", "the end"))
    array: NDArray[Any] = np.ndarray(shape, dtype, buffer=data)
    return array.astype(dtype.newbyteorder("="), copy=False)


def _read_header(stream: io.BufferedIOBase, subject: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
    magic = _read(stream, 4)
    if len(magic) < 4:
        raise ValueError(_check.message(subject, f"ends after {len(magic)} bytes", "an IDX header of at least 8"))
    zero, code, dimensions = struct.unpack(">HBB", magic)
    if zero != 0:
        received = f"begins with the bytes {magic[:2].hex(' ')}"
        raise ValueError(_check.message(subject, received, "an IDX file, which begins with 00 00, or a gzip file"))
    if code not in DTYPES:
        known = ", ".join(f"0x{known:02X} ({dtype.name})" for known, dtype in DTYPES.items())
        raise ValueError(_check.message(subject, f"has the IDX type code 0x{code:02X}", f"one of {known}"))
    if not 1 <= dimensions <= MOST_DIMENSIONS:
        raise ValueError(_check.message(subject, f"declares {dimensions} dimensions", f"1 to {MOST_DIMENSIONS}"))
    sizes = _read(stream, 4 * dimensions)
    if len(sizes) < 4 * dimensions:
        received = f"ends after {4 + len(sizes)} bytes"
        expected = f"an IDX header of {4 + 4 * dimensions} for {dimensions} dimensions"
        raise ValueError(_check.message(subject, received, expected))
    return DTYPES[code], struct.unpack(f">{dimensions}I", sizes)


def _read(stream: io.BufferedIOBase, count: int) -> bytearray:
    """Up to ``count`` bytes, fewer only at the end; grows with what arrives, whatever the header promised."""
    data = bytearray()
    while len(data) < count:
        chunk = stream.read(min(count - len(data), _CHUNK_BYTES))
        if not chunk:
            break
        data += chunk
    return data
