"""The training loop: what a step is, what a seed fixes, when schedules move, how it ends early, what it refuses."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cnet import layers, losses, optimizers, schedulers
from cnet.data import DataLoader, Dataset
from cnet.random import get_rng_state, manual_seed
from cnet.training import Evaluation, History, Trainer

ROOT = Path(__file__).resolve().parents[2]


def blobs(n: int = 100, classes: int = 3, seed: int = 0) -> Dataset:
    """Points around one centre for each class."""
    generator = np.random.default_rng(seed)
    y = generator.integers(classes, size=n)
    x = generator.normal(size=(n, 4)).astype(np.float32)
    x[np.arange(n), y] += 4
    return Dataset(x, y, classes=classes)


def make(seed: int = 0, scheduler: Any = None, dropout: float = 0.0, **options: Any) -> Trainer:
    manual_seed(seed)
    parts: list[layers.Layer] = [layers.Linear(4, 8), layers.ReLU(), layers.Linear(8, 3)]
    if dropout:
        parts.insert(2, layers.Dropout(dropout))
    model = layers.Sequential(*parts)
    optimizer = optimizers.SGD(model.parameters(), **({"lr": 0.1, "momentum": 0.9} | options))
    return Trainer(model, losses.CrossEntropyLoss(), optimizer, scheduler and scheduler(optimizer))


def weights(trainer: Trainer) -> bytes:
    return b"".join(value.tobytes() for value in trainer.model.state_dict().values())


def fit(trainer: Trainer, epochs: int = 2, data: Any = None, **options: Any) -> History:
    return trainer.fit(blobs() if data is None else data, epochs, **({"batch_size": 16, "progress": False} | options))


class Failing(losses.CrossEntropyLoss):
    """A loss that raises at one of its calls, counted from 1."""

    def __init__(self, call: int, error: BaseException) -> None:
        super().__init__()
        self.calls, self.call, self.error = 0, call, error

    def __call__(self, x: Any, target: Any) -> float:
        self.calls += 1
        if self.calls == self.call:
            raise self.error
        return super().__call__(x, target)


# ---- what a step is


def test_training_learns() -> None:
    trainer = make()
    history = fit(trainer, 5, validation=blobs(seed=1))
    assert history is trainer.history
    assert history.loss[-1] < 0.3 < history.loss[0]
    assert history.validation_accuracy[-1] > 0.9
    assert np.isfinite(history.step_loss).all()
    assert all(np.isfinite(value).all() for value in trainer.model.state_dict().values())


def test_training_is_the_loop_by_hand() -> None:
    trainer, other = make(), make()
    fit(trainer, 3, seed=7)
    criterion = losses.CrossEntropyLoss()
    loader = DataLoader(blobs(), 16, shuffle=True, seed=7)
    for _ in range(3):
        for x, y in loader:
            criterion(other.model(x), y)
            other.optimizer.zero_grad()
            other.model.backward(criterion.backward(), input_grad=False)
            other.optimizer.step()
    assert weights(trainer) == weights(other)


def test_gradients_left_over_do_not_count() -> None:
    trainer, other = make(), make()
    for parameter in trainer.model.parameters():
        parameter.grad[...] = 1e6
    fit(trainer, seed=0)
    fit(other, seed=0)
    assert weights(trainer) == weights(other)


def test_history_holds_each_step_and_the_means_over_samples() -> None:
    trainer = make(lr=0.0, momentum=0.0)
    history = fit(trainer, 2, blobs(50))
    assert history.steps == 8
    assert history.epoch_ends == [4, 8]
    sizes = np.array([16, 16, 16, 2])
    measured = trainer.evaluate(blobs(50))
    for epoch in range(2):
        steps = slice(4 * epoch, 4 * epoch + 4)
        assert history.loss[epoch] == pytest.approx(sizes @ history.step_loss[steps] / 50)
        # Nothing is learned at rate 0, so the training measures what the evaluation does.
        assert history.loss[epoch] == pytest.approx(measured.loss, rel=1e-5)
        assert history.accuracy[epoch] == measured.accuracy
    assert (np.array(history.seconds) > 0).all()
    assert history.images_per_second[0] == pytest.approx(50 / history.seconds[0])
    assert math.isnan(history.validation_loss[0])


def test_the_last_batch_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make()
    seen: list[int] = []
    forward = trainer.model.forward
    monkeypatch.setattr(trainer.model, "forward", lambda x: (seen.append(len(x)), forward(x))[1])
    fit(trainer, 1, blobs(37))
    assert seen == [16, 16, 5]


def test_the_input_gradient_of_the_model_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make()
    asked: list[bool] = []
    backward = trainer.model.backward

    def watch(dy: Any, input_grad: bool = True) -> Any:
        asked.append(input_grad)
        return backward(dy, input_grad)

    monkeypatch.setattr(trainer.model, "backward", watch)
    fit(trainer, 1)
    assert asked == [False] * 7


def test_models_not_built_are_built_by_the_first_batch() -> None:
    model = layers.Sequential(layers.Linear(None, 3))
    trainer = Trainer(model, losses.CrossEntropyLoss(), optimizers.SGD(model.parameters(), lr=0.1))
    assert fit(trainer, 1).steps == 7


@pytest.mark.parametrize("form", ["dataset", "loader", "pair", "lists"])
def test_data_comes_in_many_forms(form: str) -> None:
    data = blobs()
    forms: dict[str, Any] = {
        "dataset": data,
        "loader": DataLoader(data, 16),
        "pair": (data.x, data.y),
        "lists": [data.x.tolist(), data.y.tolist()],
    }
    trainer, other = make(), make()
    options: dict[str, Any] = {"batch_size": 64} if form == "loader" else {"shuffle": False}
    fit(trainer, 2, forms[form], validation=forms[form], **options)
    fit(other, 2, data, validation=data, shuffle=False)
    assert weights(trainer) == weights(other)
    assert trainer.history.validation_accuracy == other.history.validation_accuracy


# ---- randomness


@pytest.mark.parametrize("seed", [None, 3])
def test_a_run_is_a_function_of_its_seed(seed: int | None) -> None:
    runs = []
    for _ in range(2):
        trainer = make(seed=11, dropout=0.5)
        fit(trainer, seed=seed)
        runs.append((weights(trainer), trainer.history.step_loss.tobytes()))
    assert runs[0] == runs[1]


def test_different_seeds_give_different_runs() -> None:
    trainers = [make(), make(), make()]
    for seed, trainer in enumerate(trainers):
        fit(trainer, seed=seed)
    assert len({weights(trainer) for trainer in trainers}) == 3
    first, second = make(seed=0), make(seed=1)
    assert weights(first) != weights(second)


def test_orders_differ_between_calls_without_a_seed() -> None:
    trainer = make(lr=0.0)
    fit(trainer, 1)
    fit(trainer, 1)
    first, second = trainer.history.step_loss.reshape(2, 7)
    assert not np.allclose(first, second)


def test_two_calls_with_a_seed_are_one_long_call() -> None:
    trainer, other = make(), make()
    fit(trainer, 3, seed=5)
    for _ in range(3):
        fit(other, 1, seed=5)
    assert weights(trainer) == weights(other)
    assert len(other.history) == 3


def test_a_loader_keeps_its_own_order_and_count() -> None:
    loader = DataLoader(blobs(), 16, shuffle=True, seed=2)
    fit(make(), 2, loader, batch_size=64)
    assert (loader.seed, loader.epoch) == (2, 2)


@pytest.mark.parametrize("call", ["no shuffling", "a seed"])
def test_the_default_generator_is_spared_where_it_is_not_needed(call: str) -> None:
    trainer = make()
    before = get_rng_state()
    options: dict[str, Any] = {"no shuffling": {"shuffle": False}, "a seed": {"seed": 0}}
    fit(trainer, **options[call])
    assert get_rng_state() == before


def test_no_epochs_change_nothing() -> None:
    trainer = make()
    before = weights(trainer)
    assert len(fit(trainer, 0)) == 0
    assert weights(trainer) == before
    assert trainer.optimizer.state_dict()["state"] == {}


# ---- schedules


def test_a_scheduler_of_steps_moves_after_each_step() -> None:
    trainer = make(scheduler=lambda o: schedulers.OneCycleLR(o, 0.2, epochs=2, steps_per_epoch=7))
    history = fit(trainer, 2)
    expected = [trainer.scheduler.lr_at(step)[0] for step in range(14)]  # type: ignore[union-attr]
    assert history.step_learning_rate.tolist() == expected
    assert history.learning_rate == [expected[6], expected[13]]


def test_a_scheduler_of_epochs_moves_after_each_epoch() -> None:
    trainer = make(scheduler=lambda o: schedulers.StepLR(o, 1, 0.5))
    history = fit(trainer, 3)
    assert history.learning_rate == [0.1, 0.05, 0.025]
    assert history.step_learning_rate.tolist() == [0.1] * 7 + [0.05] * 7 + [0.025] * 7
    assert trainer.optimizer.param_groups[0]["lr"] == 0.0125


def test_a_schedule_that_would_end_too_soon_is_refused_at_once() -> None:
    trainer = make(scheduler=lambda o: schedulers.OneCycleLR(o, 0.2, total_steps=20))
    expected = (
        r"^Trainer\.fit: 21 steps are to come, but 20 are left of the 20 of OneCycleLR\. "
        r"Make the scheduler with total_steps = epochs \* batches\.$"
    )
    with pytest.raises(ValueError, match=expected):
        fit(trainer, 3)
    assert trainer.history.steps == 0
    fit(trainer, 2)
    with pytest.raises(ValueError, match="7 steps are to come, but 6 are left"):
        fit(trainer, 1)


# ---- modes


def mode(trainer: Trainer) -> list[bool]:
    return [layer.training for _, layer in trainer.model.named_layers()]


@pytest.mark.parametrize("training", [True, False])
def test_every_method_leaves_the_mode_as_it_was(training: bool) -> None:
    trainer = make(dropout=0.5)
    trainer.model.train(training)
    data = blobs()
    for call in (
        lambda: fit(trainer, 1, data, validation=data),
        lambda: trainer.evaluate(data),
        lambda: trainer.predict(data),
        lambda: trainer.predict_proba(data),
    ):
        call()
        assert mode(trainer) == [training] * 5


@pytest.mark.parametrize("training", [True, False])
def test_an_error_leaves_the_mode_as_it_was(training: bool) -> None:
    trainer = make()
    trainer.model.train(training)
    bad = (blobs().x, np.full(100, 3))
    for call in (
        lambda: fit(trainer, 1, bad),
        lambda: fit(trainer, 1, validation=bad),
        lambda: trainer.evaluate(bad),
        lambda: trainer.predict(np.zeros((2, 7))),
    ):
        with pytest.raises(ValueError):
            call()
        assert mode(trainer) == [training] * 4


def test_training_is_in_training_mode_and_validation_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make()
    seen: list[bool] = []
    forward = trainer.model.forward
    monkeypatch.setattr(trainer.model, "forward", lambda x: (seen.append(trainer.model.training), forward(x))[1])
    fit(trainer, 2, validation=blobs(10))
    assert seen == ([True] * 7 + [False]) * 2


def test_layers_in_a_mode_of_their_own_get_it_back() -> None:
    trainer = make(dropout=0.5)
    trainer.model[2].training = False  # type: ignore[index]
    before = mode(trainer)
    fit(trainer, 1)
    assert mode(trainer) == before
    trainer.evaluate(blobs())
    assert mode(trainer) == before


def test_evaluation_is_free_of_dropout() -> None:
    trainer = make(dropout=0.9)
    assert trainer.evaluate(blobs()) == trainer.evaluate(blobs(), batch_size=256)
    np.testing.assert_array_equal(trainer.predict_proba(blobs()), trainer.predict_proba(blobs()))


# ---- measuring


def test_evaluation_weighs_all_samples_alike() -> None:
    trainer = make()
    fit(trainer)
    whole = trainer.evaluate(blobs(50), batch_size=50)
    assert isinstance(whole, Evaluation)
    for size in (1, 7, 49):
        loss, accuracy = trainer.evaluate(blobs(50), batch_size=size)
        assert loss == pytest.approx(whole.loss, rel=1e-6)
        assert accuracy == whole.accuracy
    assert whole.accuracy == np.mean(trainer.predict(blobs(50)) == blobs(50).y)
    chances = trainer.predict_proba(blobs(50)).astype(np.float64)
    assert whole.loss == pytest.approx(-np.log(chances[np.arange(50), blobs(50).y]).mean(), rel=1e-4)


def test_evaluation_changes_nothing() -> None:
    trainer = make()
    fit(trainer)
    before = weights(trainer), trainer.history.to_dict(), get_rng_state()
    trainer.evaluate(blobs())
    trainer.predict(blobs())
    assert (weights(trainer), trainer.history.to_dict(), get_rng_state()) == before


def test_evaluation_returns_a_nan_loss_as_it_is() -> None:
    trainer = make()
    trainer.model[0].weight.data[...] = np.nan  # type: ignore[index]
    assert math.isnan(trainer.evaluate(blobs()).loss)


@pytest.mark.parametrize("size", [1, 7, 256])
def test_prediction_does_not_depend_on_the_batches(size: int) -> None:
    trainer = make()
    x = blobs(20).x
    expected = trainer.model.eval()(x)
    classes = trainer.predict(x, batch_size=size)
    assert (classes.dtype, classes.shape) == (np.int64, (20,))
    np.testing.assert_array_equal(classes, expected.argmax(axis=1))
    chances = trainer.predict_proba(x, batch_size=size)
    assert (chances.dtype, chances.shape) == (np.float32, (20, 3))
    np.testing.assert_allclose(chances.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(chances, np.exp(expected) / np.exp(expected).sum(axis=1, keepdims=True), rtol=1e-5)


def test_probabilities_of_large_logits_are_finite() -> None:
    trainer = make()
    chances = trainer.predict_proba(1e6 * blobs(20).x)
    assert np.isfinite(chances).all()


def test_pixels_are_predicted_as_they_are_trained_on() -> None:
    trainer = make()
    pixels = np.random.default_rng(0).integers(256, size=(5, 4), dtype=np.uint8)
    scaled = trainer.predict_proba(pixels / np.float32(255))
    np.testing.assert_allclose(trainer.predict_proba(pixels), scaled, rtol=1e-5)
    dataset = Dataset(pixels, np.zeros(5, int), normalise=(0.5, 0.25))
    expected = trainer.predict_proba(dataset.to_float32(pixels))
    np.testing.assert_array_equal(trainer.predict_proba(dataset), expected)


def test_outputs_that_are_probabilities_are_returned_as_they_are() -> None:
    model = layers.Sequential(layers.Linear(4, 3), layers.Softmax())
    loss = losses.CrossEntropyLoss(from_logits=False)
    trainer = Trainer(model, loss, optimizers.SGD(model.parameters(), lr=0.1))
    fit(trainer, 1)
    np.testing.assert_array_equal(trainer.predict_proba(blobs().x), model.eval()(blobs().x))


class SquaredError(losses.Loss):
    def _forward(self, x: Any, target: Any) -> Any:
        return float(np.mean((x - target) ** 2)), 2 / x.size * (x - target)


def test_losses_of_numbers_have_no_accuracy() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(64, 4))
    y = x @ generator.normal(size=(4, 2))
    model = layers.Sequential(layers.Linear(4, 2))
    trainer = Trainer(model, SquaredError(), optimizers.SGD(model.parameters(), lr=0.1, momentum=0.9))
    history = fit(trainer, 30, (x, y), validation=(x, y))
    assert history.loss[-1] < 1e-3 * history.loss[0]
    assert np.isnan([*history.accuracy, *history.validation_accuracy, *history.step_accuracy]).all()
    with pytest.raises(TypeError, match=r"^Trainer\.predict_proba: SquaredError has no attribute from_logits"):
        trainer.predict_proba(x)


def test_accuracy_of_one_hot_targets() -> None:
    data = blobs()
    trainer, other = make(), make()
    rows = np.eye(3)[data.y]
    assert fit(trainer, 2, (data.x, rows), seed=0).accuracy == fit(other, 2, data, seed=0).accuracy


# ---- ending early


def test_ctrl_c_in_the_loss_keeps_what_was_done() -> None:
    trainer = make()
    trainer.loss = Failing(10, KeyboardInterrupt())
    history = fit(trainer, 3)
    assert history.interrupted
    assert history.steps == 9
    assert history.partial == [False, True]
    assert history.epoch_ends == [7, 9]
    assert history.loss[1] == pytest.approx(history.step_loss[7:].mean())
    assert trainer.model.training
    more = fit(trainer, 1)
    assert not more.interrupted
    assert len(more) == 3
    assert np.isfinite(more.step_loss).all()


def test_ctrl_c_before_the_first_step_leaves_no_epoch() -> None:
    trainer = make()
    before = weights(trainer)
    trainer.loss = Failing(1, KeyboardInterrupt())
    history = fit(trainer, 3)
    assert history.interrupted
    assert len(history) == history.steps == 0
    assert weights(trainer) == before


@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_ctrl_c_in_the_scheduler_keeps_what_was_done(interval: str) -> None:
    calls = iter([None, None, KeyboardInterrupt()])

    def step() -> None:
        if error := next(calls):
            raise error

    trainer = make()
    trainer.scheduler = SimpleNamespace(interval=interval, step=step)
    history = fit(trainer, 5)
    assert history.interrupted
    assert history.steps == (3 if interval == "step" else 21)
    assert history.partial == ([True] if interval == "step" else [False] * 3)


def test_ctrl_c_in_the_validation_keeps_the_epoch() -> None:
    trainer = make()
    trainer.loss = Failing(9, KeyboardInterrupt())
    history = fit(trainer, 3, validation=blobs(), progress=False)
    # Seven steps, one batch of validation, and the first step of the second epoch.
    assert (len(history), history.steps) == (1, 7)
    assert history.partial == [False]
    trainer = make()
    trainer.loss = Failing(8, KeyboardInterrupt())
    history = fit(trainer, 3, validation=blobs())
    assert history.interrupted
    assert history.partial == [False]
    assert math.isnan(history.validation_loss[0])
    assert trainer.model.training


def signal_at(trainer: Trainer, call: int, times: int = 1) -> None:
    """Send Ctrl-C to this process in the middle of a call of the loss."""
    calls = 0
    loss = trainer.loss

    class Pressing(losses.CrossEntropyLoss):
        def __call__(self, x: Any, target: Any) -> float:
            nonlocal calls
            calls += 1
            if calls == call:
                for _ in range(times):
                    signal.raise_signal(signal.SIGINT)
            return float(loss(x, target))

        def backward(self) -> Any:
            return loss.backward()

    trainer.loss = Pressing()


def test_a_signal_lets_the_step_end_first() -> None:
    trainer, other = make(), make()
    signal_at(trainer, 3)
    history = fit(trainer, 2, seed=0)
    assert history.interrupted
    assert (history.steps, history.partial) == (3, [True])
    # The three steps are those of an undisturbed run.
    fit(other, 1, blobs()[DataLoader(blobs(), 16, shuffle=True, seed=0)._order(0)[:48]], shuffle=False)  # type: ignore[index]
    assert weights(trainer) == weights(other)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_in_the_last_step_of_an_epoch_leaves_it_whole() -> None:
    trainer = make()
    signal_at(trainer, 7)
    history = fit(trainer, 2, validation=blobs())
    assert history.interrupted
    assert (history.steps, history.partial) == (7, [False])
    assert math.isnan(history.validation_loss[0])


def test_a_second_signal_does_not_wait() -> None:
    trainer = make()
    signal_at(trainer, 3, times=2)
    history = fit(trainer, 2)
    assert history.interrupted
    assert (history.steps, history.partial) == (2, [True])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_handlers_of_others_are_left_alone() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: seen.append(number))
    try:
        trainer = make()
        signal_at(trainer, 3)
        assert not fit(trainer, 1).interrupted
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [signal.SIGINT]


def test_training_works_in_another_thread() -> None:
    trainer = make()
    thread = threading.Thread(target=fit, args=(trainer,))
    thread.start()
    thread.join(60)
    assert len(trainer.history) == 2


SCRIPT = """
import numpy as np
from cnet import layers, losses, optimizers
from cnet.training import Trainer

