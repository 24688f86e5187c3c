"""The oracles against central differences, and the tools of the kernel tests against faults planted on purpose."""

from __future__ import annotations

import ctypes

import numpy as np
import oracles
import oracles_elementwise as elementwise
import pytest
from kernel_cases import EPS, Guarded, assert_close, assert_same_bytes, call_in_child, needs_fence, read_only


def test_numeric_gradient_of_known_functions() -> None:
    x = np.array([[-2.0, 0.5], [3.0, 70.0]])
    np.testing.assert_allclose(oracles.numeric_gradient(np.sum, x), 1, rtol=1e-8)
    np.testing.assert_allclose(oracles.numeric_gradient(lambda v: v**3, x), 3 * x**2, rtol=1e-9)
    upstream = np.array([[1.0, -2.0], [0.0, 4.0]])
    np.testing.assert_allclose(oracles.numeric_gradient(lambda v: v**2, x, upstream), 2 * x * upstream, rtol=1e-9)
    assert oracles.numeric_gradient(np.exp, 0.0).shape == ()


def test_numeric_gradient_leaves_its_argument_alone() -> None:
    x = np.arange(3.0)
    x.flags.writeable = False
    oracles.numeric_gradient(lambda v: np.sum(v, out=np.empty(())), x)
    assert x.tolist() == [0, 1, 2]


def test_dense_oracle_by_hand() -> None:
    y = oracles.dense_forward([[1, 2]], [[3, 4, 5], [6, 7, 8]], [10, 20, 30])
    assert y.tolist() == [[25, 38, 51]]


def test_dense_gradients_match_differences() -> None:
    generator = np.random.default_rng(1)
    x, weight, bias, dy = (generator.standard_normal(shape) for shape in [(4, 5), (5, 3), (3,), (4, 3)])
    forward, numeric = oracles.dense_forward, oracles.numeric_gradient
    dx, dweight, dbias = (
        oracles.dense_input_grad(dy, weight),
        oracles.dense_weight_grad(x, dy),
        oracles.dense_bias_grad(dy),
    )
    np.testing.assert_allclose(dx, numeric(lambda v: forward(v, weight, bias), x, dy), rtol=1e-8)
    np.testing.assert_allclose(dweight, numeric(lambda v: forward(x, v, bias), weight, dy), rtol=1e-8)
    np.testing.assert_allclose(dbias, numeric(lambda v: forward(x, weight, v), bias, dy), rtol=1e-8)


def test_batch_norm_gradients_match_differences() -> None:
    generator = np.random.default_rng(3)
    x, dy = generator.standard_normal((7, 3)), generator.standard_normal((7, 3))
    weight, bias, eps = generator.standard_normal(3), generator.standard_normal(3), 0.1

    def forward(x, weight, bias):
        return elementwise.normalise(x, x.mean(axis=0), weight / np.sqrt(x.var(axis=0) + eps), bias)

    dx, dweight, dbias = elementwise.batch_norm_backward(x, dy, eps, weight)
    numeric = oracles.numeric_gradient
    np.testing.assert_allclose(dx, numeric(lambda v: forward(v, weight, bias), x, dy), atol=1e-8)
    np.testing.assert_allclose(dweight, numeric(lambda v: forward(x, v, bias), weight, dy), atol=1e-8)
    np.testing.assert_allclose(dbias, numeric(lambda v: forward(x, weight, v), bias, dy), atol=1e-8)


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("activation", ["identity", "relu", "slope"])
def test_epilogue_gradients_match_differences(activation: str, normalised: bool) -> None:
    generator = np.random.default_rng(4)
    x, dy = generator.standard_normal((2, 4, 6, 3)), generator.standard_normal((2, 2, 2, 3))
    slope, mean, scale, shift = generator.standard_normal((4, 3))
    fixed = (mean, scale, shift) if normalised else None

    def forward(x, slope=slope, normalisation=fixed):
        return elementwise.epilogue_forward(x, activation, (2, 3), slope, normalisation)[0]

    _, index, before = elementwise.epilogue_forward(x, activation, (2, 3), slope, fixed)
    g, inputs = elementwise.through_activation(dy, before, activation, slope, fixed)
    back = elementwise.epilogue_backward(dy, before, index, x, activation, (2, 3), slope, fixed)
    numeric = oracles.numeric_gradient
    np.testing.assert_allclose(back, numeric(forward, x, dy), atol=1e-8)
    if activation == "slope":
        rows = inputs.reshape(-1, 3), dy.reshape(-1, 3)
        expected = elementwise.prelu_slope_grad(*rows, 3)
        np.testing.assert_allclose(expected, numeric(lambda v: forward(x, slope=v), slope, dy), atol=1e-8)
    if normalised:
        by_shift = numeric(lambda v: forward(x, normalisation=(mean, scale, v)), shift, dy)
        np.testing.assert_allclose(g.sum(axis=(0, 1, 2)), by_shift, atol=1e-8)
        by_scale = numeric(lambda v: forward(x, normalisation=(mean, v, shift)), scale, dy)
        np.testing.assert_allclose((g * (before - mean)).sum(axis=(0, 1, 2)), by_scale, atol=1e-8)


