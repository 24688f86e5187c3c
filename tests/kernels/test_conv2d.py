"""Convolution kernels against the oracle: every instruction set, algorithm, thread count and awkward geometry."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import oracles
import pytest
from conv_cases import (
    NAMED,
    RESULTS,
    WINOGRAD,
    Case,
    cases,
    images,
    oracle_forward,
    oracle_input_grad,
    oracle_weight_grad,
    problem,
    random_inputs,
    run_case,
    winograd_cases,
)
from hypothesis import given, settings
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
    read_only,
    sum_budget,
)

from cnet.kernels import _dispatch
from cnet.kernels.conv2d import ALGORITHMS, Conv2d

# An output takes part in the errors of all that its tile is made from, whatever its own products are: the unit is the
# largest magnitude of the result, and where that is made of few products, what a tile might be made of besides. Tiles
# of four multiply by up to 8 in each of their directions.
WINOGRAD_BUDGET = {"winograd2": 1.0, "winograd4x2": 3.0, "winograd4": 12.0}
# The root mean square of the errors, in terms of that of direct summation. Few channels, and few tiles, err most; the
# choice of "auto" is another then.
ERRORS = {"winograd2": 3.0, "winograd4x2": 6.0, "winograd4": 12.0, "auto": 4.0}


def check_case(case: Case) -> None:
    """All passes on one case, for each algorithm and thread count; "auto" must be one of the algorithms."""
    p = problem(case)
    inputs = [read_only(array, case.misaligned) for array in (p.x, p.weight, p.bias, p.dy)]
    results: dict[str, tuple[Array, ...]] = {}
    for algorithm in (*case.algorithms, "auto"):
        for threads in THREADS:
            arrays = run_case(case, *inputs, p.dweight, p.dbias, threads, algorithm)
            for name, array, one_thread in zip(RESULTS, arrays, results.setdefault(algorithm, arrays), strict=True):
                assert_same_bytes(array, one_thread, f"{name} of {algorithm} on {threads} threads")
        if algorithm != "auto":
            check_results(case, algorithm, results[algorithm])
    for index, name in enumerate(RESULTS):
        like = [a for a in case.algorithms if results[a][index].tobytes() == results["auto"][index].tobytes()]
        assert like, f"{name} of auto is not that of any algorithm"


def check_results(case: Case, algorithm: str, results: tuple[Array, ...]) -> None:
    """Against the oracle, within the error budget of the algorithm."""
    p = problem(case)
    window, pixels = int(np.prod(case.kernel)), int(np.prod(case.out_shape[:3]))
    terms = (window * case.depth + 1, window * case.breadth, pixels + 1, pixels + 1)
    x, weight, dy = (np.abs(array).max() for array in (p.x, p.weight, p.dy))
    besides = (16 * x * weight, 16 * dy * weight, 16 * x * dy)
    for index, (name, result, (expected, magnitude)) in enumerate(zip(RESULTS, results, p.expected, strict=True)):
        what, budget = f"{name} of {algorithm}", sum_budget(terms[index])
        if name == "dbias" and not case.bias:
            assert_same_bytes(result, p.dbias, "dbias that was not passed")
        elif algorithm in WINOGRAD and name != "dbias":
            assert_close(result, expected, magnitude.max() + besides[index], WINOGRAD_BUDGET[algorithm] * budget, what)
        else:
            assert_close(result, expected, magnitude, budget, what)


@pytest.mark.parametrize("case", NAMED.values(), ids=NAMED.keys())
def test_conv2d_matches_oracle_on_named_cases(isa: str, case: Case) -> None:
    check_case(case)
    check_case(replace(case, bias=False, misaligned=True))


@given(case=cases())
@generated
def test_conv2d_matches_oracle(isa: str, case: Case) -> None:
    check_case(case)


@given(case=winograd_cases())
@settings(generated, max_examples=70)
def test_conv2d_by_winograd_matches_oracle(isa: str, case: Case) -> None:
    check_case(case)


def root_mean_square(x: Any) -> float:
    return float(np.sqrt(np.mean(np.square(x))))


@pytest.mark.parametrize(
    "case",
    [
        Case(7, 9, 10, (4, 4), padding=(1, 1, 1, 1)),
        Case(2, 3, 32, (17, 16), padding=(1, 1, 1, 1)),
        Case(1, 32, 32, (24, 25)),
        Case(4, 70, 65, (9, 11), padding=(2, 1, 0, 2)),
        Case(24, 16, 16, (20, 20), padding=(1, 1, 1, 1)),
    ],
    ids=str,
)
def test_conv2d_by_winograd_errs_little_more_than_direct_summation(isa: str, case: Case) -> None:
    p = problem(case)
    errors = {}
    for algorithm in ("direct", *ERRORS):
        results = run_case(case, p.x, p.weight, p.bias, p.dy, p.dweight, p.dbias, 1, algorithm)
        errors[algorithm] = [root_mean_square(r - e) for r, (e, _) in zip(results[:3], p.expected[:3], strict=True)]
    for algorithm, most in ERRORS.items():
        for name, error, direct in zip(RESULTS[:3], errors[algorithm], errors["direct"], strict=True):
            assert error <= most * direct, f"{name} of {algorithm}: {error / direct:.1f} times"


def bytes_of(case: Case, algorithm: str) -> dict[str, bytes]:
    results = run_case(case, *random_inputs(case), 1, algorithm)
    return {name: result.tobytes() for name, result in zip(RESULTS, results, strict=True)}


def test_conv2d_chooses_winograd_where_channels_are_many(isa: str) -> None:
    case = Case(8, 64, 64, (14, 14), padding=(1, 1, 1, 1))
    auto, direct, winograd = (bytes_of(case, algorithm) for algorithm in ("auto", "direct", "winograd4x2"))
    for name in ("y", "dx", "dweight"):
        assert auto[name] == winograd[name] != direct[name], name


def test_conv2d_chooses_the_tile_that_fits_the_image(isa: str) -> None:
    """Six rows are two tiles of four, or three of two."""
    case = Case(8, 64, 64, (6, 6), padding=(1, 1, 1, 1))
    auto, small = bytes_of(case, "auto"), bytes_of(case, "winograd2")
    assert all(auto[name] == small[name] for name in ("y", "dx", "dweight"))


def test_conv2d_chooses_overlapping_products_for_few_input_channels(isa: str) -> None:
    case = Case(4, 3, 64, (16, 16), padding=(1, 1, 1, 1))
    auto, direct, overlap = (bytes_of(case, algorithm) for algorithm in ("auto", "direct", "overlap"))
    assert auto["dx"] == overlap["dx"] != direct["dx"]
    assert auto["y"] == overlap["y"] == direct["y"] and auto["dweight"] == overlap["dweight"] == direct["dweight"]


def test_conv2d_chooses_blocks_of_pixels_for_few_output_channels(isa: str) -> None:
    """Their sums are those of direct summation, zeros added; what is not a number shows in a whole block."""
    case = Case(1, 3, 2, (9, 36), (5, 5))
    x, *rest = random_inputs(case)
    x[0, 4, 17, 0] = np.nan
    auto, direct, blocks = (run_case(case, x, *rest, 1, name) for name in ("auto", "direct", "blocks"))
    assert_same_bytes(auto[0], blocks[0], "y")
    assert np.isnan(blocks[0]).sum() > np.isnan(direct[0]).sum() == 2 * 25
    assert_same_bytes(blocks[1], direct[1], "dx")


@pytest.mark.parametrize(
    "case",
    [
        Case(4, 16, 16, (6, 6), padding=(1, 1, 1, 1)),
        Case(1, 64, 64, (2, 2), padding=(1, 1, 1, 1)),
        Case(8, 64, 64, (14, 14), padding=(1, 1, 1, 1), dilation=(2, 2)),
        Case(8, 32, 32, (14, 14), padding=(1, 1, 1, 1), groups=2),
        Case(8, 64, 64, (14, 14), (5, 5), padding=(2, 2, 2, 2)),
        Case(8, 64, 64, (14, 14), stride=(2, 1), padding=(1, 1, 1, 1)),
        Case(2, 64, 64, (14, 14), padding=(3, 1, 1, 1)),
    ],
    ids=str,
)
def test_conv2d_chooses_among_sums_of_products_elsewhere(isa: str, case: Case) -> None:
    """Tiny layers, and those that no other algorithm takes; forcing one that does not apply changes nothing."""
    others = ("direct", "overlap", "dots", "patches")
    results = {algorithm: bytes_of(case, algorithm) for algorithm in ("auto", *others)}
    for name in RESULTS:
        assert any(results["auto"][name] == results[algorithm][name] for algorithm in others), name
    for algorithm in set(ALGORITHMS) - {"auto", *case.algorithms}:
        assert bytes_of(case, algorithm) == results["direct"], algorithm


def test_conv2d_chooses_direct_summation_for_wide_rows(isa: str) -> None:
    """Rows of pixels that fill register tiles, of channels that fill vectors."""
    case = Case(2, 32, 32, (28, 28), (5, 5), padding=(2, 2, 2, 2))
    assert bytes_of(case, "auto") == bytes_of(case, "direct")


def test_conv2d_chooses_dot_products_for_few_output_channels_of_long_sums(isa: str) -> None:
    """And for the input gradient of few input channels, where no products overlap."""
    case = Case(2, 128, 1, (12, 12), padding=(1, 1, 1, 1))
    auto, direct, dots = (bytes_of(case, algorithm) for algorithm in ("auto", "direct", "dots"))
    assert auto["y"] == dots["y"] != direct["y"] and auto["dweight"] == dots["dweight"] != direct["dweight"]
    case = Case(2, 1, 128, (12, 12), padding=(1, 1, 1, 1), dilation=(2, 2))
    auto, direct, dots = (bytes_of(case, algorithm) for algorithm in ("auto", "direct", "dots"))
    assert auto["dx"] == dots["dx"] != direct["dx"] and auto["y"] == direct["y"]


def test_conv2d_chooses_to_spread_channels_of_small_groups(isa: str) -> None:
    case = Case(2, 1, 2, (13, 12), padding=(1, 1, 1, 1), groups=32)
    auto, direct, spread = (run_case(case, *random_inputs(case), 1, name) for name in ("auto", "direct", "spread"))
    assert_same_bytes(auto[2], spread[2], "dweight")
    assert auto[2].tobytes() != direct[2].tobytes()
    # Sums of few terms are the same either way.
    assert_same_bytes(auto[0], spread[0], "y")


def test_conv2d_chooses_patches_for_short_rows_of_many_channels(isa: str) -> None:
    """Sums that are long enough to be formed in stretches, which shows in their bits only by chance."""
    case = Case(8, 128, 256, (7, 7), (5, 3), stride=(3, 3), padding=(2, 2, 1, 1))
    auto, direct, patches = (bytes_of(case, algorithm) for algorithm in ("auto", "direct", "patches"))
    assert auto["dweight"] == patches["dweight"] != direct["dweight"]
    assert auto["y"] == patches["y"] and auto["dx"] == patches["dx"]


def test_conv2d_may_choose_by_the_size_of_the_batch(isa: str) -> None:
    """Transforming the weights pays for many images, not for one; workspaces are those of the choice."""
    case = Case(1, 64, 64, (4, 4), padding=(1, 1, 1, 1))
    auto, winograd = bytes_of(case, "auto"), bytes_of(case, "winograd4x2")
    assert all(auto[name] != winograd[name] for name in ("y", "dx", "dweight"))
    case = replace(case, samples=32)
    assert bytes_of(case, "auto") == bytes_of(case, "winograd4x2") != bytes_of(case, "direct")


def test_conv2d_refuses_an_unknown_algorithm() -> None:
    for algorithm in ("winograd", "", "AUTO"):
        with pytest.raises(AssertionError):
            Conv2d(1, 1, 5, 5, (3, 3), algorithm=algorithm)


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
    check_confinement(NAMED[name], "direct")


@pytest.mark.parametrize("name", ["groups", "depth-multiplier", "channels-summed-by-group", "spread-rows-in-parts"])
def test_conv2d_by_channels_spread_out_confines_what_is_not_a_number(isa: str, name: str) -> None:
    check_confinement(NAMED[name], "spread")


@pytest.mark.parametrize("algorithm", ["dots", "patches"])
@pytest.mark.parametrize(
    "name",
    ["one-by-one", "one-by-one-strided", "padding-beyond-kernel", "dilated-strided", "groups-of-ragged-breadth",
     "channels-summed-by-group", "images-in-one-product", "stretches-of-long-segments"],
)  # fmt: skip
def test_conv2d_by_other_products_confines_what_is_not_a_number(isa: str, name: str, algorithm: str) -> None:
    check_confinement(NAMED[name], algorithm)


@pytest.mark.parametrize(
    "name",
    ["first-layer", "one-by-one-strided", "padding-beyond-kernel", "blocks-of-few-images", "one-channel-each-way"],
)
def test_conv2d_by_overlapping_products_confines_what_is_not_a_number(isa: str, name: str) -> None:
    check_confinement(NAMED[name], "overlap")


def check_confinement(case: Case, algorithm: str) -> None:
    """A NaN in an image, channel or weight reaches what depends on it by the formula, and nothing else.

    Not other images, whose scratch it may share, nor other groups, whose lanes may stand next to its own.
    """
    clean = problem(case)
    bias = clean.bias if case.bias else None
    budget = sum_budget(case.samples * case.work)

    def poisoned(array: Array, place: float) -> Array:
        array = array.copy()
        array.reshape(-1)[int(place * (array.size - 1))] = np.nan
        return read_only(array)

    def run(x: Array, weight: Array, dy: Array) -> tuple[Array, ...]:
        return run_case(case, x, weight, read_only(clean.bias), dy, clean.dweight, clean.dbias, 1, algorithm)

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


@pytest.mark.parametrize("algorithm", WINOGRAD)
def test_conv2d_by_winograd_keeps_images_and_tiles_apart(isa: str, algorithm: str) -> None:
    """A NaN spreads over the tiles that see it, no further; and not to images that share an item with its own."""
    case, reach = Case(19, 3, 18, (13, 12), padding=(1, 0, 1, 1)), int(algorithm[len("winograd")]) + 1
    p = problem(case)
    clean = run_case(case, p.x, p.weight, p.bias, p.dy, p.dweight, p.dbias, 1, algorithm)
    for image, row, column in ((0, 0, 0), (7, 6, 5), (18, 11, 11)):
        x, dy = p.x.copy(), p.dy.copy()
        x[image, row, column, 1] = dy[image, row, column, 4] = np.nan
        results = run_case(case, x, p.weight, p.bias, dy, p.dweight, p.dbias, 1, algorithm)
        for name, result, sound in zip(("y", "dx"), results, clean, strict=False):
            i, h, w = np.argwhere(np.isnan(result).any(axis=3)).T
            assert (i == image).all() and i.size, name
            assert np.abs(h - row).max() <= reach and np.abs(w - column).max() <= reach, name
            assert_same_bytes(np.where(np.isnan(result), 0, result), np.where(np.isnan(result), 0, sound), name)
        # Every weight sees the pixel, or nearly; of one channel of x or of dy.
        assert (np.argwhere(np.isnan(results[2])).T[2] == 1).sum() >= 4 * case.breadth
        others = np.delete(np.delete(results[2], 1, axis=2), 4, axis=3)
        assert_same_bytes(others, np.delete(np.delete(clean[2], 1, axis=2), 4, axis=3), "dweight of other channels")
        assert np.flatnonzero(np.isnan(results[3])).tolist() == [4]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_conv2d_weight_grad_adds_up_over_calls(isa: str, algorithm: str) -> None:
    case = Case(9, 5, 19, padding=(1, 1, 1, 1))
    p = problem(case)
    dweight, dbias, conv = Guarded(p.weight.shape, p.dweight), Guarded(p.bias.shape, p.dbias), case.bind(algorithm)
    for part in (slice(0, 4), slice(4, 9)):
        x, dy = read_only(p.x[part]), read_only(p.dy[part])
        workspace = Guarded(conv.weight_grad_workspace(len(x), 2)).array
        conv.weight_grad(x, dy, dweight.array, dbias.array, workspace, 2)
    pixels = int(np.prod(case.out_shape[:3]))
    besides = 16 * np.abs(p.x).max() * np.abs(p.dy).max() if algorithm in WINOGRAD else 0
    budget = WINOGRAD_BUDGET.get(algorithm, 1) * sum_budget(pixels + 2)
    assert_close(dweight.array, p.weight_grad[0], p.weight_grad[1] + besides, budget)
    assert_close(dbias.array, *p.bias_grad, sum_budget(pixels + 2))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("stride", [(1, 1), (2, 1)], ids=str)
def test_conv2d_workspace_may_be_larger(isa: str, algorithm: str, stride: tuple[int, int]) -> None:
    """A workspace shared by the layers of a model: sized for more images and threads than a call has."""
    case = Case(3, 5, 19, stride=stride, padding=(1, 1, 1, 1))
    p, conv = problem(case), case.bind(algorithm)
    expected = run_case(case, p.x, p.weight, p.bias, p.dy, p.dweight, p.dbias, 1, algorithm)
    workspace, y, dx = Guarded(1_000_000), Guarded(p.dy.shape), Guarded(p.x.shape)
    dweight, dbias = Guarded(p.weight.shape, p.dweight), Guarded(p.bias.shape, p.dbias)
    conv.forward(p.x, p.weight, p.bias, y.array, workspace.array, 2)
    conv.input_grad(p.dy, p.weight, dx.array, workspace.array, 2)
    conv.weight_grad(p.x, p.dy, dweight.array, dbias.array, workspace.array, 2)
    for result, one_thread in zip((y, dx, dweight, dbias), expected, strict=True):
        assert_same_bytes(result.array, one_thread)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_conv2d_refuses_a_workspace_too_small(isa: str, algorithm: str) -> None:
    case = Case(3, 5, 19, padding=(1, 1, 1, 1))
    p, conv = problem(case), case.bind(algorithm)

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
        x, dy = np.empty(case.in_shape, np.float32), np.empty(case.out_shape, np.float32)
        weight, bias = read_only(np.ones(case.weight_shape)), read_only(np.ones(case.channels[1]))
        for algorithm in ALGORITHMS:
            for threads in THREADS:
                _, _, dweight, dbias = run_case(case, x, weight, bias, dy, 2, 5, threads, algorithm)
                assert (dweight == 2).all() and (dbias == 5).all()


def check_fences() -> None:
    """Every instruction set on arrays against pages that cannot be touched, at their beginning and at their end."""

    def check(case: Case, algorithm: str, before: bool) -> None:
        print(_dispatch.isa(), algorithm, case, "before" if before else "after", file=sys.stderr)
        fence, conv = Fence(before), case.bind(algorithm)
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

    @given(case=cases(most_work=200_000), before=st.booleans())
    @settings(generated, max_examples=100)
    def check_generated(case: Case, before: bool) -> None:
        for algorithm in case.algorithms[:2]:
            check(case, algorithm, before)

    @given(case=winograd_cases(most_work=100_000), before=st.booleans())
    @settings(generated, max_examples=50)
    def check_winograd(case: Case, before: bool) -> None:
        for algorithm in WINOGRAD:
            check(case, algorithm, before)

    for isa in _dispatch.isas():
        _dispatch.set_isa(isa)
        for case in NAMED.values():
            for algorithm in case.algorithms if case.samples * case.work < 2_000_000 else ["auto"]:
                for before in (False, True):
                    check(case, algorithm, before)
        # Every number of lanes that the last vector of a row can have, in x, in dy and in both.
        for channels in range(1, 2 * _dispatch.tile()[0] + 2):
            for case in (
                Case(1, channels, 3, (4, 3)),
                Case(1, 2, channels, (4, 3)),
                Case(1, channels, channels, (3, 3)),
            ):
                for algorithm in case.algorithms:
                    check(case, algorithm, before=channels % 2 == 0)
                    check(case, algorithm, before=channels % 2 == 1)
            check(Case(1, 1, 1, (4, 3), groups=channels), "direct", before=False)
        check_generated()
        check_winograd()


@needs_fence
def test_conv2d_touches_nothing_outside_its_arrays() -> None:
    call_in_child(__file__, "check_fences")
