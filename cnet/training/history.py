"""What happened in a training: every step, every epoch."""

from __future__ import annotations

import math
from array import array
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnet import _check

__all__ = ["History"]


class Epoch(NamedTuple):
    """One epoch of a history; the fields are those of the columns of :class:`History`."""

    loss: float
    accuracy: float
    validation_loss: float
    validation_accuracy: float
    learning_rate: float
    seconds: float
    images_per_second: float
    partial: bool


_EPOCH_COLUMNS = Epoch._fields
_STEP_COLUMNS = ("step_loss", "step_accuracy", "step_learning_rate")


class History:
    """The measures of a training, by step and by epoch.

    :class:`~cnet.training.Trainer` fills one and goes on filling it at each ``fit``. A loop of your own may do the same
    with :meth:`add_step` and :meth:`add_epoch`.

    Attributes
    ----------
    loss : list of float
        For each epoch, the mean loss over its training samples, as it was when the samples were trained on.
    accuracy : list of float
        For each epoch, the fraction of its training samples classified right, in [0, 1], as they were trained on (with
        dropout, say). NaN where the targets are not classes.
    validation_loss, validation_accuracy : list of float
        The same after each epoch, over the validation samples and in evaluation mode. NaN without validation.
    learning_rate : list of float
        For each epoch, the learning rate of its last step; that of the first parameter group.
    seconds : list of float
        For each epoch, the time spent training, in seconds, without the validation.
    images_per_second : list of float
        For each epoch, training samples per second of that time.
    partial : list of bool
        For each epoch, whether it ended before its last batch: by Ctrl-C or by an error.
    epoch_ends : list of int
        For each epoch, the number of steps from the start of the history to its end.
    step_loss, step_accuracy, step_learning_rate : ndarray of float64
        For each step, the loss and accuracy of its batch and the learning rate it used. Each access makes a copy.
    epochs : list of Epoch
        The same by epoch: ``history.epochs[-1].loss`` is ``history.loss[-1]``. Each access makes a copy.
    interrupted : bool
        Whether Ctrl-C ended the last ``fit``.

    Notes
    -----
    ``len(history)`` is the number of epochs, a partial one included; every list has that length. A step takes 24 bytes.

    The training loss of an epoch comes from weights that change from batch to batch, and from dropout: early in a
    training it is usually higher than the validation loss, without anything being wrong.

    Examples
    --------
    >>> from cnet.training import History
    >>> history = History()
    >>> for loss in (2.5, 1.5):
    ...     history.add_step(loss, accuracy=0.5, learning_rate=0.1)
    >>> history.add_epoch(loss=2.0, accuracy=0.5, seconds=0.5, images=128, validation_loss=1.0)
    >>> history
    History(epochs=1, steps=2, loss=2, accuracy=0.5, validation_loss=1)
    >>> history.loss, history.images_per_second, history.step_loss
    ([2.0], [256.0], array([2.5, 1.5]))
    >>> history.epochs[-1].validation_loss
    1.0
    """

    def __init__(self) -> None:
        self.loss: list[float] = []
        self.accuracy: list[float] = []
        self.validation_loss: list[float] = []
        self.validation_accuracy: list[float] = []
        self.learning_rate: list[float] = []
        self.seconds: list[float] = []
        self.images_per_second: list[float] = []
        self.partial: list[bool] = []
        self.epoch_ends: list[int] = []
        self.interrupted = False
        # Eight bytes a number, where a list would take 32: a long training has millions of steps.
        self._step_loss = array("d")
        self._step_accuracy = array("d")
        self._step_learning_rate = array("d")

    @property
    def epochs(self) -> list[Epoch]:
        """The epochs one by one, each with ``loss``, ``accuracy`` and so on: the rows to these columns."""
        return [Epoch(*row) for row in zip(*(getattr(self, name) for name in _EPOCH_COLUMNS), strict=True)]

    @property
    def steps(self) -> int:
        """The number of steps."""
        return len(self._step_loss)

    @property
    def step_loss(self) -> NDArray[np.float64]:
        """The loss of the batch of each step."""
        return np.array(self._step_loss)

    @property
    def step_accuracy(self) -> NDArray[np.float64]:
        """The accuracy on the batch of each step, in [0, 1]."""
        return np.array(self._step_accuracy)

    @property
    def step_learning_rate(self) -> NDArray[np.float64]:
        """The learning rate each step used."""
        return np.array(self._step_learning_rate)

    def add_step(self, loss: float, accuracy: float = math.nan, learning_rate: float = math.nan) -> None:
        """Record one optimizer step.

        Parameters
        ----------
        loss : float
            Mean loss of the batch.
        accuracy : float, default=NaN
            Fraction of the batch classified right, in [0, 1].
        learning_rate : float, default=NaN
            The rate this step used.
        """
        self._step_loss.append(loss)
        self._step_accuracy.append(accuracy)
        self._step_learning_rate.append(learning_rate)

    def add_epoch(
        self,
        loss: float,
        accuracy: float = math.nan,
        *,
        seconds: float,
        images: int,
        validation_loss: float = math.nan,
        validation_accuracy: float = math.nan,
        partial: bool = False,
    ) -> None:
        """Record an epoch: the steps added since the one before.

        Parameters
        ----------
        loss : float
            Mean loss over the training samples of the epoch.
        accuracy : float, default=NaN
            Fraction of them classified right, in [0, 1].
        seconds : float
            Time spent training, > 0, in seconds.
        images : int
            Training samples in that time, >= 0.
        validation_loss, validation_accuracy : float, default=NaN
            The same over the validation samples.
        partial : bool, default=False
            Whether the epoch ended before its last batch.

        Raises
        ------
        TypeError
            If ``seconds`` or ``images`` is not a number.
        ValueError
            If ``seconds`` or ``images`` is out of range.
        """
        seconds = _check.real("History.add_epoch", "seconds", seconds, 0, open_low=True)
        images = _check.integer("History.add_epoch", "images", images, 0)
        self.loss.append(loss)
        self.accuracy.append(accuracy)
        self.validation_loss.append(validation_loss)
        self.validation_accuracy.append(validation_accuracy)
        self.learning_rate.append(self._step_learning_rate[-1] if self.steps else math.nan)
        self.seconds.append(seconds)
        self.images_per_second.append(images / seconds)
        self.partial.append(partial)
        self.epoch_ends.append(self.steps)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain lists, numbers and booleans, which JSON can hold.

        Returns
        -------
        dict
            Every attribute by its name, lists copied. NaN and infinity become None: JSON has neither.

        Examples
        --------
        >>> import json
        >>> from cnet.training import History
        >>> history = History()
        >>> history.add_step(0.5)
        >>> json.dumps(history.to_dict()["step_loss"]), history.to_dict()["step_accuracy"]
        ('[0.5]', [None])
        """
        return {
            **{name: _plain(getattr(self, name)) for name in _EPOCH_COLUMNS[:-1]},
            "partial": list(self.partial),
            "epoch_ends": list(self.epoch_ends),
            **{name: _plain(getattr(self, f"_{name}")) for name in _STEP_COLUMNS},
            "interrupted": self.interrupted,
        }

    def __len__(self) -> int:
        """The number of epochs."""
        return len(self.loss)

    def __bool__(self) -> bool:
        """True: a history without epochs is still a history."""
        return True

    def __repr__(self) -> str:
        names = _EPOCH_COLUMNS[:4] if self.loss else ()
        last = [(name, float(getattr(self, name)[-1])) for name in names]
        measures = "".join(f", {name}={value:.4g}" for name, value in last if not math.isnan(value))
        interrupted = ", interrupted=True" if self.interrupted else ""
        return f"History(epochs={len(self)}, steps={self.steps}{measures}{interrupted})"


def _plain(column: list[float] | array[float]) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in map(float, column)]
