"""The history of a training: columns of one length, plain numbers out, refusals."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from cnet.training import History


def two_epochs() -> History:
    history = History()
    for step in range(5):
        history.add_step(5.0 - step, accuracy=step / 5, learning_rate=0.1 * (step + 1))
        if step in (2, 4):
            history.add_epoch(5.0 - step, step / 5, seconds=0.5, images=32, partial=step == 4)
    return history


def test_history_is_empty_at_first_but_not_false() -> None:
    history = History()
    assert len(history) == 0
    assert history.steps == 0
    assert bool(history)
    assert repr(history) == "History(epochs=0, steps=0)"
    assert history.step_loss.shape == (0,)


def test_history_columns_have_one_entry_an_epoch_or_a_step() -> None:
    history = two_epochs()
    assert len(history) == 2
    assert history.steps == 5
    assert history.epoch_ends == [3, 5]
    assert history.partial == [False, True]
    assert history.loss == [3.0, 1.0]
    assert history.learning_rate == pytest.approx([0.3, 0.5])
    assert history.images_per_second == [64.0, 64.0]
    for column in (history.accuracy, history.validation_loss, history.validation_accuracy, history.seconds):
        assert len(column) == 2
    np.testing.assert_array_equal(history.step_loss, [5, 4, 3, 2, 1])
    np.testing.assert_allclose(history.step_learning_rate, [0.1, 0.2, 0.3, 0.4, 0.5])


def test_history_by_rows_is_history_by_columns() -> None:
    history = two_epochs()
    first, second = history.epochs
    assert (first.loss, second.loss) == (3.0, 1.0)
    assert (first.partial, second.partial) == (False, True)
    for name in second._fields[:2]:
        assert getattr(second, name) == getattr(history, name)[1]
    assert History().epochs == []


def test_history_step_columns_are_copies() -> None:
    history = two_epochs()
    history.step_loss[:] = 0
    held = history.step_accuracy
    history.add_step(0.0)
    assert history.step_loss[0] == 5.0
    assert held.shape == (5,)


def test_history_to_dict_is_strict_json_and_a_copy() -> None:
    history = two_epochs()
    history.add_step(math.inf)
    plain = history.to_dict()
    restored = json.loads(json.dumps(plain, allow_nan=False))
    assert restored == plain
    assert plain["validation_loss"] == [None, None]
    assert plain["step_loss"] == [5.0, 4.0, 3.0, 2.0, 1.0, None]
    assert plain["interrupted"] is False
    public = {name for name in vars(history) if not name.startswith("_")}
    assert plain.keys() == public | {"step_loss", "step_accuracy", "step_learning_rate"}
    plain["loss"].clear()
    assert len(history) == 2


def test_history_takes_numpy_numbers() -> None:
    history = History()
    history.add_step(np.float32(0.5), np.float64(1.0), np.float32(0.25))
    history.add_epoch(float(np.float32(0.5)), seconds=np.float64(2.0), images=np.int64(4))  # type: ignore[arg-type]
    assert json.dumps(history.to_dict())
    assert history.images_per_second == [2.0]


def test_history_repr_tells_the_last_epoch_without_what_is_unknown() -> None:
    history = two_epochs()
    history.interrupted = True
    assert repr(history) == "History(epochs=2, steps=5, loss=1, accuracy=0.8, interrupted=True)"


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"seconds": 0.0, "images": 1}, ValueError, "seconds is 0"),
        ({"seconds": "1", "images": 1}, TypeError, "seconds is '1'"),
        ({"seconds": 1.0, "images": -1}, ValueError, "images is -1"),
        ({"seconds": 1.0, "images": 1.5}, TypeError, "images is 1.5"),
    ],
)
def test_history_refuses_impossible_epochs(arguments: Any, error: type[Exception], words: str) -> None:
    history = History()
    with pytest.raises(error, match=words):
        history.add_epoch(1.0, **arguments)
    assert len(history) == 0
