"""Layers that ``Sequential`` runs as one, so that what lies between them need not be written to memory.

A block stands for a run of layers while a Sequential is executed, and nowhere else: the layers keep their parameters,
names and modes, and the results are those of the layers one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cnet import _threads, layout
from cnet._check import Float32Array
from cnet.kernels.epilogue import Epilogue
from cnet.layers.activation import LeakyReLU, PReLU, ReLU
from cnet.layers.base import Layer, Shape
from cnet.layers.conv import Conv2d
from cnet.layers.normalization import BatchNorm2d
from cnet.layers.pooling import MaxPool2d

_ACTIVATIONS = (ReLU, LeakyReLU, PReLU)


class _Block(Layer):
    """A run of layers, executed as one where they are of one mind, and one by one where not."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        super().__init__()
        self.layers = tuple(layers)

    def output_shape(self, input_shape: Shape) -> Shape:
        """The shape after the last layer."""
        for layer in self.layers:
            input_shape = layer.output_shape(input_shape)
        return input_shape

    def _bind(self, input_shape: Shape) -> None:
        """The layers are bound already."""
        self._learns = any(layer._learns for layer in self.layers)
        for layer in self.layers:
            layer._fused = True

    def _forward(self, x: Float32Array) -> Float32Array:
        training = self.layers[0].training
        apart = False
        for layer in self.layers:
            if layer.training is not training or layer._forward_hooks or layer._backward_hooks:
                apart = True
                training = training or layer.training
        self.training, self._apart = training, apart
        if not apart:
            self._bind_first()
            for layer in self.layers:
                # What it kept when it last ran by itself is of another batch.
                layer._kept = None
            return self._forward_fused(x)
        for layer in self.layers:
            x = layer.forward(x)
        self._keep()
        return x

    def _backward(self, dy: Float32Array, kept: Any, input_grad: bool) -> Float32Array | None:
        if not self._apart:
            self._bind_first()
            return self._backward_fused(dy, kept, input_grad)
        gradient: Float32Array | None = dy
        for layer in reversed(self.layers):
            gradient = layer.backward(gradient, input_grad or layer is not self.layers[0])  # type: ignore[arg-type]
        return gradient

    def _bind_first(self) -> None:
        """The first layer may have run by itself, or elsewhere, on images of another size since."""
        assert self._input_shape is not None
        if self.layers[0]._input_shape != self._input_shape:
            self.layers[0]._bind_to(self._input_shape)

    def _forward_fused(self, x: Float32Array) -> Float32Array:
        raise NotImplementedError

    def _backward_fused(self, dy: Float32Array, kept: Any, input_grad: bool) -> Float32Array | None:
        raise NotImplementedError

    def _forget(self) -> None:
        self._kept = None
        for layer in self.layers:
            layer._forget()

    @property
    def _subject(self) -> str:
        return self.layers[0]._subject


