"""Data: datasets, batches, and files to read them from.

::

    mnist(), your arrays  ->  Dataset: arrays as stored  ->  DataLoader: float32 batches, shuffled by seed
          |
    read_idx, write_idx: arrays in IDX files

>>> from cnet.data import DataLoader, mnist
>>> train, test = mnist(download=False, verbose=False)
>>> for x, y in DataLoader(train, batch_size=32, shuffle=True, seed=0):
...     print(x.shape, x.dtype, y.shape, y.dtype)
...     break
(32, 1, 28, 28) float32 (32,) int64
"""

from cnet.data.dataset import Dataset
from cnet.data.idx import read_idx, write_idx
from cnet.data.loader import DataLoader
from cnet.data.mnist_digits import mnist

__all__ = ["DataLoader", "Dataset", "mnist", "read_idx", "write_idx"]
