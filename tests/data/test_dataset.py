from __future__ import annotations

import copy
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnet.data import Dataset


def pixels(n: int = 6, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=(n, channels, 4, 3), dtype=np.uint8)


def test_dataset_holds_samples_by_reference() -> None:
    x = pixels()
    y = np.arange(6)
    dataset = Dataset(x, y, name="six")
    assert dataset.x is x
    assert dataset.y is y
    assert (dataset.name, dataset.normalise, dataset.classes, len(dataset)) == ("six", (0.0, 1.0), 6, 6)


def test_dataset_is_frozen() -> None:
    dataset = Dataset(pixels(), np.arange(6))
    for attribute in ("x", "y", "name", "normalise", "classes", "anything"):
        with pytest.raises(AttributeError):
            setattr(dataset, attribute, None)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.int64, np.uint64])
def test_dataset_integer_labels_become_int64(dtype: type) -> None:
    dataset = Dataset(pixels(2), np.array([0, 1], dtype))
    assert dataset.y.dtype == np.int64
    assert dataset.y.tolist() == [0, 1]
    assert dataset.classes == 2


def test_dataset_float_labels_stay() -> None:
    y = np.zeros((6, 2))
    dataset = Dataset(pixels(), y)
    assert dataset.y is y
    assert dataset.classes is None


def test_dataset_classes() -> None:
    assert Dataset(pixels(2), [0, 4]).classes == 5
    assert Dataset(pixels(2), [0, 4], classes=10).classes == 10
    assert Dataset(pixels(2), [-100, -100]).classes == 0
    assert Dataset(pixels(2), [[0, 4], [1, 1]]).classes is None
    assert Dataset(pixels(0), []).classes is None
    assert Dataset(pixels(0), np.zeros(0, np.int64)).classes == 0


