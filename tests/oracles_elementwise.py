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


def maxpool2d_forward(
    x: Any, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, out: Pair
) -> tuple[Array, Any]:
    """Maximum of each window and the number of the tap that won; -inf and -1 where a window meets no cell.

    In row-major order a tap takes over if it is the first, or greater, or NaN; cells outside the image take no part.
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


def normalise(x: Any, mean: Any, scale: Any, shift: Any) -> Array:
    """``(x - mean) * scale + shift``, with one of each for a column."""
    x, mean, scale, shift = (np.asarray(array, dtype=np.float64) for array in (x, mean, scale, shift))
    return (x - mean) * scale + shift


def batch_norm_backward(x: Any, dy: Any, eps: float, weight: Any = 1.0) -> tuple[Array, Array, Array]:
    """``dx, dweight, dbias`` of ``(x - mean) / sqrt(variance + eps) * weight + bias`` by the statistics of the rows."""
    x, dy, weight = (np.asarray(array, dtype=np.float64) for array in (x, dy, weight))
    inverse = 1 / np.sqrt(x.var(axis=0) + eps)
    h = (x - x.mean(axis=0)) * inverse
    dx = weight * inverse * (dy - dy.mean(axis=0) - h * (dy * h).mean(axis=0))
    return dx, (dy * h).sum(axis=0), dy.sum(axis=0)


def epilogue_forward(
    x: Any, activation: str, pool: Pair, slope: Any = None, normalisation: Any = None
) -> tuple[Array, Any, Any]:
    """Normalisation, activation and the maximum of windows side by side; the tap that won, and the ``x`` it had.

    ReLU and the identity never exchange two numbers, so there the largest input wins, though the outputs be equal.
    """
    values = np.asarray(x, dtype=np.float64) if normalisation is None else normalise(x, *normalisation)
    out = (values.shape[1] // pool[0], values.shape[2] // pool[1])
    outputs = {"identity": values, "relu": relu_forward(values)}.get(activation)
    outputs = leaky_relu_forward(values, slope) if outputs is None else outputs
    y, index = maxpool2d_forward(outputs, pool, pool, (0, 0), (1, 1), out)
    if activation != "slope":
        _, index = maxpool2d_forward(values, pool, pool, (0, 0), (1, 1), out)
    before = np.empty(index.shape, dtype=np.asarray(x).dtype)
    for row, column, tap, cell in _taps(values.shape, pool, pool, (0, 0), (1, 1), out):
        won = index[:, row, column] == tap
        before[:, row, column][won] = x[:, cell[0], cell[1]][won]
    return y, index, before


def through_activation(
    dy: Any, before: Any, activation: str, slope: Any = None, normalisation: Any = None
) -> tuple[Array, Array]:
    """The gradient behind the activation at each winner, and what the activation had for input there."""
    inputs = np.asarray(before, dtype=np.float64) if normalisation is None else normalise(before, *normalisation)
    if activation == "identity":
        return np.asarray(dy, dtype=np.float64), inputs
    if activation == "relu":
        return relu_backward(inputs, dy), inputs
    return leaky_relu_backward(inputs, slope, dy), inputs


def epilogue_backward(
    dy: Any,
    before: Any,
    index: Any,
    raw: Any,
    activation: str,
    pool: Pair,
    slope: Any = None,
    normalisation: Any = None,
    factor: Any = 0.0,
    offset: Any = 0.0,
) -> Array:
    """The gradient of ``x``, here ``raw``, less what the statistics of a normalisation take back."""
    g, _ = through_activation(dy, before, activation, slope, normalisation)
    if normalisation is not None:
        g = g * normalisation[1]
    dx = maxpool2d_backward(g, index, np.shape(raw), pool, pool, (0, 0), (1, 1))
    return dx if normalisation is None else dx - ((raw - np.float64(normalisation[0])) * factor + offset)


def softmax(x: Any) -> Array:
    """``e^x / sum(e^x)`` over each row."""
    x = np.asarray(x, dtype=np.float64)
    exponentials = np.exp(x - x.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def softmax_backward(y: Any, dy: Any) -> Array:
    """``J^T dy`` for each row, with the Jacobian ``diag(y) - y y^T`` written out."""
    y, dy = np.asarray(y, dtype=np.float64), np.asarray(dy, dtype=np.float64)
    return np.stack([(np.diag(row) - np.outer(row, row)) @ above for row, above in zip(y, dy, strict=True)])


def softmax_cross_entropy(x: Any, target: Any) -> tuple[Array, Array]:
    """``-sum(t log softmax(x))`` of each row and its gradient; a class without weight adds nothing."""
    x, target = np.asarray(x, dtype=np.float64), np.asarray(target, dtype=np.float64)
    largest = x.max(axis=1, keepdims=True)
    log_sum = largest + np.log(np.exp(x - largest).sum(axis=1, keepdims=True))
    terms = target * np.where(target == 0, 0.0, log_sum - x)
    return terms.sum(axis=1), softmax(x) * target.sum(axis=1, keepdims=True) - target


def cross_entropy(p: Any, target: Any) -> tuple[Array, Array]:
    """``-sum(t log q)`` of each row and its gradient ``-t / q``; q is p, or the least normal float32 if greater."""
    q = np.maximum(np.asarray(p, dtype=np.float64), np.finfo(np.float32).tiny)
    target = np.asarray(target, dtype=np.float64)
    return -(target * np.log(q)).sum(axis=1), -target / q


def one_hot(labels: Any, classes: int) -> Array:
    """A row for each label: 1 at the label, else 0."""
    return (np.asarray(labels)[:, None] == np.arange(classes)).astype(np.float64)


def sgd_step(
    weight: Any,
    gradient: Any,
    buffer: Any,
    lr: float,
    momentum: float,
    dampening: float,
    nesterov: bool,
    weight_decay: float,
    maximize: bool,
    first: bool,
) -> tuple[Array, Any]:
    """New weights and momentum buffer, line for line as PyTorch documents ``torch.optim.SGD``."""
    weight, g = np.asarray(weight, dtype=np.float64), np.asarray(gradient, dtype=np.float64)
    if maximize:
        g = -g
    g = g + weight_decay * weight
    if buffer is not None:
        buffer = g if first else momentum * np.asarray(buffer, dtype=np.float64) + (1 - dampening) * g
        g = g + momentum * buffer if nesterov else buffer
    return weight - lr * g, buffer


def philox(counter: Any, key: tuple[int, int]) -> NDArray[np.uint64]:
    """Philox4x32-10 as its authors state it, for counters of shape ``(..., 4)``; words in the same shape."""
    low = np.uint64(0xFFFFFFFF)
    c = [word.astype(np.uint64) for word in np.moveaxis(np.asarray(counter), -1, 0)]
    k = list(key)
    for _ in range(10):
        left, right = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        shift = np.uint64(32)
        c = [
            (right >> shift) ^ c[1] ^ np.uint64(k[0]),
            right & low,
            (left >> shift) ^ c[3] ^ np.uint64(k[1]),
            left & low,
        ]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return np.stack(c, axis=-1)


def dropout_kept(size: int, seed: int, call: int, probability: float) -> NDArray[np.bool_]:
    """Which elements are kept: those whose random word is at least ``floor(probability * 2^32)``.

    Element ``64 b + 16 w + l``, with l < 16 and w < 4, owns word w of the counter ``(16 b + l, call)``.
    """
    element = np.arange(size, dtype=np.uint64)
    sixteen, four = np.uint64(16), np.uint64(4)
    block, word, lane = element // np.uint64(64), element // sixteen % four, element % sixteen
    number, half = block * sixteen + lane, 0xFFFFFFFF
    counter = np.stack(
        [
            number & np.uint64(half),
            number >> np.uint64(32),
            *(np.full(size, v, np.uint64) for v in (call & half, call >> 32)),
        ],
        axis=-1,
    )
    words = philox(counter, (seed & half, seed >> 32))
    return words[np.arange(size), word.astype(int)] >= np.uint64(int(probability * 2**32))
