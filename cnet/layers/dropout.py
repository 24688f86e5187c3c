"""Dropout."""

from __future__ import annotations

from typing import Any

from cnet import _check, _threads, layout
from cnet._check import Float32Array
from cnet.kernels import dropout
from cnet.layers.base import Layer, Shape, count
from cnet.random import spawn


class Dropout(Layer):
    r"""Zero each element with probability :math:`p` while training: :math:`y = x\,m / (1 - p)`.

    :math:`m` is 0 with probability :math:`p`, else 1, drawn anew at each forward pass. Backward:
    :math:`dx = dy\,m / (1 - p)`. In evaluation :math:`y = x`.

    Parameters
    ----------
    p : float, default 0.5
        Probability that an element is zeroed, in [0, 1].

    Raises
    ------
    TypeError, ValueError
        If ``p`` is not a number in [0, 1].

    Shapes
    ------
    x, y : (N, ...)

    Notes
    -----
    Inverted dropout: the division keeps the expected value, so that evaluation has nothing to scale. The mask is a
    function of the layer's seed, the number of the forward pass and the element's position (a counter-based generator),
    hence the same at any number of threads, and it is computed again for backward instead of being kept. The seed is
    spawned from ``cnet.manual_seed``'s generator at the first use in training.

    References
    ----------
    PyTorch, ``torch.nn.Dropout``. N. Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from
    Overfitting", JMLR 2014. J. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.

    Examples
    --------
    >>> import numpy as np
    >>> from cnet import layers
    >>> layer = layers.Dropout(0.5)
    >>> sorted(set(layer(np.ones((10, 100))).ravel().tolist()))
    [0.0, 2.0]
    >>> float(layer.eval()(np.ones((10, 100))).mean())
    1.0
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = _check.real("Dropout", "p", p, 0, 1)
        self._seed: int | None = None
        self._calls = 0

    def output_shape(self, input_shape: Shape) -> Shape:
        """The shape of the input."""
        return input_shape

    def flops(self, input_shape: Shape) -> int:
        """One for each element."""
        return count(input_shape)

    def _forward(self, x: Float32Array) -> Float32Array:
        if not self.training:
            return x
        if self._seed is None:
            self._seed = int(spawn().integers(2**63))
        x = layout.physical(x)
        y = layout.empty(x.shape)
        dropout.dropout_forward(x.reshape(-1), y.reshape(-1), self._seed, self._calls, self.p, _threads._count)
        self._keep(self._seed, self._calls)
        self._calls += 1
        return layout.logical(y)

    def _backward(self, dy: Float32Array, kept: Any, input_grad: bool) -> Float32Array | None:
        if not input_grad:
            return None
        seed, call = kept
        dy = layout.physical(dy)
        dx = layout.empty(dy.shape)
        dropout.dropout_backward(dy.reshape(-1), dx.reshape(-1), seed, call, self.p, _threads._count)
        return layout.logical(dx)

    def _signature(self) -> str:
        return f"{self.p:g}"
