"""Epilogues of convolutions against the oracle, without tolerance: the numbers are small multiples of powers of two.

A sum or product of such numbers is exact in float32, in whatever order and with fused operations or without. So the
kernels' choices (which tap wins, on which side of the activation's bend an input lies) are those of the float64 oracle,
and their results are its results.
"""

from __future__ import annotations

import gc
import sys
import weakref
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import oracles_elementwise as oracles
import pytest
from conv_cases import (
    NAMED,
    ROUNDING,
    WINOGRAD,
    Case,
    cases,
    oracle_forward,
    oracle_input_grad,
    oracle_weight_grad,
    random_inputs,
    run_case,
    winograd_cases,
)
from hypothesis import example, given, settings
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
    random_array,
    read_only,
    sizes,
    sum_budget,
)

from cnet.kernels import _dispatch
from cnet.kernels.conv2d import Conv2d
from cnet.kernels.epilogue import Epilogue

Pair = tuple[int, int]

ACTIVATIONS = ("identity", "relu", "slope")
POOLS = ((1, 1), (2, 2), (2, 3), (3, 3), (1, 2), (3, 1))
SLOPES = (-1.0, -0.25, 0.0, 0.25, 0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Kind:
    """What follows a convolution."""

    activation: str = "relu"
    pool: Pair = (2, 2)
    normalised: bool = False
    positive: bool = False
    """Whether the slopes are: then the output says on which side of the bend the input was."""

    @property
    def pooled(self) -> bool:
        return self.pool != (1, 1)


kinds = st.builds(
    Kind, st.sampled_from(ACTIVATIONS), st.sampled_from(POOLS), normalised=st.booleans(), positive=st.booleans()
)
EVERY_KIND = [Kind(activation, (2, 2), normalised) for activation in ACTIVATIONS for normalised in (False, True)]


@dataclass(frozen=True)
class Parameters:
    """Those of the channels: what binds them, and what the oracles take."""

    slope: Array | None
    normalisation: tuple[Array, Array, Array] | None
    factor: Array | None
    offset: Array | None

    def bind(self, epilogue: Epilogue) -> None:
        epilogue.bind(self.slope, *(self.normalisation or ()))


def parameters(kind: Kind, channels: int, misaligned: bool = False) -> Parameters:
    generator = np.random.default_rng([channels, kind.normalised])

    def draw(*values: float) -> Array:
        return read_only(generator.choice(values, channels), misaligned)

    slope = draw(*(SLOPES[2:] if kind.positive else SLOPES)) if kind.activation == "slope" else None
    if not kind.normalised:
        return Parameters(slope, None, None, None)
    normalisation = (draw(-2, -1, 0, 1, 3), draw(-1, -0.5, 0.5, 1, 2, 0), draw(-2, -1, 0, 1, 2))
    return Parameters(slope, normalisation, draw(-0.5, 0, 0.25, 1), draw(-2, 0, 0.5, 1))


def whole_numbers(generator: np.random.Generator, shape: tuple[int, ...], most: int, special: bool = False) -> Array:
    """From ``-most`` to ``most``; few of them, so that windows have ties, and if ``special`` infinities and NaN."""
    x = generator.integers(-most, most + 1, shape).astype(np.float32)
    if special:
        chosen = generator.random(shape) < 0.3
        x[chosen] = generator.choice(np.array([-np.inf, np.inf, np.nan, -0.0], np.float32), int(chosen.sum()))
    return x


def assert_equal(actual: Array, expected: Any, what: str) -> None:
    """Equal numbers; NaN equals NaN, and 0 equals -0."""
    np.testing.assert_array_equal(actual, expected, err_msg=what)


# ---- alone


@dataclass(frozen=True)
class Images:
    """Images that an epilogue divides into ``windows``."""

    samples: int
    windows: Pair
    channels: int
    kind: Kind
    special: bool = False
    misaligned: bool = False

    @property
    def size(self) -> Pair:
        return self.windows[0] * self.kind.pool[0], self.windows[1] * self.kind.pool[1]

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.samples, *self.size, self.channels)

    @property
    def out_shape(self) -> tuple[int, ...]:
        return (self.samples, *self.windows, self.channels)

    def epilogue(self) -> Epilogue:
        epilogue = Epilogue(*self.size, self.channels, self.kind.activation, self.kind.pool)
        assert (epilogue.out_height, epilogue.out_width) == self.windows
        return epilogue


@lru_cache(maxsize=512)
def problem(case: Images) -> tuple[Any, ...]:
    """``x``, ``dy`` and the oracle's ``y``, ``index``, ``before``, sums and gradient."""
    generator = np.random.default_rng([*case.shape, case.special])
    x, dy = whole_numbers(generator, case.shape, 5, case.special), whole_numbers(generator, case.out_shape, 8)
    p, kind = parameters(case.kind, case.channels), case.kind
    with np.errstate(invalid="ignore"):
        y, index, before = oracles.epilogue_forward(x, kind.activation, kind.pool, p.slope, p.normalisation)
        g, inputs = oracles.through_activation(dy, before, kind.activation, p.slope, p.normalisation)
        mean = 0 if p.normalisation is None else p.normalisation[0]
        sums = np.zeros((3, case.channels))
        sums[0] = g.sum(axis=(0, 1, 2))
        if kind.normalised:
            sums[1] = (g * (before.astype(np.float64) - mean)).sum(axis=(0, 1, 2))
        if kind.activation == "slope":
            below = (array.reshape(-1, case.channels) for array in (inputs, dy))
            sums[2] = oracles.prelu_slope_grad(*below, case.channels)
        dx = oracles.epilogue_backward(
            dy, before, index, x, kind.activation, kind.pool, p.slope, p.normalisation, p.factor, p.offset
        )
    return x, dy, y, index, before, sums, dx


