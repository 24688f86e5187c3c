"""Batch normalisation."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cnet import _check, _threads, layout
from cnet._check import Float32Array
from cnet.kernels import normalization
from cnet.layers.base import Layer, Shape, batch_of, count
from cnet.parameter import Parameter


class _BatchNorm(Layer):
    """What the batch normalisations share; they differ in the rank of their input."""

    buffer_names: ClassVar[tuple[str, ...]] = ("running_mean", "running_var", "num_batches_tracked")
    _layouts: ClassVar[dict[int, str]]

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.num_features = _check.integer(name, "num_features", num_features, 1)
        self.eps = _check.real(name, "eps", eps, 0)
        self.momentum = None if momentum is None else _check.real(name, "momentum", momentum, 0, 1)
        self.affine = _check.boolean(name, "affine", affine)
        self.track_running_stats = _check.boolean(name, "track_running_stats", track_running_stats)
        self.weight = Parameter(np.ones(self.num_features), name="weight") if self.affine else None
        self.bias = Parameter(np.zeros(self.num_features), name="bias") if self.affine else None
        self.running_mean = np.zeros(self.num_features, np.float32)
        self.running_var = np.ones(self.num_features, np.float32)
        self.num_batches_tracked = np.zeros((), np.int64)
        if not self.track_running_stats:
            self.buffer_names = ()  # type: ignore[misc]

    def output_shape(self, input_shape: Shape) -> Shape:
        """The shape of the input."""
        if len(input_shape) not in self._layouts or input_shape[0] != self.num_features:
            expected = " or ".join(self._layouts.values()).replace("C", str(self.num_features))
            remedy = f"Set num_features={input_shape[0]}." if len(input_shape) in self._layouts else ""
            raise _check.shape_error(type(self).__name__, "x", batch_of(input_shape), expected, remedy)
        return input_shape

    def flops(self, input_shape: Shape) -> int:
        """Two for each element."""
        return 2 * count(input_shape)

    def _forward(self, x: Float32Array) -> Float32Array:
        x = layout.physical(x)
        rows = x.reshape(-1, self.num_features)
        mean, variance = self._statistics(rows)
        scale, shift = self._affine(variance)
        y = layout.empty(x.shape)
        normalization.forward(rows, mean, scale, shift, y.reshape(rows.shape), _threads._count)
        self._keep(x, mean, variance, scale)
        return layout.logical(y)

    def _backward(self, dy: Float32Array, kept: Any, input_grad: bool) -> Float32Array | None:
        x, mean, variance, scale = kept
        rows = x.reshape(-1, self.num_features)
        above = layout.physical(dy).reshape(rows.shape)
        work = layout.empty((normalization.workspace(*rows.shape),))
        sums = layout.empty_of((2, self.num_features), np.float64)
        normalization.sums(rows, above, mean, sums, work, _threads._count)
        factor, offset = self._correction(sums, rows.shape[0], variance)
        if not input_grad:
            return None
        dx = layout.empty(x.shape)
        normalization.backward(rows, above, mean, scale, factor, offset, dx.reshape(rows.shape), _threads._count)
        return layout.logical(dx)

    def _statistics(self, rows: Float32Array) -> tuple[Float32Array, Float32Array]:
        """Mean and variance to normalise by; in training those of the batch, which the running estimates follow."""
        if not self.training and self.track_running_stats:
            return self.running_mean, self.running_var
        if self.training and rows.shape[0] == 1:
            remedy = "Use a larger batch, or eval mode."
            received = "one value for each channel, which has no variance"
            raise ValueError(_check.message(type(self).__name__, received, "several", remedy))
        mean, variance = layout.empty((self.num_features,)), layout.empty((self.num_features,))
        work = layout.empty((normalization.workspace(*rows.shape),))
        normalization.moments(rows, mean, variance, work, _threads._count)
        if self.training:
            self._track(mean, variance, rows.shape[0])
        return mean, variance

    def _affine(self, variance: Float32Array) -> tuple[Float32Array, Float32Array]:
        """Scale and shift of each channel."""
        scale, shift = layout.empty((self.num_features,)), layout.empty((self.num_features,))
        weight, bias = (p.storage if p else None for p in (self.weight, self.bias))
        normalization.affine(variance, self.eps, weight, bias, scale, shift)
        return scale, shift

    def _correction(
        self, sums: NDArray[np.float64], rows: int, variance: Float32Array
    ) -> tuple[Float32Array, Float32Array]:
        """Add to the gradients of weight and bias; return what the statistics take back, see the kernel."""
        factor, offset = layout.empty((self.num_features,)), layout.empty((self.num_features,))
        weight = self.weight.storage if self.weight else None
        dweight, dbias = (p.grad_storage if p else None for p in (self.weight, self.bias))
        normalization.correction(sums, rows, variance, self.eps, weight, factor, offset, dweight, dbias)
        return factor, offset

    def _track(self, mean: Float32Array, variance: Float32Array, rows: int) -> None:
        if not self.track_running_stats:
            return
        self.num_batches_tracked += 1
        # Without a momentum the running estimate is the average over all batches.
        share = np.float32(1 / self.num_batches_tracked if self.momentum is None else self.momentum)
        self.running_mean += share * (mean - self.running_mean)
        self.running_var += share * (variance * np.float32(rows / (rows - 1)) - self.running_var)

    def _signature(self) -> str:
        defaults = {"eps": 1e-5, "momentum": 0.1, "affine": True, "track_running_stats": True}
        parts = [f"{name}={getattr(self, name)}" for name, usual in defaults.items() if getattr(self, name) != usual]
        return ", ".join([str(self.num_features), *parts])


class BatchNorm1d(_BatchNorm):
    r"""Batch normalisation of rows: each feature to mean 0 and variance 1, then scaled and shifted.

    .. math:: y = \frac{x - \mu_c}{\sqrt{\sigma_c^2 + \epsilon}}\, \gamma_c + \beta_c

    where :math:`\mu_c, \sigma_c^2` are of the batch in training and the running estimates in evaluation. Backward, with
    :math:`h = (x - \mu_c) / \sqrt{\sigma_c^2 + \epsilon}` and averages over the batch:
    :math:`dx = \gamma_c / \sqrt{\sigma_c^2 + \epsilon}\,(dy - \overline{dy} - h\,\overline{dy\,h})`,
    :math:`d\gamma_c \mathrel{+}= \sum dy\,h`, :math:`d\beta_c \mathrel{+}= \sum dy`.

    Parameters
    ----------
    num_features : int
        Features, ``>= 1``.
    eps : float, default 1e-5
        :math:`\epsilon`, ``>= 0``.
    momentum : float or None, default 0.1
        Share of a batch in the running estimates, in [0, 1], per step; None averages over all batches alike.
    affine : bool, default True
        Whether to learn :math:`\gamma` and :math:`\beta`.
    track_running_stats : bool, default True
        Whether to keep running estimates; without them evaluation uses the batch's statistics too.

    Attributes
    ----------
    weight, bias : Parameter, shape (num_features,), or None
        :math:`\gamma`, at first 1, and :math:`\beta`, at first 0.
    running_mean, running_var, num_batches_tracked : ndarray
        Buffers, saved with the parameters.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range; at a batch, if it has another number of features, or a single sample in
        training.

    Shapes
    ------
    x, y : (N, num_features)

    Notes
    -----
    The batch is normalised by its biased variance; the running estimate takes the unbiased one. Statistics are summed
    in fixed chunks and combined in float64. Kept for backward: the input and the statistics.

    References
    ----------
    PyTorch, ``torch.nn.BatchNorm1d``. S. Ioffe and C. Szegedy, "Batch Normalization: Accelerating Deep Network Training
    by Reducing Internal Covariate Shift", ICML 2015.

    Examples
    --------
    >>> from cnet import layers
    >>> layers.BatchNorm1d(1, eps=0)([[1.0], [3.0]]).tolist()
    [[-1.0], [1.0]]
    """

    _layouts: ClassVar[dict[int, str]] = {1: "(N, C)"}


class BatchNorm2d(_BatchNorm):
    r"""Batch normalisation of images: each channel to mean 0 and variance 1, then scaled and shifted.

    .. math:: y = \frac{x - \mu_c}{\sqrt{\sigma_c^2 + \epsilon}}\, \gamma_c + \beta_c

    where :math:`\mu_c, \sigma_c^2` are those of the channel over images and pixels of the batch in training, and the
    running estimates in evaluation. Backward as in :class:`BatchNorm1d`, with sums over images and pixels.

    Parameters
    ----------
    num_features : int
        Channels, ``>= 1``.
    eps : float, default 1e-5
        :math:`\epsilon`, ``>= 0``.
    momentum : float or None, default 0.1
        Share of a batch in the running estimates, in [0, 1], per step; None averages over all batches alike.
    affine : bool, default True
        Whether to learn :math:`\gamma` and :math:`\beta`.
    track_running_stats : bool, default True
        Whether to keep running estimates; without them evaluation uses the batch's statistics too.

    Attributes
    ----------
    weight, bias : Parameter, shape (num_features,), or None
        :math:`\gamma`, at first 1, and :math:`\beta`, at first 0.
    running_mean, running_var, num_batches_tracked : ndarray
        Buffers, saved with the parameters.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range; at a batch, if it has another number of channels, or a single pixel in training.

    Shapes
    ------
    x, y : (N, num_features, H, W)

    Notes
    -----
    The batch is normalised by its biased variance; the running estimate takes the unbiased one. Statistics are summed
    in fixed chunks and combined in float64. Kept for backward: the input and the statistics.

    References
    ----------
    PyTorch, ``torch.nn.BatchNorm2d``. S. Ioffe and C. Szegedy, "Batch Normalization: Accelerating Deep Network Training
    by Reducing Internal Covariate Shift", ICML 2015.

    Examples
    --------
    >>> import numpy as np
    >>> from cnet import layers
    >>> y = layers.BatchNorm2d(3)(np.random.default_rng(0).normal(5, 2, (8, 3, 4, 4)))
    >>> bool(abs(y.mean()) < 1e-6), round(float(y.std()), 3)
    (True, 1.0)
    """

    _layouts: ClassVar[dict[int, str]] = {3: "(N, C, H, W)"}
