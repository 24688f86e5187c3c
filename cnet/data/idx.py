"""Arrays in IDX files, the format of MNIST and its kin."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cnet import _check
from cnet._atomic import replacing
from cnet.data import _idx_codec as codec


def read_idx(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Read an array from an IDX file.

    Parameters
    ----------
    path : str or path-like
        The file, plain or compressed with gzip. The content decides which, not the name.

    Returns
    -------
    ndarray
        A new, writable, C-ordered array in native byte order. Its dtype is the file's: uint8, int8, int16, int32,
        float32 or float64.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the content is anything but one whole IDX array: a wrong magic number, an unknown type code, no dimensions
        or more than 32, too few bytes, bytes to spare, or gzip data which is damaged or cut short.
    TypeError
        If ``path`` is not a path.

    See Also
    --------
    write_idx : The inverse.

    Notes
    -----
    Memory is taken as bytes arrive, so a header which promises more than the file holds costs nothing. Likewise gzip
    data is inflated only as far as the header says, and one buffer further to see that it ends there.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from cnet.data import read_idx, write_idx
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_idx(Path(folder) / "labels-idx1-ubyte.gz", np.array([7, 2, 1], dtype=np.uint8))
    ...     read_idx(Path(folder) / "labels-idx1-ubyte.gz")
    array([7, 2, 1], dtype=uint8)
    """
    path = _as_path("read_idx", path)
    try:
        with open(path, "rb") as stream:
            return codec.decode(stream, str(path))
    except FileNotFoundError:
        raise FileNotFoundError(_check.message(str(path), "no such file", remedy="Check the path.")) from None


def write_idx(path: str | os.PathLike[str], array: ArrayLike) -> None:
    """Write an array to an IDX file.

    Parameters
    ----------
    path : str or path-like
        The file. It is compressed with gzip if its name ends in ``.gz``. A file of that name is replaced at the end,
        in one step: it is never seen half written, and it survives a failure.
    array : array_like
        The elements: uint8, int8, int16, int32, float32 or float64, of 1 to 32 dimensions, in any memory order.

    Raises
    ------
    TypeError
        If ``array`` has a dtype which the format lacks, or ``path`` is not a path.
    ValueError
        If ``array`` has no dimensions, or an axis of 2**32 elements or more.
    FileNotFoundError
        If the folder does not exist.

    See Also
    --------
    read_idx : The inverse.

    Notes
    -----
    The same array always gives the same bytes: a compressed file records neither its name nor the time.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from cnet.data import write_idx
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "steps.idx"
    ...     write_idx(file, np.array([1, -2], dtype=np.int16))
    ...     file.read_bytes().hex(" ")
    '00 00 0b 01 00 00 00 02 00 01 ff fe'
    """
    path = _as_path("write_idx", path)
    elements = _check.numeric("write_idx", "array", array)
    native = elements.dtype.newbyteorder("=")
    if native not in codec.CODES:
        supported = ", ".join(str(dtype) for dtype in codec.CODES)
        received = f"array has dtype {elements.dtype}"
        raise TypeError(_check.message("write_idx", received, f"one of {supported}", "Convert it with astype."))
    if not 1 <= elements.ndim <= codec.MOST_DIMENSIONS:
        raise _check.shape_error("write_idx", "array", elements.shape, f"1 to {codec.MOST_DIMENSIONS} dimensions")
    if max(elements.shape) >= 1 << 32:
        raise _check.shape_error("write_idx", "array", elements.shape, "fewer than 2**32 elements along each axis")
    # On a little-endian machine this copies anything wider than a byte; bytes in C order are written as they lie.
    big_endian = np.ascontiguousarray(elements, dtype=codec.DTYPES[codec.CODES[native]])
    with replacing(path) as stream:
        if path.suffix == ".gz":
            with gzip.GzipFile(filename="", mode="wb", fileobj=stream, compresslevel=9, mtime=0) as compressed:
                compressed.write(codec.header(elements))
                compressed.write(big_endian.data)
        else:
            stream.write(codec.header(elements))
            stream.write(big_endian.data)


def _as_path(subject: str, path: str | os.PathLike[str]) -> Path:
    try:
        return Path(path)
    except TypeError:
        raise TypeError(_check.message(subject, f"path is {path!r}", "a str or path-like object")) from None
