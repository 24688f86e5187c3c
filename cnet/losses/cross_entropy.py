"""Cross-entropy between predicted and true class probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np

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

    def _forward(self, x: Float32Array, target: Any) -> tuple[float, Float32Array]:
        if x.ndim != 2:
            remedy = "Flatten the model's output."
            raise _check.shape_error("CrossEntropyLoss", "x", x.shape, "(N, classes)", remedy)
        targets = self._check_target(x, _check.numeric("CrossEntropyLoss", "target", target))
        x = layout.physical(x)
        gradient = layout.empty(x.shape)
        losses = layout.empty_of((x.shape[0],), np.float64)
        labels, soft = (None, targets) if targets.ndim == 2 else (targets, None)
        value = loss.cross_entropy(x, labels, soft, self.from_logits, 1 / x.shape[0], gradient, losses, _threads._count)
        return value, gradient

    def _check_target(self, x: Float32Array, target: Any) -> Any:
        samples, classes = x.shape
        if target.shape == (samples, classes):
            probabilities = layout.physical(_check.float32("CrossEntropyLoss", "target", target))
            # The minimum is NaN if any element is.
            if not (probabilities.min() >= 0 and probabilities.max() < np.inf):
                received = "target holds a negative, infinite or NaN probability"
                raise ValueError(_check.message("CrossEntropyLoss", received, "finite numbers >= 0"))
            return probabilities
        if target.shape != (samples,):
            expected = f"({samples},) class indices or ({samples}, {classes}) probabilities"
            raise _check.shape_error("CrossEntropyLoss", "target", target.shape, expected)
        if target.dtype.kind not in "ui":
            received = f"target has shape ({samples},) and dtype {target.dtype}"
            expected = f"integer class indices, or probabilities of shape ({samples}, {classes})"
            raise TypeError(_check.message("CrossEntropyLoss", received, expected, "Use target.astype(int)."))
        low, high = target.min(), target.max()
        if low < 0 or high >= classes:
            received = f"target holds the label {low if low < 0 else high}"
            raise ValueError(_check.message("CrossEntropyLoss", received, f"labels in [0, {classes - 1}]"))
        return np.ascontiguousarray(target, dtype=np.int64)

    def __repr__(self) -> str:
        return "CrossEntropyLoss()" if self.from_logits else "CrossEntropyLoss(from_logits=False)"
