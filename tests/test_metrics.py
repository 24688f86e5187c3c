"""Accuracy and confusion matrix: values worked by hand, plain-Python oracles, streams, refusals."""

# The tests of refusals pass wrong types on purpose.
# mypy: disable-error-code="arg-type, list-item"

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cnet.metrics import Accuracy, ConfusionMatrix, accuracy, confusion_matrix, hits

TARGET = [0, 1, 2, 2, 1]
PREDICTION = [0, 2, 2, 1, 1]
MATRIX = [[1, 0, 0], [0, 1, 1], [0, 1, 1]]

SCORES = np.array([[3.0, 1, 2], [0, 1, 5], [0, 1, 5], [-9, -1, -5], [0, 0.5, 0]])  # argmax: PREDICTION
ONE_HOT = np.eye(3)[TARGET]


def labels(classes: int = 6) -> Any:
    pair = st.tuples(st.integers(0, classes - 1), st.integers(0, classes - 1))
    return st.lists(pair, min_size=1, max_size=60)


def loop_matrix(pairs: list[tuple[int, int]], classes: int) -> list[list[int]]:
    counts = [[0] * classes for _ in range(classes)]
    for truth, guess in pairs:
        counts[truth][guess] += 1
    return counts


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("form", [np.ascontiguousarray, np.asfortranarray, lambda x: np.repeat(x, 2, axis=0)[::2]])
def test_hits_count_rows_whose_first_maximum_is_at_the_label(dtype: Any, form: Any) -> None:
    for kind in (np.int64, np.int8, ">i4"):
        assert hits(form(SCORES.astype(dtype)), np.array(TARGET, kind)) == 3


@pytest.mark.parametrize("target", [TARGET, np.array(TARGET, dtype=np.uint8), ONE_HOT, ONE_HOT.astype(bool)])
@pytest.mark.parametrize("prediction", [PREDICTION, np.array(PREDICTION, dtype=np.int16), SCORES, SCORES.tolist()])
def test_every_form_of_labels_counts_alike(target: Any, prediction: Any) -> None:
    assert accuracy(target, prediction) == 0.6
    assert confusion_matrix(target, prediction).tolist() == MATRIX


def test_confusion_matrix_has_true_classes_in_rows() -> None:
    matrix = confusion_matrix([0, 0, 0], [1, 1, 0])
    assert matrix.tolist() == [[1, 2], [0, 0]]
    assert matrix.dtype == np.int64


@given(labels())
def test_metrics_equal_plain_loops(pairs: list[tuple[int, int]]) -> None:
    target, prediction = map(list, zip(*pairs, strict=True))
    assert accuracy(target, prediction) == sum(truth == guess for truth, guess in pairs) / len(pairs)
    classes = 1 + max(target + prediction)
    assert confusion_matrix(target, prediction).tolist() == loop_matrix(pairs, classes)
    assert confusion_matrix(target, prediction, classes=9).tolist() == loop_matrix(pairs, 9)


@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 20), st.integers(2, 5)), elements=st.sampled_from([0, 1, 2])))
def test_first_maximum_wins(scores: Any) -> None:
    winners = [row.index(max(row)) for row in scores.tolist()]
    assert accuracy(winners, scores) == 1.0


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble, np.int8, bool])
def test_scores_of_any_real_dtype(dtype: Any) -> None:
    scores = np.eye(4, dtype=dtype)
    assert accuracy([0, 1, 2, 3], scores) == 1.0


def test_binary_labels_may_be_booleans() -> None:
    probability = np.array([0.2, 0.7, 0.9])
    assert accuracy([False, True, False], probability > 0.5) == pytest.approx(2 / 3)


def test_infinite_scores_are_numbers() -> None:
    assert accuracy([1, 0], [[0.0, np.inf], [0.0, -np.inf]]) == 1.0


def test_soft_targets_count_by_their_largest_class() -> None:
    smoothed = np.full((2, 4), 0.025, dtype=np.float32)
    smoothed[0, 3] = smoothed[1, 1] = 0.925
    assert confusion_matrix(smoothed, [3, 0]).tolist() == [[0] * 4, [1, 0, 0, 0], [0] * 4, [0, 0, 0, 1]]


