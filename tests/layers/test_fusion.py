"""Runs of layers that a Sequential executes as one: what they give is what the layers give one by one."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import oracles
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from layers.cases import assert_close, spread_values
from numpy.typing import NDArray

import cnet
from cnet import layout
from cnet.layers import (
    BatchNorm1d,
    BatchNorm2d,
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

Floats = NDArray[np.float32]
EPS = float(np.finfo(np.float32).eps)


def values(shape: tuple[int, ...], seed: int) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


@pytest.fixture(autouse=True)
def poisoned_pool() -> None:
    """Fill memory that waits to be used again with NaN, so that an output not written to shows."""
    arrays = [layout.empty((size,)) for size in range(128, 4096, 32) for _ in range(2)]
    for array in arrays:
        array.fill(np.nan)


def runs(model: Sequential) -> list[str]:
    """What is executed as one: the classes of each unit, joined."""
    return ["+".join(type(layer).__name__ for layer in getattr(unit, "layers", [unit])) for unit in model._units]


def same_bits(a: Any, b: Any) -> bool:
    a, b = np.asarray(a), np.asarray(b)
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def assert_same_state(model: Layer, other: Layer, what: str = "state") -> None:
    state, expected = model.state_dict(), other.state_dict()
    assert list(state) == list(expected)
    for name in state:
        assert same_bits(state[name], expected[name]), f"{what}: {name} differs"


def randomise(model: Layer) -> None:
    """Parameters and buffers that are far from their first values, which are neutral for a normalisation."""
    for number, parameter in enumerate(model.parameters()):
        spread = np.sqrt(max(1, parameter.data[0].size)) if parameter.data.ndim > 1 else 1
        parameter.data = np.random.default_rng(number).uniform(-1, 1, parameter.data.shape) / spread
    for number, (_, buffer) in enumerate(model.named_buffers()):
        if buffer.dtype == np.float32:
            buffer[...] = np.random.default_rng(number).uniform(0.5, 2, buffer.shape)


def gradients(model: Layer) -> dict[str, Floats]:
    return {name: parameter.grad.copy() for name, parameter in model.named_parameters()}


# What is rounded differently in two ways to sum up the same gradient, as a share of its largest element and of the
# largest of the model: one that nearly cancels is made of terms that are larger than it is.
GRADIENT_TOLERANCE, CANCELLATION = 2e-5, 1e-5


def assert_same_gradients(fused: Layer, plain: Layer, units: list[str]) -> None:
    """To rounding; a bias before a normalisation gets exactly nothing where the two are one."""
    got, expected = gradients(fused), gradients(plain)
    assert got.keys() == expected.keys()
    silent, position = set(), 0
    for unit in units:
        if unit.startswith(("Conv2d+BatchNorm2d", "Linear+BatchNorm1d")):
            silent.add(f"{position}.bias")
        position += unit.count("+") + 1
    largest = max((float(np.abs(gradient).max()) for gradient in expected.values()), default=0)
    for name in got:
        if name in silent:
            assert not got[name].any(), f"{name} before a normalisation"
            assert np.abs(expected[name]).max() <= 1e-3 * (largest + 1)
        else:
            scale = np.abs(expected[name]).max()
            error = np.abs(got[name] - expected[name]).max()
            limit = GRADIENT_TOLERANCE * scale + CANCELLATION * largest + 1e-7
            assert error <= limit, f"gradient of {name}: off by {error} of {scale}"


def check_pass(fused: Sequential, plain: Sequential, x: Floats, seed: int, input_grad: bool) -> None:
    """A forward and a backward pass; the forward one bit for bit."""
    cnet.manual_seed(seed)
    y = fused(x)
    cnet.manual_seed(seed)
    assert same_bits(y, plain(x)), "output"
    dy = values(y.shape, seed)
    dx, dx_expected = fused.backward(dy, input_grad), plain.backward(dy, input_grad)
    if input_grad:
        assert dx is not None and dx_expected is not None
        scale = np.abs(dx_expected).max()
        assert np.abs(dx - dx_expected).max() <= GRADIENT_TOLERANCE * scale + 1e-7, "input gradient"
    else:
        assert dx is None and dx_expected is None
    assert_same_gradients(fused, plain, runs(fused))


# ---- generated models


def _convolution(draw: st.DrawFn, channels: int) -> Layer:
    groups = draw(st.sampled_from([1, 1, 1, channels]))
    kernel = draw(st.sampled_from([1, 3, 3, 2, (1, 3), (3, 2)]))
    return Conv2d(
        channels,
        groups * draw(st.sampled_from([1, 2, 3, 5])) if groups > 1 else draw(st.sampled_from([1, 3, 8, 19])),
        kernel,
        stride=draw(st.sampled_from([1, 1, 1, 2])),
        padding=draw(st.sampled_from([0, 1, 1, (1, 0)])),
        groups=groups,
        bias=draw(st.booleans()),
    )


def _normalisation(draw: st.DrawFn, channels: int) -> Layer:
    return BatchNorm2d(
        channels,
        eps=draw(st.sampled_from([1e-2, 0.25])),
        momentum=draw(st.sampled_from([0.1, None, 1.0])),
        affine=draw(st.booleans()),
        track_running_stats=draw(st.sampled_from([True, True, True, False])),
    )


def _activation(draw: st.DrawFn, channels: int) -> Layer:
    kinds: list[Callable[[], Layer]] = [
        *(ReLU, lambda: LeakyReLU(0.2), lambda: LeakyReLU(-0.5), lambda: LeakyReLU(0)),
        *(PReLU, lambda: PReLU(channels)),
    ]
    return draw(st.sampled_from(kinds))()


def _pool(draw: st.DrawFn) -> Layer:
    return MaxPool2d(
        draw(st.sampled_from([2, 2, 3, (1, 2), (2, 3)])),
        stride=draw(st.sampled_from([None, None, None, 1, 2])),
        ceil_mode=draw(st.booleans()),
    )


@st.composite
def models(draw: st.DrawFn) -> tuple[Callable[[bool], Sequential], tuple[int, ...]]:
    """Makes a model of layers of every kind in a likely order, fused or not, and the shape of its images."""
    shape = input_shape = (draw(st.integers(1, 4)), draw(st.integers(4, 13)), draw(st.sampled_from([4, 6, 9, 12, 16])))
    layers: list[Layer] = []

    def add(layer: Layer) -> None:
        """Unless it cannot take what comes."""
        nonlocal shape
        try:
            shape = layer.output_shape(shape)  # type: ignore[assignment]
        except ValueError:
            return
        layers.append(layer)

    for _ in range(draw(st.integers(1, 3))):
        add(_convolution(draw, shape[0]))
        if draw(st.booleans()):
            add(_normalisation(draw, shape[0]))
        if draw(st.integers(0, 3)):
            add(_activation(draw, shape[0]))
        if draw(st.booleans()):
            add(_pool(draw))
        if draw(st.integers(0, 5)) == 0:
            add(draw(st.sampled_from([lambda: Dropout(0.3), lambda: Residual(Conv2d(shape[0], shape[0], 1))]))())
    if draw(st.booleans()):
        add(Flatten())
        for _ in range(draw(st.integers(1, 3))):
            add(Linear(None, draw(st.sampled_from([3, 17, 70])), bias=draw(st.booleans())))
            if draw(st.booleans()):
                add(BatchNorm1d(shape[0]))
            if draw(st.integers(0, 3)):
                add(_activation(draw, shape[0]))

    def make(fuse: bool) -> Sequential:
        cnet.manual_seed(1)
        model = Sequential(*copy.deepcopy(layers), fuse=fuse).build(input_shape)
        randomise(model)
        cnet.manual_seed(2)
        return model

    return make, input_shape


in_generated_models = settings(
    max_examples=120,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@given(model=models(), samples=st.lists(st.integers(3, 8), min_size=2, max_size=2), input_grad=st.booleans())
@in_generated_models
def test_fused_models_give_what_their_layers_give(
    isa: str, model: tuple[Callable[[bool], Sequential], tuple[int, ...]], samples: list[int], input_grad: bool
) -> None:
    make, shape = model
    fused, plain = make(True), make(False)
    assert all("+" not in run for run in runs(plain))
    for seed, count in enumerate(samples):
        # Gradients accumulate over the two batches, which differ in size.
        check_pass(fused, plain, values((count, *shape), seed), seed + 5, input_grad)
    buffers = dict(plain.named_buffers())
    for name, buffer in fused.named_buffers():
        assert same_bits(buffer, buffers[name]), name
    assert list(fused.state_dict()) == list(plain.state_dict())
    assert repr(fused) == repr(plain)
    fused.eval()
    plain.eval()
    for count in (1, *samples):
        x = values((count, *shape), seed=9)
        assert same_bits(fused(x), plain(x)), "output in evaluation"


def classifier(fuse: bool = True) -> Sequential:
    """Every kind of run, in a small network."""
    cnet.manual_seed(3)
    return Sequential(
        *(Conv2d(1, 8, 3, padding=1), BatchNorm2d(8), ReLU(), MaxPool2d(2)),
        *(Conv2d(8, 16, 3, padding=1), PReLU(16), MaxPool2d(2)),
        *(Conv2d(16, 16, 1), LeakyReLU(-0.1), Conv2d(16, 8, 3, padding=1, groups=8), BatchNorm2d(8)),
        *(Flatten(), Linear(32, 4)),
        fuse=fuse,
    )


X = spread_values((6, 1, 8, 8), seed=4)
LABELS = np.array([0, 3, 1, 2, 2, 0])


def train(model: Layer, steps: int = 3, optimizer: SGD | None = None) -> list[float]:
    criterion, losses = CrossEntropyLoss(), []
    optimizer = optimizer or SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    for _ in range(steps):
        losses.append(criterion(model(X), LABELS))
        model.backward(criterion.backward(), input_grad=False)
        optimizer.step()
        optimizer.zero_grad()
    return losses


def test_fused_training_follows_the_layers_one_by_one(isa: str) -> None:
    fused, plain = classifier(), classifier(fuse=False)
    losses, expected = train(fused, 8), train(plain, 8)
    assert losses[0] == expected[0] and expected[-1] < 0.5 * expected[0]
    np.testing.assert_allclose(losses, expected, rtol=1e-3)
    for name, value in fused.state_dict().items():
        np.testing.assert_allclose(value, plain.state_dict()[name], atol=2e-3, err_msg=name)


def test_trained_states_may_be_exchanged() -> None:
    fused, plain = classifier(), classifier(fuse=False)
    train(fused)
    plain.build((1, 8, 8)).load_state_dict(fused.state_dict())
    assert same_bits(fused(X), plain(X))
    assert same_bits(fused.eval()(X), plain.eval()(X))


@pytest.mark.parametrize("activation", [ReLU(), LeakyReLU(0.1), LeakyReLU(-0.5), PReLU(200)], ids=repr)
def test_wide_linear_layers_give_what_their_layers_give(isa: str, activation: Layer) -> None:
    """Sums over inputs in parts, which the activation waits for; and a batch smaller than a work item."""
    layers = [Linear(700, 200), activation, Linear(200, 90), BatchNorm1d(90), copy.deepcopy(activation), Linear(90, 10)]
    layers[4] = PReLU(90) if isinstance(activation, PReLU) else layers[4]
    fused, plain = (Sequential(*copy.deepcopy(layers), fuse=fuse).build((700,)) for fuse in (True, False))
    assert sum("+" in run for run in runs(fused)) == 2
    randomise(fused)
    plain.load_state_dict(fused.state_dict())
    for samples in (50, 2, 20):
        check_pass(fused, plain, values((samples, 700), samples), 2, input_grad=True)
    results = []
    threads = cnet.get_num_threads()
    try:
        for count in (1, 2, 3):
            cnet.set_num_threads(count)
            for parameter in fused.parameters():
                parameter.zero_grad()
            fused(values((50, 700), 1))
            fused.backward(values((50, 10), 2))
            results.append({name: gradient.tobytes() for name, gradient in gradients(fused).items()})
    finally:
        cnet.set_num_threads(threads)
    assert results[0] == results[1] == results[2]


# ---- what is run as one


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([Conv2d(2, 3, 3), BatchNorm2d(3), ReLU(), MaxPool2d(2)], ["Conv2d+BatchNorm2d+ReLU+MaxPool2d"]),
        ([Conv2d(2, 3, 3), LeakyReLU(), MaxPool2d((1, 2))], ["Conv2d+LeakyReLU+MaxPool2d"]),
        ([Conv2d(2, 3, 3), BatchNorm2d(3)], ["Conv2d+BatchNorm2d"]),
        ([Conv2d(2, 3, 3), BatchNorm2d(3), MaxPool2d(6)], ["Conv2d+BatchNorm2d+MaxPool2d"]),
        ([Conv2d(2, 3, 3), PReLU(3)], ["Conv2d+PReLU"]),
        ([Conv2d(2, 3, 3), MaxPool2d(2)], ["Conv2d+MaxPool2d"]),
        ([Conv2d(2, 3, 3), Conv2d(3, 2, 3), ReLU()], ["Conv2d", "Conv2d+ReLU"]),
        ([ReLU(), Conv2d(2, 3, 3), ReLU(), ReLU()], ["ReLU", "Conv2d+ReLU", "ReLU"]),
        # What comes in another order.
        ([Conv2d(2, 3, 3), ReLU(), BatchNorm2d(3)], ["Conv2d+ReLU", "BatchNorm2d"]),
        ([Conv2d(2, 3, 3), MaxPool2d(2), ReLU()], ["Conv2d+MaxPool2d", "ReLU"]),
        ([Conv2d(2, 3, 3), Dropout(0.5), ReLU()], ["Conv2d", "Dropout", "ReLU"]),
        ([Conv2d(2, 3, 8), Flatten(), BatchNorm1d(3), ReLU()], ["Conv2d", "Flatten", "BatchNorm1d", "ReLU"]),
        # Windows that overlap, leave something out, reach over the edge, or have holes.
        ([Conv2d(2, 3, 3), ReLU(), MaxPool2d(2, stride=1)], ["Conv2d+ReLU", "MaxPool2d"]),
        ([Conv2d(2, 3, 3), ReLU(), MaxPool2d(4)], ["Conv2d+ReLU", "MaxPool2d"]),
        ([Conv2d(2, 3, 3), ReLU(), MaxPool2d((2, 4))], ["Conv2d+ReLU", "MaxPool2d"]),
        ([Conv2d(2, 3, 3), ReLU(), MaxPool2d(2, padding=1)], ["Conv2d+ReLU", "MaxPool2d"]),
        ([Conv2d(2, 3, 3), ReLU(), MaxPool2d(2, dilation=2)], ["Conv2d+ReLU", "MaxPool2d"]),
        ([Conv2d(2, 3, 3), MaxPool2d(4, ceil_mode=True)], ["Conv2d", "MaxPool2d"]),
        ([Conv2d(2, 3, 3), MaxPool2d(3, ceil_mode=True)], ["Conv2d+MaxPool2d"]),
        ([Conv2d(2, 3, 3, padding=5), MaxPool2d((16, 8))], ["Conv2d+MaxPool2d"]),
        # More taps than a byte can number.
        ([Conv2d(2, 3, 3, padding=6), MaxPool2d((18, 9))], ["Conv2d+MaxPool2d"]),
        ([Conv2d(2, 3, 3, padding=6), MaxPool2d(18)], ["Conv2d", "MaxPool2d"]),
        # A narrow 1 x 1 convolution is run as one long row.
        ([Conv2d(2, 3, 1), ReLU(), MaxPool2d(2)], ["Conv2d+ReLU", "MaxPool2d"]),
        ([Conv2d(2, 3, 1, padding=1), ReLU(), MaxPool2d(2)], ["Conv2d+ReLU+MaxPool2d"]),
        # An evaluation by the statistics of the batch needs all of the convolution first, and so do its neighbours.
        ([Conv2d(2, 3, 3), BatchNorm2d(3, track_running_stats=False), ReLU()], ["Conv2d", "BatchNorm2d", "ReLU"]),
        ([Sequential(Conv2d(2, 3, 3)), ReLU()], ["Sequential", "ReLU"]),
        ([Flatten(), Linear(128, 5), ReLU(), Linear(5, 3)], ["Flatten", "Linear+ReLU", "Linear"]),
        ([Flatten(), Linear(128, 5), BatchNorm1d(5), PReLU(5)], ["Flatten", "Linear+BatchNorm1d+PReLU"]),
        ([Flatten(), Linear(128, 5), BatchNorm1d(5)], ["Flatten", "Linear+BatchNorm1d"]),
        ([Flatten(), Linear(128, 5), Dropout(0.5), ReLU()], ["Flatten", "Linear", "Dropout", "ReLU"]),
        ([Flatten(), Linear(128, 5), BatchNorm1d(5, track_running_stats=False)], ["Flatten", "Linear", "BatchNorm1d"]),
    ],
    ids=lambda value: "-".join(type(layer).__name__ for layer in value) if isinstance(value[0], Layer) else None,
)
def test_runs_are_recognised_and_give_what_their_layers_give(layers: list[Layer], expected: list[str]) -> None:
    fused, plain = (Sequential(*copy.deepcopy(layers), fuse=fuse).build((2, 8, 8)) for fuse in (True, False))
    assert runs(fused) == expected
    assert runs(plain) == [type(layer).__name__ for layer in layers]
    randomise(fused)
    plain.load_state_dict(fused.state_dict())
    check_pass(fused, plain, values((3, 2, 8, 8), 1), 2, input_grad=True)
    fused.eval()
    plain.eval()
    assert same_bits(fused(values((3, 2, 8, 8), 2)), plain(values((3, 2, 8, 8), 2)))


class DoublingConv2d(Conv2d):
    def _forward(self, x: Floats) -> Floats:
        return 2 * super()._forward(x)

    def _backward(self, dy: Floats, kept: Any, input_grad: bool) -> Floats | None:
        return super()._backward(2 * dy, kept, input_grad)


class NegativeReLU(ReLU):
    def _forward(self, x: Floats) -> Floats:
        return -super()._forward(-x)

    def _backward(self, dy: Floats, kept: Any, input_grad: bool) -> Floats | None:
        return super()._backward(dy, kept, input_grad)


class DoublingBatchNorm2d(BatchNorm2d):
    def _forward(self, x: Floats) -> Floats:
        return 2 * super()._forward(x)


class HalvingMaxPool2d(MaxPool2d):
    def _forward(self, x: Floats) -> Floats:
        return super()._forward(x) / 2


@pytest.mark.parametrize(
    ("make", "expected", "factor"),
    [
        (lambda: [DoublingConv2d(2, 3, 3), ReLU()], ["DoublingConv2d", "ReLU"], lambda conv: np.maximum(2 * conv, 0)),
        (lambda: [Conv2d(2, 3, 3), NegativeReLU()], ["Conv2d", "NegativeReLU"], lambda conv: np.minimum(conv, 0)),
        (
            lambda: [Conv2d(2, 3, 3), ReLU(), HalvingMaxPool2d(1)],
            ["Conv2d+ReLU", "HalvingMaxPool2d"],
            lambda conv: np.maximum(conv, 0) / 2,
        ),
    ],
    ids=["Conv2d", "ReLU", "MaxPool2d"],
)
def test_subclasses_are_not_fused(
    make: Callable[[], list[Layer]], expected: list[str], factor: Callable[[Any], Any]
) -> None:
    """A subclass may do anything, and does."""
    model, x = Sequential(*make()).build((2, 8, 8)), values((3, 2, 8, 8), 1)
    assert runs(model) == expected
    weight, bias = (parameter.data for parameter in model.parameters())
    assert_close(model(x), factor(oracles.conv2d_forward(x, weight, bias)))
    assert model.backward(values((3, 3, 6, 6), 2)) is not None


def test_subclass_of_batch_norm_is_not_fused() -> None:
    model = Sequential(Conv2d(2, 3, 3), DoublingBatchNorm2d(3), ReLU()).build((2, 8, 8))
    assert runs(model) == ["Conv2d", "DoublingBatchNorm2d", "ReLU"]
    x = values((3, 2, 8, 8), 1)
    model[1].eval()
    with np.errstate(all="raise"):
        assert_close(model(x), np.maximum(2 * model[0](x) / np.sqrt(1 + 1e-5), 0))


def test_fuse_is_checked_and_handed_to_slices() -> None:
    with pytest.raises(TypeError, match=r"^Sequential: fuse is 1, expected True or False"):
        Sequential(ReLU(), fuse=1)  # type: ignore[arg-type]
    assert Sequential().fuse
    assert not classifier(fuse=False)[:2].fuse and classifier()[:2].fuse


# ---- the contract of backward


def test_bias_before_a_normalisation_gets_exactly_nothing() -> None:
    """Its gradient is zero by the formula; rounding noise would be an optimizer's random walk."""
    model = Sequential(Conv2d(2, 5, 3), BatchNorm2d(5), ReLU(), MaxPool2d(2)).build((2, 8, 8))
    model[0].bias.grad[...] = 0.5
    model(values((4, 2, 8, 8), 1))
    model.backward(values((4, 5, 3, 3), 2))
    assert (model[0].bias.grad == 0.5).all()
    assert all(model[0].weight.grad.ravel()) and all(model[1].bias.grad)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 8, 9, 10, 11])
