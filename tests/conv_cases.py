"""Convolutions that the kernel tests run: their geometry, what float64 makes of them, and how kernels are called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import oracles
from hypothesis import strategies as st
from kernel_cases import Array, Guarded, Problem, random_array, sizes

from cnet.kernels.conv2d import Conv2d

# What the results of each pass are called, in the order in which ``run_case`` returns them.
RESULTS = ("y", "dx", "dweight", "dbias")
WINOGRAD = ("winograd2", "winograd4x2", "winograd4")
# Those that multiply by thirds: what would be whole numbers is not. "auto" may take the first.
ROUNDING = ("winograd4x2", "winograd4")


@dataclass(frozen=True)
class Case:
    """A convolution; ``depth`` and ``breadth`` are the input and output channels of one group."""

    samples: int = 2
    depth: int = 3
    breadth: int = 4
    size: tuple[int, int] = (6, 7)
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    bias: bool = True
    misaligned: bool = False

    @property
    def geometry(self) -> tuple[Any, ...]:
        return self.stride, self.padding, self.dilation, self.groups

    @property
    def channels(self) -> tuple[int, int]:
        return self.groups * self.depth, self.groups * self.breadth

    @property
    def in_shape(self) -> tuple[int, ...]:
        return (self.samples, *self.size, self.groups * self.depth)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return (*self.kernel, self.depth, self.groups * self.breadth)

    @property
    def out_size(self) -> tuple[int, int]:
        return oracles.conv2d_output_size(self.size, self.kernel, self.stride, self.padding, self.dilation)

    @property
    def out_shape(self) -> tuple[int, ...]:
        return (self.samples, *self.out_size, self.groups * self.breadth)

    @property
    def work(self) -> int:
        """Multiply-adds of one pass over one image."""
        return int(np.prod((*self.out_size, *self.kernel, self.depth, self.breadth, self.groups)))

    @property
    def algorithms(self) -> tuple[str, ...]:
        """Those that compute some pass of this convolution; where another is forced, direct summation is taken.

        "winners" computes a weight gradient behind the pooling of an epilogue.
        """
        names = ["direct"]
        if self.groups == 1 or self.depth * self.breadth > 1:
            names += ["dots", "patches", "winners"]
            if self.groups > 1:
                names.append("spread")
        if self.groups == 1 and self.dilation == (1, 1):
            names += ["overlap", "blocks"]
            if self.kernel == (3, 3) and self.stride == (1, 1) and max(self.padding) <= 2:
                names += WINOGRAD
        return tuple(names)

    def bind(self, algorithm: str = "auto") -> Conv2d:
        return Conv2d(*self.channels, *self.size, self.kernel, *self.geometry, algorithm)


def images(x: Array) -> Array:
    """Physical ``[n, h, w, c]`` as logical ``[n, c, h, w]``."""
    return np.moveaxis(x, -1, 1)


def filters(weight: Array) -> Array:
    """Physical ``[kh, kw, in, out]`` as logical ``[out, in, kh, kw]``."""
    return weight.transpose(3, 2, 0, 1)


def oracle_forward(case: Case, x: Any, weight: Any, bias: Any = None) -> oracles.Array:
    return np.moveaxis(oracles.conv2d_forward(images(x), filters(weight), bias, *case.geometry), 1, -1)


def oracle_input_grad(case: Case, dy: Any, weight: Any) -> oracles.Array:
    return np.moveaxis(oracles.conv2d_input_grad(images(dy), filters(weight), case.size, *case.geometry), 1, -1)


def oracle_weight_grad(case: Case, x: Any, dy: Any) -> oracles.Array:
    return oracles.conv2d_weight_grad(images(x), images(dy), case.kernel, *case.geometry).transpose(2, 3, 1, 0)


def random_inputs(case: Case) -> tuple[Array, ...]:
    """``x``, ``weight``, ``bias``, ``dy``, and what ``dweight`` and ``dbias`` hold before."""
    generator = np.random.default_rng([case.samples, case.depth, case.breadth, *case.size, *case.kernel])
    outputs = case.groups * case.breadth
    shapes = [case.in_shape, case.weight_shape, outputs, case.out_shape, case.weight_shape, outputs]
    return tuple(random_array(generator, shape) for shape in shapes)


@lru_cache(maxsize=512)
def problem(case: Case) -> Problem:
    x, weight, bias, dy, dweight, dbias = random_inputs(case)

    def with_magnitude(function: Callable[..., Any], *arrays: Array, start: Any = 0.0) -> Any:
        return function(case, *arrays) + start, function(case, *map(np.abs, arrays)) + np.abs(start)

    def bias_grad(case: Case, dy: Array) -> oracles.Array:
        return oracles.conv2d_bias_grad(images(dy))

    return Problem(
        x, weight, bias, dy, dweight, dbias,
        forward=with_magnitude(oracle_forward, x, weight, start=bias if case.bias else 0.0),
        input_grad=with_magnitude(oracle_input_grad, dy, weight),
        weight_grad=with_magnitude(oracle_weight_grad, x, dy, start=dweight),
        bias_grad=with_magnitude(bias_grad, dy, start=dbias),
    )  # fmt: skip


def run_case(
    case: Case,
    x: Array,
    weight: Array,
    bias: Array,
    dy: Array,
    dweight: Any,
    dbias: Any,
    threads: int,
    algorithm: str = "auto",
) -> tuple[Array, ...]:
    """``RESULTS`` of the kernels, in guarded arrays and with workspaces of the size they ask for."""
    conv = case.bind(algorithm)
    assert (conv.out_height, conv.out_width) == case.out_size
    y, dx = Guarded(dy.shape, misaligned=case.misaligned), Guarded(x.shape, misaligned=case.misaligned)
    dweight = Guarded(weight.shape, dweight, case.misaligned)
    dbias = Guarded(bias.shape, dbias, case.misaligned)

    def workspace(floats: int) -> Guarded:
        return Guarded(floats, misaligned=case.misaligned)

    workspaces = [
        workspace(conv.forward_workspace(case.samples, threads)),
        workspace(conv.input_grad_workspace(case.samples, threads)),
        workspace(conv.weight_grad_workspace(case.samples, threads)),
    ]
    conv.forward(x, weight, bias if case.bias else None, y.array, workspaces[0].array, threads)
    conv.input_grad(dy, weight, dx.array, workspaces[1].array, threads)
    conv.weight_grad(x, dy, dweight.array, dbias.array if case.bias else None, workspaces[2].array, threads)
    for guarded in (y, dx, dweight, dbias, *workspaces):
        guarded.check()
    return y.array, dx.array, dweight.array, dbias.array


NAMED = {
    "smallest": Case(1, 1, 1, (1, 1), (1, 1)),
    "one-pixel-padded": Case(3, 5, 6, (1, 1), padding=(1, 1, 1, 1)),
    "kernel-is-image": Case(4, 7, 9, (5, 6), (5, 6)),
    "kernel-is-padded-image": Case(2, 3, 5, (3, 2), (5, 6), padding=(2, 0, 1, 3)),
    "first-layer": Case(5, 1, 32, (28, 28), padding=(1, 1, 1, 1)),
    "colour-images": Case(2, 3, 64, (16, 16), padding=(1, 1, 1, 1)),
    "one-by-one": Case(3, 33, 17, (7, 5), (1, 1)),
    "one-by-one-padded": Case(3, 6, 17, (4, 5), (1, 1), padding=(1, 0, 2, 0)),
    "one-by-one-strided": Case(3, 17, 33, (7, 8), (1, 1), (2, 3)),
    "one-by-one-grouped": Case(3, 5, 18, (4, 3), (1, 1), groups=3),
    "stride-beyond-kernel": Case(2, 4, 5, (11, 14), (2, 3), (4, 5), (1, 0, 0, 2)),
    "stride-beyond-image": Case(2, 4, 5, (3, 2), (2, 2), (7, 9)),
    # Residues of the input that no tap reaches, or fewer rows of them than of others: their blocks of rows differ.
    "strided-odd-size": Case(1, 4, 5, (13, 12), stride=(2, 2), padding=(1, 1, 1, 1)),
    "residues-without-taps": Case(1, 2, 3, (9, 7), stride=(2, 1), padding=(1, 1, 0, 0), dilation=(2, 1)),
    "rows-never-read": Case(2, 3, 4, (13, 14), (2, 2), (5, 6)),
    "padding-beyond-kernel": Case(2, 3, 4, (3, 4), (2, 2), padding=(5, 3, 4, 6)),
    "padding-below-and-right": Case(2, 3, 4, padding=(0, 2, 0, 1)),
    "padding-above-and-left": Case(2, 3, 4, padding=(2, 0, 1, 0)),
    "dilated": Case(2, 5, 6, (11, 12), (3, 3), padding=(2, 2, 3, 3), dilation=(2, 3)),
    "dilated-strided": Case(2, 5, 6, (13, 12), (3, 4), (2, 3), (3, 4, 2, 2), (3, 2)),
    "stride-divides-dilation": Case(2, 5, 6, (13, 12), (3, 3), (2, 2), (2, 2, 2, 2), (4, 2)),
    "dilation-across-only": Case(2, 6, 5, (6, 9), (3, 2), padding=(1, 1, 1, 1), dilation=(1, 3)),
    "groups": Case(2, 6, 10, (6, 5), padding=(1, 1, 1, 1), groups=3),
    "groups-of-ragged-breadth": Case(2, 2, 19, (6, 5), padding=(1, 1, 1, 1), groups=2),
    "groups-of-two-panels": Case(2, 3, 45, (4, 5), groups=2),
    "depthwise": Case(2, 1, 1, (7, 6), padding=(1, 1, 1, 1), groups=37),
    "depthwise-many-images": Case(35, 1, 1, (13, 12), padding=(1, 1, 1, 1), groups=19),
    "depthwise-strided-dilated": Case(3, 1, 1, (9, 10), (3, 2), (2, 3), (2, 1, 0, 3), (2, 2), 21),
    "depth-multiplier": Case(2, 1, 3, (6, 6), padding=(1, 1, 1, 1), groups=8),
    "channels-summed-by-group": Case(2, 4, 1, (6, 6), padding=(1, 1, 1, 1), groups=5),
    "wider-than-a-block-of-points": Case(2, 2, 3, (2, 150), (1, 3), padding=(0, 0, 1, 1)),
    "tall": Case(1, 2, 3, (90, 2), (3, 1), padding=(1, 1, 0, 0)),
    "more-images-than-items": Case(37, 3, 5, (4, 4), padding=(1, 1, 1, 1)),
    # More weights than stay in a second-level cache: a few images share each panel.
    "images-sharing-panels": Case(37, 128, 120, (1, 2), padding=(1, 1, 1, 1)),
    "images-sharing-panels-unpadded": Case(49, 120, 128, (3, 3)),
    "images-sharing-panels-strided": Case(34, 130, 120, (3, 2), stride=(2, 2), padding=(1, 0, 1, 1)),
    # Patches of several images make one product; of long sums a stretch at a time, of whole segments or of parts.
    "images-in-one-product": Case(21, 5, 19, (5, 6), stride=(2, 1), padding=(1, 1, 1, 1)),
    "images-in-one-product-of-groups": Case(18, 5, 35, (4, 4), groups=2, padding=(1, 0, 1, 1)),
    "stretches-of-whole-segments": Case(9, 70, 36, (6, 5), (5, 3), stride=(1, 2), padding=(2, 1, 1, 1)),
    "stretches-of-long-segments": Case(5, 260, 18, (4, 6), (2, 5), padding=(1, 0, 2, 2)),
    "stretches-of-groups": Case(5, 530, 3, (3, 2), (1, 2), groups=2),
    "several-products-of-an-image": Case(2, 3, 34, (23, 21), (4, 3), stride=(1, 2), padding=(2, 1, 1, 1)),
    "rows-beyond-a-product": Case(1, 2, 3, (3, 230), (2, 3), padding=(1, 0, 1, 1)),
    # Dot products of every number of channels that share loads, over points in all sizes of group.
    "five-dot-products": Case(2, 33, 5, (3, 29), (2, 2), padding=(0, 1, 1, 1)),
    "six-dot-products-of-groups": Case(2, 19, 6, (4, 11), (3, 2), groups=2),
    "spread-groups-of-many": Case(3, 3, 2, (11, 9), (3, 2), (2, 1), (1, 1, 0, 1), groups=11),
    "spread-rows-in-parts": Case(1, 12, 20, (41, 40), (2, 2), padding=(1, 0, 0, 1), groups=5),
    # Windows of which the image holds few rows, or none.
    "mostly-padding": Case(2, 4, 5, (2, 3), (6, 3), padding=(5, 7, 1, 1)),
    # Winograd's tiles reach over every edge differently; a panel of weights is transformed 32 input channels at a time.
    "one-window": Case(9, 6, 5, (3, 3)),
    "padding-of-two": Case(3, 17, 9, (5, 6), padding=(2, 2, 2, 2)),
    "padding-of-each-side": Case(2, 70, 33, (6, 9), padding=(0, 1, 2, 1)),
    "padding-of-each-other-side": Case(2, 33, 40, (9, 5), padding=(2, 0, 0, 1)),
    # Items of several images (the last of fewer), and of some rows of tiles of one image.
    "images-sharing-an-item": Case(43, 9, 18, (5, 4), padding=(1, 1, 1, 1)),
    "blocks-of-tiles": Case(2, 5, 19, (45, 13), padding=(1, 1, 1, 1)),
    "wide-rows-of-tiles": Case(1, 3, 4, (5, 210), padding=(0, 1, 1, 1)),
    "blocks-for-many-channels": Case(1, 400, 3, (14, 13), padding=(1, 1, 1, 1)),
    # Transforms of a weight gradient come in several rounds, whose last is a short one and ends within an image.
    "several-rounds": Case(9, 9, 7, (31, 33), padding=(1, 1, 1, 1)),
    "parts-of-several-rounds": Case(9, 40, 33, (31, 33), padding=(1, 1, 1, 1)),
    "several-rounds-of-many-channels": Case(5, 70, 40, (13, 14), padding=(1, 1, 1, 1)),
    # Rows of an input gradient in blocks: because the image is large, because the kernel is, because images are few.
    "blocks-of-products": Case(17, 3, 2, (70, 64), padding=(1, 1, 1, 1)),
    "blocks-of-large-kernels": Case(17, 7, 1, (13, 50), (7, 7), padding=(3, 3, 3, 3)),
    "blocks-of-strided-products": Case(16, 7, 1, (50, 100), (5, 5), (2, 2), (2, 1, 0, 2)),
    "blocks-of-few-images": Case(1, 2, 3, (61, 50), (5, 4), (2, 3), (2, 1, 0, 3)),
    # Every window lies in the padding to the left or right, and the rows of dx are more than those of dy.
    "windows-beside-the-image": Case(1, 3, 4, (11, 1), (5, 1), (2, 2), (0, 0, 1, 1)),
    "one-channel-each-way": Case(3, 1, 1, (12, 11), padding=(1, 1, 1, 1)),
}

# Multiply-adds of a generated case: enough for three threads, few enough that hundreds of oracles take seconds.
MOST_WORK = 1_000_000


@st.composite
def cases(draw: st.DrawFn, most_work: int = MOST_WORK) -> Case:
    """Convolutions of every kind; the image is made large enough for one window."""

    def pair(most: int, *often: int) -> tuple[int, int]:
        one = st.one_of(st.sampled_from(often), st.integers(1, most))
        return draw(one), draw(one)

    kind = draw(st.sampled_from(["plain", "plain", "plain", "plain", "groups", "depthwise"]))
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (3, 3), (5, 5)])) if draw(st.booleans()) else pair(7, 1, 2)
    stride, dilation = pair(5, 1, 1, 2), pair(4, 1, 1, 1)
    padding = (0, 0, 0, 0)
    if draw(st.booleans()):
        rows, columns = st.integers(0, kernel[0] + 2), st.integers(0, kernel[1] + 2)
        padding = draw(rows), draw(rows), draw(columns), draw(columns)
    size = pair(17, 1, 2)
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    size = (
        max(size[0], reach[0] - padding[0] - padding[1]),
        max(size[1], reach[1] - padding[2] - padding[3]),
    )
    if kind == "depthwise":
        depth, breadth, groups = 1, 1, draw(sizes(70))
    elif kind == "groups":
        depth, breadth, groups = draw(sizes(18)), draw(sizes(36)), draw(st.integers(2, 5))
    else:
        depth, breadth, groups = draw(sizes(70)), draw(sizes(70)), 1
    case = Case(
        1, depth, breadth, size, kernel, stride, padding, dilation, groups, draw(st.booleans()), draw(st.booleans())
    )
    return replace(case, samples=min(draw(sizes(40, 2, 3, 5, 32)), max(1, most_work // case.work)))


@st.composite
def winograd_cases(draw: st.DrawFn, most_work: int = 600_000) -> Case:
    """3 x 3 convolutions that Winograd's filtering applies to, with outputs from one pixel on."""
    padding = draw(st.tuples(*[st.integers(0, 2)] * 4))
    height, width = (max(3 - sum(sides), draw(sizes(24, 1, 2, 3, 6))) for sides in (padding[:2], padding[2:]))
    depth, breadth = draw(sizes(70)), draw(sizes(70))
    case = Case(
        1, depth, breadth, (height, width), padding=padding, bias=draw(st.booleans()), misaligned=draw(st.booleans())
    )
    return replace(case, samples=min(draw(sizes(40, 2, 3, 8, 9, 17)), max(1, most_work // case.work)))
