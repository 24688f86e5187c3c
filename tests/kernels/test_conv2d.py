"""Convolution kernels against the oracle: every instruction set, thread count and awkward geometry."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_cases import (
    THREADS,
    Array,
    Fence,
    Guarded,
    assert_close,
    assert_same_bytes,
    call_in_child,
    generated,
    needs_fence,
    ragged_sizes,
    random_array,
    read_only,
    sizes,
    sum_budget,
)

from cnet.kernels import _dispatch
from cnet.kernels.conv2d import Conv2d


@dataclass(frozen=True)
class Case:
    """A convolution; ``depth`` and ``breadth`` are the input and output channels of one group."""

    samples: int = 2
    depth: int = 3
    breadth: int = 4
    size: tuple[int, int] = (6, 7)
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    bias: bool = True
    misaligned: bool = False

    @property
    def geometry(self) -> tuple[Any, ...]:
        return self.stride, self.padding, self.dilation, self.groups

    @property
    def out_size(self) -> tuple[int, int]:
        return oracles.conv2d_output_size(self.size, self.kernel, self.stride, self.padding, self.dilation)

    @property
    def out_shape(self) -> tuple[int, ...]:
        return (self.samples, *self.out_size, self.groups * self.breadth)

    @property
    def work(self) -> int:
        """Multiply-adds of one pass over one image."""
        return int(np.prod((*self.out_size, *self.kernel, self.depth, self.breadth, self.groups)))

    def bind(self) -> Conv2d:
        channels = self.groups * self.depth, self.groups * self.breadth
        return Conv2d(*channels, *self.size, self.kernel, *self.geometry)


def images(x: Array) -> Array:
    """Physical ``[n, h, w, c]`` as logical ``[n, c, h, w]``."""
    return np.moveaxis(x, -1, 1)


def filters(weight: Array) -> Array:
    """Physical ``[kh, kw, in, out]`` as logical ``[out, in, kh, kw]``."""
    return weight.transpose(3, 2, 0, 1)


def oracle_forward(case: Case, x: Array, weight: Array, bias: Array | None = None) -> oracles.Array:
    return np.moveaxis(oracles.conv2d_forward(images(x), filters(weight), bias, *case.geometry), 1, -1)


def oracle_input_grad(case: Case, dy: Array, weight: Array) -> oracles.Array:
    return np.moveaxis(oracles.conv2d_input_grad(images(dy), filters(weight), case.size, *case.geometry), 1, -1)


def oracle_weight_grad(case: Case, x: Array, dy: Array) -> oracles.Array:
    return oracles.conv2d_weight_grad(images(x), images(dy), case.kernel, *case.geometry).transpose(2, 3, 1, 0)


@dataclass(frozen=True)
class Problem:
    """Inputs of a case, and the oracle's results with their sums of absolute products."""

    x: Array
    weight: Array
    bias: Array
    dy: Array
    dweight: Array
    dbias: Array
    forward: tuple[oracles.Array, oracles.Array]
    input_grad: tuple[oracles.Array, oracles.Array]
    weight_grad: tuple[oracles.Array, oracles.Array]
    bias_grad: tuple[oracles.Array, oracles.Array]


def random_inputs(case: Case) -> tuple[Array, ...]:
    """``x``, ``weight``, ``bias``, ``dy``, and what ``dweight`` and ``dbias`` hold before."""
    generator = np.random.default_rng([case.samples, case.depth, case.breadth, *case.size, *case.kernel])
    weights, outputs = (*case.kernel, case.depth, case.groups * case.breadth), case.groups * case.breadth
    shapes = [(case.samples, *case.size, case.groups * case.depth), weights, outputs, case.out_shape, weights, outputs]
    return tuple(random_array(generator, shape) for shape in shapes)


@lru_cache(maxsize=512)
def problem(case: Case) -> Problem:
    x, weight, bias, dy, dweight, dbias = random_inputs(case)

    def with_magnitude(function, *arrays, start=0.0):
        return function(case, *arrays) + start, function(case, *map(np.abs, arrays)) + np.abs(start)

    def bias_grad(case, dy):
        return oracles.conv2d_bias_grad(images(dy))

    return Problem(
        x, weight, bias, dy, dweight, dbias,
        forward=with_magnitude(oracle_forward, x, weight, start=bias if case.bias else 0.0),
        input_grad=with_magnitude(oracle_input_grad, dy, weight),
        weight_grad=with_magnitude(oracle_weight_grad, x, dy, start=dweight),
        bias_grad=with_magnitude(bias_grad, dy, start=dbias),
    )  # fmt: skip


