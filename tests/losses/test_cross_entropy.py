"""Cross-entropy: value and gradient against a float64 oracle, extreme scores, every form of target, and PyTorch."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import oracles
import pytest
from numpy.typing import NDArray

import cnet
from cnet.losses import CrossEntropyLoss, Loss

Array = NDArray[np.float64]
TINY = np.finfo(np.float32).tiny


def cross_entropy(x: Any, target: Any, from_logits: bool = True) -> float:
    """The loss in float64; ``target`` holds probabilities."""
    x = np.asarray(x, dtype=np.float64)
    if from_logits:
        x = x - x.max(axis=1, keepdims=True)
        logarithm = x - np.log(np.exp(x).sum(axis=1, keepdims=True))
    else:
        logarithm = np.log(np.maximum(x, TINY))
    return float(-(np.asarray(target, dtype=np.float64) * logarithm).sum(axis=1).mean())


def one_hot(labels: Any, classes: int) -> Array:
    return np.eye(classes)[np.asarray(labels)]


def scores(samples: int, classes: int, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(-4, 4, (samples, classes)).astype(np.float32)


def probabilities(samples: int, classes: int, seed: int = 2) -> NDArray[np.float32]:
    values = np.random.default_rng(seed).uniform(0.05, 1, (samples, classes))
    return (values / values.sum(axis=1, keepdims=True)).astype(np.float32)


def labels_of(samples: int, classes: int) -> NDArray[np.int64]:
    return np.random.default_rng(3).integers(0, classes, samples)


def both(criterion: Loss, x: Any, target: Any) -> tuple[float, NDArray[np.float32]]:
    value = criterion(x, target)
    assert type(value) is float
    gradient = criterion.backward()
    assert gradient.dtype == np.float32 and gradient.shape == np.shape(x)
    return value, gradient


SIZES = [(1, 1), (1, 2), (3, 2), (7, 5), (5, 15), (4, 16), (3, 17), (2, 33), (65, 10)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("soft", [False, True], ids=["labels", "soft"])
@pytest.mark.parametrize("from_logits", [True, False], ids=["scores", "probabilities"])
def test_loss_and_gradient_match_oracle(isa: str, size: tuple[int, int], soft: bool, from_logits: bool) -> None:
    x = scores(*size) if from_logits else probabilities(*size)
    target: Any = probabilities(*size, seed=5) if soft else labels_of(*size)
    dense = target.astype(np.float64) if soft else one_hot(target, size[1])
    value, gradient = both(CrossEntropyLoss(from_logits), x, target)
    assert value == pytest.approx(cross_entropy(x, dense, from_logits), rel=1e-6, abs=1e-7)
    if x.size <= 100:
        expected = oracles.numeric_gradient(lambda varied: cross_entropy(varied, dense, from_logits), x)
    elif from_logits:
        powers = np.exp(x.astype(np.float64))
        expected = (powers / powers.sum(axis=1, keepdims=True) * dense.sum(axis=1, keepdims=True) - dense) / len(x)
    else:
        expected = -dense / x / len(x)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6 / len(x))


def test_worked_example() -> None:
    value, gradient = both(CrossEntropyLoss(), [[0.0, np.log(3.0)], [0.0, 0.0]], [1, 0])
    assert value == pytest.approx((np.log(4 / 3) + np.log(2)) / 2)
    np.testing.assert_allclose(gradient, [[0.125, -0.125], [-0.25, 0.25]], rtol=1e-6)
    value, gradient = both(CrossEntropyLoss(from_logits=False), [[0.25, 0.75], [0.5, 0.5]], [1, 0])
    assert value == pytest.approx((np.log(4 / 3) + np.log(2)) / 2)
    np.testing.assert_allclose(gradient, [[0, -2 / 3], [-1, 0]], rtol=1e-6)


@pytest.mark.parametrize("from_logits", [True, False], ids=["scores", "probabilities"])
def test_labels_one_hot_rows_and_soft_targets_agree(isa: str, from_logits: bool) -> None:
    x = scores(9, 6) if from_logits else probabilities(9, 6)
    labels = labels_of(9, 6)
    criterion = CrossEntropyLoss(from_logits)
    value, gradient = both(criterion, x, labels)
    for dtype in (np.float32, np.float64, np.int64, np.uint8, bool):
        other_value, other_gradient = both(criterion, x, one_hot(labels, 6).astype(dtype))
        assert other_value == pytest.approx(value, rel=1e-6)
        np.testing.assert_allclose(other_gradient, gradient, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("weight", [0.0, 0.5, 3.0])
def test_rows_of_a_soft_target_need_not_sum_to_one(isa: str, weight: float) -> None:
    x, target = scores(4, 5), weight * probabilities(4, 5)
    value, gradient = both(CrossEntropyLoss(), x, target)
    assert value == pytest.approx(cross_entropy(x, target), rel=1e-6, abs=1e-12)
    expected = oracles.numeric_gradient(lambda varied: cross_entropy(varied, target), x)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)


# ---- extremes


@pytest.mark.parametrize("shift", [1e4, -1e4, 0.0, 3e38, -3e38])
@pytest.mark.parametrize("soft", [False, True], ids=["labels", "soft"])
def test_scores_that_are_all_huge_are_all_equal(isa: str, shift: float, soft: bool) -> None:
    x = np.full((3, 4), shift, np.float32)
    value, gradient = both(CrossEntropyLoss(), x, one_hot([0, 1, 3], 4) if soft else [0, 1, 3])
    assert value == pytest.approx(np.log(4), rel=1e-6)
    np.testing.assert_allclose(gradient, (0.25 - one_hot([0, 1, 3], 4)) / 3, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("soft", [False, True], ids=["labels", "soft"])
def test_scores_far_apart_give_their_distance(isa: str, soft: bool) -> None:
    x = np.float32([[1e4, 0, -1e4], [-1e4, 0, 1e4], [1e4, 0, -1e4]])
    labels = [0, 0, 1]
    value, gradient = both(CrossEntropyLoss(), x, one_hot(labels, 3) if soft else labels)
    assert value == pytest.approx((0 + 2e4 + 1e4) / 3, rel=1e-6)
    np.testing.assert_allclose(gradient, np.array([[0, 0, 0], [-1, 0, 1], [1, -1, 0]]) / 3, rtol=1e-6, atol=1e-30)


def test_certain_and_right_costs_nothing(isa: str) -> None:
    value, gradient = both(CrossEntropyLoss(), np.float32([[200, 0], [0, 200]]), [0, 1])
    assert value == 0 and not gradient.any()
    value, _ = both(CrossEntropyLoss(from_logits=False), np.float32([[1, 0], [0, 1]]), [0, 1])
    assert value == 0


def test_small_losses_are_as_exact_as_float32_allows(isa: str) -> None:
    """Near certainty the loss is about exp(-gap), of which a sum in float32 that is near 1 leaves an absolute error."""
    for gap in (4.0, 10.0, 14.0, 20.0, 40.0):
        value, gradient = both(CrossEntropyLoss(), np.float32([[gap, 0]]), [0])
        assert value == pytest.approx(np.log1p(np.exp(-gap)), rel=1e-6, abs=float(np.finfo(np.float32).eps))
        np.testing.assert_allclose(gradient[0, 1], 1 / (1 + np.exp(gap)), rtol=1e-5)


def test_probability_of_zero_is_bounded(isa: str) -> None:
    x = np.float32([[0.0, 1.0], [1e-42, 1.0], [TINY, 1.0]])
    value, gradient = both(CrossEntropyLoss(from_logits=False), x, [0, 0, 0])
    assert value == pytest.approx(-np.log(float(TINY)), rel=1e-6) == pytest.approx(87.3365, rel=1e-5)
    assert np.isfinite(gradient).all() and (gradient[:, 0] < 0).all() and not gradient[:, 1].any()


@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("soft", [False, True], ids=["labels", "soft"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_nan_in_the_output_shows_in_the_loss(isa: str, from_logits: bool, soft: bool, place: int) -> None:
    """A model that has diverged must not report a finite loss."""
    x = probabilities(2, 3)
    x[1, place] = np.nan
    target: Any = np.full((2, 3), 1 / 3) if soft else [0, place]
    value, gradient = both(CrossEntropyLoss(from_logits), x, target)
    assert np.isnan(value) and np.isnan(gradient[1]).any() and np.isfinite(gradient[0]).all()


@pytest.mark.parametrize("from_logits", [True, False])
def test_same_bits_on_any_number_of_threads(isa: str, from_logits: bool) -> None:
    samples, classes = 700, 1003
    x = scores(samples, classes) if from_logits else probabilities(samples, classes)
    before = cnet.get_num_threads()
    try:
        for target in (labels_of(samples, classes), probabilities(samples, classes)):
            results = set()
            for threads in (1, 2, 3):
                cnet.set_num_threads(threads)
                value, gradient = both(CrossEntropyLoss(from_logits), x, target)
                results.add((value, gradient.tobytes()))
            assert len(results) == 1
    finally:
        cnet.set_num_threads(before)


# ---- what may be passed


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", ">i4"])
def test_labels_of_any_integer_dtype(dtype: str) -> None:
    x, labels = scores(5, 4), np.array([3, 0, 1, 2, 3])
    expected = both(CrossEntropyLoss(), x, labels)
    for form in (labels.astype(dtype), np.repeat(labels.astype(dtype), 2)[::2], labels[::-1].astype(dtype)[::-1]):
        value, gradient = both(CrossEntropyLoss(), x, form)
        assert value == expected[0] and gradient.tobytes() == expected[1].tobytes()


@pytest.mark.parametrize(
    "form", [np.asfortranarray, np.ndarray.tolist, lambda x: x.astype(np.float64), lambda x: x[::-1].copy()[::-1]]
)
def test_form_of_the_arrays_does_not_matter(form: Any) -> None:
    x, target = scores(5, 4), probabilities(5, 4)
    value, gradient = both(CrossEntropyLoss(), x, target)
    for other in (both(CrossEntropyLoss(), form(x), target), both(CrossEntropyLoss(), x, form(target))):
        assert other[0] == value and other[1].tobytes() == gradient.tobytes()


def test_arrays_are_only_read() -> None:
    for from_logits, soft in itertools.product((True, False), repeat=2):
        x, target = probabilities(5, 4), probabilities(5, 4, seed=4) if soft else labels_of(5, 4)
        x.flags.writeable = target.flags.writeable = False
        copies = x.copy(), target.copy()
        both(CrossEntropyLoss(from_logits), x, target)
        assert (x == copies[0]).all() and (target == copies[1]).all()


ERRORS: list[tuple[Any, Any, type[Exception], str]] = [
    (np.zeros((2, 3)), [0, 3], ValueError, r"target holds the label 3, expected labels in \[0, 2\]"),
    (np.zeros((2, 3)), [0, -1], ValueError, r"target holds the label -1, expected labels in \[0, 2\]"),
    (np.zeros((2, 3)), np.array([0, 2**63], np.uint64), ValueError, "target holds the label 9223372036854775808"),
    (np.zeros((2, 3)), np.array([0, 255], np.uint8), ValueError, "target holds the label 255"),
    (np.zeros((2, 3)), [0.0, 1.0], TypeError, r"target has shape \(2,\) and dtype float64, expected integer class"),
    (np.zeros((2, 3)), [True, False], TypeError, r"target has shape \(2,\) and dtype bool, expected integer class"),
    (np.zeros((2, 3)), ["a", "b"], TypeError, "target has dtype <U1, expected real numbers"),
    (np.zeros((2, 3)), None, TypeError, "target is a NoneType"),
    (np.zeros((2, 3)), [1j, 0], TypeError, "target has dtype complex128"),
    (np.zeros((2, 3)), [0, 1, 2], ValueError, r"target has shape \(3,\), expected \(2,\) class indices or \(2, 3\)"),
    (np.zeros((2, 3)), 0, ValueError, r"target has shape \(\), expected \(2,\) class indices"),
    (np.zeros((2, 3)), [[0], [1]], ValueError, r"target has shape \(2, 1\), expected \(2,\) class indices"),
    (np.zeros((2, 3)), np.zeros((3, 2)), ValueError, r"target has shape \(3, 2\), expected \(2,\) class indices"),
    (np.zeros((2, 3)), np.zeros((2, 3, 1)), ValueError, r"target has shape \(2, 3, 1\), expected"),
    (np.zeros((2, 3)), [], ValueError, r"target has shape \(0,\), expected"),
    (np.zeros((1, 2)), [[np.nan, 1]], ValueError, "target holds a negative, infinite or NaN probability, expected"),
    (np.zeros((1, 2)), [[np.inf, 1]], ValueError, "target holds a negative, infinite or NaN probability"),
    (np.zeros((1, 2)), [[-0.1, 1.1]], ValueError, "target holds a negative, infinite or NaN probability"),
    (np.zeros((0, 3)), [], ValueError, r"x has shape \(0, 3\), expected at least one element"),
    (np.zeros((2, 0)), [0, 0], ValueError, r"x has shape \(2, 0\), expected at least one element"),
    (np.zeros(3), [0, 0, 0], ValueError, r"x has shape \(3,\), expected \(N, classes\). Flatten the model's output"),
    (np.zeros((2, 3, 4)), [0, 0], ValueError, r"x has shape \(2, 3, 4\), expected \(N, classes\)"),
    (np.float32(1), [0], ValueError, r"x has shape \(\), expected \(N, classes\)"),
    (np.zeros((2, 3), complex), [0, 0], TypeError, "x has dtype complex128, expected real numbers"),
    (None, [0, 0], TypeError, "x is a NoneType"),
]  # fmt: skip


@pytest.mark.parametrize(("x", "target", "error", "message"), ERRORS, ids=[row[3][:40] for row in ERRORS])
@pytest.mark.parametrize("from_logits", [True, False])
def test_nonsense_is_refused_by_name(
    x: Any, target: Any, error: type[Exception], message: str, from_logits: bool
) -> None:
    criterion = CrossEntropyLoss(from_logits)
    criterion(np.ones((1, 2)), [0])
    with pytest.raises(error, match=rf"^CrossEntropyLoss: {message}"):
        criterion(x, target)
    # A gradient of the batch before must not pass for that of the batch that was refused.
    with pytest.raises(RuntimeError):
        criterion.backward()


@pytest.mark.parametrize("value", [None, 1, 0, "True"])
def test_from_logits_is_true_or_false(value: Any) -> None:
    with pytest.raises(TypeError, match=r"CrossEntropyLoss: from_logits is .*, expected True or False"):
        CrossEntropyLoss(value)


# ---- the contract of a loss


def test_backward_gives_the_gradient_once() -> None:
    criterion = CrossEntropyLoss()
    with pytest.raises(
        RuntimeError, match=r"^CrossEntropyLoss: backward comes before forward, or a second time\. Comp"
    ):
        criterion.backward()
    criterion(scores(2, 3), [0, 1])
    criterion.backward()
    with pytest.raises(RuntimeError, match=r"^CrossEntropyLoss: backward comes"):
        criterion.backward()


def test_backward_belongs_to_the_last_batch() -> None:
    criterion = CrossEntropyLoss()
    criterion(scores(2, 3), [0, 1])
    criterion(scores(4, 5), [0, 1, 2, 3])
    assert criterion.backward().shape == (4, 5)


def test_gradient_stays_after_later_batches() -> None:
    criterion = CrossEntropyLoss()
    _, gradient = both(criterion, scores(2, 3), [0, 1])
    copy = gradient.copy()
    both(criterion, scores(2, 3, seed=9), [1, 1])
    assert (gradient == copy).all()


def test_repr_is_a_constructor_call() -> None:
    assert repr(CrossEntropyLoss()) == "CrossEntropyLoss()"
    assert repr(CrossEntropyLoss(False)) == "CrossEntropyLoss(from_logits=False)"


# ---- PyTorch


@pytest.mark.parametrize("soft", [False, True], ids=["labels", "soft"])
def test_parity_with_pytorch(soft: bool) -> None:
    torch = pytest.importorskip("torch")
    for size, scale in itertools.product(SIZES, (1.0, 50.0)):
        x = scale * scores(*size)
        target: Any = probabilities(*size, seed=5) if soft else labels_of(*size)
        tensor = torch.tensor(x, requires_grad=True)
        expected = torch.nn.CrossEntropyLoss()(tensor, torch.tensor(target))
        expected.backward()
        value, gradient = both(CrossEntropyLoss(), x, target)
        assert value == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)
        np.testing.assert_allclose(gradient, tensor.grad.numpy(), rtol=1e-4, atol=1e-7)


def test_parity_of_probabilities_with_pytorch() -> None:
    torch = pytest.importorskip("torch")
    x, labels = probabilities(7, 5), labels_of(7, 5)
    tensor = torch.tensor(x, requires_grad=True)
    expected = torch.nn.NLLLoss()(tensor.log(), torch.tensor(labels))
    expected.backward()
    value, gradient = both(CrossEntropyLoss(from_logits=False), x, labels)
    assert value == pytest.approx(expected.item(), rel=1e-6)
    np.testing.assert_allclose(gradient, tensor.grad.numpy(), rtol=1e-5)
