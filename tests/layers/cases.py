"""The table of layers: every configuration that the generic tests in ``test_layers.py`` run.

A new layer needs a row here: how it is made, the shape of a batch, what it computes in plain float64 NumPy, and its
``repr``. The generic tests draw parameters and inputs themselves, differentiate the oracle numerically, and find out by
themselves when a public layer has no row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import oracles
from numpy.typing import NDArray

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
    Softmax,
)

Array = NDArray[np.float64]
Values = dict[str, Array]
Oracle = Callable[[Array, Values], Array]


@dataclass(frozen=True)
class Case:
    """A layer configuration."""

    name: str
    make: Callable[[], Layer]
    shape: tuple[int, ...]
    """Of a batch, samples first."""
    oracle: Oracle
    """The output for an input and the parameters by name, all in float64."""
    text: str
    """The ``repr`` of the layer once it is built."""
    eval_oracle: Oracle | None = None
    """What the layer computes in evaluation, where that is something else."""
    mixes: bool = False
    """Whether the output for a sample depends on the other samples of a batch."""

    def new(self) -> Layer:
        """The layer, built, with parameters that are the same each time."""
        layer = self.make().build(self.shape[1:])
        for number, parameter in enumerate(layer.parameters()):
            parameter.data = np.random.default_rng(number).uniform(-1, 1, parameter.data.shape)
        for number, (_, buffer) in enumerate(layer.named_buffers()):
            if buffer.dtype == np.float32:
                buffer[...] = np.random.default_rng(number).uniform(0.5, 2, buffer.shape)
        return layer

    def reference(self, x: Any, layer: Layer) -> Array:
        """What ``layer`` should return for ``x``."""
        oracle = self.oracle if layer.training or self.eval_oracle is None else self.eval_oracle
        return oracle(np.asarray(x, dtype=np.float64), self.values(layer))

    @staticmethod
    def values(layer: Layer) -> Values:
        """The layer's parameters and buffers in float64."""
        return {name: value.astype(np.float64) for name, value in layer.state_dict().items()}

    @cached_property
    def x(self) -> NDArray[np.float32]:
        """Inputs in [-2, 2), all different and none near 0, so that no step of a difference crosses a kink."""
        return spread_values(self.shape, seed=1)

    @cached_property
    def dy(self) -> NDArray[np.float32]:
        """A gradient of the output."""
        shape = (self.shape[0], *self.make().output_shape(self.shape[1:]))
        return np.random.default_rng(2).uniform(-1, 1, shape).astype(np.float32)

    @cached_property
    def gradients(self) -> tuple[Array, Values]:
        """Of ``sum(dy * y)`` with respect to ``x`` and to each parameter, by central differences of the oracle."""
        layer = self.new()
        x, values = self.x.astype(np.float64), self.values(layer)
        dx = oracles.numeric_gradient(lambda varied: self.oracle(varied, values), x, self.dy)
        names = dict(layer.named_parameters())
        return dx, {
            name: oracles.numeric_gradient(
                lambda varied, name=name: self.oracle(x, {**values, name: varied}), values[name], self.dy
            )
            for name in names
        }


