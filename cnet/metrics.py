r"""Measures of a classifier, for whole arrays and for streams of batches.

The order of arguments is scikit-learn's: the truth first, the prediction second. Either may be

- class indices, integers (or booleans, for two classes) of shape (N,), or
- one row for each sample, shape (N, C) with C >= 2: for the prediction scores, logits or probabilities; for the target
  one-hot rows or class probabilities. The class is the column of the row's maximum, the first one of several.

A prediction in scores therefore goes in as the model returns it. Probabilities of one class, shape (N,) or (N, 1), need
a threshold, which is the caller's choice: ``(probability > 0.5).astype(int)``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cnet import _check
from cnet.kernels import loss

__all__ = ["Accuracy", "ConfusionMatrix", "accuracy", "confusion_matrix"]

_Indices = NDArray[np.int64]

# The int64 matrix of this many classes takes 8 GiB: a larger label is a mistake rather than a class.
_MOST_CLASSES = 2**15


def accuracy(target: ArrayLike, prediction: ArrayLike) -> float:
    r"""Return the fraction of samples whose class is predicted.

    .. math:: \frac1N \sum_{i=1}^N [\hat y_i = y_i]

    Parameters
    ----------
    target : array_like
        The truth: class indices (N,), integer, ``>= 0``, or one-hot or probability rows (N, C).
    prediction : array_like
        Class indices (N,), integer, ``>= 0``, or scores (N, C), any real dtype.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    TypeError
        If class indices are not integers.
    ValueError
        If an array is empty, a shape is not one of the above, lengths or classes differ, an index is out of range,
        a score is NaN or a row of the target is no distribution.

    Notes
    -----
    Of equal scores the first wins. An infinite score counts as a number.

    References
    ----------
    scikit-learn, ``sklearn.metrics.accuracy_score``.

    Examples
    --------
    >>> from cnet.metrics import accuracy
    >>> accuracy([0, 1, 2, 2], [0, 1, 1, 2])
    0.75
    >>> accuracy([1, 0], [[0.2, 0.8], [0.4, 0.6]])
    0.5
    """
    truth, guess, _ = _labels("accuracy", target, prediction)
    return int(np.count_nonzero(truth == guess)) / truth.size


def confusion_matrix(target: ArrayLike, prediction: ArrayLike, classes: int | None = None) -> NDArray[np.int64]:
    r"""Count the samples of each true class by the class predicted.

    .. math:: M_{jk} = \sum_{i=1}^N [y_i = j] \, [\hat y_i = k]

    Parameters
    ----------
    target : array_like
        The truth: class indices (N,), integer, ``>= 0``, or one-hot or probability rows (N, C).
    prediction : array_like
        Class indices (N,), integer, ``>= 0``, or scores (N, C), any real dtype.
    classes : int, optional
        Number of classes, in [1, 32768]. Default: C if an argument has it, else the largest index plus one.

    Returns
    -------
    ndarray of int64, shape (classes, classes)
        Rows are true classes, columns predicted ones.

    Raises
    ------
    TypeError
        If class indices are not integers.
    ValueError
        If an array is empty, a shape is not one of the above, lengths or classes differ, an index is out of range,
        a score is NaN or a row of the target is no distribution.

    Notes
    -----
    The trace is the number of correct predictions. Divided by the sums of its rows, the diagonal is the recall of each
    class; by the sums of its columns, the precision.

    References
    ----------
    scikit-learn, ``sklearn.metrics.confusion_matrix``, which has the same layout.

    Examples
    --------
    >>> from cnet.metrics import confusion_matrix
    >>> confusion_matrix([0, 1, 2, 2], [0, 1, 1, 2])
    array([[1, 0, 0],
           [0, 1, 0],
           [0, 1, 1]])
    """
    subject = "confusion_matrix"
    return _count(subject, target, prediction, _checked_classes(subject, classes))


class Accuracy:
    r"""Accuracy over a stream of batches: all samples weigh the same, however they are batched.

    .. math:: \frac{\sum_b correct_b}{\sum_b N_b}

    Notes
    -----
    The mean of the accuracies of batches is another number, if the last batch is shorter. An update that raises leaves
    the counts as they were.

    References
    ----------
    scikit-learn, ``sklearn.metrics.accuracy_score``.

    Examples
    --------
    >>> from cnet.metrics import Accuracy
    >>> metric = Accuracy()
    >>> metric.update([0, 1, 2], [0, 1, 1])
    >>> metric.update([2], [[0.1, 0.2, 0.7]])
    >>> metric.compute()
    0.75
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self._correct = 0
        self._total = 0

    def update(self, target: ArrayLike, prediction: ArrayLike) -> None:
        """Count a batch.

        Parameters
        ----------
        target, prediction : array_like
            As for :func:`accuracy`.

        Raises
        ------
        TypeError, ValueError
            As :func:`accuracy` does.
        """
        truth, guess, _ = _labels("Accuracy", target, prediction)
        self._correct += int(np.count_nonzero(truth == guess))
        self._total += truth.size

    def compute(self) -> float:
        """Return the accuracy over all batches since the last reset.

        Returns
        -------
        float
            In [0, 1].

        Raises
        ------
        RuntimeError
            If there was no batch.
        """
        if not self._total:
            raise RuntimeError(_check.message("Accuracy", "compute() before any batch", remedy="Call update() first."))
        return self._correct / self._total

    def __repr__(self) -> str:
        return f"Accuracy(correct={self._correct}, total={self._total})"


