"""Training: the loop, its history, its progress on the screen, and weights on the disk.

::

    Trainer.fit  ->  one step for each batch  ->  History: loss, accuracy, learning rate, speed
       |
    save_weights, load_weights: an .npz file, whole or not at all
"""

from cnet.training._evaluation import Evaluation
from cnet.training.checkpoint import load_weights, save_weights
from cnet.training.history import History
from cnet.training.trainer import Trainer

__all__ = ["Evaluation", "History", "Trainer", "load_weights", "save_weights"]
