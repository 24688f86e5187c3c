"""Batch normalisation kernels: statistics, output and gradients against float64."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import oracles_elementwise as oracles
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kernel_cases import (
    EPS,
    THREADS,
    Array,
    Fence,
    Guarded,
    assert_close,
    assert_same_bytes,
    call_in_child,
    each_thread_count,
    generated,
    needs_fence,
    ragged_sizes,
    random_array,
    read_only,
    sizes,
    sum_budget,
)

from cnet.kernels import _dispatch, normalization

# Of few channels as many rows as make 64 floats are folded into one, but no more than leave 32. Folded rows of a chunk
# are at least 8 and else as many as make 6,144 floats; chunks are combined in float64.
CHUNK, FOLDED, LEAST_ROWS = 6144, 64, 32


def chunk_rows(channels: int) -> int:
    """Rows of a chunk where there are many."""
    folds = max(1, FOLDED // channels)
    return max(8, CHUNK // (folds * channels)) * folds


def shapes() -> list[tuple[int, int]]:
    """Every kind of end of a vector; rows around one and two chunks, around the pairs of a chunk and around folds."""
    some = {1, 2, 3, 7, 8, 9, 40}
    found = [(rows, channels) for channels in ragged_sizes() for rows in sorted(some)]
    for channels in (1, 3, _dispatch.tile()[0] + 1, 70, 1000):
        size = chunk_rows(channels)
        found += [(rows, channels) for rows in (size - 1, size, size + 1, 2 * size, 3 * size + 5)]
    for channels in (1, 5, 21, 32, 33):
        least = LEAST_ROWS * (FOLDED // channels)
        found += [(rows, channels) for rows in (63, 64, 65, least - 1, least, least + 1)]
    return found


def run_moments(x: Array, threads: int) -> tuple[Array, Array]:
    channels = x.shape[1]
    mean, variance, work = Guarded(channels), Guarded(channels), Guarded(normalization.workspace(*x.shape))
    normalization.moments(x, mean.array, variance.array, work.array, threads)
    for guarded in (mean, variance, work):
        guarded.check()
    return mean.array, variance.array


def check_moments(x: Array) -> None:
    """Mean and variance, for each thread count, whatever the mean is.

    The mean errs by its own rounding and by that of the differences from it. So does the variance, relative to itself,
    and by the square of what the mean errs by; never by the square of the mean.
    """
    x = read_only(x)
    first: tuple[Array, ...] = ()
    for threads in THREADS:
        results = run_moments(x, threads)
        for name, result, one_thread in zip(("mean", "variance"), results, first or results, strict=True):
            assert_same_bytes(result, one_thread, f"{name} on {threads} threads")
        first = results
    exact = x.astype(np.float64)
    mean, deviation = exact.mean(axis=0), np.abs(exact - exact.mean(axis=0)).mean(axis=0)
    terms = min(len(x), chunk_rows(x.shape[1]))
    assert_close(first[0], mean, 2 * np.abs(mean) + sum_budget(terms) * deviation, 1, "mean")
    largest = np.abs(exact).max(axis=0)
    slip = 4 * EPS * largest
    assert_close(first[1], exact.var(axis=0), exact.var(axis=0) + slip**2 / EPS, 2 * sum_budget(terms) + 2, "variance")
    assert (first[1] >= 0).all()


def test_moments_match_float64(isa: str) -> None:
    generator = np.random.default_rng(0)
    for shape in shapes():
        check_moments(random_array(generator, shape))


@pytest.mark.parametrize("mean", [1e3, -3e4, 1e6])
def test_moments_of_a_large_mean_do_not_cancel(isa: str, mean: float) -> None:
    generator = np.random.default_rng(1)
    for rows, channels in ((50, 3), (9000, 1), (2000, 17), (300, 70)):
        check_moments(random_array(generator, (rows, channels)) + np.float32(mean))


@pytest.mark.parametrize("value", [0.0, 0.1, -100.1, 1000.1, 12345.678, 1e15, 1e-15])
def test_moments_of_a_constant_are_itself_and_nothing(isa: str, value: float) -> None:
    """A channel that does not vary has no variance: else the noise of its mean would be blown up to a signal."""
    for channels in (1, 2, 16, 33):
        for rows in (1, 2, 7, 784, 50_000 // channels):
            mean, variance = run_moments(read_only(np.full((rows, channels), value)), 1)
            np.testing.assert_allclose(mean, np.float32(value), rtol=EPS)
            assert (variance >= 0).all()
            assert (np.sqrt(variance.astype(np.float64)) <= 2 * EPS * abs(value)).all()


def test_moments_of_chunks_that_differ(isa: str) -> None:
    """The mean of a chunk may lie far from that of the whole; the variance is mostly between the chunks then."""
    for channels in (1, 5, 70):
        size = chunk_rows(channels)
        x = random_array(np.random.default_rng(2), (3 * size + 1, channels))
        x[size : 2 * size] += 1000
        x[3 * size :] -= 50
        check_moments(x)


def test_moments_of_columns_are_their_own(isa: str) -> None:
    """One infinite or NaN element reaches its channel alone."""
    lanes = _dispatch.tile()[0]
    for channels in (2, lanes, lanes + 3):
        clean = random_array(np.random.default_rng(3), (50, channels))
        expected = run_moments(clean, 1)
        for value in (np.nan, np.inf, -np.inf):
            x = clean.copy()
            x[20, channels - 1] = value
            mean, variance = run_moments(x, 1)
            assert not np.isfinite(mean[-1]) and np.isnan(variance[-1])
            for got, wanted in zip((mean, variance), expected, strict=True):
                assert_same_bytes(got[:-1], wanted[:-1])


def test_moments_of_many_rows_on_several_threads(isa: str) -> None:
    check_moments(random_array(np.random.default_rng(4), (30_000, 7)))
    check_moments(random_array(np.random.default_rng(4), (700, 300)))


# ---- scale and shift, and what the statistics take back


@given(
    channels=st.integers(1, 40),
    eps=st.sampled_from([0.0, 1e-5, 0.25]),
    weighted=st.booleans(),
    shifted=st.booleans(),
)
@settings(generated, max_examples=40)
def test_affine_matches_float64(channels: int, eps: float, weighted: bool, shifted: bool) -> None:
    generator = np.random.default_rng(channels)
    variance = read_only(generator.uniform(1e-6, 3, channels))
    weight, bias = (read_only(random_array(generator, channels)) for _ in range(2))
    scale, shift = Guarded(channels), Guarded(channels)
    normalization.affine(
        variance, eps, weight if weighted else None, bias if shifted else None, scale.array, shift.array
    )
    gain = (weight if weighted else 1) / np.sqrt(variance.astype(np.float64) + eps)
    assert_close(scale.array, gain, np.abs(gain), 0.51)
    assert_same_bytes(shift.array, bias if shifted else np.zeros(channels, np.float32))
    for guarded in (scale, shift):
        guarded.check()


@given(
    channels=st.integers(1, 40),
    rows=st.integers(1, 100_000),
    eps=st.sampled_from([1e-5, 0.25]),
    weighted=st.booleans(),
    learned=st.booleans(),
)
@settings(generated, max_examples=40)
def test_correction_matches_float64(channels: int, rows: int, eps: float, weighted: bool, learned: bool) -> None:
    generator = np.random.default_rng(channels)
    sums = generator.standard_normal((3, channels)) * rows
    sums.flags.writeable = False
    variance, weight = read_only(generator.uniform(1e-3, 3, channels)), read_only(random_array(generator, channels))
    before = random_array(generator, (2, channels))
    factor, offset, dweight, dbias = (
        Guarded(channels),
        Guarded(channels),
        Guarded(channels, before[0]),
        Guarded(channels, before[1]),
    )
    normalization.correction(
        sums, rows, variance, eps, weight if weighted else None, factor.array, offset.array,
        dweight.array if learned else None, dbias.array if learned else None,
    )  # fmt: skip
    inverse = 1 / np.sqrt(variance.astype(np.float64) + eps)
    gain = inverse * (weight if weighted else 1)
    for result, expected in ((factor, gain * inverse**2 * sums[1] / rows), (offset, gain * sums[0] / rows)):
        assert_close(result.array, expected, np.abs(expected), 0.51)
    if learned:
        for result, start, grown in ((dweight, before[0], sums[1] * inverse), (dbias, before[1], sums[0])):
            assert_close(result.array, start + grown, np.abs(start) + np.abs(grown), 1.01)
    else:
        assert_same_bytes(dweight.array, before[0])
        assert_same_bytes(dbias.array, before[1])
    for guarded in (factor, offset, dweight, dbias):
        guarded.check()


# ---- over the rows


def problem(rows: int, channels: int) -> tuple[Array, ...]:
    generator = np.random.default_rng([rows, channels])
    large = [read_only(random_array(generator, (rows, channels)), misaligned=number == 1) for number in range(2)]
    return *large, *(read_only(random_array(generator, channels)) for _ in range(5))


def check_rows(rows: int, channels: int) -> None:
    """The three passes that read the statistics, for each thread count."""
    x, dy, mean, scale, shift, factor, offset = problem(rows, channels)
    exact, above = x.astype(np.float64), dy.astype(np.float64)
    distance = exact - mean
    magnitude = np.abs(exact) + np.abs(mean)
    first: tuple[Any, ...] = ()
    for threads in THREADS:
        y, dx, work = Guarded(x.shape), Guarded(x.shape), Guarded(normalization.workspace(rows, channels))
        sums = np.full((3, channels), np.nan)
        normalization.forward(x, mean, scale, shift, y.array, threads)
        normalization.sums(x, dy, mean, sums, work.array, threads)
        normalization.backward(x, dy, mean, scale, factor, offset, dx.array, threads)
        for guarded in (y, dx, work):
            guarded.check()
        results = y.array, dx.array, sums[:2].astype(np.float32)
        for one_thread, result in zip(first, results, strict=False):
            assert_same_bytes(result, one_thread, f"on {threads} threads")
        if first:
            continue
        first = results
        assert np.isnan(sums[2]).all()
        expected = oracles.normalise(x, mean, scale, shift)
        assert_close(y.array, expected, magnitude * np.abs(scale) + np.abs(shift), 1.51, "y")
        terms = min(rows, chunk_rows(channels))
        assert_close(sums[0], above.sum(axis=0), np.abs(above).sum(axis=0), sum_budget(terms), "sum")
        products = np.abs(above) * magnitude
        assert_close(sums[1], (above * distance).sum(axis=0), products.sum(axis=0), sum_budget(terms) + 1, "products")
        back = np.abs(above * scale) + magnitude * np.abs(factor) + np.abs(offset)
        assert_close(dx.array, above * scale - (distance * factor + offset), back, 2.01, "dx")


def test_passes_over_rows_match_float64(isa: str) -> None:
    for rows, channels in shapes():
        check_rows(rows, channels)


@given(rows=st.integers(1, 300), channels=sizes(70))
@example(rows=1, channels=1)
@settings(generated, max_examples=40)
def test_passes_over_rows_match_float64_on_generated_sizes(isa: str, rows: int, channels: int) -> None:
    check_rows(rows, channels)
    check_moments(problem(rows, channels)[0])


def test_passes_over_many_rows_on_several_threads(isa: str) -> None:
    check_rows(30_000, 7)
    check_rows(700, 300)


@each_thread_count
def test_forward_may_write_over_its_input(isa: str, threads: int) -> None:
    x, _, mean, scale, shift, *_ = problem(3000, 19)
    y = Guarded(x.shape, x)
    normalization.forward(y.array, mean, scale, shift, y.array, threads)
    y.check()
    apart = np.empty_like(y.array)
    normalization.forward(x, mean, scale, shift, apart, threads)
    assert_same_bytes(y.array, apart)


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize(("rows", "channels"), [(2, 5), (60, 17), (9000, 2), (500, 70)])
def test_kernels_together_are_batch_normalisation(isa: str, rows: int, channels: int, affine: bool) -> None:
    """Output and all gradients, against the formula of the derivative with the statistics in it."""
    generator = np.random.default_rng(5)
    x = read_only(random_array(generator, (rows, channels)) * 2 + 3)
    dy = read_only(random_array(generator, (rows, channels)))
    weight, bias = (read_only(random_array(generator, channels)) if affine else None for _ in range(2))
    eps, floats = 1e-3, lambda *shape: np.full(shape, np.nan, np.float32)
    mean, variance = run_moments(x, 2)
    scale, shift, factor, offset = (floats(channels) for _ in range(4))
    dweight, dbias = np.zeros((2, channels), np.float32)
    normalization.affine(variance, eps, weight, bias, scale, shift)
    y, dx, sums = floats(*x.shape), floats(*x.shape), np.full((2, channels), np.nan)
    normalization.forward(x, mean, scale, shift, y, 2)
    normalization.sums(x, dy, mean, sums, floats(normalization.workspace(rows, channels)), 2)
    normalization.correction(sums, rows, variance, eps, weight, factor, offset, dweight, dbias)
    normalization.backward(x, dy, mean, scale, factor, offset, dx, 2)
    exact, gain = x.astype(np.float64), weight if affine else np.float64(1)
    h = (exact - exact.mean(axis=0)) / np.sqrt(exact.var(axis=0) + eps)
    expected = oracles.batch_norm_backward(x, dy, eps, gain)
    np.testing.assert_allclose(y, h * gain + (bias if affine else 0), atol=2e-5)
    # With few rows the difference of the three terms is small, and the inverse of the deviation large.
    slack = 2e-5 * (1 + np.abs(scale).max())
    np.testing.assert_allclose(dx, expected[0], atol=slack)
    for got, wanted in ((dweight, expected[1]), (dbias, expected[2])):
        np.testing.assert_allclose(got, wanted, atol=2e-6 * rows + 2e-5)
    np.testing.assert_allclose(dx.mean(axis=0, dtype=np.float64), 0, atol=slack)


def test_what_does_not_fit_is_refused() -> None:
    x, row, short = np.zeros((9, 4), np.float32), np.zeros(4, np.float32), np.zeros(3, np.float32)
    work, sums = np.zeros(normalization.workspace(9, 4), np.float32), np.zeros((2, 4))
    wrong: list[tuple[Any, tuple[Any, ...]]] = [
        (normalization.moments, (x, short, row, work, 1)),
        (normalization.moments, (x, row, short, work, 1)),
        (normalization.moments, (x, row, row, work[:-1], 1)),
        (normalization.moments, (x[:0], row, row, work, 1)),
        (normalization.forward, (x, row, row, row, x[:-1].copy(), 1)),
        (normalization.forward, (x, short, row, row, x.copy(), 1)),
        (normalization.forward, (x, row, row, short, x.copy(), 1)),
        (normalization.sums, (x, x[:-1], row, sums, work, 1)),
        (normalization.sums, (x, x, row, sums[:1], work, 1)),
        (normalization.sums, (x, x, row, sums, work[:-1], 1)),
        (normalization.backward, (x, x, row, row, row, short, x.copy(), 1)),
        (normalization.backward, (x, x, row, row, row, row, x[:-1].copy(), 1)),
        (normalization.affine, (row, 0.1, short, None, row, row)),
        (normalization.affine, (row, 0.1, None, short, row, row)),
        (normalization.affine, (row, 0.1, None, None, short, row)),
        (normalization.correction, (sums, 9, row, 0.1, None, row, short, None, None)),
        (normalization.correction, (sums, 0, row, 0.1, None, row, row, None, None)),
        (normalization.correction, (sums, 9, row, 0.1, None, row, row, short, None)),
    ]
    for function, arguments in wrong:
        with pytest.raises(AssertionError):
            function(*arguments)
    normalization.forward(x[:0], row, row, row, x[:0].copy(), 2)


def check_fences() -> None:
    """Every instruction set on arrays against pages that cannot be touched, at their beginning and at their end."""
    for isa in _dispatch.isas():
        _dispatch.set_isa(isa)
        for channels in range(1, 2 * _dispatch.tile()[0] + 2):
            for rows in (1, 2, 5):
                for before in (False, True):
                    print(isa, rows, channels, before, file=sys.stderr)
                    fence = Fence(before)

                    def floats(*shape: int, fence: Fence = fence) -> Array:
                        return fence.array(np.full(shape, np.nan), writeable=True)

                    x, dy, mean, scale, shift, factor, offset = (fence.array(a) for a in problem(rows, channels))
                    middle, variance, y, dx = floats(channels), floats(channels), floats(*x.shape), floats(*x.shape)
                    work, sums = floats(normalization.workspace(rows, channels)), np.zeros((2, channels))
                    normalization.moments(x, middle, variance, work, 1)
                    normalization.forward(x, mean, scale, shift, y, 1)
                    normalization.sums(x, dy, mean, sums, work, 1)
                    normalization.backward(x, dy, mean, scale, factor, offset, dx, 1)
                    assert all(np.isfinite(array).all() for array in (middle, variance, y, sums, dx))


@needs_fence
def test_normalization_touches_nothing_outside_its_arrays() -> None:
    call_in_child(__file__, "check_fences")