class ConfusionMatrix:
    r"""Confusion matrix over a stream of batches.

    .. math:: M_{jk} = \sum_b M^{(b)}_{jk}

    Parameters
    ----------
    classes : int, optional
        Number of classes, in [1, 32768]. Default: as many as the batches show; the matrix grows when a batch has more.

    Raises
    ------
    TypeError
        If ``classes`` is not an integer.
    ValueError
        If ``classes`` is out of range.

    Notes
    -----
    An update that raises leaves the counts as they were.

    References
    ----------
    scikit-learn, ``sklearn.metrics.confusion_matrix``, which has the same layout.

    Examples
    --------
    >>> from cnet.metrics import ConfusionMatrix
    >>> metric = ConfusionMatrix(classes=3)
    >>> metric.update([0, 1, 2], [0, 1, 1])
    >>> metric.update([2], [[0.1, 0.2, 0.7]])
    >>> metric.compute()
    array([[1, 0, 0],
           [0, 1, 0],
           [0, 1, 1]])
    """

    def __init__(self, classes: int | None = None) -> None:
        self.classes = _checked_classes("ConfusionMatrix", classes)
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self._counts: NDArray[np.int64] | None = None

    def update(self, target: ArrayLike, prediction: ArrayLike) -> None:
        """Count a batch.

        Parameters
        ----------
        target, prediction : array_like
            As for :func:`confusion_matrix`.

        Raises
        ------
        TypeError, ValueError
            As :func:`confusion_matrix` does.
        """
        counts = _count("ConfusionMatrix", target, prediction, self.classes)
        if self._counts is None:
            self._counts = counts
            return
        smaller, larger = sorted((self._counts, counts), key=len)
        larger[: len(smaller), : len(smaller)] += smaller
        self._counts = larger

    def compute(self) -> NDArray[np.int64]:
        """Return the counts over all batches since the last reset.

        Returns
        -------
        ndarray of int64, shape (classes, classes)
            A copy. Rows are true classes, columns predicted ones.

        Raises
        ------
        RuntimeError
            If there was no batch.
        """
        if self._counts is None:
            received = "compute() before any batch"
            raise RuntimeError(_check.message("ConfusionMatrix", received, remedy="Call update() first."))
        return np.array(self._counts)

    def __repr__(self) -> str:
        total = 0 if self._counts is None else int(self._counts.sum())
        return f"ConfusionMatrix(classes={self.classes}, total={total})"


def hits(scores: NDArray[Any], labels: NDArray[Any]) -> int:
    """Count the rows whose largest score is at the label, unchecked: what a training loop asks of every batch."""
    if scores.dtype == np.float32 and scores.flags.c_contiguous:
        return loss.count_hits(scores, np.ascontiguousarray(labels, dtype=np.int64))
    return int(np.count_nonzero(scores.argmax(axis=1) == labels))


def _checked_classes(subject: str, classes: int | None) -> int | None:
    return None if classes is None else _check.integer(subject, "classes", classes, 1, _MOST_CLASSES)