def test_gradients_without_input_grad_are_the_same_bits(count: int) -> None:
    """Of models that end anywhere in a run."""
    model, x = classifier()[:count].build((1, 8, 8)), X
    dy = values(model(x).shape, 1)
    assert model.backward(dy) is not None
    expected = gradients(model)
    model.zero_grad()
    model(x)
    assert model.backward(dy, input_grad=False) is None
    for name, gradient in gradients(model).items():
        assert same_bits(gradient, expected[name]), name


def test_backward_stops_at_the_first_run_that_learns() -> None:
    model = Sequential(MaxPool2d(2), ReLU(), Conv2d(2, 3, 3, bias=False), ReLU()).build((2, 8, 8))
    y = model(values((2, 2, 8, 8), 1))
    assert model.backward(np.ones_like(y), input_grad=False) is None
    assert model[2].weight.grad.any()
    for layer in (*model, *model._units):
        assert layer._kept is None


def test_layers_of_a_run_say_why_they_cannot_go_back() -> None:
    model = Sequential(Conv2d(2, 3, 3), ReLU(), MaxPool2d(2), Flatten()).build((2, 8, 8))
    y = model(values((2, 2, 8, 8), 1))
    for layer, shape in ((model[0], (2, 3, 6, 6)), (model[1], (2, 3, 6, 6)), (model[2], (2, 3, 3, 3))):
        name = type(layer).__name__
        with pytest.raises(RuntimeError) as caught:
            layer.backward(np.ones(shape))
        assert str(caught.value) == (
            f"{name}: backward of a layer that its Sequential runs as one with its neighbours. "
            "Call forward of this layer first, or build the Sequential with fuse=False."
        )
    assert model.backward(np.ones_like(y)) is not None
    with pytest.raises(RuntimeError, match=r"^Sequential: backward comes a second time"):
        model.backward(np.ones_like(y))
    # As it says: after a forward pass of its own.
    z = model[1](values((2, 3, 6, 6), 1))
    assert same_bits(model[1].backward(np.ones_like(z)), (z > 0).astype(np.float32))


