"""The MNIST handwritten digits, from wherever they are nearest.

::

    a folder you name  ->  the cache  ->  a download into the cache  ->  the subset in this package
    (or nothing)           60,000 training and 10,000 test images        5,000 and 1,000
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnet import _check
from cnet._atomic import replacing
from cnet.data import _idx_codec
from cnet.data.dataset import Dataset
from cnet.data.idx import read_idx

# The files by their usual names, with the SHA-256 of what each holds once inflated: mirrors compress them differently.
_FILES = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
# Above the largest file, inflated or not; more is not MNIST, and a mirror must not fill the memory.
_MOST_BYTES = 64 << 20
# Where unpacked archives and other libraries put the files, below the folder which users name.
_PLACES = ("", "mnist", "MNIST/raw")
_BUNDLED = Path(__file__).with_name("bundled")

# Mean and standard deviation of the pixels of the full training set, as everyone rounds them.
_NORMALISE = (0.1307, 0.3081)


class _Found(NamedTuple):
    """The arrays of the four files by name, the files themselves, and what to tell the user of them."""

    arrays: dict[str, NDArray[Any]]
    paths: dict[str, Path]
    origin: str
    remark: str = ""


class _NotFullError(Exception):
    """Why the full set is not to be had."""


def mnist(
    folder: str | os.PathLike[str] | None = None, download: bool = True, verbose: bool = True
) -> tuple[Dataset, Dataset]:
    """MNIST: handwritten digits, 28 x 28 pixels of grey, in 10 classes.

    The full set has 60,000 training and 10,000 test images. The first of these that has it, or is named, decides:

    1. ``folder``, else the folder in the environment variable ``CNET_DATA_DIR``;
    2. the cache, where each file must have the right SHA-256;
    3. the public mirrors, for the files which the cache lacks; they are checked likewise and kept in the cache;
    4. a subset in this package, with 5,000 training and 1,000 test images and each digit equally often.

    Parameters
    ----------
    folder : str, path-like or None, default=None
        A folder of yours with the four files ``{train,t10k}-images-idx3-ubyte`` and ``{train,t10k}-labels-idx1-ubyte``
        (or ``.idx3-ubyte``, ``.idx1-ubyte``), plain or with ``.gz``, in it or in ``mnist`` or ``MNIST/raw`` below it.
        They need not be the originals, if they have their form.
    download : bool, default=True
        Whether to use the network if neither ``folder`` nor the cache has the files.
    verbose : bool, default=True
        Whether to print one line which says what was used and, for the subset, why.

    Returns
    -------
    train, test : Dataset
        ``x`` is uint8 of shape (N, 1, 28, 28), 0 for paper and 255 for ink; ``y`` is int64, from 0 to 9. Batches are
        normalised with mean 0.1307 and std 0.3081, those of the full training set.

    Raises
    ------
    FileNotFoundError
        If a folder was named, here or in ``CNET_DATA_DIR``, and files are missing there.
    ValueError
        If files there are damaged, do not hold 28 x 28 uint8 images or labels from 0 to 9, or differ in number.
    TypeError
        If an argument has the wrong type.

    Notes
    -----
    The cache is ``mnist`` in the folder ``CNET_CACHE_DIR`` names, by default ``cnet`` in ``XDG_CACHE_HOME`` or else in
    ``~/.cache``. A file there which is damaged is fetched again; one which is whole is never replaced. Several
    processes may fill one cache. Where it cannot be written, nothing is downloaded.

    Without a network the subset comes within 5 seconds: no mirror gets longer to answer. A transfer which pauses for 10
    seconds is given up.

    References
    ----------
    Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, "Gradient-based learning applied to document recognition",
    Proceedings of the IEEE 86(11), 1998. The images are by Yann LeCun, Corinna Cortes and Christopher J. C. Burges,
    under CC BY-SA 3.0.

    Examples
    --------
    >>> from cnet.data import mnist
    >>> train, test = mnist(download=False, verbose=False)
    >>> train.x.shape[1:], train.x.dtype, train.classes
    ((1, 28, 28), dtype('uint8'), 10)
    >>> train.name, test.name
    ('MNIST train', 'MNIST test')
    """
    download = _check.boolean("mnist", "download", download)
    verbose = _check.boolean("mnist", "verbose", verbose)
    named = _named_folder(folder)
    if named is not None:
        found = _in_folder(*named)
    else:
        try:
            found = _in_cache(download)
        except _NotFullError as reason:
            found = _bundled(str(reason))
    train = _as_dataset(found, "train")
    test = _as_dataset(found, "t10k")
    if verbose:
        remark = f" ({found.remark})" if found.remark else ""
        print(f"MNIST: {found.origin}, {len(train):,} training and {len(test):,} test images{remark}")
    return train, test


def _named_folder(folder: str | os.PathLike[str] | None) -> tuple[Path, str] | None:
    """The folder which the user named and the words for where; None if there is none."""
    if folder is not None:
        try:
            return Path(os.path.expanduser(folder)), "folder"
        except TypeError:
            received = f"folder is {folder!r}"
            raise TypeError(_check.message("mnist", received, "a str, a path-like object or None")) from None
    variable = os.environ.get("CNET_DATA_DIR")
    return (Path(os.path.expanduser(variable)), "CNET_DATA_DIR") if variable else None


def _in_folder(folder: Path, named_by: str) -> _Found:
    searched = [(place, _locate(place)) for place in (folder / below for below in _PLACES)]
    place, paths = max(searched, key=lambda pair: len(pair[1]))
    missing = [name for name in _FILES if name not in paths]
    if missing:
        received = f"{named_by} {place} has no " + ", ".join(missing)
        places = [str(folder / below) for below in _PLACES]
        remedy = f"Put the missing files there, or all four in {places[0]}, {places[1]} or {places[2]}"
        remedy += ", or unset CNET_DATA_DIR" if named_by == "CNET_DATA_DIR" else ""
        raise FileNotFoundError(_check.message("mnist", received, "all four files, plain or with .gz", remedy))
    return _Found({name: read_idx(path) for name, path in paths.items()}, paths, str(place))


def _locate(place: Path) -> dict[str, Path]:
    """Those of the four files which are in ``place``, under any of their names."""
    found = {}
    for name in _FILES:
        # Some archives unpack to a folder with the name of the file, hence is_file.
        for spelling in (name, f"{name}.gz", name.replace("-idx", ".idx"), name.replace("-idx", ".idx") + ".gz"):
            if name not in found and (place / spelling).is_file():
                found[name] = place / spelling
    return found


def _in_cache(download: bool) -> _Found:
    cache = _cache_folder()
    paths = {name: cache / f"{name}.gz" for name in _FILES}
    arrays: dict[str, NDArray[Any]] = {}
    damaged = []
    for name in _FILES:
        try:
            arrays[name] = _genuine(name, read_idx(paths[name]))
        except ValueError:
            damaged.append(name)
        except OSError:
            # Absent or unreadable: as good as not cached.
            continue
    if len(arrays) == len(_FILES):
        return _Found(arrays, paths, f"cached copy in {cache}")
    try:
        if not download:
            raise _NotFullError("download=False and no copy in the cache")
        _fill(cache, arrays)
    except _NotFullError as reason:
        before = f"damaged in the cache: {', '.join(damaged)}; " if damaged else ""
        raise _NotFullError(f"{before}{reason}") from None
    return _Found(arrays, paths, f"downloaded to {cache}")


def _cache_folder() -> Path:
    own = os.environ.get("CNET_CACHE_DIR")
    shared = os.environ.get("XDG_CACHE_HOME", "")
    try:
        if own:
            return Path(own).expanduser() / "mnist"
        # The XDG specification has a relative path ignored.
        return (Path(shared) if os.path.isabs(shared) else Path.home() / ".cache") / "cnet" / "mnist"
    except RuntimeError:
        raise _NotFullError("no home folder for a cache") from None


def _fill(cache: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Download into the cache and to ``arrays`` the files which these lack."""
    from cnet.data import _download

    refusal = f"cannot write to the cache {cache}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        if not os.access(cache, os.W_OK | os.X_OK):
            raise _NotFullError(refusal)
        for name in _FILES:
            if name not in arrays:
                urls = [f"{mirror}{name}.gz" for mirror in _MIRRORS]
                arrays[name] = _download.fetch(urls, _keeper(name, cache / f"{name}.gz"), _MOST_BYTES)
    except _download.DownloadError as error:
        raise _NotFullError(str(error)) from None
    except OSError as error:
        raise _NotFullError(f"{refusal}: {error.strerror or error}") from None


