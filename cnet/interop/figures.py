"""Pictures of a training, drawn with matplotlib.

Each function returns a ``matplotlib.figure.Figure`` and, given a path, writes it as a PNG file. None of them touches
pyplot: no window opens, no backend is chosen, and your own matplotlib settings neither change nor show.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from cnet import _check
from cnet.interop import _drawing
from cnet.training import History

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["confusion_matrix", "learning_curves", "worst_mistakes"]


def learning_curves(history: History, path: str | os.PathLike[str] | None = None) -> Figure:
    """Draw loss, accuracy and learning rate over the epochs.

    Parameters
    ----------
    history : History
        With at least one epoch.
    path : str, path-like or None, default=None
        Where to write the picture as PNG, whole or not at all. Used as given: no suffix is added.

    Returns
    -------
    matplotlib.figure.Figure
        The picture.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    TypeError
        If ``history`` is no History.
    ValueError
        If it has no epochs.

    Notes
    -----
    The line of the training is the mean of the batches around each step, a twentieth of all; the shade leaves out the
    tenth of them with the highest loss and the tenth with the lowest. The learning rate is that of the first parameter
    group. The scale of the loss is logarithmic if the loss falls far, and the scales leave out the
    very first steps.

    Examples
    --------
    >>> from cnet.interop import figures
    >>> from cnet.training import History
    >>> history = History()
    >>> for step in range(20):
    ...     history.add_step(2.0 / (step + 1), accuracy=step / 20, learning_rate=0.1)
    >>> history.add_epoch(0.36, 0.48, seconds=1.0, images=640, validation_loss=0.2, validation_accuracy=0.9)
    >>> figure = figures.learning_curves(history)
    >>> [axes.get_title(loc="left") for axes in figure.axes]
    ['Loss', 'Accuracy', 'Learning rate']
    """
    if not isinstance(history, History):
        raise TypeError(_check.message("learning_curves", f"history is a {type(history).__name__}", "a History"))
    if not len(history):
        raise ValueError(_check.message("learning_curves", "history has no epochs", "at least one", "Call fit first."))
    with _drawing.drawing("learning_curves") as new_figure:
        measured = bool(np.isfinite([*history.step_accuracy, *history.validation_accuracy]).any())
        figure = new_figure(11.0 if measured else 8.0, 3.9)
        panels = figure.subplots(1, 3 if measured else 2, width_ratios=(4, 4, 3) if measured else (4, 3))
        loss, rate = panels[0], panels[-1]
        lowest = _drawing.draw_measure(loss, history, "loss", shade=True)
        loss.set(title="Loss", ylabel="mean per sample")
        _drawing.stretch_loss(loss, lowest)
        if measured:
            _drawing.draw_measure(panels[1], history, "accuracy", scale=100.0)
            panels[1].set(title="Accuracy", ylabel="% of samples right")
            if panels[1].get_ylim()[1] > 95:
                panels[1].set_ylim(top=100)
        rate.plot(_drawing.epochs_of_steps(history), history.step_learning_rate, color=_drawing.GREEN)
        rate.set(title="Learning rate", ylabel="rate of a step", ylim=(0, None))
        for axes in panels:
            axes.set(xlabel="epoch", xlim=(0, len(history)))
            axes.locator_params(axis="x", integer=True)
        handles, labels = loss.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        _drawing.save(figure, path)
    return figure


def confusion_matrix(
    matrix: ArrayLike, path: str | os.PathLike[str] | None = None, names: Sequence[str] | None = None
) -> Figure:
    """Draw a confusion matrix: what each class was taken for.

    Parameters
    ----------
    matrix : array_like of int, shape (classes, classes)
        Counts >= 0; rows are true classes, columns predicted ones, as of `cnet.metrics.confusion_matrix`.
    path : str, path-like or None, default=None
        Where to write the picture as PNG, whole or not at all. Used as given: no suffix is added.
    names : sequence of str or None, default=None
        A name for each class; None takes the indices.

    Returns
    -------
    matplotlib.figure.Figure
        The picture.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    TypeError
        If the counts are no integers.
    ValueError
        If the matrix is not square, has no samples or negative counts, or there are not as many names as classes.

    Notes
    -----
    Percentages are shares of the row, so the diagonal holds the recall of each class. The shade of mistakes follows the
    logarithm of their share, from 0.1 % or less to 100 %: a single confusion among a thousand stays visible. Up to 12
    classes have counts and percentages in their cells, up to 30 have counts.

    Examples
    --------
    >>> from cnet.interop import figures
    >>> figure = figures.confusion_matrix([[9, 1], [0, 10]], names=["cat", "dog"])
    >>> figure.axes[0].get_title(loc="left")
    '95.00 % of 20 samples right'
    """
    counts = _check.numeric("confusion_matrix", "matrix", matrix)
    if counts.dtype.kind not in "ui":
        raise TypeError(_check.message("confusion_matrix", f"matrix has dtype {counts.dtype}", "integer counts"))
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or counts.size == 0:
        raise _check.shape_error("confusion_matrix", "matrix", counts.shape, "(classes, classes)")
    if counts.min() < 0 or not counts.any():
        received = f"matrix holds {counts.min()}" if counts.min() < 0 else "matrix holds no samples"
        raise ValueError(_check.message("confusion_matrix", received, "counts >= 0, some above"))
    labels = _drawing.class_names("confusion_matrix", names, len(counts))
    with _drawing.drawing("confusion_matrix") as new_figure:
        figure = new_figure(*_drawing.matrix_inches(labels))
        _drawing.draw_matrix(figure.add_subplot(), counts.astype(np.int64), labels)
        _drawing.save(figure, path)
    return figure


def worst_mistakes(
    images: ArrayLike,
    labels: ArrayLike,
    probabilities: ArrayLike,
    path: str | os.PathLike[str] | None = None,
    count: int = 18,
    names: Sequence[str] | None = None,
) -> Figure:
    """Draw the images that a classifier got most wrong: of all it got wrong, those with the highest loss.

    Parameters
    ----------
    images : array_like, shape (N, 1, H, W), (N, 3, H, W) or (N, H, W)
        Real numbers of any dtype and range. With one channel, large values are drawn dark, as ink on paper.
    labels : array_like of int, shape (N,)
        The true classes.
    probabilities : array_like, shape (N, classes)
        The model's, as of `Trainer.predict_proba`; the class of the largest is the predicted one.
    path : str, path-like or None, default=None
        Where to write the picture as PNG, whole or not at all. Used as given: no suffix is added.
    count : int, default=18
        How many images to draw at most, in [1, 200].
    names : sequence of str or None, default=None
        A name for each class; None takes the indices.

    Returns
    -------
    matplotlib.figure.Figure
        The picture.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    TypeError
        If an argument has the wrong type.
    ValueError
        If shapes do not fit each other, a label or ``count`` is out of range, or rows are no probabilities.

    Notes
    -----
    The loss of a sample is ``-log(p)`` of its true class. uint8 images are drawn on the scale from 0 to 255, others
    each on its own, from its least value to its greatest.

    Examples
    --------
    >>> import numpy as np
    >>> from cnet.interop import figures
    >>> images = np.eye(8)[None].repeat(3, axis=0)
    >>> probabilities = [[0.9, 0.1], [0.8, 0.2], [0.6, 0.4]]
    >>> figure = figures.worst_mistakes(images, [0, 1, 1], probabilities)
    >>> len(figure.axes), figure.get_suptitle()
    (2, 'All 2 mistakes among 3 images')
    """
    subject = "worst_mistakes"
    count = _check.integer(subject, "count", count, 1, 200)
    pictures = _drawing.as_pictures(subject, _check.numeric(subject, "images", images))
    truth, chances = _drawing.checked_answers(subject, len(pictures), labels, probabilities)
    class_names = _drawing.class_names(subject, names, chances.shape[1])
    guesses = chances.argmax(axis=1)
    mistakes = np.flatnonzero(guesses != truth)
    # The lowest probability of the truth is the highest loss; stable, so that equals stay in the order of the data.
    worst = mistakes[np.argsort(chances[mistakes, truth[mistakes]], kind="stable")][:count]
    captions = [
        [_drawing.caption(word, class_names[of], chances[index, of]) for word, of in (("said", said), ("true", true))]
        for index, said, true in zip(worst, guesses[worst], truth[worst], strict=True)
    ]
    columns = max(math.ceil(math.sqrt(2 * len(worst))), 3)
    rows = max(math.ceil(len(worst) / columns), 1)
    # Inches: as wide as the longest caption at nine points, and room for two lines above each image.
    width = max([1.6, *(0.1 + 0.088 * len(line) for lines in captions for line in lines)])
    with _drawing.drawing(subject) as new_figure:
        figure = new_figure(width * columns, (width + 0.35) * rows + 0.45)
        title = _drawing.mistakes_title(len(mistakes), len(worst), len(pictures))
        figure.suptitle(title, fontsize=12, fontweight="bold")
        for place, (index, (said, true)) in enumerate(zip(worst, captions, strict=True), 1):
            axes = figure.add_subplot(rows, columns, place)
            _drawing.draw_picture(axes, pictures[index])
            axes.set_title(said, color=_drawing.ORANGE, fontsize=9, pad=17)
            axes.annotate(
                true, (0, 1), (0, 4), "axes fraction", "offset points", color=_drawing.BLUE, fontsize=9, weight="bold"
            )
        _drawing.save(figure, path)
    return figure