def test_conv2d_oracle_by_definition() -> None:
    """Every output of an asymmetric, dilated, strided, grouped convolution from the formula, one index at a time."""
    generator = np.random.default_rng(2)
    x, weight = generator.standard_normal((2, 4, 5, 6)), generator.standard_normal((6, 2, 3, 2))
    stride, padding, dilation, groups = (2, 1), (1, 0, 2, 3), (1, 3), 2
    y = oracles.conv2d_forward(x, weight, None, stride, padding, dilation, groups)
    assert y.shape == (2, 6, 2, 8)
    for n, o, h, w in np.ndindex(y.shape):
        total = 0.0
        for c, i, j in np.ndindex(weight.shape[1:]):
            row, column = h * stride[0] + i * dilation[0] - padding[0], w * stride[1] + j * dilation[1] - padding[2]
            if 0 <= row < 5 and 0 <= column < 6:
                total += x[n, o // 3 * 2 + c, row, column] * weight[o, c, i, j]
        assert y[n, o, h, w] == pytest.approx(total, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(
    ("size", "channels", "kernel", "stride", "padding", "dilation", "groups"),
    [
        ((4, 5), (2, 3), (3, 3), (1, 1), (0, 0, 0, 0), (1, 1), 1),
        ((5, 4), (4, 6), (3, 2), (2, 1), (1, 0, 2, 3), (1, 2), 2),
        ((3, 3), (3, 3), (2, 3), (3, 2), (4, 1, 0, 5), (2, 1), 3),
        ((1, 1), (1, 2), (1, 1), (2, 3), (0, 0, 0, 0), (1, 1), 1),
        ((6, 7), (2, 2), (1, 2), (4, 3), (0, 0, 0, 0), (1, 1), 1),
    ],
)
def test_conv2d_gradients_match_differences(size, channels, kernel, stride, padding, dilation, groups) -> None:
    generator = np.random.default_rng(3)
    x = generator.standard_normal((2, channels[0], *size))
    weight, bias = (
        generator.standard_normal((channels[1], channels[0] // groups, *kernel)),
        generator.standard_normal(channels[1]),
    )
    geometry = (stride, padding, dilation, groups)

    def forward(x, weight, bias):
        return oracles.conv2d_forward(x, weight, bias, *geometry)

    dy, numeric = generator.standard_normal(forward(x, weight, bias).shape), oracles.numeric_gradient
    dx = oracles.conv2d_input_grad(dy, weight, size, *geometry)
    dweight, dbias = oracles.conv2d_weight_grad(x, dy, kernel, *geometry), oracles.conv2d_bias_grad(dy)
    np.testing.assert_allclose(dx, numeric(lambda v: forward(v, weight, bias), x, dy), rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(dweight, numeric(lambda v: forward(x, v, bias), weight, dy), rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(dbias, numeric(lambda v: forward(x, weight, v), bias, dy), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("misaligned", [False, True])
def test_guards_notice_writes_on_either_side(misaligned: bool) -> None:
    guarded = Guarded((2, 3), misaligned=misaligned)
    assert guarded.array.ctypes.data % 64 == 4 * misaligned
    assert np.isnan(guarded.array).all()
    guarded.array[...] = 1
    guarded.check()
    for offset, side in ((-1, "before"), (6, "after")):
        guarded = Guarded((2, 3), misaligned=misaligned)
        ctypes.c_float.from_address(guarded.array.ctypes.data + 4 * offset).value = np.nan
        with pytest.raises(AssertionError, match=side):
            guarded.check()


def test_read_only_refuses_writes() -> None:
    with pytest.raises(ValueError, match="read-only"):
        read_only([1, 2])[0] = 3


def test_assert_close_counts_units() -> None:
    assert_close([1 + 2 * EPS, 0], [1, 0], [1, 0], budget=2)
    for actual, expected, magnitude in [(1 + 3 * EPS, 1, 1), (1e-30, 0, 0), (np.nan, 1, 1), (np.inf, 1, 1)]:
        with pytest.raises(AssertionError):
            assert_close([actual], [expected], [magnitude], budget=2)


def test_assert_same_bytes_tells_zeros_apart() -> None:
    nan = np.array([np.nan], dtype=np.float32)
    assert_same_bytes(nan, nan.copy())
    with pytest.raises(AssertionError):
        assert_same_bytes(np.zeros(1, np.float32), -np.zeros(1, np.float32))


def touch_a_fence() -> None:
    from kernel_cases import Fence

    array = Fence(before=False).array(np.ones(5))
    assert array.sum() == 5
    np.lib.stride_tricks.as_strided(array, (6,), (4,)).sum()


@needs_fence
def test_fence_ends_a_process_that_reads_past_it() -> None:
    with pytest.raises(AssertionError, match="Segmentation fault"):
        call_in_child(__file__, "touch_a_fence")
