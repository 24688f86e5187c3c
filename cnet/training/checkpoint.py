"""Weights in a file that NumPy can open."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnet import _check
from cnet._atomic import replacing
from cnet.layers import Layer

__all__ = ["load_weights", "save_weights"]

_REBUILD = "Build the model as it was when the weights were saved"


def save_weights(model: Layer, path: str | os.PathLike[str]) -> None:
    """Write the parameters and buffers of a model to a file, whole or not at all.

    Parameters
    ----------
    model : Layer
        A built model.
    path : str or path-like
        The file, used exactly as given: no suffix is added. ``weights.npz`` is a good name. A file of this name is
        replaced.

    Raises
    ------
    TypeError
        If ``model`` is not a layer or ``path`` no path.
    RuntimeError
        If the model is not built.
    OSError
        If the file cannot be written, such as FileNotFoundError for a folder that does not exist.

    See Also
    --------
    load_weights : Reads the file.

    Notes
    -----
    The file is what ``numpy.savez`` writes, one array for each entry of ``model.state_dict()``, so ``numpy.load`` opens
    it. It holds numbers only, never pickled objects. Equal weights give equal files, byte for byte.

    The bytes go to a file beside ``path`` and are on the disk before they take its name: whatever happens meanwhile,
    ``path`` is the old file or the new one.

    Examples
    --------
    >>> import os, tempfile
    >>> from cnet import layers
    >>> from cnet.training import load_weights, save_weights
    >>> model, other = layers.Linear(3, 2), layers.Linear(3, 2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "weights.npz")
    ...     save_weights(model, path)
    ...     load_weights(other, path)
    >>> bool((other.weight.data == model.weight.data).all())
    True
    """
    state = _checked_model("save_weights", model).state_dict()
    with replacing(_as_path("save_weights", path)) as stream, zipfile.ZipFile(stream, "w") as archive:
        for name, value in state.items():
            # A ZipInfo of one's own has a fixed date: files of equal weights are equal.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, value, allow_pickle=False)


def load_weights(model: Layer, path: str | os.PathLike[str]) -> None:
    """Read the parameters and buffers of a model from a file.

    Parameters
    ----------
    model : Layer
        A built model with the layers it had when the weights were saved.
    path : str or path-like
        A file of :func:`save_weights`, or of ``numpy.savez`` with the names of ``model.state_dict()``. Used exactly as
        given: no suffix is added.

    Raises
    ------
    TypeError
        If ``model`` is not a layer, ``path`` no path or an array holds no real numbers.
    RuntimeError
        If the model is not built.
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, is no ``.npz`` file, or its names or shapes are not those of the model. Whatever is
        raised, the model has not changed.

    See Also
    --------
    save_weights : Writes the file.

    Notes
    -----
    The whole file is read and its checksums compared before the first weight changes. Nothing in it is ever executed.

    Examples
    --------
    >>> import os, tempfile
    >>> from cnet import layers
    >>> from cnet.training import load_weights, save_weights
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "weights.npz")
    ...     save_weights(layers.Linear(3, 2), path)
    ...     try:
    ...         load_weights(layers.Linear(3, 4), path)
    ...     except ValueError as error:
    ...         print(str(error).replace(folder, "runs"))
    runs/weights.npz: weight has shape (2, 3), expected (4, 3). Build the model as it was when the weights were saved.
    """
    own = _checked_model("load_weights", model).state_dict()
    file = _as_path("load_weights", path)
    state = _decode(file, _content(file))
    for names, received in ((own.keys() - state.keys(), "holds no"), (state.keys() - own.keys(), "also holds")):
        if names:
            others = f" and {len(names) - 1} more" if len(names) > 1 else ""
            first = min(names)
            raise ValueError(_check.message(str(file), f"{received} {first!r}{others}", "the model's names", _REBUILD))
    for name, value in state.items():
        _check.numeric(str(file), name, value)
        if value.shape != own[name].shape:
            raise _check.shape_error(str(file), name, value.shape, str(own[name].shape), _REBUILD)
    model.load_state_dict(state)


def _checked_model(subject: str, model: Any) -> Layer:
    if not isinstance(model, Layer):
        raise TypeError(_check.message(subject, f"model is a {type(model).__name__}", "a Layer, such as Sequential"))
    return model


def _as_path(subject: str, path: Any) -> Path:
    try:
        return Path(path)
    except TypeError:
        raise TypeError(_check.message(subject, f"path is {path!r}", "a str or a path-like object")) from None


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        near = file.with_name(f"{file.name}.npz")
        remedy = f"Pass {near}" if near.is_file() else ""
        raise FileNotFoundError(_check.message(str(file), "no such file", remedy=remedy)) from None


def _decode(file: Path, content: bytes) -> dict[str, NDArray[Any]]:
    expected = "the weights of a model, as save_weights writes them"
    if not content.startswith(b"PK"):
        received = "is empty" if not content else "is no .npz file"
        raise ValueError(_check.message(str(file), received, expected))
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {name.removesuffix(".npy"): _array(archive.read(name)) for name in archive.namelist()}
    # Damage can be anywhere in the archive, and then zipfile, zlib and NumPy raise whatever they run into.
    except Exception as error:
        received = f"is damaged ({error or type(error).__name__})".replace("\n", " ")
        raise ValueError(_check.message(str(file), received, expected)) from None


def _array(content: bytes) -> NDArray[Any]:
    array: NDArray[Any] = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    return array
