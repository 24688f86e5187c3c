"""Samples with their labels, kept as they are stored until a batch needs them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, SupportsIndex, TypeAlias, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cnet import _check

# One number for all elements, or one for each channel.
Statistic: TypeAlias = "float | Sequence[float]"


class Dataset:
    """Samples ``x`` and labels ``y`` of equal number, and how samples become float32.

    A dataset holds two arrays by reference. It never converts or copies ``x`` as a whole: pixels stay uint8, a quarter
    of the memory, until `to_float32` turns one batch of them into what a model takes. `DataLoader` does so for every
    batch it makes::

        float32 sample = (sample / unit - mean) / std        unit = 255 for uint8, else 1

    Parameters
    ----------
    x : array_like
        Samples along the first axis; images have shape (N, C, H, W). Any real dtype; uint8 means pixels, of which 255
        is full scale. An array is kept by reference: change it and the dataset changes.
    y : array_like
        One label, or one row of labels or targets, for each sample. Integers (and booleans) become int64; floats stay
        as they are here and become float32 in a batch.
    name : str, default=""
        What the dataset is called in its repr and in messages.
    normalise : (mean, std) pair, default=(0.0, 1.0)
        Subtracted, then divided by; in units of full scale for uint8 samples (mean 0.5 is the pixel 127.5), else in
        units of ``x``. Each is a finite number or a sequence with one number for each channel (axis 1); std > 0.
    classes : int or None, default=None
        Number of classes, > every label. None takes the highest label plus one where labels are integers, one for
        each sample.

    Attributes
    ----------
    x : ndarray of shape (N, ...)
        The samples.
    y : ndarray of shape (N, ...)
        The labels: int64, or a float dtype.
    name : str
        As given.
    normalise : tuple
        ``(mean, std)`` as given, each a float or a tuple of floats.
    classes : int or None
        The number of classes; None for targets which are no class labels.

    Raises
    ------
    TypeError
        If ``x`` or ``y`` is not real numbers, or another argument has the wrong type.
    ValueError
        If the numbers of samples and labels differ, ``normalise`` fits neither a number nor the channels, its std is
        not above zero, or a label is not below ``classes``.

    See Also
    --------
    DataLoader : Batches of a dataset.
    mnist : Two datasets of handwritten digits.

    Notes
    -----
    An integer index gives one pair ``(x[i], y[i])`` as stored. A slice gives a dataset of views, which shares memory
    with this one. An array or a list of indices, or a boolean mask, gives a dataset of copies of the samples it picks.
    Each keeps the name, the normalisation and the number of classes. Indexing never converts samples.

    Examples
    --------
    >>> import numpy as np
    >>> from cnet.data import Dataset
    >>> pixels = np.arange(0, 240, 10, dtype=np.uint8).reshape(6, 1, 2, 2)
    >>> dataset = Dataset(pixels, [0, 1, 2, 0, 1, 2], name="squares")
    >>> dataset
    Dataset('squares', 6 samples of shape (1, 2, 2) uint8, 3 classes)
    >>> sample, label = dataset[1]
    >>> sample.tolist(), int(label)
    ([[[40, 50], [60, 70]]], 1)
    >>> dataset[:4], np.shares_memory(dataset[:4].x, pixels)
    (Dataset('squares', 4 samples of shape (1, 2, 2) uint8, 3 classes), True)
    >>> dataset[dataset.y != 0].y
    array([1, 2, 1, 2])
    """

    __slots__ = ("_classes", "_mean", "_name", "_offset", "_scale", "_std", "_x", "_y")

    def __init__(
        self,
        x: ArrayLike,
        y: ArrayLike,
        name: str = "",
        *,
        normalise: tuple[Statistic, Statistic] = (0.0, 1.0),
        classes: int | None = None,
    ) -> None:
        if not isinstance(name, str):
            raise TypeError(_check.message("Dataset", f"name is {name!r}", "a str"))
        self._name = name
        # asarray sheds subclasses such as memmap without a copy: their indexing costs more and returns more of them.
        self._x = np.asarray(_check.numeric("Dataset", "x", x))
        self._y = _as_labels(y)
        for letter, array in (("x", self._x), ("y", self._y)):
            if array.ndim == 0:
                raise _check.shape_error("Dataset", letter, (), "(N, ...)", f"Make {letter} an array with N rows.")
        if len(self._x) != len(self._y):
            expected = f"({len(self._x)}, ...), one label for each of the samples x"
            raise _check.shape_error("Dataset", "y", self._y.shape, expected)
        if not isinstance(normalise, (tuple, list)) or len(normalise) != 2:
            raise TypeError(_check.message("Dataset", f"normalise is {normalise!r}", "a pair (mean, std)"))
        self._mean = _as_statistic("mean", normalise[0], self._x)
        self._std = _as_statistic("std", normalise[1], self._x, above=0.0)
        unit = 255.0 if self._x.dtype == np.uint8 else 1.0
        self._offset = self._per_channel(unit * np.asarray(self._mean, dtype=np.float64), idle=0.0)
        self._scale = self._per_channel(1.0 / (unit * np.asarray(self._std, dtype=np.float64)), idle=1.0)
        self._classes = self._count_classes(classes)

    @property
    def x(self) -> NDArray[Any]:
        """The samples, along the first axis."""
        return self._x

    @property
    def y(self) -> NDArray[Any]:
        """The labels, as many as samples."""
        return self._y

    @property
    def name(self) -> str:
        """What the dataset is called."""
        return self._name

    @property
    def normalise(self) -> tuple[float | tuple[float, ...], float | tuple[float, ...]]:
        """The pair ``(mean, std)``."""
        return self._mean, self._std

    @property
    def classes(self) -> int | None:
        """The number of classes, or None where the labels are targets."""
        return self._classes

    def to_float32(self, samples: NDArray[Any], out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Convert stored samples to normalised float32.

        Parameters
        ----------
        samples : ndarray of shape (n, ...)
            Samples as they lie in ``x``: of its dtype, and of its shape but for their number.
        out : ndarray of shape (n, ...), float32, or None, default=None
            Where to write the result; ``samples`` itself will do where that is float32. None makes a new array.

        Returns
        -------
        ndarray of shape (n, ...), float32
            ``(samples / unit - mean) / std``; ``out`` where that was given.

        Raises
        ------
        TypeError
            If ``samples`` or ``out`` has another dtype.
        ValueError
            If ``samples`` or ``out`` has another shape.

        Notes
        -----
        Computed as ``(samples - unit * mean) * (1 / (unit * std))``, both factors rounded once from float64: the result
        is within 4 units in the last place of the larger of ``samples / (unit * std)`` and ``mean / std``.

        Examples
        --------
        >>> import numpy as np
        >>> from cnet.data import Dataset
        >>> pixels = np.array([[0, 255]], dtype=np.uint8)
        >>> Dataset(pixels, [0]).to_float32(pixels)
        array([[0., 1.]], dtype=float32)
        >>> Dataset(pixels, [0], normalise=(0.5, 0.25)).to_float32(pixels)
        array([[-2.,  2.]], dtype=float32)
        """
        samples = _check.numeric("Dataset.to_float32", "samples", samples)
        if samples.dtype != self._x.dtype:
            received = f"samples has dtype {samples.dtype}"
            raise TypeError(_check.message("Dataset.to_float32", received, f"{self._x.dtype}, as x"))
        if samples.shape[1:] != self._x.shape[1:] or samples.ndim == 0:
            expected = f"(n, ...) with samples of shape {self._x.shape[1:]}"
            raise _check.shape_error("Dataset.to_float32", "samples", samples.shape, expected)
        if out is None:
            out = np.empty(samples.shape, np.float32)
        elif not isinstance(out, np.ndarray) or out.dtype != np.float32:
            received = f"out has dtype {out.dtype}" if isinstance(out, np.ndarray) else f"out is a {type(out).__name__}"
            raise TypeError(_check.message("Dataset.to_float32", received, "a float32 array"))
        elif out.shape != samples.shape:
            raise _check.shape_error("Dataset.to_float32", "out", out.shape, f"{samples.shape}, as samples")
        # Convert first, then work in place: in cache that is faster than one ufunc call of mixed dtypes, which casts
        # through a small buffer.
        if out is not samples:
            np.copyto(out, samples, casting="same_kind")
        if self._offset is not None:
            np.subtract(out, self._offset, out=out)
        if self._scale is not None:
            np.multiply(out, self._scale, out=out)
        return out

    def __len__(self) -> int:
        """The number of samples."""
        return len(self._x)

    @overload
    def __getitem__(self, index: int | np.integer[Any]) -> tuple[NDArray[Any], Any]: ...

    @overload
    def __getitem__(self, index: slice | list[int] | NDArray[Any]) -> Dataset: ...

    def __getitem__(self, index: Any) -> tuple[NDArray[Any], Any] | Dataset:
        """One pair for an integer, else a dataset; see Notes of the class."""
        if isinstance(index, slice):
            return self._subset(index)
        if isinstance(index, SupportsIndex) and not isinstance(index, (bool, np.bool_, np.ndarray)):
            position = _check.integer("Dataset", "index", index)
            if not -len(self) <= position < len(self):
                # IndexError, not ValueError: this is how a for loop over the dataset learns of its end.
                raise IndexError(_check.message("Dataset", f"index is {position}", self._index_range()))
            return self._x[position], self._y[position]
        return self._subset(self._as_indices(index))

    def __repr__(self) -> str:
        name = f"{self._name!r}, " if self._name else ""
        classes = "" if self._classes is None else f", {self._classes} classes"
        return f"Dataset({name}{len(self):,} samples of shape {self._x.shape[1:]} {self._x.dtype}{classes})"

    def _subset(self, index: slice | NDArray[Any]) -> Dataset:
        return Dataset(
            self._x[index], self._y[index], self._name, normalise=(self._mean, self._std), classes=self._classes
        )

    def _as_indices(self, index: Any) -> NDArray[Any]:
        expected = "an integer, a slice, a list or an array of integers, or a boolean mask"
        if not isinstance(index, (list, np.ndarray)):
            raise TypeError(_check.message("Dataset", f"index is {index!r}", expected))
        indices = _check.numeric("Dataset", "index", index)
        if indices.shape == (0,) and isinstance(index, list):
            # NumPy takes an empty list for float64.
            indices = indices.astype(np.intp)
        if indices.dtype.kind == "f":
            raise TypeError(_check.message("Dataset", f"index has dtype {indices.dtype}", expected))
        if indices.ndim != 1:
            raise _check.shape_error("Dataset", "index", indices.shape, "one dimension")
        if indices.dtype.kind == "b":
            if len(indices) != len(self):
                raise _check.shape_error("Dataset", "index", indices.shape, f"({len(self)},) for a boolean mask")
        elif len(indices):
            for extreme in (int(indices.min()), int(indices.max())):
                if not -len(self) <= extreme < len(self):
                    raise IndexError(_check.message("Dataset", f"index holds {extreme}", self._index_range()))
        return indices

    def _index_range(self) -> str:
        return f"integers from {-len(self)} to {len(self) - 1}" if len(self) else "none, as the dataset is empty"

    def _count_classes(self, classes: int | None) -> int | None:
        labels_are_classes = self._y.ndim == 1 and self._y.dtype.kind == "i"
        beyond_highest = int(self._y.max(initial=-1)) + 1 if labels_are_classes else None
        if classes is None:
            return beyond_highest
        count = _check.integer("Dataset", "classes", classes, low=0)
        if beyond_highest is not None and beyond_highest > count:
            raise ValueError(_check.message("Dataset", f"y holds the label {beyond_highest - 1}", f"less than {count}"))
        return count

    def _per_channel(self, factor: NDArray[np.float64], idle: float) -> NDArray[np.float32] | None:
        """The factor in float32, in a shape which broadcasts along the channels; None where it would do nothing."""
        if np.all(factor == idle):
            return None
        shape = (len(factor),) + (1,) * (self._x.ndim - 2) if factor.ndim else ()
        return factor.astype(np.float32).reshape(shape)


def _as_labels(y: ArrayLike) -> NDArray[Any]:
    labels = np.asarray(_check.numeric("Dataset", "y", y))
    if labels.dtype.kind == "f":
        return labels
    if labels.dtype.kind == "u" and labels.max(initial=0) > np.iinfo(np.int64).max:
        raise ValueError(_check.message("Dataset", f"y holds the label {labels.max()}", "labels within int64"))
    return labels.astype(np.int64, copy=False)


def _as_statistic(name: str, value: Any, x: NDArray[Any], above: float | None = None) -> float | tuple[float, ...]:
    if isinstance(value, (tuple, list)) or (isinstance(value, np.ndarray) and value.ndim):
        if x.ndim < 2 or len(value) != x.shape[1]:
            channels = f"a number, or one for each of the {x.shape[1]} channels" if x.ndim > 1 else "a number"
            raise ValueError(_check.message("Dataset", f"{name} has {len(value)} numbers", channels))
        return tuple(
            _check.real("Dataset", f"{name}[{channel}]", number, above, open_low=True)
            for channel, number in enumerate(value)
        )
    return _check.real("Dataset", name, value, above, open_low=True)
