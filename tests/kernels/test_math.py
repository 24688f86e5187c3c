"""The vector exponential, as softmax shows it: a row (0, x) with x <= 0 gives e^x / (1 + e^x).

Softmax subtracts the row's maximum first, so arguments above 0 do not occur. The second element owes 1.5 units to e^x,
half a unit each to the sum, its inverse and the product, and the error of e^x in the sum.
"""

from __future__ import annotations

import numpy as np
import pytest
from kernel_cases import Array, Guarded

from cnet.kernels import _dispatch, loss

# The unit of the smallest results: below the least normal number floats are evenly spaced.
LEAST = float(np.finfo(np.float32).smallest_subnormal)


def second_of_softmax(x: Array, columns: int = 2) -> Array:
    """``e^x / (1 + e^x)`` by a softmax over rows of 0, x and as many -inf as fill the row, x being last."""
    rows = np.full((x.size, columns), -np.inf, np.float32)
    rows[:, 0], rows[:, -1] = 0, x
    y = Guarded(rows.shape)
    loss.softmax_forward(rows, y.array, 1)
    y.check()
    return y.array[:, -1]


def units_off(actual: Array, expected: np.ndarray) -> np.ndarray:
    """Distance in units in the last place of the expected result, which become coarser than that only below 2^-126."""
    exponent = np.frexp(expected)[1]
    return np.abs(actual.astype(np.float64) - expected) / np.maximum(np.ldexp(1.0, exponent - 24), LEAST)


def arguments() -> Array:
    """Every binade from the least denormal to 128, denser where the result changes, and the seams of the reduction."""
    generator = np.random.default_rng(0)
    bits = generator.integers(0x80000001, 0xC3000000, 100_000, dtype=np.uint32)
    seams = -np.arange(0, 151)[:, None] * np.log(2) / 2 + np.linspace(-1e-6, 0, 41)
    spread = -generator.uniform(0, 110, 200_000)
    return np.concatenate([bits.view(np.float32), seams.ravel().astype(np.float32), spread.astype(np.float32)])


def test_exp_is_within_two_units_where_it_stands_alone(isa: str) -> None:
    """Below -17.4 the sum is 1, and softmax gives the bare exponential: to the last denormal, then zero."""
    x = arguments()
    x = x[x < -17.5]
    units = units_off(second_of_softmax(x), np.exp(x.astype(np.float64)))
    assert units.max() < 1.5, (x[units.argmax()], units.max())


def test_exp_within_a_sum(isa: str) -> None:
    x = arguments()
    powers = np.exp(x.astype(np.float64))
    units = units_off(second_of_softmax(x), powers / (1 + powers))
    assert units.max() < 4.5, (x[units.argmax()], units.max())


def test_exp_underflows_gradually(isa: str) -> None:
    """Denormal results are neither flushed to zero nor cut off early."""
    y = second_of_softmax(np.array([-87.4, -95.0, -103.0, -103.9, -104.1, -1e4, -3e38, -np.inf], np.float32))
    assert 0 < y[0] < np.finfo(np.float32).tiny and y[1] > y[2] > 0 and y[3] == np.float32(LEAST)
    assert not y[4:].any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_exp_keeps_what_is_not_a_number(isa: str, bad: float) -> None:
    for columns in (2, _dispatch.tile()[0], _dispatch.tile()[0] + 1):
        assert np.isnan(second_of_softmax(np.array([bad], np.float32), columns)).all()


def test_exp_is_the_same_in_every_lane(isa: str) -> None:
    """Whole vectors and tails of any length give the bits of a row of two."""
    x = arguments()[::37]
    x = x[x < -17.5]
    expected = second_of_softmax(x)
    for columns in range(3, 2 * _dispatch.tile()[0] + 3):
        np.testing.assert_array_equal(second_of_softmax(x, columns), expected)
