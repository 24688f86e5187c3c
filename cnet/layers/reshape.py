"""Layers that only change the shape."""

from __future__ import annotations

from typing import Any

from cnet import _check, layout
from cnet._check import Float32Array
from cnet.layers.base import Layer, Shape, batch_of, count


class Flatten(Layer):
    r"""Each sample as one row: :math:`(N, C, H, W) \to (N, C H W)`.

    The elements keep their logical order, channel after channel, so that weights of the layer that follows mean the
    same as in PyTorch. Backward restores the shape.

    Raises
    ------
    ValueError
        If a batch has no axis besides that of the samples.

    Shapes
    ------
    x : (N, ...)
    y : (N, features)

    Notes
    -----
    Images lie with channels last in memory, so this copies them into channels-first order unless they have one channel
    or one pixel. Kept for backward: the shape.

    References
    ----------
    PyTorch, ``torch.nn.Flatten``.

    Examples
    --------
    >>> from cnet import layers
    >>> layers.Flatten()([[[[1.0, 2.0]], [[3.0, 4.0]]]]).tolist()
    [[1.0, 2.0, 3.0, 4.0]]
    """

    def output_shape(self, input_shape: Shape) -> Shape:
        """``(features,)``."""
        if not input_shape:
            raise _check.shape_error("Flatten", "x", batch_of(input_shape), "(N, ...) with at least one axis more")
        return (count(input_shape),)

    def _forward(self, x: Float32Array) -> Float32Array:
        self._keep(x.shape)
        return layout.channels_first(x)

    def _backward(self, dy: Float32Array, kept: Any, input_grad: bool) -> Float32Array | None:
        (shape,) = kept
        return layout.logical(layout.physical(layout.physical(dy).reshape(shape)))
