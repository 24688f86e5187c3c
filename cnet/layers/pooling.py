"""Pooling over windows of images."""

from __future__ import annotations

from typing import Any

from cnet import _check, _threads, layout
from cnet._check import Float32Array
from cnet.kernels import maxpool2d
from cnet.layers.base import Layer, Shape, batch_of, count

Pair = int | tuple[int, int]


class MaxPool2d(Layer):
    r"""The largest element of each window of an image.

    .. math:: y_{n,c,i,j} = \max_{k,l}\; x_{n,\,c,\,i s_h + k d_h - p_h,\; j s_w + l d_w - p_w}

    Backward: each element of ``dy`` goes to the position of its maximum; where windows overlap the contributions add.

    Parameters
    ----------
    kernel_size : int or pair of int
        Height and width of the window in elements, ``>= 1``, at most 65,536 taps together.
    stride : int or pair of int, optional
        Elements from window to window, ``>= 1``; default the kernel size.
    padding : int or pair of int, default 0
        Cells added on each side (vertical, horizontal), at most half the kernel size.
    dilation : int or pair of int, default 1
        Elements from tap to tap of the window, ``>= 1``.
    ceil_mode : bool, default False
        Whether a last window that reaches beyond the padded image counts too, provided it starts inside the image or
        its left or upper padding.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range; at a batch, if ``x`` is not ``(N, C, H, W)`` or smaller than the window.

    Shapes
    ------
    x : (N, C, H, W)
    y : (N, C, H', W') with ``H' = floor((H + 2 p - d (k - 1) - 1) / s) + 1``, ceil in place of floor in ceil mode, and
        ``W'`` alike

    Notes
    -----
    Padded cells never win. Of equal elements the first in row-major order wins; NaN beats all. Kept for backward: the
    winner's place in its window, two bytes an output.

    References
    ----------
    PyTorch, ``torch.nn.MaxPool2d``.

    Examples
    --------
    >>> import numpy as np
    >>> from cnet import layers
    >>> x = np.arange(16.0).reshape(1, 1, 4, 4)
    >>> layers.MaxPool2d(2)(x).tolist()
    [[[[5.0, 7.0], [13.0, 15.0]]]]
    >>> layers.MaxPool2d(3, stride=2, padding=1).output_shape((8, 28, 28))
    (8, 14, 14)
    """

    def __init__(
        self,
        kernel_size: Pair,
        stride: Pair | None = None,
        padding: Pair = 0,
        dilation: Pair = 1,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size = _check.pair("MaxPool2d", "kernel_size", kernel_size, 1)
        self.stride = self.kernel_size if stride is None else _check.pair("MaxPool2d", "stride", stride, 1)
        self.padding = _check.pair("MaxPool2d", "padding", padding, 0)
        self.dilation = _check.pair("MaxPool2d", "dilation", dilation, 1)
        self.ceil_mode = _check.boolean("MaxPool2d", "ceil_mode", ceil_mode)
        for name, amount, size in zip(("vertical", "horizontal"), self.padding, self.kernel_size, strict=True):
            _check.integer("MaxPool2d", f"the {name} padding", amount, 0, size // 2)
        _check.integer("MaxPool2d", "the number of taps", self.kernel_size[0] * self.kernel_size[1], 1, 65536)

    def output_shape(self, input_shape: Shape) -> Shape:
        """``(C, H', W')``."""
        if len(input_shape) != 3:
            remedy = "Reshape x to (N, C, H, W)."
            raise _check.shape_error("MaxPool2d", "x", batch_of(input_shape), "(N, C, H, W)", remedy)
        sizes = []
        for size, kernel, stride, padding, dilation in zip(
            input_shape[1:], self.kernel_size, self.stride, self.padding, self.dilation, strict=True
        ):
            room = size + 2 * padding - dilation * (kernel - 1) - 1
            if room < 0:
                raise _check.shape_error(
                    "MaxPool2d",
                    "x",
                    batch_of(input_shape),
                    f"images no smaller, after padding {self.padding}, than the window {self.kernel_size}",
                    "Use a smaller kernel_size or fewer pooling layers.",
                )
            windows = (room + (stride - 1 if self.ceil_mode else 0)) // stride + 1
            # A window that would start in the padding after the image would see no element at all.
            sizes.append(windows - 1 if (windows - 1) * stride >= size + padding else windows)
        return (input_shape[0], *sizes)

    def flops(self, input_shape: Shape) -> int:
        """One comparison for each tap of each window."""
        return count(self.output_shape(input_shape)) * self.kernel_size[0] * self.kernel_size[1]

    def _bind(self, input_shape: Shape) -> None:
        _, height, width = input_shape
        _, out_height, out_width = self.output_shape(input_shape)
        self._kernel = maxpool2d.MaxPool2d(
            height, width, self.kernel_size, self.stride, self.padding, self.dilation, out_height, out_width
        )

    def _forward(self, x: Float32Array) -> Float32Array:
        x = layout.physical(x)
        kernel = self._kernel
        shape = (x.shape[0], kernel.out_height, kernel.out_width, x.shape[3])
        y = layout.empty(shape)
        index = layout.empty_of(shape, "uint16") if self.training else None
        kernel.forward(x, y, index, _threads._count)
        self._keep(x.shape, index)
        return layout.logical(y)

    def _backward(self, dy: Float32Array, kept: Any, input_grad: bool) -> Float32Array | None:
        if not input_grad:
            return None
        shape, index = kept
        dx = layout.empty(shape)
        self._kernel.backward(layout.physical(dy), index, dx, _threads._count)
        return layout.logical(dx)

    def _signature(self) -> str:
        parts = [f"kernel_size={self.kernel_size}"]
        defaults = {"stride": self.kernel_size, "padding": (0, 0), "dilation": (1, 1), "ceil_mode": False}
        parts += [f"{name}={getattr(self, name)!r}" for name, usual in defaults.items() if getattr(self, name) != usual]
        return ", ".join(parts)
