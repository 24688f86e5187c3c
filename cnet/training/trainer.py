"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cnet import _check
from cnet._check import Float32Array
from cnet.data import DataLoader, Dataset
from cnet.layers import Layer
from cnet.training import _evaluation
from cnet.training._evaluation import Evaluation, Sums, count_hits, in_mode, located
from cnet.training._interruption import Interruption, held_back
from cnet.training.history import History
from cnet.training.progress import Progress, choose, epoch_line

__all__ = ["Trainer"]

Data: TypeAlias = "Dataset | DataLoader | tuple[ArrayLike, ArrayLike]"

_TRAINING_BATCH = 64


class Loss(Protocol):
    """What a Trainer needs of a loss."""

    def __call__(self, x: Any, target: Any, /) -> float: ...
    def backward(self) -> Float32Array: ...


class Optimizer(Protocol):
    """What a Trainer needs of an optimizer."""

    @property
    def param_groups(self) -> Sequence[Mapping[str, Any]]: ...
    def step(self) -> None: ...
    def zero_grad(self) -> None: ...


class Scheduler(Protocol):
    """What a Trainer needs of a scheduler."""

    @property
    def interval(self) -> str: ...
    def step(self) -> None: ...


class Trainer:
    r"""Trains a model, and measures what it has learned.

    One step is what it would be by hand::

        loss = criterion(model(x), y)
        optimizer.zero_grad()
        model.backward(criterion.backward(), input_grad=False)
        optimizer.step()
        scheduler.step()                  # if its interval is "step", else after each epoch

    Parameters
    ----------
    model : Layer
        Usually a Sequential. It may be unbuilt: the first batch builds it.
    loss : object
        A loss of `cnet.losses`, or anything with ``loss(output, target)``, the mean over a batch, and ``backward()``.
    optimizer : object
        An optimizer over parameters of ``model``, or anything with ``param_groups``, ``step()`` and ``zero_grad()``.
    scheduler : object or None, default=None
        A scheduler of this optimizer, or anything with ``step()`` and an ``interval``, ``"step"`` or ``"epoch"``.

    Attributes
    ----------
    model, loss, optimizer, scheduler : object
        As given.
    history : History
        All that was trained so far; every :meth:`fit` continues it.

    Raises
    ------
    TypeError
        If an argument is not what it should be.
    ValueError
        If the optimizer has no parameter of the model, or the scheduler drives another optimizer.

    See Also
    --------
    History : What ``fit`` returns.
    save_weights : Keeps what was learned.

    Notes
    -----
    ``fit`` puts every layer in training mode and the other methods put it in evaluation mode; in the end, also after an
    error, each is back in the mode it had.

    Accuracy counts a sample as right where the largest output, the first one of several, is at the index of its class.
    It is known where targets are class indices, or rows for a loss with ``from_logits``; elsewhere it is NaN.

    A Trainer uses its model in one thread at a time.

    Examples
    --------
    Which of two numbers is larger:

    >>> import numpy as np
    >>> from cnet import layers, losses, optimizers
    >>> from cnet.random import manual_seed
    >>> from cnet.training import Trainer
    >>> manual_seed(0)
    >>> x = np.random.default_rng(0).normal(size=(200, 2))
    >>> y = (x[:, 1] > x[:, 0]).astype(int)
    >>> model = layers.Sequential(layers.Linear(2, 2))
    >>> optimizer = optimizers.SGD(model.parameters(), lr=0.5, momentum=0.9)
    >>> trainer = Trainer(model, losses.CrossEntropyLoss(), optimizer)
    >>> history = trainer.fit((x, y), epochs=5, progress=False)
    >>> len(history), history.steps
    (5, 20)
    >>> trainer.evaluate((x, y)).accuracy > 0.95
    True
    >>> trainer.predict([[1.0, 2.0], [3.0, -3.0]])
    array([1, 0])
    """

    def __init__(self, model: Layer, loss: Loss, optimizer: Optimizer, scheduler: Scheduler | None = None) -> None:
        if not isinstance(model, Layer):
            raise TypeError(_check.message("Trainer", f"model is a {_kind(model)}", "a Layer, such as Sequential"))
        _check_has("loss", loss, ("__call__", "backward"))
        _check_has("optimizer", optimizer, ("param_groups", "step", "zero_grad"))
        own = {id(parameter) for parameter in model.parameters()}
        if not any(id(parameter) in own for group in optimizer.param_groups for parameter in group["params"]):
            received = "optimizer has no parameter of the model"
            raise ValueError(_check.message("Trainer", received, remedy="Create it with model.parameters()."))
        if scheduler is not None:
            _check_has("scheduler", scheduler, ("step", "interval"))
            _check.choice("Trainer", "scheduler.interval", scheduler.interval, ("epoch", "step"))
            if getattr(scheduler, "optimizer", optimizer) is not optimizer:
                raise ValueError(_check.message("Trainer", "scheduler drives another optimizer", "the one given"))
        self.model = model
        self.loss = loss
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.history = History()

    def fit(
        self,
        train: Data,
        epochs: int,
        validation: Data | None = None,
        batch_size: int = _TRAINING_BATCH,
        shuffle: bool = True,
        seed: int | None = None,
        progress: bool | None = None,
    ) -> History:
        """Train for some epochs.

        Parameters
        ----------
        train : Dataset, DataLoader or (x, y) pair of array_like
            What to learn. A DataLoader makes its own batches, in its own order.
        epochs : int
            Passes over ``train``, >= 0.
        validation : Dataset, DataLoader, (x, y) pair of array_like or None, default=None
            What to :meth:`evaluate` after each epoch.
        batch_size : int, default=64
            Training samples in a batch, >= 1. The last batch of an epoch holds what is left.
        shuffle : bool, default=True
            Whether each epoch has its own random order. Otherwise it is the order of ``train``.
        seed : int or None, default=None
            Seeds the orders, >= 0: that of epoch e of the history is a function of ``(seed, e)``. None takes a seed
            from `cnet.random`, so that `cnet.manual_seed` fixes it.
        progress : bool or None, default=None
            True draws a bar with tqdm, False shows nothing. None draws the bar where the standard error is a terminal
            and tqdm is installed. With or without the bar, each epoch then prints one line.

        Returns
        -------
        History
            ``trainer.history``: these epochs, after those of earlier calls.

        Raises
        ------
        TypeError
            If an argument or the data have the wrong type.
        ValueError
            If an argument is out of range, ``train`` gives no batch, the scheduler ends before the last step, or
            samples or labels do not suit the model or the loss; the message then names the batch.
        FloatingPointError
            If the loss is infinite or NaN. The weights are those before that batch.
        ImportError
            If ``progress`` is True and tqdm is not installed.

        Notes
        -----
        Ctrl-C ends the training after the step under way: ``fit`` returns as usual, with ``history.interrupted`` True
        and, if the epoch had begun, a partial epoch. A second Ctrl-C does not wait. The step it hits may have updated a
        part of the weights; all of them stay finite and usable.

        An error leaves the epoch in the history, as partial, and the weights as the last complete step left them.

        A scheduler steps after each step or each epoch, as its ``interval`` says; a partial epoch does not count.
        """
        epochs = _check.integer("Trainer.fit", "epochs", epochs, 0)
        options = {"batch_size": (batch_size, _TRAINING_BATCH), "shuffle": (shuffle, True), "seed": (seed, None)}
        batches = _evaluation.loader("Trainer.fit", "train", train, options)
        held_out = None if validation is None else _evaluation.loader("Trainer.fit", "validation", validation)
        display = choose(progress)
        self._check_schedule(epochs * len(batches))
        self.history.interrupted = False
        if epochs == 0:
            return self.history
        if batches is not train:
            # Continues the orders of earlier calls with this seed.
            batches.set_epoch(len(self.history))
        last = len(self.history) + epochs
        with in_mode(self.model, True), held_back() as interruption:
            try:
                for _ in range(epochs):
                    self._fit_epoch(batches, held_out, last, display, interruption)
                    if interruption.requested:
                        break
            except KeyboardInterrupt:
                interruption.requested = True
            finally:
                display.close()
        self.history.interrupted = interruption.requested
        return self.history

    def evaluate(self, data: Data, batch_size: int = _evaluation.BATCH) -> Evaluation:
        """Measure the model on a dataset, in evaluation mode.

        Parameters
        ----------
        data : Dataset, DataLoader or (x, y) pair of array_like
            Samples and targets. A DataLoader makes its own batches, and counts them as an epoch.
        batch_size : int, default=256
            Samples in a batch, >= 1.

        Returns
        -------
        Evaluation
            ``(loss, accuracy)``, over all samples. An infinite or NaN loss is returned as it is.

        Raises
        ------
        TypeError
            If an argument or the data have the wrong type.
        ValueError
            If there are no samples, or samples or labels do not suit the model or the loss.
        """
        batches = _evaluation.loader("Trainer.evaluate", "data", data, {"batch_size": (batch_size, _evaluation.BATCH)})
        return _evaluation.evaluate(self.model, self.loss, batches, "Trainer.evaluate")

    def predict(self, x: ArrayLike | Dataset, batch_size: int = _evaluation.BATCH) -> NDArray[np.int64]:
        """Tell the class of each sample: the index of the largest output, the first one of several.

        Parameters
        ----------
        x : array_like or Dataset
            Samples, along the first axis. An array is treated as ``Dataset(x, ...)`` would be: uint8 is divided by 255,
            other dtypes are taken as they are. A Dataset is normalised as in training; its labels are not looked at.
        batch_size : int, default=256
            Samples in a batch, >= 1.

        Returns
        -------
        ndarray of int64, shape (N,)
            Class indices.

        Raises
        ------
        TypeError
            If an argument has the wrong type.
        ValueError
            If there are no samples, they do not suit the model, or its output is not ``(N, classes)``.
        """
        outputs = _evaluation.outputs(self.model, x, batch_size, "Trainer.predict")
        classes: NDArray[np.int64] = outputs.argmax(axis=1).astype(np.int64)
        return classes

    def predict_proba(self, x: ArrayLike | Dataset, batch_size: int = _evaluation.BATCH) -> Float32Array:
        r"""Tell the probability of each class for each sample.

        The softmax of the outputs, :math:`e^{z_k} / \sum_j e^{z_j}`, or the outputs as they are where the loss was made
        with ``from_logits=False``.

        Parameters
        ----------
        x : array_like or Dataset
            Samples, as for :meth:`predict`.
        batch_size : int, default=256
            Samples in a batch, >= 1.

        Returns
        -------
        ndarray of float32, shape (N, classes)
            Probabilities; each row has the sum 1, up to rounding.

        Raises
        ------
        TypeError
            If an argument has the wrong type, or the loss has no ``from_logits`` and so does not tell what outputs are.
        ValueError
            If there are no samples, they do not suit the model, or its output is not ``(N, classes)``.
        """
        subject = "Trainer.predict_proba"
        from_logits = getattr(self.loss, "from_logits", None)
        if from_logits is None:
            received = f"{_kind(self.loss)} has no attribute from_logits"
            remedy = "Call trainer.predict, or the model itself for its outputs."
            raise TypeError(_check.message(subject, received, "a loss of a classifier", remedy))
        outputs = _evaluation.outputs(self.model, x, batch_size, subject)
        return _evaluation.softmax(outputs) if from_logits else outputs

    def __repr__(self) -> str:
        scheduler = "" if self.scheduler is None else f", {_kind(self.scheduler)}"
        return f"Trainer({_kind(self.model)}, {_kind(self.loss)}, {_kind(self.optimizer)}{scheduler}, {self.history!r})"

    def _fit_epoch(
        self,
        batches: DataLoader,
        held_out: DataLoader | None,
        last: int,
        display: Progress,
        interruption: Interruption,
    ) -> None:
        """Train on every batch once and validate; the history gets what was done, however it ends."""
        epoch, sums = len(self.history) + 1, Sums()
        display.begin(epoch, last, len(batches))
        try:
            if not self._run_batches(batches, epoch, sums, display, interruption):
                return
            if self.scheduler is not None and self.scheduler.interval == "epoch":
                self.scheduler.step()
            if held_out is not None:
                display.validating()
                where = f"Trainer.fit: epoch {epoch}, validation"
                measured = _evaluation.evaluate(self.model, self.loss, held_out, where, interruption.check)
                self.history.validation_loss[-1], self.history.validation_accuracy[-1] = measured
        finally:
            if sums.batches:
                display.end(epoch_line(self.history, last, len(batches)))

    def _run_batches(
        self, batches: DataLoader, epoch: int, sums: Sums, display: Progress, interruption: Interruption
    ) -> bool:
        """Take a step on each batch until Ctrl-C; return whether all were taken."""
        complete = False
        start = time.perf_counter()
        try:
            for batch, (x, y) in enumerate(batches, 1):
                if interruption.requested:
                    break
                try:
                    self._step(x, y, sums)
                except (TypeError, ValueError, FloatingPointError) as error:
                    raise located(f"Trainer.fit: epoch {epoch}, batch {batch}", error) from error
                now = time.perf_counter()
                if now >= display.due:
                    display.show(batch, sums.loss, sums.accuracy, sums.images / (now - start))
            else:
                complete = True
        finally:
            if sums.batches:
                # A clock too coarse for an epoch must not make its speed infinite.
                seconds = max(time.perf_counter() - start, 1e-9)
                self.history.add_epoch(
                    sums.loss, sums.accuracy, seconds=seconds, images=sums.images, partial=not complete
                )
        return complete

    def _step(self, x: Float32Array, y: NDArray[Any], sums: Sums) -> None:
        """One step of training: forward, loss, backward, update, and the notes of it."""
        output = self.model.forward(x)
        loss = self.loss(output, y)
        if not math.isfinite(loss):
            remedy = "Lower the learning rate, and look for NaN in the samples."
            raise FloatingPointError(_check.message(_kind(self.loss), f"the loss is {loss}", "a finite number", remedy))
        self.optimizer.zero_grad()
        self.model.backward(self.loss.backward(), input_grad=False)
        self.optimizer.step()

        hits = count_hits(self.loss, output, y)
        sums.add(loss, hits, len(y))
        self.history.add_step(loss, hits / len(y), self.optimizer.param_groups[0]["lr"])
        if self.scheduler is not None and self.scheduler.interval == "step":
            self.scheduler.step()

    def _check_schedule(self, steps: int) -> None:
        """Refuse now what would fail at the end of a long training."""
        total = getattr(self.scheduler, "total_steps", None)
        if total is None or self.scheduler is None or self.scheduler.interval != "step":
            return
        left = total - getattr(self.scheduler, "last_epoch", 0)
        if steps > left:
            received = f"{steps:,} steps are to come, but {left:,} are left of the {total:,} of {_kind(self.scheduler)}"
            remedy = "Make the scheduler with total_steps = epochs * batches."
            raise ValueError(_check.message("Trainer.fit", received, remedy=remedy))


def _check_has(name: str, value: object, attributes: Sequence[str]) -> None:
    if isinstance(value, type):
        received = f"{name} is the class {value.__name__}"
        raise TypeError(_check.message("Trainer", received, "an instance", f"Pass {value.__name__}(...)."))
    if not all(hasattr(value, attribute) for attribute in attributes):
        expected = f"something with {' and '.join(attributes)}"
        raise TypeError(_check.message("Trainer", f"{name} is a {_kind(value)}", expected))


def _kind(value: object) -> str:
    return type(value).__name__
