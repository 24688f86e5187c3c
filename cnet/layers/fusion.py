"""Which layers of a ``Sequential`` run as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cnet.layers.activation import LeakyReLU, PReLU, ReLU
from cnet.layers.base import Layer
from cnet.layers.block import _Block
from cnet.layers.conv import Conv2d
from cnet.layers.linear import Linear
from cnet.layers.normalization import BatchNorm1d, BatchNorm2d
from cnet.layers.pooling import MaxPool2d

_ACTIVATIONS = (ReLU, LeakyReLU, PReLU)


def plan(layers: Sequence[Layer]) -> list[Layer]:
    """The layers, with runs that can be executed as one replaced by blocks; all are bound."""
    units: list[Layer] = []
    rest = list(layers)
    while rest:
        unit = _block(rest) if type(rest[0]) in (Conv2d, Linear) else rest[0]
        units.append(unit)
        del rest[: len(unit.layers) if isinstance(unit, _Block) else 1]
    return units


def _block(layers: Sequence[Layer]) -> Layer:
    """The block that begins with a convolution or a linear layer, or that layer alone."""
    first, *rest = layers
    assert isinstance(first, (Conv2d, Linear)) and first._input_shape is not None
    norm = _take(rest, BatchNorm2d if isinstance(first, Conv2d) else BatchNorm1d)
    # Without running statistics an evaluation needs the whole output too.
    if norm and not norm.track_running_stats:
        return first
    activation = _take(rest, *_ACTIVATIONS)
    pool = _take(rest, MaxPool2d) if isinstance(first, Conv2d) else None
    if pool and not _tiles(pool, first):
        pool = None
    if not (norm or activation or pool):
        return first
    block = _Block(first, norm, activation, pool)
    block._bind_to(first._input_shape)
    return block


def _take(rest: list[Layer], *kinds: type[Layer]) -> Any:
    """Remove and return the first layer if it is exactly of one of these kinds: a subclass may do anything."""
    return rest.pop(0) if rest and type(rest[0]) in kinds else None


def _tiles(pool: MaxPool2d, conv: Layer) -> bool:
    """Whether the windows lie side by side and cover the convolution's output exactly."""
    height, width = conv._kernel.out_height, conv._kernel.out_width
    rows, columns = pool.kernel_size
    return (
        pool.stride == pool.kernel_size
        and pool.padding == (0, 0)
        and pool.dilation == (1, 1)
        and rows * columns <= 256
        and height % rows == 0
        and width % columns == 0
        and not conv._kernel.flat
    )
