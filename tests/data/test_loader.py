from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from cnet.data import DataLoader, Dataset, loader


def numbered(n: int = 10) -> Dataset:
    """Samples which tell their own index, as do their labels."""
    return Dataset(np.arange(n, dtype=np.float32).reshape(n, 1), np.arange(n))


def order(batches: Any) -> list[int]:
    return [int(label) for _, labels in batches for label in labels]


def test_loader_batches_are_normalised_float32() -> None:
    x = np.random.default_rng(0).integers(256, size=(10, 1, 28, 28), dtype=np.uint8)
    dataset = Dataset(x, np.arange(10), normalise=(0.1307, 0.3081))
    for shuffle in (False, True):
        for batch, labels in DataLoader(dataset, batch_size=4, shuffle=shuffle, seed=3):
            assert (batch.dtype, labels.dtype) == (np.float32, np.int64)
            assert batch.flags.c_contiguous
            np.testing.assert_array_equal(batch, dataset.to_float32(x[labels]))


@pytest.mark.parametrize(
    ("drop_last", "sizes"), [(False, [4, 4, 2]), (True, [4, 4])], ids=["last batch kept", "last batch dropped"]
)
@pytest.mark.parametrize("shuffle", [False, True])
def test_loader_last_batch(drop_last: bool, sizes: list[int], shuffle: bool) -> None:
    batches = DataLoader(numbered(), batch_size=4, drop_last=drop_last, shuffle=shuffle)
    assert [len(labels) for _, labels in batches] == sizes
    assert len(batches) == len(sizes)


@pytest.mark.parametrize("n", [0, 1, 3, 4, 5, 8])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
def test_loader_length_agrees_with_its_batches(n: int, drop_last: bool, shuffle: bool) -> None:
    batches = DataLoader(numbered(n), batch_size=4, drop_last=drop_last, shuffle=shuffle)
    assert len(list(batches)) == len(batches)
    kept = n - n % 4 if drop_last else n
    labels = order(batches)
    assert len(set(labels)) == len(labels) == kept
    assert shuffle or labels == list(range(kept))


def test_loader_batch_larger_than_the_dataset() -> None:
    for shuffle in (False, True):
        ((x, y),) = DataLoader(numbered(3), batch_size=1 << 60, shuffle=shuffle)
        assert x.shape == (3, 1)
        assert sorted(y) == [0, 1, 2]


def test_loader_samples_keep_their_labels() -> None:
    for shuffle in (False, True):
        for x, y in DataLoader(numbered(100), batch_size=7, shuffle=shuffle):
            np.testing.assert_array_equal(x[:, 0], y)


def test_loader_order_is_a_function_of_seed_and_epoch() -> None:
    batches = DataLoader(numbered(50), batch_size=8, shuffle=True, seed=5)
    for epoch in range(3):
        assert batches.epoch == epoch
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([5, epoch])))
        assert order(batches) == generator.permutation(50).tolist()


def test_loader_orders_differ_between_epochs_and_seeds() -> None:
    orders = []
    for seed in range(3):
        batches = DataLoader(numbered(50), shuffle=True, seed=seed)
        orders += [tuple(order(batches)) for _ in range(3)]
    assert len(set(orders)) == 9


def test_loader_order_does_not_depend_on_batch_size_or_global_state() -> None:
    first = order(DataLoader(numbered(50), batch_size=8, shuffle=True, seed=1))
    np.random.default_rng().random()
    assert order(DataLoader(numbered(50), batch_size=3, shuffle=True, seed=1)) == first


def test_loader_set_epoch_resumes() -> None:
    whole = DataLoader(numbered(50), shuffle=True, seed=1)
    orders = [order(whole) for _ in range(4)]
    resumed = DataLoader(numbered(50), shuffle=True, seed=1)
    resumed.set_epoch(2)
    assert [order(resumed), order(resumed)] == orders[2:]
    assert resumed.epoch == 4


def test_loader_counts_an_epoch_when_it_begins() -> None:
    batches = DataLoader(numbered(50), batch_size=8, shuffle=True, seed=1)
    next(iter(batches))
    assert batches.epoch == 1
    # Begun together, drawn from in turn.
    first, second = iter(batches), iter(batches)
    pairs = list(zip(first, second, strict=True))
    alone = DataLoader(numbered(50), batch_size=8, shuffle=True, seed=1)
    alone.set_epoch(1)
    assert order(pair[0] for pair in pairs) == order(alone)
    assert order(pair[1] for pair in pairs) == order(alone)


def test_loader_without_a_seed_draws_one_and_tells_it() -> None:
    batches = DataLoader(numbered(50), shuffle=True)
    other = DataLoader(numbered(50), shuffle=True)
    assert batches.seed is not None
    assert batches.seed != other.seed
    first, second = order(batches), order(batches)
    assert first != second
    again = DataLoader(numbered(50), shuffle=True, seed=batches.seed)
    assert [order(again), order(again)] == [first, second]
    assert DataLoader(numbered(50)).seed is None


