"""Dense kernels against the oracle: every instruction set, thread count and awkward size."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import oracles
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kernel_cases import (
    RAGGED_SIZES,
    THREADS,
    Array,
    Fence,
    Guarded,
    Problem,
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
from cnet.kernels.dense import Dense


@dataclass(frozen=True)
class Case:
    samples: int
    inputs: int
    outputs: int
    bias: bool = True
    misaligned: bool = False


@lru_cache(maxsize=512)
def problem(case: Case) -> Problem:
    generator = np.random.default_rng([case.samples, case.inputs, case.outputs])
    x = random_array(generator, (case.samples, case.inputs))
    weight = random_array(generator, (case.inputs, case.outputs))
    bias = random_array(generator, case.outputs)
    dy = random_array(generator, (case.samples, case.outputs))
    dweight = random_array(generator, weight.shape)
    dbias = random_array(generator, case.outputs)

    def with_magnitude(function, *arrays, start=0.0):
        return function(*arrays) + start, function(*map(np.abs, arrays)) + np.abs(start)

    return Problem(
        x, weight, bias, dy, dweight, dbias,
        forward=with_magnitude(oracles.dense_forward, x, weight, start=bias if case.bias else 0.0),
        input_grad=with_magnitude(oracles.dense_input_grad, dy, weight),
        weight_grad=with_magnitude(oracles.dense_weight_grad, x, dy, start=dweight),
        bias_grad=with_magnitude(oracles.dense_bias_grad, dy, start=dbias),
    )  # fmt: skip


def check_anew(weight: Array, bias: Array | None, x: Array, dy: Array, threads: int) -> None:
    """Gradients that are written over anything are those that are added to zeros."""
    found = []
    for anew, value in ((False, 0.0), (True, np.nan)):
        dweight, dbias = Guarded(weight.shape, value), Guarded(dy.shape[1], value)
        layer = Dense(weight, bias, dweight.array, None if bias is None else dbias.array)
        layer.backward(x, dy, None, None, threads, anew=anew)
        dweight.check()
        dbias.check()
        found.append((dweight.array, dbias.array))
    assert_same_bytes(found[1][0], found[0][0], "dweight anew")
    if bias is not None:
        assert_same_bytes(found[1][1], found[0][1], "dbias anew")


def check_case(case: Case) -> None:
    """Both passes on one case, for each thread count."""
    p = problem(case)
    x, weight, dy, bias = (read_only(array, case.misaligned) for array in (p.x, p.weight, p.dy, p.bias))
    first: list[Array] = []
    for threads in THREADS:
        y, dx = Guarded(dy.shape, misaligned=case.misaligned), Guarded(x.shape, misaligned=case.misaligned)
        dweight = Guarded(weight.shape, p.dweight, case.misaligned)
        dbias = Guarded(bias.shape, p.dbias, case.misaligned)
        with_bias = (bias, dbias.array) if case.bias else (None, None)
        layer = Dense(weight, with_bias[0], dweight.array, with_bias[1])
        workspace = Guarded(layer.forward_workspace(case.samples))
        layer.forward(x, y.array, workspace.array, threads)
        layer.backward(x, dy, dx.array, None, threads)
        results = [y, dx, dweight, dbias]
        for result in (*results, workspace):
            result.check()
        check_anew(weight, bias if case.bias else None, x, dy, threads)
        if first:
            for name, result, one_thread in zip(("y", "dx", "dweight", "dbias"), results, first, strict=True):
                assert_same_bytes(result.array, one_thread, f"{name} on {threads} threads")
            continue
        first = [result.array for result in results]
        assert_close(y.array, *p.forward, sum_budget(case.inputs + 1), "y")
        assert_close(dx.array, *p.input_grad, sum_budget(case.outputs), "dx")
        assert_close(dweight.array, *p.weight_grad, sum_budget(case.samples + 1), "dweight")
        if case.bias:
            assert_close(dbias.array, *p.bias_grad, sum_budget(case.samples + 1), "dbias")
        else:
            assert_same_bytes(dbias.array, p.dbias, "dbias that was not passed")


# Special sizes: the few rows that make dot products of an input gradient, the groups of rows, the depth of a block.
cases = st.builds(
    Case,
    samples=sizes(140, 2, 3, 4, 5, 27, 28, 29, 56, 57, 63, 64, 65, 128, 129),
    inputs=sizes(540, 255, 256, 257, 512, 513),
    outputs=sizes(540, 10, 255, 256, 257, 512, 513),
    bias=st.booleans(),
    misaligned=st.booleans(),
)


@given(case=cases)
@example(Case(1, 1, 1))
@example(Case(1, 784, 128))
@example(Case(3, 700, 64, bias=False))
@example(Case(64, 3136, 128, misaligned=True))
@example(Case(1024, 17, 3))
@example(Case(2, 300, 1030, misaligned=True))
@example(Case(61, 20, 1003))
@example(Case(130, 391, 1000))
@example(Case(33, 129, 100))
@generated
def test_dense_matches_oracle(isa: str, case: Case) -> None:
    check_case(case)


@pytest.mark.parametrize("samples", [1, 3, 4, 29])
def test_dense_matches_oracle_around_the_tile(isa: str, samples: int) -> None:
    for inputs in ragged_sizes("rows"):
        for outputs in ragged_sizes("columns"):
            check_case(Case(samples, inputs, outputs))


def test_dense_matches_oracle_for_every_count_of_rows(isa: str) -> None:
    """Every height of register tile, in the products whose rows are samples and in the one whose rows are inputs."""
    for rows in range(1, 2 * _dispatch.tile()[1] + 2):
        check_case(Case(rows, 40, 33))
        check_case(Case(5, rows, 40))


def test_dense_outputs_of_a_sample_do_not_depend_on_its_batch(isa: str) -> None:
    """Where the sum over inputs is not cut into parts: each is summed in order, in whatever tile it falls."""
    p = problem(Case(47, 60, 45))
    y = Guarded(p.dy.shape).array
    layer = Dense(p.weight, p.bias, p.dweight, p.dbias)
    assert layer.forward_workspace(47) == 0
    layer.forward(read_only(p.x), y, None, 1)
    for first, last in ((0, 1), (3, 5), (11, 24), (20, 47)):
        part = Guarded((last - first, 45)).array
        layer.forward(read_only(p.x[first:last]), part, None, 1)
        assert_same_bytes(part, y[first:last])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_dense_keeps_rows_and_columns_apart(isa: str, bad: float) -> None:
    """What is not finite in one sample or one output reaches nothing that does not depend on it."""
    outputs = _dispatch.tile()[2] + 5
    p = problem(Case(9, 21, outputs))
    for sample in (0, 4, 8):
        x, dy = p.x.copy(), p.dy.copy()
        x[sample] = dy[sample] = bad
        y, dx = Guarded(dy.shape), Guarded(x.shape)
        layer = Dense(p.weight, p.bias, p.dweight.copy(), p.dbias.copy())
        layer.forward(read_only(x), y.array, None, 1)
        layer.backward(read_only(x), read_only(dy), dx.array, None, 1)
        others = np.arange(9) != sample
        for result, oracle in ((y.array, p.forward), (dx.array, p.input_grad)):
            assert_close(result[others], *(array[others] for array in oracle), sum_budget(outputs))
            assert not np.isfinite(result[sample]).any()
    for output in (0, outputs - 6, outputs - 1):
        weight, dy = p.weight.copy(), p.dy.copy()
        weight[:, output] = dy[:, output] = bad
        y, dweight, dbias = Guarded(dy.shape), Guarded(weight.shape, p.dweight), Guarded(outputs, p.dbias)
        layer = Dense(read_only(weight), p.bias, dweight.array, dbias.array)
        layer.forward(p.x, y.array, None, 1)
        layer.backward(p.x, read_only(dy), None, None, 1)
        others = np.arange(outputs) != output
        for result, oracle in ((y.array, p.forward), (dweight.array, p.weight_grad), (dbias.array, p.bias_grad)):
            assert_close(result[..., others], *(array[..., others] for array in oracle), sum_budget(22))
            assert not np.isfinite(result[..., output]).any()


def test_dense_weight_grad_adds_up_over_calls(isa: str) -> None:
    p = problem(Case(33, 20, 18))
    dweight, dbias = Guarded(p.weight.shape, p.dweight), Guarded(18, p.dbias)
    layer = Dense(p.weight, p.bias, dweight.array, dbias.array)
    for half in (slice(0, 15), slice(15, 33)):
        layer.backward(read_only(p.x[half]), read_only(p.dy[half]), None, None, 2)
    assert_close(dweight.array, *p.weight_grad, sum_budget(34))
    assert_close(dbias.array, *p.bias_grad, sum_budget(34))


def test_dense_of_no_samples_does_nothing(isa: str) -> None:
    weight, bias = read_only(np.ones((4, 3))), read_only(np.ones(3))
    x, y = np.empty((0, 4), np.float32), np.empty((0, 3), np.float32)
    dweight, dbias = Guarded((4, 3), 2), Guarded(3, 5)
    layer = Dense(weight, bias, dweight.array, dbias.array)
    for threads in THREADS:
        layer.forward(x, y, None, threads)
        layer.backward(x, y, x, None, threads)
    assert (dweight.array == 2).all() and (dbias.array == 5).all()
    layer.backward(x, y, x, None, 1, anew=True)
    assert not dweight.array.any() and not dbias.array.any()
    dweight.check()
    dbias.check()


def test_dense_without_features(isa: str) -> None:
    """An empty sum is zero: with no inputs y is the bias, with no outputs dx is zero."""
    no_inputs, no_outputs = np.empty((2, 0), np.float32), np.empty((2, 0), np.float32)
    y, dbias = Guarded((2, 3)), Guarded(3, 1)
    layer = Dense(np.empty((0, 3), np.float32), read_only([1, 2, 3]), np.empty((0, 3), np.float32), dbias.array)
    layer.forward(no_inputs, y.array, None, 1)
    layer.backward(no_inputs, read_only(np.ones((2, 3))), no_inputs, None, 1)
    assert y.array.tolist() == [[1, 2, 3]] * 2 and dbias.array.tolist() == [3, 3, 3]
    dx, empty = Guarded((2, 4)), np.empty((4, 0), np.float32)
    layer = Dense(empty, np.empty(0, np.float32), empty, np.empty(0, np.float32))
    layer.forward(read_only(np.ones((2, 4))), no_outputs, None, 1)
    layer.backward(read_only(np.ones((2, 4))), no_outputs, dx.array, None, 1)
    assert not dx.array.any()


def check_fences() -> None:
    """Every instruction set on arrays against pages that cannot be touched, at their beginning and at their end."""
    shapes = [(m, k, n) for m in (1, 4, 29) for k in (1, 7, 31, 257) for n in RAGGED_SIZES]
    shapes += [(3, 700, 67), (61, 5, 1001)]
    for isa in _dispatch.isas():
        _dispatch.set_isa(isa)
        for number, (samples, inputs, outputs) in enumerate(shapes):
            print(isa, samples, inputs, outputs, file=sys.stderr)
            fence = Fence(before=number % 2 == 1)
            x, dy, weight = (
                fence.array(np.ones(s)) for s in ((samples, inputs), (samples, outputs), (inputs, outputs))
            )
            y, dx, dweight = (fence.array(np.zeros(a.shape), writeable=True) for a in (dy, x, weight))
            bias, dbias = fence.array(np.ones(outputs)), fence.array(np.zeros(outputs), writeable=True)
            layer = Dense(weight, bias, dweight, dbias)
            workspace = fence.array(np.zeros(layer.forward_workspace(samples)), writeable=True)
            layer.forward(x, y, workspace, 1)
            layer.backward(x, dy, dx, None, 1)
            assert (y == inputs + 1).all() and (dx == outputs).all()
            assert (dweight == samples).all() and (dbias == samples).all()


@needs_fence
def test_dense_touches_nothing_outside_its_arrays() -> None:
    call_in_child(__file__, "check_fences")
