"""Layers made of layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, overload

import numpy as np

from cnet import _check, layout
from cnet._check import Float32Array
from cnet.layers.base import Layer, Shape, count
from cnet.layers.fusion import plan


class Sequential(Layer):
    r"""Layers run one after another: :math:`y = f_n(\dots f_2(f_1(x)))`.

    The backward pass runs them in reverse, :math:`dx = f_1'(\dots f_n'(dy))`, and with ``input_grad=False`` stops at
    the first layer that has parameters.

    Parameters
    ----------
    *layers : Layer
        The layers, named ``"0"``, ``"1"``, ...; or one mapping from names to layers.
    fuse : bool, default True
        Whether runs such as convolution, batch normalisation, ReLU and max-pooling may be executed as one.

    Raises
    ------
    TypeError
        If something is not a layer.
    ValueError
        If a name is empty or contains a dot, which separates the names of nested layers.

    Shapes
    ------
    x : any the first layer takes
    y : that of the last layer

    Notes
    -----
    ``model[i]`` and ``model["name"]`` return a layer, ``model[a:b]`` a Sequential that shares the layers (and so their
    parameters). A Sequential without layers returns its input.

    A fused run gives what its layers would give one by one (sums of gradients may differ in their last bits), but the
    layers within do not see the batch: their own ``backward`` needs a ``forward`` of their own before. Where a layer
    has hooks, or layers differ in their mode, they run one by one.

    References
    ----------
    PyTorch, ``torch.nn.Sequential``.

    Examples
    --------
    >>> from cnet import layers
    >>> model = layers.Sequential(layers.Linear(784, 128), layers.ReLU(), layers.Linear(128, 10))
    >>> len(model), model[-1], [name for name, _ in model.named_parameters()]
    (3, Linear(128, 10), ['0.weight', '0.bias', '2.weight', '2.bias'])
    >>> named = layers.Sequential({"hidden": layers.Linear(784, 128), "head": layers.Linear(128, 10)})
    >>> named["head"] is named[1]
    True
    """

    def __init__(self, *layers: Layer | Mapping[str, Layer], fuse: bool = True) -> None:
        super().__init__()
        self.fuse = _check.boolean("Sequential", "fuse", fuse)
        self._layers: dict[str, Layer] = {}
        # What is executed: the layers, or blocks in place of runs of them.
        self._units: list[Layer] = []
        if len(layers) == 1 and isinstance(layers[0], Mapping):
            named = dict(layers[0])
        else:
            named = {str(index): layer for index, layer in enumerate(layers)}  # type: ignore[misc]
        for name, layer in named.items():
            self._add(name, layer)

    def append(self, layer: Layer) -> Sequential:
        """Add a layer at the end, named by its index (or the next number free); returns the Sequential itself."""
        number = len(self._layers)
        while str(number) in self._layers:
            number += 1
        self._add(str(number), layer)
        return self

    def children(self) -> dict[str, Layer]:
        """The layers by name, in order."""
        return self._layers

    def output_shape(self, input_shape: Shape) -> Shape:
        """The shape after the last layer; an error names the layer that cannot take what comes."""
        for layer in self._layers.values():
            input_shape = layer.output_shape(input_shape)
        return input_shape

    def flops(self, input_shape: Shape) -> int:
        """The sum over the layers."""
        total = 0
        for layer in self._layers.values():
            total += layer.flops(input_shape)
            input_shape = layer.output_shape(input_shape)
        return total

    def _bind(self, input_shape: Shape) -> None:
        for layer in self._layers.values():
            input_shape = layer._bind_to(input_shape)
        layers = list(self._layers.values())
        self._units = plan(layers) if self.fuse else layers

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_units": []}

    def _forward(self, x: Float32Array) -> Float32Array:
        for unit in self._units:
            x = unit.forward(x)
        self._keep()
        return x

    def _backward(self, dy: Float32Array, kept: Any, input_grad: bool) -> Float32Array | None:
        units = self._units
        # Before the first unit that learns nothing needs a gradient, unless the caller asks for one.
        first = 0 if input_grad else next((i for i, unit in enumerate(units) if unit._learns), len(units))
        for unit in units[:first]:
            unit._forget()
        gradient: Float32Array | None = dy
        for index in range(len(units) - 1, first - 1, -1):
            gradient = units[index].backward(gradient, input_grad or index > first)  # type: ignore[arg-type]
        return gradient

    def _add(self, name: str, layer: Any) -> None:
        if not isinstance(layer, Layer):
            raise TypeError(_check.message("Sequential", f"layer {name!r} is a {type(layer).__name__}", "a Layer"))
        if not isinstance(name, str) or not name or "." in name:
            raise ValueError(
                _check.message("Sequential", f"a layer is named {name!r}", "a non-empty name without dots")
            )
        self._layers[name] = layer
        # The whole is built anew at the next batch, when the new layer's parameters join the others in memory.
        self._input_shape = None

    def __len__(self) -> int:
        return len(self._layers)

    def __iter__(self) -> Iterator[Layer]:
        return iter(self._layers.values())

    @overload
    def __getitem__(self, key: int | str) -> Layer: ...

    @overload
    def __getitem__(self, key: slice) -> Sequential: ...

    def __getitem__(self, key: int | str | slice) -> Layer:
        if isinstance(key, str):
            return self._layers[_check.choice("Sequential", "the name", key, self._layers)]
        if isinstance(key, slice):
            return Sequential(dict(list(self._layers.items())[key]), fuse=self.fuse)
        position = _check.integer("Sequential", "the index", key)
        if not -len(self) <= position < len(self):
            raise IndexError(_check.message("Sequential", f"the index is {position}", f"less than {len(self)} layers"))
        return list(self._layers.values())[position]


class Residual(Layer):
    r"""A body with a connection around it: :math:`y = body(x) + shortcut(x)`.

    Backward: :math:`dx = body'(dy) + shortcut'(dy)`.

    Parameters
    ----------
    body : Layer
        The branch that learns the difference.
    shortcut : Layer, optional
        The other branch, such as a 1x1 convolution where the body changes the number of channels; default the identity.

    Raises
    ------
    TypeError
        If a branch is not a layer.
    ValueError
        At the first batch, if the branches differ in the shape of their outputs.

    Shapes
    ------
    x : any the body takes
    y : that of the body's output

    References
    ----------
    K. He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.

    Examples
    --------
    >>> from cnet import layers
    >>> block = layers.Residual(layers.Conv2d(8, 8, 3, padding=1))
    >>> block.output_shape((8, 14, 14))
    (8, 14, 14)
    """

    def __init__(self, body: Layer, shortcut: Layer | None = None) -> None:
        super().__init__()
        for name, branch in (("body", body), ("shortcut", shortcut)):
            if not isinstance(branch, Layer) and (name == "body" or branch is not None):
                raise TypeError(_check.message("Residual", f"{name} is a {type(branch).__name__}", "a Layer"))
        self.body = body
        self.shortcut = shortcut

    def output_shape(self, input_shape: Shape) -> Shape:
        """The shape of both branches' outputs."""
        shape = self.body.output_shape(input_shape)
        around = self.shortcut.output_shape(input_shape) if self.shortcut else input_shape
        if shape != around:
            raise _check.shape_error(
                "Residual", "the body's output", shape, f"that of the shortcut, {around}",
                "Give the body matching sizes, or pass a shortcut that changes them too.",
            )  # fmt: skip
        return shape

    def flops(self, input_shape: Shape) -> int:
        """The sum over both branches, and one addition an element."""
        around = self.shortcut.flops(input_shape) if self.shortcut else 0
        return self.body.flops(input_shape) + around + count(self.output_shape(input_shape))

    def _bind(self, input_shape: Shape) -> None:
        for branch in self.children().values():
            branch._bind_to(input_shape)

    def _forward(self, x: Float32Array) -> Float32Array:
        y = self.body.forward(x)
        around = self.shortcut.forward(x) if self.shortcut else x
        self._keep()
        return _sum(y, around)

    def _backward(self, dy: Float32Array, kept: Any, input_grad: bool) -> Float32Array | None:
        dx = self.body.backward(dy, input_grad)
        around = self.shortcut.backward(dy, input_grad) if self.shortcut else dy
        return _sum(dx, around) if input_grad else None  # type: ignore[arg-type]


def _sum(a: Float32Array, b: Float32Array) -> Float32Array:
    a, b = layout.physical(a), layout.physical(b)
    return layout.logical(np.add(a, b, out=layout.empty(a.shape)))
