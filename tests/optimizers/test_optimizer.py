"""What holds for every optimizer: groups, frozen parameters, parameters that move, and state that is saved.

Optimizer classes are found by themselves: each is run with its default options, and with those of ``OPTIONS``.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import json
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import cnet
import cnet.optimizers
from cnet import layers
from cnet.losses import CrossEntropyLoss
from cnet.optimizers import SGD, Optimizer
from cnet.parameter import Arena, Parameter

# Options that switch on what an optimizer has off by default.
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "SGD": [{"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}, {"momentum": 0.5, "dampening": 0.5}],
}


def public_optimizers() -> Iterator[type[Optimizer]]:
    for module in pkgutil.iter_modules(cnet.optimizers.__path__, "cnet.optimizers."):
        for name, value in vars(importlib.import_module(module.name)).items():
            is_optimizer = inspect.isclass(value) and issubclass(value, Optimizer) and not name.startswith("_")
            if is_optimizer and value._update is not Optimizer._update:
                yield value


CLASSES = sorted(set(public_optimizers()), key=lambda kind: kind.__name__)
CONFIGURATIONS = [(kind, options) for kind in CLASSES for options in [{}, *OPTIONS.get(kind.__name__, [])]]
each_configuration = pytest.mark.parametrize(
    ("kind", "options"), CONFIGURATIONS, ids=[f"{kind.__name__}-{options}" for kind, options in CONFIGURATIONS]
)


def test_every_optimizer_is_exported() -> None:
    assert CLASSES
    assert {kind.__name__ for kind in CLASSES} <= set(cnet.optimizers.__all__)


def parameters(seed: int = 1) -> list[Parameter]:
    generator = np.random.default_rng(seed)
    shapes = [(3, 4), (3,), (2, 3, 3, 3), (17,), (1,)]
    return [Parameter(generator.standard_normal(shape), name=str(n)) for n, shape in enumerate(shapes)]


def fill_gradients(items: list[Parameter], step: int) -> None:
    """Gradients that depend on the parameter's name and the step only."""
    for parameter in items:
        generator = np.random.default_rng([int(parameter.name or 0), step])
        parameter.grad[...] = generator.standard_normal(parameter.data.shape)


def take_steps(optimizer: Optimizer, items: list[Parameter], steps: range) -> None:
    for step in steps:
        fill_gradients(items, step)
        optimizer.step()


def bits(items: list[Parameter]) -> list[bytes]:
    return [parameter.data.tobytes() for parameter in items]