def run_case(case: Case, x: Array, weight: Array, bias: Array, dy: Array, dweight: Any, dbias: Any, threads: int):
    """``y, dx, dweight, dbias`` of the kernels, in guarded arrays and with workspaces of the size they ask for."""
    conv = case.bind()
    assert (conv.out_height, conv.out_width) == case.out_size
    y, dx = Guarded(dy.shape, misaligned=case.misaligned), Guarded(x.shape, misaligned=case.misaligned)
    dweight = Guarded(weight.shape, dweight, case.misaligned)
    dbias = Guarded(bias.shape, dbias, case.misaligned)

    def workspace(floats: int) -> Guarded:
        return Guarded(floats, misaligned=case.misaligned)

    workspaces = [
        workspace(conv.forward_workspace(case.samples, threads)),
        workspace(conv.input_grad_workspace(case.samples, threads)),
        workspace(conv.weight_grad_workspace(case.samples, threads)),
    ]
    conv.forward(x, weight, bias if case.bias else None, y.array, workspaces[0].array, threads)
    conv.input_grad(dy, weight, dx.array, workspaces[1].array, threads)
    conv.weight_grad(x, dy, dweight.array, dbias.array if case.bias else None, workspaces[2].array, threads)
    for guarded in (y, dx, dweight, dbias, *workspaces):
        guarded.check()
    return y.array, dx.array, dweight.array, dbias.array


def check_case(case: Case) -> None:
    """All passes on one case, for each thread count."""
    p = problem(case)
    x, weight, bias, dy = (read_only(array, case.misaligned) for array in (p.x, p.weight, p.bias, p.dy))
    first: tuple[Array, ...] = ()
    for threads in THREADS:
        results = run_case(case, x, weight, bias, dy, p.dweight, p.dbias, threads)
        if first:
            for name, result, one_thread in zip(("y", "dx", "dweight", "dbias"), results, first, strict=True):
                assert_same_bytes(result, one_thread, f"{name} on {threads} threads")
            continue
        first = y, dx, dweight, dbias = results
        window, pixels = int(np.prod(case.kernel)), int(np.prod(case.out_shape[:3]))
        assert_close(y, *p.forward, sum_budget(window * case.depth + 1), "y")
        assert_close(dx, *p.input_grad, sum_budget(window * case.breadth), "dx")
        assert_close(dweight, *p.weight_grad, sum_budget(pixels + 1), "dweight")
        if case.bias:
            assert_close(dbias, *p.bias_grad, sum_budget(pixels + 1), "dbias")
        else:
            assert_same_bytes(dbias, p.dbias, "dbias that was not passed")


