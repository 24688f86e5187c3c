"""Tools of the kernel tests: guarded and fenced arrays, error budgets, awkward sizes.

A kernel test in outline::

    @each_thread_count
    def test_thing_matches_oracle(isa, threads):
        for size in ragged_sizes("columns"):
            x, y = read_only(random_array(generator, size)), Guarded(size)
            kernel(x, y.array, threads)
            y.check()
            assert_close(y.array, oracle(x), magnitude=oracle_of_absolute_values(x), budget=sum_budget(terms))
"""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import oracles
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cnet.kernels import _dispatch

Array = NDArray[np.float32]

EPS = float(np.finfo(np.float32).eps)
TINY = float(np.finfo(np.float32).tiny)

THREADS = (1, 2, 3)
each_thread_count = pytest.mark.parametrize("threads", THREADS)

# Generated cases are the same in every run, on every machine; a database of past failures would make them differ.
# The isa fixture holds for all examples of a test, which is what the health check asks about.
generated = settings(
    max_examples=220,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

# Floats of guard on either side of an array: more than the largest register tile could overrun by a row.
_GUARD = 128
# A NaN that no arithmetic makes, so that a guard overwritten by another NaN shows too.
_GUARD_BITS = np.uint32(0x7FABCDEF)


def _aligned_bytes(count: int, misaligned: bool) -> NDArray[np.uint8]:
    """``count`` bytes that begin on a cache line, or one float after one."""
    buffer = np.empty(count + 128, dtype=np.uint8)
    start = -buffer.ctypes.data % 64 + (4 if misaligned else 0)
    return buffer[start : start + count]


class Guarded:
    """An array between two guards that nobody may write to, filled with NaN or with a copy of ``values``.

    ``array`` begins on a cache line, or one float after one if ``misaligned``. Guards are NaN, so a result that took in
    what lies outside shows as well.
    """

    def __init__(self, shape: int | tuple[int, ...], values: Any = np.nan, misaligned: bool = False):
        size = int(np.prod(shape, dtype=np.int64))
        bits = _aligned_bytes(4 * (size + 2 * _GUARD), misaligned).view(np.uint32)
        bits[:] = _GUARD_BITS
        self._before, middle, self._after = bits[:_GUARD], bits[_GUARD : _GUARD + size], bits[_GUARD + size :]
        self.array: Array = middle.view(np.float32).reshape(shape)
        self.array[...] = values

    def check(self) -> None:
        """Fail if a guard was written to."""
        for name, guard in (("before", self._before), ("after", self._after)):
            written = np.flatnonzero(guard != _GUARD_BITS)
            assert not written.size, f"wrote {name} the array of shape {self.array.shape}: guard floats {written}"


class GuardedIndex:
    """An array of small whole numbers, filled with one that no result here has, between guards of another value."""

    def __init__(self, shape: tuple[int, ...], dtype: type[np.unsignedinteger[Any]]):
        size, bits = int(np.prod(shape)), 8 * np.dtype(dtype).itemsize
        self._guard = 0xDEAD >> (16 - bits)
        self._whole = np.full(size + 256, self._guard, dtype)
        self.array: NDArray[Any] = self._whole[128 : size + 128].reshape(shape)
        self.array[...] = 0xBEEF >> (16 - bits)

    def check(self) -> None:
        assert (self._whole[:128] == self._guard).all() and (self._whole[-128:] == self._guard).all()


def read_only(values: Any, misaligned: bool = False) -> Array:
    """A guarded copy that cannot be written to."""
    values = np.asarray(values, dtype=np.float32)
    array = Guarded(values.shape, values, misaligned).array
    array.flags.writeable = False
    return array


class Fence:
    """Allocates arrays against pages that cannot be touched: a read outside one ends the process.

    With ``before``, arrays begin where such a page ends, else they end where it begins (to the last float, so they are
    as a rule not aligned). For a child process only: see ``run_in_child``.
    """

    def __init__(self, before: bool):
        self._before = before
        self._maps: list[mmap.mmap] = []

    def array(self, values: Any, writeable: bool = False) -> Array:
        """A copy of ``values`` against a fence."""
        values = np.asarray(values, dtype=np.float32)
        page = mmap.PAGESIZE
        room = max(1, -(-values.nbytes // page)) * page
        pages = mmap.mmap(-1, room + page)
        self._maps.append(pages)
        start = ctypes.addressof(ctypes.c_char.from_buffer(pages))
        libc = ctypes.CDLL(None, use_errno=True)
        no_access = 0
        fence = start if self._before else start + room
        if libc.mprotect(ctypes.c_void_p(fence), ctypes.c_size_t(page), no_access):
            raise OSError(ctypes.get_errno(), "mprotect")
        offset = page if self._before else room - values.nbytes
        array = np.frombuffer(pages, dtype=np.float32, count=values.size, offset=offset).reshape(values.shape)
        array[...] = values
        array.flags.writeable = writeable
        return array


needs_fence = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="fences are made with mprotect")


def run_in_child(script: str, time_limit: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a fresh interpreter that imports what this one does; returns its exit status and output."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path), **environment}
    command = [sys.executable, "-X", "faulthandler", "-c", script]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=time_limit)


def call_in_child(file: str, function: str, **environment: str) -> None:
    """Call a function of a test file in a fresh interpreter, and fail with its last words if it dies or raises."""
    script = f"import runpy; runpy.run_path({str(Path(file).resolve())!r})[{function!r}]()"
    result = run_in_child(script, **environment)
    words = "\n".join(result.stderr.splitlines()[-40:])
    assert result.returncode == 0, f"{function} ended with status {result.returncode}:\n{words}"


def random_array(generator: np.random.Generator, shape: int | tuple[int, ...]) -> Array:
    """Normal float32 values."""
    return generator.standard_normal(shape, dtype=np.float32)


@dataclass(frozen=True)
class Problem:
    """Inputs of a layer with weights, and the oracle's results with their sums of absolute products."""

    x: Array
    weight: Array
    bias: Array
    dy: Array
    dweight: Array
    dbias: Array
    forward: tuple[oracles.Array, oracles.Array]
    input_grad: tuple[oracles.Array, oracles.Array]
    weight_grad: tuple[oracles.Array, oracles.Array]
    bias_grad: tuple[oracles.Array, oracles.Array]

    @property
    def expected(self) -> tuple[tuple[oracles.Array, oracles.Array], ...]:
        """Results and magnitudes: of the output, and of the gradients of input, weight and bias."""
        return self.forward, self.input_grad, self.weight_grad, self.bias_grad


def sum_budget(terms: int) -> float:
    """Budget for a sum of so many products in float32, in units of eps times the sum of absolute products.

    The worst case is ``(terms + 1) / 2``: every addition errs by half a unit of a partial sum, always to the same side.
    Rounding errors of different sizes and signs grow as the square root, and ``1 + sqrt(terms) / 2`` is many standard
    deviations of that; a product left out of a thousand costs about a thousand units.
    """
    return min((terms + 1) / 2, 1 + terms**0.5 / 2) + 0.5


def assert_close(actual: Any, expected: Any, magnitude: Any, budget: float, what: str = "result") -> None:
    """Hold ``|actual - expected| <= budget * eps * magnitude`` everywhere; ``magnitude`` is the sum of ``|a| |b|``.

    A forward error bound: it does not forgive cancellation more than arithmetic must, and where every product is zero
    it asks for an exact zero.
    """
    actual = np.asarray(actual, dtype=np.float64)
    expected = np.broadcast_to(expected, actual.shape)
    assert np.isfinite(actual).all(), f"{what}: not finite, first at {tuple(np.argwhere(~np.isfinite(actual))[0])}"
    error = np.abs(actual - expected)
    # Results under the smallest normal number lose digits of their own.
    unit = EPS * np.broadcast_to(magnitude, actual.shape) + (TINY * EPS if np.any(expected) else 0.0)
    if np.any(error > budget * unit):
        with np.errstate(divide="ignore", invalid="ignore"):
            excess = np.where(error > 0, error / unit, 0.0)
        worst = tuple(int(i) for i in np.unravel_index(np.argmax(excess), excess.shape))
        count = np.count_nonzero(error > budget * unit)
        raise AssertionError(
            f"{what}: {count} of {error.size} elements outside {budget:.3g} units; worst at {worst}: "
            f"{actual[worst]!r}, expected {expected[worst]!r}, off by {excess[worst]:.3g} units"
        )


def assert_same_bytes(actual: Array, expected: Array, what: str = "result") -> None:
    """Hold two arrays to the same bits, NaN and signed zero included."""
    assert actual.shape == expected.shape
    differ = np.ascontiguousarray(actual).view(np.uint32) != np.ascontiguousarray(expected).view(np.uint32)
    assert not differ.any(), f"{what}: {np.count_nonzero(differ)} floats differ, first at {np.argwhere(differ)[0]}"


def ragged_sizes(axis: str = "columns") -> list[int]:
    """Sizes around the vector and the register tile of the instruction set in use, ``axis`` being rows or columns."""
    lanes, rows, columns = _dispatch.tile()
    tile = {"rows": rows, "columns": columns}[axis]
    return sorted({1, lanes - 1, lanes, lanes + 1, tile - 1, tile, tile + 1})


def _every_ragged_size() -> list[int]:
    before, sizes = _dispatch.isa(), set()
    for name in _dispatch.isas():
        _dispatch.set_isa(name)
        sizes |= {*ragged_sizes("rows"), *ragged_sizes("columns")}
    _dispatch.set_isa(before)
    return sorted(sizes)


# The awkward sizes of every instruction set, so that all of them meet the same generated cases.
RAGGED_SIZES = _every_ragged_size()


def sizes(most: int, *special: int) -> st.SearchStrategy[int]:
    """Sizes from 1 to ``most``, the awkward and the special ones often."""
    often = [size for size in (*RAGGED_SIZES, *special) if size <= most]
    return st.one_of(st.integers(1, most), st.sampled_from(sorted(set(often))))
