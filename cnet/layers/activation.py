"""Activations: functions of each element."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnet import _check, _threads, layout
from cnet._check import Float32Array
from cnet.kernels import activation
from cnet.layers.base import Layer, Shape, batch_of, count
from cnet.parameter import Parameter


class Activation(Layer):
    """A layer whose output has the shape of its input."""

    def output_shape(self, input_shape: Shape) -> Shape:
        """The shape of the input."""
        return input_shape

    def flops(self, input_shape: Shape) -> int:
        """One for each element."""
        return count(input_shape)


class ReLU(Activation):
    r"""Rectified linear unit: :math:`y = \max(x, 0)`.

    Backward: :math:`dx = dy` where :math:`x > 0`, else 0.

    Shapes
    ------
    x, y : (N, ...)

    Notes
    -----
    The derivative at 0 is 0. NaN stays NaN. Kept for backward: the output.

    References
    ----------
    PyTorch, ``torch.nn.ReLU``. V. Nair and G. Hinton, "Rectified Linear Units Improve Restricted Boltzmann Machines",
    ICML 2010.

    Examples
    --------
    >>> from cnet import layers
    >>> layers.ReLU()([[-1.0, 0.0, 2.0]]).tolist()
    [[0.0, 0.0, 2.0]]
    """

    def _forward(self, x: Float32Array) -> Float32Array:
        x = layout.physical(x)
        y = layout.empty(x.shape)
        activation.relu_forward(x.reshape(-1), y.reshape(-1), _threads._count)
        self._keep(y)
        return layout.logical(y)

    def _backward(self, dy: Float32Array, kept: Any, input_grad: bool) -> Float32Array | None:
        if not input_grad:
            return None
        (y,) = kept
        dx = layout.empty(y.shape)
        activation.relu_backward(y.reshape(-1), layout.physical(dy).reshape(-1), dx.reshape(-1), _threads._count)
        return layout.logical(dx)


class LeakyReLU(Activation):
    r"""Leaky rectified linear unit: :math:`y = x` where :math:`x > 0`, else :math:`a x`.

    Backward: :math:`dx = dy` where :math:`x > 0`, else :math:`a\,dy`.

    Parameters
    ----------
    negative_slope : float, default 0.01
        :math:`a`, finite.

    Raises
    ------
    TypeError, ValueError
        If ``negative_slope`` is not a finite number.

    Shapes
    ------
    x, y : (N, ...)

    Notes
    -----
    The derivative at 0 is the slope, as in PyTorch. Kept for backward: the input.

    References
    ----------
    PyTorch, ``torch.nn.LeakyReLU``. A. Maas et al., "Rectifier Nonlinearities Improve Neural Network Acoustic Models",
    ICML 2013.

    Examples
    --------
    >>> from cnet import layers
    >>> layers.LeakyReLU(0.5)([[-1.0, 0.0, 2.0]]).tolist()
    [[-0.5, 0.0, 2.0]]
    """

    def __init__(self, negative_slope: float = 0.01) -> None:
        super().__init__()
        self.negative_slope = _check.real("LeakyReLU", "negative_slope", negative_slope)

    def _forward(self, x: Float32Array) -> Float32Array:
        x = layout.physical(x)
        y = layout.empty(x.shape)
        activation.leaky_relu_forward(x.reshape(-1), self.negative_slope, y.reshape(-1), _threads._count)
        self._keep(x)
        return layout.logical(y)

    def _backward(self, dy: Float32Array, kept: Any, input_grad: bool) -> Float32Array | None:
        if not input_grad:
            return None
        (x,) = kept
        dx, slope = layout.empty(x.shape), self.negative_slope
        above = layout.physical(dy).reshape(-1)
        activation.leaky_relu_backward(x.reshape(-1), slope, above, dx.reshape(-1), _threads._count)
        return layout.logical(dx)

    def _slope(self) -> float:
        return self.negative_slope

    def _signature(self) -> str:
        return f"{self.negative_slope:g}"


class PReLU(Activation):
    r"""Leaky rectified linear unit whose slope is learned: :math:`y = x` where :math:`x > 0`, else :math:`a_c x`.

    Backward: :math:`dx = dy` where :math:`x > 0`, else :math:`a_c\,dy`; :math:`da_c \mathrel{+}= \sum x\,dy` over the
    elements of channel :math:`c` with :math:`x \le 0`.

    Parameters
    ----------
    num_parameters : int, default 1
        1 shares a slope among all channels; the number of channels gives each its own.
    init : float, default 0.25
        Initial slope, finite.

    Attributes
    ----------
    weight : Parameter, shape (num_parameters,)

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range; at a batch, if it has another number of channels than there are slopes.

    Shapes
    ------
    x, y : (N, C) or (N, C, H, W); with one slope (N, ...)

    Notes
    -----
    Weight decay pulls the slopes towards 0, that is towards ReLU. Kept for backward: the input.

    References
    ----------
    PyTorch, ``torch.nn.PReLU``. K. He et al., "Delving Deep into Rectifiers", ICCV 2015.

    Examples
    --------
    >>> from cnet import layers
    >>> layers.PReLU()([[-1.0, 0.0, 2.0]]).tolist()
    [[-0.25, 0.0, 2.0]]
    """

    def __init__(self, num_parameters: int = 1, init: float = 0.25) -> None:
        super().__init__()
        self.num_parameters = _check.integer("PReLU", "num_parameters", num_parameters, 1)
        slope = _check.real("PReLU", "init", init)
        self.weight = Parameter([slope] * self.num_parameters, name="weight")

    def output_shape(self, input_shape: Shape) -> Shape:
        """The shape of the input."""
        if self.num_parameters > 1 and (len(input_shape) not in (1, 3) or input_shape[0] != self.num_parameters):
            slopes = self.num_parameters
            remedy = f"Set num_parameters={input_shape[0]} or 1." if len(input_shape) in (1, 3) else ""
            raise _check.shape_error(
                "PReLU", "x", batch_of(input_shape), f"(N, {slopes}) or (N, {slopes}, H, W)", remedy
            )
        return input_shape

    def _forward(self, x: Float32Array) -> Float32Array:
        x = layout.physical(x)
        y = layout.empty(x.shape)
        rows = x.reshape(-1, self.num_parameters)
        activation.prelu_forward(rows, self.weight.storage, y.reshape(rows.shape), _threads._count)
        self._keep(x)
        return layout.logical(y)

    def _backward(self, dy: Float32Array, kept: Any, input_grad: bool) -> Float32Array | None:
        (x,) = kept
        dx = layout.empty(x.shape) if input_grad else None
        rows = x.reshape(-1, self.num_parameters)
        above = layout.physical(dy).reshape(rows.shape)
        below = None if dx is None else dx.reshape(rows.shape)
        workspace = layout.empty((activation.prelu_workspace(rows.shape[0], rows.shape[1], self.num_parameters),))
        activation.prelu_backward(
            rows, self.weight.storage, above, below, self.weight.grad_storage, workspace, _threads._count
        )
        return None if dx is None else layout.logical(dx)

    def _slope(self) -> Float32Array:
        return self.weight.storage

    def _add_slopes(self, sums: NDArray[np.float64]) -> None:
        """Add the sums over each channel's elements to the gradient."""
        gradient = self.weight.grad_storage
        gradient += sums if self.num_parameters > 1 else sums.sum()

    def _signature(self) -> str:
        return "" if self.num_parameters == 1 else f"{self.num_parameters}"