model = layers.Sequential(layers.Linear(8, 2))
trainer = Trainer(model, losses.CrossEntropyLoss(), optimizers.SGD(model.parameters(), lr=0.01))
x = np.random.default_rng(0).normal(size=(4096, 8))
print("ready", flush=True)
history = trainer.fit((x, (x[:, 0] > 0).astype(int)), epochs=10**6, batch_size=1)
print("ended", history.interrupted, len(history) == len(history.partial), history.partial[-1])
print("finite", bool(np.isfinite(trainer.predict_proba(x)).all()), history.epoch_ends[-1] == history.steps)
"""


def test_ctrl_c_at_the_keyboard_ends_a_training() -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", SCRIPT],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        # The line of the first epoch: the training is on its way.
        assert process.stdout.readline().startswith("epoch       1/1000000  loss ")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert err == ""
    lines = out.splitlines()
    assert lines[-2].startswith("ended True True")
    assert lines[-1] == "finite True True"


@pytest.mark.parametrize("error", [RuntimeError("broken"), OSError("gone")])
def test_other_errors_come_through_and_leave_the_history_true(error: Exception) -> None:
    trainer = make()
    trainer.loss = Failing(10, error)
    with pytest.raises(type(error)) as caught:
        fit(trainer, 3)
    assert caught.value is error
    assert trainer.history.steps == 9
    assert trainer.history.partial == [False, True]
    assert not trainer.history.interrupted


# ---- what it shows


def test_a_line_an_epoch_on_the_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    fit(make(), 2, validation=blobs(), progress=None)
    out, err = capsys.readouterr()
    assert err == ""
    first, second = out.splitlines()
    assert first.startswith("epoch 1/2  loss ")
    assert " validation loss " in second
    assert second.endswith(" images/s")


def test_progress_false_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    fit(make(), 2, validation=blobs())
    assert capsys.readouterr() == ("", "")


def test_progress_true_draws_the_bar(capsys: pytest.CaptureFixture[str]) -> None:
    fit(make(), 2, validation=blobs(), progress=True)
    out, err = capsys.readouterr()
    assert "epoch 2/2" in err
    assert len(out.splitlines()) == 2


def test_epochs_count_on(capsys: pytest.CaptureFixture[str]) -> None:
    trainer = make()
    fit(trainer, 2)
    fit(trainer, 1, progress=None)
    assert capsys.readouterr().out.startswith("epoch 3/3  ")


def test_repr_names_the_parts() -> None:
    trainer = make(scheduler=lambda o: schedulers.StepLR(o, 1))
    assert repr(trainer) == "Trainer(Sequential, CrossEntropyLoss, SGD, StepLR, History(epochs=0, steps=0))"


# ---- refusals


def test_labels_out_of_range_name_the_batch() -> None:
    y = blobs().y.copy()
    y[40] = 3
    trainer = make()
    with pytest.raises(
        ValueError, match=r"^Trainer\.fit: epoch 1, batch 3: CrossEntropyLoss: target holds the label 3"
    ):
        fit(trainer, 1, (blobs().x, y), shuffle=False)
    assert trainer.history.steps == 2
    with pytest.raises(ValueError, match=r"^Trainer\.fit: epoch 2, validation: batch 1: CrossEntropyLoss: "):
        fit(trainer, 1, validation=(blobs().x, y))
    with pytest.raises(ValueError, match=r"^Trainer\.evaluate: batch 3: CrossEntropyLoss: .*\[0, 2\]\.$"):
        trainer.evaluate((blobs().x, y), batch_size=20)


def test_samples_of_another_shape_name_the_layer() -> None:
    with pytest.raises(ValueError, match=r"^Trainer\.fit: epoch 1, batch 1: Linear: x has shape \(N, 5\)"):
        fit(make(), 1, (np.zeros((16, 5)), np.zeros(16, int)))


def test_a_loss_that_is_not_finite_ends_the_training_before_the_step() -> None:
    x = blobs().x.copy()
    x[40] = np.nan
    trainer, other = make(), make()
    expected = r"^Trainer\.fit: epoch 1, batch 3: CrossEntropyLoss: the loss is nan, expected a finite number\. Lower"
    with pytest.raises(FloatingPointError, match=expected):
        fit(trainer, 1, (x, blobs().y), shuffle=False)
    fit(other, 1, blobs()[:32], shuffle=False)
    assert weights(trainer) == weights(other)
    assert trainer.history.partial == [True]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"epochs": -1}, ValueError, r"epochs is -1, expected an integer >= 0"),
        ({"epochs": 1.5}, TypeError, r"epochs is 1\.5"),
        ({"epochs": True}, TypeError, r"epochs is True"),
        ({"batch_size": 0}, ValueError, r"batch_size is 0"),
        ({"shuffle": "yes"}, TypeError, r"shuffle is 'yes'"),
        ({"seed": -1}, ValueError, r"seed is -1"),
        ({"seed": 1.0}, TypeError, r"seed is 1\.0"),
        ({"progress": 1}, TypeError, r"progress is 1, expected True or False"),
        ({"data": np.zeros((5, 4))}, TypeError, r"train is a ndarray, expected a Dataset, a DataLoader or a pair"),
        ({"data": [1, 2, 3]}, TypeError, r"train is a list"),
        ({"data": Dataset(np.zeros((0, 4)), [])}, ValueError, r"train has no samples, expected at least one"),
        ({"data": DataLoader(blobs(3), 4, drop_last=True), "batch_size": 64}, ValueError, r"drops the last batch"),
        ({"data": DataLoader(blobs(), 4)}, ValueError, r"batch_size is 16, but train is a DataLoader and has its own"),
        ({"data": DataLoader(blobs()), "batch_size": 64, "seed": 3}, ValueError, r"seed is 3, but train is a DataLo"),
        ({"data": DataLoader(blobs()), "batch_size": 64, "shuffle": False}, ValueError, r"shuffle is False, but train"),
        ({"data": (np.zeros((5, 4)), np.zeros(4, int))}, ValueError, r"Dataset: y has shape \(4,\)"),
        ({"validation": 7}, TypeError, r"validation is a int"),
        ({"validation": Dataset(np.zeros((0, 4)), [])}, ValueError, r"validation has no samples"),
    ],
)
def test_fit_refuses(options: dict[str, Any], error: type[Exception], words: str) -> None:
    trainer = make()
    before = weights(trainer)
    with pytest.raises(error, match=words):
        fit(trainer, **options)
    assert weights(trainer) == before
    assert trainer.history.steps == 0


def test_trainer_refuses_what_it_cannot_train() -> None:
    good = make()
    model, loss, optimizer = good.model, good.loss, good.optimizer
    bad: list[tuple[type[Exception], str, Any]] = [
        (TypeError, "model is a function, expected a Layer", (make, loss, optimizer)),
        (TypeError, "loss is a SGD, expected something with __call__ and backward", (model, optimizer, loss)),
        (TypeError, "optimizer is a list", (model, loss, model.parameters())),
        (
            TypeError,
            "loss is the class CrossEntropyLoss, expected an instance",
            (model, losses.CrossEntropyLoss, optimizer),
        ),
        (ValueError, "optimizer has no parameter of the model", (model, loss, make().optimizer)),
        (TypeError, "scheduler is a float", (model, loss, optimizer, 0.1)),
        (ValueError, "another optimizer", (model, loss, optimizer, schedulers.StepLR(make().optimizer, 1))),  # type: ignore[arg-type]
        (ValueError, "interval is 'day'", (model, loss, optimizer, SimpleNamespace(interval="day", step=print))),
    ]
    for error, words, arguments in bad:
        with pytest.raises(error, match=rf"^Trainer: .*{words}"):
            Trainer(*arguments)


@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        (DataLoader(blobs()), TypeError, r"x is a DataLoader, expected an array or Dataset\. Pass loader\.dataset"),
        (np.zeros((0, 4)), ValueError, "x has no samples"),
        (np.zeros(4), ValueError, r"x has shape \(4,\).*Pass x\[None\] for a single sample"),
        ("abc", TypeError, "x"),
        (np.zeros((2, 5)), ValueError, r"Linear: x has shape \(N, 5\)"),
    ],
)
def test_prediction_refuses(x: Any, error: type[Exception], words: str) -> None:
    trainer = make()
    for method in (trainer.predict, trainer.predict_proba):
        with pytest.raises(error, match=words):
            method(x)


def test_prediction_refuses_outputs_that_are_no_classes() -> None:
    model = layers.Sequential(layers.Conv2d(1, 2, 3))
    trainer = Trainer(model, losses.CrossEntropyLoss(), optimizers.SGD(model.parameters(), lr=0.1))
    with pytest.raises(ValueError, match=r"the model's output has shape \(2, 2, 3, 3\), expected \(N, classes\)"):
        trainer.predict(np.zeros((2, 1, 5, 5)))
