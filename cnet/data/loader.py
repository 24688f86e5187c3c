"""Batches of a dataset, in an order which is a function of a seed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cnet import _check, layout
from cnet.data.dataset import Dataset
from cnet.random import spawn

Batch = tuple[NDArray[np.float32], NDArray[Any]]


class DataLoader:
    """Iterates over a dataset in batches, once per loop.

    Each pass is one epoch and gives every sample once, as pairs ``(x, y)``: ``x`` is float32 and normalised
    (`Dataset.to_float32`), ``y`` is int64, or float32 for targets. Both are new, C-ordered arrays which the caller may
    keep or change.

    Parameters
    ----------
    dataset : Dataset or (x, y) pair of array_like
        What to draw from; a pair becomes ``Dataset(x, y)``.
    batch_size : int, default=64
        Samples in a batch, >= 1. The last batch of an epoch holds what is left.
    shuffle : bool, default=False
        Whether each epoch has its own random order. Otherwise it is the order of the dataset.
    drop_last : bool, default=False
        Whether to leave out the last batch of an epoch if it is short.
    seed : int or None, default=None
        Seeds the orders, >= 0. None draws one from :func:`cnet.manual_seed`'s generator, if ``shuffle`` is true,
        which the attribute then tells.

    Attributes
    ----------
    dataset : Dataset
        The dataset.
    batch_size : int
        As given.
    shuffle : bool
        As given.
    drop_last : bool
        As given.
    seed : int or None
        The seed given or drawn; None only where nothing is shuffled.
    epoch : int
        The epoch which the next pass will be, from 0.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If ``batch_size`` or ``seed`` is out of range, or a pair does not make a dataset.

    See Also
    --------
    Dataset : The samples, and how they are normalised.

    Notes
    -----
    The order of epoch e is a function of ``(seed, e)`` alone, whatever was drawn before: a run which resumes at epoch 7
    with `set_epoch` sees the batches of a run which went there without a stop. NumPy may change its random streams
    from one version to the next; within a version the order is the same on every machine.

    An epoch begins at ``iter(loader)``, and ``epoch`` counts up then; a pass left early is not taken up again.
    Several passes may be under way at once. Shuffling permutes indices, 8 bytes a sample, never the samples.

    Examples
    --------
    >>> import numpy as np
    >>> from cnet.data import DataLoader
    >>> x, y = np.arange(5.0).reshape(5, 1), np.arange(5)
    >>> for batch, labels in DataLoader((x, y), batch_size=2):
    ...     print(batch.ravel(), labels)
    [0. 1.] [0 1]
    [2. 3.] [2 3]
    [4.] [4]
    >>> loader = DataLoader((x, y), batch_size=2, shuffle=True, drop_last=True, seed=1)
    >>> len(loader), sum(len(labels) for _, labels in loader), loader.epoch
    (2, 4, 1)
    >>> loader
    DataLoader(Dataset(5 samples of shape (1,) float64, 5 classes), batch_size=2, shuffle=True, drop_last=True, seed=1)
    """

    def __init__(
        self,
        dataset: Dataset | tuple[ArrayLike, ArrayLike],
        batch_size: int = 64,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int | None = None,
    ) -> None:
        self.dataset = _as_dataset(dataset)
        self.batch_size = _check.integer("DataLoader", "batch_size", batch_size, low=1)
        self.shuffle = _check.boolean("DataLoader", "shuffle", shuffle)
        self.drop_last = _check.boolean("DataLoader", "drop_last", drop_last)
        self.seed = None if seed is None else _check.integer("DataLoader", "seed", seed, low=0)
        if self.shuffle and self.seed is None:
            self.seed = int(spawn().integers(2**63))
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch which the next pass will be.

        Parameters
        ----------
        epoch : int
            Number of the epoch, >= 0.

        Raises
        ------
        TypeError
            If ``epoch`` is not an integer.
        ValueError
            If it is negative.

        Examples
        --------
        >>> import numpy as np
        >>> from cnet.data import DataLoader
        >>> loader = DataLoader((np.zeros((9, 1)), np.arange(9)), batch_size=9, shuffle=True, seed=0)
        >>> orders = [y.tolist() for _ in range(3) for _, y in loader]
        >>> loader.set_epoch(1)
        >>> [y.tolist() for _, y in loader] == orders[1:2]
        True
        """
        self.epoch = _check.integer("DataLoader.set_epoch", "epoch", epoch, low=0)

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        whole = len(self.dataset) // self.batch_size
        return whole if self.drop_last else math.ceil(len(self.dataset) / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Begin an epoch and count it."""
        # A plain method around a generator: the epoch is taken now, not at the first batch, so passes begun together
        # differ.
        epoch = self.epoch
        self.epoch += 1
        return self._batches(self._order(epoch))

    def __repr__(self) -> str:
        return (
            f"DataLoader({self.dataset!r}, batch_size={self.batch_size}, shuffle={self.shuffle}, "
            f"drop_last={self.drop_last}, seed={self.seed})"
        )

    def _order(self, epoch: int) -> NDArray[np.int64] | None:
        """The indices of all samples in the order of the epoch, or None for the order of the dataset."""
        if not self.shuffle or self.seed is None:
            return None
        # PCG64 by name: default_rng() may come to mean another generator.
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, epoch])))
        return generator.permutation(len(self.dataset))

    def _batches(self, order: NDArray[np.int64] | None) -> Iterator[Batch]:
        dataset, size = self.dataset, self.batch_size
        gather = _Gather(dataset.x, min(size, len(dataset)))
        for start in range(0, len(self) * size, size):
            stop = min(start + size, len(dataset))
            x = layout.empty((stop - start, *dataset.x.shape[1:]))
            if order is None:
                dataset.to_float32(dataset.x[start:stop], out=x)
                labels = dataset.y[start:stop]
            else:
                indices = order[start:stop]
                dataset.to_float32(gather(indices, x), out=x)
                labels = dataset.y[indices]
            yield x, labels.astype(np.float32 if labels.dtype.kind == "f" else np.int64, order="C")


class _Gather:
    """Collects samples by index, as stored, into memory which it uses again for each batch."""

    def __init__(self, x: NDArray[Any], most: int) -> None:
        self._x = x
        # np.take would first copy all of x if its memory were in any other order.
        self._take = x.flags.c_contiguous and x.flags.aligned
        self._in_place = x.dtype == np.float32
        needs_scratch = self._take and not self._in_place
        self._scratch = np.empty((most if needs_scratch else 0, *x.shape[1:]), x.dtype)

    def __call__(self, indices: NDArray[np.int64], batch: NDArray[np.float32]) -> NDArray[Any]:
        """The samples at ``indices``: in ``batch`` itself if their dtype allows, else valid until the next call."""
        if not self._take:
            return self._x[indices]
        target = batch if self._in_place else self._scratch[: len(indices)]
        # The indices are in range; mode="raise" would gather into a buffer first so as to leave the target unharmed.
        return np.take(self._x, indices, axis=0, out=target, mode="clip")


def _as_dataset(dataset: Any) -> Dataset:
    if isinstance(dataset, Dataset):
        return dataset
    if isinstance(dataset, (tuple, list)) and len(dataset) == 2:
        return Dataset(*dataset)
    received = f"dataset is a {type(dataset).__name__}"
    raise TypeError(_check.message("DataLoader", received, "a Dataset or a pair (x, y) of arrays"))
