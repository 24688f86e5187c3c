"""Layers: differentiable functions of a batch, with explicit ``forward`` and ``backward``."""

from cnet.layers.activation import LeakyReLU, PReLU, ReLU
from cnet.layers.base import Layer
from cnet.layers.container import Residual, Sequential
from cnet.layers.conv import Conv2d
from cnet.layers.dropout import Dropout
from cnet.layers.linear import Linear
from cnet.layers.normalization import BatchNorm1d, BatchNorm2d
from cnet.layers.pooling import MaxPool2d
from cnet.layers.reshape import Flatten
from cnet.layers.softmax import Softmax
from cnet.layers.summary import summarise

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "Conv2d",
    "Dropout",
    "Flatten",
    "Layer",
    "LeakyReLU",
    "Linear",
    "MaxPool2d",
    "PReLU",
    "ReLU",
    "Residual",
    "Sequential",
    "Softmax",
    "summarise",
]
