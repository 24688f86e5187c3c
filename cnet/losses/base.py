"""What every loss is."""

from __future__ import annotations

from typing import Any

from numpy.typing import ArrayLike

from cnet import _check
from cnet._check import Float32Array


class Loss:
    r"""Base of all losses: a number :math:`L(x, t)` for a batch, and its gradient.

    A subclass overrides :meth:`_forward`, which returns the loss and :math:`\partial L / \partial x` in one pass.

    Notes
    -----
    The gradient is kept until :meth:`backward` takes it, once.

    Examples
    --------
    A loss of one's own, the mean squared error:

    >>> import numpy as np
    >>> from cnet.losses import Loss
    >>> class SquaredError(Loss):
    ...     def _forward(self, x, target):
    ...         difference = x - np.asarray(target, np.float32)
    ...         return float(np.mean(difference**2)), 2 / x.size * difference
    >>> criterion = SquaredError()
    >>> criterion([[1.0, 2.0]], [[1.0, 4.0]]), criterion.backward().tolist()
    (2.0, [[0.0, -2.0]])
    """

    def __init__(self) -> None:
        self._gradient: Float32Array | None = None

    def forward(self, x: ArrayLike, target: ArrayLike) -> float:
        """Compute the loss of a batch.

        Parameters
        ----------
        x : array_like
            Outputs of the model; the first axis counts samples.
        target : array_like
            What they should have been; the class says in which form.

        Returns
        -------
        float
            The loss.

        Raises
        ------
        TypeError, ValueError
            If the arrays have the wrong dtype, shape or values.
        """
        self._gradient = None
        array = _check.float32(type(self).__name__, "x", x)
        _check.not_empty(type(self).__name__, "x", array)
        value, self._gradient = self._forward(array, target)
        return value

    __call__ = forward

    def backward(self) -> Float32Array:
        """Return the gradient of the last loss with respect to ``x``, to pass to ``model.backward``.

        Raises
        ------
        RuntimeError
            If no loss was computed before, or its gradient has been taken already.
        """
        if self._gradient is None:
            received = "backward comes before forward, or a second time"
            raise RuntimeError(_check.message(type(self).__name__, received, remedy="Compute the loss first."))
        gradient, self._gradient = self._gradient, None
        return gradient

    def _forward(self, x: Float32Array, target: Any) -> tuple[float, Float32Array]:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"