def spread(epilogue: Epilogue, samples: int, threads: int) -> Array:
    """The gradient that an epilogue hands to a convolution, by way of one that changes nothing.

    Its one tap is a one, each channel is a group of its own, and a stride that leaves out every second row makes it a
    convolution with rows, whatever the width.
    """
    height, width, channels = epilogue.height, epilogue.width, epilogue.channels
    conv = Conv2d(channels, channels, 2 * height - 1, width, (1, 1), (2, 1), (0, 0, 0, 0), (1, 1), channels, "direct")
    dx = Guarded((samples, 2 * height - 1, width, channels))
    workspace = Guarded(conv.input_grad_workspace(samples, threads, epilogue))
    ones = read_only(np.ones((1, 1, 1, channels)))
    conv.input_grad(None, ones, dx.array, workspace.array, threads, epilogue)
    for guarded in (dx, workspace):
        guarded.check()
    assert not dx.array[:, 1::2].any()
    return dx.array[:, ::2]


def check_images(case: Images) -> None:
    """All that an epilogue does, for each thread count."""
    x, dy, y_expected, index_expected, before_expected, *_ = problem(case)
    p, epilogue = parameters(case.kind, case.channels, case.misaligned), case.epilogue()
    x, dy = read_only(x, case.misaligned), read_only(dy, not case.misaligned)
    for threads in THREADS:
        p.bind(epilogue)
        y, before, index = Guarded(case.out_shape), Guarded(case.out_shape), GuardedIndex(case.out_shape, np.uint8)
        for with_index in (True, False):
            for with_before in (True, False):
                y.array[...] = np.nan
                before.array[...] = np.nan
                index.array[...] = 0xBE
                epilogue.forward(
                    x, y.array, index.array if with_index else None, before.array if with_before else None, threads
                )
                assert_equal(y.array, y_expected, "y")
                assert_equal(index.array, index_expected if with_index else 0xBE, "index")
                if with_before:
                    assert_same_bytes(before.array, before_expected, "before")
                else:
                    assert np.isnan(before.array).all()
                for guarded in (y, before, index):
                    guarded.check()
        check_backward(case, epilogue, p, dy, x, y_expected, index_expected, before_expected, threads)


def check_backward(
    case: Images, epilogue: Epilogue, p: Parameters, dy: Array, x: Array, y: Any, index: Any, before: Any, threads: int
) -> None:
    """The sums and the gradient, from what the forward pass left."""
    kind, (*_, sums_expected, dx_expected) = case.kind, problem(case)
    # Without a normalisation the output will do where it tells the side of the bend.
    output_tells = not kind.normalised and (kind.activation == "relu" or (kind.activation == "slope" and kind.positive))
    needed = kind.normalised or kind.activation != "identity"
    index = index.astype(np.uint8) if kind.pooled else None
    normalisation = (x, p.factor, p.offset) if kind.normalised else (None, None, None)
    for value in [before, y.astype(np.float32)] if output_tells else [before]:
        value = read_only(value) if needed else None
        sums = np.full((3, case.channels), np.nan)
        workspace = Guarded(epilogue.workspace(case.samples))
        epilogue.sums(dy, value, sums, workspace.array, threads)
        workspace.check()
        assert_equal(sums[:2], sums_expected[:2], "sums of the gradient")
        if value is None or value.tobytes() == before.tobytes():
            assert_equal(sums[2], sums_expected[2], "sums for the slopes")
        epilogue.bind_gradient(dy, value, index, *normalisation)
        assert_equal(spread(epilogue, case.samples, threads), dx_expected, "gradient")


image_cases = st.builds(
    Images,
    samples=st.integers(1, 4),
    windows=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    channels=sizes(40, 3, 6),
    kind=kinds,
    special=st.booleans(),
    misaligned=st.booleans(),
)


@given(case=image_cases)
@example(Images(1, (1, 1), 1, Kind("identity", (1, 1))))
@example(Images(2, (1, 2), 3, Kind("relu", (16, 16), normalised=True)))
@example(Images(1, (2, 1), 18, Kind("slope", (1, 256))))
@example(Images(2, (3, 2), 17, Kind("identity", (7, 5)), special=True))
# Four vectors of channels and more, which are summed together.
@example(Images(2, (3, 2), 155, Kind("relu", (2, 2), normalised=True)))
@example(Images(1, (2, 3), 150, Kind("slope", (1, 1), normalised=True)))
@settings(generated, max_examples=120)
def test_epilogue_matches_oracle(isa: str, case: Images) -> None:
    check_images(case)


@pytest.mark.parametrize("kind", EVERY_KIND, ids=str)
def test_epilogue_matches_oracle_for_every_width_of_vector(isa: str, kind: Kind) -> None:
    for channels in range(1, 2 * _dispatch.tile()[0] + 2):
        pool = POOLS[channels % len(POOLS)]
        check_images(Images(1, (1, 2), channels, replace(kind, pool=pool), special=channels % 2 == 0))