NAMED = {
    "smallest": Case(1, 1, 1, (1, 1), (1, 1)),
    "one-pixel-padded": Case(3, 5, 6, (1, 1), padding=(1, 1, 1, 1)),
    "kernel-is-image": Case(4, 7, 9, (5, 6), (5, 6)),
    "kernel-is-padded-image": Case(2, 3, 5, (3, 2), (5, 6), padding=(2, 0, 1, 3)),
    "first-layer": Case(5, 1, 32, (28, 28), padding=(1, 1, 1, 1)),
    "colour-images": Case(2, 3, 64, (16, 16), padding=(1, 1, 1, 1)),
    "one-by-one": Case(3, 33, 17, (7, 5), (1, 1)),
    "one-by-one-padded": Case(3, 6, 17, (4, 5), (1, 1), padding=(1, 0, 2, 0)),
    "one-by-one-strided": Case(3, 17, 33, (7, 8), (1, 1), (2, 3)),
    "one-by-one-grouped": Case(3, 5, 18, (4, 3), (1, 1), groups=3),
    "stride-beyond-kernel": Case(2, 4, 5, (11, 14), (2, 3), (4, 5), (1, 0, 0, 2)),
    "stride-beyond-image": Case(2, 4, 5, (3, 2), (2, 2), (7, 9)),
    # Residues of the input that no tap reaches, or fewer rows of them than of others: their blocks of rows differ.
    "strided-odd-size": Case(1, 4, 5, (13, 12), stride=(2, 2), padding=(1, 1, 1, 1)),
    "residues-without-taps": Case(1, 2, 3, (9, 7), stride=(2, 1), padding=(1, 1, 0, 0), dilation=(2, 1)),
    "rows-never-read": Case(2, 3, 4, (13, 14), (2, 2), (5, 6)),
    "padding-beyond-kernel": Case(2, 3, 4, (3, 4), (2, 2), padding=(5, 3, 4, 6)),
    "padding-below-and-right": Case(2, 3, 4, padding=(0, 2, 0, 1)),
    "padding-above-and-left": Case(2, 3, 4, padding=(2, 0, 1, 0)),
    "dilated": Case(2, 5, 6, (11, 12), (3, 3), padding=(2, 2, 3, 3), dilation=(2, 3)),
    "dilated-strided": Case(2, 5, 6, (13, 12), (3, 4), (2, 3), (3, 4, 2, 2), (3, 2)),
    "stride-divides-dilation": Case(2, 5, 6, (13, 12), (3, 3), (2, 2), (2, 2, 2, 2), (4, 2)),
    "dilation-across-only": Case(2, 6, 5, (6, 9), (3, 2), padding=(1, 1, 1, 1), dilation=(1, 3)),
    "groups": Case(2, 6, 10, (6, 5), padding=(1, 1, 1, 1), groups=3),
    "groups-of-ragged-breadth": Case(2, 2, 19, (6, 5), padding=(1, 1, 1, 1), groups=2),
    "groups-of-two-panels": Case(2, 3, 45, (4, 5), groups=2),
    "depthwise": Case(2, 1, 1, (7, 6), padding=(1, 1, 1, 1), groups=37),
    "depthwise-many-images": Case(35, 1, 1, (13, 12), padding=(1, 1, 1, 1), groups=19),
    "depthwise-strided-dilated": Case(3, 1, 1, (9, 10), (3, 2), (2, 3), (2, 1, 0, 3), (2, 2), 21),
    "depth-multiplier": Case(2, 1, 3, (6, 6), padding=(1, 1, 1, 1), groups=8),
    "channels-summed-by-group": Case(2, 4, 1, (6, 6), padding=(1, 1, 1, 1), groups=5),
    "wider-than-a-block-of-points": Case(2, 2, 3, (2, 150), (1, 3), padding=(0, 0, 1, 1)),
    "tall": Case(1, 2, 3, (90, 2), (3, 1), padding=(1, 1, 0, 0)),
    "more-images-than-items": Case(37, 3, 5, (4, 4), padding=(1, 1, 1, 1)),
    # More weights than stay in a second-level cache: a few images share each panel.
    "images-sharing-panels": Case(37, 128, 120, (1, 2), padding=(1, 1, 1, 1)),
    "images-sharing-panels-unpadded": Case(49, 120, 128, (3, 3)),
    "images-sharing-panels-strided": Case(34, 130, 120, (3, 2), stride=(2, 2), padding=(1, 0, 1, 1)),
}


@pytest.mark.parametrize("case", NAMED.values(), ids=NAMED.keys())
def test_conv2d_matches_oracle_on_named_cases(isa: str, case: Case) -> None:
    check_case(case)
    check_case(replace(case, bias=False, misaligned=True))


# Multiply-adds of a generated case: enough for three threads, few enough that hundreds of oracles take seconds.
MOST_WORK = 1_000_000


