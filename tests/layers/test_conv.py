"""Convolution: padding by name, small batches of strided images, initial values, and PyTorch both ways."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layers.cases import assert_close, spread_values

import cnet
from cnet import layout
from cnet.layers import Conv2d, Flatten, Linear, MaxPool2d, PReLU, Sequential


def poison_pool(largest: int) -> None:
    """Fill memory that waits to be used again with NaN, so that a read of what was not written shows."""
    arrays = [layout.empty((size,)) for size in range(128, largest, 64) for _ in range(3)]
    for array in arrays:
        array.fill(np.nan)


def check_against_oracle(layer: Conv2d, x: Any, edges: tuple[int, int, int, int]) -> None:
    poison_pool(8192)
    y = layer(x)
    options: dict[str, Any] = {
        "stride": layer.stride,
        "padding": edges,
        "dilation": layer.dilation,
        "groups": layer.groups,
    }
    weight, bias = layer.weight.data, layer.bias.data if layer.bias else None
    assert_close(y, oracles.conv2d_forward(x, weight, bias, **options), f"output of {layer}")
    dy = spread_values(y.shape, seed=3)
    dx = layer.backward(dy)
    assert_close(dx, oracles.conv2d_input_grad(dy, weight, x.shape[2:], **options), f"input gradient of {layer}")
    expected = oracles.conv2d_weight_grad(x, dy, layer.kernel_size, **options)
    assert_close(layer.weight.grad, expected, f"weight gradient of {layer}")
    if layer.bias:
        assert_close(layer.bias.grad, oracles.conv2d_bias_grad(dy), f"bias gradient of {layer}")


@pytest.mark.parametrize("samples", [1, 2, 5, 16, 17])
@pytest.mark.parametrize("kernel", [(1, 1), (2, 2), (1, 3), (2, 3), (3, 3), (4, 5)], ids=str)
def test_strided_convolution_of_any_batch(isa: str, kernel: tuple[int, int], samples: int) -> None:
    """Where a batch has few images each is cut into blocks of rows, and with strides the phases differ in theirs."""
    for stride, padding in itertools.product([(1, 1), (2, 1), (2, 2), (3, 2), (4, 4)], [(0, 0), (1, 1), (2, 0)]):
        layer = Conv2d(2, 3, kernel, stride=stride, padding=padding)
        edges = (padding[0], padding[0], padding[1], padding[1])
        check_against_oracle(layer, spread_values((samples, 2, 7, 8), seed=1), edges)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[dict[str, Any], tuple[int, ...], tuple[int, int, int, int]]:
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    kernel, stride, dilation, padding = (
        (draw(st.integers(low, high)), draw(st.integers(low, high))) for low, high in ((1, 5), (1, 3), (1, 2), (0, 3))
    )
    window = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    size = [max(1, w - 2 * p) + draw(st.integers(0, 6)) for w, p in zip(window, padding, strict=True)]
    arguments = {
        "in_channels": groups * draw(st.integers(1, 4)),
        "out_channels": groups * draw(st.integers(1, 9)),
        "kernel_size": kernel,
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "groups": groups,
        "bias": draw(st.booleans()),
    }
    shape = (draw(st.integers(1, 4)), arguments["in_channels"], *size)
    return arguments, shape, (padding[0], padding[0], padding[1], padding[1])


@settings(max_examples=150, derandomize=True, deadline=None, database=None)
@given(convolutions())
def test_generated_convolutions_match_oracle(case: Any) -> None:
    arguments, shape, edges = case
    check_against_oracle(Conv2d(**arguments), spread_values(shape, seed=1), edges)


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5, (2, 5), (4, 1)], ids=str)
@pytest.mark.parametrize("dilation", [1, 2, (3, 1)], ids=str)
def test_same_padding_keeps_the_size(kernel: Any, dilation: Any) -> None:
    layer = Conv2d(2, 3, kernel, padding="same", dilation=dilation)
    assert layer.output_shape((2, 5, 7)) == (3, 5, 7)
    high, wide = (d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True))
    # The odd row and column of zeros go to the bottom and the right.
    check_against_oracle(
        layer, spread_values((2, 2, 5, 7), seed=1), (high // 2, (high + 1) // 2, wide // 2, (wide + 1) // 2)
    )


def test_valid_padding_is_none() -> None:
    x = spread_values((2, 2, 5, 7), seed=1)
    named, none = (Conv2d(2, 3, (2, 3), padding=padding).build((2, 5, 7)) for padding in ("valid", 0))
    named.load_state_dict(none.state_dict())
    assert named(x).tobytes() == none(x).tobytes()


def test_groups_are_convolutions_of_their_own() -> None:
    whole = Conv2d(6, 4, 3, padding=1, groups=2).build((6, 5, 5))
    x = spread_values((2, 6, 5, 5), seed=1)
    parts = []
    for group in range(2):
        part = Conv2d(3, 2, 3, padding=1).build((3, 5, 5))
        part.weight.data = whole.weight.data[2 * group : 2 * group + 2]
        part.bias.data = whole.bias.data[2 * group : 2 * group + 2]  # type: ignore[union-attr]
        parts.append(part(x[:, 3 * group : 3 * group + 3]).copy())
    assert_close(whole(x), np.concatenate(parts, axis=1))


@pytest.mark.parametrize("layer", [Conv2d(6, 400, 3, groups=2), Linear(50, 400)], ids=["conv", "linear"])
def test_initial_values_fill_the_interval_of_pytorch(layer: Any) -> None:
    fan_in = 27 if isinstance(layer, Conv2d) else 50
    for parameter in (layer.weight, layer.bias):
        values, bound = parameter.data * fan_in**0.5, 1.0
        assert np.abs(values).max() <= bound * (1 + 1e-6) and np.abs(values).max() > 0.98
        # Mean and variance of the uniform distribution, within five standard errors.
        assert abs(values.mean()) < 5 * (1 / 3 / values.size) ** 0.5
        assert abs((values**2).mean() - 1 / 3) < 5 * (4 / 45 / values.size) ** 0.5


def test_initialisers_by_name() -> None:
    layer = Conv2d(3, 4, 3, init="ones", bias_init="zeros")
    assert (layer.weight.data == 1).all() and not layer.bias.data.any()  # type: ignore[union-attr]


def test_initial_values_are_a_function_of_the_seed() -> None:
    states = []
    for seed in (1, 1, 2):
        cnet.manual_seed(seed)
        states.append([value.tobytes() for value in Conv2d(2, 3, 3).state_dict().values()])
    assert states[0] == states[1] != states[2]


PARITY = [
    {"kernel_size": 3},
    {"kernel_size": (3, 5), "padding": (1, 2), "bias": False},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 1, "stride": 2},
    {"kernel_size": 2, "stride": 3, "padding": 1},
    {"kernel_size": 3, "dilation": 2, "padding": 2},
    {"kernel_size": 3, "groups": 2, "padding": 1},
    {"kernel_size": 3, "groups": 6, "padding": 1},
    {"kernel_size": (4, 2), "padding": "same"},
    {"kernel_size": (2, 3), "padding": "same", "dilation": (3, 2)},
    {"kernel_size": 3, "padding": "valid"},
]


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("options", PARITY, ids=str)
@pytest.mark.parametrize("into_torch", [True, False], ids=["into-torch", "from-torch"])
def test_parity_with_pytorch(options: dict[str, Any], into_torch: bool) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(1)
    layer, module = Conv2d(6, 12, **options), torch.nn.Conv2d(6, 12, **options)
    assert {n: v.shape for n, v in layer.state_dict().items()} == {
        n: tuple(v.shape) for n, v in module.state_dict().items()
    }
    if into_torch:
        module.load_state_dict({name: torch.from_numpy(value) for name, value in layer.state_dict().items()})
    else:
        layer.load_state_dict(module.state_dict())
    x = spread_values((3, 6, 9, 8), seed=1)
    tensor = torch.tensor(x, requires_grad=True)
    expected = module(tensor)
    y = layer(x)
    assert_close(y, expected.detach().numpy())
    dy = spread_values(y.shape, seed=2)
    expected.backward(torch.tensor(dy))
    assert_close(layer.backward(dy), tensor.grad.numpy())
    for name, parameter in module.named_parameters():
        assert_close(dict(layer.named_parameters())[name].grad, parameter.grad.numpy())


def test_network_parity_with_pytorch() -> None:
    torch = pytest.importorskip("torch")
    nn = torch.nn
    torch.manual_seed(1)
    module = nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1), nn.PReLU(), nn.MaxPool2d(2), nn.Conv2d(5, 7, 3, stride=2), nn.PReLU(7),
        nn.Flatten(), nn.Linear(28, 9), nn.PReLU(9), nn.Linear(9, 4),
    )  # fmt: skip
    model = Sequential(
        Conv2d(None, 5, 3, padding=1), PReLU(), MaxPool2d(2), Conv2d(None, 7, 3, stride=2), PReLU(7),
        Flatten(), Linear(None, 9), PReLU(9), Linear(None, 4),
    ).build((2, 11, 12))  # fmt: skip
    model.load_state_dict(module.state_dict())
    x = spread_values((3, 2, 11, 12), seed=1)
    tensor = torch.tensor(x, requires_grad=True)
    expected = module(tensor)
    assert_close(model(x), expected.detach().numpy())
    dy = spread_values((3, 4), seed=2)
    expected.backward(torch.tensor(dy))
    assert_close(model.backward(dy), tensor.grad.numpy())
    for name, parameter in module.named_parameters():
        assert_close(dict(model.named_parameters())[name].grad, parameter.grad.numpy(), name)
    module.load_state_dict({name: torch.from_numpy(value + 1) for name, value in model.state_dict().items()})
    assert_close(model.load_state_dict(module.state_dict()) or model(x), module(torch.tensor(x)).detach().numpy())
