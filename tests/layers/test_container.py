"""Sequential and Residual: access, names, building, and where parameters lie in memory."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import oracles
import pytest
from layers.cases import CASES, Case, assert_close, linear, spread_values

import cnet
from cnet.layers import (
    Conv2d,
    Dropout,
    Flatten,
    Layer,
    LeakyReLU,
    Linear,
    MaxPool2d,
    PReLU,
    ReLU,
    Residual,
    Sequential,
)
from cnet.losses import CrossEntropyLoss
from cnet.optimizers import SGD
from cnet.parameter import Arena, Parameter

each_case = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


def small_network(inferred: bool = False) -> Sequential:
    channels = None if inferred else 3
    return Sequential(
        Conv2d(None if inferred else 1, 3, 3, padding=1),
        PReLU(),
        MaxPool2d(2),
        Conv2d(channels, 5, 3),
        ReLU(),
        Flatten(),
        Linear(None if inferred else 20, 7, bias=False),
        Linear(None if inferred else 7, 4),
    )


SHAPE = (1, 8, 8)
X = spread_values((6, *SHAPE), seed=4)
LABELS = np.array([0, 3, 1, 2, 2, 0])


def train(model: Layer, steps: int = 3, optimizer: SGD | None = None) -> list[float]:
    """Losses of a few steps on one batch."""
    criterion, losses = CrossEntropyLoss(), []
    optimizer = optimizer or SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(steps):
        losses.append(criterion(model(X), LABELS))
        model.backward(criterion.backward(), input_grad=False)
        optimizer.step()
        optimizer.zero_grad()
    return losses


def bits(model: Layer) -> dict[str, bytes]:
    return {name: value.tobytes() for name, value in model.state_dict().items()}


def assert_one_arena(model: Layer) -> None:
    """All parameters, and no others, lie in two aligned buffers in the order of the layers, zeros between them."""
    parameters = model.parameters()
    assert Arena.holds(parameters)
    arena = parameters[0].arena
    assert arena is not None
    covered = np.zeros(arena.data.size, bool)
    end = 0
    for parameter in parameters:
        assert parameter.offset >= end and parameter.offset % 16 == 0
        end = parameter.offset + parameter.size
        covered[parameter.offset : end] = True
        for view, buffer in ((parameter.data, arena.data), (parameter.grad, arena.grad)):
            assert np.shares_memory(view, buffer)
            assert view.__array_interface__["data"][0] == buffer[parameter.offset :].__array_interface__["data"][0]
    assert arena.data.size - end < 16
    for buffer in (arena.data, arena.grad):
        assert buffer.flags.c_contiguous and buffer.dtype == np.float32
        assert buffer.__array_interface__["data"][0] % 64 == 0
        assert not buffer[~covered].any()


# ---- access and names


def test_layers_are_reached_by_place_name_and_slice() -> None:
    layers = [Linear(3, 4), ReLU(), Linear(4, 2)]
    model = Sequential(*layers)
    assert len(model) == 3 and list(model) == layers
    assert model[0] is layers[0] and model[-1] is layers[2] and model[np.int64(1)] is layers[1]  # type: ignore[call-overload]
    assert model["2"] is layers[2]
    assert list(model.children()) == ["0", "1", "2"]
    part = model[1:]
    assert type(part) is Sequential and list(part) == layers[1:]
    assert list(model[::-2]) == [layers[2], layers[0]] and len(model[5:]) == 0


@pytest.mark.parametrize(
    ("key", "error", "message"),
    [
        (3, IndexError, "the index is 3, expected less than 3 layers"),
        (-4, IndexError, "the index is -4"),
        (1.0, TypeError, "the index is 1.0, expected an integer"),
        (None, TypeError, "the index is None, expected an integer"),
        ("hiden", ValueError, "the name is 'hiden', expected one of 'head', 'hidden', 'relu'. Did you mean 'hidden'?"),
    ],
)
def test_wrong_index_is_refused(key: Any, error: type[Exception], message: str) -> None:
    model = Sequential({"hidden": Linear(3, 4), "relu": ReLU(), "head": Linear(4, 2)})
    with pytest.raises(error) as caught:
        model[key]
    assert f"Sequential: {message}" in str(caught.value)


def test_names_nest_as_in_pytorch() -> None:
    model = Sequential(
        {"stem": Sequential(Linear(3, 3), PReLU()), "block": Residual(Linear(3, 4), Linear(3, 4, bias=False))}
    )
    assert [name for name, _ in model.named_parameters()] == [
        "stem.0.weight",
        "stem.0.bias",
        "stem.1.weight",
        "block.body.weight",
        "block.body.bias",
        "block.shortcut.weight",
    ]
    assert [name for name, _ in model.named_layers()] == [
        "", "stem", "stem.0", "stem.1", "block", "block.body", "block.shortcut",
    ]  # fmt: skip
    assert list(model.state_dict()) == [name for name, _ in model.named_parameters()]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Sequential(ReLU), TypeError, "Sequential: layer '0' is a type, expected a Layer"),
        (lambda: Sequential(ReLU(), None), TypeError, "Sequential: layer '1' is a NoneType, expected a Layer"),
        (lambda: Sequential([ReLU()]), TypeError, "Sequential: layer '0' is a list, expected a Layer"),
        (lambda: Sequential({"a.b": ReLU()}), ValueError, "Sequential: a layer is named 'a.b', expected a non-empty"),
        (lambda: Sequential({"": ReLU()}), ValueError, "Sequential: a layer is named '', expected a non-empty name"),
        (lambda: Sequential({1: ReLU()}), ValueError, "Sequential: a layer is named 1, expected a non-empty name"),
        (lambda: Sequential().append(3), TypeError, "Sequential: layer '0' is a int, expected a Layer"),
        (lambda: Residual(None), TypeError, "Residual: body is a NoneType, expected a Layer"),
        (lambda: Residual(ReLU(), "identity"), TypeError, "Residual: shortcut is a str, expected a Layer"),
    ],
)
def test_what_is_no_layer_is_refused(make: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{message}"):
        make()


def test_failed_append_leaves_the_model_as_it_was() -> None:
    model = Sequential(Linear(3, 2))
    with pytest.raises(TypeError):
        model.append("layer")  # type: ignore[arg-type]
    assert len(model) == 1 and model(np.ones((1, 3))).shape == (1, 2)


# ---- append and slices


def test_append_adds_a_layer_to_a_built_model() -> None:
    model = Sequential(Linear(3, 4))
    model(np.ones((2, 3)))
    hidden = model.state_dict()
    model[0].parameters()[0].grad[...] = 2
    assert model.append(Linear(None, 2)) is model
    assert model(np.ones((2, 3))).shape == (2, 2)
    assert all(model.state_dict()[name].tobytes() == hidden[name].tobytes() for name in hidden)
    assert (model[0].parameters()[0].grad == 2).all()
    assert_one_arena(model)


@pytest.mark.parametrize(
    "model", [lambda: Sequential(ReLU(), Linear(2, 2), ReLU())[1:], lambda: Sequential({"1": Linear(2, 2)})]
)
def test_append_never_replaces_a_layer(model: Callable[[], Sequential]) -> None:
    grown = model()
    before, added = list(grown), Linear(2, 2)
    grown.append(added)
    assert list(grown) == [*before, added]


def test_slices_share_layers_with_the_whole() -> None:
    model = small_network().build(SHAPE)
    arena, expected = model.parameters()[0].arena, model(X).copy()
    first, second = model[:4], model[4:]
    assert second(first(X)).tobytes() == expected.tobytes()
    assert first.parameters() == model.parameters()[:5] and second.parameters() == model.parameters()[5:]
    assert all(parameter.arena is arena for parameter in model.parameters())
    second.backward(np.ones_like(expected))
    assert model[-1].parameters()[1].grad.tolist() == [6.0] * 4


def test_training_a_slice_trains_the_whole() -> None:
    whole, apart = small_network().build(SHAPE), small_network().build(SHAPE)
    apart.load_state_dict(whole.state_dict())
    features = whole[:6](X).copy()
    head = whole[6:]
    dy = np.ones((6, 4), np.float32)
    head(features)
    head.backward(dy, input_grad=False)
    apart(X)
    apart.backward(dy)
    assert head.parameters()[0].grad.tobytes() == apart[6].parameters()[0].grad.tobytes()
    SGD(head.parameters(), lr=0.1).step()
    SGD(apart[6:].parameters(), lr=0.1).step()
    assert bits(whole) == bits(apart)


# ---- shared layers and parameters


def test_shared_layer_has_two_names_and_one_set_of_parameters() -> None:
    shared = Linear(4, 4)
    model = Sequential(shared, ReLU(), shared).build((4,))
    assert list(model.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert model.parameters() == [shared.weight, shared.bias] and model.count_parameters() == 20
    assert_one_arena(model)
    assert model(np.ones((2, 4))).shape == (2, 4)


def test_layer_used_twice_in_one_pass_is_refused_rather_than_wrong() -> None:
    """A layer keeps what it needs for one backward pass; half of the gradient must not pass for all of it."""
    shared = Linear(4, 4)
    model = Sequential(shared, shared)
    with pytest.raises((RuntimeError, ValueError)):
        model(np.ones((2, 4)))
        model.backward(np.ones((2, 4)))


def test_two_models_may_share_a_layer() -> None:
    shared = Linear(4, 3)
    one, other = Sequential(shared, Linear(3, 2)), Sequential(shared, PReLU(), Linear(3, 5))
    x = spread_values((6, 4), seed=1)
    one_values = {name: v.astype(float) for name, v in one.build((4,)).state_dict().items()}
    for model, outputs in ((one, 2), (other, 5), (one, 2), (other, 5)):
        model(x)
        model.backward(np.ones((6, outputs)), input_grad=False)
    assert_close(one(x), linear(linear(x, one_values, "0."), one_values, "1."))
    optimizer = SGD([*one.parameters(), *other[1:].parameters()], lr=0.125)
    before, gradient = shared.weight.data.copy(), shared.weight.grad.copy()
    optimizer.step()
    np.testing.assert_array_equal(shared.weight.data, before - np.float32(0.125) * gradient)


def test_tied_parameters_gather_both_gradients() -> None:
    first, second = Linear(4, 4, bias=False), Linear(4, 4, bias=False)
    second.weight = first.weight
    model = Sequential(first, LeakyReLU(0.3), second).build((4,))
    assert model.parameters() == [first.weight]
    x, dy = spread_values((5, 4), seed=1), spread_values((5, 4), seed=2)

    def forward(weight: Any) -> Any:
        hidden = x @ weight.T
        return np.where(hidden > 0, hidden, 0.3 * hidden) @ weight.T

    weight = first.weight.data.astype(np.float64)
    assert_close(model(x), forward(weight))
    model.backward(dy)
    assert_close(first.weight.grad, oracles.numeric_gradient(forward, weight, dy))


# ---- backward


class Probe(Layer):
    """Passes on what it gets and notes the backward calls."""

    def __init__(self, log: list[tuple[str, bool]], name: str) -> None:
        super().__init__()
        self.log, self.name = log, name

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        return input_shape

    def _forward(self, x: Any) -> Any:
        self._keep(x)
        return x

    def _backward(self, dy: Any, kept: Any, input_grad: bool) -> Any:
        self.log.append((self.name, input_grad))
        return dy


class ProbeWithParameter(Probe):
    def __init__(self, log: list[tuple[str, bool]], name: str) -> None:
        super().__init__(log, name)
        self.weight = Parameter([1.0])


@pytest.mark.parametrize("inner", [False, True], ids=["flat", "nested"])
def test_backward_without_input_grad_stops_at_the_first_parameters(inner: bool) -> None:
    log: list[tuple[str, bool]] = []
    first = ProbeWithParameter(log, "b")
    model = Sequential(
        Probe(log, "a"), Sequential(first) if inner else first, Probe(log, "c"), ProbeWithParameter(log, "d")
    )
    model(np.ones((2, 3)))
    assert model.backward(np.ones((2, 3)), input_grad=False) is None
    assert log == [("d", True), ("c", True), ("b", False)]
    log.clear()
    model(np.ones((2, 3)))
    assert model.backward(np.ones((2, 3))) is not None
    assert log == [("d", True), ("c", True), ("b", True), ("a", True)]


def test_backward_of_a_model_without_parameters_does_nothing_without_input_grad() -> None:
    log: list[tuple[str, bool]] = []
    model = Sequential(Probe(log, "a"), Probe(log, "b"))
    model(np.ones((2, 3)))
    assert model.backward(np.ones((2, 3)), input_grad=False) is None
    assert not any(input_grad for _, input_grad in log)


@pytest.mark.parametrize("input_grad", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        lambda: Sequential(ReLU(), Dropout(0.5), Linear(50, 40), ReLU(), Linear(40, 30)),
        lambda: Sequential(Sequential(PReLU(), ReLU()), Residual(Sequential(LeakyReLU(), Linear(50, 50)))),
        lambda: Sequential(ReLU(), LeakyReLU()),
        lambda: Residual(Sequential(ReLU(), Linear(50, 50)), LeakyReLU()),
    ],
)
def test_backward_lets_go_of_the_activations(make: Callable[[], Layer], input_grad: bool) -> None:
    model = make().build((50,))
    gc.collect()
    before = cnet.memory_stats()["used"]
    x = np.ones((64, 50), np.float32)
    dy = np.ones(model(x).shape, np.float32)
    assert cnet.memory_stats()["used"] > before
    model.backward(dy, input_grad=input_grad)
    assert cnet.memory_stats()["used"] == before


@pytest.mark.parametrize("shortcut", [None, Sequential()], ids=["identity", "empty-sequential"])
def test_residual_adds_its_input(shortcut: Layer | None) -> None:
    x, dy = spread_values((2, 3, 4, 5), seed=1), spread_values((2, 3, 4, 5), seed=2)
    block = Residual(LeakyReLU(0.5), shortcut)
    np.testing.assert_array_equal(block(x), np.where(x > 0, x, np.float32(0.5) * x) + x)
    np.testing.assert_array_equal(block.backward(dy), np.where(x > 0, dy, np.float32(0.5) * dy) + dy)


def test_residual_of_identities_doubles() -> None:
    """Body and shortcut return the very array they got, which must not be written to."""
    x = np.ones((2, 3), np.float32)
    block = Residual(Sequential(), Sequential())
    assert block(x).tolist() == [[2.0] * 3] * 2
    assert block.backward(x).tolist() == [[2.0] * 3] * 2  # type: ignore[union-attr]
    assert x.tolist() == [[1.0] * 3] * 2


# ---- building


def test_inferred_sizes_give_the_model_that_stated_sizes_give() -> None:
    cnet.manual_seed(5)
    stated = small_network().build(SHAPE)
    cnet.manual_seed(5)
    inferred = small_network(inferred=True)
    assert not inferred.built and inferred.count_parameters() == 1
    assert inferred.build(SHAPE) is inferred and inferred.built
    assert bits(inferred) == bits(stated) and repr(inferred) == repr(stated)
    assert train(inferred) == train(stated)
    assert bits(inferred) == bits(stated)


def test_first_batch_builds() -> None:
    cnet.manual_seed(5)
    built = small_network(inferred=True).build(SHAPE)
    cnet.manual_seed(5)
    model = small_network(inferred=True)
    assert model(X).tobytes() == built(X).tobytes()
    assert_one_arena(model)


def test_unbuilt_parameters_say_how_to_build() -> None:
    model = small_network(inferred=True)
    for read in (lambda: model.state_dict(), lambda: model[0].weight.data, lambda: model[0].bias.grad):  # type: ignore[union-attr]
        with pytest.raises(
            RuntimeError, match=r"before the layer knows its input size.*Call model.build\(input_shape\)"
        ):
            read()
    with pytest.raises(RuntimeError, match=r"Call model.build\(input_shape\)"):
        model.load_state_dict({})
    model.zero_grad()


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: Sequential(Linear(None, 4), Linear(5, 2)), (3,)),
        (lambda: Sequential(Conv2d(None, 4, 3), Sequential(Flatten(), Linear(7, 2))), (1, 5, 5)),
        (lambda: Sequential(Conv2d(None, 4, 3), Conv2d(None, 4, 3)), (1, 4, 4)),
        (lambda: Residual(Linear(None, 4), Linear(None, 5)), (3,)),
    ],
)
def test_failed_build_changes_nothing(make: Callable[[], Layer], shape: tuple[int, ...]) -> None:
    model = make()
    before = repr(model)
    with pytest.raises(ValueError):
        model.build(shape)
    with pytest.raises(ValueError):
        model(np.ones((2, *shape)))
    assert repr(model) == before
    assert all(parameter.arena is None for parameter in model.parameters())


def test_build_takes_a_list_and_numpy_integers() -> None:
    model = small_network(inferred=True)
    assert model.build([np.int32(1), 8, np.uint8(8)]).built  # type: ignore[arg-type]


def test_build_twice_keeps_the_parameters() -> None:
    model = small_network(inferred=True).build(SHAPE)
    arena, before = model.parameters()[0].arena, bits(model)
    model.build(SHAPE)
    assert model.parameters()[0].arena is arena and bits(model) == before


def test_another_image_size_keeps_the_parameters() -> None:
    model = Sequential(Conv2d(2, 3, 3, padding=1), PReLU(), MaxPool2d(2), Residual(Conv2d(3, 3, 3, padding=1)))
    fresh = {}
    for size in ((6, 6), (9, 4), (6, 6), (2, 3)):
        x = spread_values((2, 2, *size), seed=1)
        y = model(x).copy()
        arena = model.parameters()[0].arena
        other = Sequential(Conv2d(2, 3, 3, padding=1), PReLU(), MaxPool2d(2), Residual(Conv2d(3, 3, 3, padding=1)))
        other.build((2, *size)).load_state_dict(model.state_dict())
        assert other(x).tobytes() == y.tobytes()
        dx = model.backward(np.ones_like(y))
        assert other.backward(np.ones_like(y)).tobytes() == dx.tobytes()  # type: ignore[union-attr]
        fresh[size] = arena
    assert len({id(arena) for arena in fresh.values()}) == 1


def test_backward_after_another_image_size_uses_the_last_batch() -> None:
    model = Sequential(Conv2d(1, 2, 3), ReLU())
    model(np.ones((1, 1, 8, 8)))
    y = model(np.ones((1, 1, 5, 6)))
    assert model.backward(np.ones_like(y)).shape == (1, 1, 5, 6)  # type: ignore[union-attr]


def test_image_size_that_does_not_fit_leaves_the_model_usable() -> None:
    model = small_network().build(SHAPE)
    expected = model(X).copy()
    with pytest.raises(ValueError, match=r"^Linear: x has shape \(N, 45\), expected \(N, 20\)"):
        model(np.ones((2, 1, 10, 10)))
    assert model(X).tobytes() == expected.tobytes()


# ---- memory


@each_case
def test_build_lays_parameters_side_by_side(case: Case) -> None:
    layer = case.make().build(case.shape[1:])
    if layer.parameters():
        assert_one_arena(layer)


def test_parameters_of_a_built_model_stay_where_they_are() -> None:
    model = small_network().build(SHAPE)
    places = [(p.arena, p.offset) for p in model.parameters()]
    train(model)
    model.load_state_dict(model.state_dict())
    model.eval()(X)
    model[0](X)
    model[:3].build(SHAPE)
    model[6].build((20,))
    assert [(p.arena, p.offset) for p in model.parameters()] == places


def test_whole_adopts_built_parts() -> None:
    """Values and gradients move; the parts, and optimizers over them, go on working."""
    one, other = Sequential(Linear(5, 4), ReLU()).build((5,)), Sequential(Linear(4, 4)).build((4,))
    for number, parameter in enumerate([*one.parameters(), *other.parameters()]):
        parameter.grad[...] = number + 1
    state = {
        **{f"0.{n}": v for n, v in one.state_dict().items()},
        **{f"1.{n}": v for n, v in other.state_dict().items()},
    }
    whole = Sequential(one, other).build((5,))
    assert_one_arena(whole)
    assert bits(whole) == {name: value.tobytes() for name, value in state.items()}
    for number, parameter in enumerate(whole.parameters()):
        assert (parameter.grad == number + 1).all()
    x = spread_values((3, 5), seed=1)
    assert other(one(x)).tobytes() == whole(x).tobytes()
    before = other.state_dict()["0.bias"]
    SGD(other.parameters(), lr=1).step()
    assert whole.state_dict()["1.0.bias"].tolist() == (before - np.float32(4)).tolist()
    assert whole.state_dict()["0.0.weight"].tobytes() == state["0.0.weight"].tobytes()


@pytest.mark.parametrize("first", [lambda: Linear(64, 8), ReLU], ids=["learning", "plain"])
def test_layer_grown_inside_a_part_trains(first: Callable[[], Layer]) -> None:
    """The part grows after the whole was built around it."""
    inner = Sequential(first())
    model = Sequential(Flatten(), inner, Linear(None, 8)).build(SHAPE)
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    inner.append(Linear(None, 8 if first is not ReLU else 64))
    model(X)
    optimizer.add_param_group({"params": inner[1].parameters()})
    before = model.state_dict()
    train(model, optimizer=optimizer)
    assert all((value != before[name]).any() for name, value in model.state_dict().items())


# ---- freezing


def test_frozen_parameters_stay_and_the_others_train_as_before() -> None:
    model, free = small_network().build(SHAPE), small_network().build(SHAPE)
    free.load_state_dict(model.state_dict())
    for parameter in model[0].parameters():
        parameter.requires_grad = False
    before = model.state_dict()
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1)
    train(model, steps=1, optimizer=optimizer)
    train(free, steps=1, optimizer=SGD(free.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1))
    after, expected = model.state_dict(), free.state_dict()
    for name in after:
        if name.startswith("0."):
            assert after[name].tobytes() == before[name].tobytes()
        else:
            assert after[name].tobytes() == expected[name].tobytes() != before[name].tobytes()
    for parameter in model[0].parameters():
        parameter.requires_grad = True
    train(model, steps=1, optimizer=optimizer)
    assert all((value != before[name]).any() for name, value in model.state_dict().items())


# ---- copies


def deep_copy(model: Layer) -> Layer:
    return copy.deepcopy(model)


def pickled(model: Layer) -> Layer:
    again = pickle.loads(pickle.dumps(model))
    assert isinstance(again, Layer)
    return again


@pytest.mark.parametrize("duplicate", [deep_copy, pickled])
@pytest.mark.parametrize("built", [False, True], ids=["unbuilt", "built"])
@pytest.mark.parametrize(
    "make",
    [lambda: Sequential(Flatten(), Linear(64, 4)), lambda: small_network()],
    ids=["dense", "convolutional"],
)
def test_copy_of_a_model_trains_as_the_model_does(
    make: Callable[[], Sequential], built: bool, duplicate: Callable[[Layer], Layer]
) -> None:
    model = make()
    if built:
        model(X)
    other = duplicate(model)
    before = bits(model)
    assert bits(other) == before
    losses = train(other)
    assert len(set(losses)) == 3, "the optimizer moved something else than the copy's parameters"
    assert bits(model) == before, "training the copy changed the model"
    assert train(model) == losses and bits(other) == bits(model)


# ---- summary


def test_summary_is_a_table_of_the_layers() -> None:
    model = Sequential(
        {
            "stem": Sequential(Conv2d(1, 4, 3), ReLU(), MaxPool2d(2)),
            "block": Residual(Conv2d(4, 4, 3, padding=1), Conv2d(4, 4, 1, bias=False)),
            "flatten": Flatten(),
            "head": Linear(None, 10),
        }
    )
    # Convolutions: outputs * (2 * taps * channels + bias); the addition of the block is in the total alone.
    assert model.summary((1, 8, 8)) == "\n".join(
        [
            "layer           type       output shape  parameters  FLOPs",
            "----------------------------------------------------------",
            "stem.0          Conv2d     (N, 4, 6, 6)          40  2,736",
            "stem.1          ReLU       (N, 4, 6, 6)           0    144",
            "stem.2          MaxPool2d  (N, 4, 3, 3)           0    144",
            "block.body      Conv2d     (N, 4, 3, 3)         148  2,628",
            "block.shortcut  Conv2d     (N, 4, 3, 3)          16    288",
            "flatten         Flatten    (N, 36)                0      0",
            "head            Linear     (N, 10)              370    730",
            "----------------------------------------------------------",
            "total                                           574  6,706",
        ]
    )
    assert model.built and model.summary() == model.summary((1, 8, 8)) == model.summary([1, 8, 8])  # type: ignore[arg-type]


def test_summary_of_a_single_layer() -> None:
    lines = Linear(3, 2).summary((3,)).splitlines()
    assert lines[2].split() == ["Linear", "(N,", "2)", "8", "14"] and lines[-1].split() == ["total", "8", "14"]


def test_summary_needs_a_shape() -> None:
    with pytest.raises(RuntimeError, match=r"^Sequential: summary of a layer that is not built\. Pass input_shape\."):
        small_network().summary()
    with pytest.raises(ValueError, match=r"^Linear: x has shape \("):
        small_network().summary((1, 12, 12))