def flat(state: Any) -> Any:
    """A state dict as nested lists of plain values and bytes, to be compared."""
    if isinstance(state, dict):
        return {key: flat(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return [flat(value) for value in state]
    return (state.dtype.str, state.shape, state.tobytes()) if isinstance(state, np.ndarray) else state


# ---- where parameters lie


@each_configuration
def test_each_parameter_is_updated_by_its_own_gradient(kind: Any, options: dict[str, Any]) -> None:
    together, apart = parameters(), parameters()
    take_steps(kind(together, **options), together, range(4))
    for parameter in apart:
        take_steps(kind([parameter], **options), [parameter], range(4))
    assert bits(together) == bits(apart)
    assert all(a != b for a, b in zip(bits(together), bits(parameters()), strict=True))


@each_configuration
def test_order_of_the_parameters_does_not_matter(kind: Any, options: dict[str, Any]) -> None:
    forwards, backwards = parameters(), parameters()
    Arena(backwards)
    take_steps(kind(forwards, **options), forwards, range(3))
    take_steps(kind(backwards[::-1], **options), backwards, range(3))
    assert bits(forwards) == bits(backwards)


@each_configuration
def test_arenas_do_not_matter(kind: Any, options: dict[str, Any]) -> None:
    """One arena, one each, none, parts of a larger one: the same bits, and what is not given stays as it is."""
    expected = parameters()
    take_steps(kind(expected, **options), expected, range(3))
    one, each, strangers = parameters(), parameters(), parameters(seed=2)
    Arena(one)
    for parameter in each:
        Arena([parameter])
    some = parameters()
    Arena([p for pair in zip(strangers, some, strict=True) for p in pair])
    for parameter in strangers:
        parameter.grad[...] = 1
    for items in (one, each, some):
        take_steps(kind(items, **options), items, range(3))
        assert bits(items) == bits(expected)
    assert bits(strangers) == bits(parameters(seed=2))


@each_configuration
def test_gaps_of_the_arena_stay_zero(kind: Any, options: dict[str, Any]) -> None:
    items = parameters()
    optimizer = kind(items, **options)
    take_steps(optimizer, items, range(3))
    arena = items[0].arena
    assert arena is not None and Arena.holds(items)
    gaps = np.ones(arena.data.size, bool)
    for parameter in items:
        gaps[parameter.offset : parameter.offset + parameter.size] = False
    assert gaps.any() and not arena.data[gaps].any() and not arena.grad[gaps].any()


@each_configuration
def test_state_follows_parameters_into_another_arena(kind: Any, options: dict[str, Any]) -> None:
    expected, moved = parameters(), parameters()
    take_steps(kind(expected, **options), expected, range(6))
    optimizer = kind(moved, **options)
    take_steps(optimizer, moved, range(2))
    Arena([*parameters(seed=5), *moved[::-1]])
    take_steps(optimizer, moved, range(2, 3))
    Arena(moved[:2])
    take_steps(optimizer, moved, range(3, 4))
    Arena(moved)
    state = optimizer.state_dict()
    take_steps(optimizer, moved, range(4, 6))
    assert bits(moved) == bits(expected)
    assert state["state"].keys() == set(range(5))


@each_configuration
def test_state_dict_right_after_a_move_is_that_of_before(kind: Any, options: dict[str, Any]) -> None:
    items = parameters()
    optimizer = kind(items, **options)
    take_steps(optimizer, items, range(2))
    before = flat(optimizer.state_dict())
    Arena([*parameters(seed=5), *items[::-1]])
    assert flat(optimizer.state_dict()) == before


@each_configuration
def test_optimizer_may_be_created_before_the_model_is_built(kind: Any, options: dict[str, Any]) -> None:
    def model() -> layers.Sequential:
        return layers.Sequential(layers.Linear(None, 5), layers.PReLU(), layers.Linear(None, 3))

    models = []
    for build_first in (True, False):
        cnet.manual_seed(3)
        network, criterion = model(), CrossEntropyLoss()
        if build_first:
            network.build((4,))
        optimizer = kind(network.parameters(), **options)
        if not build_first:
            with pytest.raises(
                RuntimeError, match=rf"^{kind.__name__}: step before weight is built\. Call model.build"
            ):
                optimizer.step()
            optimizer.zero_grad()
        for _ in range(3):
            criterion(network(np.arange(8.0).reshape(2, 4)), [0, 2])
            network.backward(criterion.backward(), input_grad=False)
            optimizer.step()
            optimizer.zero_grad()
        models.append(network)
    states = [flat(network.state_dict()) for network in models]
    assert states[0] == states[1]


@each_configuration
def test_model_may_grow_between_steps(kind: Any, options: dict[str, Any]) -> None:
    expected, items = parameters(), parameters()
    for optimizer, grown, rearranged in (
        (kind(expected[:3], **options), expected, False),
        (kind(items[:3], **options), items, True),
    ):
        take_steps(optimizer, grown[:3], range(2))
        if rearranged:
            Arena(grown)
        optimizer.add_param_group({"params": grown[3:]})
        take_steps(optimizer, grown, range(2, 5))
    assert bits(items) == bits(expected)


# ---- groups


def test_groups_have_options_of_their_own() -> None:
    items = parameters()
    optimizer = SGD(
        [{"params": items[:2], "lr": 0.5}, {"params": items[2]}, {"params": iter(items[3:]), "momentum": 0.9}], lr=0.25
    )  # type: ignore[list-item]
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.25, 0.25]
    assert [group["momentum"] for group in optimizer.param_groups] == [0, 0, 0.9]
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 1, 2]
    before = [parameter.data.copy() for parameter in items]
    for parameter in items:
        parameter.grad[...] = 1
    optimizer.step()
    for parameter, start, lr in zip(items, before, [0.5, 0.5, 0.25, 0.25, 0.25], strict=True):
        np.testing.assert_array_equal(parameter.data, start - np.float32(lr))