def spread_values(shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    """Evenly spaced values in [-2, 2), shuffled; 0 is not among them."""
    size = int(np.prod(shape))
    places = np.random.default_rng(seed).permutation(size)
    return ((places + 0.25) / size * 4 - 2).astype(np.float32).reshape(shape)


def assert_close(actual: Any, expected: Any, what: str = "result") -> None:
    """Float32 against float64, within a hundred units of the largest value; budgets in ulps are the kernel tests'."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, expected {expected.shape}"
    scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * scale, err_msg=what)


# ---- oracles


def linear(x: Array, values: Values, prefix: str = "") -> Array:
    return oracles.dense_forward(x, values[f"{prefix}weight"].T, values.get(f"{prefix}bias"))


def conv(padding: Any = (0, 0, 0, 0), prefix: str = "", **options: Any) -> Oracle:
    def forward(x: Array, values: Values) -> Array:
        weight, bias = values[f"{prefix}weight"], values.get(f"{prefix}bias")
        return oracles.conv2d_forward(x, weight, bias, padding=padding, **options)

    return forward


def max_pool(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    size: tuple[int, int] | None = None,
) -> Oracle:
    """``size`` is that of the output, where it is not the usual one."""

    def forward(x: Array, values: Values) -> Array:
        height, width = size or tuple(
            (length + 2 * p - d * (k - 1) - 1) // s + 1
            for length, k, s, p, d in zip(x.shape[2:], kernel, stride, padding, dilation, strict=True)
        )
        y = np.empty((*x.shape[:2], height, width))
        for i, j in np.ndindex(height, width):
            rows = i * stride[0] - padding[0] + dilation[0] * np.arange(kernel[0])
            columns = j * stride[1] - padding[1] + dilation[1] * np.arange(kernel[1])
            rows, columns = rows[(rows >= 0) & (rows < x.shape[2])], columns[(columns >= 0) & (columns < x.shape[3])]
            y[:, :, i, j] = x[:, :, rows][..., columns].max(axis=(2, 3))
        return y

    return forward


def leaky(x: Array, slope: Any) -> Array:
    return np.where(x > 0, x, slope * x)


def prelu(x: Array, values: Values) -> Array:
    slopes = values["weight"]
    return leaky(x, slopes.reshape(-1, *[1] * (x.ndim - 2)) if slopes.size > 1 else slopes[0])


def softmax(x: Array, values: Values) -> Array:
    powers = np.exp(x - x.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def batch_norm(eps: float = 1e-5, running: bool = False) -> Oracle:
    def forward(x: Array, values: Values) -> Array:
        axes = (0, 2, 3)[: x.ndim - 1]
        mean, variance = x.mean(axis=axes), x.var(axis=axes)
        if running:
            mean, variance = values["running_mean"], values["running_var"]
        ones = np.ones_like(mean)
        weight, bias = values.get("weight", ones), values.get("bias", 0 * ones)
        mean, variance, weight, bias = (v.reshape(-1, *[1] * (x.ndim - 2)) for v in (mean, variance, weight, bias))
        return (x - mean) / np.sqrt(variance + eps) * weight + bias

    return forward


def identity(x: Array, values: Values) -> Array:
    return x


def relu(x: Array, values: Values) -> Array:
    return np.maximum(x, 0)


def flatten(x: Array, values: Values) -> Array:
    return x.reshape(len(x), -1)


def small_network(x: Array, values: Values) -> Array:
    x = conv((1, 1, 1, 1), "0.")(x, values)
    x = max_pool((2, 2), (2, 2))(leaky(x, values["1.weight"][0]), values)
    return linear(relu(linear(flatten(x, values), values, "4."), values), values, "6.")


def short_runs(x: Array, values: Values, running: bool = False) -> Array:
    x = conv(prefix="2.")(leaky(conv(prefix="0.")(x, values), -0.5), values)
    x = batch_norm(0.25, running)(x, {name[2:]: value for name, value in values.items() if name.startswith("3.")})
    x = max_pool((2, 1), (2, 1))(conv(prefix="4.")(x, values), values)
    return leaky(conv(prefix="6.", groups=4)(x, values), 0.25)


def nested(x: Array, values: Values) -> Array:
    x = conv((0, 0, 0, 0), "features.first.")(x, values)
    return linear(flatten(np.maximum(x, 0), values), values, "head.")


def residual_convolution(x: Array, values: Values) -> Array:
    return conv((1, 1, 1, 1), "body.0.")(x, values).clip(0) + x


def residual_shortcut(x: Array, values: Values) -> Array:
    around = conv((0, 0, 0, 0), "shortcut.", stride=(2, 2))(x, values)
    return conv((1, 1, 1, 1), "body.", stride=(2, 2))(x, values) + around


def residual_network(x: Array, values: Values) -> Array:
    inner = leaky(linear(x, values, "0.body.0."), 0.25) + x
    return linear(inner, values, "1.body.") + linear(inner, values, "1.shortcut.")


def normalised_network(x: Array, values: Values, running: bool = False) -> Array:
    """Two convolutions with all that may be run as one with them."""
    for number, pool, padding in ((0, (2, 2), (1, 1, 1, 1)), (4, (1, 2), (0, 0, 1, 1))):
        parts = {name[2:]: value for name, value in values.items() if name.startswith(f"{number + 1}.")}
        x = batch_norm(0.125, running)(conv(padding, f"{number}.")(x, values), parts)
        x = np.maximum(x, 0) if number == 0 else leaky(x, values["6.weight"][:, None, None])
        x = max_pool(pool, pool)(x, values)
    return x


SMALL_NETWORK_TEXT = """\
Sequential(
  (0): Conv2d(2, 3, kernel_size=(3, 3), padding=(1, 1))
  (1): PReLU()
  (2): MaxPool2d(kernel_size=(2, 2))
  (3): Flatten()
  (4): Linear(12, 5)
  (5): ReLU()
  (6): Linear(5, 4)
)"""
NORMALISED_NETWORK_TEXT = """\
Sequential(
  (0): Conv2d(2, 5, kernel_size=(3, 3), padding=(1, 1))
  (1): BatchNorm2d(5, eps=0.125)
  (2): ReLU()
  (3): MaxPool2d(kernel_size=(2, 2))
  (4): Conv2d(5, 3, kernel_size=(2, 3), padding=(0, 1), bias=False)
  (5): BatchNorm2d(3, eps=0.125)
  (6): PReLU(3)
  (7): MaxPool2d(kernel_size=(1, 2))
)"""
SHORT_RUNS_TEXT = """\
Sequential(
  (0): Conv2d(2, 3, kernel_size=(2, 2))
  (1): LeakyReLU(-0.5)
  (2): Conv2d(3, 2, kernel_size=(1, 1))
  (3): BatchNorm2d(2, eps=0.25, affine=False)
  (4): Conv2d(2, 4, kernel_size=(3, 1))
  (5): MaxPool2d(kernel_size=(2, 1))
  (6): Conv2d(4, 4, kernel_size=(1, 1), groups=4)
  (7): LeakyReLU(0.25)
)"""
NESTED_TEXT = """\
Sequential(
  (features): Sequential(
    (first): Conv2d(1, 2, kernel_size=(2, 2))
    (second): ReLU()
  )
  (flatten): Flatten()
  (head): Linear(8, 3)
)"""
RESIDUAL_CONVOLUTION_TEXT = """\
Residual(
  (body): Sequential(
    (0): Conv2d(3, 3, kernel_size=(3, 3), padding=(1, 1))
    (1): ReLU()
  )
)"""
RESIDUAL_SHORTCUT_TEXT = """\
Residual(
  (body): Conv2d(2, 4, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1))
  (shortcut): Conv2d(2, 4, kernel_size=(1, 1), stride=(2, 2))
)"""
RESIDUAL_NETWORK_TEXT = """\
Sequential(
  (0): Residual(
    (body): Sequential(
      (0): Linear(6, 6)
      (1): LeakyReLU(0.25)
    )
  )
  (1): Residual(
    (body): Linear(6, 4)
    (shortcut): Linear(6, 4, bias=False)
  )
)"""

CASES = [
    Case("linear", lambda: Linear(5, 3), (4, 5), linear, "Linear(5, 3)"),
    Case("linear-no-bias", lambda: Linear(7, 4, bias=False), (3, 7), linear, "Linear(7, 4, bias=False)"),
    Case("linear-inferred", lambda: Linear(None, 2), (6, 9), linear, "Linear(9, 2)"),
    Case("linear-of-one", lambda: Linear(1, 1), (1, 1), linear, "Linear(1, 1)"),
    Case("linear-wider-than-a-tile", lambda: Linear(19, 37), (33, 19), linear, "Linear(19, 37)"),
    Case("conv", lambda: Conv2d(2, 3, 3), (2, 2, 5, 6), conv(), "Conv2d(2, 3, kernel_size=(3, 3))"),
    Case(
        "conv-padded",
        lambda: Conv2d(3, 4, 3, padding=1),
        (2, 3, 4, 5),
        conv((1, 1, 1, 1)),
        "Conv2d(3, 4, kernel_size=(3, 3), padding=(1, 1))",
    ),
    Case(
        "conv-strided",
        lambda: Conv2d(2, 3, 3, stride=2, padding=1),
        (2, 2, 6, 7),
        conv((1, 1, 1, 1), stride=(2, 2)),
        "Conv2d(2, 3, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1))",
    ),
    Case(
        "conv-stride-beyond-kernel",
        lambda: Conv2d(1, 2, 2, stride=3),
        (2, 1, 7, 8),
        conv(stride=(3, 3)),
        "Conv2d(1, 2, kernel_size=(2, 2), stride=(3, 3))",
    ),
    Case(
        "conv-dilated",
        lambda: Conv2d(2, 2, 3, padding=2, dilation=2),
        (1, 2, 5, 6),
        conv((2, 2, 2, 2), dilation=(2, 2)),
        "Conv2d(2, 2, kernel_size=(3, 3), padding=(2, 2), dilation=(2, 2))",
    ),
    Case(
        "conv-every-pair",
        lambda: Conv2d(2, 3, (2, 3), stride=(1, 2), padding=(2, 1), dilation=(2, 1)),
        (2, 2, 5, 6),
        conv((2, 2, 1, 1), stride=(1, 2), dilation=(2, 1)),
        "Conv2d(2, 3, kernel_size=(2, 3), stride=(1, 2), padding=(2, 1), dilation=(2, 1))",
    ),
    Case(
        "conv-groups",
        lambda: Conv2d(4, 6, 3, padding=1, groups=2),
        (2, 4, 4, 3),
        conv((1, 1, 1, 1), groups=2),
        "Conv2d(4, 6, kernel_size=(3, 3), padding=(1, 1), groups=2)",
    ),
    Case(
        "conv-depthwise",
        lambda: Conv2d(3, 3, 3, padding=1, groups=3),
        (2, 3, 4, 5),
        conv((1, 1, 1, 1), groups=3),
        "Conv2d(3, 3, kernel_size=(3, 3), padding=(1, 1), groups=3)",
    ),
    Case(
        "conv-depthwise-multiplied",
        lambda: Conv2d(2, 6, 2, groups=2),
        (2, 2, 4, 4),
        conv(groups=2),
        "Conv2d(2, 6, kernel_size=(2, 2), groups=2)",
    ),
    Case("conv-one-by-one", lambda: Conv2d(5, 4, 1), (2, 5, 3, 4), conv(), "Conv2d(5, 4, kernel_size=(1, 1))"),
    Case(
        "conv-no-bias",
        lambda: Conv2d(1, 2, 3, bias=False),
        (3, 1, 5, 5),
        conv(),
        "Conv2d(1, 2, kernel_size=(3, 3), bias=False)",
    ),
    Case("conv-inferred", lambda: Conv2d(None, 2, 2), (2, 3, 3, 3), conv(), "Conv2d(3, 2, kernel_size=(2, 2))"),
    Case(
        "conv-same-even-kernel",
        lambda: Conv2d(2, 2, (2, 4), padding="same"),
        (2, 2, 4, 5),
        conv((0, 1, 1, 2)),
        "Conv2d(2, 2, kernel_size=(2, 4), padding='same')",
    ),
    Case(
        "conv-same-dilated",
        lambda: Conv2d(1, 2, (3, 2), padding="same", dilation=(2, 3)),
        (2, 1, 5, 6),
        conv((2, 2, 1, 2), dilation=(2, 3)),
        "Conv2d(1, 2, kernel_size=(3, 2), padding='same', dilation=(2, 3))",
    ),
    Case(
        "conv-valid",
        lambda: Conv2d(1, 2, 3, padding="valid"),
        (2, 1, 4, 4),
        conv(),
        "Conv2d(1, 2, kernel_size=(3, 3), padding='valid')",
    ),
    Case(
        "conv-kernel-as-large-as-image",
        lambda: Conv2d(2, 3, (3, 4)),
        (2, 2, 3, 4),
        conv(),
        "Conv2d(2, 3, kernel_size=(3, 4))",
    ),
    Case(
        "conv-kernel-beyond-image",
        lambda: Conv2d(2, 3, 5, padding=2),
        (2, 2, 2, 1),
        conv((2, 2, 2, 2)),
        "Conv2d(2, 3, kernel_size=(5, 5), padding=(2, 2))",
    ),
    Case("pool", lambda: MaxPool2d(2), (2, 3, 4, 6), max_pool((2, 2), (2, 2)), "MaxPool2d(kernel_size=(2, 2))"),
    Case(
        "pool-rest-dropped",
        lambda: MaxPool2d(2),
        (2, 2, 5, 7),
        max_pool((2, 2), (2, 2)),
        "MaxPool2d(kernel_size=(2, 2))",
    ),
    Case(
        "pool-overlapping",
        lambda: MaxPool2d(3, stride=1),
        (2, 2, 5, 4),
        max_pool((3, 3), (1, 1)),
        "MaxPool2d(kernel_size=(3, 3), stride=(1, 1))",
    ),
    Case(
        "pool-padded",
        lambda: MaxPool2d(3, stride=2, padding=1),
        (2, 3, 5, 6),
        max_pool((3, 3), (2, 2), (1, 1)),
        "MaxPool2d(kernel_size=(3, 3), stride=(2, 2), padding=(1, 1))",
    ),
    Case(
        "pool-every-pair",
        lambda: MaxPool2d((2, 3), stride=(3, 1), padding=(1, 0), dilation=(1, 2)),
        (2, 2, 6, 7),
        max_pool((2, 3), (3, 1), (1, 0), (1, 2)),
        "MaxPool2d(kernel_size=(2, 3), stride=(3, 1), padding=(1, 0), dilation=(1, 2))",
    ),
    Case(
        "pool-ceil",
        lambda: MaxPool2d(2, ceil_mode=True),
        (2, 2, 5, 7),
        max_pool((2, 2), (2, 2), size=(3, 4)),
        "MaxPool2d(kernel_size=(2, 2), ceil_mode=True)",
    ),
    Case(
        "pool-ceil-last-window-dropped",
        # A third window would start in row 4, beyond the image of 4 rows though within the padding.
        lambda: MaxPool2d(2, stride=3, padding=1, ceil_mode=True),
        (1, 2, 4, 5),
        max_pool((2, 2), (3, 3), (1, 1), size=(2, 2)),
        "MaxPool2d(kernel_size=(2, 2), stride=(3, 3), padding=(1, 1), ceil_mode=True)",
    ),
    Case("relu", ReLU, (3, 7), relu, "ReLU()"),
    Case("relu-images", ReLU, (2, 3, 4, 5), relu, "ReLU()"),
    Case("relu-three-axes", ReLU, (2, 3, 4), relu, "ReLU()"),
    Case("relu-one-axis", ReLU, (6,), relu, "ReLU()"),
    Case("leaky-relu", LeakyReLU, (3, 7), lambda x, values: leaky(x, 0.01), "LeakyReLU(0.01)"),
    Case("leaky-relu-images", lambda: LeakyReLU(0.3), (2, 3, 4, 5), lambda x, values: leaky(x, 0.3), "LeakyReLU(0.3)"),
    # Steeper on the left than on the right, so not the maximum of the two lines.
    Case("leaky-relu-steep", lambda: LeakyReLU(1.5), (3, 7), lambda x, values: leaky(x, 1.5), "LeakyReLU(1.5)"),
    Case("leaky-relu-negative", lambda: LeakyReLU(-0.5), (3, 7), lambda x, values: leaky(x, -0.5), "LeakyReLU(-0.5)"),
    Case("prelu", PReLU, (3, 7), prelu, "PReLU()"),
    Case("prelu-images", PReLU, (2, 3, 4, 5), prelu, "PReLU()"),
    Case("prelu-three-axes", PReLU, (2, 3, 4), prelu, "PReLU()"),
    Case("prelu-features", lambda: PReLU(7), (3, 7), prelu, "PReLU(7)"),
    Case("prelu-channels", lambda: PReLU(3), (2, 3, 4, 5), prelu, "PReLU(3)"),
    Case("softmax", Softmax, (4, 6), softmax, "Softmax()"),
    Case("softmax-one-class", Softmax, (3, 1), softmax, "Softmax()"),
    # The table holds functions of the input; random masks are the subject of test_dropout.py.
    Case("dropout-of-nothing", lambda: Dropout(0), (3, 2, 4, 5), identity, "Dropout(0)"),
    Case("dropout-of-all", lambda: Dropout(1), (3, 7), lambda x, values: 0 * x, "Dropout(1)", identity),
    Case(
        "batch-norm-features",
        lambda: BatchNorm1d(5),
        (6, 5),
        batch_norm(),
        "BatchNorm1d(5)",
        batch_norm(running=True),
        mixes=True,
    ),
    Case(
        "batch-norm-channels",
        lambda: BatchNorm2d(3),
        (2, 3, 3, 4),
        batch_norm(),
        "BatchNorm2d(3)",
        batch_norm(running=True),
        mixes=True,
    ),
    Case(
        "batch-norm-plain",
        lambda: BatchNorm2d(2, eps=0.25, momentum=None, affine=False),
        (3, 2, 2, 3),
        batch_norm(0.25),
        "BatchNorm2d(2, eps=0.25, momentum=None, affine=False)",
        batch_norm(0.25, running=True),
        mixes=True,
    ),
    Case(
        "batch-norm-without-running-statistics",
        lambda: BatchNorm1d(4, track_running_stats=False),
        (7, 4),
        batch_norm(),
        "BatchNorm1d(4, track_running_stats=False)",
        mixes=True,
    ),
    Case("flatten", Flatten, (2, 3, 4, 5), flatten, "Flatten()"),
    Case("flatten-one-channel", Flatten, (2, 1, 4, 5), flatten, "Flatten()"),
    Case("flatten-one-pixel", Flatten, (2, 6, 1, 1), flatten, "Flatten()"),
    Case("flatten-three-axes", Flatten, (2, 3, 4), flatten, "Flatten()"),
    Case("flatten-flat", Flatten, (3, 7), flatten, "Flatten()"),
    Case(
        "sequential",
        lambda: Sequential(
            Conv2d(2, 3, 3, padding=1), PReLU(), MaxPool2d(2), Flatten(), Linear(12, 5), ReLU(), Linear(5, 4)
        ),
        (3, 2, 4, 5),
        small_network,
        SMALL_NETWORK_TEXT,
    ),
    Case(
        "sequential-normalised",
        lambda: Sequential(
            *(Conv2d(2, 5, 3, padding=1), BatchNorm2d(5, eps=0.125), ReLU(), MaxPool2d(2)),
            *(Conv2d(5, 3, (2, 3), padding=(0, 1), bias=False), BatchNorm2d(3, eps=0.125), PReLU(3), MaxPool2d((1, 2))),
        ),
        (3, 2, 6, 4),
        normalised_network,
        NORMALISED_NETWORK_TEXT,
        lambda x, values: normalised_network(x, values, running=True),
        mixes=True,
    ),
    Case(
        "sequential-of-short-runs",
        lambda: Sequential(
            *(Conv2d(2, 3, 2), LeakyReLU(-0.5), Conv2d(3, 2, 1), BatchNorm2d(2, eps=0.25, affine=False)),
            *(Conv2d(2, 4, (3, 1)), MaxPool2d((2, 1)), Conv2d(4, 4, 1, groups=4), LeakyReLU(0.25)),
        ),
        (3, 2, 7, 4),
        short_runs,
        SHORT_RUNS_TEXT,
        lambda x, values: short_runs(x, values, running=True),
        mixes=True,
    ),
    Case(
        "sequential-nested",
        lambda: Sequential(
            {
                "features": Sequential({"first": Conv2d(None, 2, 2), "second": ReLU()}),
                "flatten": Flatten(),
                "head": Linear(None, 3),
            }
        ),
        (2, 1, 3, 3),
        nested,
        NESTED_TEXT,
    ),
    Case("sequential-empty", Sequential, (2, 3, 4, 5), identity, "Sequential()"),
    Case(
        "residual",
        lambda: Residual(Sequential(Conv2d(3, 3, 3, padding=1), ReLU())),
        (2, 3, 4, 3),
        residual_convolution,
        RESIDUAL_CONVOLUTION_TEXT,
    ),
    Case(
        "residual-shortcut",
        lambda: Residual(Conv2d(2, 4, 3, stride=2, padding=1), Conv2d(None, 4, 1, stride=2)),
        (2, 2, 5, 4),
        residual_shortcut,
        RESIDUAL_SHORTCUT_TEXT,
    ),
    Case(
        "residual-in-sequential",
        lambda: Sequential(
            Residual(Sequential(Linear(6, 6), LeakyReLU(0.25))), Residual(Linear(6, 4), Linear(6, 4, bias=False))
        ),
        (3, 6),
        residual_network,
        RESIDUAL_NETWORK_TEXT,
    ),
]
