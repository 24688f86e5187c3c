"""Activation kernels against the oracle: exact but for the sums of PReLU's slopes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import oracles_elementwise as oracles
import pytest
from kernel_cases import (
    THREADS,
    Array,
    Guarded,
    assert_close,
    assert_same_bytes,
    random_array,
    read_only,
    sum_budget,
)

from cnet.kernels import _dispatch, activation

# Elements of a work item in activation.pyx; sizes beyond a few of them run on several threads.
CHUNK = 4096
SPECIAL = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 1e-45, -1e-45, 3e38, -3e38], dtype=np.float32)


def flat_sizes() -> list[int]:
    lanes = _dispatch.tile()[0]
    return [1, lanes - 1, lanes, lanes + 1, 2 * lanes + 3, CHUNK - 1, CHUNK, CHUNK + 1, 9 * CHUNK + 7]


def with_special_values(generator: np.random.Generator, shape: Any) -> Array:
    """Normal values, one in ten of them a special one, so that those meet whole vectors and tails."""
    x = random_array(generator, shape)
    chosen = generator.random(shape) < 0.1
    x[chosen] = generator.choice(SPECIAL, int(chosen.sum()))
    return x


def check_exact(kernel: Callable[[Array, int], None], shape: Any, expected: Any, misaligned: bool) -> None:
    """Hold ``kernel(output, threads)`` to the expected values, rounded once, on each number of threads.

    A product of two float32 is exact in float64, so its rounding is what one float32 multiplication must give.
    """
    with np.errstate(over="ignore"):
        expected = expected.astype(np.float32)
    for threads in THREADS:
        output = Guarded(shape, misaligned=misaligned)
        kernel(output.array, threads)
        output.check()
        np.testing.assert_array_equal(output.array, expected)


@pytest.mark.parametrize("misaligned", [False, True])
def test_relu_is_exact(isa: str, misaligned: bool) -> None:
    generator = np.random.default_rng(1)
    for size in flat_sizes():
        x = read_only(with_special_values(generator, size), misaligned)
        dy = read_only(with_special_values(generator, size), misaligned)
        check_exact(lambda y, t, x=x: activation.relu_forward(x, y, t), size, oracles.relu_forward(x), misaligned)
        expected = oracles.relu_backward(x, dy)
        for mask in (x, read_only(oracles.relu_forward(x))):
            check_exact(lambda dx, t, m=mask, g=dy: activation.relu_backward(m, g, dx, t), size, expected, misaligned)


@pytest.mark.parametrize("slope", [0.01, -0.5, 0.0, 2.0])
def test_leaky_relu_is_exact(isa: str, slope: float) -> None:
    generator = np.random.default_rng(2)
    a = np.float32(slope)
    for size in flat_sizes():
        x, dy = read_only(with_special_values(generator, size)), read_only(with_special_values(generator, size))
        with np.errstate(invalid="ignore"):
            y, dx = oracles.leaky_relu_forward(x, a), oracles.leaky_relu_backward(x, a, dy)
        check_exact(lambda out, t, x=x: activation.leaky_relu_forward(x, slope, out, t), size, y, False)
        check_exact(lambda out, t, x=x, g=dy: activation.leaky_relu_backward(x, slope, g, out, t), size, dx, True)


def prelu_shapes() -> list[tuple[int, int]]:
    """Channels around the vector and around the width from which rows stand alone; rows that cross chunks."""
    lanes = _dispatch.tile()[0]
    channels = sorted({1, 2, 3, 6, lanes - 1, lanes, lanes + 1, 2 * lanes + 3, 15, 16, 17, 31, 32, 33, 130})
    return [(rows, c) for c in channels for rows in (1, 2, lanes + 1, 70_000 // c)]


@pytest.mark.parametrize("shared", [False, True])
def test_prelu_matches_oracle(isa: str, shared: bool) -> None:
    generator = np.random.default_rng(3)
    for rows, channels in prelu_shapes():
        slopes = 1 if shared else channels
        shape = (rows, channels)
        x, dy = read_only(random_array(generator, shape), True), read_only(random_array(generator, shape))
        slope = read_only(random_array(generator, slopes))
        y, dx = oracles.leaky_relu_forward(x, slope), oracles.leaky_relu_backward(x, slope, dy)
        check_exact(lambda out, t, x=x, s=slope: activation.prelu_forward(x, s, out, t), shape, y, True)

        start = random_array(generator, slopes)
        expected = start + oracles.prelu_slope_grad(x, dy, slopes)
        magnitude = np.abs(start) + oracles.prelu_slope_grad(-np.abs(x), -np.abs(dy), slopes)
        size = activation.prelu_workspace(rows, channels, slopes)
        first: Array | None = None
        for threads in THREADS:
            for with_dx in (True, False):
                below, workspace = Guarded(shape, misaligned=True), Guarded(size)
                dslope = Guarded(slopes, start)
                into = below.array if with_dx else None
                activation.prelu_backward(x, slope, dy, into, dslope.array, workspace.array, threads)
                for guarded in (below, workspace, dslope):
                    guarded.check()
                if with_dx:
                    np.testing.assert_array_equal(below.array, dx.astype(np.float32))
                if first is None:
                    first = dslope.array
                    assert_close(first, expected, magnitude, sum_budget(x.size // slopes + 1), "dslope")
                assert_same_bytes(dslope.array, first, f"dslope on {threads} threads")


def test_prelu_passes_special_values(isa: str) -> None:
    generator = np.random.default_rng(4)
    for channels in (1, 3, 16, 33):
        x, dy = (read_only(with_special_values(generator, (700, channels))) for _ in range(2))
        slope = read_only(random_array(generator, channels))
        with np.errstate(invalid="ignore"):
            y, dx = oracles.leaky_relu_forward(x, slope), oracles.leaky_relu_backward(x, slope, dy)
        check_exact(lambda out, t, x=x, s=slope: activation.prelu_forward(x, s, out, t), x.shape, y, False)
        workspace = np.empty(activation.prelu_workspace(*x.shape, channels), np.float32)

        def backward(out: Array, t: int, x=x, s=slope, g=dy, w=workspace, c=channels) -> None:
            activation.prelu_backward(x, s, g, out, np.zeros(c, np.float32), w, t)

        check_exact(backward, x.shape, dx, False)


def test_prelu_nan_reaches_only_its_own_slope(isa: str) -> None:
    for channels in (3, 16, 40):
        x, dy = np.full((100, channels), -1, np.float32), np.ones((100, channels), np.float32)
        x[77, 2] = np.nan
        dslope = np.zeros(channels, np.float32)
        workspace = np.empty(activation.prelu_workspace(100, channels, channels), np.float32)
        activation.prelu_backward(x, np.ones(channels, np.float32), dy, None, dslope, workspace, 1)
        assert np.isnan(dslope[2]) and (np.delete(dslope, 2) == -100).all()


def test_activations_of_nothing_do_nothing(isa: str) -> None:
    none, slope = np.empty(0, np.float32), np.ones(3, np.float32)
    activation.relu_forward(none, none, 2)
    activation.relu_backward(none, none, none, 2)
    activation.leaky_relu_forward(none, 0.1, none, 2)
    activation.leaky_relu_backward(none, 0.1, none, none, 2)
    rows = np.empty((0, 3), np.float32)
    activation.prelu_forward(rows, slope, rows, 2)
    assert activation.prelu_workspace(0, 3, 3) == 0
    dslope = np.full(3, 7, np.float32)
    activation.prelu_backward(rows, slope, rows, rows, dslope, none, 2)
    assert (dslope == 7).all()
