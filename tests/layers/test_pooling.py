"""Max pooling: ties, NaN, padding, windows that reach beyond the image, and PyTorch."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from layers.cases import spread_values

from cnet.layers import MaxPool2d

INF, NAN = np.inf, np.nan


def winners(x: Any, *arguments: Any, **options: Any) -> tuple[Any, Any]:
    """The output, and how often each input won."""
    layer = MaxPool2d(*arguments, **options)
    y = layer(np.asarray(x, np.float32))
    dx = layer.backward(np.ones_like(y))
    assert dx is not None and dx.sum() == y.size
    return y, dx


@pytest.mark.parametrize("channels", [1, 3, 16, 17])
def test_first_of_equal_elements_wins(isa: str, channels: int) -> None:
    y, wins = winners(np.ones((2, channels, 4, 6)), 2)
    expected = np.zeros((4, 6))
    expected[::2, ::2] = 1
    assert (y == 1).all() and (wins == expected).all()
    x = np.array([[0.0, 5, 5], [5, 0, 0], [5, 0, 0]])
    _, wins = winners(np.broadcast_to(x, (1, channels, 3, 3)), 3)
    assert (wins == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]).all()


def test_zeros_of_either_sign_are_equal(isa: str) -> None:
    for row in ([0.0, -0.0], [-0.0, 0.0]):
        y, wins = winners([[[row, row]]], 2)
        assert y.tolist() == [[[[0.0]]]] and wins.tolist() == [[[[1, 0], [0, 0]]]]
        assert np.signbit(y[0, 0, 0, 0]) == np.signbit(row[0])


@pytest.mark.parametrize("value", [-1.0, -1e30, np.finfo(np.float32).min, -INF])
@pytest.mark.parametrize("channels", [1, 5, 16])
def test_padding_never_wins(isa: str, value: float, channels: int) -> None:
    y, wins = winners(np.full((2, channels, 4, 4), value), 3, stride=2, padding=1)
    assert (y == np.float32(value)).all()
    expected = np.zeros((4, 4))
    expected[np.ix_([0, 1], [0, 1])] = 1
    assert (wins == expected).all()


@pytest.mark.parametrize("channels", [1, 3, 16, 17])
def test_nan_beats_all_and_the_last_nan_wins(isa: str, channels: int) -> None:
    for place in range(4):
        for rest in (INF, -INF, 0.0):
            x = np.full(4, rest)
            x[place] = NAN
            y, wins = winners(np.broadcast_to(x.reshape(2, 2), (1, channels, 2, 2)), 2)
            assert np.isnan(y).all() and (wins.reshape(channels, 4)[:, place] == 1).all()
    _, wins = winners(np.broadcast_to([[1.0, NAN], [NAN, 2.0]], (1, channels, 2, 2)), 2)
    # As in PyTorch: NaN always takes over, from another NaN too.
    assert (wins == [[0, 0], [1, 0]]).all()


def test_nan_stays_in_its_channel(isa: str) -> None:
    x = spread_values((1, 19, 2, 2), seed=1)
    x[0, 7, 1, 0] = NAN
    y = MaxPool2d(2)(x).ravel()
    assert np.isnan(y[7]) and np.isfinite(np.delete(y, 7)).all()


def test_overlapping_windows_add_their_gradients(isa: str) -> None:
    x = np.zeros((1, 1, 5, 5), np.float32)
    x[0, 0, 2, 2] = 1
    layer = MaxPool2d(3, stride=1)
    layer(x)
    dy = np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3)
    dx = layer.backward(dy)
    assert dx[0, 0, 2, 2] == 36 and np.count_nonzero(dx) == 1  # type: ignore[index]


def test_elements_under_no_window_get_no_gradient(isa: str) -> None:
    _, wins = winners(np.ones((1, 3, 7, 8)), 2, stride=3)
    expected = np.zeros((7, 8))
    expected[:6:3, :7:3] = 1
    assert (wins == expected).all()


def test_window_of_as_many_taps_as_an_index_can_count(isa: str) -> None:
    x = np.zeros((1, 1, 256, 256), np.float32)
    x[0, 0, 255, 255] = 1
    y, wins = winners(x, 256)
    assert y.tolist() == [[[[1.0]]]] and wins[0, 0, 255, 255] == 1


def test_ceil_mode_counts_a_last_window_that_starts_inside(isa: str) -> None:
    x = np.arange(25.0).reshape(1, 1, 5, 5)
    y, wins = winners(x, 2, ceil_mode=True)
    assert y.tolist() == [[[[6, 8, 9], [16, 18, 19], [21, 23, 24]]]]
    assert winners(x, 2)[0].tolist() == [[[[6, 8], [16, 18]]]]
    assert wins.sum() == 9


def test_evaluation_gives_the_same_output(isa: str) -> None:
    x = spread_values((3, 5, 9, 8), seed=1)
    layer = MaxPool2d(3, 2, 1)
    assert layer.eval()(x).tobytes() == layer.train()(x).tobytes()


GEOMETRIES = [
    (kernel, stride, padding, dilation, ceil_mode)
    for kernel, stride, padding, dilation, ceil_mode in itertools.product(
        [2, 3, (1, 4)], [None, 1, 3, (2, 1)], [0, 1, (0, 2)], [1, 2], [False, True]
    )
    if all(p <= k // 2 for p, k in zip(np.broadcast_to(padding, 2), np.broadcast_to(kernel, 2), strict=True))
]


@pytest.mark.parametrize("ceil_mode", [False, True])
def test_parity_with_pytorch(ceil_mode: bool) -> None:
    torch = pytest.importorskip("torch")
    compared = 0
    for kernel, stride, padding, dilation, mode in GEOMETRIES:
        if mode is not ceil_mode:
            continue
        module = torch.nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=ceil_mode)
        for size in ((7, 8), (10, 7)):
            layer = MaxPool2d(kernel, stride, padding, dilation, ceil_mode)
            # Rounded, so that there are ties.
            x = np.round(spread_values((2, 3, *size), seed=1), 1)
            tensor = torch.tensor(x, requires_grad=True)
            expected = module(tensor)
            what = f"{layer}, images {size}"
            y = layer(x)
            assert y.shape == tuple(expected.shape), what
            np.testing.assert_array_equal(y, expected.detach().numpy(), err_msg=what)
            dy = np.round(spread_values(y.shape, seed=2) * 8)
            expected.backward(torch.tensor(dy))
            np.testing.assert_array_equal(layer.backward(dy), tensor.grad.numpy(), err_msg=what)
            compared += 1
    assert compared > 80
