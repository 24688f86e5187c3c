"""The two views of an array, and the pool of memory behind them."""

from __future__ import annotations

import gc
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cnet
from cnet import layout
from cnet.kernels import _pool

# Shapes of images; ones and ragged sizes included.
IMAGES = [(1, 1, 1, 1), (2, 3, 4, 5), (1, 7, 3, 1), (3, 1, 5, 6), (2, 17, 1, 1), (4, 16, 9, 7), (1, 65, 33, 31)]


@pytest.fixture(autouse=True)
def threads_restored() -> Iterator[None]:
    before = cnet.get_num_threads()
    yield
    cnet.set_num_threads(before)


def numbers(shape: tuple[int, ...]) -> Any:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def address(array: Any) -> int:
    start: int = array.__array_interface__["data"][0]
    return start


# ---- views


@pytest.mark.parametrize("shape", IMAGES, ids=str)
def test_logical_view_shares_memory(shape: tuple[int, ...]) -> None:
    n, c, h, w = shape
    last = layout.empty((n, h, w, c))
    last[...] = numbers(last.shape)
    view = layout.logical(last)
    assert view.shape == shape and address(view) == address(last)
    np.testing.assert_array_equal(view, last.transpose(0, 3, 1, 2))
    back = layout.physical(view)
    assert back.shape == last.shape and address(back) == address(last) and back.flags.c_contiguous


@pytest.mark.parametrize("shape", IMAGES, ids=str)
@pytest.mark.parametrize("threads", [1, 3])
def test_channels_first_images_are_converted_once(isa: str, shape: tuple[int, ...], threads: int) -> None:
    cnet.set_num_threads(threads)
    x = numbers(shape)
    physical = layout.physical(x)
    assert physical.flags.c_contiguous and physical.dtype == np.float32
    np.testing.assert_array_equal(physical, x.transpose(0, 2, 3, 1))
    # Of one channel or of one pixel, both orders are the same memory.
    assert np.shares_memory(physical, x) == (shape[1] == 1 or shape[2:] == (1, 1))
    assert address(layout.physical(layout.logical(physical))) == address(physical)


@pytest.mark.parametrize("shape", IMAGES, ids=str)
def test_images_of_any_strides_are_converted(isa: str, shape: tuple[int, ...]) -> None:
    x = numbers(shape)
    wide = np.zeros([2 * size for size in shape], np.float32)
    wide[1::2, ::2, 1::2, ::2] = x
    forms = {
        "Fortran": np.asfortranarray(x),
        "reversed": x[::-1, ::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1, ::-1],
        "gapped": wide[1::2, ::2, 1::2, ::2],
        "read-only": x.copy(),
        "channels last, gapped": np.repeat(x.transpose(0, 2, 3, 1), 2, axis=-1)[..., ::2].transpose(0, 3, 1, 2),
    }
    forms["read-only"].flags.writeable = False
    for name, form in forms.items():
        np.testing.assert_array_equal(layout.physical(form), x.transpose(0, 2, 3, 1), err_msg=name)
        np.testing.assert_array_equal(layout.channels_first(form), x.reshape(len(x), -1), err_msg=name)


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4)], ids=str)
def test_other_ranks_are_the_same_in_both_views(shape: tuple[int, ...]) -> None:
    x = numbers(shape)
    assert layout.physical(x) is x and layout.logical(x) is x
    strided = np.repeat(x, 2, axis=0)[::2]
    assert layout.physical(strided).flags.c_contiguous
    np.testing.assert_array_equal(layout.physical(strided), x)


@pytest.mark.parametrize("shape", IMAGES, ids=str)
def test_channels_first_rows_are_in_logical_order(isa: str, shape: tuple[int, ...]) -> None:
    x = numbers(shape)
    rows = layout.channels_first(layout.logical(layout.physical(x)))
    assert rows.flags.c_contiguous
    np.testing.assert_array_equal(rows, x.reshape(len(x), -1))
    assert address(layout.channels_first(x)) == address(x)


@pytest.mark.parametrize("shape", [(5,), (3, 4), (4, 2, 3, 5), (1, 1, 1, 1), (4, 2, 3)], ids=str)
def test_weight_views_share_memory(shape: tuple[int, ...]) -> None:
    stored = numbers(layout.weight_shape(shape))
    view = layout.weight_logical(stored)
    if len(shape) != 3:
        assert view.shape == shape
    assert address(view) == address(stored) and view.size == stored.size
    if len(shape) == 4:
        np.testing.assert_array_equal(view, stored.transpose(3, 2, 0, 1))
    if len(shape) == 2:
        np.testing.assert_array_equal(view, stored.T)


# ---- pool


@pytest.mark.parametrize("size", [0, 1, 2, 127, 128, 129, 1000, 4096, 100_003, 3_000_000])
def test_arrays_are_aligned_and_of_the_size_asked_for(size: int) -> None:
    for _ in range(5):
        array = layout.empty((size,))
        assert array.shape == (size,) and array.dtype == np.float32
        assert array.flags.c_contiguous and array.flags.writeable and address(array) % 64 == 0


def test_arrays_of_other_dtypes() -> None:
    for dtype in (np.uint16, np.float64, np.int8, np.int64, bool):
        array = layout.empty_of((3, 5), dtype)
        assert array.dtype == dtype and array.shape == (3, 5) and address(array) % 64 == 0
        array[...] = 1