def test_layers_of_a_plain_model_go_back_each_on_its_own() -> None:
    model = Sequential(Conv2d(2, 3, 3), ReLU(), fuse=False).build((2, 8, 8))
    y = model(values((2, 2, 8, 8), 1))
    assert model[1].backward(np.ones_like(y)) is not None


def test_layer_of_a_run_does_not_go_back_to_an_earlier_batch() -> None:
    """What a layer kept when it ran by itself is not what the model ran on since."""
    model, dy = Sequential(Conv2d(2, 3, 3), ReLU()).build((2, 8, 8)), np.ones((2, 3, 6, 6), np.float32)
    handle = model[1].register_forward_hook(lambda layer, x, y: None)
    model(values((2, 2, 8, 8), 1))
    handle.remove()
    model(values((2, 2, 8, 8), 2))
    for layer in model:
        with pytest.raises(RuntimeError, match="runs as one with its neighbours"):
            layer.backward(dy)


def test_run_in_evaluation_keeps_nothing() -> None:
    model = classifier().build((1, 8, 8))
    model(X)
    model.eval()
    y = model(X)
    assert all(layer._kept is None for layer in (*model, *model._units))
    with pytest.raises(RuntimeError, match=r"^Sequential: backward after a forward pass in evaluation mode"):
        model.backward(np.ones_like(y))
    with pytest.raises(RuntimeError, match=r"^Conv2d: backward after a forward pass in evaluation mode"):
        model[0].backward(np.ones((6, 8, 8, 8)))