def test_dataset_sheds_memmap_without_a_copy(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", pixels())
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    dataset = Dataset(mapped, np.arange(6))
    assert type(dataset.x) is np.ndarray
    assert np.shares_memory(dataset.x, mapped)


def test_dataset_integer_index_gives_a_pair_as_stored() -> None:
    x = pixels()
    dataset = Dataset(x, np.arange(6))
    for index in (2, np.int64(2), -4):
        sample, label = dataset[index]
        assert np.shares_memory(sample, x[2])
        assert sample.dtype == np.uint8
        assert label == 2
    assert [int(label) for _, label in dataset] == [0, 1, 2, 3, 4, 5]


def test_dataset_slice_gives_a_dataset_of_views() -> None:
    x = pixels()
    dataset = Dataset(x, np.arange(6), name="six", normalise=(0.5, 0.25), classes=9)
    part = dataset[1:5:2]
    assert np.shares_memory(part.x, x)
    assert part.y.tolist() == [1, 3]
    assert (part.name, part.normalise, part.classes) == ("six", (0.5, 0.25), 9)
    assert len(dataset[3:3]) == 0
    assert dataset[3:3].classes == 9


@pytest.mark.parametrize(
    "index",
    [[4, 0, 4], np.array([4, 0, 4], np.uint8), np.array([-2, 0, -2])],
    ids=["list", "uint8", "negative"],
)
def test_dataset_array_index_gives_a_dataset_of_copies(index: Any) -> None:
    dataset = Dataset(pixels(), np.arange(6), classes=6)
    part = dataset[index]
    np.testing.assert_array_equal(part.x, dataset.x[[4, 0, 4]])
    assert part.y.tolist() == [4, 0, 4]
    assert part.classes == 6
    assert not np.shares_memory(part.x, dataset.x)


def test_dataset_mask_and_empty_index() -> None:
    dataset = Dataset(pixels(), np.arange(6))
    assert dataset[dataset.y > 3].y.tolist() == [4, 5]
    assert dataset[[True, False, False, False, False, True]].y.tolist() == [0, 5]
    assert len(dataset[[]]) == 0
    assert len(dataset[np.zeros(0, np.int64)]) == 0
    assert len(Dataset(pixels(0), np.zeros(0, np.int64))[:]) == 0


@pytest.mark.parametrize(
    ("index", "kind", "complaint"),
    [
        (6, IndexError, "Dataset: index is 6, expected integers from -6 to 5"),
        (-7, IndexError, "Dataset: index is -7, expected integers from -6 to 5"),
        ([0, 6], IndexError, "Dataset: index holds 6, expected integers from -6 to 5"),
        (np.array([-7]), IndexError, "Dataset: index holds -7"),
        (np.array([2**63], np.uint64), IndexError, f"Dataset: index holds {2**63}"),
        (1.0, TypeError, "Dataset: index is 1.0, expected an integer, a slice"),
        (True, TypeError, "Dataset: index is True, expected an integer, a slice"),
        ("x", TypeError, "Dataset: index is 'x'"),
        (None, TypeError, "Dataset: index is None"),
        ((0, 1), TypeError, r"Dataset: index is \(0, 1\)"),
        ([0.0], TypeError, "Dataset: index has dtype float64"),
        (np.zeros(0), TypeError, "Dataset: index has dtype float64"),
        ([[0, 1], [2]], TypeError, "Dataset: index is a ragged sequence"),
        ([[0, 1]], ValueError, r"Dataset: index has shape \(1, 2\), expected one dimension"),
        (np.array(1), ValueError, r"Dataset: index has shape \(\), expected one dimension"),
        (np.ones(5, bool), ValueError, r"Dataset: index has shape \(5,\), expected \(6,\) for a boolean mask"),
    ],
)
def test_dataset_bad_index(index: Any, kind: type[Exception], complaint: str) -> None:
    with pytest.raises(kind, match=complaint):
        Dataset(pixels(), np.arange(6))[index]


def test_dataset_empty_has_no_index() -> None:
    with pytest.raises(IndexError, match="expected none, as the dataset is empty"):
        Dataset(pixels(0), [])[0]


@pytest.mark.parametrize(
    ("arguments", "kind", "complaint"),
    [
        ({"y": [0, 1]}, ValueError, r"Dataset: y has shape \(2,\), expected \(6, ...\), one label for each"),
        ({"x": 3}, ValueError, r"Dataset: x has shape \(\), expected \(N, ...\)"),
        ({"y": 3}, ValueError, r"Dataset: y has shape \(\), expected \(N, ...\)"),
        ({"x": ["a"] * 6}, TypeError, "Dataset: x has dtype"),
        ({"y": np.zeros(6, complex)}, TypeError, "Dataset: y has dtype complex128"),
        ({"y": np.full(6, 2**63, np.uint64)}, ValueError, f"Dataset: y holds the label {2**63}, expected .* int64"),
        ({"name": 3}, TypeError, "Dataset: name is 3, expected a str"),
        ({"normalise": 0.5}, TypeError, r"Dataset: normalise is 0.5, expected a pair \(mean, std\)"),
        ({"normalise": (1.0, 2.0, 3.0)}, TypeError, r"expected a pair \(mean, std\)"),
        ({"normalise": (0.0, 0.0)}, ValueError, "Dataset: std is 0, expected a finite number > 0"),
        ({"normalise": (np.inf, 1.0)}, ValueError, "Dataset: mean is inf, expected a finite number"),
        ({"normalise": ("a", 1.0)}, TypeError, "Dataset: mean is 'a'"),
        ({"normalise": ((0.0, 0.0), 1.0)}, ValueError, "mean has 2 numbers, expected .* each of the 1 channels"),
        ({"normalise": (0.0, (-1.0,))}, ValueError, r"Dataset: std\[0\] is -1, expected a finite number > 0"),
        ({"x": np.zeros(6), "normalise": ([0.0], 1.0)}, ValueError, "mean has 1 numbers, expected a number"),
        ({"classes": -1}, ValueError, "Dataset: classes is -1, expected an integer >= 0"),
        ({"classes": 5}, ValueError, "Dataset: y holds the label 5, expected less than 5"),
        ({"classes": "ten"}, TypeError, "Dataset: classes is 'ten'"),
    ],
)
def test_dataset_bad_arguments(arguments: dict[str, Any], kind: type[Exception], complaint: str) -> None:
    with pytest.raises(kind, match=complaint):
        Dataset(**({"x": pixels(), "y": np.arange(6)} | arguments))


def test_dataset_repr() -> None:
    assert repr(Dataset(pixels(), np.zeros(6))) == "Dataset(6 samples of shape (1, 4, 3) uint8)"


def test_dataset_survives_pickle_and_copy() -> None:
    dataset = Dataset(pixels(), np.arange(6), name="six", normalise=(0.5, 0.25), classes=7)
    for twin in (pickle.loads(pickle.dumps(dataset)), copy.copy(dataset)):
        assert repr(twin) == repr(dataset)
        np.testing.assert_array_equal(twin.to_float32(twin.x), dataset.to_float32(dataset.x))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int64, np.float16, np.float32, np.float64, ">f4", ">i2", bool])
