"""The parts of the pictures in `cnet.interop.figures`, and the style they share."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cnet import _check
from cnet._atomic import replacing
from cnet.training import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours of M. Okabe and K. Ito, which people of all kinds of colour vision tell apart.
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
INK, GRID = "#262626", "#E3E3E3"
STYLE = {
    "font.family": ["sans-serif"],
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.edgecolor": "#B5B5B5",
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.direction": "out",
    "ytick.direction": "out",
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
}
# Twice the resolution of a web page, so that text stays sharp on screens of today.
DPI = 200

# Largest numbers of classes for which a cell of the confusion matrix holds a percentage, or a count.
MOST_PERCENTS, MOST_COUNTS = 12, 30
RIGHT = ("#FFFFFF", "#9CC9E6", BLUE)
WRONG = ("#FDF0E6", "#F6B98C", ORANGE)


# ---- learning curves


def draw_measure(axes: Axes, history: History, name: str, scale: float = 1.0, shade: bool = False) -> float:
    """Draw a measure over the epochs, on an axis that leaves out the first steps; return the lowest value on it."""
    batches = scale * getattr(history, f"step_{name}")
    training = scale * np.asarray(getattr(history, name))
    validation = scale * np.asarray(getattr(history, f"validation_{name}"))
    ends = np.arange(1, len(history) + 1)
    shown = [training, validation]
    if np.isfinite(batches).any():
        places, mean, low, high = _in_windows(epochs_of_steps(history), batches)
        if shade:
            axes.fill_between(places, low, high, color=BLUE, alpha=0.16, linewidth=0, label="8 of 10 batches")
        # A line needs two points.
        marker = "" if len(mean) > 1 else "o"
        axes.plot(places, mean, color=BLUE, marker=marker, label="training, mean of the batches around")
        shown.append(mean[len(mean) // 20 :])
    else:
        axes.plot(ends, training, color=BLUE, marker="o", label="training, mean of the epoch")
    if np.isfinite(validation).any():
        # Not clipped: the last point lies on the edge.
        style: dict[str, Any] = {"marker": "o", "clip_on": False, "zorder": 3}
        axes.plot(ends, validation, color=ORANGE, label="validation, after the epoch", **style)
    values = np.concatenate(shown)
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.0
    bottom, top = float(values.min()), float(values.max())
    margin = 0.06 * ((top - bottom) or abs(top) or 1.0)
    axes.set_ylim(bottom - margin, top + margin)
    return bottom


def stretch_loss(axes: Axes, low: float) -> None:
    """Make the axis logarithmic if the loss falls far, else begin it at zero."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    high = axes.get_ylim()[1]
    if not 0 < low < high / 8:
        axes.set_ylim(min(low, 0.0), high)
        return
    axes.set_yscale("log")
    axes.set_ylim(low / 1.3, high)
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def epochs_of_steps(history: History) -> NDArray[np.float64]:
    """Where each step lies on an axis of epochs, each of which is one unit long, however many steps it has."""
    ends = [0, *history.epoch_ends]
    return np.interp(np.arange(1, history.steps + 1), ends, np.arange(len(ends)))


