"""What a training shows: the line of an epoch, the bar on a terminal, and nothing when told so."""

from __future__ import annotations

import builtins
import io
import math
import sys
import time
from typing import Any

import pytest

from cnet.training import History
from cnet.training import progress as progress_module
from cnet.training.progress import Bar, Lines, Progress, choose, duration, epoch_line


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def hide_tqdm(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name.split(".")[0] == "tqdm":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)


def one_epoch(**arguments: Any) -> History:
    history = History()
    history.add_step(0.0612, 0.981, 0.0312)
    history.add_epoch(**({"loss": 0.0612, "accuracy": 0.981, "seconds": 4.2, "images": 60_000} | arguments))
    return history


def test_line_tells_all_that_is_known() -> None:
    history = one_epoch()
    history.add_step(0.05, 0.98, 0.031)
    history.add_epoch(0.0612, 0.981, seconds=4.2, images=60_000, validation_loss=0.0501, validation_accuracy=0.9842)
    assert epoch_line(history, epochs=3, steps=1) == (
        "epoch 2/3  loss 0.0612  accuracy 98.10 %  validation loss 0.0501  accuracy 98.42 %"
        "  lr 0.031  4.2 s  14,286 images/s"
    )


def test_line_leaves_out_what_is_unknown() -> None:
    line = epoch_line(one_epoch(accuracy=math.nan), epochs=1, steps=1)
    assert "accuracy" not in line
    assert "validation" not in line
    assert "nan" not in line


def test_line_of_a_partial_epoch_says_how_far_it_came() -> None:
    history = one_epoch()
    for _ in range(3):
        history.add_step(0.1)
    history.add_epoch(0.1, seconds=1.0, images=3, partial=True)
    assert "epoch 2/4  stopped after 3 of 1,000 steps  loss 0.1000" in epoch_line(history, epochs=4, steps=1000)


def test_line_aligns_the_number_of_the_epoch() -> None:
    assert epoch_line(one_epoch(), epochs=20, steps=1).startswith("epoch  1/20  ")


@pytest.mark.parametrize(
    ("loss", "text"), [(0.0, "0.0000"), (1e-5, "1e-05"), (12.3456, "12.3456"), (123456.0, "1.23e+05")]
)
def test_line_shows_losses_of_any_size(loss: float, text: str) -> None:
    assert f"loss {text} " in epoch_line(one_epoch(loss=loss), epochs=1, steps=1)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.004, "0.00 s"), (1.0, "1.0 s"), (59.94, "59.9 s"), (59.96, "1 min 00 s"), (3599.9, "1 h 00 min")],
)
def test_duration_uses_the_unit_that_reads_best(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_choice_is_lines_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert type(choose(None)) is Lines
    monkeypatch.setattr(sys, "stderr", None)
    assert type(choose(None)) is Lines


def test_choice_is_the_bar_on_a_terminal_with_tqdm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert type(choose(None)) is Bar
    hide_tqdm(monkeypatch)
    assert type(choose(None)) is Lines


def test_choice_follows_the_word_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert type(choose(False)) is Progress
    assert type(choose(True)) is Bar
    with pytest.raises(TypeError, match=r"^Trainer\.fit: progress is 'yes', expected True or False\.$"):
        choose("yes")  # type: ignore[arg-type]


def test_bar_without_tqdm_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    hide_tqdm(monkeypatch)
    with pytest.raises(ImportError, match=r"Run: pip install tqdm, or leave progress at None\.$"):
        choose(True)


def test_bar_draws_then_gives_its_place_to_the_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    bar = choose(None)
    bar.begin(2, 3, 100)
    bar.show(50, 0.0612, 0.981, 14_285.7)
    bar.validating()
    bar.end("the line")
    drawn = terminal.getvalue()
    assert "epoch 2/3" in drawn
    assert "50/100" in drawn
    assert "loss 0.0612  accuracy 98.10 %  14,286 images/s" in drawn
    assert "validating" in drawn
    assert drawn.rsplit("\r", 2)[-2].strip() == ""
    assert capsys.readouterr().out == "the line\n"
    bar.close()


def test_bar_leaves_out_an_unknown_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    bar = choose(None)
    bar.begin(1, 1, 10)
    bar.show(5, 1.0, math.nan, 10.0)
    bar.close()
    assert "nan" not in terminal.getvalue()


def test_bar_asks_for_ten_looks_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    bar = choose(None)
    assert bar.due == math.inf
    bar.begin(1, 1, 10)
    assert bar.due == pytest.approx(time.perf_counter() + progress_module._PAUSE, abs=0.09)
    before = bar.due
    bar.show(1, 1.0, 1.0, 1.0)
    assert bar.due >= before
    bar.close()


def test_bar_starts_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    monkeypatch.setattr(sys, "stderr", Terminal())
    before = threading.active_count()
    bar = choose(None)
    bar.begin(1, 1, 10)
    assert threading.active_count() == before
    bar.close()


def test_silence_never_asks_to_be_shown() -> None:
    silent = Progress()
    silent.begin(1, 1, 10)
    silent.validating()
    silent.end("line")
    silent.close()
    assert silent.due == math.inf
