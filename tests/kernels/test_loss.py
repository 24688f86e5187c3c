"""Softmax and cross-entropy against the oracle.

The budget of a softmax: the argument ``x - max`` is rounded, which moves its exponential by ``|x - max| / 2`` units;
the exponential errs by 1.5, and sum, inverse and product by half a unit an operation.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import oracles_elementwise as oracles
import pytest
from kernel_cases import THREADS, Array, Guarded, assert_close, assert_same_bytes, random_array, read_only, sum_budget
from numpy.typing import NDArray

from cnet.kernels import _dispatch, loss

TINY = float(np.finfo(np.float32).tiny)
# Rows of a work item are 32: sizes within one, at its edge, and enough for three threads.
ROWS = (1, 2, 31, 32, 33, 100)


def class_counts() -> list[int]:
    lanes = _dispatch.tile()[0]
    # Up to 64 classes lanes are rows, beyond they are classes.
    return sorted({1, 2, 3, 10, lanes - 1, lanes, lanes + 1, 2 * lanes + 3, 63, 64, 65, 130})


def shapes() -> list[tuple[int, int]]:
    return [(rows, classes) for classes in class_counts() for rows in ROWS] + [(3, 4099), (70, 1000)]


def budget(classes: int) -> float:
    return sum_budget(classes) + 4


@lru_cache(maxsize=256)
def scores(shape: tuple[int, int], kind: str) -> Array:
    generator = np.random.default_rng([*shape, 5])
    x = 3 * random_array(generator, shape)
    if kind == "large":
        x *= 1e4
    if kind == "masked":
        x[generator.random(shape) < 0.3] = -np.inf
        x[:, 0] = 1
    return read_only(x, misaligned=True)


def targets(shape: tuple[int, int], x: Array) -> tuple[NDArray[np.int64], Array]:
    """Labels of finite scores, and soft targets that are zero in places and where the score is -inf."""
    generator = np.random.default_rng([*shape, 6])
    allowed = np.where(np.isfinite(x), generator.random(shape), 0)
    soft = np.where(np.isfinite(x) & (generator.random(shape) < 0.7), 2 * generator.random(shape), 0)
    labels = allowed.argmax(axis=1)
    labels.flags.writeable = False
    return labels, read_only(soft)


def spread(x: Array) -> np.ndarray:
    """How far rounding ``x - max`` may move a softmax, in units: its own argument's and the sum's."""
    distance = np.where(np.isfinite(x), x.max(axis=1, keepdims=True) - x.astype(np.float64), 0)
    return 1 + distance + (oracles.softmax(x) * distance).sum(axis=1, keepdims=True)


def doubles(count: int) -> tuple[Guarded, NDArray[np.float64]]:
    guarded = Guarded(2 * count)
    return guarded, guarded.array.view(np.float64)


@pytest.mark.parametrize("kind", ["usual", "large", "masked"])
def test_softmax_matches_oracle(isa: str, kind: str) -> None:
    for shape in shapes():
        x = scores(shape, kind)
        dy = read_only(random_array(np.random.default_rng(7), shape))
        first: list[Array] = []
        for threads in THREADS:
            y, dx = Guarded(shape), Guarded(shape, misaligned=True)
            loss.softmax_forward(x, y.array, threads)
            kept = read_only(y.array)
            loss.softmax_backward(kept, dy, dx.array, threads)
            y.check()
            dx.check()
            if not first:
                first = [y.array, dx.array]
                expected = oracles.softmax(x)
                # Probabilities that underflow are right to the spacing of denormals.
                magnitude = expected * spread(x) + TINY
                assert_close(y.array, expected, magnitude, budget(shape[1]), "y")
                product = np.abs(kept * dy).sum(axis=1, keepdims=True, dtype=np.float64)
                if shape[1] <= 200:
                    magnitude = kept * (np.abs(dy) + product) + TINY
                    assert_close(dx.array, oracles.softmax_backward(kept, dy), magnitude, budget(shape[1]), "dx")
            assert_same_bytes(y.array, first[0], f"y on {threads} threads")
            assert_same_bytes(dx.array, first[1], f"dx on {threads} threads")


@pytest.mark.parametrize("kind", ["usual", "large", "masked"])
@pytest.mark.parametrize("soft", [False, True])
def test_softmax_cross_entropy_matches_oracle(isa: str, kind: str, soft: bool) -> None:
    for shape in shapes():
        x = scores(shape, kind)
        labels, weights = targets(shape, x)
        target = weights if soft else oracles.one_hot(labels, shape[1])
        scale = 1 / shape[0]
        first: list[Array] = []
        for threads in THREADS:
            dx, (guard, losses) = Guarded(shape, misaligned=True), doubles(shape[0])
            arguments = (None, weights) if soft else (labels, None)
            value = loss.cross_entropy(x, *arguments, True, scale, dx.array, losses, threads)
            dx.check()
            guard.check()
            # Summed in the order of the rows, in float64: not one bit may differ.
            total = 0.0
            for each in losses.tolist():
                total += each
            assert value == total * scale
            if not first:
                first = [dx.array, guard.array]
                rows, gradient = oracles.softmax_cross_entropy(x, target)
                weight = target.sum(axis=1, keepdims=True)
                moved = (oracles.softmax(x) * spread(x)).sum(axis=1, keepdims=True)
                assert_close(losses, rows, (weight * moved).ravel() + TINY, budget(shape[1]), "losses")
                magnitude = scale * (oracles.softmax(x) * weight * spread(x) + target) + TINY
                assert_close(dx.array, scale * gradient, magnitude, budget(shape[1]), "dx")
            assert_same_bytes(dx.array, first[0], f"dx on {threads} threads")
            assert_same_bytes(guard.array, first[1], f"losses on {threads} threads")


@pytest.mark.parametrize("soft", [False, True])
def test_cross_entropy_of_probabilities_matches_oracle(isa: str, soft: bool) -> None:
    for shape in shapes():
        p = oracles.softmax(scores(shape, "usual")).astype(np.float32)
        # What softmax rounds to zero, and denormals: the bound holds the loss and the gradient finite.
        p[:, 0] = np.resize(np.array([0, 1e-45, 1e-39, TINY], np.float32), shape[0])
        p = read_only(p, misaligned=True)
        labels, weights = targets(shape, p)
        target = weights if soft else oracles.one_hot(labels, shape[1])
        scale = 0.37
        first: list[Array] = []
        for threads in THREADS:
            dp, (guard, losses) = Guarded(shape), doubles(shape[0])
            arguments = (None, weights) if soft else (labels, None)
            value = loss.cross_entropy(p, *arguments, False, scale, dp.array, losses, threads)
            dp.check()
            guard.check()
            if not first:
                first = [dp.array, guard.array]
                rows, gradient = oracles.cross_entropy(p, target)
                np.testing.assert_allclose(losses, rows, rtol=1e-12, atol=1e-300)
                assert value == pytest.approx(scale * rows.sum(), rel=1e-12)
                assert_close(dp.array, scale * gradient, np.abs(scale * gradient), 2, "dp")
            assert_same_bytes(dp.array, first[0], f"dp on {threads} threads")
            assert_same_bytes(guard.array, first[1], f"losses on {threads} threads")


def test_softmax_cross_entropy_of_hopeless_rows(isa: str) -> None:
    """Certainty costs nothing, a label of score -inf costs infinity, and a row without a finite score is no number."""
    low = -np.inf
    x = np.array([[1e4, 0, low], [1e4, low, 0], [low, low, low], [0, np.nan, 0]], np.float32)
    labels = np.array([0, 1, 0, 0])
    dx, losses = np.empty_like(x), np.empty(4)
    loss.cross_entropy(x, labels, None, True, 1.0, dx, losses, 1)
    assert losses[:2].tolist() == [0, np.inf] and np.isnan(losses[2:]).all()
    assert dx[:2].tolist() == [[0, 0, 0], [1, -1, 0]] and np.isnan(dx[2:]).all()


def test_softmax_keeps_rows_apart(isa: str) -> None:
    """A NaN in a row reaches that row only."""
    for classes in class_counts():
        x = np.zeros((5, classes), np.float32)
        x[2, classes // 2] = np.nan
        y = np.empty_like(x)
        loss.softmax_forward(x, y, 1)
        assert np.isnan(y[2]).all() and np.isfinite(np.delete(y, 2, axis=0)).all()


@pytest.mark.parametrize("bad", [-1, 7, -(2**63), 2**63 - 1])
def test_cross_entropy_touches_nothing_where_a_label_is_out_of_range(isa: str, bad: int) -> None:
    x, labels = random_array(np.random.default_rng(1), (40, 7)), np.arange(40) % 7
    for place in (0, 17, 39):
        wrong = labels.copy()
        wrong[place] = bad
        for from_logits in (True, False):
            dx, (guard, losses) = Guarded(x.shape), doubles(40)
            assert loss.cross_entropy(x, wrong, None, from_logits, 1.0, dx.array, losses, 2) is None
            assert np.isnan(dx.array).all() and np.isnan(guard.array).all()


def test_buffer_of_losses_may_be_longer_than_the_batch(isa: str) -> None:
    x, labels = random_array(np.random.default_rng(1), (5, 7)), np.arange(5)
    dx, losses = np.empty_like(x), np.full(9, 3.0)
    value = loss.cross_entropy(x, labels, None, True, 1.0, dx, losses, 1)
    assert value == sum(losses[:5].tolist()) and (losses[5:] == 3).all()


def test_count_hits_agrees_with_argmax(isa: str) -> None:
    """Also among equal scores, infinities and NaN, where argmax takes the first of the largest, NaN for the largest."""
    generator = np.random.default_rng(9)
    few = np.array([-np.inf, -1, 0, 1, np.inf, np.nan], np.float32)
    for classes in class_counts():
        for values in (few[1:4], few[:5], few, few[[0, 5]], few[:1]):
            x = read_only(generator.choice(values, (60, classes)), misaligned=True)
            winners = x.argmax(axis=1)
            for labels in (winners, generator.integers(0, classes, 60), np.zeros(60, int), np.full(60, classes - 1)):
                assert loss.count_hits(x, labels) == np.count_nonzero(winners == labels)
        x = read_only(random_array(generator, (60, classes)))
        labels = generator.integers(0, classes, 60)
        assert loss.count_hits(x, labels) == np.count_nonzero(x.argmax(axis=1) == labels)


def test_count_hits_counts_no_label_out_of_range(isa: str) -> None:
    x = np.zeros((4, 3), np.float32)
    assert loss.count_hits(x, np.array([0, -1, 3, 2**63 - 1])) == 1
    assert loss.count_hits(np.empty((0, 3), np.float32), np.empty(0, np.int64)) == 0
    assert loss.count_hits(np.empty((2, 0), np.float32), np.zeros(2, np.int64)) == 0


def test_loss_of_nothing_does_nothing(isa: str) -> None:
    x, losses = np.empty((0, 3), np.float32), np.empty(0)
    loss.softmax_forward(x, x, 2)
    loss.softmax_backward(x, x, x, 2)
    assert loss.cross_entropy(x, np.empty(0, np.int64), None, True, 1.0, x, losses, 2) == 0
    assert loss.cross_entropy(x, None, x, False, 1.0, x, losses, 2) == 0
