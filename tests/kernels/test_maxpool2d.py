"""Max pooling against the oracle, without tolerance: a maximum is exact, and so are sums of small integers."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import oracles_elementwise as oracles
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kernel_cases import (
    THREADS,
    Array,
    Fence,
    Guarded,
    GuardedIndex,
    assert_same_bytes,
    call_in_child,
    generated,
    needs_fence,
    ragged_sizes,
    read_only,
    sizes,
)
from numpy.typing import NDArray

from cnet.kernels import _dispatch
from cnet.kernels.maxpool2d import MaxPool2d

Pair = tuple[int, int]


@dataclass(frozen=True)
class Case:
    images: int
    size: Pair
    channels: int
    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    out: Pair
    special: bool = False

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (self.images, *self.size, self.channels)

    @property
    def out_shape(self) -> tuple[int, int, int, int]:
        return (self.images, *self.out, self.channels)

    @property
    def geometry(self) -> tuple[Pair, Pair, Pair, Pair]:
        return (self.kernel, self.stride, self.padding, self.dilation)

    def bind(self) -> MaxPool2d:
        return MaxPool2d(*self.size, *self.geometry, *self.out)


@lru_cache(maxsize=512)
def problem(case: Case) -> tuple[Array, Array, oracles.Array, NDArray[np.int64], oracles.Array]:
    """Input, output gradient, and what the oracle makes of them. Few different values: ties in most windows."""
    generator = np.random.default_rng([*case.shape, *case.out])
    x = generator.integers(-3, 3, case.shape).astype(np.float32)
    if case.special:
        x = generator.choice(np.array([-np.inf, -np.inf, np.nan, np.inf, 0, -0.0, 1], np.float32), case.shape)
    dy = generator.integers(-9, 10, case.out_shape).astype(np.float32)
    y, index = oracles.maxpool2d_forward(x, *case.geometry, case.out)
    return x, dy, y, index, oracles.maxpool2d_backward(dy, index, case.shape, *case.geometry)


def check_case(case: Case) -> None:
    x, dy, y_expected, index_expected, dx_expected = problem(case)
    x, dy = read_only(x), read_only(dy, misaligned=True)
    pool = case.bind()
    for threads in THREADS:
        y, y_only = Guarded(case.out_shape), Guarded(case.out_shape, misaligned=True)
        index = GuardedIndex(case.out_shape, np.uint16)
        pool.forward(x, y.array, index.array, threads)
        pool.forward(x, y_only.array, None, threads)
        np.testing.assert_array_equal(y.array, y_expected)
        assert_same_bytes(y_only.array, y.array, "y without index")
        met = index_expected >= 0
        np.testing.assert_array_equal(index.array[met], index_expected[met])
        dx = Guarded(case.shape)
        index.array.flags.writeable = False
        pool.backward(dy, index.array, dx.array, threads)
        np.testing.assert_array_equal(dx.array, dx_expected)
        for guarded in (y, y_only, index, dx):
            guarded.check()


def square(images: int, size: int, channels: int, kernel: int, stride: int, padding: int = 0) -> Case:
    """A case of squares without dilation, its output size by the usual formula."""
    out = (size + 2 * padding - kernel) // stride + 1
    return Case(
        images, (size, size), channels, (kernel, kernel), (stride, stride), (padding, padding), (1, 1), (out, out)
    )


def pairs(least: int, most: int) -> st.SearchStrategy[Pair]:
    return st.tuples(st.integers(least, most), st.integers(least, most))


# Output sizes of their own: windows begin and end outside the image in every way that ceil mode and padding can bring.
cases = st.builds(
    Case,
    images=st.integers(1, 3),
    size=pairs(1, 9),
    channels=sizes(40, 3, 6),
    kernel=pairs(1, 5),
    stride=pairs(1, 4),
    padding=pairs(0, 3),
    dilation=pairs(1, 3),
    out=pairs(1, 5),
    special=st.booleans(),
)


@given(case=cases)
@example(square(2, 8, 17, 2, 2))
@example(square(2, 8, 17, 3, 2, padding=1))
@example(Case(1, (2, 2), 5, (2, 2), (1, 1), (1, 1), (3, 3), (1, 1)))
@generated
def test_maxpool2d_matches_oracle(isa: str, case: Case) -> None:
    check_case(case)


@pytest.mark.parametrize("kernel,stride,padding", [(2, 2, 0), (2, 1, 0), (3, 2, 1), (3, 3, 0), (5, 2, 2), (1, 1, 0)])
def test_maxpool2d_matches_oracle_for_every_width_of_vector(isa: str, kernel: int, stride: int, padding: int) -> None:
    lanes = _dispatch.tile()[0]
    for channels in sorted({1, 2, 3, 6, lanes - 1, lanes, lanes + 1, 2 * lanes + 3, *ragged_sizes()}):
        case = square(2, 9, channels, kernel, stride, padding)
        check_case(case)
        check_case(replace(case, special=True))


@pytest.mark.parametrize(
    "case",
    [
        square(64, 10, 24, 2, 2),  # an image an item
        square(17, 12, 33, 3, 2, padding=1),
        square(2, 24, 150, 2, 2),  # blocks of output rows; blocks of channels, the last one ragged
        square(1, 24, 131, 3, 1, padding=1),
        square(15, 13, 65, 3, 2),
    ],
)
def test_maxpool2d_on_several_threads_matches_oracle(isa: str, case: Case) -> None:
    check_case(case)


def test_maxpool2d_keeps_images_pixels_and_channels_apart(isa: str) -> None:
    """One NaN reaches the windows over it and nothing else."""
    lanes = _dispatch.tile()[0]
    for channels in (1, 3, lanes, lanes + 1):
        case = square(2, 6, channels, 2, 2)
        for place in ((0, 5, 5, channels - 1), (1, 0, 0, 0), (0, 2, 3, channels // 2)):
            x = np.zeros(case.shape, np.float32)
            x[place] = np.nan
            y = np.empty(case.out_shape, np.float32)
            case.bind().forward(x, y, None, 1)
            expected = (place[0], place[1] // 2, place[2] // 2, place[3])
            assert [tuple(at) for at in np.argwhere(np.isnan(y)).tolist()] == [expected]


def test_maxpool2d_takes_as_many_taps_as_the_index_can_number(isa: str) -> None:
    pool = MaxPool2d(256, 256, (256, 256), (1, 1), (0, 0), (1, 1), 1, 1)
    x = np.zeros((1, 256, 256, 2), np.float32)
    x[0, 255, 255, 0] = x[0, 255, 254, 1] = 1
    y, index, dx = np.empty((1, 1, 1, 2), np.float32), np.empty((1, 1, 1, 2), np.uint16), np.empty_like(x)
    pool.forward(x, y, index, 1)
    assert index.ravel().tolist() == [65535, 65534]
    pool.backward(y, index, dx, 1)
    np.testing.assert_array_equal(dx, x)


def test_maxpool2d_of_nothing_does_nothing(isa: str) -> None:
    pool = MaxPool2d(4, 4, (2, 2), (2, 2), (0, 0), (1, 1), 2, 2)
    for shape in ((0, 4, 4, 3), (2, 4, 4, 0)):
        out = (shape[0], 2, 2, shape[3])
        x, y, index = np.empty(shape, np.float32), np.empty(out, np.float32), np.empty(out, np.uint16)
        pool.forward(x, y, index, 2)
        pool.backward(y, index, x, 2)


def check_fences() -> None:
    """Every instruction set on arrays against pages that cannot be touched, at their beginning and at their end."""
    for isa in _dispatch.isas():
        _dispatch.set_isa(isa)
        for channels in (1, 3, 5, 8, 17, 33):
            for number, case in enumerate((square(1, 6, channels, 2, 2), square(2, 7, channels, 3, 2, padding=1))):
                print(isa, case, file=sys.stderr)
                for before in (False, True):
                    fence, pool = Fence(before), case.bind()
                    x, dy = fence.array(np.ones(case.shape)), fence.array(np.ones(case.out_shape))
                    y, dx = (fence.array(np.zeros(s), writeable=True) for s in (case.out_shape, case.shape))
                    # Half as many floats as the index has elements, rounded up, hold its bytes.
                    size = int(np.prod(case.out_shape))
                    held = fence.array(np.zeros((size + 1) // 2), writeable=True).view(np.uint16)
                    index = (held[:size] if before else held[held.size - size :]).reshape(case.out_shape)
                    pool.forward(x, y, index, 1)
                    pool.backward(dy, index, dx, 1)
                    assert (y == 1).all() and dx.sum() == dy.size, number


@needs_fence
def test_maxpool2d_touches_nothing_outside_its_arrays() -> None:
    call_in_child(__file__, "check_fences")