@pytest.mark.parametrize(
    "normalise",
    [(0.0, 1.0), (0.1307, 0.3081), (-3.0, 1.0), (0.0, 2.0), ((0.1, 0.0), (1.0, 0.25)), (np.array([0.5, 0.5]), 1)],
)
def test_dataset_to_float32_follows_the_formula(dtype: Any, normalise: Any) -> None:
    x = pixels(5, channels=2).astype(dtype)
    dataset = Dataset(x, np.arange(5), normalise=normalise)
    unit = 255.0 if x.dtype == np.uint8 else 1.0
    mean, std = (np.reshape(np.broadcast_to(np.asarray(value, float), 2), (2, 1, 1)) for value in normalise)
    with np.errstate(over="ignore"):
        expected = (x.astype(np.float64) / unit - mean) / std
    result = dataset.to_float32(x)
    assert result.dtype == np.float32
    assert result.dtype.isnative
    assert result.flags.c_contiguous
    largest = np.maximum(np.abs(x.astype(np.float64) / unit / std), np.abs(mean / std))
    assert np.all(np.abs(result - expected) <= 4 * np.spacing(largest.astype(np.float32)))


def test_dataset_to_float32_keeps_pixels_within_the_unit_interval() -> None:
    x = np.arange(256, dtype=np.uint8).reshape(256, 1)
    result = Dataset(x, np.arange(256)).to_float32(x)
    assert (result.min(), result.max()) == (0.0, 1.0)
    np.testing.assert_array_max_ulp(result, x / np.float32(255), maxulp=1)


def test_dataset_to_float32_keeps_accuracy_beside_a_large_mean() -> None:
    x = np.float32(1e4) + np.arange(8, dtype=np.float32).reshape(8, 1)
    result = Dataset(x, np.arange(8), normalise=(1e4, 0.1)).to_float32(x)
    np.testing.assert_allclose(result.ravel(), 10.0 * np.arange(8), rtol=1e-6)


def test_dataset_to_float32_into_memory_given() -> None:
    x = pixels()
    dataset = Dataset(x, np.arange(6), normalise=(0.5, 0.25))
    out = np.full(x.shape, np.nan, np.float32)
    assert dataset.to_float32(x, out=out) is out
    np.testing.assert_array_equal(out, dataset.to_float32(x))
    real = Dataset(out.copy(), np.arange(6), normalise=(0.5, 0.25))
    in_place = out.copy()
    assert real.to_float32(in_place, out=in_place) is in_place
    np.testing.assert_array_equal(in_place, real.to_float32(out))


def test_dataset_to_float32_never_returns_its_own_samples() -> None:
    x = np.zeros((4, 2), np.float32)
    assert not np.shares_memory(Dataset(x, np.arange(4)).to_float32(x), x)


@pytest.mark.parametrize(
    ("samples", "out", "kind", "complaint"),
    [
        (np.zeros((2, 1, 4, 3)), None, TypeError, "samples has dtype float64, expected uint8, as x"),
        (
            pixels()[:, 0],
            None,
            ValueError,
            r"samples has shape \(6, 4, 3\), expected \(n, ...\) with samples of shape \(1, 4, 3\)",
        ),
        (["a"], None, TypeError, "samples has dtype .*, expected real numbers"),
        (np.uint8(1), None, ValueError, r"samples has shape \(\), expected \(n, ...\)"),
        (pixels(), [1.0], TypeError, "out is a list, expected a float32 array"),
        (pixels(), np.zeros((6, 1, 4, 3)), TypeError, "out has dtype float64, expected a float32 array"),
        (pixels(), np.zeros((5, 1, 4, 3), np.float32), ValueError, r"out has shape \(5, 1, 4, 3\), expected \(6, "),
    ],
)
def test_dataset_to_float32_bad_arguments(samples: np.ndarray, out: Any, kind: type[Exception], complaint: str) -> None:
    with pytest.raises(kind, match=f"Dataset.to_float32: {complaint}"):
        Dataset(pixels(), np.arange(6)).to_float32(samples, out=out)


def test_dataset_never_copies_the_whole() -> None:
    x = np.zeros((4000, 1, 28, 28), np.uint8)
    y = np.zeros(4000, np.int64)
    tracemalloc.start()
    dataset = Dataset(x, y, normalise=(0.1307, 0.3081))
    dataset.to_float32(dataset[1000:1010].x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < x.nbytes // 20