class _ConvBlock(_Block):
    """Conv2d, then BatchNorm2d, an activation and MaxPool2d, each of which may be missing.

    Forward: without a normalisation, or in evaluation, rows of the convolution go through the rest while they are in
    the nearest cache. In training a normalisation needs the whole convolution first; the rest is one pass after it.
    Backward: one pass from the output's gradient to the convolution's.
    """

    def __init__(
        self, conv: Conv2d, norm: BatchNorm2d | None, activation: Layer | None, pool: MaxPool2d | None
    ) -> None:
        super().__init__([layer for layer in (conv, norm, activation, pool) if layer])
        self.conv, self.norm, self.activation, self.pool = conv, norm, activation, pool

    def _bind(self, input_shape: Shape) -> None:
        super()._bind(input_shape)
        channels, height, width = self.conv.output_shape(input_shape)
        kind = {type(None): "identity", ReLU: "relu"}.get(type(self.activation), "slope")
        pool = self.pool.kernel_size if self.pool else (1, 1)
        self._epilogue = Epilogue(height, width, channels, kind, pool)
        self._slopes = layout.zeros((channels,)) if kind == "slope" else None

    def _forward_fused(self, x: Float32Array) -> Float32Array:
        conv, epilogue, threads = self.conv, self._epilogue, _threads._count
        x = layout.physical(x)
        shape = (x.shape[0], epilogue.out_height, epilogue.out_width, epilogue.channels)
        y = layout.empty(shape)
        pooled = self.training and self.pool is not None
        index = layout.empty_of(shape, np.uint8) if pooled else None
        # What the activation's gradient and the normalisation's are formed from, where the output does not tell.
        separate = self.training and (self.norm is not None or self._needs_input())
        if self.norm is None or not self.training:
            before = layout.empty(shape) if separate else None
            self._bind_epilogue(*self._running())
            workspace = layout.empty((conv._kernel.forward_workspace(x.shape[0], threads, epilogue),))
            bias = conv.bias.storage if conv.bias else None
            conv._kernel.forward(x, conv.weight.storage, bias, y, workspace, threads, epilogue, index, before)
            self._keep(x, y if before is None else before, index, None)
            return layout.logical(y)
        raw = conv._convolve(x)
        mean, variance = self.norm._statistics(raw.reshape(-1, epilogue.channels))
        scale, shift = self.norm._affine(variance)
        before = layout.empty(shape) if pooled else None
        self._bind_epilogue(mean, scale, shift)
        epilogue.forward(raw, y, index, before, threads)
        self._keep(x, raw if before is None else before, index, (raw, mean, variance, scale, shift))
        return layout.logical(y)

    def _backward_fused(self, dy: Float32Array, kept: Any, input_grad: bool) -> Float32Array | None:
        x, before, index, normalised = kept
        epilogue, threads = self._epilogue, _threads._count
        raw, mean, variance, scale, shift = normalised or (None,) * 5  # type: Any, Any, Any, Any, Any
        dy = layout.physical(dy)
        self._bind_epilogue(mean, scale, shift)
        if self.activation is None and raw is None:
            before = None
        sums = layout.empty_of((3, epilogue.channels), np.float64)
        epilogue.sums(dy, before, sums, layout.empty((epilogue.workspace(dy.shape[0]),)), threads)
        factor = offset = None
        if isinstance(self.activation, PReLU):
            self.activation._add_slopes(sums[2])
        if self.norm:
            # The mean takes a constant away, so the convolution's bias gets nothing.
            factor, offset = self.norm._correction(sums, raw.size // epilogue.channels, variance)
        elif self.conv.bias:
            self.conv.bias.grad_storage += sums[0]
        epilogue.bind_gradient(dy, before, index, raw, factor, offset)
        dx = self.conv._gradients(x, None, epilogue, input_grad)
        epilogue.release()
        return dx

    def _needs_input(self) -> bool:
        """Whether the activation's gradient cannot be told from its output: a slope may be negative or learned."""
        activation = self.activation
        return isinstance(activation, PReLU) or (isinstance(activation, LeakyReLU) and activation.negative_slope < 0)

    def _running(self) -> tuple[Float32Array | None, Float32Array | None, Float32Array | None]:
        """Mean, scale and shift of a normalisation in evaluation."""
        if self.norm is None:
            return None, None, None
        return (self.norm.running_mean, *self.norm._affine(self.norm.running_var))

    def _bind_epilogue(self, mean: Float32Array | None, scale: Float32Array | None, shift: Float32Array | None) -> None:
        if self._slopes is not None:
            self._slopes[...] = self.activation._slope()  # type: ignore[union-attr]
        self._epilogue.bind(self._slopes, mean, scale, shift)


def plan(layers: Sequence[Layer]) -> list[Layer]:
    """The layers, with runs that can be executed as one replaced by blocks; all are bound."""
    units: list[Layer] = []
    rest = list(layers)
    while rest:
        unit = _conv_block(rest) if type(rest[0]) is Conv2d else rest[0]
        units.append(unit)
        del rest[: len(unit.layers) if isinstance(unit, _Block) else 1]
    return units


def _conv_block(layers: Sequence[Layer]) -> Layer:
    """The block that begins with a convolution, or the convolution alone."""
    conv, *rest = layers
    norm, activation, pool = _take(rest, BatchNorm2d), _take(rest, *_ACTIVATIONS), _take(rest, MaxPool2d)
    assert isinstance(conv, Conv2d) and conv._input_shape is not None
    # Without running statistics an evaluation needs the whole convolution too.
    if norm and not norm.track_running_stats:
        return conv
    if pool and not _tiles(pool, conv):
        pool = None
    if not (norm or activation or pool):
        return conv
    block = _ConvBlock(conv, norm, activation, pool)
    block._bind_to(conv._input_shape)
    return block


def _take(rest: list[Layer], *kinds: type[Layer]) -> Any:
    """Remove and return the first layer if it is exactly of one of these kinds: a subclass may do anything."""
    return rest.pop(0) if rest and type(rest[0]) in kinds else None


def _tiles(pool: MaxPool2d, conv: Conv2d) -> bool:
    """Whether the windows lie side by side and cover the convolution's output exactly."""
    height, width = conv._kernel.out_height, conv._kernel.out_width
    rows, columns = pool.kernel_size
    return (
        pool.stride == pool.kernel_size
        and pool.padding == (0, 0)
        and pool.dilation == (1, 1)
        and rows * columns <= 256
        and height % rows == 0
        and width % columns == 0
        and not conv._kernel.flat
    )
