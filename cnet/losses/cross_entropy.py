"""Cross-entropy between predicted and true class probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnet import _check, _threads, layout
from cnet._check import Float32Array
from cnet.kernels import loss
from cnet.losses.base import Loss


class CrossEntropyLoss(Loss):
    r"""Cross-entropy of a batch, averaged over its samples.

    .. math:: L = -\frac1N \sum_n \sum_c t_{nc} \log p_{nc}, \qquad p = \mathrm{softmax}(x) \text{ or } p = x

    Backward: :math:`\partial L/\partial x = (p \sum_c t_c - t) / N` from scores, :math:`-t / (p N)` from probabilities.

    Parameters
    ----------
    from_logits : bool, default True
        Whether ``x`` holds scores, of which the softmax is taken here; False if it holds probabilities already, because
        the model ends in ``Softmax``.

    Raises
    ------
    TypeError
        If labels are neither integers nor a matrix of probabilities.
    ValueError
        If shapes do not match, a label is out of range, or a target is NaN, infinite or negative.

    Shapes
    ------
    x : (N, classes)
    target : (N,) class indices of any integer dtype in [0, classes), or (N, classes) probabilities (one-hot or soft)

    Notes
    -----
    The row's maximum is subtracted before the exponential and the logarithm is taken of the sum, so scores of 1e4 give
    a finite loss. Probabilities are bounded below by the smallest normal float32 (1.2e-38), which bounds the loss by
    87.3. Loss and gradient come in one pass; the mean is summed in float64 in the order of the samples.

    References
    ----------
    PyTorch, ``torch.nn.CrossEntropyLoss``.

    Examples
    --------
    >>> from cnet import losses
    >>> criterion = losses.CrossEntropyLoss()
    >>> round(criterion([[0.0, 0.0], [1e4, 0.0]], [0, 0]), 4)
    0.3466
    >>> criterion.backward().round(3).tolist()
    [[-0.25, 0.25], [0.0, 0.0]]
    """

    def __init__(self, from_logits: bool = True) -> None:
        super().__init__()
        self.from_logits = _check.boolean("CrossEntropyLoss", "from_logits", from_logits)
        # The losses of the rows, which the kernel adds up; used again for each batch.
        self._losses = layout.empty_of((0,), np.float64)

    def _forward(self, x: Float32Array, target: Any) -> tuple[float, Float32Array]:
        if x.ndim != 2:
            remedy = "Flatten the model's output."
            raise _check.shape_error("CrossEntropyLoss", "x", x.shape, "(N, classes)", remedy)
        target = _check.numeric("CrossEntropyLoss", "target", target)
        samples = x.shape[0]
        labels = soft = None
        if target.ndim == 1:
            labels = self._check_labels(x, target)
        else:
            soft = self._check_probabilities(x, target)
        if len(self._losses) < samples:
            self._losses = layout.empty_of((samples,), np.float64)
        x = layout.physical(x)
        gradient = layout.empty(x.shape)
        value = loss.cross_entropy(
            x, labels, soft, self.from_logits, 1 / samples, gradient, self._losses, _threads._count
        )
        if value is None:
            low, high = target.min(), target.max()
            received = f"target holds the label {low if low < 0 else high}"
            raise ValueError(_check.message("CrossEntropyLoss", received, f"labels in [0, {x.shape[1] - 1}]"))
        return value, gradient

    def _check_probabilities(self, x: Float32Array, target: Any) -> Float32Array:
        if target.shape != x.shape:
            raise _wrong_shape(x, target)
        probabilities = layout.physical(_check.float32("CrossEntropyLoss", "target", target))
        # The minimum is NaN if any element is.
        if not (probabilities.min() >= 0 and probabilities.max() < np.inf):
            received = "target holds a negative, infinite or NaN probability"
            raise ValueError(_check.message("CrossEntropyLoss", received, "finite numbers >= 0"))
        return probabilities

    def _check_labels(self, x: Float32Array, target: Any) -> NDArray[np.int64]:
        """The labels as the kernel reads them, which sees whether they are in range."""
        samples, classes = x.shape
        if target.shape != (samples,):
            raise _wrong_shape(x, target)
        if target.dtype.kind not in "ui":
            received = f"target has shape ({samples},) and dtype {target.dtype}"
            expected = f"integer class indices, or probabilities of shape ({samples}, {classes})"
            raise TypeError(_check.message("CrossEntropyLoss", received, expected, "Use target.astype(int)."))
        # The largest of uint64 become negative numbers, which are out of range too.
        return np.ascontiguousarray(target, dtype=np.int64)

    def __repr__(self) -> str:
        return "CrossEntropyLoss()" if self.from_logits else "CrossEntropyLoss(from_logits=False)"


def _wrong_shape(x: Float32Array, target: Any) -> ValueError:
    samples, classes = x.shape
    expected = f"({samples},) class indices or ({samples}, {classes}) probabilities"
    return _check.shape_error("CrossEntropyLoss", "target", target.shape, expected)
