"""Argument checks, and the one place that words an error.

Every message names the subject (a layer, a function, a file), what it received, what it expected and, where there is
one, the likely remedy::

    Linear: x has shape (32, 100), expected (N, 128). Set in_features=100 or reshape x.

A wrong type or dtype is a ``TypeError``, a wrong shape or range a ``ValueError``, a wrong order of calls a
``RuntimeError``. A check returns the value in the form the caller computes with and changes nothing else.
"""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]

# NumPy has one object for each native dtype: arrays are told by it at once.
FLOAT32 = np.dtype(np.float32)


def message(subject: str, received: str, expected: str = "", remedy: str = "") -> str:
    """Compose ``subject: received, expected X. Remedy.``"""
    text = f"{subject}: {received}"
    if expected:
        text += f", expected {expected}"
    text += "."
    if remedy:
        text += f" {remedy}"
        if text[-1] not in ".?":
            text += "."
    return text


def integer(subject: str, name: str, value: Any, low: int | None = None, high: int | None = None) -> int:
    """An ``int`` in ``[low, high]``; NumPy integers pass, booleans and floats do not."""
    expected = "an integer" + _range_text(low, high)
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(message(subject, f"{name} is {value!r}", expected))
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(message(subject, f"{name} is {value!r}", expected)) from None
    if (low is not None and number < low) or (high is not None and number > high):
        raise ValueError(message(subject, f"{name} is {number}", expected))
    return number


def real(
    subject: str,
    name: str,
    value: Any,
    low: float | None = None,
    high: float | None = None,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> float:
    """A finite ``float`` in the interval from ``low`` to ``high``, each end closed unless said open."""
    expected = "a finite number" + _range_text(low, high, open_low, open_high)
    if isinstance(value, (bool, np.bool_, str, bytes)):
        raise TypeError(message(subject, f"{name} is {value!r}", expected))
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(message(subject, f"{name} is {value!r}", expected)) from None
    below = low is not None and (number <= low if open_low else number < low)
    above = high is not None and (number >= high if open_high else number > high)
    if not math.isfinite(number) or below or above:
        raise ValueError(message(subject, f"{name} is {number:g}", expected))
    return number


def boolean(subject: str, name: str, value: Any) -> bool:
    """A ``bool``; nothing else stands for one."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(message(subject, f"{name} is {value!r}", "True or False"))
    return bool(value)


def pair(subject: str, name: str, value: Any, low: int | None = None) -> tuple[int, int]:
    """``(vertical, horizontal)`` from one integer or two."""
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(message(subject, f"{name} is {value!r}", "an integer or a pair of integers"))
        return integer(subject, f"{name}[0]", value[0], low), integer(subject, f"{name}[1]", value[1], low)
    number = integer(subject, name, value, low)
    return number, number


def choice(subject: str, name: str, value: Any, choices: Iterable[str]) -> str:
    """One of ``choices``; the message suggests the nearest."""
    names = sorted(choices)
    if isinstance(value, str) and value in names:
        return value
    kind = ValueError if isinstance(value, str) else TypeError
    near = difflib.get_close_matches(value, names, n=1) if isinstance(value, str) else []
    remedy = f"Did you mean {near[0]!r}?" if near else ""
    raise kind(message(subject, f"{name} is {value!r}", "one of " + ", ".join(map(repr, names)), remedy))


def numeric(subject: str, name: str, value: Any) -> NDArray[Any]:
    """Any real array-like as an ``ndarray`` of its own dtype: bool, integer or float of any width."""
    array = value if isinstance(value, np.ndarray) else _as_array(subject, name, value)
    if array.dtype.kind not in "buif":
        raise TypeError(
            message(subject, f"{name} has dtype {array.dtype}", "real numbers", f"Convert {name} to float32 first.")
        )
    return array


def float32(subject: str, name: str, value: Any) -> Float32Array:
    """Any real array-like as a float32 ``ndarray``; not copied when it is one already."""
    if type(value) is np.ndarray and value.dtype is FLOAT32:
        return value
    array: Float32Array = np.asarray(numeric(subject, name, value), dtype=np.float32)
    return array


def shape_error(subject: str, name: str, shape: Iterable[int | str], expected: str, remedy: str = "") -> ValueError:
    """The error for an array of the wrong shape; a size may be a letter, such as N for the batch."""
    return ValueError(message(subject, f"{name} has shape {shape_text(shape)}", expected, remedy))


def shape_text(shape: Iterable[int | str]) -> str:
    """``(N, 3, 28, 28)``: a shape as Python writes it, but letters without quotes."""
    sizes = [str(size) for size in shape]
    return f"({sizes[0]},)" if len(sizes) == 1 else f"({', '.join(sizes)})"


def not_empty(subject: str, name: str, array: NDArray[Any]) -> None:
    """Refuse an array with an axis of length zero."""
    if array.size == 0:
        raise shape_error(subject, name, array.shape, "at least one element", "Skip empty batches.")


def _as_array(subject: str, name: str, value: Any) -> NDArray[Any]:
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):
        # NumPy refuses ragged nested sequences.
        raise TypeError(message(subject, f"{name} is a ragged sequence", "a rectangular array")) from None
    if array.dtype.kind == "O":
        raise TypeError(message(subject, f"{name} is a {type(value).__name__}", "an array of real numbers"))
    return array


def _range_text(low: float | None, high: float | None, open_low: bool = False, open_high: bool = False) -> str:
    if low is None and high is None:
        return ""
    if high is None:
        return f" {'>' if open_low else '>='} {low:g}"
    if low is None:
        return f" {'<' if open_high else '<='} {high:g}"
    return f" in {'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}"
