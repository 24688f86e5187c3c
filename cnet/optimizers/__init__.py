"""Optimizers."""

from cnet.optimizers.base import Optimizer
from cnet.optimizers.sgd import SGD

__all__ = ["SGD", "Optimizer"]
