"""Linear by itself: what is bound to its parameters follows them."""

from __future__ import annotations

import numpy as np
import pytest

from cnet.layers import BatchNorm1d, Linear, ReLU, Sequential
from cnet.parameter import Arena


def passes(layer: Linear, x: np.ndarray, dy: np.ndarray) -> list[bytes]:
    """Bits of the output and of all gradients."""
    for parameter in layer.parameters():
        parameter.zero_grad()
    y, dx = layer(x), layer.backward(dy)
    assert dx is not None
    return [array.tobytes() for array in (y, dx, *(parameter.grad for parameter in layer.parameters()))]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3, 7, 5), (20, 700, 90)])
def test_parameters_may_move_between_passes(shape: tuple[int, int, int], bias: bool) -> None:
    samples, inputs, outputs = shape
    generator = np.random.default_rng(1)
    x, dy = (generator.standard_normal((samples, size)).astype(np.float32) for size in (inputs, outputs))
    layer = Linear(inputs, outputs, bias=bias)
    expected = passes(layer, x, dy)
    for moved in ([layer.weight], [layer.bias], list(layer.parameters())):
        if moved == [None]:
            continue
        former = [(parameter.storage, parameter.grad_storage) for parameter in moved]
        Arena(moved)
        for storage, gradient in former:
            storage.fill(np.nan)
            gradient.fill(np.nan)
        assert passes(layer, x, dy) == expected
        assert all(np.isnan(gradient).all() for _, gradient in former)


def test_values_may_be_assigned_between_passes() -> None:
    layer = Linear(2, 2)
    layer(np.ones((1, 2), np.float32))
    layer.weight.data = [[1, 2], [3, 4]]
    layer.bias.data = [10, 20]  # type: ignore[union-attr]
    assert layer(np.ones((1, 2), np.float32)).tolist() == [[13, 27]]


def test_gradients_add_up_over_batches_of_any_size() -> None:
    generator = np.random.default_rng(1)
    x, dy = (generator.standard_normal((45, size)).astype(np.float32) for size in (600, 70))
    layer = Linear(600, 70)
    for first, last in ((0, 1), (1, 4), (4, 20), (20, 45)):
        layer(x[first:last])
        layer.backward(dy[first:last], input_grad=False)
    np.testing.assert_allclose(layer.weight.grad, dy.T.astype(float) @ x, rtol=0, atol=2e-5)
    np.testing.assert_allclose(layer.bias.grad, dy.sum(axis=0, dtype=float), rtol=0, atol=1e-5)  # type: ignore[union-attr]


@pytest.mark.parametrize("norm", [False, True])
def test_gradients_are_written_over_what_zero_grad_left(norm: bool) -> None:
    """Alone and with what follows it; also where some gradients are zero and others are not."""
    generator = np.random.default_rng(2)
    x = generator.standard_normal((9, 20)).astype(np.float32)
    model = Sequential(Linear(20, 6), *([BatchNorm1d(6)] if norm else []), ReLU()).build((20,))
    arena = model.parameters()[0].arena
    assert arena is not None

    def gradients() -> list[np.ndarray]:
        model.backward(np.ones_like(model(x)), input_grad=False)
        return [parameter.grad.copy() for parameter in model.parameters()]

    expected = gradients()
    assert norm or all(gradient.any() for gradient in expected)
    model.zero_grad()
    arena.grad_memory.fill(np.nan)
    for got, wanted in zip(gradients(), expected, strict=True):
        assert got.tobytes() == wanted.tobytes()
    # Of a parameter that was not set to zero, twice as much.
    model.parameters()[0].zero_grad()
    doubled = gradients()
    assert doubled[0].tobytes() == expected[0].tobytes()
    for got, wanted in zip(doubled[1:], expected[1:], strict=True):
        np.testing.assert_allclose(got, 2 * wanted, rtol=1e-5, atol=1e-6)