@pytest.mark.parametrize("kind", EVERY_KIND, ids=str)
def test_epilogue_on_several_threads_matches_oracle(isa: str, kind: Kind) -> None:
    """Large enough that several threads are called in, and more rows than there are ranges of them."""
    case = Images(5, (13, 11), 21, kind)
    assert np.prod(case.shape) * 16 > 4 * 65536 and case.samples * case.windows[0] > 32
    check_images(case)


def test_epilogue_takes_the_first_maximum_and_the_last_nan(isa: str) -> None:
    nan, inf = np.nan, np.inf
    windows = {
        (1, 1, 1, 1): 0,
        (0, 2, 2, 1): 1,
        (-1, -3, -1, -2): 0,
        (-inf, -inf, -inf, -inf): 0,
        (-inf, -inf, -5, -inf): 2,
        (3, nan, 9, nan): 3,
        (nan, 1, inf, 0): 0,
        (inf, 1, inf, 0): 0,
        (-0.0, 0.0, 0.0, -0.0): 0,
    }
    x = np.array(list(windows), np.float32).reshape(-1, 2, 2, 1)
    for channels in (1, _dispatch.tile()[0]):
        wide = np.repeat(x, channels, axis=3)
        y, before = Guarded((len(x), 1, 1, channels)), Guarded((len(x), 1, 1, channels))
        for activation, expected in (("identity", list(windows.values())), ("relu", list(windows.values()))):
            index = GuardedIndex((len(x), 1, 1, channels), np.uint8)
            epilogue = Epilogue(2, 2, channels, activation, (2, 2))
            epilogue.bind(None)
            epilogue.forward(wide, y.array, index.array, before.array, 1)
            assert index.array[:, 0, 0, channels - 1].tolist() == expected
        # A negative slope turns the order of negative numbers round: the smallest wins, and -inf becomes inf.
        index, epilogue = GuardedIndex((len(x), 1, 1, channels), np.uint8), Epilogue(2, 2, channels, "slope", (2, 2))
        epilogue.bind(np.full(channels, -2, np.float32))
        epilogue.forward(wide, y.array, index.array, before.array, 1)
        assert index.array[:, 0, 0, channels - 1].tolist() == [0, 1, 1, 0, 0, 3, 0, 0, 0]
        assert y.array[2, 0, 0, 0] == 6 and before.array[2, 0, 0, 0] == -3