def test_zeros_are_zero_in_used_memory() -> None:
    for _ in range(3):
        array = layout.zeros((1000,))
        assert not array.any()
        array.fill(np.nan)
        del array


@pytest.mark.parametrize("size", [100, 5000, 400_000])
def test_freed_block_is_used_again(size: int) -> None:
    array = layout.empty((size,))
    place, held = address(array), cnet.memory_stats()["held"]
    del array
    again = layout.empty((size,))
    assert address(again) == place and cnet.memory_stats()["held"] == held
    # A slightly smaller request is of the same class of sizes.
    del again
    assert address(layout.empty((size - 1,))) == place


def test_block_waits_for_the_last_view() -> None:
    array = layout.empty((64, 64))
    array[...] = numbers((64, 64))
    view = array[3:5].T
    del array
    others = [layout.empty((64, 64)) for _ in range(10)]
    for other in others:
        other.fill(-1)
    np.testing.assert_array_equal(view, numbers((64, 64))[3:5].T)


def test_live_arrays_never_share_memory() -> None:
    """Random requests and releases; every live array keeps its own values."""
    generator = np.random.default_rng(1)
    live: dict[int, Any] = {}
    for number in range(3000):
        if live and generator.random() < 0.48:
            key = int(generator.choice(list(live)))
            array = live.pop(key)
            assert (array == key).all()
        else:
            array = layout.empty((int(2 ** generator.uniform(0, 14)),))
            array.fill(number)
            live[number] = array
    for key, array in live.items():
        assert (array == key).all()
    spans = sorted((address(array), address(array) + array.nbytes) for array in live.values())
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


def test_live_arrays_of_several_threads_never_share_memory() -> None:
    failures: list[str] = []

    def work(mark: int) -> None:
        generator = np.random.default_rng(mark)
        for _ in range(300):
            arrays = [layout.empty((int(size),)) for size in generator.integers(1, 3000, 8)]
            for index, array in enumerate(arrays):
                array.fill(100 * mark + index)
            for index, array in enumerate(arrays):
                if not (array == 100 * mark + index).all():
                    failures.append(f"thread {mark}")

    workers = [threading.Thread(target=work, args=(mark,)) for mark in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
    assert not failures and not any(worker.is_alive() for worker in workers)


def test_statistics_count_what_lives() -> None:
    gc.collect()
    before = cnet.memory_stats()
    array = layout.empty((250_000,))
    during = cnet.memory_stats()
    # Blocks come in eight sizes per doubling, so at most an eighth is added.
    assert 1_000_000 <= during["used"] - before["used"] <= 1_000_000 * 9 / 8
    assert during["held"] >= during["used"] and during["peak"] >= during["used"]
    del array
    after = cnet.memory_stats()
    assert after["used"] == before["used"] and after["held"] == during["held"]
    assert set(after) == {"held", "used", "peak"} and all(type(value) is int for value in after.values())


def test_peak_is_the_most_that_lived_at_once() -> None:
    gc.collect()
    cnet.reset_peak_memory()
    base = cnet.memory_stats()["used"]
    assert cnet.memory_stats()["peak"] == base
    for _ in range(5):
        layout.empty((100_000,))
    one = cnet.memory_stats()["peak"] - base
    assert 400_000 <= one <= 450_000
    pair = layout.empty((100_000,)), layout.empty((100_000,))
    del pair
    assert cnet.memory_stats()["peak"] - base == 2 * one
    cnet.reset_peak_memory()
    assert cnet.memory_stats()["peak"] == base


def test_release_gives_waiting_blocks_back_and_leaves_live_ones() -> None:
    live = layout.empty((3000,))
    live[...] = numbers((3000,))
    layout.empty((700_000,))
    cnet.empty_cache()
    stats = cnet.memory_stats()
    assert stats["held"] == stats["used"]
    np.testing.assert_array_equal(live, numbers((3000,)))
    fresh = layout.empty((700_000,))
    fresh.fill(1)
    assert cnet.memory_stats()["held"] == cnet.memory_stats()["used"]
    del live, fresh
    cnet.empty_cache()
    cnet.empty_cache()
    assert cnet.memory_stats()["held"] == cnet.memory_stats()["used"]


@pytest.mark.parametrize("size", [2**46 + 1, 2**62, -1])
def test_absurd_sizes_are_refused(size: int) -> None:
    before = cnet.memory_stats()
    with pytest.raises(MemoryError, match="cnet: cannot allocate"):
        _pool.Block(size)
    assert cnet.memory_stats() == before


def overcommits() -> bool:
    """Whether the system promises any amount of memory."""
    setting = Path("/proc/sys/vm/overcommit_memory")
    return setting.exists() and setting.read_text().strip() == "1"


@pytest.mark.skipif(overcommits(), reason="the system promises any amount of memory")
def test_size_that_the_machine_does_not_have_is_refused() -> None:
    before = cnet.memory_stats()
    with pytest.raises(MemoryError, match="cnet: cannot allocate 70,368,744,177,664 bytes"):
        layout.empty((2**44,))
    assert cnet.memory_stats() == before
