"""What the kernels must compute, in plain float64 NumPy: slow, obvious, and in logical (PyTorch) layout.

Nothing here is shared with the library, and no trick is worth a doubt. The gradients are held against central
differences of the forward passes in ``test_oracles.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def numeric_gradient(
    function: Callable[[Array], Any], x: Any, upstream: Any = 1.0, step: float = float(np.finfo(float).eps) ** (1 / 3)
) -> Array:
    """Gradient of ``sum(upstream * function(x))`` with respect to ``x``, by central differences in float64.

    ``step`` is relative to ``max(1, |x|)``. Its default balances the truncation error, which grows as its square, with
    the rounding error, which grows as its inverse: about ten digits are right for a smooth function of moderate size.
    """
    x = np.array(x, dtype=np.float64)
    gradient = np.empty_like(x)
    for index in np.ndindex(x.shape):
        width = step * max(1.0, abs(x[index]))
        above, below = x.copy(), x.copy()
        above[index] += width
        below[index] -= width
        rise = np.sum(upstream * (np.asarray(function(above)) - np.asarray(function(below))))
        # Not 2 * width: the sums above were rounded, and what counts is how far apart the two points really are.
        gradient[index] = rise / (above[index] - below[index])
    return gradient


def dense_forward(x: Any, weight: Any, bias: Any = None) -> Array:
    """``y[n, o] = bias[o] + sum_i x[n, i] weight[i, o]``."""
    y = np.einsum("ni,io->no", np.asarray(x, dtype=np.float64), np.asarray(weight, dtype=np.float64))
    return y if bias is None else y + np.asarray(bias, dtype=np.float64)


def dense_input_grad(dy: Any, weight: Any) -> Array:
    """``dx[n, i] = sum_o dy[n, o] weight[i, o]``."""
    return np.einsum("no,io->ni", np.asarray(dy, dtype=np.float64), np.asarray(weight, dtype=np.float64))


def dense_weight_grad(x: Any, dy: Any) -> Array:
    """``dweight[i, o] = sum_n x[n, i] dy[n, o]``."""
    return np.einsum("ni,no->io", np.asarray(x, dtype=np.float64), np.asarray(dy, dtype=np.float64))


def dense_bias_grad(dy: Any) -> Array:
    """``dbias[o] = sum_n dy[n, o]``."""
    return np.sum(np.asarray(dy, dtype=np.float64), axis=0)


Pair = tuple[int, int]
Edges = tuple[int, int, int, int]


def conv2d_output_size(size: Pair, kernel: Pair, stride: Pair, padding: Edges, dilation: Pair) -> Pair:
    """Height and width of the output; ``padding`` is ``(top, bottom, left, right)``."""
    height = (size[0] + padding[0] + padding[1] - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1
    width = (size[1] + padding[2] + padding[3] - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1
    return height, width


def conv2d_forward(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Pair = (1, 1),
    padding: Edges = (0, 0, 0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> Array:
    """Cross-correlation of ``x[n, c, h, w]`` with ``weight[o, c / groups, kh, kw]``, as PyTorch defines it."""
    x, weight = np.asarray(x, dtype=np.float64), np.asarray(weight, dtype=np.float64)
    kernel = weight.shape[2:]
    height, width = conv2d_output_size(x.shape[2:], kernel, stride, padding, dilation)
    padded, weight = _split(_pad(x, padding), 1, groups), _split(weight, 0, groups)
    y = np.zeros((x.shape[0], *weight.shape[:2], height, width))
    for i, j in np.ndindex(kernel):
        under_tap = padded[..., _reach(i, height, stride[0], dilation[0]), _reach(j, width, stride[1], dilation[1])]
        y += np.einsum("ngchw,goc->ngohw", under_tap, weight[..., i, j])
    y = y.reshape(x.shape[0], -1, height, width)
    return y if bias is None else y + np.asarray(bias, dtype=np.float64)[:, None, None]


def conv2d_input_grad(
    dy: Any,
    weight: Any,
    size: Pair,
    stride: Pair = (1, 1),
    padding: Edges = (0, 0, 0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> Array:
    """Gradient with respect to an input of height and width ``size``: every tap sends ``dy`` back where it read."""
    dy, weight = np.asarray(dy, dtype=np.float64), np.asarray(weight, dtype=np.float64)
    (height, width), kernel, channels = dy.shape[2:], weight.shape[2:], weight.shape[1] * groups
    dx = _pad(np.zeros((dy.shape[0], channels, *size)), padding)
    by_group, dy, weight = _split(dx, 1, groups), _split(dy, 1, groups), _split(weight, 0, groups)
    for i, j in np.ndindex(kernel):
        rows, columns = _reach(i, height, stride[0], dilation[0]), _reach(j, width, stride[1], dilation[1])
        by_group[..., rows, columns] += np.einsum("ngohw,goc->ngchw", dy, weight[..., i, j])
    return dx[:, :, padding[0] : padding[0] + size[0], padding[2] : padding[2] + size[1]]


def conv2d_weight_grad(
    x: Any,
    dy: Any,
    kernel: Pair,
    stride: Pair = (1, 1),
    padding: Edges = (0, 0, 0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> Array:
    """Gradient with respect to the weight: for every tap, what it read times what it wrote to."""
    x, dy = np.asarray(x, dtype=np.float64), np.asarray(dy, dtype=np.float64)
    out_channels, height, width = dy.shape[1:]
    padded, dy = _split(_pad(x, padding), 1, groups), _split(dy, 1, groups)
    dweight = np.zeros((groups, out_channels // groups, x.shape[1] // groups, *kernel))
    for i, j in np.ndindex(*kernel):
        under_tap = padded[..., _reach(i, height, stride[0], dilation[0]), _reach(j, width, stride[1], dilation[1])]
        dweight[..., i, j] = np.einsum("ngchw,ngohw->goc", under_tap, dy)
    return dweight.reshape(out_channels, -1, *kernel)


def conv2d_bias_grad(dy: Any) -> Array:
    """Gradient with respect to the bias, which reaches every pixel."""
    return np.sum(np.asarray(dy, dtype=np.float64), axis=(0, 2, 3))


def _pad(x: Array, padding: Edges) -> Array:
    top, bottom, left, right = padding
    return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))


def _reach(tap: int, outputs: int, stride: int, dilation: int) -> slice:
    """The padded rows (or columns) that kernel row ``tap`` reads, one for each output."""
    first = tap * dilation
    return slice(first, first + (outputs - 1) * stride + 1, stride)


def _split(x: Array, axis: int, groups: int) -> Array:
    """A view with the channels on ``axis`` split into ``(group, channel of the group)``."""
    return x.reshape(*x.shape[:axis], groups, x.shape[axis] // groups, *x.shape[axis + 1 :])
