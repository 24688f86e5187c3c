"""Dropout: what the mask is, what it depends on, and what it does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import cnet
from cnet.layers import Dropout, Flatten, Linear, Sequential


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Start every test from one seed, and leave the number of threads as it was."""
    threads = cnet.get_num_threads()
    cnet.manual_seed(7)
    yield
    cnet.set_num_threads(threads)


def mask_of(layer: Dropout, shape: int | tuple[int, ...] = (100, 100)) -> Any:
    return layer(np.ones(shape, np.float32)) != 0


@pytest.mark.parametrize("p", [0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99])
@pytest.mark.parametrize("size", [1, 7, 63, 1000, 100_000])
def test_survivors_are_scaled_and_the_rest_is_zero(isa: str, p: float, size: int) -> None:
    x = np.random.default_rng(1).uniform(0.5, 2, (1, size)).astype(np.float32)
    y = Dropout(p)(x)
    kept = y != 0
    np.testing.assert_allclose(y[kept], x[kept] / (1 - p), rtol=3e-7)
    # Five standard deviations of a binomial count.
    assert abs(kept.sum() - size * (1 - p)) <= 5 * (size * p * (1 - p)) ** 0.5 + 1


def test_mean_is_kept() -> None:
    y = Dropout(0.3)(np.ones((300, 1000), np.float32))
    assert abs(float(y.mean(dtype=np.float64)) - 1) < 5 * (0.3 / 0.7 / 300_000) ** 0.5


@pytest.mark.parametrize("shape", [(5, 7), (3, 4, 5, 6), (2, 3, 4), (9,), (40, 5000)])
@pytest.mark.parametrize("p", [0, 0.4, 1])
def test_backward_applies_the_mask_of_the_last_forward(shape: tuple[int, ...], p: float) -> None:
    layer = Dropout(p)
    dy = np.random.default_rng(1).uniform(0.5, 2, shape).astype(np.float32)
    layer(np.ones(shape, np.float32))
    factor = layer(np.ones(shape, np.float32)).copy()
    dx = layer.backward(dy)
    np.testing.assert_array_equal(dx, dy * factor)


def test_each_forward_draws_a_new_mask() -> None:
    layer = Dropout(0.5)
    masks = [mask_of(layer) for _ in range(5)]
    for index, mask in enumerate(masks):
        for other in masks[:index]:
            # Independent masks agree in half of the 10,000 elements, give or take five standard deviations.
            assert abs((mask == other).mean() - 0.5) < 0.025


def test_elements_are_independent() -> None:
    mask = mask_of(Dropout(0.5), (1, 1 << 17)).ravel()
    signs = np.where(mask, 1.0, -1.0)
    for distance in (*range(1, 70), 127, 128, 255, 256, 512, 1024, 4096, 16384, 65536):
        correlation = (signs[distance:] * signs[:-distance]).mean()
        assert abs(correlation) < 5 / (signs.size - distance) ** 0.5, f"elements {distance} apart"
    # Bytes of mask bits are uniform: chi-square with 255 degrees of freedom, mean 255 and deviation 22.6.
    counts = np.bincount(np.packbits(mask), minlength=256)
    expected = mask.size / 8 / 256
    assert 255 - 5 * 22.6 < ((counts - expected) ** 2 / expected).sum() < 255 + 5 * 22.6


def test_layers_draw_different_masks() -> None:
    model = Sequential(Dropout(0.5), Dropout(0.5))
    assert abs(mask_of(model).mean() - 0.25) < 0.025  # type: ignore[arg-type]


def test_mask_is_a_function_of_the_seed() -> None:
    def masks(seed: int) -> list[bytes]:
        cnet.manual_seed(seed)
        layers = [Dropout(0.5), Dropout(0.5)]
        return [mask_of(layer).tobytes() for layer in (*layers, *layers)]

    first = masks(3)
    assert masks(3) == first and len(set(first)) == 4
    assert not set(masks(4)) & set(first)


def test_mask_is_drawn_apart_from_initial_weights() -> None:
    """The seed is spawned, so a dropout layer more or less leaves the weights of the rest as they are."""
    plain = Sequential(Flatten(), Linear(None, 5), Linear(None, 3))
    with_dropout = Sequential(Flatten(), Dropout(0.5), Linear(None, 5), Dropout(0.5), Linear(None, 3))
    states = []
    for model in (plain, with_dropout):
        cnet.manual_seed(11)
        model(np.ones((2, 8)))
        states.append([value.tobytes() for value in model.state_dict().values()])
    assert states[0] == states[1]


@pytest.mark.parametrize("shape", [(3, 5), (64, 5000), (8, 16, 30, 30)])
def test_mask_is_the_same_on_any_number_of_threads_and_isa(isa: str, shape: tuple[int, ...]) -> None:
    results = set()
    for threads in (1, 2, 3):
        cnet.set_num_threads(threads)
        cnet.manual_seed(2)
        layer = Dropout(0.37)
        mask = mask_of(layer, shape)
        dx = layer.backward(np.ones(shape, np.float32))
        assert dx is not None
        assert ((dx != 0) == mask).all()
        results.add((mask.tobytes(), dx.tobytes()))
    assert len(results) == 1


def test_mask_does_not_depend_on_the_instruction_set() -> None:
    from cnet.kernels import _dispatch

    before, masks = _dispatch.isa(), set()
    try:
        for isa in _dispatch.isas():
            _dispatch.set_isa(isa)
            cnet.manual_seed(2)
            masks.add(mask_of(Dropout(0.37), (64, 517)).tobytes())
    finally:
        _dispatch.set_isa(before)
    assert len(masks) == 1


def test_mask_depends_on_the_position_not_on_the_order_in_memory() -> None:
    shape = (2, 5, 6, 7)
    last = np.ones((2, 6, 7, 5), np.float32).transpose(0, 3, 1, 2)
    cnet.manual_seed(2)
    expected = mask_of(Dropout(0.5), shape)
    cnet.manual_seed(2)
    assert ((Dropout(0.5)(last) != 0) == expected).all()


@pytest.mark.parametrize("p", [0, 0.5, 1])
def test_evaluation_is_the_identity_and_draws_nothing(p: float) -> None:
    x = np.random.default_rng(1).standard_normal((4, 3, 5, 5), dtype=np.float32)
    trained, layer = Dropout(p), Dropout(p)
    cnet.manual_seed(1)
    expected = [trained(x).tobytes() for _ in range(2)]
    cnet.manual_seed(1)
    got = []
    for _ in range(2):
        assert layer.eval()(x).tobytes() == x.tobytes()
        got.append(layer.train()(x).tobytes())
    assert got == expected


def test_dropping_everything_gives_zeros_not_nan() -> None:
    layer = Dropout(1)
    x = np.full((3, 50), np.finfo(np.float32).max)
    assert not layer(x).any() and not layer.backward(x).any()  # type: ignore[union-attr]


def test_dropping_nothing_gives_the_same_bits() -> None:
    x = np.random.default_rng(1).standard_normal((3, 500), dtype=np.float32)
    layer = Dropout(0)
    assert layer(x).tobytes() == x.tobytes() == layer.backward(x).tobytes()  # type: ignore[union-attr]


def test_input_is_not_written_to() -> None:
    x = np.ones((4, 100), np.float32)
    layer = Dropout(0.5)
    layer(x)
    layer.backward(x)
    layer.eval()(x)
    assert (x == 1).all()