def test_classes_come_from_columns_where_there_are_any() -> None:
    assert confusion_matrix([0, 1], np.eye(5)[[0, 1]]).shape == (5, 5)
    assert confusion_matrix(np.eye(5)[[0, 1]], [0, 1]).shape == (5, 5)
    assert confusion_matrix([0], [0]).shape == (1, 1)


def test_arguments_are_not_changed() -> None:
    target, prediction = np.array(TARGET), SCORES.copy()
    target.flags.writeable = prediction.flags.writeable = False
    confusion_matrix(target, prediction)
    ConfusionMatrix().update(target, prediction)


def test_strided_and_byte_swapped_arrays() -> None:
    target = np.array(TARGET, dtype=">i4")
    scores = np.repeat(SCORES, 2, axis=0)[::2].astype(">f8")
    assert confusion_matrix(target, scores).tolist() == MATRIX


# --- Streams ----------------------------------------------------------------------------------------------------------


@given(labels(), st.integers(1, 7))
def test_stream_equals_whole(pairs: list[tuple[int, int]], batch: int) -> None:
    target, prediction = map(np.array, zip(*pairs, strict=True))
    fraction, counts, sized = Accuracy(), ConfusionMatrix(), ConfusionMatrix(classes=8)
    for start in range(0, len(pairs), batch):
        part = slice(start, start + batch)
        for metric in (fraction, counts, sized):
            metric.update(target[part], prediction[part])
    assert fraction.compute() == accuracy(target, prediction)
    assert counts.compute().tolist() == confusion_matrix(target, prediction).tolist()
    assert sized.compute().tolist() == confusion_matrix(target, prediction, 8).tolist()


def test_stream_weighs_samples_not_batches() -> None:
    metric = Accuracy()
    metric.update([0, 0, 0], [0, 0, 0])
    metric.update([0], [1])
    assert metric.compute() == 0.75


@pytest.mark.parametrize("metric", [Accuracy(), ConfusionMatrix(), ConfusionMatrix(3)], ids=repr)
def test_compute_before_update_is_refused(metric: Any) -> None:
    with pytest.raises(RuntimeError, match=r"compute\(\) before any batch\. Call update\(\) first\."):
        metric.compute()
    metric.update([0], [0])
    metric.compute()
    metric.reset()
    with pytest.raises(RuntimeError, match="before any batch"):
        metric.compute()


@pytest.mark.parametrize("metric", [Accuracy(), ConfusionMatrix(), ConfusionMatrix(3)], ids=repr)
def test_refused_update_changes_nothing(metric: Any) -> None:
    metric.reset()
    metric.update(TARGET, PREDICTION)
    before = np.array(metric.compute())
    for target, prediction in [([0], [0, 1]), ([0], [[np.nan, 0.0, 0.0]]), ([0], [-1]), ([], [])]:
        with pytest.raises(ValueError, match=type(metric).__name__):
            metric.update(target, prediction)
    assert np.array_equal(metric.compute(), before)


def test_computed_matrix_is_a_copy() -> None:
    metric = ConfusionMatrix()
    metric.update([0, 1], [0, 1])
    earlier = metric.compute()
    metric.update([0, 1], [0, 1])
    metric.compute()[:] = -1
    assert earlier.tolist() == [[1, 0], [0, 1]]
    assert metric.compute().tolist() == [[2, 0], [0, 2]]


def test_matrix_grows_with_later_and_keeps_with_smaller_batches() -> None:
    metric = ConfusionMatrix()
    metric.update([0], [0])
    metric.update([2], [1])
    metric.update([0], [1])
    assert metric.compute().tolist() == [[1, 1, 0], [0, 0, 0], [0, 1, 0]]


def test_repr_shows_counts() -> None:
    fraction, counts = Accuracy(), ConfusionMatrix(3)
    assert repr(counts) == "ConfusionMatrix(classes=3, total=0)"
    for metric in (fraction, counts):
        metric.update(TARGET, PREDICTION)
    assert repr(fraction) == "Accuracy(correct=3, total=5)"
    assert repr(counts) == "ConfusionMatrix(classes=3, total=5)"


# --- Refusals ---------------------------------------------------------------------------------------------------------

