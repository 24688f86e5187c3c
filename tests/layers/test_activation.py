"""Activations at the points where mathematics leaves a choice, at the ends of float32, and against PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from layers.cases import assert_close, spread_values

from cnet.layers import Layer, LeakyReLU, PReLU, ReLU, Softmax

MAX, TINY = np.finfo(np.float32).max, np.finfo(np.float32).tiny
DENORMAL = np.float32(1e-42)
INF, NAN = np.inf, np.nan


def wide(values: Any) -> Any:
    """The values at every place of a vector and in the rest after the last whole one."""
    return np.tile(np.asarray(values, np.float32), (1, 37))


def passes(layer: Layer, x: Any, dy: Any) -> tuple[Any, Any]:
    y = layer(wide(x)).copy()
    dx = layer.backward(wide(dy))
    assert dx is not None
    for array in (y, dx):
        repeated = array.reshape(37, -1)
        assert all(row.tobytes() == repeated[0].tobytes() for row in repeated), "the place in a vector matters"
    return y.reshape(37, -1)[0], dx.reshape(37, -1)[0]


def test_relu_at_the_edges(isa: str) -> None:
    x = [-INF, -MAX, -TINY, -DENORMAL, -0.0, 0.0, DENORMAL, TINY, MAX, INF, NAN]
    y, dx = passes(ReLU(), x, [3.0] * 11)
    np.testing.assert_array_equal(y, np.float32([0, 0, 0, 0, 0, 0, DENORMAL, TINY, MAX, INF, NAN]))
    np.testing.assert_array_equal(dx[:10], [0, 0, 0, 0, 0, 0, 3, 3, 3, 3])


def test_relu_blocks_even_infinite_gradients(isa: str) -> None:
    _, dx = passes(ReLU(), [-1.0, 0.0, 1.0, -1.0, 1.0], [INF, NAN, INF, -INF, NAN])
    np.testing.assert_array_equal(dx, [0, 0, INF, 0, NAN])


@pytest.mark.parametrize("slope", [0.01, 0.5, 2.0, -0.5, 0.0])
def test_leaky_relu_at_the_edges(isa: str, slope: float) -> None:
    y, dx = passes(LeakyReLU(slope), [-2.0, -0.0, 0.0, 2.0, INF, NAN], [3.0] * 6)
    np.testing.assert_array_equal(y, np.float32([-2 * np.float32(slope), 0, 0, 2, INF, NAN]))
    np.testing.assert_array_equal(dx[:5], np.float32([3 * np.float32(slope)] * 3 + [3, 3]))


@pytest.mark.parametrize("slopes", [1, 3])
def test_prelu_derivative_at_zero_is_the_slope(isa: str, slopes: int) -> None:
    layer = PReLU(slopes, init=0.5)
    x = np.tile(np.float32([-2, 0, 2]), (40, 1))
    assert layer(x)[0].tolist() == [-1, 0, 2]
    dx = layer.backward(np.full_like(x, 3))
    assert dx[0].tolist() == [1.5, 1.5, 3]  # type: ignore[index]
    assert layer.weight.grad.tolist() == ([-240.0] if slopes == 1 else [-240.0, 0.0, 0.0])


def test_prelu_slope_of_each_channel(isa: str) -> None:
    layer = PReLU(5)
    layer.weight.data = [0.1, -0.2, 0.3, 2.0, 0.0]
    x, dy = spread_values((3, 5, 6, 7), seed=1), spread_values((3, 5, 6, 7), seed=2)
    slopes = layer.weight.data.reshape(5, 1, 1)
    np.testing.assert_array_equal(layer(x), np.where(x > 0, x, slopes * x))
    np.testing.assert_array_equal(layer.backward(dy), np.where(x > 0, dy, slopes * dy))
    assert_close(layer.weight.grad, np.where(x > 0, 0, x.astype(float) * dy).sum(axis=(0, 2, 3)))


def test_prelu_of_one_channel_is_prelu_of_one_slope() -> None:
    x = spread_values((3, 1, 6, 7), seed=1)
    one = PReLU(1, init=0.3)
    np.testing.assert_array_equal(one(x), np.where(x > 0, x, np.float32(0.3) * x))


def test_softmax_of_huge_scores_is_finite(isa: str) -> None:
    x = np.float32([[1e4, 0, -1e4], [-1e4, -1e4, -1e4], [MAX, -MAX, 0], [3e38, 3e38, -3e38], [0, 0, 0]])
    layer = Softmax()
    y = layer(x)
    third = [1 / 3] * 3
    assert_close(y, [[1, 0, 0], third, [1, 0, 0], [0.5, 0.5, 0], third])
    assert np.isfinite(layer.backward(np.ones_like(x))).all()  # type: ignore[arg-type]


def test_softmax_of_minus_infinity_is_zero(isa: str) -> None:
    assert_close(Softmax()(np.float32([[0, -INF, 0, -INF]])), [[0.5, 0, 0.5, 0]])


def test_softmax_passes_nan_on(isa: str) -> None:
    y = Softmax()(np.float32([[0, NAN, 0], [1, 1, 1]]))
    assert np.isnan(y[0]).all() and np.isfinite(y[1]).all()


@pytest.mark.parametrize("classes", [1, 2, 3, 10, 15, 16, 17, 100, 1000])
def test_softmax_rows_are_probabilities(isa: str, classes: int) -> None:
    x = 20 * spread_values((7, classes), seed=classes)
    layer = Softmax()
    y = layer(x).astype(np.float64)
    assert (y >= 0).all() and (y <= 1).all()
    np.testing.assert_allclose(y.sum(axis=1), 1, rtol=2e-6)
    # Along ones nothing changes: the gradient of a row sums to zero.
    np.testing.assert_allclose(layer.backward(spread_values(x.shape, seed=1)).sum(axis=1), 0, atol=1e-5)  # type: ignore[union-attr]


def test_softmax_does_not_change_with_a_shift(isa: str) -> None:
    x = np.round(spread_values((5, 9), seed=1) * 8)
    assert Softmax()(x).tobytes() == Softmax()(x + 64).tobytes()


def test_elements_do_not_depend_on_their_neighbours(isa: str) -> None:
    x = spread_values((1, 1000), seed=1)
    for make in (ReLU, LeakyReLU, PReLU):
        whole = make()(x)
        for start, end in ((0, 1), (3, 20), (500, 517), (999, 1000)):
            assert make()(x[:, start:end]).tobytes() == whole[:, start:end].tobytes()


PARITY: list[tuple[Callable[[], Layer], str, tuple[int, ...]]] = [
    (ReLU, "ReLU()", (4, 3, 5, 6)),
    (LeakyReLU, "LeakyReLU()", (4, 30)),
    (lambda: LeakyReLU(0.3), "LeakyReLU(0.3)", (4, 3, 5, 6)),
    (PReLU, "PReLU()", (4, 3, 5, 6)),
    (lambda: PReLU(3), "PReLU(3)", (4, 3, 5, 6)),
    (lambda: PReLU(6, init=-0.1), "PReLU(6, init=-0.1)", (8, 6)),
    (Softmax, "Softmax(dim=1)", (4, 11)),
]


@pytest.mark.parametrize(("make", "theirs", "shape"), PARITY, ids=[row[1] for row in PARITY])
def test_parity_with_pytorch(make: Callable[[], Layer], theirs: str, shape: tuple[int, ...]) -> None:
    torch = pytest.importorskip("torch")
    module, layer = eval(theirs, dict(vars(torch.nn))), make()
    x, dy = np.round(spread_values(shape, seed=1), 1), spread_values(shape, seed=2)
    assert (x == 0).any(), "the derivative at 0 is part of the comparison"
    tensor = torch.tensor(x, requires_grad=True)
    expected = module(tensor)
    expected.backward(torch.tensor(dy))
    assert_close(layer(x), expected.detach().numpy())
    assert_close(layer.backward(dy), tensor.grad.numpy())
    assert list(layer.state_dict()) == list(module.state_dict())
    for name, parameter in module.named_parameters():
        assert layer.state_dict()[name].tobytes() == parameter.detach().numpy().tobytes()
        assert_close(dict(layer.named_parameters())[name].grad, parameter.grad.numpy())