def _in_windows(places: NDArray[np.float64], values: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Places, and around each the mean and the first and last decile of the values nearby."""
    half = max(1, len(values) // 40)
    middles = np.unique(np.linspace(0, len(values) - 1, 200).round().astype(int))
    columns = [(places[middle], *_summary(values[max(middle - half, 0) : middle + half + 1])) for middle in middles]
    return list(np.array(columns).T)


def _summary(window: NDArray[np.float64]) -> tuple[float, float, float]:
    finite = window[np.isfinite(window)]
    if not finite.size:
        return math.nan, math.nan, math.nan
    low, high = np.quantile(finite, (0.1, 0.9))
    return float(finite.mean()), float(low), float(high)


# ---- confusion matrix


def draw_matrix(axes: Axes, counts: NDArray[np.int64], names: list[str]) -> None:
    size, total = len(names), int(counts.sum())
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    diagonal = np.eye(size, dtype=bool)
    # From 0.1 % to 100 %, three powers of ten.
    shade = np.clip(1 + np.log10(np.maximum(share, 1e-3)) / 3, 0, 1)
    colours = np.where(diagonal[:, :, None], ramp(RIGHT, share), ramp(WRONG, shade))
    colours[(counts == 0) & ~diagonal] = 0.975
    axes.imshow(colours, interpolation="nearest")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    # White lines between the cells, which matplotlib has only as a grid of minor ticks.
    axes.set_xticks(np.arange(size + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(size + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5 if size <= MOST_COUNTS else 0.3)
    axes.tick_params(which="both", length=0)
    step = 1 if size <= MOST_COUNTS else math.ceil(size / 20)
    turn = 90 if max(map(len, names[::step])) > 3 and size > 6 else 0
    axes.set_xticks(range(0, size, step), names[::step], rotation=turn)
    axes.set_yticks(range(0, size, step), names[::step])
    axes.set(xlabel="predicted class", ylabel="true class (a row adds up to 100 %)")
    right = int(np.trace(counts))
    # Rounded down: only what is all right is 100 %.
    axes.set_title(f"{math.floor(10_000 * right / total) / 100:.2f} % of {total:,} samples right")
    if size > MOST_COUNTS:
        return

    full = size <= MOST_PERCENTS
    light = np.where(diagonal, share > 0.6, shade > 0.8)
    for row, column in zip(*np.nonzero(counts), strict=True):
        style: dict[str, Any] = {"ha": "center", "va": "center", "color": "white" if light[row, column] else INK}
        text = f"{counts[row, column]:,}"
        weight = "bold" if row == column else "normal"
        axes.text(column, row - 0.14 * full, text, fontsize=10 if full else 7, fontweight=weight, **style)
        if full:
            axes.text(column, row + 0.22, percent(share[row, column]), fontsize=7, **style)


def matrix_inches(names: list[str]) -> tuple[float, float]:
    """Width and height of the figure: cells that hold their text, and margins for the names."""
    cell = 0.62 if len(names) <= MOST_PERCENTS else 0.36
    side = max(cell * len(names), 3.0) if len(names) <= MOST_COUNTS else 9.0
    return side + 1.0, side + 1.0


def ramp(colours: Sequence[str], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Colours between the given ones, of shape (..., 3), for values in [0, 1]."""
    from matplotlib.colors import to_rgb

    corners = np.array([to_rgb(colour) for colour in colours])
    places = np.linspace(0, 1, len(corners))
    return np.stack([np.interp(values, places, corners[:, channel]) for channel in range(3)], axis=-1)


def class_names(subject: str, names: Sequence[str] | None, classes: int) -> list[str]:
    if names is None:
        return [str(index) for index in range(classes)]
    if isinstance(names, str) or len(names) != classes:
        received = f"names is {names!r}" if isinstance(names, str) else f"names has {len(names)} entries"
        raise ValueError(_check.message(subject, received, f"{classes}, one for each class"))
    return [str(name) for name in names]


# ---- mistakes


def checked_answers(
    subject: str, samples: int, labels: ArrayLike, probabilities: ArrayLike
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    truth = _check.numeric(subject, "labels", labels)
    if truth.dtype.kind not in "ui":
        raise TypeError(_check.message(subject, f"labels has dtype {truth.dtype}", "integer classes"))
    if truth.shape != (samples,):
        raise _check.shape_error(subject, "labels", truth.shape, f"({samples},), one label for each image")
    chances = _check.numeric(subject, "probabilities", probabilities).astype(np.float64)
    if chances.ndim != 2 or len(chances) != samples or not chances.size:
        raise _check.shape_error(subject, "probabilities", chances.shape, f"({samples}, classes)")
    if not (chances.min() >= 0 and abs(chances.sum(axis=1) - 1).max() < 1e-3):
        remedy = "Pass what trainer.predict_proba returns."
        raise ValueError(
            _check.message(subject, "probabilities has rows that are none", "numbers >= 0 of sum 1", remedy)
        )
    if truth.min() < 0 or truth.max() >= chances.shape[1]:
        label = truth.min() if truth.min() < 0 else truth.max()
        raise ValueError(_check.message(subject, f"labels holds {label}", f"from 0 to {chances.shape[1] - 1}"))
    return truth.astype(np.int64), chances


def as_pictures(subject: str, images: NDArray[Any]) -> NDArray[Any]:
    """Images as imshow takes them: (N, H, W), or (N, H, W, 3) in [0, 1] or uint8."""
    if images.ndim == 4 and images.shape[1] == 1:
        images = images[:, 0]
    coloured = images.ndim == 4 and images.shape[1] == 3
    if not (images.ndim == 3 or coloured) or not images.size:
        raise _check.shape_error(subject, "images", images.shape, "(N, 1, H, W), (N, 3, H, W) or (N, H, W)")
    return np.moveaxis(images, 1, -1) if coloured else images


def draw_picture(axes: Axes, picture: NDArray[Any]) -> None:
    low, high = (0.0, 255.0) if picture.dtype == np.uint8 else (float(picture.min()), float(picture.max()))
    if picture.ndim == 3:
        axes.imshow((picture.astype(np.float64) - low) / ((high - low) or 1.0))
    else:
        axes.imshow(picture, cmap="gray_r", vmin=low, vmax=high)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(visible=True, color=GRID)


def caption(word: str, name: str, chance: float) -> str:
    """Such as "said 4  98.2 %"."""
    return f"{word} {name if len(name) <= 16 else name[:15] + '…'}  {percent(chance)}"


def mistakes_title(mistakes: int, drawn: int, images: int) -> str:
    if not mistakes:
        return f"No mistakes among {images:,} images"
    if drawn < mistakes:
        return f"The worst {drawn} of {mistakes:,} mistakes among {images:,} images"
    return (
        f"All {mistakes} mistakes among {images:,} images"
        if mistakes > 1
        else f"The one mistake among {images:,} images"
    )


# ---- all pictures


def percent(share: float) -> str:
    """A share in percent, never rounded to none or all."""
    percent = 100 * float(share)
    if 0 < percent < 0.1:
        return "< 0.1 %"
    if 99.9 < percent < 100:
        return f"{math.floor(100 * percent) / 100:.2f} %"
    return f"{percent:.0f} %" if percent in (0, 100) else f"{percent:.1f} %"


@contextmanager
def drawing(subject: str) -> Iterator[Callable[[float, float], Figure]]:
    """Draw in the style of this module, whatever the settings; gives a function of width and height, in inches."""
    try:
        import matplotlib.style
        from matplotlib.figure import Figure
    except ImportError:
        remedy = "Run: pip install matplotlib"
        raise ImportError(_check.message(subject, "matplotlib is not installed", remedy=remedy)) from None
    with matplotlib.style.context(["default", STYLE]):
        yield lambda width, height: Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def save(figure: Figure, path: str | os.PathLike[str] | None) -> None:
    if path is not None:
        with replacing(Path(path)) as stream:
            figure.savefig(stream, format="png", dpi=DPI)