def _count(subject: str, target: ArrayLike, prediction: ArrayLike, classes: int | None) -> NDArray[np.int64]:
    truth, guess, size = _labels(subject, target, prediction, classes)
    if size is None:
        size = 1 + int(max(truth.max(), guess.max()))
    if size > _MOST_CLASSES:
        received = f"the largest class is {size - 1}"
        raise ValueError(_check.message(subject, received, f"at most {_MOST_CLASSES} classes", "Renumber the labels."))
    counts = np.bincount(truth * size + guess, minlength=size * size).reshape(size, size)
    return np.asarray(counts, dtype=np.int64)


def _labels(
    subject: str, target: ArrayLike, prediction: ArrayLike, classes: int | None = None
) -> tuple[_Indices, _Indices, int | None]:
    """Return both as class indices of one length, and the number of classes where an argument tells it."""
    truth = _array(subject, "target", target)
    guess = _array(subject, "prediction", prediction)
    if len(truth) != len(guess):
        received = f"target has {len(truth)} samples, prediction {len(guess)}"
        raise ValueError(_check.message(subject, received, "equal lengths", "Pass the same batch to both."))
    for name, array in (("target", truth), ("prediction", guess)):
        if array.ndim == 2:
            if classes is not None and array.shape[1] != classes:
                raise _check.shape_error(subject, name, array.shape, f"({len(array)}, {classes})")
            classes = array.shape[1]
    return _classes_of(subject, "target", truth, classes), _classes_of(subject, "prediction", guess, classes), classes


def _array(subject: str, name: str, value: ArrayLike) -> NDArray[Any]:
    array = _check.numeric(subject, name, value)
    if array.ndim not in (1, 2) or (array.ndim == 2 and array.shape[1] == 1):
        remedy = ""
        if array.ndim == 2:
            remedy = f"Use {name}.ravel() for indices, ({name}.ravel() > 0.5).astype(int) for binary scores."
        elif array.ndim > 2:
            remedy = "Move the classes to the last axis and reshape to (-1, C)."
        raise _check.shape_error(subject, name, array.shape, "(N,) class indices or (N, C) rows, C >= 2", remedy)
    _check.not_empty(subject, name, array)
    return array


def _classes_of(subject: str, name: str, array: NDArray[Any], classes: int | None) -> _Indices:
    if array.ndim == 2:
        return _rows_to_classes(subject, name, array)
    if array.dtype.kind == "f":
        raise TypeError(
            _check.message(
                subject,
                f"{name} has shape {array.shape} and dtype {array.dtype}",
                "integer class indices, or scores of shape (N, C)",
                f"Use {name}.astype(int) for indices, ({name} > 0.5).astype(int) for binary scores.",
            )
        )
    low, high = int(array.min()), int(array.max())
    last = (2**63 if classes is None else classes) - 1
    if low < 0 or high > last:
        expected = "indices >= 0" if classes is None and low < 0 else f"indices in [0, {last}]"
        raise ValueError(_check.message(subject, f"{name} holds class {low if low < 0 else high}", expected))
    return array.astype(np.int64, copy=False)


def _rows_to_classes(subject: str, name: str, rows: NDArray[Any]) -> _Indices:
    winners: _Indices = rows.argmax(axis=1).astype(np.int64, copy=False)
    # argmax takes a NaN for the largest, so the winners are all that needs looking at.
    missing = np.isnan(rows[np.arange(len(rows)), winners])
    if missing.any():
        remedy = "The training may have diverged: lower the learning rate." if name == "prediction" else ""
        received = (
            f"{name} holds NaN in {np.count_nonzero(missing)} of {len(rows)} rows, first in row {missing.argmax()}"
        )
        raise ValueError(_check.message(subject, received, "numbers", remedy))
    if name == "target":
        # Rows with several ones, or none, would pass for one class silently.
        with np.errstate(invalid="ignore", over="ignore"):
            lowest, sums = rows.min(axis=1), rows.sum(axis=1, dtype=np.float64)
        improper = (lowest < 0) | ~(abs(sums - 1) <= 1e-3)
        if improper.any():
            row = int(improper.argmax())
            received = f"row {row} of target has minimum {float(lowest[row]):g} and sum {sums[row]:g}"
            remedy = "Targets of several labels a sample are not supported."
            raise ValueError(_check.message(subject, received, "one-hot or probability rows", remedy))
    return winners