def _keeper(name: str, path: Path) -> Callable[[bytes], NDArray[Any]]:
    def keep(content: bytes) -> NDArray[Any]:
        stream: Any = io.BytesIO(content)
        array = _genuine(name, _idx_codec.decode(io.BufferedReader(stream), path.name, _MOST_BYTES))
        with replacing(path) as file:
            file.write(content)
        return array

    return keep


def _genuine(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """The array, if the IDX file it comes from is the original."""
    # Here for the same reason as the download: import cnet must be quick, and few runs come to need this.
    import hashlib

    digest = hashlib.sha256(_idx_codec.header(array))
    # As in the file: the originals are uint8, in which all byte orders are one.
    digest.update(array.data)
    if digest.hexdigest() != _FILES[name]:
        received = f"{name} has the SHA-256 {digest.hexdigest()}"
        raise ValueError(_check.message("mnist", received, _FILES[name], "Fetch the file again."))
    return array


def _bundled(reason: str) -> _Found:
    paths = {name: _BUNDLED / f"{name}.gz" for name in _FILES}
    arrays = {name: read_idx(path) for name, path in paths.items()}
    return _Found(arrays, paths, "bundled subset", f"{reason}; set CNET_DATA_DIR to use the full set")


def _as_dataset(found: _Found, part: str) -> Dataset:
    images_name, labels_name = f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"
    images, labels = found.arrays[images_name], found.arrays[labels_name]
    if images.dtype != np.uint8 or images.shape[1:] != (28, 28) or not len(images):
        received = f"holds {images.dtype} of shape {images.shape}"
        expected = "images, uint8 of shape (N, 28, 28) with N > 0"
        raise ValueError(_check.message(str(found.paths[images_name]), received, expected))
    if labels.dtype != np.uint8 or labels.shape != (len(images),):
        received = f"holds {labels.dtype} of shape {labels.shape}"
        expected = f"labels, uint8 of shape ({len(images)},), one for each image"
        raise ValueError(_check.message(str(found.paths[labels_name]), received, expected))
    if labels.max() > 9:
        received = f"holds the label {labels.max()}"
        raise ValueError(_check.message(str(found.paths[labels_name]), received, "labels from 0 to 9"))
    name = "MNIST train" if part == "train" else "MNIST test"
    return Dataset(images[:, np.newaxis], labels, name, normalise=_NORMALISE, classes=10)