REFUSED: list[tuple[Any, Any, type[Exception], str]] = [
    ([], [], ValueError, r"target has shape \(0,\), expected at least one element"),
    (np.zeros((0, 3)), np.zeros((0, 3)), ValueError, r"target has shape \(0, 3\), expected at least one"),
    ([0, 1], [0], ValueError, "target has 2 samples, prediction 1, expected equal lengths"),
    ([0, 1], [[0.5, 0.5]], ValueError, "target has 2 samples, prediction 1"),
    ([0, 1], [0.0, 1.0], TypeError, r"prediction has shape \(2,\) and dtype float64.*\(prediction > 0.5\)"),
    ([0.0, 1.0], [0, 1], TypeError, r"target has shape \(2,\) and dtype float64.*target.astype\(int\)"),
    ([0, -1], [0, 1], ValueError, r"target holds class -1, expected indices >= 0\."),
    ([0, 1], [-3, 1], ValueError, "prediction holds class -3"),
    ([0, 3], [[0.5, 0.2, 0.3]] * 2, ValueError, r"target holds class 3, expected indices in \[0, 2\]"),
    ([[0, 1], [1, 0]], [0, 2], ValueError, r"prediction holds class 2, expected indices in \[0, 1\]"),
    ([0, -1], [[0.5, 0.2, 0.3]] * 2, ValueError, r"target holds class -1, expected indices in \[0, 2\]"),
    (np.array([2**63], dtype=np.uint64), [0], ValueError, f"target holds class {2**63}"),
    ([[1, 0]], [[1, 0, 0]], ValueError, r"prediction has shape \(1, 3\), expected \(1, 2\)"),
    ([0, 1], [[0.3], [0.7]], ValueError, r"prediction has shape \(2, 1\).*\(prediction.ravel\(\) > 0.5\)"),
    ([[0], [1]], [0, 1], ValueError, r"target has shape \(2, 1\).*target.ravel\(\) for indices"),
    (0, 0, ValueError, r"target has shape \(\), expected \(N,\) class indices"),
    ([0], np.zeros((1, 3, 4, 4)), ValueError, r"prediction has shape \(1, 3, 4, 4\).*reshape to \(-1, C\)"),
    ([0, 1], [[0.0, 1.0], [np.nan, 2.0]], ValueError, "prediction holds NaN in 1 of 2 rows, first in row 1.*diverged"),
    ([[np.nan, 1.0]], [1], ValueError, "target holds NaN in 1 of 1 rows"),
    ([[1, 0, 0], [1, 0, 1]], [0, 0], ValueError, "row 1 of target has minimum 0 and sum 2.*several labels"),
    ([[0, 0, 0]], [0], ValueError, "row 0 of target has minimum 0 and sum 0"),
    ([[2.0, -1.0]], [0], ValueError, "row 0 of target has minimum -1 and sum 1"),
    ([[np.inf, -np.inf]], [0], ValueError, "row 0 of target has minimum -inf"),
    (["cat"], ["dog"], TypeError, "target has dtype <U3, expected real numbers"),
    ([1j], [0], TypeError, "target has dtype complex128"),
    ([[0, 1], [1]], [0, 1], TypeError, "target is a ragged sequence"),
    (None, [0], TypeError, "target is a NoneType"),
]


@pytest.mark.parametrize(("target", "prediction", "error", "words"), REFUSED)
def test_wrong_labels_are_refused(target: Any, prediction: Any, error: type[Exception], words: str) -> None:
    for function, subject in [
        (accuracy, "accuracy"),
        (confusion_matrix, "confusion_matrix"),
        (Accuracy().update, "Accuracy"),
        (ConfusionMatrix().update, "ConfusionMatrix"),
    ]:
        with pytest.raises(error, match=f"^{subject}: .*{words}"):
            function(target, prediction)  # type: ignore[operator]


def test_wrong_number_of_classes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"target holds class 2, expected indices in \[0, 1\]"):
        confusion_matrix(TARGET, PREDICTION, classes=2)
    with pytest.raises(ValueError, match=r"prediction has shape \(5, 3\), expected \(5, 4\)"):
        confusion_matrix(TARGET, SCORES, classes=4)
    with pytest.raises(ValueError, match="the largest class is 40000, expected at most 32768 classes"):
        confusion_matrix([40_000], [0])
    for classes, error in [(0, ValueError), (2**16, ValueError), (2.0, TypeError), (True, TypeError)]:
        with pytest.raises(error, match="confusion_matrix: classes is"):
            confusion_matrix([0], [0], classes=classes)
        with pytest.raises(error, match="ConfusionMatrix: classes is"):
            ConfusionMatrix(classes)
