"""What every layer is: a forward and a backward pass, and how they are checked and built."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from cnet import _check
from cnet._check import FLOAT32, Float32Array
from cnet.layers.hooks import Hooks
from cnet.layers.tree import LayerTree
from cnet.parameter import Arena

Shape = tuple[int, ...]
Self = TypeVar("Self", bound="Layer")


class Layer(LayerTree, Hooks):
    r"""Base of all layers: a differentiable function :math:`y = f(x; \theta)` of a batch.

    A subclass states the shape of its output (:meth:`output_shape`) and computes (:meth:`_forward`, :meth:`_backward`);
    :meth:`forward` and :meth:`backward` check what comes in and then call these.

    Attributes
    ----------
    training : bool
        True after :meth:`train` (and at first), False after :meth:`eval`. In evaluation nothing is kept for backward.

    Notes
    -----
    Shapes given to or returned by methods leave out the batch axis: ``(1, 28, 28)`` for images of one channel.

    Between ``forward`` and ``backward`` a layer keeps references to arrays, not copies: do not write into a batch
    before its backward pass is done. ``backward`` may be called once for each ``forward``.

    A layer belongs to one thread at a time; two threads may run two models at once.

    Examples
    --------
    A layer of one's own, :math:`y = x^2`:

    >>> import numpy as np
    >>> from cnet.layers import Layer
    >>> class Square(Layer):
    ...     def output_shape(self, input_shape):
    ...         return input_shape
    ...     def _forward(self, x):
    ...         self._keep(x)
    ...         return x * x
    ...     def _backward(self, dy, kept, input_grad):
    ...         (x,) = kept
    ...         return 2 * x * dy
    >>> square = Square()
    >>> square([[1.0, 2.0, 3.0]]).tolist(), square.backward([[1.0, 1.0, 1.0]]).tolist()
    ([[1.0, 4.0, 9.0]], [[2.0, 4.0, 6.0]])
    """

    def __init__(self) -> None:
        LayerTree.__init__(self)
        Hooks.__init__(self)
        self._input_shape: Shape | None = None
        self._output_shape: Shape | None = None
        self._kept: tuple[Any, ...] | None = None
        self._learns = False
        # What a layer binds to the shape of its input: a kernel with its geometry, where there is one.
        self._kernel: Any = None
        # Whether a Sequential executes it as a part of a block, see `fusion`.
        self._fused = False

    def output_shape(self, input_shape: Shape) -> Shape:
        """The shape of the output for an input of this shape, without the batch axis; refuses one it cannot take."""
        raise NotImplementedError

    def flops(self, input_shape: Shape) -> int:
        """Floating-point operations of the forward pass for one sample; a multiply-add counts as two."""
        return 0

    def _bind(self, input_shape: Shape) -> None:
        """Get ready for inputs of this shape: infer sizes, create parameters, bind geometry."""

    def _forward(self, x: Float32Array) -> Float32Array:
        raise NotImplementedError

    def _backward(self, dy: Float32Array, kept: Any, input_grad: bool) -> Float32Array | None:
        raise NotImplementedError

    def _keep(self, *arrays: Any) -> None:
        """Keep arrays for the backward pass, when there will be one."""
        if self.training:
            self._kept = arrays

    def forward(self, x: ArrayLike) -> Float32Array:
        """Compute the output for a batch.

        Parameters
        ----------
        x : array_like
            Real numbers of any dtype, converted to float32; the first axis counts samples.

        Returns
        -------
        ndarray of float32
            Images are logically ``(N, C, H, W)`` with channels last in memory.

        Raises
        ------
        TypeError
            If ``x`` does not hold real numbers.
        ValueError
            If ``x`` has a shape the layer cannot take, or no samples.
        """
        ready = type(x) is np.ndarray and x.dtype is FLOAT32 and x.ndim > 0 and x.shape[0] > 0
        if not ready or x.shape[1:] != self._input_shape:  # type: ignore[union-attr]
            x = self._accept(x)
        self._kept = None
        y = self._forward(x)  # type: ignore[arg-type]
        if self._forward_hooks:
            y = self._after_forward(x, y)  # type: ignore[arg-type]
        self._output_shape = y.shape
        return y

    __call__ = forward

    def backward(self, dy: ArrayLike, input_grad: bool = True) -> Float32Array | None:
        r"""Propagate a gradient: add to each parameter's gradient and return that of the input.

        Parameters
        ----------
        dy : array_like
            :math:`\partial L / \partial y`, of the shape of the last output.
        input_grad : bool, default True
            Whether to compute :math:`\partial L / \partial x`. The first layer of a model need not.

        Returns
        -------
        ndarray of float32 or None
            The gradient of the input, or None when ``input_grad`` is False.

        Raises
        ------
        RuntimeError
            If no forward pass in training mode came before, or its backward pass has been done already.
        ValueError
            If ``dy`` has another shape than the output had.
        """
        kept = self._kept
        if kept is None:
            raise RuntimeError(self._no_forward())
        if type(dy) is not np.ndarray or dy.dtype is not FLOAT32 or dy.shape != self._output_shape:
            dy = _check.float32(self._subject, "dy", dy)
            if dy.shape != self._output_shape:
                raise _check.shape_error(self._subject, "dy", dy.shape, f"that of the output, {self._output_shape}")
        self._kept = None
        dx = self._backward(dy, kept, input_grad)
        dx = dx if input_grad else None
        return self._after_backward(dx, dy) if self._backward_hooks else dx

    def build(self: Self, input_shape: Shape) -> Self:
        """Infer open sizes, create the parameters and lay them out side by side in memory.

        The first batch does this too; call it to have the parameters before.

        Parameters
        ----------
        input_shape : tuple of int
            Shape of one sample, such as ``(1, 28, 28)``.

        Returns
        -------
        Layer
            The layer itself.

        Raises
        ------
        ValueError
            If the layer cannot take inputs of this shape; nothing has changed then.
        """
        if not isinstance(input_shape, (tuple, list)):
            raise TypeError(_check.message(self._subject, f"input_shape is {input_shape!r}", "a tuple of integers"))
        shape = tuple(_check.integer(self._subject, "input_shape", size, 1) for size in input_shape)
        self.output_shape(shape)
        self._bind_to(shape)
        parameters = self.parameters()
        arenas = {id(parameter.arena) for parameter in parameters}
        # A part of a built model shares the model's arena and leaves it alone.
        if parameters and (len(arenas) > 1 or parameters[0].arena is None):
            Arena(parameters)
        return self

    def _bind_to(self, input_shape: Shape) -> Shape:
        """Bind to a shape that has been checked, and return the shape of the output."""
        self._bind(input_shape)
        self._input_shape = input_shape
        self._learns = next(self.named_parameters(), None) is not None
        return self.output_shape(input_shape)

    def _forget(self) -> None:
        """Let go of what was kept for a backward pass that will not come."""
        for _, layer in self.named_layers():
            layer._kept = None

    def __getstate__(self) -> dict[str, Any]:
        # A copy has memory of its own: it binds anew at its first batch.
        unbound = {"_input_shape": None, "_output_shape": None, "_kept": None, "_kernel": None, "_fused": False}
        return {**vars(self), **unbound}

    def _accept(self, x: ArrayLike) -> Float32Array:
        array = _check.float32(self._subject, "x", x)
        if array.ndim == 0:
            raise _check.shape_error(self._subject, "x", array.shape, "a batch, with the samples along the first axis")
        if array.shape[0] == 0:
            _check.not_empty(self._subject, "x", array)
        if array.shape[1:] != self._input_shape:
            self.build(array.shape[1:])
        return array

    def _no_forward(self) -> str:
        remedy = "Call forward in training mode first."
        if self._output_shape is None and not self._fused:
            received = "backward comes before forward"
        elif not self.training:
            received = "backward after a forward pass in evaluation mode, which keeps nothing"
        elif self._fused:
            received = "backward of a layer that its Sequential runs as one with its neighbours"
            remedy = "Call forward of this layer first, or build the Sequential with fuse=False."
        else:
            received = "backward comes a second time for one forward pass"
        return _check.message(self._subject, received, remedy=remedy)

    def summary(self, input_shape: Shape | None = None) -> str:
        """A table of the layers with output shapes, parameter counts and FLOPs of one sample; see :func:`summarise`."""
        from cnet.layers.summary import summarise

        return summarise(self, input_shape)


def batch_of(shape: Shape) -> list[int | str]:
    """The shape of a batch of such samples, for messages: ``(N, ...)``."""
    return ["N", *shape]


def count(shape: Shape) -> int:
    """Elements of one sample."""
    return math.prod(shape)
