"""Layers that are executed as one, so that what lies between them need not be written to memory.

A block stands for a run of layers while a Sequential is executed, and nowhere else: the layers keep their parameters,
names and modes, and the results are those of the layers one by one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cnet import _threads, layout
from cnet._check import Float32Array
from cnet.kernels.epilogue import Epilogue
from cnet.layers.activation import LeakyReLU, PReLU, ReLU
from cnet.layers.base import Layer, Shape
from cnet.layers.conv import Conv2d
from cnet.layers.linear import Linear
from cnet.layers.normalization import BatchNorm1d, BatchNorm2d
from cnet.layers.pooling import MaxPool2d


class _Block(Layer):
    """A convolution or a linear layer, then a batch normalisation, an activation and max-pooling, each if it is there.

    They run as one where they are of one mind, and one by one where not. Forward: without a normalisation, or in
    evaluation, parts of the first layer's output go through the rest while they are in the nearest cache. In training
    a normalisation needs the whole output first; the rest is one pass after it. Backward: the first layer's gradient is
    formed from the block's when it is needed, and a convolution's is never written.
    """

    def __init__(
        self,
        first: Conv2d | Linear,
        norm: BatchNorm1d | BatchNorm2d | None,
        activation: Layer | None,
        pool: MaxPool2d | None,
    ) -> None:
        super().__init__()
        self.layers = tuple(layer for layer in (first, norm, activation, pool) if layer)
        self.first, self.norm, self.activation, self.pool = first, norm, activation, pool
        # What the gradients of a normalisation, of slopes and of a convolution's bias are made from.
        self._summed = bool(norm or isinstance(activation, PReLU) or (isinstance(first, Conv2d) and first.bias))

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
        channels, *image = self.first.output_shape(input_shape)
        height, width = image or (1, 1)
        kind = {type(None): "identity", ReLU: "relu"}.get(type(self.activation), "slope")
        epilogue = Epilogue(height, width, channels, kind, self.pool.kernel_size if self.pool else (1, 1))
        # Physical shapes of a sample: of the first layer's output, and of the block's.
        self._raw = (height, width, channels) if image else (channels,)
        self._out = (epilogue.out_height, epilogue.out_width, channels) if image else (channels,)
        self._slopes = layout.zeros((channels,)) if kind == "slope" else None
        self._epilogue = epilogue

    def _forward(self, x: Float32Array) -> Float32Array:
        training = self.first.training
        apart = False
        for layer in self.layers:
            if layer.training is not training or layer._forward_hooks or layer._backward_hooks:
                apart = True
                training = training or layer.training
            # What it kept when it last ran by itself is of another batch.
            layer._kept = None
        self.training, self._apart = training, apart
        if not apart:
            self._bind_first()
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
            gradient = layer.backward(gradient, input_grad or layer is not self.first)  # type: ignore[arg-type]
        return gradient

    def _bind_first(self) -> None:
        """The first layer may have run by itself, or elsewhere, on images of another size since."""
        assert self._input_shape is not None
        if self.first._input_shape != self._input_shape:
            self.first._bind_to(self._input_shape)

    def _forward_fused(self, x: Float32Array) -> Float32Array:
        x = layout.physical(x)
        shape = (x.shape[0], *self._out)
        y = layout.empty(shape)
        pooled = self.training and self.pool is not None
        index = layout.empty_of(shape, np.uint8) if pooled else None
        if self.norm is None or not self.training:
            # What the activation's gradient and the normalisation's are formed from, where the output does not tell.
            before = layout.empty(shape) if self.training and self._needs_input() else None
            self._bind_epilogue(*self._running())
            self.first._run(x, y, self._epilogue, index, before)
            self._keep(x, y if before is None else before, index, None)
            return layout.logical(y)
        raw = self.first._run(x, layout.empty((x.shape[0], *self._raw)))
        mean, variance = self.norm._statistics(raw.reshape(-1, self._raw[-1]))
        scale, shift = self.norm._affine(variance)
        before = layout.empty(shape) if pooled else None
        self._bind_epilogue(mean, scale, shift)
        self._epilogue.forward(_image(raw), _image(y), index, before, _threads._count)
        self._keep(x, raw if before is None else before, index, (raw, mean, variance, scale, shift))
        return layout.logical(y)

    def _backward_fused(self, dy: Float32Array, kept: Any, input_grad: bool) -> Float32Array | None:
        x, before, index, normalised = kept
        epilogue, threads = self._epilogue, _threads._count
        raw, mean, variance, scale, shift = normalised or (None,) * 5  # type: Any, Any, Any, Any, Any
        dy = _image(layout.physical(dy))
        self._bind_epilogue(mean, scale, shift)
        before = None if self.activation is None and raw is None else _image(before)
        factor = offset = None
        if self._summed:
            sums = layout.empty_of((3, epilogue.channels), np.float64)
            epilogue.sums(dy, before, sums, layout.empty((epilogue.workspace(dy.shape[0]),)), threads)
            if isinstance(self.activation, PReLU):
                self.activation._add_slopes(sums[2])
            if self.norm:
                # The mean takes the first layer's bias away, which gets nothing.
                factor, offset = self.norm._correction(sums, raw.size // epilogue.channels, variance)
                raw = _image(raw)
            elif isinstance(self.first, Conv2d) and self.first.bias:
                gradient = self.first.bias.grad_storage
                gradient += sums[0]
        epilogue.bind_gradient(dy, before, index, raw, factor, offset)
        dx = self.first._gradients(x, None, epilogue, input_grad)
        epilogue.release()
        return dx

    def _needs_input(self) -> bool:
        """Whether the activation's gradient cannot be told from its output: a slope may be negative or learned."""
        activation = self.activation
        if self.norm is not None or isinstance(activation, PReLU):
            return True
        return isinstance(activation, LeakyReLU) and activation.negative_slope < 0

    def _running(self) -> tuple[Float32Array | None, Float32Array | None, Float32Array | None]:
        """Mean, scale and shift of a normalisation in evaluation."""
        if self.norm is None:
            return None, None, None
        return (self.norm.running_mean, *self.norm._affine(self.norm.running_var))

    def _bind_epilogue(self, mean: Float32Array | None, scale: Float32Array | None, shift: Float32Array | None) -> None:
        if self._slopes is not None:
            self._slopes[...] = self.activation._slope()  # type: ignore[union-attr]
        if self._slopes is not None or mean is not None:
            self._epilogue.bind(self._slopes, mean, scale, shift)

    def _forget(self) -> None:
        self._kept = None
        for layer in self.layers:
            layer._forget()

    @property
    def _subject(self) -> str:
        return self.first._subject


def _image(x: Float32Array) -> Float32Array:
    """Samples without an image as images of one pixel."""
    return x if x.ndim == 4 else x.reshape(x.shape[0], 1, 1, x.shape[1])