def test_epilogue_takes_as_many_taps_as_a_byte_can_number(isa: str) -> None:
    """The last taps of the largest window win, each in a channel of its own, and get the gradient."""
    for channels in (3, _dispatch.tile()[0] + 3):
        x = np.zeros((1, 16, 16, channels), np.float32)
        taps = [255 - channel * 17 % 256 for channel in range(channels)]
        x[0, np.array(taps) // 16, np.array(taps) % 16, np.arange(channels)] = 1
        epilogue = Epilogue(16, 16, channels, "identity", (16, 16))
        epilogue.bind(None)
        y, index = np.empty((1, 1, 1, channels), np.float32), GuardedIndex((1, 1, 1, channels), np.uint8)
        epilogue.forward(x, y, index.array, None, 1)
        assert index.array.ravel().tolist() == taps
        epilogue.bind_gradient(y, None, index.array)
        assert_equal(spread(epilogue, 1, 1), x, "gradient")


def test_epilogue_sums_are_accurate(isa: str) -> None:
    """Sums of what does not round to nothing: within the budget of a sum of as many terms as a range has."""
    samples, size, channels = 7, (20, 23), 19
    generator = np.random.default_rng(1)
    x, dy = (read_only(random_array(generator, (samples, *size, channels))) for _ in range(2))
    slope, mean, scale, shift = (read_only(random_array(generator, channels)) for _ in range(4))
    epilogue = Epilogue(*size, channels, "slope")
    epilogue.bind(slope, mean, scale, shift)
    g, inputs = oracles.through_activation(dy, x, "slope", slope, (mean, scale, shift))
    products = [g, g * (x - mean.astype(np.float64)), np.where(inputs > 0, 0, inputs * dy)]
    first = None
    for threads in THREADS:
        sums, workspace = np.full((3, channels), np.nan), Guarded(epilogue.workspace(samples))
        epilogue.sums(dy, x, sums, workspace.array, threads)
        first = sums if first is None else first
        assert sums.tobytes() == first.tobytes()
        # An input within rounding of the bend may fall on its other side.
        bend = np.abs(inputs) < 1e-5
        assert bend.sum() < 5
        for got, terms in zip(sums, products, strict=True):
            slack = np.abs(np.where(bend, dy * 4, 0)).sum(axis=(0, 1, 2))
            error = np.abs(got - terms.sum(axis=(0, 1, 2)))
            unit = np.finfo(np.float32).eps * np.abs(terms).sum(axis=(0, 1, 2))
            assert (error <= (3 + sum_budget(samples * size[0] // 32 * size[1])) * unit + slack).all()


def test_epilogue_of_no_samples_does_nothing(isa: str) -> None:
    for kind in EVERY_KIND:
        case = Images(0, (2, 3), 5, kind)
        epilogue, p = case.epilogue(), parameters(kind, 5)
        p.bind(epilogue)
        x, y = np.empty(case.shape, np.float32), np.empty(case.out_shape, np.float32)
        index = GuardedIndex(case.out_shape, np.uint8)
        epilogue.forward(x, y, index.array, y, 2)
        sums = np.full((3, 5), np.nan)
        value = y if kind.normalised or kind.activation != "identity" else None
        epilogue.sums(y, value, sums, np.empty(epilogue.workspace(0), np.float32), 2)
        assert not sums.any()
        normalisation = (x, p.factor, p.offset) if kind.normalised else (None, None, None)
        epilogue.bind_gradient(y, value, index.array, *normalisation)
        conv = Conv2d(3, 5, 4, 6, (3, 3), (1, 1), (1, 1, 1, 1))
        weight, dx = np.ones((3, 3, 3, 5), np.float32), np.empty((0, 4, 6, 3), np.float32)
        empty = np.empty(0, np.float32)
        conv.forward(dx, weight, None, y, empty, 2, epilogue, index.array, y)
        conv.input_grad(None, weight, dx, empty, 2, epilogue)
        dweight = np.full_like(weight, 2)
        conv.weight_grad(dx, None, dweight, None, empty, 2, epilogue)
        assert (dweight == 2).all()


def test_epilogue_refuses_what_does_not_fit() -> None:
    def floats(*shape: int) -> Array:
        return np.zeros(shape, np.float32)

    for height, width, pool in ((5, 4, (2, 2)), (4, 5, (2, 2)), (4, 4, (0, 2)), (257, 1, (257, 1)), (0, 4, (1, 1))):
        with pytest.raises(AssertionError):
            Epilogue(height, width, 3, "relu", pool)
    with pytest.raises(KeyError):
        Epilogue(4, 4, 3, "tanh")
    relu, slope = Epilogue(4, 4, 3, "relu", (2, 2)), Epilogue(4, 4, 3, "slope")
    for epilogue, arguments in (
        (relu, (floats(3),)),
        (slope, (None,)),
        (slope, (floats(2),)),
        (relu, (None, floats(3))),
        (relu, (None, floats(3), floats(3))),
        (relu, (None, floats(3), floats(3), floats(4))),
    ):
        with pytest.raises(AssertionError):
            epilogue.bind(*arguments)
    relu.bind(None)
    index = np.zeros((2, 2, 2, 3), np.uint8)
    for x, y in ((floats(2, 4, 4, 2), floats(2, 2, 2, 3)), (floats(2, 4, 4, 3), floats(2, 4, 4, 3))):
        with pytest.raises(AssertionError):
            relu.forward(x, y, None, None, 1)
    with pytest.raises(AssertionError):
        relu.forward(floats(2, 4, 4, 3), floats(2, 2, 2, 3), index[:1], None, 1)
    with pytest.raises(AssertionError):
        relu.forward(floats(2, 4, 4, 3), floats(2, 2, 2, 3), index, floats(1, 2, 2, 3), 1)
    dy, sums = floats(2, 2, 2, 3), np.zeros((3, 3))
    for arguments in (
        (dy, None, sums, floats(relu.workspace(2))),
        (dy, dy, sums[:2], floats(relu.workspace(2))),
        (dy, dy, sums, floats(relu.workspace(2) - 1)),
    ):
        with pytest.raises(AssertionError):
            relu.sums(*arguments, 1)
    for arguments in ((dy, None, index), (dy, dy, None), (dy, dy, index, floats(2, 4, 4, 3), floats(3), floats(3))):
        with pytest.raises(AssertionError):
            relu.bind_gradient(*arguments)
    relu.bind_gradient(dy, dy, index)
    conv = Conv2d(3, 3, 4, 4, (1, 1))
    assert conv.flat
    weight, x, workspace = floats(1, 1, 3, 3), floats(2, 4, 4, 3), floats(10_000)
    with pytest.raises(AssertionError):  # A flat convolution has no rows to pool.
        conv.input_grad(None, weight, x, workspace, 1, relu)
    conv = Conv2d(3, 3, 4, 4, (3, 3), (1, 1), (1, 1, 1, 1))
    weight = floats(3, 3, 3, 3)
    with pytest.raises(AssertionError):  # Of other samples than are bound.
        conv.input_grad(None, weight, x[:1], workspace, 1, relu)
    with pytest.raises(AssertionError):  # Both.
        conv.input_grad(x, weight, x, workspace, 1, relu)
    with pytest.raises(AssertionError):  # The sums give the gradient of the bias.
        conv.weight_grad(x, None, weight, floats(3), workspace, 1, relu)
    with pytest.raises(AssertionError):
        conv.forward(x, weight, None, dy, workspace[: conv.forward_workspace(2, 2, relu) - 1], 2, relu)
    relu.release()
    with pytest.raises(AssertionError):
        conv.input_grad(None, weight, x, workspace, 1, relu)


def test_epilogue_holds_its_arrays_until_it_is_released() -> None:
    """The kernels read them by their addresses; afterwards nothing keeps a batch alive."""
    epilogue, shape = Epilogue(4, 4, 3, "slope", (2, 2)), (2, 2, 2, 3)
    arrays = [np.ones(3, np.float32) for _ in range(6)]
    arrays += [np.ones(shape, np.float32), np.ones(shape, np.float32), np.zeros((2, 4, 4, 3), np.float32)]
    index = np.zeros(shape, np.uint8)
    references = [weakref.ref(array) for array in (*arrays, index)]
    slope, mean, scale, shift, factor, offset, dy, value, raw = arrays
    epilogue.bind(slope, mean, scale, shift)
    epilogue.bind_gradient(dy, value, index, raw, factor, offset)
    del arrays, index, slope, mean, scale, shift, factor, offset, dy, value, raw
    gc.collect()
    assert all(reference() is not None for reference in references)
    expected = np.zeros((2, 4, 4, 3))
    expected[:, ::2, ::2] = 1
    assert_equal(spread(epilogue, 2, 1), expected - ((0 - 1) * 1 + 1), "gradient")
    epilogue.release()
    gc.collect()
    assert all(reference() is None for reference in references)


# ---- behind a convolution


def small_inputs(case: Case) -> tuple[Array, ...]:
    """``x``, ``weight`` and ``bias``: small whole numbers."""
    generator = np.random.default_rng([case.samples, case.depth, case.breadth, *case.size, *case.kernel])
    shapes = (case.in_shape, case.weight_shape, (case.channels[1],))
    return tuple(whole_numbers(generator, shape, most) for shape, most in zip(shapes, (2, 1, 3), strict=True))


@lru_cache(maxsize=512)
def composed(case: Case, kind: Kind) -> tuple[Any, ...]:
    """The inputs of a convolution with its epilogue, and the oracle's results of all passes."""
    x, weight, bias = small_inputs(case)
    p = parameters(kind, case.channels[1])
    raw = oracle_forward(case, x, weight, bias if case.bias else None)
    y, index, before = oracles.epilogue_forward(raw, kind.activation, kind.pool, p.slope, p.normalisation)
    dy = whole_numbers(np.random.default_rng(case.samples), y.shape, 4)
    dconv = oracles.epilogue_backward(
        dy, before, index, raw, kind.activation, kind.pool, p.slope, p.normalisation, p.factor, p.offset
    )
    dweight = whole_numbers(np.random.default_rng(7), case.weight_shape, 4)
    dx = oracle_input_grad(case, dconv, weight)
    dweight_expected = oracle_weight_grad(case, x, dconv) + dweight
    # What the tests below rest on: all of this is exact in float32.
    for array in (raw, y, before, dconv, dx, dweight_expected):
        assert np.array_equal(array, array.astype(np.float32)) and np.abs(array).max() < 2**20
    return x, weight, bias, dy, dweight, raw, y, index, before, dx, dweight_expected


def check_composition(case: Case, kind: Kind, algorithm: str, threads: int) -> None:
    """All passes of a convolution with its epilogue; not by those of ``ROUNDING``."""
    arrays = composed(case, kind)
    x, weight, bias, dy, dweight = (read_only(array, case.misaligned) for array in arrays[:5])
    raw, y_expected, index_expected, before_expected, dx_expected, dweight_expected = arrays[5:]
    conv, epilogue = case.bind(algorithm), Epilogue(*case.out_size, case.channels[1], kind.activation, kind.pool)
    p = parameters(kind, case.channels[1], case.misaligned)
    p.bind(epilogue)
    y, before = (Guarded(y_expected.shape, misaligned=case.misaligned) for _ in range(2))
    index = GuardedIndex(y_expected.shape, np.uint8)
    # Either may be missing; with one bit of the case's geometry as the coin.
    with_index, with_before = (case.size[0] + threads) % 3 > 0, (case.size[1] + threads) % 3 > 0
    workspace = Guarded(conv.forward_workspace(case.samples, threads, epilogue), misaligned=case.misaligned)
    conv.forward(
        x, weight, bias if case.bias else None, y.array, workspace.array, threads, epilogue,
        index.array if with_index else None, before.array if with_before else None,
    )  # fmt: skip
    what = f"of {algorithm} on {threads} threads"
    assert_equal(y.array, y_expected, f"y {what}")
    assert_equal(index.array, index_expected if with_index else 0xBE, f"index {what}")
    assert_equal(before.array, before_expected if with_before else np.nan, f"before {what}")
    bind_gradient(epilogue, kind, p, dy, before_expected, index_expected, raw)
    dx, gradient = gradients(case, conv, epilogue, x, weight, dweight, threads)
    assert_equal(dx, dx_expected, f"dx {what}")
    assert_equal(gradient, dweight_expected, f"dweight {what}")
    for guarded in (y, before, index, workspace):
        guarded.check()


def bind_gradient(epilogue: Epilogue, kind: Kind, p: Parameters, dy: Array, before: Any, index: Any, raw: Any) -> None:
    value = read_only(before) if kind.normalised or kind.activation != "identity" else None
    taps = index.astype(np.uint8) if kind.pooled else None
    if taps is not None:
        taps.flags.writeable = False
    epilogue.bind_gradient(dy, value, taps, *((read_only(raw), p.factor, p.offset) if kind.normalised else ()))


def gradients(
    case: Case, conv: Conv2d, epilogue: Epilogue | None, x: Array, weight: Array, dweight: Array, threads: int,
    dy: Array | None = None,
) -> tuple[Array, Array]:  # fmt: skip
    """``dx`` and ``dweight`` behind an epilogue or from ``dy``."""
    dx = Guarded(x.shape, misaligned=case.misaligned)
    gradient = Guarded(weight.shape, dweight, misaligned=case.misaligned)
    workspaces = [
        Guarded(size(case.samples, threads, epilogue), misaligned=case.misaligned)
        for size in (conv.input_grad_workspace, conv.weight_grad_workspace)
    ]
    conv.input_grad(dy, weight, dx.array, workspaces[0].array, threads, epilogue)
    conv.weight_grad(x, dy, gradient.array, None, workspaces[1].array, threads, epilogue)
    for guarded in (dx, gradient, *workspaces):
        guarded.check()
    return dx.array, gradient.array


def check_bits(case: Case, kind: Kind, algorithm: str) -> None:
    """With numbers that do round: the bits of a convolution, then the epilogue, in two steps; at any thread count."""
    x, weight, bias, _, dweight, _ = random_inputs(case)
    bias = bias if case.bias else None
    conv, epilogue = case.bind(algorithm), Epilogue(*case.out_size, case.channels[1], kind.activation, kind.pool)
    p = parameters(kind, case.channels[1])
    p.bind(epilogue)
    raw = Guarded(case.out_shape).array
    conv.forward(x, weight, bias, raw, np.empty(conv.forward_workspace(case.samples, 1), np.float32), 1)
    shape = (case.samples, epilogue.out_height, epilogue.out_width, epilogue.channels)
    y_expected, before_expected = Guarded(shape).array, Guarded(shape).array
    index_expected = GuardedIndex(shape, np.uint8).array
    epilogue.forward(raw, y_expected, index_expected, before_expected, 1)
    dy = random_array(np.random.default_rng(3), shape)
    bind_gradient(epilogue, kind, p, dy, before_expected, index_expected, raw)
    dconv = np.ascontiguousarray(spread(epilogue, case.samples, 1))
    expected = gradients(case, conv, None, x, weight, dweight, 1, dconv)
    if algorithm in ("winners", "auto") and kind.pooled and not kind.normalised:
        # Without the zeros, so in another order.
        of_winners = gradients(case, case.bind("winners"), epilogue, x, weight, dweight, 1)[1]
        taken = gradients(case, conv, epilogue, x, weight, dweight, 1)[1].tobytes() == of_winners.tobytes()
        assert taken or algorithm == "auto"
        expected = (expected[0], of_winners) if taken else expected
    for threads in THREADS:
        y, before, index = Guarded(shape), Guarded(shape), GuardedIndex(shape, np.uint8)
        workspace = Guarded(conv.forward_workspace(case.samples, threads, epilogue))
        conv.forward(x, weight, bias, y.array, workspace.array, threads, epilogue, index.array, before.array)
        for guarded in (y, before, index, workspace):
            guarded.check()
        what = f"of {algorithm} on {threads} threads"
        assert_same_bytes(y.array, y_expected, f"y {what}")
        assert_same_bytes(before.array, before_expected, f"before {what}")
        assert_equal(index.array, index_expected, f"index {what}")
        for name, got, wanted in zip(
            ("dx", "dweight"), gradients(case, conv, epilogue, x, weight, dweight, threads), expected, strict=True
        ):
            assert_same_bytes(got, wanted, f"{name} {what}")


def rounds(case: Case, algorithm: str) -> bool:
    """Whether an algorithm, or what "auto" takes, makes other numbers of whole ones."""
    if algorithm != "auto" or ROUNDING[0] not in case.algorithms:
        return algorithm in ROUNDING
    chosen, rounding = (run_case(case, *random_inputs(case), 1, name)[:3] for name in ("auto", ROUNDING[0]))
    return any(a.tobytes() == b.tobytes() for a, b in zip(chosen, rounding, strict=True))


@st.composite
def compositions(draw: st.DrawFn) -> tuple[Case, Kind]:
    """Convolutions whose output the windows of an epilogue divide."""
    most = 150_000
    case, kind = draw(st.one_of(cases(most), winograd_cases(most))), draw(kinds)
    size = []
    for axis, pool in enumerate(kind.pool):
        before, after = case.padding[2 * axis : 2 * axis + 2]
        out = pool * max(1, case.out_size[axis] // pool)
        # Rows that no window reads are left over at the end, fewer than a stride.
        length = (out - 1) * case.stride[axis] + case.dilation[axis] * (case.kernel[axis] - 1) + 1 - before - after
        size.append(length + draw(st.integers(0, case.stride[axis] - 1)))
    if min(size) < 1:
        return case, replace(kind, pool=(1, 1))
    case = replace(case, size=tuple(size))
    if case.bind().flat:
        kind = replace(kind, pool=(1, kind.pool[1]))
    return case, kind


@given(composition=compositions())
@settings(generated, max_examples=90)
def test_convolution_with_epilogue_matches_oracle(isa: str, composition: tuple[Case, Kind]) -> None:
    case, kind = composition
    for algorithm in (*case.algorithms, "auto"):
        if rounds(case, algorithm):
            check_bits(case, kind, algorithm)
        else:
            for threads in THREADS:
                check_composition(case, kind, algorithm, threads)


@given(composition=compositions())
@settings(generated, max_examples=40)
def test_convolution_with_epilogue_gives_the_bits_of_two_steps(isa: str, composition: tuple[Case, Kind]) -> None:
    case, kind = composition
    for algorithm in case.algorithms:
        check_bits(case, kind, algorithm)


def fitting_pool(case: Case) -> Pair:
    """The largest of the pools that divides a case's output."""
    height, width = case.out_size
    fits = [
        pool for pool in POOLS
        if height % pool[0] == 0 and width % pool[1] == 0 and (pool[0] == 1 or not case.bind().flat)
    ]  # fmt: skip
    return max(fits, key=np.prod)


@pytest.mark.parametrize("name", NAMED)
def test_convolution_with_epilogue_matches_oracle_on_named_cases(isa: str, name: str) -> None:
    number, case = list(NAMED).index(name), NAMED[name]
    kind = Kind(ACTIVATIONS[number % 3], fitting_pool(case), normalised=number % 2 == 0)
    for algorithm in case.algorithms:
        if algorithm in ROUNDING:
            check_bits(case, kind, algorithm)
        else:
            for threads in (1, 3):
                check_composition(case, kind, algorithm, threads)


@pytest.mark.parametrize("kind", EVERY_KIND, ids=str)
@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_convolution_with_every_epilogue(isa: str, kind: Kind, pool: Pair) -> None:
    """Several images an item, blocks of rows, a ragged panel; each algorithm."""
    for case in (Case(17, 5, 19, (6, 6), padding=(1, 1, 1, 1)), Case(1, 3, 5, (36, 12), padding=(1, 1, 1, 1))):
        for algorithm in case.algorithms:
            check_bits(case, replace(kind, pool=pool), algorithm)
            if algorithm not in ROUNDING:
                check_composition(case, replace(kind, pool=pool), algorithm, 2)


def test_convolution_without_rows_takes_windows_of_one_row(isa: str) -> None:
    """A 1 x 1 convolution of narrow images is run as one long row, whose windows must not straddle the image's."""
    for width in (2, 6, 12):
        case = Case(5, 7, 19, (3, width), (1, 1))
        assert case.bind().flat
        for kind in EVERY_KIND:
            for pool in ((1, 1), (1, 2)):
                check_bits(case, replace(kind, pool=pool), "direct")
                for threads in THREADS:
                    check_composition(case, replace(kind, pool=pool), "direct", threads)


@pytest.mark.parametrize("groups,depth,breadth", [(19, 1, 1), (3, 2, 5), (4, 3, 1), (2, 4, 33)])
def test_convolution_of_groups_with_epilogue(isa: str, groups: int, depth: int, breadth: int) -> None:
    case = Case(3, depth, breadth, (6, 12), padding=(1, 1, 1, 1), groups=groups)
    for kind in EVERY_KIND:
        for pool in POOLS:
            for threads in (1, 3):
                for algorithm in ("direct", "winners"):
                    check_composition(case, replace(kind, pool=pool), algorithm, threads)


def test_convolution_behind_pooling_chooses_the_winners(isa: str) -> None:
    """Where a normalisation does not give every pixel a gradient, and where the products saved are worth it."""
    many, few = Case(2, 16, 32, (16, 16), (5, 5), padding=(2, 2, 2, 2)), Case(2, 1, 32, (16, 16))
    for case, kind, chosen in (
        (many, Kind("relu", (2, 2)), True),
        (many, Kind("slope", (2, 2)), True),
        (many, Kind("relu", (1, 1)), False),
        (many, Kind("relu", (2, 2), normalised=True), False),
        (few, Kind("relu", (2, 2)), False),
    ):
        pooled = kind.pooled and not kind.normalised
        x, weight, *_ = random_inputs(case)
        epilogue, p = Epilogue(*case.out_size, 32, kind.activation, kind.pool), parameters(kind, 32)
        p.bind(epilogue)
        shape = (2, epilogue.out_height, epilogue.out_width, 32)
        dy, raw = random_array(np.random.default_rng(1), shape), random_array(np.random.default_rng(2), case.out_shape)
        value, index = dy.copy(), np.random.default_rng(3).integers(0, np.prod(kind.pool), shape).astype(np.uint8)
        bind_gradient(epilogue, kind, p, dy, value, index, raw)
        dweights = {
            name: gradients(case, case.bind(name), epilogue, x, weight, np.zeros_like(weight), 1)[1]
            for name in ("auto", "winners", "direct")
        }
        assert (dweights["winners"].tobytes() != dweights["direct"].tobytes()) is pooled
        if pooled:
            assert (dweights["auto"].tobytes() == dweights["winners"].tobytes()) is chosen


@pytest.mark.parametrize("height", range(1, 10))
def test_winners_are_summed_in_tiles_of_every_size(isa: str, height: int) -> None:
    """Rows of the kernel by vectors under each; odd numbers of windows; and some rows of windows at a time."""
    for depth in (1, 5, 6, 11, 17, 23, 31, 43):
        case = Case(2, depth, 3, (height + 3, 8), (height, 3))
        for kind in (Kind("relu"), Kind("slope"), Kind("identity", (1, 2))):
            check_composition(case, kind, "winners", 2)
    for kind in (Kind("relu", (2, 1)), Kind("relu", (3, 2))):
        check_composition(Case(1, 40, 3, (height + 65, 17), (height, 2)), kind, "winners", 2)
    check_composition(Case(1, 2, 3, (height + 31, 17), (height, 2)), Kind("relu", (16, 16)), "winners", 1)


@pytest.mark.parametrize("algorithm", ["direct", "overlap", "blocks", "dots", "patches", *WINOGRAD])
def test_convolution_with_epilogue_passes_on_what_is_not_a_number(isa: str, algorithm: str) -> None:
    """NaN and infinities in the convolution's output and in the gradient: as in two steps."""
    case = Case(3, 4, 19, (6, 8), padding=(1, 1, 1, 1))
    x, weight, bias, _, dweight, _ = random_inputs(case)
    x, bias = x.copy(), bias.copy()
    x[0, 2, 3, 1] = x[2, 5, 7, 0] = np.nan
    x[1, 0, 0, 2], x[1, 4, 4, 3] = np.inf, -np.inf
    bias[3] = -np.inf
    conv, shape = case.bind(algorithm), (3, 3, 4, 19)
    for kind in EVERY_KIND:
        p, epilogue = parameters(kind, 19), Epilogue(6, 8, 19, kind.activation, (2, 2))
        p.bind(epilogue)
        raw, y, before, y_two, before_two = (np.empty(s, np.float32) for s in (case.out_shape, *[shape] * 4))
        index, index_two = (np.empty(shape, np.uint8) for _ in range(2))
        conv.forward(x, weight, bias, raw, np.empty(conv.forward_workspace(3, 1), np.float32), 1)
        assert np.isnan(raw).any() and np.isinf(raw).any()
        epilogue.forward(raw, y_two, index_two, before_two, 1)
        workspace = np.full(conv.forward_workspace(3, 1, epilogue), np.nan, np.float32)
        conv.forward(x, weight, bias, y, workspace, 1, epilogue, index, before)
        for got, wanted, what in ((y, y_two, "y"), (before, before_two, "before"), (index, index_two, "index")):
            assert_equal(got, wanted, what)
        dy = random_array(np.random.default_rng(3), shape)
        dy[0, 1, 1, 2], dy[2, 0, 0, 5] = np.nan, np.inf
        bind_gradient(epilogue, kind, p, dy, before, index, raw)
        dconv = np.ascontiguousarray(spread(epilogue, 3, 1))
        expected = gradients(case, conv, None, x, weight, dweight, 1, dconv)
        for got, wanted in zip(gradients(case, conv, epilogue, x, weight, dweight, 1), expected, strict=True):
            assert_equal(got, wanted, "gradient")


# ---- memory


def check_fences() -> None:
    """Every instruction set on arrays against pages that cannot be touched, at their beginning and at their end."""

    def check(case: Case, kind: Kind, algorithm: str, before: bool) -> None:
        print(_dispatch.isa(), case, kind, algorithm, "before" if before else "after", file=sys.stderr)
        fence, conv = Fence(before), case.bind(algorithm)
        epilogue = Epilogue(*case.out_size, case.channels[1], kind.activation, kind.pool)
        p = parameters(kind, case.channels[1])
        fenced = [None if a is None else fence.array(a) for a in (p.slope, *(p.normalisation or ()))]
        epilogue.bind(*fenced)
        x, weight, bias, _, dweight, _ = random_inputs(case)
        x, weight, bias = (fence.array(array) for array in (x, weight, bias))
        shape = (case.samples, epilogue.out_height, epilogue.out_width, epilogue.channels)
        size = int(np.prod(shape))

        def floats(*shape: int) -> Array:
            return fence.array(np.full(shape, np.nan), writeable=True)

        y, won, raw, dx = floats(*shape), floats(*shape), floats(*case.out_shape), floats(*case.in_shape)
        held = fence.array(np.zeros((size + 3) // 4), writeable=True).view(np.uint8)
        index = (held[:size] if before else held[held.size - size :]).reshape(shape)
        conv.forward(x, weight, bias, raw, floats(conv.forward_workspace(case.samples, 1)), 1)
        conv.forward(
            x, weight, bias, y, floats(conv.forward_workspace(case.samples, 1, epilogue)), 1, epilogue, index, won
        )
        epilogue.forward(raw, y, index, won, 1)
        dy = fence.array(np.ones(shape))
        value = won if kind.normalised or kind.activation != "identity" else None
        sums = np.zeros((3, epilogue.channels))
        epilogue.sums(dy, value, sums, floats(epilogue.workspace(case.samples)), 1)
        back = [raw, *(fence.array(a) for a in (p.factor, p.offset))] if kind.normalised else []
        epilogue.bind_gradient(dy, value, index if kind.pooled else None, *back)
        conv.input_grad(None, weight, dx, floats(conv.input_grad_workspace(case.samples, 1, epilogue)), 1, epilogue)
        gradient = fence.array(dweight, writeable=True)
        workspace = floats(conv.weight_grad_workspace(case.samples, 1, epilogue))
        conv.weight_grad(x, None, gradient, None, workspace, 1, epilogue)
        assert all(np.isfinite(array).all() for array in (y, won, sums, dx, gradient))

    @given(composition=compositions(), before=st.booleans())
    @settings(generated, max_examples=60)
    def check_generated(composition: tuple[Case, Kind], before: bool) -> None:
        case, kind = composition
        for algorithm in case.algorithms:
            check(case, kind, algorithm, before)

    for isa in _dispatch.isas():
        _dispatch.set_isa(isa)
        for channels in range(1, 2 * _dispatch.tile()[0] + 2):
            kind = EVERY_KIND[channels % len(EVERY_KIND)]
            whole, depthwise = Case(1, 2, channels, (2, 4), padding=(1, 1, 1, 1)), Case(1, 1, 1, (5, 3), (2, 2))
            for case in (whole, replace(depthwise, groups=channels)):
                pool = fitting_pool(case)
                for algorithm in case.algorithms:
                    check(case, replace(kind, pool=pool), algorithm, before=channels % 2 == 0)
                    check(case, replace(kind, pool=pool), algorithm, before=channels % 2 == 1)
        check_generated()


@needs_fence
def test_epilogue_touches_nothing_outside_its_arrays() -> None:
    call_in_child(__file__, "check_fences")