def test_wrong_gradient_may_be_corrected() -> None:
    fused, plain = classifier()[:7], classifier(fuse=False)[:7]
    y = fused(X)
    with pytest.raises(ValueError, match=r"^Sequential: dy has shape"):
        fused.backward(np.ones((6, 16, 2, 3)))
    plain(X)
    dx, expected = fused.backward(np.ones_like(y)), plain.backward(np.ones_like(y))
    assert dx is not None and expected is not None
    np.testing.assert_allclose(dx, expected, atol=1e-5)
    assert_same_gradients(fused, plain, runs(fused))


# ---- batches


def test_size_of_the_batch_may_change(isa: str) -> None:
    fused, plain = classifier().build((1, 8, 8)), classifier(fuse=False).build((1, 8, 8))
    for count in (6, 1, 3, 32, 2):
        check_pass(fused, plain, values((count, 1, 8, 8), count), count, input_grad=True)


def test_size_of_the_images_may_change() -> None:
    fused, plain = (
        Sequential(Conv2d(2, 6, 3, padding=1), BatchNorm2d(6), ReLU(), MaxPool2d(2), Conv2d(6, 3, 3), ReLU(), fuse=fuse)
        for fuse in (True, False)
    )
    plain.build((2, 8, 8)).load_state_dict(fused.build((2, 8, 8)).state_dict())
    for size in ((8, 8), (12, 6), (7, 8), (8, 8)):
        check_pass(fused, plain, values((3, 2, *size), 1), 2, input_grad=True)
        # In images of seven rows the windows leave one out.
        assert runs(fused)[0] == "Conv2d+BatchNorm2d+ReLU" + ("+MaxPool2d" if size[0] % 2 == 0 else "")


