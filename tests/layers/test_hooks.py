"""Hooks: functions that are called when a layer has run, with what it got and what it made of it."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from layers.cases import CASES, Case, spread_values
from numpy.typing import NDArray

import cnet
from cnet.layers import (
    BatchNorm2d,
    Conv2d,
    Dropout,
    Flatten,
    Layer,
    LeakyReLU,
    Linear,
    MaxPool2d,
    ReLU,
    Residual,
    Sequential,
)

Floats = NDArray[np.float32]

X = spread_values((3, 4), seed=1)
DY = spread_values((3, 2), seed=2)

each_case = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


def same_bits(a: Any, b: Any) -> bool:
    a, b = np.asarray(a), np.asarray(b)
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


class Log:
    """A hook that notes what it is called with, and returns what it is told to."""

    def __init__(self, result: Any = None) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.result = result

    def __call__(self, *arguments: Any) -> Any:
        self.calls.append(arguments)
        return self.result


@each_case
def test_hooks_of_every_layer_get_its_arrays(case: Case) -> None:
    layer, plain = case.new(), case.new()
    forward, backward = Log(), Log()
    layer.register_forward_hook(forward)
    layer.register_full_backward_hook(backward)
    y, expected = layer(case.x), plain(case.x)
    ((who, x, seen),) = forward.calls
    assert who is layer and same_bits(x, case.x) and seen is y and same_bits(y, expected)
    assert not backward.calls
    dx, expected = layer.backward(case.dy), plain.backward(case.dy)
    ((who, seen, dy),) = backward.calls
    assert who is layer and seen is dx and same_bits(dy, case.dy) and same_bits(dx, expected)
    for name, parameter in layer.named_parameters():
        assert same_bits(parameter.grad, dict(plain.named_parameters())[name].grad), name
    assert len(forward.calls) == 1


@each_case
def test_hooks_of_every_layer_may_replace_its_arrays(case: Case) -> None:
    layer, plain = case.new(), case.new()
    handles = [
        layer.register_forward_hook(lambda layer, x, y: y * 2),
        layer.register_full_backward_hook(lambda layer, dx, dy: dx - 1),
    ]
    y, expected = layer(case.x), plain(case.x)
    assert same_bits(y, expected * 2)
    dx, expected_dx = layer.backward(case.dy), plain.backward(case.dy)
    assert same_bits(dx, expected_dx - 1)
    for handle in handles:
        handle.remove()
    # What the layer keeps is its own: replacing its output does not change its gradient.
    if not case.mixes:
        assert same_bits(layer(case.x), expected)
        assert same_bits(layer.backward(case.dy), expected_dx)


def test_hooks_get_what_was_given_as_float32() -> None:
    layer, forward, backward = Linear(4, 2), Log(), Log()
    layer.register_forward_hook(forward)
    layer.register_full_backward_hook(backward)
    layer(X.astype(np.float64).tolist())
    layer.backward(DY.astype(np.float64))
    for array, expected in ((forward.calls[0][1], X), (backward.calls[0][2], DY)):
        assert type(array) is np.ndarray and same_bits(array, expected)


def test_hooks_are_called_at_every_pass_and_in_evaluation() -> None:
    layer, forward = Linear(4, 2), Log()
    layer.register_forward_hook(forward)
    for count in (3, 1, 2):
        layer(X[:count])
    layer.eval()(X)
    layer(X)
    assert [call[2].shape[0] for call in forward.calls] == [3, 1, 2, 3, 3]


def test_backward_hook_gets_none_where_no_gradient_is_wanted() -> None:
    layer, backward = Linear(4, 2), Log(np.ones((3, 4)))
    layer.register_full_backward_hook(backward)
    layer(X)
    assert layer.backward(DY, input_grad=False) is None
    ((_, dx, dy),) = backward.calls
    assert dx is None and same_bits(dy, DY)
    assert layer.weight.grad.any()


# ---- several hooks


def test_hooks_are_called_in_order_each_with_the_result_of_the_last() -> None:
    layer, order = Linear(4, 2), []

    def add(number: float) -> Callable[..., Any]:
        def hook(layer: Layer, first: Any, second: Any) -> Any:
            order.append(number)
            return (first if backwards else second) * 10 + number

        return hook

    expected, backwards = layer(X).copy(), False
    for number in (1, 2, 3):
        layer.register_forward_hook(add(number))
        layer.register_full_backward_hook(add(number))
    layer.register_forward_hook(lambda *arguments: None)
    np.testing.assert_allclose(layer(X), expected * 1000 + 123, rtol=1e-5)
    assert order == [1, 2, 3]
    backwards = True
    dx = layer.backward(DY)
    np.testing.assert_allclose(dx, DY @ layer.weight.data * 1000 + 123, rtol=1e-4)
    assert order == [1, 2, 3, 1, 2, 3]


def test_one_hook_may_be_registered_twice() -> None:
    layer, log = ReLU(), Log()
    first, second = layer.register_forward_hook(log), layer.register_forward_hook(log)
    layer(X)
    assert len(log.calls) == 2
    first.remove()
    layer(X)
    assert len(log.calls) == 3
    second.remove()
    layer(X)
    assert len(log.calls) == 3


@pytest.mark.parametrize("removed", range(3))
@pytest.mark.parametrize("register", ["register_forward_hook", "register_full_backward_hook"])
def test_removed_hook_is_not_called_and_the_others_are(register: str, removed: int) -> None:
    layer, called = ReLU(), []
    handles = [
        getattr(layer, register)(lambda layer, a, b, number=number: called.append(number)) for number in range(3)
    ]
    handles[removed].remove()
    layer(X)
    layer.backward(X)
    assert called == [number for number in range(3) if number != removed]
    called.clear()
    handles[removed].remove()
    handles.append(getattr(layer, register)(lambda layer, a, b: called.append(3)))
    # A second time does nothing, whatever has been registered since.
    handles[removed].remove()
    layer(X)
    layer.backward(X)
    assert called == [number for number in range(4) if number != removed]
    for handle in reversed(handles):
        handle.remove()
        handle.remove()
    called.clear()
    layer(X)
    layer.backward(X)
    assert called == [] and not layer._forward_hooks and not layer._backward_hooks


def test_hook_may_remove_itself_and_register_others() -> None:
    layer, called = ReLU(), []

    def once(layer: Layer, x: Any, y: Any) -> None:
        called.append("once")
        handle.remove()
        layer.register_forward_hook(lambda layer, x, y: called.append("other"))

    handle = layer.register_forward_hook(once)
    layer(X)
    assert called == ["once"]
    layer(X)
    assert called == ["once", "other"]


def test_hooks_of_one_layer_are_not_those_of_another() -> None:
    one, other, log = ReLU(), ReLU(), Log()
    handle = one.register_forward_hook(log)
    other.register_forward_hook(lambda *arguments: None).remove()
    other(X)
    assert not log.calls
    one(X)
    handle.remove()
    assert [call[0] for call in log.calls] == [one]


# ---- what hooks may return


@pytest.mark.parametrize(
    "form",
    [np.ndarray.tolist, np.float64, np.asfortranarray, lambda y: y[::-1][::-1], lambda y: y.astype(np.int64)],
    ids=["list", "float64", "Fortran order", "view", "integers"],
)
def test_result_of_a_hook_may_have_any_form_of_real_numbers(form: Callable[[Floats], Any]) -> None:
    layer = Sequential(Linear(4, 2), ReLU())
    whole = np.round(X * 4)
    layer.register_forward_hook(lambda layer, x, y: form(np.round(y)))
    layer.register_full_backward_hook(lambda layer, dx, dy: form(np.round(dx)))
    plain = copy.deepcopy(layer)
    plain._forward_hooks.clear()
    plain._backward_hooks.clear()
    y, expected = layer(whole), np.round(plain(whole))
    assert type(y) is np.ndarray and same_bits(y, expected + 0)
    dx = layer.backward(DY)
    assert type(dx) is np.ndarray and same_bits(dx + 0, np.round(plain.backward(DY)) + 0)


WRONG: dict[str, tuple[Callable[[Floats], Any], type[Exception], str]] = {
    "too few samples": (lambda y: y[:-1], ValueError, r"hook: its result has shape \(2, .*\), expected \(3, .*\)"),
    "transposed": (lambda y: y.T, ValueError, "hook: its result has shape"),
    "another axis": (lambda y: y[None], ValueError, r"hook: its result has shape \(1, 3"),
    "a number": (lambda y: 1.0, ValueError, r"hook: its result has shape \(\)"),
    "complex": (lambda y: y.astype(complex), TypeError, "hook: its result has dtype complex128"),
    "text": (lambda y: "output", TypeError, "hook: its result has dtype <U6"),
    "false": (lambda y: {}, TypeError, "hook: its result is a dict"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("nested", [False, True], ids=["layer", "within a model"])
def test_wrong_result_of_a_forward_hook_is_refused(name: str, nested: bool) -> None:
    """And leaves everything as a forward pass that failed does: ready for the next one."""
    spoil, error, message = WRONG[name]
    cnet.manual_seed(1)
    layer = Linear(4, 2)
    model: Layer = Sequential(layer, ReLU()) if nested else layer
    model.build((4,))
    before = model.state_dict()
    expected = model(X).copy()
    wanted = model.backward(DY)
    gradient = layer.weight.grad.copy()
    handle = layer.register_forward_hook(lambda layer, x, y: spoil(y))
    with pytest.raises(error, match=f"^{message}"):
        model(X[:, ::-1])
    assert all(same_bits(value, before[name]) for name, value in model.state_dict().items())
    assert same_bits(layer.weight.grad, gradient)
    handle.remove()
    layer.weight.zero_grad()
    assert same_bits(model(X), expected) and same_bits(model.backward(DY), wanted)
    assert same_bits(layer.weight.grad, gradient)


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("nested", [False, True], ids=["layer", "within a model"])
def test_wrong_result_of_a_backward_hook_is_refused(name: str, nested: bool) -> None:
    spoil, error, message = WRONG[name]
    cnet.manual_seed(1)
    layer = Linear(4, 2)
    model: Layer = Sequential(Linear(4, 4), layer) if nested else layer
    x = X
    expected = model(x).copy()
    wanted = model.backward(DY)
    gradient = layer.weight.grad.copy()
    handle = layer.register_full_backward_hook(lambda layer, dx, dy: spoil(dx))
    model(x)
    model.zero_grad()
    with pytest.raises(error, match=f"^{message}"):
        model.backward(DY)
    # The gradient of the layer has been added by then; a second backward pass must not add it again.
    assert same_bits(layer.weight.grad, gradient)
    with pytest.raises(RuntimeError, match="backward comes a second time"):
        model.backward(DY)
    assert same_bits(layer.weight.grad, gradient)
    handle.remove()
    model.zero_grad()
    assert same_bits(model(x), expected) and same_bits(model.backward(DY), wanted)
    assert same_bits(layer.weight.grad, gradient)


def test_what_cannot_be_called_is_refused() -> None:
    for register in (ReLU().register_forward_hook, Linear(2, 2).register_full_backward_hook):
        for hook, kind in ((None, "NoneType"), (3, "int"), ("print", "str")):
            with pytest.raises(TypeError, match=rf"^(ReLU|Linear): hook is a {kind}, expected a function\.$"):
                register(hook)  # type: ignore[arg-type]


# ---- exceptions


class MishapError(Exception):
    pass


def fail(*arguments: Any) -> None:
    raise MishapError


def small_network() -> Sequential:
    cnet.manual_seed(2)
    return Sequential(
        *(Conv2d(2, 4, 3, padding=1), BatchNorm2d(4), ReLU(), MaxPool2d(2)),
        *(Residual(Conv2d(4, 4, 3, padding=1)), LeakyReLU(0.1), Flatten(), Linear(16, 3)),
    ).build((2, 4, 4))


IMAGES, ABOVE = spread_values((5, 2, 4, 4), seed=3), spread_values((5, 3), seed=4)


@pytest.mark.parametrize("index", range(8))
def test_exception_in_a_forward_hook_passes_and_leaves_the_model_usable(index: int) -> None:
    model, plain = small_network(), small_network()
    handle = model[index].register_forward_hook(fail)
    with pytest.raises(MishapError):
        model(IMAGES)
    with pytest.raises(RuntimeError, match=r"^Sequential: backward comes before forward"):
        model.backward(ABOVE)
    handle.remove()
    assert not any(parameter.grad.any() for parameter in model.parameters())
    for network in (model, plain):
        network[1].running_mean[...] = 0
        network[1].running_var[...] = 1
    assert same_bits(model(IMAGES), plain(IMAGES))
    assert same_bits(model.backward(ABOVE), plain.backward(ABOVE))
    for name, value in model.state_dict().items():
        assert same_bits(value, plain.state_dict()[name]) or name == "1.num_batches_tracked", name


@pytest.mark.parametrize("index", range(8))
def test_exception_in_a_backward_hook_passes_and_leaves_the_model_usable(index: int) -> None:
    model, plain = small_network(), small_network()
    model(IMAGES)
    plain(IMAGES)
    handle = model[index].register_full_backward_hook(fail)
    model(IMAGES)
    plain(IMAGES)
    with pytest.raises(MishapError):
        model.backward(ABOVE)
    with pytest.raises(RuntimeError, match=r"^Sequential: backward comes a second time"):
        model.backward(ABOVE)
    handle.remove()
    model.zero_grad()
    plain.zero_grad()
    assert same_bits(model(IMAGES), plain(IMAGES))
    assert same_bits(model.backward(ABOVE), plain.backward(ABOVE))
    for (name, parameter), other in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert same_bits(parameter.grad, other.grad), name


# ---- on containers and inside them


def test_hooks_on_a_model_and_inside_it() -> None:
    """Inner layers come before the whole; the backward passes the other way round, inner before outer again."""
    order: list[str] = []
    model = Sequential(Linear(4, 4), Residual(Sequential(Linear(4, 4), ReLU())), Linear(4, 2))
    named = {"whole": model, **{name: layer for name, layer in model.named_layers() if name}}
    for name, layer in named.items():
        layer.register_forward_hook(lambda layer, x, y, name=name: order.append(name))
        layer.register_full_backward_hook(lambda layer, dx, dy, name=name: order.append(f"back {name}"))
    model(X)
    assert order == ["0", "1.body.0", "1.body.1", "1.body", "1", "2", "whole"]
    order.clear()
    model.backward(DY)
    assert order == [f"back {name}" for name in ("2", "1.body.1", "1.body.0", "1.body", "1", "0", "whole")]


def test_hooks_inside_see_what_passes_through() -> None:
    model, seen = small_network(), {}
    for index, layer in enumerate(model):
        layer.register_forward_hook(lambda layer, x, y, index=index: seen.setdefault(index, (x, y)) and None)
        layer.register_full_backward_hook(lambda layer, dx, dy, index=index: seen.setdefault(~index, (dx, dy)) and None)
    y, dx = model(IMAGES), model.backward(ABOVE)
    assert same_bits(seen[0][0], IMAGES) and seen[7][1] is y
    assert same_bits(seen[~7][1], ABOVE) and seen[~0][0] is dx
    for index in range(7):
        assert seen[index][1] is seen[index + 1][0]
        assert seen[~index][1] is seen[~(index + 1)][0]


def test_model_with_replacing_hooks_inside_is_the_model_of_changed_layers() -> None:
    """Doubling between two layers, forward and backward, is a layer that doubles."""

    class Double(Layer):
        def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
            return input_shape

        def _forward(self, x: Any) -> Any:
            self._keep(None)
            return 2 * x

        def _backward(self, dy: Any, kept: Any, input_grad: bool) -> Any:
            return 2 * dy

    hooked, plain = small_network(), small_network()
    for index in (0, 2, 4):
        hooked[index].register_forward_hook(lambda layer, x, y: 2 * y)
        # The gradient is doubled where it leaves the next layer.
        hooked[index + 1].register_full_backward_hook(lambda layer, dx, dy: 2 * dx)
    layers = list(plain)
    doubled = Sequential(*layers[:1], Double(), *layers[1:3], Double(), *layers[3:5], Double(), *layers[5:], fuse=False)
    assert same_bits(hooked(IMAGES), doubled(IMAGES))
    assert same_bits(hooked.backward(ABOVE), doubled.backward(ABOVE))
    for (name, parameter), other in zip(hooked.named_parameters(), doubled.parameters(), strict=True):
        assert same_bits(parameter.grad, other.grad), name


def test_hook_on_a_model_replaces_what_it_returns_and_passes_back() -> None:
    model = Sequential(Linear(4, 2), ReLU())
    expected = model(X).copy()
    wanted = model.backward(DY)
    model.register_forward_hook(lambda layer, x, y: -y)
    model.register_full_backward_hook(lambda layer, dx, dy: dx + 1)
    assert same_bits(model(X), -expected)
    assert same_bits(model.backward(DY), wanted + 1)
    outer = Sequential(model, Linear(2, 2))
    assert same_bits(outer(X), outer[1](-expected))


def test_backward_hook_of_a_layer_that_is_not_reached_is_not_called() -> None:
    """Without the gradient of the input, layers before the first parameters have nothing to do."""
    model, log = Sequential(ReLU(), Dropout(0.0), Linear(4, 2), ReLU()), Log()
    for layer in model:
        layer.register_full_backward_hook(log)
    model(X)
    model.backward(DY, input_grad=False)
    assert [call[0] for call in log.calls] == [model[3], model[2]] and log.calls[1][1] is None
    log.calls.clear()
    model(X)
    model.backward(DY)
    assert [call[0] for call in log.calls] == list(model)[::-1]


@pytest.mark.parametrize("index", range(4))
def test_backward_hook_alone_sees_the_gradients_within_a_fused_run(index: int) -> None:
    model, plain, logs = small_network(), small_network(), []
    for network in (model, plain):
        logs.append(Log())
        network[index].register_full_backward_hook(logs[-1])
    for layer in plain:  # Hooks everywhere: nothing is fused.
        layer.register_forward_hook(lambda *arguments: None)
    for input_grad in (True, False):
        model(IMAGES)
        plain(IMAGES)
        model.backward(ABOVE, input_grad)
        plain.backward(ABOVE, input_grad)
    assert len(logs[0].calls) == len(logs[1].calls) == 2
    for got, wanted in zip(*(log.calls for log in logs), strict=True):
        for array, expected in zip(got[1:], wanted[1:], strict=True):
            assert (array is None) == (expected is None)
            if array is not None:
                np.testing.assert_allclose(array, expected, atol=1e-5)
    assert logs[0].calls[1][1] is None if index == 0 else logs[0].calls[1][1] is not None


# ---- copies and lifetime


def test_copies_take_the_hooks_along_and_handles_stay_with_the_original() -> None:
    layer, calls = Linear(4, 2), []
    handle = layer.register_forward_hook(lambda layer, x, y: calls.append(layer))
    other = copy.deepcopy(layer)
    other(X)
    layer(X)
    assert calls == [other, layer]
    handle.remove()
    layer(X)
    other(X)
    assert calls == [other, layer, other]


def test_layer_with_a_hook_can_be_pickled_where_the_hook_can() -> None:
    model = small_network()
    model[2].register_forward_hook(fail)
    again = pickle.loads(pickle.dumps(model))
    with pytest.raises(MishapError):
        again(IMAGES)


def test_hooks_keep_no_arrays_alive() -> None:
    layer, refs = Linear(4, 2), []
    layer.register_forward_hook(lambda layer, x, y: refs.append(weakref.ref(y)))
    layer.register_full_backward_hook(lambda layer, dx, dy: refs.append(weakref.ref(dx)))
    layer(X)
    layer.backward(DY)
    gc.collect()
    assert [ref() for ref in refs] == [None, None]
