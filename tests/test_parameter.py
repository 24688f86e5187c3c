"""Parameters by themselves, and the arena they move into."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cnet
from cnet.parameter import Arena, Parameter, claim, gather_unique, padded_size, spread

SHAPES = [(1,), (16,), (17,), (3, 4), (2, 3, 3, 5), (5, 1, 1, 1), (4, 2, 3), ()]


def values(shape: tuple[int, ...], seed: int = 1) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_are_copied_in_and_gradients_start_at_zero(shape: tuple[int, ...]) -> None:
    data = values(shape)
    parameter = Parameter(data, name="weight")
    assert parameter.shape == parameter.data.shape == parameter.grad.shape == shape
    assert parameter.size == data.size and parameter.built and parameter.requires_grad
    assert parameter.data.dtype == parameter.grad.dtype == np.float32
    np.testing.assert_array_equal(parameter.data, data)
    assert not parameter.grad.any() and not np.shares_memory(parameter.data, data)


@pytest.mark.parametrize(
    "data", [[1, 2], np.array([1, 2], np.uint8), np.array([1.0, 2.0]), (1, 2), np.array([1, 2], ">f4")]
)
def test_values_are_converted_to_float32(data: Any) -> None:
    assert Parameter(data).data.tolist() == [1, 2] and Parameter(data).data.dtype == np.float32


@pytest.mark.parametrize("data", ["weight", np.array([1j]), np.array(["a"]), object(), [[1], [1, 2]]])
def test_values_that_are_no_real_numbers_are_refused(data: Any) -> None:
    with pytest.raises(TypeError, match=r"^Parameter: data (has|is)"):
        Parameter(data)


def test_unbuilt_parameter_has_no_values() -> None:
    parameter = Parameter(name="0.weight")
    assert parameter.shape is None and parameter.size == 0 and not parameter.built
    for read in (lambda: parameter.data, lambda: parameter.grad):
        with pytest.raises(RuntimeError, match=r"^Parameter 0\.weight: (data|grad) is read before .*Call model\.build"):
            read()
    with pytest.raises(RuntimeError, match=r"^Parameter 0\.weight: data is read before"):
        parameter.data = [1.0]
    parameter.zero_grad()
    parameter.materialise(np.ones((2, 3), np.float32))
    assert parameter.built and parameter.data.tolist() == [[1] * 3] * 2


@pytest.mark.parametrize("in_arena", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_assignment_copies_values_in(shape: tuple[int, ...], in_arena: bool) -> None:
    parameter = Parameter(values(shape))
    if in_arena:
        Arena([Parameter([1.0]), parameter])
    view, new = parameter.data, values(shape, seed=2)
    parameter.data = new.tolist()
    np.testing.assert_array_equal(parameter.data, new)
    assert np.shares_memory(view, parameter.data)
    parameter.data += 1
    np.testing.assert_array_equal(view, new + np.float32(1))


def test_gradient_may_be_added_to_in_place() -> None:
    parameter = Parameter([1.0, 2.0])
    view = parameter.grad
    parameter.grad += 1
    parameter.grad[...] *= 3
    assert view.tolist() == [3.0, 3.0] and np.shares_memory(view, parameter.grad)


@pytest.mark.parametrize("wrong", [[1.0], [[1.0, 2.0]], 1.0, [1.0, 2.0, 3.0]])
def test_assignment_of_another_shape_is_refused(wrong: Any) -> None:
    parameter = Parameter([1.0, 2.0], name="bias")
    with pytest.raises(ValueError, match=r"^Parameter bias: data has shape \(.*\), expected \(2,\)"):
        parameter.data = wrong
    with pytest.raises(TypeError, match=r"^Parameter bias: data has dtype"):
        parameter.data = ["a", "b"]  # type: ignore[assignment]
    assert parameter.data.tolist() == [1, 2]


def test_weights_lie_with_outputs_last() -> None:
    """The layout that kernels read: linear weights (in, out), convolution weights (kh, kw, in / groups, out)."""
    linear, conv = Parameter(values((3, 4))), Parameter(values((5, 2, 3, 4)))
    assert linear.storage.shape == (4, 3) and conv.storage.shape == (3, 4, 2, 5)
    for parameter in (linear, conv):
        for physical, logical in ((parameter.storage, parameter.data), (parameter.grad_storage, parameter.grad)):
            assert physical.flags.c_contiguous and np.shares_memory(physical, logical)
    np.testing.assert_array_equal(linear.storage, linear.data.T)
    np.testing.assert_array_equal(conv.storage, conv.data.transpose(2, 3, 1, 0))


def test_repr_shows_name_shape_and_freezing() -> None:
    assert repr(Parameter([1.0], name="a.bias")) == "Parameter('a.bias', shape=(1,))"
    assert repr(Parameter(requires_grad=False)) == "Parameter('', shape=None, requires_grad=False)"


# ---- arena


def parameters() -> list[Parameter]:
    built = [Parameter(values(shape, seed), name=str(seed)) for seed, shape in enumerate(SHAPES)]
    for parameter in built:
        parameter.grad[...] = parameter.data + 1
    return built


def address(array: Any) -> int:
    start: int = array.__array_interface__["data"][0]
    return start


def test_arena_takes_values_and_gradients_over() -> None:
    items, expected = parameters(), parameters()
    arena = Arena(items)
    end = 0
    for parameter, other in zip(items, expected, strict=True):
        np.testing.assert_array_equal(parameter.data, other.data)
        np.testing.assert_array_equal(parameter.grad, other.grad)
        assert parameter.arena is arena and parameter.offset == end and end % 16 == 0
        assert address(parameter.storage) == address(arena.data[end:])
        assert address(parameter.grad_storage) == address(arena.grad[end:])
        np.testing.assert_array_equal(spread(parameter, arena.data), parameter.data)
        np.testing.assert_array_equal(spread(parameter, arena.grad), parameter.grad)
        end += padded_size(parameter)
    assert arena.data.shape == arena.grad.shape == (end,)
    assert address(arena.data) % 64 == 0 and address(arena.grad) % 64 == 0


def test_gaps_between_parameters_are_zero() -> None:
    items = parameters()
    arena = Arena(items)
    assert np.count_nonzero(arena.data) == sum(np.count_nonzero(parameter.data) for parameter in items)
    assert np.count_nonzero(arena.grad) == sum(np.count_nonzero(parameter.grad) for parameter in items)


def test_zero_grad_of_an_arena_and_of_a_parameter() -> None:
    items = parameters()
    arena = Arena(items)
    items[3].zero_grad()
    assert not items[3].grad.any() and all(p.grad.any() for p in items if p is not items[3])
    arena.zero_grad()
    assert not arena.grad.any() and arena.data.any()


def test_memory_of_a_gradient_that_is_zero_is_cleared_when_it_is_read() -> None:
    items = parameters()
    arena = Arena(items)
    arena.zero_grad()
    arena.grad_memory.fill(np.nan)
    assert not items[0].grad.any() and np.isnan(items[1].grad_memory).all()
    items[0].grad[...] = 3
    assert (items[0].grad == 3).all()
    items[1].grad = np.ones(items[1].shape)
    assert (items[1].grad == 1).all()
    copied = copy.deepcopy(items[2])
    assert not copied.grad.any() and not items[2].grad.any()
    moved = Arena([items[3]])
    assert not moved.grad.any() and not items[3].grad.any()


def test_claimed_memory_is_written_or_can_be_added_to() -> None:
    items = parameters()[:2]
    assert not claim(items)
    items[0].zero_grad()
    items[0].grad_memory.fill(np.nan)
    before = items[1].grad.copy()
    assert not claim(items)
    assert not items[0].grad_memory.any() and (items[1].grad_memory == items[1].grad_storage).all()
    np.testing.assert_array_equal(items[1].grad, before)
    for item in items:
        item.zero_grad()
    assert claim(items)
    for item in items:
        item.grad_memory.fill(2)
        assert (item.grad == 2).all()
    assert not claim(items)


def test_buffers_for_an_arena_are_zeros_of_their_own() -> None:
    arena = Arena(parameters())
    one, other = arena.zeros(), arena.zeros()
    assert one.shape == arena.data.shape and not one.any() and address(one) % 64 == 0
    assert not np.shares_memory(one, other) and not np.shares_memory(one, arena.data)


def test_parameters_move_to_another_arena() -> None:
    items, expected = parameters(), parameters()
    first = Arena(items)
    second = Arena(items[3:5])
    first.data.fill(7)
    for parameter, other in zip(items[3:5], expected[3:5], strict=True):
        np.testing.assert_array_equal(parameter.data, other.data)
        np.testing.assert_array_equal(parameter.grad, other.grad)
        assert parameter.arena is second and np.shares_memory(parameter.data, second.data)
    assert all(parameter.arena is first and (parameter.data == 7).all() for parameter in [*items[:3], *items[5:]])


def test_arena_lives_as_long_as_a_view_of_it() -> None:
    item = Parameter([1.0, 2.0])
    Arena([item])
    view = item.data
    del item
    blocks = [cnet.layout.empty((16,)) for _ in range(20)]
    for block in blocks:
        block.fill(9)
    assert view.tolist() == [1, 2]


def test_holds_tells_whether_an_arena_is_exactly_these() -> None:
    items = parameters()
    assert Arena.holds([]) and not Arena.holds(items)
    Arena(items)
    assert Arena.holds(items)
    assert not Arena.holds(items[:-1]) and not Arena.holds(items[::-1]) and not Arena.holds([*items, Parameter([1.0])])
    Arena(items[:2])
    assert Arena.holds(items[:2]) and not Arena.holds(items)


def test_empty_arena() -> None:
    arena = Arena([])
    assert arena.data.shape == arena.grad.shape == (0,)
    arena.zero_grad()


def test_gather_unique_keeps_the_order() -> None:
    a, b, c = (Parameter([1.0]) for _ in range(3))
    assert gather_unique([b, a, b, c, a]) == [b, a, c]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda item: pickle.loads(pickle.dumps(item))])
@pytest.mark.parametrize("in_arena", [False, True])
def test_copy_is_apart_and_whole(in_arena: bool, duplicate: Callable[[Any], Any]) -> None:
    """Wherever the copy lies, what an optimizer updates is what the layer reads."""
    item = Parameter(values((3, 4)), name="weight", requires_grad=False)
    item.grad[...] = 2
    if in_arena:
        Arena([Parameter([5.0]), item])
    other = duplicate(item)
    np.testing.assert_array_equal(other.data, item.data)
    np.testing.assert_array_equal(other.grad, item.grad)
    assert (other.name, other.requires_grad) == ("weight", False)
    other.data[...] = 9
    assert not (item.data == 9).any()
    if other.arena is not None:
        assert (spread(other, other.arena.data) == 9).all()
    assert (other.storage == 9).all()
