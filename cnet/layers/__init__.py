"""Layers."""

from cnet.layers.base import Layer
from cnet.layers.container import Residual, Sequential
from cnet.layers.conv import Conv2d
from cnet.layers.linear import Linear
from cnet.layers.reshape import Flatten

__all__ = ["Conv2d", "Flatten", "Layer", "Linear", "Residual", "Sequential"]
