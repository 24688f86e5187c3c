"""The fully connected layer."""

from __future__ import annotations

from typing import Any

from cnet import _check, _threads, layout
from cnet._check import Float32Array
from cnet.initializers import FanInUniform, Initializer
from cnet.initializers import get as get_initializer
from cnet.kernels.dense import Dense
from cnet.kernels.epilogue import Epilogue
from cnet.layers.base import Layer, Shape, batch_of
from cnet.parameter import Parameter, claim
from cnet.random import default_generator


class Linear(Layer):
    r"""Fully connected layer: :math:`y = x W^T + b`.

    Backward: :math:`dx = dy\,W`, :math:`dW \mathrel{+}= dy^T x`, :math:`db \mathrel{+}= \sum_n dy_n`.

    Parameters
    ----------
    in_features : int or None
        Size of an input, ``>= 1``; None infers it from the first batch.
    out_features : int
        Size of an output, ``>= 1``.
    bias : bool, default True
        Whether to add :math:`b`.
    init : str or Initializer, optional
        Initial weights; default ``U(-1/sqrt(in_features), 1/sqrt(in_features))``, as in PyTorch.
    bias_init : str or Initializer, optional
        Initial bias; default the same interval as the weights'.

    Attributes
    ----------
    weight : Parameter, shape (out_features, in_features)
    bias : Parameter, shape (out_features,), or None

    Raises
    ------
    TypeError, ValueError
        If a size is not a positive integer or an initialiser is unknown; at a batch, if ``x`` is not
        ``(N, in_features)``.

    Shapes
    ------
    x : (N, in_features)
    y : (N, out_features)

    Notes
    -----
    Kept for backward: the input. Weight decay is the optimizer's (``SGD(weight_decay=...)``).

    References
    ----------
    PyTorch, ``torch.nn.Linear``.

    Examples
    --------
    >>> import numpy as np
    >>> from cnet import layers
    >>> layer = layers.Linear(None, 3, init="kaiming_normal")
    >>> layer(np.ones((2, 5))).shape, layer.weight.shape
    ((2, 3), (3, 5))
    """

    def __init__(
        self,
        in_features: int | None,
        out_features: int,
        bias: bool = True,
        *,
        init: str | Initializer | None = None,
        bias_init: str | Initializer | None = None,
    ) -> None:
        super().__init__()
        self.in_features = None if in_features is None else _check.integer("Linear", "in_features", in_features, 1)
        self.out_features = _check.integer("Linear", "out_features", out_features, 1)
        self.init = FanInUniform() if init is None else get_initializer(init)
        self.bias_init = FanInUniform() if bias_init is None else get_initializer(bias_init)
        self.weight = Parameter(name="weight")
        self.bias = Parameter(name="bias") if _check.boolean("Linear", "bias", bias) else None
        if self.in_features is not None:
            self._create(self.in_features)

    def output_shape(self, input_shape: Shape) -> Shape:
        """``(out_features,)``."""
        if len(input_shape) != 1 or self.in_features not in (None, input_shape[0]):
            features = input_shape[0] if len(input_shape) == 1 else None
            remedy = f"Set in_features={features} or reshape x." if features else "Put a Flatten before it."
            expected = f"(N, {self.in_features or 'features'})"
            raise _check.shape_error("Linear", "x", batch_of(input_shape), expected, remedy)
        return (self.out_features,)

    def flops(self, input_shape: Shape) -> int:
        """Two for each weight, one for each bias."""
        return 2 * input_shape[0] * self.out_features + (self.out_features if self.bias else 0)

    def _create(self, features: int) -> None:
        self.in_features = features
        generator, shape = default_generator(), (self.out_features, features)
        self.weight.materialise(self.init(shape, generator))
        if self.bias:
            fans = {"fan_in": features, "fan_out": self.out_features}
            self.bias.materialise(self.bias_init((self.out_features,), generator, **fans))

    def _bind(self, input_shape: Shape) -> None:
        if not self.weight.built:
            self._create(input_shape[0])

    def _forward(self, x: Float32Array) -> Float32Array:
        x = layout.physical(x)
        self._keep(x)
        return self._run(x, layout.empty((x.shape[0], self.out_features)))

    def _run(
        self, x: Float32Array, y: Float32Array, epilogue: Epilogue | None = None, index: Any = None, before: Any = None
    ) -> Float32Array:
        """Fill ``y`` with the output, or else it and ``before`` with what the epilogue makes of that."""
        kernel = self._products()
        size = kernel.forward_workspace(x.shape[0])
        kernel.forward(x, y, layout.empty((size,)) if size else None, _threads._count, epilogue, before)
        return y

    def _backward(self, dy: Float32Array, kept: Any, input_grad: bool) -> Float32Array | None:
        (x,) = kept
        return self._gradients(x, layout.physical(dy), None, input_grad)

    def _gradients(
        self, x: Float32Array, dy: Float32Array | None, epilogue: Epilogue | None, input_grad: bool
    ) -> Float32Array | None:
        """Those of the parameters, added up, and that of ``x``; from ``dy``, or what is bound to ``epilogue``."""
        kernel = self._products()
        size = kernel.backward_workspace(x.shape[0], epilogue)
        dx = layout.empty(x.shape) if input_grad else None
        workspace = layout.empty((size,)) if size else None
        anew = claim((self.weight, self.bias) if self.bias else (self.weight,))
        kernel.backward(x, dy, dx, workspace, _threads._count, epilogue, anew)
        return dx

    def _products(self) -> Dense:
        """The kernel, bound to the parameters where they lie now."""
        kernel: Dense | None = self._kernel
        weight, bias = self.weight, self.bias
        storage = bias.storage if bias else None
        if kernel is None or kernel.weight is not weight.storage or kernel.bias is not storage:
            gradient = bias.grad_memory if bias else None
            self._kernel = kernel = Dense(weight.storage, storage, weight.grad_memory, gradient)
        return kernel

    def _signature(self) -> str:
        return f"{self.in_features}, {self.out_features}" + ("" if self.bias else ", bias=False")