def test_one_sample_is_a_batch() -> None:
    fused, plain = classifier().build((1, 8, 8)), classifier(fuse=False).build((1, 8, 8))
    check_pass(fused, plain, X[:1], 2, input_grad=True)
    fused.eval()
    plain.eval()
    assert same_bits(fused(X[:1]), plain(X[:1]))


def test_one_value_for_each_channel_is_refused_in_training_only() -> None:
    model = Sequential(Conv2d(2, 3, 3), BatchNorm2d(3), ReLU()).build((2, 3, 3))
    assert runs(model) == ["Conv2d+BatchNorm2d+ReLU"]
    model(values((4, 2, 3, 3), 1))
    before = model.state_dict()
    with pytest.raises(ValueError, match=r"^BatchNorm2d: one value for each channel.*Use a larger batch"):
        model(values((1, 2, 3, 3), 2))
    assert all(same_bits(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(RuntimeError, match=r"^Sequential: backward"):
        model.backward(np.ones((1, 3, 1, 1)))
    assert model.eval()(values((1, 2, 3, 3), 2)).shape == (1, 3, 1, 1)


@pytest.mark.parametrize("form", [np.ascontiguousarray, np.asfortranarray, np.ndarray.tolist, np.float64])
def test_form_of_the_batch_does_not_matter(form: Callable[[Floats], Any]) -> None:
    model, x, dy = classifier()[:4].build((1, 8, 8)), X, values((6, 8, 4, 4), 1)
    last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    y = model(last).copy()
    expected = model.backward(np.ascontiguousarray(dy.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2))
    model[1].running_mean[...] = 0
    assert same_bits(model(form(x)), y)
    assert same_bits(model.backward(form(dy)), expected)


# ---- modes and hooks within a run


def test_layers_of_different_modes_run_one_by_one(isa: str) -> None:
    """As in a fine-tuning that leaves the statistics of a normalisation as they are."""
    for evaluated in ([1], [0], [0, 2], [1, 2, 3], [5], [0, 1, 2, 3]):
        fused, plain = classifier(), classifier(fuse=False)
        for model in (fused, plain):
            randomise(model.build((1, 8, 8)))
            for index in evaluated:
                model[index].eval()
        assert same_bits(fused(X), plain(X))
        assert_same_state(fused, plain, "running statistics")
        messages = []
        for model in (fused, plain):
            with pytest.raises(RuntimeError) as caught:
                model.backward(np.ones((6, 4)))
            messages.append(str(caught.value))
        assert "evaluation mode, which keeps nothing" in messages[0]
        if evaluated != [0, 1, 2, 3]:
            assert messages[0] == messages[1]
        for model in (fused, plain):
            model.train()
            model.zero_grad()
        check_pass(fused, plain, X, 3, input_grad=True)


def test_normalisation_in_training_alone_follows_the_batches_of_an_evaluation() -> None:
    fused, plain = classifier().build((1, 8, 8)), classifier(fuse=False).build((1, 8, 8))
    for model in (fused, plain):
        model.eval()
        model[1].train()
    assert same_bits(fused(X), plain(X))
    assert fused[1].num_batches_tracked == 1
    assert_same_state(fused, plain)


def test_mode_may_change_between_the_passes() -> None:
    """What the forward pass kept decides."""
    fused, plain = classifier().build((1, 8, 8)), classifier(fuse=False).build((1, 8, 8))
    dy = values((6, 4), 1)
    for model in (fused, plain):
        model(X)
        model.eval()
    dx, expected = fused.backward(dy), plain.backward(dy)
    assert dx is not None and expected is not None
    np.testing.assert_allclose(dx, expected, atol=1e-6)
    assert_same_gradients(fused, plain, runs(fused))


@pytest.mark.parametrize("index", range(11))
def test_hook_within_a_run_sees_what_the_layer_computes(index: int) -> None:
    fused, plain = classifier().build((1, 8, 8)), classifier(fuse=False).build((1, 8, 8))
    seen: dict[Sequential, list[Floats]] = {fused: [], plain: []}
    handles = []
    for model in (fused, plain):
        log = seen[model]

        def forward(layer: Layer, x: Floats, y: Floats, log: list[Floats] = log) -> None:
            log.extend((x.copy(), y.copy()))

        def backward(layer: Layer, dx: Floats, dy: Floats, log: list[Floats] = log) -> None:
            log.extend((dx.copy(), dy.copy()))

        handles += [model[index].register_forward_hook(forward), model[index].register_full_backward_hook(backward)]
    y, expected = fused(X), plain(X)
    assert same_bits(y, expected)
    fused.backward(np.ones_like(y))
    plain.backward(np.ones_like(y))
    assert len(seen[fused]) == len(seen[plain]) == 4
    for got, wanted in zip(seen[fused][:2], seen[plain][:2], strict=True):
        assert same_bits(got, wanted)
    for got, wanted in zip(seen[fused][2:], seen[plain][2:], strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5 * np.abs(wanted).max())
    for handle in handles:
        handle.remove()
    fused.zero_grad()
    plain.zero_grad()
    check_pass(fused, plain, X, 2, input_grad=True)
    assert len(seen[fused]) == 4


def test_hook_that_replaces_an_output_within_a_run_counts() -> None:
    for index in range(3):
        fused, plain = classifier()[:4].build((1, 8, 8)), classifier(fuse=False)[:4].build((1, 8, 8))
        for model in (fused, plain):
            model[index].register_forward_hook(lambda layer, x, y: y * 2 - 0.5)
            model[index].register_full_backward_hook(lambda layer, dx, dy: dx * 3)
        y = fused(X)
        assert same_bits(y, plain(X))
        dx, expected = fused.backward(np.ones_like(y)), plain.backward(np.ones_like(y))
        assert same_bits(dx, expected)
        for name, gradient in gradients(fused).items():
            assert same_bits(gradient, gradients(plain)[name]), name


def test_hook_registered_between_the_passes_does_not_spoil_the_gradient() -> None:
    fused, plain = classifier()[:4].build((1, 8, 8)), classifier(fuse=False)[:4].build((1, 8, 8))
    y = fused(X)
    plain(X)
    handle = fused[2].register_full_backward_hook(lambda layer, dx, dy: None)
    dx, expected = fused.backward(np.ones_like(y)), plain.backward(np.ones_like(y))
    assert dx is not None and expected is not None
    np.testing.assert_allclose(dx, expected, atol=1e-5)
    # And the other way round.
    fused(X)
    plain(X)
    handle.remove()
    assert same_bits(fused.backward(np.ones_like(y)), plain.backward(np.ones_like(y)))


# ---- the layers elsewhere


def test_layers_of_a_run_may_be_used_one_by_one(isa: str) -> None:
    """Before, between and after passes of the whole."""
    fused, plain = classifier().build((1, 8, 8)), classifier(fuse=False).build((1, 8, 8))

    def one_by_one(model: Sequential, x: Floats) -> Floats:
        for layer in model:
            x = layer(x)
        return x

    def back(model: Sequential, dy: Floats) -> Floats:
        for layer in reversed(list(model)):
            dy = layer.backward(dy)  # type: ignore[assignment]
        return dy

    dy = values((6, 4), 1)
    for _ in range(2):
        y = one_by_one(fused, X)
        assert same_bits(y, one_by_one(plain, X))
        assert same_bits(back(fused, dy), back(plain, dy))
        for name, gradient in gradients(fused).items():
            assert same_bits(gradient, gradients(plain)[name]), name
        for model in (fused, plain):
            model.zero_grad()
        check_pass(fused, plain, X, 2, input_grad=True)
        for model in (fused, plain):
            model.zero_grad()
    # The whole's forward pass between the two of a layer leaves the whole's backward pass alone.
    y = fused(X)
    plain(X)
    fused[0](X[:2])
    dx, expected = fused.backward(np.ones_like(y)), plain.backward(np.ones_like(y))
    assert dx is not None and expected is not None
    np.testing.assert_allclose(dx, expected, atol=1e-5)


def test_layer_of_a_run_may_be_used_on_images_of_another_size() -> None:
    """A layer binds to the size of its last batch; the run is still for the model's."""
    model = Sequential(Conv2d(3, 4, 3), BatchNorm2d(4), ReLU(), MaxPool2d(2)).build((3, 8, 8))
    x, larger, dy = values((2, 3, 8, 8), 1), values((2, 3, 10, 9), 2), values((2, 4, 3, 3), 3)
    expected = model.eval()(x).copy()
    assert model[0](larger).shape == (2, 4, 8, 7)
    assert same_bits(model(x), expected)
    model.train()(x)
    model.backward(dy)
    gradient = model[0].weight.grad.copy()
    model.zero_grad()
    model(x)
    model[0].eval()(larger)
    model[0].train()
    model.backward(dy)
    assert same_bits(model[0].weight.grad, gradient)


def test_slice_of_a_model_may_be_used_on_images_of_another_size() -> None:
    """Convolutional features of larger images, then the whole classifier again."""
    model = classifier().build((1, 8, 8)).eval()
    expected = model(X).copy()
    features = model[:7]
    assert features(values((2, 1, 20, 12), 1)).shape == (2, 16, 5, 3)
    assert same_bits(model(X), expected)


def test_models_of_different_image_sizes_may_share_a_layer() -> None:
    shared = Conv2d(3, 4, 3)
    one, other = Sequential(shared, ReLU()), Sequential(shared, PReLU(), MaxPool2d(2))
    for _ in range(2):
        for model, size in ((one, 7), (other, 12)):
            x = values((2, 3, size, size), size)
            y = model(x)
            conv = oracles.conv2d_forward(x, shared.weight.data, shared.bias.data)
            expected = np.maximum(conv, 0)
            if model is other:
                expected = np.where(conv > 0, conv, 0.25 * conv).reshape(2, 4, 5, 2, 5, 2).max(axis=(3, 5))
            assert_close(y, expected)
            assert model.backward(np.ones_like(y)) is not None


def test_layer_in_two_places_is_right_or_refused() -> None:
    """The outputs are right, whatever the sizes; gradients are those of two layers that share parameters, or none."""
    for padding in (0, 1):
        shared, first, second = (Conv2d(3, 3, 3, padding=padding) for _ in range(3))
        for layer in (first, second):
            layer.weight, layer.bias = shared.weight, shared.bias
        model = Sequential(shared, ReLU(), shared, LeakyReLU(-0.5), MaxPool2d(2)).build((3, 8, 8))
        apart = Sequential(first, ReLU(), second, LeakyReLU(-0.5), MaxPool2d(2), fuse=False).build((3, 8, 8))
        x = values((2, 3, 8, 8), 1)
        y, dy = model(x), values((2, 3, 4 - 2 * (1 - padding), 4 - 2 * (1 - padding)), 2)
        assert same_bits(y, apart(x))
        apart.backward(dy)
        expected = shared.weight.grad.copy()
        shared.weight.zero_grad()
        try:
            model.backward(dy)
        except (RuntimeError, ValueError):
            continue
        np.testing.assert_allclose(shared.weight.grad, expected, atol=1e-5)
        assert same_bits(model.eval()(x), y)


@pytest.mark.parametrize("fuse", [False, True])
def test_parameters_in_two_places_gather_both_gradients(fuse: bool) -> None:
    """Of convolutions, normalisations and slopes, in two runs of one model."""
    cnet.manual_seed(5)
    model = Sequential(
        *(Conv2d(4, 4, 3, padding=1, bias=False), BatchNorm2d(4, eps=0.1), PReLU(4), MaxPool2d(2)),
        *(Conv2d(4, 4, 3, padding=1, bias=False), BatchNorm2d(4, eps=0.1), PReLU(4)),
        fuse=fuse,
    )
    for index in range(3):
        for name in ("weight", "bias"):
            if getattr(model[index], name, None) is not None:
                setattr(model[4 + index], name, getattr(model[index], name))
    model.build((4, 6, 6))
    assert len(model.parameters()) == 4
    assert runs(model)[0] == ("Conv2d+BatchNorm2d+PReLU+MaxPool2d" if fuse else "Conv2d")
    randomise(model)
    x = values((3, 4, 6, 6), 1)
    dy = values(model(x).shape, 2)
    model.zero_grad()
    model(x)
    model.backward(dy, input_grad=False)

    def loss(**replaced: Any) -> Any:
        from layers.cases import batch_norm, conv, max_pool, prelu

        state: dict[str, Any] = {name[2:]: p.data.astype(float) for name, p in model.named_parameters() if name < "1"}
        state |= {"gain": model[1].weight.data, "shift": model[1].bias.data, "slope": model[2].weight.data} | replaced
        hidden: Any = x.astype(float)
        for number in range(2):
            hidden = conv((1, 1, 1, 1))(hidden, {"weight": state["weight"]})
            hidden = batch_norm(0.1)(hidden, {"weight": state["gain"], "bias": state["shift"]})
            hidden = prelu(hidden, {"weight": state["slope"]})
            hidden = max_pool((2, 2), (2, 2))(hidden, {}) if number == 0 else hidden
        return hidden

    assert_close(model.train()(x), loss())
    for name, parameter in (("gain", model[1].weight), ("shift", model[1].bias), ("slope", model[2].weight)):
        expected = oracles.numeric_gradient(
            lambda varied, name=name: loss(**{name: varied}), parameter.data.astype(float), dy, step=1e-7
        )
        np.testing.assert_allclose(parameter.grad, expected, atol=1e-4 * np.abs(expected).max(), err_msg=name)
    weight = model[0].weight
    for index in ((0, 0, 0, 0), (3, 1, 2, 1), (2, 3, 1, 1)):

        def varied(value: Any, index: tuple[int, ...] = index) -> Any:
            changed = weight.data.astype(float)
            changed[index] = value
            return loss(weight=changed)

        expected = oracles.numeric_gradient(varied, float(weight.data[index]), dy, step=1e-7)
        np.testing.assert_allclose(weight.grad[index], expected, atol=1e-4 * np.abs(weight.grad).max())


# ---- growing, cutting, copying


def test_appended_layer_joins_the_run() -> None:
    model, plain = (Sequential(Conv2d(2, 3, 3), fuse=fuse).build((2, 8, 8)) for fuse in (True, False))
    plain.load_state_dict(model.state_dict())
    x = values((3, 2, 8, 8), 1)
    assert runs(model) == ["Conv2d"]
    for layer, expected in (
        (BatchNorm2d(3), "Conv2d+BatchNorm2d"),
        (LeakyReLU(0.3), "Conv2d+BatchNorm2d+LeakyReLU"),
        (MaxPool2d(2), "Conv2d+BatchNorm2d+LeakyReLU+MaxPool2d"),
    ):
        model.append(layer)
        plain.append(copy.deepcopy(layer))
        check_pass(model, plain, x, 2, input_grad=True)
        assert runs(model) == [expected]
        assert list(model.state_dict()) == list(plain.state_dict())
        model.zero_grad()
        plain.zero_grad()
    # Also to a part of a model that has been built around it.
    outer = Sequential(model, Flatten())
    outer(x)
    model.append(Conv2d(3, 2, 2)).append(ReLU())
    plain.append(copy.deepcopy(model[4])).append(ReLU())
    y = outer(x)
    assert runs(model)[1:] == ["Conv2d+ReLU"]
    plain.load_state_dict(model.state_dict())
    model[1].running_mean[...] = plain[1].running_mean[...] = 0
    assert same_bits(y, plain(x).reshape(3, -1))


@pytest.mark.parametrize("cut", range(1, 12))
def test_model_cut_anywhere_gives_what_the_whole_gives(cut: int) -> None:
    """A run that is cut is two; the parts share layers with the whole."""
    model = classifier().build((1, 8, 8))
    randomise(model)
    first, second = model[:cut], model[cut:]
    expected = model(X).copy()
    model.backward(np.ones_like(expected))
    wanted = gradients(model)
    model.zero_grad()
    y = second(first(X))
    assert same_bits(y, expected)
    first.backward(second.backward(np.ones_like(y)))  # type: ignore[arg-type]
    for name, gradient in gradients(model).items():
        # Where the cut parts a convolution from its normalisation, the gradient of its bias is rounding noise.
        scale = np.abs(wanted[name]).max() if wanted[name].any() else 20
        assert np.abs(gradient - wanted[name]).max() <= GRADIENT_TOLERANCE * scale, name
    assert same_bits(model.eval()(X), second.eval()(first.eval()(X)))


def deep_copy(model: Layer) -> Any:
    return copy.deepcopy(model)


def pickled(model: Layer) -> Any:
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("duplicate", [deep_copy, pickled])
@pytest.mark.parametrize("when", ["new", "built", "between the passes", "trained", "evaluated"])
def test_copy_of_a_fused_model_trains_as_the_model_does(duplicate: Callable[[Layer], Any], when: str) -> None:
    model = classifier()
    if when != "new":
        model.build((1, 8, 8))
    if when == "between the passes":
        model(X)
    if when == "trained":
        train(model)
    if when == "evaluated":
        train(model, 1)
        model.eval()(X)
    other = duplicate(model)
    if when == "between the passes":
        with pytest.raises(RuntimeError, match=r"^Sequential: backward comes before forward"):
            other.backward(np.ones((6, 4)))
        assert model.backward(np.ones((6, 4))) is not None
        model.zero_grad()
    assert other.training == model.training and other.fuse
    before = {name: value.tobytes() for name, value in model.state_dict().items()} if when != "new" else {}
    losses = train(other.train())
    assert len(set(losses)) == 3
    assert all(model.state_dict()[name].tobytes() == value for name, value in before.items()), "the model changed"
    assert train(model.train()) == losses
    assert_same_state(model, other)
    assert runs(model) == runs(other) and any("+" in run for run in runs(other))
    for _, layer in other.named_layers():
        assert all(layer is not own for _, own in model.named_layers())


def test_shallow_copy_shares_the_layers() -> None:
    model = classifier().build((1, 8, 8))
    other = copy.copy(model)
    expected = model(X).copy()
    model[1].running_mean[...] = 0
    assert same_bits(other(X), expected)
    assert other.parameters() == model.parameters()


def test_another_thread_count_between_the_passes_changes_nothing() -> None:
    before = cnet.get_num_threads()
    try:
        results = []
        for forward, backward in ((1, 1), (1, 3), (3, 1), (2, 2)):
            model = classifier().build((1, 8, 8))
            cnet.set_num_threads(forward)
            y = model(np.tile(X, (8, 1, 1, 1)))
            cnet.set_num_threads(backward)
            dx = model.backward(np.ones_like(y))
            assert dx is not None
            results.append([y.tobytes(), dx.tobytes(), *(g.tobytes() for g in gradients(model).values())])
        assert all(result == results[0] for result in results)
    finally:
        cnet.set_num_threads(before)


def test_fused_pass_uses_less_memory() -> None:
    """What a run saves is the memory between its layers."""
    peaks = []
    for fuse in (True, False):
        cnet.manual_seed(1)
        model = Sequential(Conv2d(3, 32, 3, padding=1), BatchNorm2d(32), ReLU(), MaxPool2d(2), fuse=fuse)
        x = values((4, 3, 32, 32), 1)
        model.eval()(x)
        cnet.layout.reset_peak_memory()
        start = cnet.layout.memory_stats()["used"]
        model(x)
        peaks.append(cnet.layout.memory_stats()["peak"] - start)
    assert peaks[0] < 0.6 * peaks[1], peaks
