"""How a training shows itself while it runs: a bar on a terminal, a line for each epoch.

What a Trainer calls::

    begin(epoch, epochs, steps)   show(...) now and then   validating()   end(line)   close()

``show`` costs what a terminal costs, so the Trainer calls it only when the clock has passed ``due``, ten times a
second: a comparison of two floats is all that a step of a millisecond pays.
"""

from __future__ import annotations

import math
import sys
import time
from typing import Any

from cnet import _check
from cnet.training.history import History

# Seconds between two looks at the bar: what the eye follows, and far apart enough to cost nothing.
_PAUSE = 0.1


class Progress:
    """Shows nothing; the others override what they show.

    Attributes
    ----------
    due : float
        When to call :meth:`show` next, on the clock of ``time.perf_counter``, in seconds.
    """

    def __init__(self) -> None:
        self.due = math.inf

    def begin(self, epoch: int, epochs: int, steps: int) -> None:
        """An epoch begins; numbers count from 1, ``epochs`` is the last of this run."""

    def show(self, step: int, loss: float, accuracy: float, images_per_second: float) -> None:
        """``step`` steps of the epoch are done; the measures are those of the epoch so far."""

    def validating(self) -> None:
        """The steps of the epoch are over, and the validation begins."""

    def end(self, line: str) -> None:
        """The epoch is over, and ``line`` sums it up."""

    def close(self) -> None:
        """The run is over, whether it went to its end or not."""


class Lines(Progress):
    """Prints the line of each epoch to the standard output."""

    def end(self, line: str) -> None:
        print(line, flush=True)


class Bar(Lines):
    """Draws a tqdm bar on the standard error while an epoch runs; its line then takes the place of the bar.

    Raises
    ------
    ImportError
        If tqdm is not installed.
    """

    def __init__(self) -> None:
        super().__init__()
        self._tqdm = _silent_tqdm()
        self._bar: Any = None

    def begin(self, epoch: int, epochs: int, steps: int) -> None:
        self._bar = self._tqdm(
            total=steps,
            desc=f"epoch {epoch}/{epochs}",
            leave=False,
            dynamic_ncols=True,
            bar_format="{desc} {percentage:3.0f} %|{bar}| {n_fmt}/{total_fmt}{postfix}  {remaining} left",
            file=sys.stderr,
        )
        self.due = time.perf_counter() + _PAUSE

    def show(self, step: int, loss: float, accuracy: float, images_per_second: float) -> None:
        measures = [f"  loss {_loss_text(loss)}"]
        if not math.isnan(accuracy):
            measures.append(f"accuracy {100 * accuracy:.2f} %")
        measures.append(f"{images_per_second:,.0f} images/s")
        # Set, not updated: the bar's own count of time would decide a second time whether to draw.
        self._bar.n = step
        self._bar.postfix = "  ".join(measures)
        self._bar.refresh()
        self.due = time.perf_counter() + _PAUSE

    def validating(self) -> None:
        self._bar.n = self._bar.total
        self._bar.postfix = "  validating"
        self._bar.refresh()

    def end(self, line: str) -> None:
        self.close()
        super().end(line)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def choose(progress: bool | None) -> Progress:
    """Return what shows a run.

    Parameters
    ----------
    progress : bool or None
        False shows nothing and True draws the bar. None draws the bar where the standard error is a terminal and tqdm
        is installed, and prints only the lines elsewhere.

    Returns
    -------
    Progress
        For one run.

    Raises
    ------
    TypeError
        If ``progress`` is none of these.
    ImportError
        If it is True and tqdm is not installed.
    """
    if progress is None:
        # Without a console, as under pythonw, there is no stream at all.
        if sys.stderr is None or not sys.stderr.isatty():
            return Lines()
        try:
            return Bar()
        except ImportError:
            return Lines()
    return Bar() if _check.boolean("Trainer.fit", "progress", progress) else Progress()


def epoch_line(history: History, epochs: int, steps: int) -> str:
    """Sum up the last epoch of a history, which was to have ``steps`` steps, in one line.

    Examples
    --------
    >>> from cnet.training.history import History
    >>> from cnet.training.progress import epoch_line
    >>> history = History()
    >>> history.add_step(0.25, 0.9, 0.031)
    >>> history.add_epoch(0.25, 0.9, seconds=4.2, images=60_000)
    >>> epoch_line(history, epochs=3, steps=1)
    'epoch 1/3  loss 0.2500  accuracy 90.00 %  lr 0.031  4.2 s  14,286 images/s'
    """
    epoch = len(history)
    parts = [f"epoch {epoch:{len(str(epochs))}}/{epochs}"]
    if history.partial[-1]:
        begun = history.epoch_ends[-2] if epoch > 1 else 0
        parts.append(f"stopped after {history.epoch_ends[-1] - begun:,} of {steps:,} steps")
    for name in ("", "validation "):
        loss, accuracy = (
            getattr(history, f"{name}{measure}".replace(" ", "_"))[-1] for measure in ("loss", "accuracy")
        )
        if not math.isnan(loss):
            parts.append(f"{name}loss {_loss_text(loss)}")
        if not math.isnan(accuracy):
            # The accuracy after a validation loss needs no second "validation".
            parts.append(f"accuracy {100 * accuracy:.2f} %")
    parts += [
        f"lr {history.learning_rate[-1]:.3g}",
        duration(history.seconds[-1]),
        f"{history.images_per_second[-1]:,.0f} images/s",
    ]
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """A time in the unit that reads best.

    Examples
    --------
    >>> from cnet.training.progress import duration
    >>> [duration(seconds) for seconds in (0.034, 4.23, 75.0, 7265.0)]
    ['0.03 s', '4.2 s', '1 min 15 s', '2 h 01 min']
    """
    if seconds < 59.95:
        return f"{seconds:.{2 if seconds < 1 else 1}f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def _loss_text(loss: float) -> str:
    return f"{loss:.4f}" if 0.001 <= abs(loss) < 1000 or loss == 0 else f"{loss:.3g}"


def _silent_tqdm() -> Any:
    try:
        from tqdm import tqdm
    except ImportError:
        received = "progress=True needs tqdm, which is not installed"
        remedy = "Run: pip install tqdm, or leave progress at None"
        raise ImportError(_check.message("Trainer.fit", received, remedy=remedy)) from None

    class Silent(tqdm):  # type: ignore[misc, type-arg, unused-ignore]
        # tqdm's watchdog thread is for loops that stall between updates; here it would only be one more thread to fork.
        monitor_interval = 0

    return Silent