@st.composite
def cases(draw: st.DrawFn, most_work: int = MOST_WORK) -> Case:
    """Convolutions of every kind; the image is made large enough for one window."""

    def pair(most: int, *often: int) -> tuple[int, int]:
        one = st.one_of(st.sampled_from(often), st.integers(1, most))
        return draw(one), draw(one)

    kind = draw(st.sampled_from(["plain", "plain", "plain", "plain", "groups", "depthwise"]))
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (3, 3), (5, 5)])) if draw(st.booleans()) else pair(7, 1, 2)
    stride, dilation = pair(5, 1, 1, 2), pair(4, 1, 1, 1)
    padding = (0, 0, 0, 0)
    if draw(st.booleans()):
        rows, columns = st.integers(0, kernel[0] + 2), st.integers(0, kernel[1] + 2)
        padding = draw(rows), draw(rows), draw(columns), draw(columns)
    size = pair(17, 1, 2)
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    size = (
        max(size[0], reach[0] - padding[0] - padding[1]),
        max(size[1], reach[1] - padding[2] - padding[3]),
    )
    if kind == "depthwise":
        depth, breadth, groups = 1, 1, draw(sizes(70))
    elif kind == "groups":
        depth, breadth, groups = draw(sizes(18)), draw(sizes(36)), draw(st.integers(2, 5))
    else:
        depth, breadth, groups = draw(sizes(70)), draw(sizes(70)), 1
    case = Case(
        1, depth, breadth, size, kernel, stride, padding, dilation, groups, draw(st.booleans()), draw(st.booleans())
    )
    return replace(case, samples=min(draw(sizes(40, 2, 3, 5, 32)), max(1, most_work // case.work)))


@given(case=cases())
@generated
def test_conv2d_matches_oracle(isa: str, case: Case) -> None:
    check_case(case)


def test_conv2d_matches_oracle_around_the_tile(isa: str) -> None:
    """Channels around the vector and the panel, and rows of pixels of every height of register tile."""
    columns = ragged_sizes("columns")
    for depth in columns:
        for breadth in columns:
            check_case(Case(1, depth, breadth, (3, 3), padding=(1, 1, 1, 1)))
            check_case(Case(2, depth, breadth, (2, 3), (1, 1)))
    for width in range(1, 2 * _dispatch.tile()[1] + 2):
        check_case(Case(1, 2, 5, (2, width), (2, 3), padding=(0, 1, 1, 1)))


@pytest.mark.parametrize(
    "name",
    ["first-layer", "one-by-one", "one-by-one-strided", "padding-beyond-kernel", "dilated-strided", "groups",
     "groups-of-ragged-breadth", "depthwise-strided-dilated", "depth-multiplier", "channels-summed-by-group",
     "images-sharing-panels"],
)  # fmt: skip
def test_conv2d_confines_what_is_not_a_number(isa: str, name: str) -> None:
    """A NaN in an image, channel or weight reaches what depends on it by the formula, and nothing else.

    Not other images, whose scratch it may share, nor other groups, whose lanes may stand next to its own.
    """
    case = NAMED[name]
    clean = problem(case)
    bias = clean.bias if case.bias else None
    budget = sum_budget(case.samples * case.work)

    def poisoned(array: Array, place: float) -> Array:
        array = array.copy()
        array.reshape(-1)[int(place * (array.size - 1))] = np.nan
        return read_only(array)

    def run(x: Array, weight: Array, dy: Array) -> tuple[Array, ...]:
        return run_case(case, x, weight, read_only(clean.bias), dy, clean.dweight, clean.dbias, 1)

    def compare(result: Array, expected: oracles.Array, magnitude: oracles.Array) -> None:
        assert_same_bytes(np.isnan(result).astype(np.float32), np.isnan(expected).astype(np.float32), "NaN or not")
        sound = ~np.isnan(expected)
        assert_close(result[sound], expected[sound], magnitude[sound], budget)

    for place in (0.0, 0.45, 1.0):
        x, weight, dy = (poisoned(array, place) for array in (clean.x, clean.weight, clean.dy))
        y, dx, dweight, _ = run(x, clean.weight, clean.dy)
        compare(y, oracle_forward(case, x, clean.weight, bias), clean.forward[1])
        assert_close(dx, *clean.input_grad, budget)
        compare(dweight, oracle_weight_grad(case, x, clean.dy) + clean.dweight, clean.weight_grad[1])
        _, dx, dweight, dbias = run(clean.x, clean.weight, dy)
        compare(dx, oracle_input_grad(case, dy, clean.weight), clean.input_grad[1])
        compare(dweight, oracle_weight_grad(case, clean.x, dy) + clean.dweight, clean.weight_grad[1])
        compare(dbias, oracles.conv2d_bias_grad(images(dy)) + clean.dbias, clean.bias_grad[1])
        # Of the passes that read the weight only the forward one has its answer in the formula: zero padding times NaN
        # is NaN, but the input gradient's padding is the kernel's own affair.
        y, *_ = run(clean.x, weight, clean.dy)
        compare(y, oracle_forward(case, clean.x, weight, bias), clean.forward[1])


def test_conv2d_weight_grad_adds_up_over_calls(isa: str) -> None:
    case = Case(9, 5, 19, padding=(1, 1, 1, 1))
    p = problem(case)
    dweight, dbias, conv = Guarded(p.weight.shape, p.dweight), Guarded(p.bias.shape, p.dbias), case.bind()
    for part in (slice(0, 4), slice(4, 9)):
        x, dy = read_only(p.x[part]), read_only(p.dy[part])
        workspace = Guarded(conv.weight_grad_workspace(len(x), 2)).array
        conv.weight_grad(x, dy, dweight.array, dbias.array, workspace, 2)
    pixels = int(np.prod(case.out_shape[:3]))
    assert_close(dweight.array, *p.weight_grad, sum_budget(pixels + 2))
    assert_close(dbias.array, *p.bias_grad, sum_budget(pixels + 2))


def test_conv2d_workspace_may_be_larger(isa: str) -> None:
    """A workspace shared by the layers of a model: sized for more images and threads than a call has."""
    case = Case(3, 5, 19, stride=(2, 1), padding=(1, 1, 1, 1))
    p, conv = problem(case), case.bind()
    expected = run_case(case, p.x, p.weight, p.bias, p.dy, p.dweight, p.dbias, 1)
    workspace, y, dx = Guarded(1_000_000), Guarded(p.dy.shape), Guarded(p.x.shape)
    dweight, dbias = Guarded(p.weight.shape, p.dweight), Guarded(p.bias.shape, p.dbias)
    conv.forward(p.x, p.weight, p.bias, y.array, workspace.array, 2)
    conv.input_grad(p.dy, p.weight, dx.array, workspace.array, 2)
    conv.weight_grad(p.x, p.dy, dweight.array, dbias.array, workspace.array, 2)
    for result, one_thread in zip((y, dx, dweight, dbias), expected, strict=True):
        assert_same_bytes(result.array, one_thread)


def test_conv2d_refuses_a_workspace_too_small(isa: str) -> None:
    case = Case(3, 5, 19, stride=(2, 1), padding=(1, 1, 1, 1))
    p, conv = problem(case), case.bind()

    def short(floats: int) -> Array:
        return np.empty(floats - 1, np.float32)

    y, dx, dweight = (np.empty(array.shape, np.float32) for array in (p.dy, p.x, p.weight))
    with pytest.raises(AssertionError):
        conv.forward(p.x, p.weight, None, y, short(conv.forward_workspace(3, 2)), 2)
    with pytest.raises(AssertionError):
        conv.input_grad(p.dy, p.weight, dx, short(conv.input_grad_workspace(3, 2)), 2)
    with pytest.raises(AssertionError):
        conv.weight_grad(p.x, p.dy, dweight, None, short(conv.weight_grad_workspace(3, 2)), 2)


def test_conv2d_of_no_samples_does_nothing(isa: str) -> None:
    for case in (Case(0, 3, 4, padding=(1, 1, 1, 1)), Case(0, 1, 1, groups=5), Case(0, 4, 5, kernel=(1, 1))):
        weights, outputs = (*case.kernel, case.depth, case.groups * case.breadth), case.groups * case.breadth
        x, dy = np.empty((0, *case.size, case.groups * case.depth), np.float32), np.empty(case.out_shape, np.float32)
        weight, bias = read_only(np.ones(weights)), read_only(np.ones(outputs))
        for threads in THREADS:
            _, _, dweight, dbias = run_case(case, x, weight, bias, dy, 2, 5, threads)
            assert (dweight == 2).all() and (dbias == 5).all()


def check_fences() -> None:
    """Every instruction set on arrays against pages that cannot be touched, at their beginning and at their end."""

    def check(case: Case, before: bool) -> None:
        print(_dispatch.isa(), case, "before" if before else "after", file=sys.stderr)
        fence, conv = Fence(before), case.bind()
        x, weight, bias, dy, dweight, dbias = random_inputs(case)
        y, dx = np.full_like(dy, np.nan), np.full_like(x, np.nan)
        y, dx, dweight, dbias = (fence.array(array, writeable=True) for array in (y, dx, dweight, dbias))
        x, weight, bias, dy = (fence.array(array) for array in (x, weight, bias, dy))

        def workspace(floats: int) -> Array:
            return fence.array(np.full(floats, np.nan), writeable=True)

        conv.forward(x, weight, bias, y, workspace(conv.forward_workspace(case.samples, 1)), 1)
        conv.input_grad(dy, weight, dx, workspace(conv.input_grad_workspace(case.samples, 1)), 1)
        conv.weight_grad(x, dy, dweight, dbias, workspace(conv.weight_grad_workspace(case.samples, 1)), 1)
        assert all(np.isfinite(array).all() for array in (y, dx, dweight, dbias))

    @given(case=cases(), before=st.booleans())
    @generated
    def check_generated(case: Case, before: bool) -> None:
        check(case, before)

    for isa in _dispatch.isas():
        _dispatch.set_isa(isa)
        for case in NAMED.values():
            for before in (False, True):
                check(case, before)
        check_generated()


@needs_fence
def test_conv2d_touches_nothing_outside_its_arrays() -> None:
    call_in_child(__file__, "check_fences")
