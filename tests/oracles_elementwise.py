"""What the elementwise, pooling, loss and optimizer kernels must compute, in plain float64 NumPy: slow and obvious.

Images are ``(N, H, W, C)``, as the kernels see them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Pair = tuple[int, int]


def relu_forward(x: Any) -> Array:
    """``0 where x <= 0, else x``."""
    x = np.asarray(x, dtype=np.float64)
    return np.where(x <= 0, 0.0, x)


def relu_backward(x: Any, dy: Any) -> Array:
    """``0 where x <= 0, else dy``."""
    return np.where(np.asarray(x) <= 0, 0.0, np.asarray(dy, dtype=np.float64))


def leaky_relu_forward(x: Any, slope: Any) -> Array:
    """``x where x > 0, else slope * x``; a slope for each column is PReLU."""
    x = np.asarray(x, dtype=np.float64)
    return np.where(x > 0, x, np.asarray(slope, dtype=np.float64) * x)


def leaky_relu_backward(x: Any, slope: Any, dy: Any) -> Array:
    """``dy where x > 0, else slope * dy``."""
    dy = np.asarray(dy, dtype=np.float64)
    return np.where(np.asarray(x) > 0, dy, np.asarray(slope, dtype=np.float64) * dy)


def prelu_slope_grad(x: Any, dy: Any, slopes: int) -> Array:
    """``sum over rows of x * dy where x is not > 0``, for each channel or, with one slope, over everything."""
    product = np.asarray(x, dtype=np.float64) * np.asarray(dy, dtype=np.float64)
    terms = np.where(np.asarray(x) > 0, 0.0, product)
    return terms.sum(axis=0) if slopes > 1 else terms.sum().reshape(1)


def maxpool2d_forward(x: Any, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, out: Pair) -> tuple[Array, Any]:
    """Maximum of each window and the number of the tap that won; -inf and -1 where a window meets no cell.

    In row-major order a tap takes over if it is the first, or greater, or NaN; cells outside the image do not take part.
    """
    x = np.asarray(x, dtype=np.float64)
    y = np.full((x.shape[0], *out, x.shape[3]), -np.inf)
    index = np.full(y.shape, -1)
    for row, column, tap, cell in _taps(x.shape, kernel, stride, padding, dilation, out):
        value, best, winner = x[:, cell[0], cell[1]], y[:, row, column], index[:, row, column]
        takes_over = (winner < 0) | (value > best) | np.isnan(value)
        best[takes_over] = value[takes_over]
        winner[takes_over] = tap
    return y, index


def maxpool2d_backward(
    dy: Any, index: Any, shape: tuple[int, ...], kernel: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> Array:
    """Each element of ``dy`` goes to the cell that won its window, if there is one; contributions add."""
    dx = np.zeros(shape)
    for row, column, tap, cell in _taps(shape, kernel, stride, padding, dilation, dy.shape[1:3]):
        dx[:, cell[0], cell[1]] += np.where(index[:, row, column] == tap, dy[:, row, column], 0.0)
    return dx


def _taps(
    shape: tuple[int, ...], kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, out: Pair
) -> Iterator[tuple[int, int, int, Pair]]:
    """Every tap of every window that lies inside the image: output row and column, number of the tap, cell."""
    for row, column in np.ndindex(*out):
        for i, j in np.ndindex(*kernel):
            h = row * stride[0] - padding[0] + i * dilation[0]
            w = column * stride[1] - padding[1] + j * dilation[1]
            if 0 <= h < shape[1] and 0 <= w < shape[2]:
                yield row, column, i * kernel[1] + j, (h, w)
