"""The two views of an array, and the memory behind both.

Users see **logical** arrays, indexed as in PyTorch: images ``(N, C, H, W)``, linear weights ``(out, in)``, convolution
weights ``(out, in / groups, kh, kw)``. Kernels see the **physical** array: the same memory as a C-ordered array with
channels last, images ``(N, H, W, C)``, linear weights ``(in, out)``, convolution weights ``(kh, kw, in / groups,
out)``. Going from one to the other is a change of strides, never a copy; only an image that arrives with its channels
first is copied, once. Arrays of one, two (activations) or three axes are the same in both views.

This module is the only one that permutes axes, and the only one that allocates activations, gradients and workspace.
All of it comes from a pool of aligned blocks that are used again as soon as the last array over them is gone.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cnet import _threads
from cnet._check import FLOAT32, Float32Array
from cnet.kernels import _pool, transpose

Shape = tuple[int, ...]

# The buffer protocol of compiled classes is not visible to type checkers before Python 3.12.
_block: Any = _pool.Block


def empty(shape: Shape) -> Float32Array:
    """An uninitialised C-ordered float32 array from the pool."""
    array: Float32Array = np.ndarray(shape, FLOAT32, _block(4 * math.prod(shape)))
    return array


def zeros(shape: Shape) -> Float32Array:
    """A C-ordered float32 array of zeros from the pool."""
    array = empty(shape)
    array.fill(0)
    return array


def empty_of(shape: Shape, dtype: DTypeLike) -> NDArray[Any]:
    """An uninitialised C-ordered array of any dtype from the pool."""
    kind = np.dtype(dtype)
    array: NDArray[Any] = np.ndarray(shape, kind, _block(kind.itemsize * math.prod(shape)))
    return array


def physical(x: Float32Array) -> Float32Array:
    """The physical view of activations: channels last and C-ordered. A copy only if ``x`` does not lie so in memory."""
    if x.ndim != 4:
        return np.ascontiguousarray(x)
    view: Float32Array = x.transpose(0, 2, 3, 1)
    if view.flags.c_contiguous:
        return view
    n, c, h, w = x.shape
    last = empty((n, h, w, c))
    transpose.transpose(np.ascontiguousarray(x).reshape(n, c, h * w), last.reshape(n, h * w, c), _threads._count)
    return last


def logical(x: Float32Array) -> Float32Array:
    """The logical view of physical activations."""
    return x.transpose(0, 3, 1, 2) if x.ndim == 4 else x


def channels_first(x: Float32Array) -> Float32Array:
    """``x`` as ``(N, C * H * W)`` rows in the logical order of its elements, C-ordered; a copy unless it lies so."""
    if x.ndim != 4 or x.flags.c_contiguous:
        rows: Float32Array = np.ascontiguousarray(x).reshape(x.shape[0], math.prod(x.shape[1:]))
        return rows
    n, c, h, w = x.shape
    first = empty((n, c * h * w))
    transpose.transpose(physical(x).reshape(n, h * w, c), first.reshape(n, c, h * w), _threads._count)
    return first


def weight_shape(shape: Shape) -> Shape:
    """The physical shape of a parameter of this logical shape."""
    if len(shape) == 4:
        out, depth, height, width = shape
        return height, width, depth, out
    return shape[::-1] if len(shape) == 2 else shape


def weight_logical(weight: Float32Array) -> Float32Array:
    """The logical view of a physical parameter."""
    orders = {2: (1, 0), 4: (3, 2, 0, 1)}
    view: Float32Array = weight.transpose(orders[weight.ndim]) if weight.ndim in orders else weight
    return view


def empty_cache() -> None:
    """Give memory that waits in the pool back to the operating system.

    Notes
    -----
    Arrays that are alive keep their memory. The next step has to touch fresh memory again, which is slow: call this
    after work with a large peak, not between steps.

    Examples
    --------
    >>> import cnet
    >>> cnet.empty_cache()
    """
    _pool.release()


def memory_stats() -> dict[str, int]:
    """Return how much memory the pool holds.

    Returns
    -------
    dict
        In bytes: ``"held"``, taken from the operating system; ``"used"``, in arrays that are alive; ``"peak"``, the
        most that was used at once since the start or :func:`reset_peak_memory`.

    Examples
    --------
    >>> import cnet
    >>> sorted(cnet.memory_stats())
    ['held', 'peak', 'used']
    """
    held, used, peak = _pool.stats()
    return {"held": held, "used": used, "peak": peak}


def reset_peak_memory() -> None:
    """Count the peak of :func:`memory_stats` from now on.

    Examples
    --------
    >>> import cnet
    >>> cnet.reset_peak_memory()
    >>> cnet.memory_stats()["peak"] == cnet.memory_stats()["used"]
    True
    """
    _pool.reset_peak()