def test_groups_of_weights_and_biases_that_alternate_in_memory() -> None:
    items = parameters()
    Arena(items)
    for parameter in items:
        parameter.data[...], parameter.grad[...] = 1, 0
    weights, biases = [p for p in items if len(p.data.shape) > 1], [p for p in items if len(p.data.shape) == 1]
    SGD([{"params": weights, "weight_decay": 0.5}, {"params": biases}], lr=1).step()
    assert all((parameter.data == 0.5).all() for parameter in weights)
    assert all((parameter.data == 1).all() for parameter in biases)


@each_configuration
def test_options_of_a_group_may_change_between_steps(kind: Any, options: dict[str, Any]) -> None:
    items = parameters()
    optimizer = kind(items, **options)
    take_steps(optimizer, items, range(2))
    optimizer.param_groups[0]["lr"] = 0.0
    before = bits(items)
    take_steps(optimizer, items, range(2, 3))
    assert bits(items) == before


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (lambda p: [], ValueError, r"no parameters, expected at least one. Pass model.parameters\(\)"),
        (lambda p: iter(()), ValueError, "no parameters, expected at least one"),
        (lambda p: [p[0], p[0]], ValueError, "a parameter is given twice, expected each in one group only"),
        (lambda p: [{"params": p}, {"params": p[0]}], ValueError, "a parameter is given twice"),
        (lambda p: [p[0].data], TypeError, "parameters hold a ndarray, expected Parameter objects or group dicts"),
        (lambda p: [p[0], {"params": p[1]}], TypeError, "parameters hold a dict, expected Parameter objects"),
        (lambda p: [("0.weight", p[0])], TypeError, "parameters hold a tuple, expected Parameter objects"),
        (lambda p: [{"lr": 0.1}], ValueError, r"a group has the keys \['lr'\], expected 'params' and any of 'lr'"),
        (lambda p: [{"params": p, "lrr": 0.1}], ValueError, r"a group has the keys \['lrr', 'params'\], expected"),
        (lambda p: [{"params": ["weight"]}], TypeError, "parameters hold a str, expected Parameter objects"),
    ],
)
@pytest.mark.parametrize("kind", CLASSES)
def test_wrong_parameters_are_refused(
    kind: Any, given: Callable[[Any], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{kind.__name__}: {message}"):
        kind(given(parameters()))


@pytest.mark.parametrize("kind", CLASSES)
def test_failed_group_is_not_added(kind: Any) -> None:
    items = parameters()
    optimizer = kind(items[:2])
    for group in ({"params": items[1:]}, {"params": items[2:], "typo": 1}, {"params": [1]}):
        with pytest.raises((TypeError, ValueError)):
            optimizer.add_param_group(group)
    assert [group["params"] for group in optimizer.param_groups] == [items[:2]]


# ---- freezing


@each_configuration
def test_frozen_parameter_keeps_value_and_state(kind: Any, options: dict[str, Any]) -> None:
    for frozen in range(5):
        items, expected = parameters(), parameters()
        optimizer, reference = kind(items, **options), kind(expected, **options)
        take_steps(optimizer, items, range(2))
        take_steps(reference, expected, range(2))
        items[frozen].requires_grad = False
        value, state = items[frozen].data.tobytes(), flat(optimizer.state_dict())["state"].get(frozen)
        take_steps(optimizer, items, range(2, 4))
        assert items[frozen].data.tobytes() == value
        assert flat(optimizer.state_dict())["state"].get(frozen) == state
        take_steps(reference, expected, range(2, 4))
        others = [index for index in range(5) if index != frozen]
        assert [bits(items)[index] for index in others] == [bits(expected)[index] for index in others]
        items[frozen].requires_grad = True
        take_steps(optimizer, items, range(4, 5))
        assert items[frozen].data.tobytes() != value


@each_configuration
def test_parameter_frozen_from_the_start_has_no_state(kind: Any, options: dict[str, Any]) -> None:
    items, expected = parameters(), parameters()
    items[2].requires_grad = False
    optimizer = kind(items, **options)
    take_steps(optimizer, items, range(2))
    assert set(optimizer.state_dict()["state"]) == {0, 1, 3, 4}
    # Thawed, it starts as a new parameter does.
    items[2].requires_grad = True
    take_steps(optimizer, items, range(2, 4))
    take_steps(kind([expected[2]], **options), [expected[2]], range(2, 4))
    assert items[2].data.tobytes() == expected[2].data.tobytes()


@pytest.mark.parametrize("kind", CLASSES)
def test_all_frozen_is_allowed(kind: Any) -> None:
    items = parameters()
    for parameter in items:
        parameter.requires_grad = False
    take_steps(kind(items), items, range(2))
    assert bits(items) == bits(parameters())


@pytest.mark.parametrize("kind", CLASSES)
def test_zero_grad_reaches_every_group_and_frozen_parameters(kind: Any) -> None:
    items = parameters()
    items[1].requires_grad = False
    optimizer = kind([{"params": items[:2]}, {"params": items[2:]}])
    fill_gradients(items, 0)
    optimizer.zero_grad()
    assert not any(parameter.grad.any() for parameter in items)


# ---- state


@each_configuration
def test_state_dict_is_plain_and_holds_copies(kind: Any, options: dict[str, Any]) -> None:
    items = parameters()
    optimizer = kind([{"params": items[:2]}, {"params": items[2:]}], **options)
    assert optimizer.state_dict()["state"] == {}
    take_steps(optimizer, items, range(2))
    state = optimizer.state_dict()
    assert [group["params"] for group in state["param_groups"]] == [[0, 1], [2, 3, 4]]
    json.dumps(state["param_groups"])
    for index, entry in state["state"].items():
        assert set(entry) == set(optimizer._state_in_use(optimizer.param_groups[0]))
        for value in entry.values():
            assert type(value) is np.ndarray and value.shape == items[index].shape and value.flags.c_contiguous
    before = flat(state)
    take_steps(optimizer, items, range(2, 4))
    assert flat(state) == before


@each_configuration
@pytest.mark.parametrize("steps", [0, 1, 4])
def test_resume_is_exact(kind: Any, options: dict[str, Any], steps: int) -> None:
    """In place, and into a fresh optimizer over a fresh model that lies differently in memory."""
    expected, saved = parameters(), parameters()
    take_steps(kind(expected, **options), expected, range(8))
    optimizer = kind(saved, **options)
    take_steps(optimizer, saved, range(steps))
    state = optimizer.state_dict()
    values = [parameter.data.copy() for parameter in saved]
    fresh = parameters(seed=9)
    Arena(fresh[::-1])
    started = parameters(seed=9)
    other = kind(started)
    take_steps(other, started, range(3))
    for items, resumed in ((saved, optimizer), (fresh, kind(fresh)), (started, other)):
        take_steps(resumed, items, range(100, 102))
        for parameter, value in zip(items, values, strict=True):
            parameter.data = value
        resumed.load_state_dict(copy.deepcopy(state))
        assert flat(resumed.state_dict()) == flat(state)
        take_steps(resumed, items, range(steps, 8))
        assert bits(items) == bits(expected)


@each_configuration
def test_resume_of_a_training_is_exact(kind: Any, options: dict[str, Any]) -> None:
    """Model and optimizer saved in the middle and loaded into fresh ones."""
    generator = np.random.default_rng(1)
    x, labels = generator.standard_normal((8, 2, 6, 6)), generator.integers(0, 3, 8)

    def new() -> tuple[layers.Sequential, Optimizer]:
        model = layers.Sequential(layers.Conv2d(2, 3, 3), layers.PReLU(3), layers.Flatten(), layers.Linear(48, 3))
        return model, kind(model.parameters(), **options)

    def train(model: layers.Sequential, optimizer: Optimizer, steps: int) -> None:
        criterion = CrossEntropyLoss()
        for _ in range(steps):
            criterion(model(x), labels)
            model.backward(criterion.backward(), input_grad=False)
            optimizer.step()
            optimizer.zero_grad()

    model, optimizer = new()
    train(model, optimizer, 3)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    train(model, optimizer, 3)
    other, resumed = new()
    other.build((2, 6, 6))
    other.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    train(other, resumed, 3)
    assert flat(other.state_dict()) == flat(model.state_dict())
    assert flat(resumed.state_dict()) == flat(optimizer.state_dict())


@each_configuration
def test_load_takes_the_options_of_the_groups(kind: Any, options: dict[str, Any]) -> None:
    saved, items = parameters(), parameters()
    state = kind(saved, **{**options, "lr": 0.125}).state_dict()
    optimizer = kind(items)
    optimizer.load_state_dict(state)
    assert {**optimizer.param_groups[0], "params": None} == {**state["param_groups"][0], "params": None}
    assert optimizer.param_groups[0]["params"] == items


def spoilt(state: dict[str, Any]) -> dict[str, Any]:
    """States that no optimizer of this kind returns, by what is wrong with them."""

    def entry(index: int, name: str, value: Any) -> dict[str, Any]:
        changed = {key: dict(inner) for key, inner in state["state"].items()}
        changed.setdefault(index, {})[name] = value
        return {**state, "state": changed}

    def group(**changes: Any) -> dict[str, Any]:
        return {**state, "param_groups": [{**state["param_groups"][0], **changes}]}

    last = state["state"][4]
    name = next(iter(last), "momentum_buffer")
    without_lr = [{key: value for key, value in state["param_groups"][0].items() if key != "lr"}]
    return {
        "not a mapping": [1, 2],
        "nothing": None,
        "empty": {},
        "no groups": {**state, "param_groups": []},
        "two groups": {**state, "param_groups": state["param_groups"] * 2},
        "fewer parameters": group(params=[0, 1]),
        "an unknown option": group(typo=1),
        "a missing option": {**state, "param_groups": without_lr},
        "an option of the wrong type": group(lr="fast"),
        "an option out of range": group(lr=-1.0),
        "an unknown buffer": entry(4, "stranger", np.zeros(1)),
        "a buffer of another shape": entry(4, name, np.zeros((1, 1))),
        "a buffer of strings": entry(4, name, np.array(["a"])),
        "a buffer of complex numbers": entry(4, name, np.array([1j])),
        "a parameter too many": entry(5, name, np.zeros(1)),
        "a parameter too many, without buffers": {**state, "state": {**state["state"], 5: {}}},
        "a negative parameter": {**state, "state": {**state["state"], -1: last}},
        "a parameter that is no number": {**state, "state": {"first": last}},
    }


SPOILT = list(spoilt({"state": {4: {}}, "param_groups": [{}]}))


@pytest.mark.parametrize("what", SPOILT)
@pytest.mark.parametrize("kind", [kind for kind in CLASSES if kind.state_names])
def test_load_errors_change_nothing(kind: Any, what: str) -> None:
    options = OPTIONS[kind.__name__][0]
    items, expected = parameters(), parameters()
    optimizer, reference = kind(items, **options), kind(expected, **options)
    take_steps(optimizer, items, range(3))
    take_steps(reference, expected, range(3))
    other = parameters()
    source = kind(other, **{**options, "lr": 0.5})
    take_steps(source, other, range(4))
    before = flat(optimizer.state_dict())
    with pytest.raises((ValueError, TypeError), match=f"^{kind.__name__}: "):
        optimizer.load_state_dict(spoilt(source.state_dict())[what])
    assert flat(optimizer.state_dict()) == before
    take_steps(optimizer, items, range(3, 5))
    take_steps(reference, expected, range(3, 5))
    assert bits(items) == bits(expected)


@pytest.mark.parametrize("kind", CLASSES)
def test_load_before_the_model_is_built_is_refused(kind: Any) -> None:
    saved = parameters()[:1]
    source = kind(saved)
    take_steps(source, saved, range(1))
    optimizer = kind([Parameter()])
    with pytest.raises((RuntimeError, ValueError), match=f"^{kind.__name__}: "):
        optimizer.load_state_dict(source.state_dict())


# ---- an optimizer of one's own


class TwoBuffers(Optimizer):
    """Keeps two buffers and notes the stretches it is given."""

    state_names = ("mean", "count")

    def __init__(self, items: Any, lr: float = 1.0) -> None:
        self.calls: list[tuple[float, int, bool]] = []
        super().__init__(items, {"lr": lr})

    def _update(self, group: Any, part: Any) -> None:
        self.calls.append((group["lr"], part.data.size, part.first))
        assert part.data.shape == part.grad.shape == part.state["mean"].shape == part.state["count"].shape
        if part.first:
            assert not part.state["mean"].any() and not part.state["count"].any()
        part.state["mean"][...] += part.grad
        part.state["count"][...] += 1
        part.data[...] -= group["lr"] * part.state["mean"] / part.state["count"]


def test_a_model_is_one_stretch() -> None:
    items = parameters()
    optimizer = TwoBuffers(items)
    take_steps(optimizer, items, range(3))
    size = items[0].arena.data.size  # type: ignore[union-attr]
    assert optimizer.calls == [(1.0, size, True), (1.0, size, False), (1.0, size, False)]


def test_frozen_parameters_part_a_stretch_and_late_ones_start_apart() -> None:
    items = parameters()
    optimizer = TwoBuffers(items)
    items[1].requires_grad = False
    take_steps(optimizer, items, range(2))
    items[1].requires_grad = True
    take_steps(optimizer, items, range(2, 4))
    assert [(size, first) for _, size, first in optimizer.calls] == [
        (16, True), (112, True),
        (16, False), (112, False),
        (16, False), (16, True), (112, False),
        (144, False),
    ]  # fmt: skip


def test_groups_are_stretches_with_their_options() -> None:
    items = parameters()
    optimizer = TwoBuffers([{"params": items[:2], "lr": 0.5}, {"params": items[2:]}])
    take_steps(optimizer, items, range(1))
    assert optimizer.calls == [(0.5, 32, True), (1.0, 112, True)]


def test_every_buffer_is_saved() -> None:
    items, other = parameters(), parameters()
    optimizer, resumed = TwoBuffers(items), TwoBuffers(other)
    take_steps(optimizer, items, range(3))
    for parameter, source in zip(other, items, strict=True):
        parameter.data = source.data
    resumed.load_state_dict(optimizer.state_dict())
    take_steps(optimizer, items, range(3, 5))
    take_steps(resumed, other, range(3, 5))
    assert bits(items) == bits(other)


def test_buffers_that_belong_together_are_loaded_together() -> None:
    items = parameters()
    optimizer = TwoBuffers(items)
    take_steps(optimizer, items, range(2))
    state, before = optimizer.state_dict(), flat(optimizer.state_dict())
    del state["state"][3]["count"]
    with pytest.raises(ValueError, match=r"^TwoBuffers: state 3 has "):
        optimizer.load_state_dict(state)
    assert flat(optimizer.state_dict()) == before


def test_load_of_a_state_before_the_first_step_clears_the_buffers() -> None:
    items, expected = parameters(), parameters()
    optimizer = TwoBuffers(items)
    start = optimizer.state_dict()
    take_steps(optimizer, items, range(3))
    for parameter, fresh in zip(items, expected, strict=True):
        parameter.data = fresh.data
    optimizer.load_state_dict(start)
    take_steps(optimizer, items, range(2))
    take_steps(TwoBuffers(expected), expected, range(2))
    assert bits(items) == bits(expected)


def test_step_after_zero_grad_takes_gradients_for_zero() -> None:
    weight, bias = Parameter(np.ones((3, 4))), Parameter(np.ones(3))
    arena = Arena([weight, bias])
    optimizer = SGD([weight, bias], lr=1.0)
    weight.grad[...] = 5
    optimizer.zero_grad()
    arena.grad_memory.fill(np.nan)
    bias.grad[...] = 2
    optimizer.step()
    assert (weight.data == 1).all() and (bias.data == -1).all()
