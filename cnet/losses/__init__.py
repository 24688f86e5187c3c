"""Losses."""

from cnet.losses.base import Loss
from cnet.losses.cross_entropy import CrossEntropyLoss

__all__ = ["CrossEntropyLoss", "Loss"]
