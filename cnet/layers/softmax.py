"""Scores to probabilities."""

from __future__ import annotations

from typing import Any

from cnet import _check, _threads, layout
from cnet._check import Float32Array
from cnet.kernels import loss
from cnet.layers.activation import Activation
from cnet.layers.base import Shape, batch_of


class Softmax(Activation):
    r"""Scores to probabilities: :math:`y_i = e^{x_i} / \sum_j e^{x_j}` over each row.

    Backward, the exact product with the Jacobian, which is never formed: :math:`dx_i = y_i (dy_i - \sum_j dy_j y_j)`.

    Raises
    ------
    ValueError
        At a batch that is not ``(N, classes)``.

    Shapes
    ------
    x, y : (N, classes)

    Notes
    -----
    The row's maximum is subtracted first, so that large scores do not overflow. To train a classifier, leave this layer
    out and give the scores to ``CrossEntropyLoss``, which is more accurate; or keep it and say
    ``CrossEntropyLoss(from_logits=False)``. Kept for backward: the output.

    References
    ----------
    PyTorch, ``torch.nn.Softmax``.

    Examples
    --------
    >>> from cnet import layers
    >>> layers.Softmax()([[0.0, 0.0], [1e4, 0.0]]).tolist()
    [[0.5, 0.5], [1.0, 0.0]]
    """

    def output_shape(self, input_shape: Shape) -> Shape:
        """The shape of the input."""
        if len(input_shape) != 1:
            raise _check.shape_error("Softmax", "x", batch_of(input_shape), "(N, classes)", "Put a Flatten before it.")
        return input_shape

    def _forward(self, x: Float32Array) -> Float32Array:
        x = layout.physical(x)
        y = layout.empty(x.shape)
        loss.softmax_forward(x, y, _threads._count)
        self._keep(y)
        return y

    def _backward(self, dy: Float32Array, kept: Any, input_grad: bool) -> Float32Array | None:
        if not input_grad:
            return None
        (y,) = kept
        dx = layout.empty(y.shape)
        loss.softmax_backward(y, layout.physical(dy), dx, _threads._count)
        return dx
