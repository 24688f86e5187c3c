"""What a Trainer measures of a model: loss, accuracy, outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnet import _check, metrics
from cnet._check import Float32Array
from cnet.data import DataLoader, Dataset
from cnet.layers import Layer

# Samples in a batch where nothing is learned: large enough for the kernels, small enough for the caches.
BATCH = 256

Options = Mapping[str, tuple[Any, Any]]

_MEASURING: Options = {"batch_size": (BATCH, BATCH)}


class Evaluation(NamedTuple):
    """How a model does on a dataset: what `Trainer.evaluate` returns.

    Parameters
    ----------
    loss : float
        Mean over the samples.
    accuracy : float
        Fraction of the samples classified right, in [0, 1]; NaN where the targets are not classes.

    Examples
    --------
    >>> from cnet.training import Evaluation
    >>> loss, accuracy = Evaluation(loss=0.25, accuracy=0.9)
    >>> f"{100 * accuracy:.1f} %"
    '90.0 %'
    """

    loss: float
    accuracy: float


class Sums:
    """The sums over the batches of an epoch; every sample weighs the same."""

    __slots__ = ("_hits", "_loss", "batches", "images")

    def __init__(self) -> None:
        self.batches = 0
        self.images = 0
        self._loss = 0.0
        self._hits = 0.0

    def add(self, loss: float, hits: float, images: int) -> None:
        self.batches += 1
        self.images += images
        self._loss += loss * images
        self._hits += hits

    @property
    def loss(self) -> float:
        return self._loss / self.images

    @property
    def accuracy(self) -> float:
        return self._hits / self.images


def evaluate(
    model: Layer,
    loss: Callable[[Any, Any], float],
    batches: DataLoader,
    where: str,
    before_batch: Callable[[], None] | None = None,
) -> Evaluation:
    """Measure a model on all batches; ``before_batch`` may raise to end it."""
    sums = Sums()
    with in_mode(model, False):
        for x, y in batches:
            if before_batch is not None:
                before_batch()
            try:
                output = model.forward(x)
                sums.add(loss(output, y), count_hits(loss, output, y), len(y))
            except (TypeError, ValueError) as error:
                raise located(f"{where}: batch {sums.batches + 1}", error) from error
    return Evaluation(sums.loss, sums.accuracy)


def count_hits(loss: object, output: Float32Array, y: NDArray[Any]) -> float:
    """How many samples of a batch are classified right; NaN where that has no meaning."""
    if output.ndim != 2:
        return math.nan
    if y.ndim == 1 and y.dtype.kind == "i":
        return metrics.hits(output, y)
    if y.shape == output.shape and hasattr(loss, "from_logits"):
        return int(np.count_nonzero(output.argmax(axis=1) == y.argmax(axis=1)))
    return math.nan


def outputs(model: Layer, x: Any, batch_size: int, subject: str) -> Float32Array:
    """What a model makes of all samples of an array or a Dataset, in evaluation mode."""
    if isinstance(x, DataLoader):
        raise TypeError(_check.message(subject, "x is a DataLoader", "an array or Dataset", "Pass loader.dataset."))
    if not isinstance(x, Dataset):
        array = _check.numeric(subject, "x", x)
        if array.ndim < 2:
            expected = "(N, ...), samples along the first axis"
            raise _check.shape_error(subject, "x", array.shape, expected, "Pass x[None] for a single sample.")
        x = Dataset(array, np.zeros(len(array), np.int64))
    result: Float32Array | None = None
    start = 0
    with in_mode(model, False):
        for samples, _ in loader(subject, "x", x, {"batch_size": (batch_size, BATCH)}):
            output = model.forward(samples)
            if output.ndim != 2:
                raise _check.shape_error(subject, "the model's output", output.shape, "(N, classes)")
            if result is None:
                result = np.empty((len(x), output.shape[1]), np.float32)
            result[start : start + len(output)] = output
            start += len(output)
    assert result is not None, "a loader without batches is refused"
    return result


def softmax(logits: Float32Array) -> Float32Array:
    """Probabilities, row by row."""
    # Subtracting the maximum changes nothing but the range: the largest exponential is 1 and cannot overflow.
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: Float32Array = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


def loader(subject: str, name: str, data: Any, options: Options = _MEASURING) -> DataLoader:
    """Make batches of ``data``; ``options`` are arguments for the loader, each with its default."""
    if isinstance(data, DataLoader):
        for option, (value, default) in options.items():
            if value != default:
                received = f"{option} is {value!r}, but {name} is a DataLoader and has its own"
                raise ValueError(_check.message(subject, received, remedy=f"Give {option} to the DataLoader only."))
        batches = data
    elif isinstance(data, Dataset) or (isinstance(data, (tuple, list)) and len(data) == 2):
        batches = DataLoader(data, **{option: value for option, (value, _) in options.items()})  # type: ignore[arg-type]
    else:
        expected = "a Dataset, a DataLoader or a pair (x, y) of arrays"
        raise TypeError(_check.message(subject, f"{name} is a {type(data).__name__}", expected))
    if len(batches.dataset) == 0:
        raise ValueError(_check.message(subject, f"{name} has no samples", "at least one"))
    if len(batches) == 0:
        received = (
            f"{name} has {len(batches.dataset)} samples and drops the last batch unless it has {batches.batch_size}"
        )
        raise ValueError(_check.message(subject, received, "at least one batch", "Lower the batch size."))
    return batches


@contextmanager
def in_mode(model: Layer, training: bool) -> Iterator[None]:
    """Run a model in a mode, then put each of its layers back into the one it had."""
    before = [(layer, layer.training) for _, layer in model.named_layers()]
    model.train(training)
    try:
        yield
    finally:
        for layer, mode in before:
            layer.training = mode


def located(where: str, error: Exception) -> Exception:
    """The same kind of error, saying where it came up."""
    kinds = (TypeError, ValueError, FloatingPointError)
    kind = next(kind for kind in kinds if isinstance(error, kind))
    return kind(_check.message(where, str(error).rstrip(".")))