def test_loader_batches_are_the_callers_own() -> None:
    x = np.zeros((8, 2), np.float32)
    y = np.arange(8)
    for shuffle in (False, True):
        batches = list(DataLoader((x, y), batch_size=4, shuffle=shuffle))
        for batch, labels in batches:
            assert not np.shares_memory(batch, x)
            assert not np.shares_memory(labels, y)
            batch += 1
            labels += 1
        assert not np.shares_memory(batches[0][0], batches[1][0])
    assert not x.any()
    assert y.tolist() == list(range(8))


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32, np.float64, ">f4", ">i2"])
@pytest.mark.parametrize("layout", ["C", "channels-last", "strided", "misaligned"])
def test_loader_any_memory(shuffle: bool, dtype: Any, layout: str) -> None:
    values = np.random.default_rng(0).integers(100, size=(10, 3, 4, 5)).astype(dtype)
    x = values
    if layout == "channels-last":
        x = np.ascontiguousarray(values.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    elif layout == "strided":
        x = np.repeat(values, 2, axis=0)[::2]
    elif layout == "misaligned":
        x = np.frombuffer(b"\0" + values.tobytes(), values.dtype, offset=1).reshape(values.shape)
    x.flags.writeable = False
    dataset = Dataset(x, np.arange(10), normalise=((0.1, 0.2, 0.3), 0.5))
    for batch, labels in DataLoader(dataset, batch_size=4, shuffle=shuffle, seed=0):
        assert batch.flags.c_contiguous
        assert batch.dtype == np.float32
        np.testing.assert_array_equal(batch, dataset.to_float32(values[labels]))


def test_loader_float_targets_become_float32() -> None:
    targets = np.random.default_rng(0).random((2, 10)).T
    for shuffle in (False, True):
        for x, y in DataLoader((np.arange(10.0), targets), batch_size=3, shuffle=shuffle):
            assert y.dtype == np.float32
            assert y.flags.c_contiguous
            np.testing.assert_array_equal(y, targets[x.astype(int)].astype(np.float32))


@pytest.mark.parametrize("layout", ["C", "channels-last"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_loader_never_copies_the_whole(layout: str, dtype: type) -> None:
    x = np.zeros((4000, 3, 16, 16), dtype)
    if layout == "channels-last":
        x = np.zeros((4000, 16, 16, 3), dtype).transpose(0, 3, 1, 2)
    batches = DataLoader((x, np.zeros(4000, np.int64)), batch_size=8, shuffle=True, seed=0)
    tracemalloc.start()
    for index, _ in enumerate(batches):
        if index == 3:
            break
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The order takes 8 bytes a sample, two batches of float32 and a scratch some 100 kB.
    assert peak < 250_000 < x.nbytes // 10


def test_loader_draws_batches_from_one_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def allocate(shape: tuple[int, ...]) -> np.ndarray:
        drawn.append(np.full(shape, np.nan, np.float32))
        return drawn[-1]

    monkeypatch.setattr(loader.layout, "empty", allocate)
    for shuffle in (False, True):
        drawn.clear()
        batches = [x for x, _ in DataLoader(numbered(), batch_size=4, shuffle=shuffle)]
        assert all(batch is memory for batch, memory in zip(batches, drawn, strict=True))
        assert not any(np.isnan(batch).any() for batch in batches)


def test_loader_takes_a_pair_or_a_dataset() -> None:
    dataset = numbered()
    assert DataLoader(dataset).dataset is dataset
    for pair in ((dataset.x, dataset.y), [dataset.x, dataset.y]):
        assert DataLoader(pair).dataset.x is dataset.x


@pytest.mark.parametrize(
    ("arguments", "kind", "complaint"),
    [
        ({"dataset": np.zeros((2, 3))}, TypeError, r"dataset is a ndarray, expected a Dataset or a pair \(x, y\)"),
        ({"dataset": (1, 2, 3)}, TypeError, "dataset is a tuple, expected a Dataset or a pair"),
        ({"batch_size": 0}, ValueError, "batch_size is 0, expected an integer >= 1"),
        ({"batch_size": 2.0}, TypeError, "batch_size is 2.0, expected an integer >= 1"),
        ({"shuffle": 1}, TypeError, "shuffle is 1, expected True or False"),
        ({"drop_last": "no"}, TypeError, "drop_last is 'no', expected True or False"),
        ({"seed": -1}, ValueError, "seed is -1, expected an integer >= 0"),
        ({"seed": 0.5}, TypeError, "seed is 0.5, expected an integer >= 0"),
    ],
)
def test_loader_bad_arguments(arguments: dict[str, Any], kind: type[Exception], complaint: str) -> None:
    with pytest.raises(kind, match=f"DataLoader: {complaint}"):
        DataLoader(**({"dataset": numbered()} | arguments))


def test_loader_bad_epoch() -> None:
    batches = DataLoader(numbered())
    with pytest.raises(ValueError, match=r"DataLoader.set_epoch: epoch is -1, expected an integer >= 0"):
        batches.set_epoch(-1)
    with pytest.raises(TypeError, match=r"DataLoader.set_epoch: epoch is '1'"):
        batches.set_epoch("1")
