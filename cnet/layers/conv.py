"""Convolution over images."""

from __future__ import annotations

from typing import Any

from cnet import _check, _threads, layout
from cnet._check import Float32Array
from cnet.initializers import FanInUniform, Initializer
from cnet.initializers import get as get_initializer
from cnet.kernels import conv2d
from cnet.kernels.epilogue import Epilogue
from cnet.layers.base import Layer, Shape, batch_of, count
from cnet.parameter import Parameter
from cnet.random import default_generator

Pair = int | tuple[int, int]

_ALGORITHMS = ("auto", "direct", "winograd2", "winograd4x2", "winograd4")


class Conv2d(Layer):
    r"""2-D convolution (cross-correlation, as is usual) of images.

    .. math:: y_{n,o,i,j} = b_o + \sum_{c,k,l} w_{o,c,k,l}\; x_{n,\,c,\,i s_h + k d_h - p_h,\; j s_w + l d_w - p_w}

    where ``x`` is zero outside the image and ``c`` runs over the channels of the group of ``o``. Backward: ``dx``
    spreads ``dy`` through the same window, ``dw`` sums ``dy x`` and ``db`` sums ``dy``, both over images and positions.

    Parameters
    ----------
    in_channels : int or None
        Channels of the input, ``>= 1``; None infers them from the first batch.
    out_channels : int
        Channels of the output, ``>= 1``.
    kernel_size : int or pair of int
        Height and width of the window in elements, ``>= 1``.
    stride : int or pair of int, default 1
        Elements from window to window, ``>= 1``.
    padding : int, pair of int, "same" or "valid", default 0
        Zeros added on each side (vertical, horizontal). ``"valid"`` adds none; ``"same"`` adds as many as make the
        output as large as the input, the odd one at the bottom and right, and needs stride 1.
    dilation : int or pair of int, default 1
        Elements from tap to tap of the window, ``>= 1``.
    groups : int, default 1
        Equal groups of channels that are convolved apart; divides both channel counts. ``groups=in_channels`` is a
        depthwise convolution.
    bias : bool, default True
        Whether to add :math:`b`.
    init, bias_init : str or Initializer, optional
        Initial weights and bias; default ``U(-1/sqrt(f), 1/sqrt(f))`` with ``f = in_channels / groups * kh * kw``.
    algorithm : {"auto", "direct", "winograd2", "winograd4x2", "winograd4"}, default "auto"
        How sums are formed, see Notes. The latter three are for 3 x 3 windows with stride 1, dilation 1, one group and
        padding up to 2.

    Attributes
    ----------
    weight : Parameter, shape (out_channels, in_channels / groups, kh, kw)
    bias : Parameter, shape (out_channels,), or None

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range, the groups do not divide the channels, ``"same"`` meets a stride; at a batch, if
        the channels differ or the window is larger than the padded image.

    Shapes
    ------
    x : (N, in_channels, H, W)
    y : (N, out_channels, H', W') with ``H' = floor((H + 2 p - d (k - 1) - 1) / s) + 1``, and ``W'`` alike

    Notes
    -----
    Kept for backward: the input. Kernels read it with channels last; an array in PyTorch's order is converted once.

    ``"winograd2"`` is Winograd's minimal filtering with output tiles of 2 x 2: 2.25 times fewer multiplications, as
    accurate as direct summation, the weight gradient within a factor of two (root mean square). ``"winograd4x2"`` has
    tiles of 4 rows and 2 columns: 3 times fewer multiplications, and errors 1.3 to 1.7 times those of direct summation,
    of the weight gradient 2.5 to 3.5 times. ``"auto"`` takes one of these where it is faster. ``"winograd4"`` has tiles
    of 4 x 4, 4 times fewer multiplications, and errors 2.5 to 3.5, of the weight gradient 4 to 8 times those of direct
    summation.

    References
    ----------
    PyTorch, ``torch.nn.Conv2d``. V. Dumoulin and F. Visin, "A guide to convolution arithmetic for deep learning",
    arXiv:1603.07285. A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016.

    Examples
    --------
    >>> import numpy as np
    >>> from cnet import layers
    >>> layer = layers.Conv2d(3, 8, 3, stride=2, padding=1)
    >>> layer(np.zeros((4, 3, 32, 32))).shape
    (4, 8, 16, 16)
    >>> layers.Conv2d(None, 8, (3, 5), padding="same").output_shape((3, 32, 32))
    (8, 32, 32)
    """

    def __init__(
        self,
        in_channels: int | None,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair | str = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        init: str | Initializer | None = None,
        bias_init: str | Initializer | None = None,
        algorithm: str = "auto",
    ) -> None:
        super().__init__()
        self.in_channels = None if in_channels is None else _check.integer("Conv2d", "in_channels", in_channels, 1)
        self.out_channels = _check.integer("Conv2d", "out_channels", out_channels, 1)
        self.kernel_size = _check.pair("Conv2d", "kernel_size", kernel_size, 1)
        self.stride = _check.pair("Conv2d", "stride", stride, 1)
        self.dilation = _check.pair("Conv2d", "dilation", dilation, 1)
        self.groups = _check.integer("Conv2d", "groups", groups, 1)
        self.padding = padding if isinstance(padding, str) else _check.pair("Conv2d", "padding", padding, 0)
        self._sides = self._padding_sides()
        self._check_groups(self.in_channels)
        self.algorithm = _check.choice("Conv2d", "algorithm", algorithm, _ALGORITHMS)
        self._check_algorithm()
        self.init = FanInUniform() if init is None else get_initializer(init)
        self.bias_init = FanInUniform() if bias_init is None else get_initializer(bias_init)
        self.weight = Parameter(name="weight")
        self.bias = Parameter(name="bias") if _check.boolean("Conv2d", "bias", bias) else None
        if self.in_channels is not None:
            self._create(self.in_channels)

    def output_shape(self, input_shape: Shape) -> Shape:
        """``(out_channels, H', W')``."""
        if len(input_shape) != 3 or self.in_channels not in (None, input_shape[0]):
            channels = self.in_channels or "C"
            remedy = "Reshape x to (N, C, H, W)." if len(input_shape) != 3 else f"Set in_channels={input_shape[0]}."
            raise _check.shape_error("Conv2d", "x", batch_of(input_shape), f"(N, {channels}, H, W)", remedy)
        self._check_groups(input_shape[0])
        sides = (self._sides[:2], self._sides[2:])
        sizes = []
        for size, (before, after), kernel, stride, dilation in zip(
            input_shape[1:], sides, self.kernel_size, self.stride, self.dilation, strict=True
        ):
            room = size + before + after - dilation * (kernel - 1) - 1
            if room < 0:
                window = tuple(d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel_size, strict=True))
                raise _check.shape_error(
                    "Conv2d", "x", batch_of(input_shape),
                    f"images no smaller, after padding {self.padding}, than the window {window}",
                    "Add padding or use a smaller kernel_size.",
                )  # fmt: skip
            sizes.append(room // stride + 1)
        return (self.out_channels, *sizes)

    def flops(self, input_shape: Shape) -> int:
        """Two for each weight at each position, one for each bias."""
        outputs = count(self.output_shape(input_shape))
        kernel = self.kernel_size[0] * self.kernel_size[1]
        return outputs * (2 * kernel * input_shape[0] // self.groups + (1 if self.bias else 0))

    def _padding_sides(self) -> tuple[int, int, int, int]:
        """Zeros at the top, bottom, left and right."""
        if not isinstance(self.padding, str):
            vertical, horizontal = self.padding
            return vertical, vertical, horizontal, horizontal
        if _check.choice("Conv2d", "padding", self.padding, ("same", "valid")) == "valid":
            return 0, 0, 0, 0
        if self.stride != (1, 1):
            raise ValueError(
                _check.message("Conv2d", f"padding is 'same' with stride {self.stride}", "stride 1", "Give numbers.")
            )
        high, wide = (d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True))
        return high // 2, high - high // 2, wide // 2, wide - wide // 2

    def _check_groups(self, in_channels: int | None) -> None:
        for name, channels in (("in_channels", in_channels), ("out_channels", self.out_channels)):
            if channels is not None and channels % self.groups:
                raise ValueError(
                    _check.message("Conv2d", f"{name} is {channels}", f"a multiple of groups={self.groups}")
                )

    def _check_algorithm(self) -> None:
        fits = self.kernel_size == (3, 3) and self.stride == self.dilation == (1, 1) and self.groups == 1
        if self.algorithm.startswith("winograd") and not (fits and max(self._sides) <= 2):
            expected = "3 x 3 windows, stride 1, dilation 1, one group and padding up to 2"
            remedy = 'Use algorithm="auto".'
            raise ValueError(_check.message("Conv2d", f"algorithm is {self.algorithm!r}", expected, remedy))

    def _create(self, in_channels: int) -> None:
        self.in_channels = in_channels
        generator, depth = default_generator(), in_channels // self.groups
        kernel = self.kernel_size[0] * self.kernel_size[1]
        self.weight.materialise(self.init((self.out_channels, depth, *self.kernel_size), generator))
        if self.bias:
            fans = {"fan_in": depth * kernel, "fan_out": self.out_channels * kernel}
            self.bias.materialise(self.bias_init((self.out_channels,), generator, **fans))

    def _bind(self, input_shape: Shape) -> None:
        channels, height, width = input_shape
        if not self.weight.built:
            self._create(channels)
        self._kernel = conv2d.Conv2d(
            channels, self.out_channels, height, width, self.kernel_size, self.stride, self._sides, self.dilation,
            self.groups, self.algorithm,
        )  # fmt: skip

    def _forward(self, x: Float32Array) -> Float32Array:
        x, kernel = layout.physical(x), self._kernel
        self._keep(x)
        y = layout.empty((x.shape[0], kernel.out_height, kernel.out_width, self.out_channels))
        return layout.logical(self._run(x, y))

    def _run(
        self, x: Float32Array, y: Float32Array, epilogue: Epilogue | None = None, index: Any = None, before: Any = None
    ) -> Float32Array:
        """Fill ``y`` with the output, or else it, ``index`` and ``before`` with what the epilogue makes of that."""
        kernel, threads, bias = self._kernel, _threads._count, self.bias.storage if self.bias else None
        workspace = layout.empty((kernel.forward_workspace(x.shape[0], threads, epilogue),))
        kernel.forward(x, self.weight.storage, bias, y, workspace, threads, epilogue, index, before)
        return y

    def _backward(self, dy: Float32Array, kept: Any, input_grad: bool) -> Float32Array | None:
        (x,) = kept
        return self._gradients(x, layout.physical(dy), None, input_grad)

    def _gradients(
        self, x: Float32Array, dy: Float32Array | None, epilogue: Epilogue | None, input_grad: bool
    ) -> Float32Array | None:
        """Those of the parameters, added up, and that of ``x``; from ``dy``, or what is bound to ``epilogue``."""
        kernel, samples, threads = self._kernel, x.shape[0], _threads._count
        workspace = layout.empty((kernel.weight_grad_workspace(samples, threads, epilogue),))
        dbias = self.bias.grad_storage if self.bias and epilogue is None else None
        kernel.weight_grad(x, dy, self.weight.grad_storage, dbias, workspace, threads, epilogue)
        if not input_grad:
            return None
        workspace = layout.empty((kernel.input_grad_workspace(samples, threads, epilogue),))
        dx = layout.empty(x.shape)
        kernel.input_grad(dy, self.weight.storage, dx, workspace, threads, epilogue)
        return layout.logical(dx)

    def _signature(self) -> str:
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"]
        defaults = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1, "algorithm": "auto"}
        parts += [f"{name}={getattr(self, name)!r}" for name, usual in defaults.items() if getattr(self, name) != usual]
        return ", ".join(parts if self.bias else [*parts, "bias=False"])
