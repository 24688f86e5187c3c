"""The fused SGD step against PyTorch's rule written out in float64, in every combination of its options.

A step is at most six roundings of terms no larger than those whose absolute values make up the magnitude.
"""

from __future__ import annotations

from itertools import product

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
)

from cnet.kernels import _dispatch, optimizer

# Elements of a work item in optimizer.pyx; sizes beyond a few of them run on several threads.
CHUNK = 4096
BUDGET = 4
LR = 0.05


def flat_sizes() -> list[int]:
    lanes = _dispatch.tile()[0]
    return [1, lanes - 1, lanes, lanes + 1, 2 * lanes + 3, CHUNK - 1, CHUNK, CHUNK + 1, 9 * CHUNK + 7]


def check_step(size: int, options: tuple[float, float, bool, float, bool, bool], with_buffer: bool) -> None:
    momentum, dampening, nesterov, weight_decay, maximize, first = options
    generator = np.random.default_rng(size)
    weight, gradient, buffer = (random_array(generator, size) for _ in range(3))
    start = buffer if with_buffer else None
    rest = (LR, momentum, dampening, nesterov, weight_decay, maximize, first)
    expected, next_buffer = oracles.sgd_step(weight, gradient, start, *rest)
    upper, upper_buffer = oracles.sgd_step(
        -np.abs(weight), np.abs(gradient), None if start is None else np.abs(buffer), LR, momentum, dampening, nesterov,
        -weight_decay, False, first,
    )  # fmt: skip
    one_thread: list[Array] = []
    for threads in THREADS:
        w, b = Guarded(size, weight, misaligned=True), Guarded(size, buffer)
        grad = read_only(gradient)
        optimizer.sgd_step(w.array, grad, b.array if with_buffer else None, *rest, threads)
        w.check()
        b.check()
        if not one_thread:
            one_thread = [w.array, b.array]
            assert_close(w.array, expected, np.abs(upper), BUDGET, "weight")
            if with_buffer:
                assert_close(b.array, next_buffer, upper_buffer, BUDGET, "buffer")
            else:
                assert_same_bytes(b.array, buffer, "a buffer that was not passed")
        assert_same_bytes(w.array, one_thread[0], f"weight on {threads} threads")
        assert_same_bytes(b.array, one_thread[1], f"buffer on {threads} threads")


def test_sgd_matches_oracle_at_every_size(isa: str) -> None:
    for size in flat_sizes():
        check_step(size, (0.9, 0.0, True, 5e-4, False, False), with_buffer=True)
        check_step(size, (0.9, 0.1, False, 5e-4, False, True), with_buffer=True)
        check_step(size, (0.0, 0.0, False, 5e-4, True, False), with_buffer=False)


@pytest.mark.parametrize("with_buffer", [False, True])
def test_sgd_matches_oracle_in_every_combination_of_options(isa: str, with_buffer: bool) -> None:
    truth = (False, True)
    momenta = ((0.9, 0.0), (0.5, 0.3)) if with_buffer else ((0.0, 0.0),)
    for (momentum, dampening), nesterov, decay, maximize, first in product(momenta, truth, (0.0, 0.1), truth, truth):
        if nesterov and not with_buffer:
            continue
        check_step(37, (momentum, dampening, nesterov, decay, maximize, first), with_buffer)


def test_sgd_by_hand(isa: str) -> None:
    """w = 1, g = 1, lr 0.5, momentum 0.5: the buffer is 1, then 1.5, then 1.75; powers of two, so exact."""
    for nesterov, expected in ((False, [0.5, -0.25, -1.125]), (True, [0.25, -0.625, -1.5625])):
        weight, gradient, buffer = np.ones(5, np.float32), np.ones(5, np.float32), np.zeros(5, np.float32)
        for step, value in enumerate(expected):
            optimizer.sgd_step(weight, gradient, buffer, 0.5, 0.5, 0.0, nesterov, 0.0, False, step == 0, 1)
            assert weight.tolist() == [value] * 5
            assert buffer.tolist() == [[1, 1.5, 1.75][step]] * 5


@pytest.mark.parametrize("junk", [np.nan, np.inf, 1e30])
def test_sgd_first_step_does_not_read_the_buffer(isa: str, junk: float) -> None:
    for size in (1, 5, 33):
        weight, buffer = np.ones(size, np.float32), np.full(size, junk, np.float32)
        optimizer.sgd_step(weight, np.ones(size, np.float32), buffer, 0.5, 0.5, 0.0, False, 0.0, False, True, 1)
        assert (weight == 0.5).all() and (buffer == 1).all()


def test_sgd_on_nothing_does_nothing(isa: str) -> None:
    none = np.empty(0, np.float32)
    optimizer.sgd_step(none, none, none, 0.1, 0.9, 0.0, True, 0.1, False, False, 2)
