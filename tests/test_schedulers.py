"""Schedules: closed forms, hand-worked sequences, resuming, refusals; parity with PyTorch where it is installed."""

# The tests of refusals pass wrong types on purpose.
# mypy: disable-error-code="arg-type, list-item"

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnet import schedulers
from cnet.schedulers import CosineAnnealingLR, ExponentialLR, MultiStepLR, OneCycleLR, Scheduler, StepLR

Make = Callable[[Any], Scheduler]

MAKERS: dict[str, Make] = {
    "StepLR": lambda optimizer: StepLR(optimizer, 7, 0.5),
    "MultiStepLR": lambda optimizer: MultiStepLR(optimizer, [3, 9, 9, 25], 0.3),
    "ExponentialLR": lambda optimizer: ExponentialLR(optimizer, 0.97),
    "CosineAnnealingLR": lambda optimizer: CosineAnnealingLR(optimizer, 12, 1e-3),
    "OneCycleLR": lambda optimizer: OneCycleLR(optimizer, [0.4, 0.1], total_steps=40),
    "OneCycleLR three phases": lambda optimizer: OneCycleLR(
        optimizer, 0.4, epochs=5, steps_per_epoch=8, anneal_strategy="linear", three_phase=True
    ),
}


def sgd(*rates: float, **others: Any) -> Any:
    return SimpleNamespace(param_groups=[{"lr": rate, "momentum": 0.9, **others} for rate in rates or (0.5,)])


def adam(*rates: float) -> Any:
    return SimpleNamespace(param_groups=[{"lr": rate, "betas": (0.9, 0.999)} for rate in rates])


def sequence(scheduler: Scheduler, count: int, key: str = "lr", group: int = 0) -> list[Any]:
    """The values of steps 0 to count - 1, as the optimizer sees them."""
    values = [scheduler.optimizer.param_groups[group][key]]
    for _ in range(count - 1):
        scheduler.step()
        values.append(scheduler.optimizer.param_groups[group][key])
    return values


# --- Sequences worked by hand -----------------------------------------------------------------------------------------


def test_step_lr_sequence() -> None:
    assert sequence(StepLR(sgd(), 3, 0.5), 8) == [0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125, 0.125]


def test_step_lr_default_gamma_is_a_tenth() -> None:
    assert sequence(StepLR(sgd(0.1), 1), 3) == pytest.approx([0.1, 0.01, 0.001], rel=1e-15)


def test_multi_step_lr_sequence() -> None:
    assert sequence(MultiStepLR(sgd(), [2, 3, 5], 0.5), 7) == [0.5, 0.5, 0.25, 0.125, 0.125, 0.0625, 0.0625]


def test_multi_step_lr_counts_repeated_milestone_twice() -> None:
    assert sequence(MultiStepLR(sgd(), [1, 1], 0.5), 3) == [0.5, 0.125, 0.125]


def test_multi_step_lr_applies_milestone_zero_at_once() -> None:
    assert sequence(MultiStepLR(sgd(), [0], 0.5), 2) == [0.25, 0.25]


def test_multi_step_lr_without_milestones_is_constant() -> None:
    assert sequence(MultiStepLR(sgd(), []), 3) == [0.5, 0.5, 0.5]


def test_multi_step_lr_takes_any_iterable() -> None:
    assert sequence(MultiStepLR(sgd(), range(1, 3), 0.5), 4) == [0.5, 0.25, 0.125, 0.125]


def test_exponential_lr_sequence() -> None:
    assert sequence(ExponentialLR(sgd(), 0.5), 4) == [0.5, 0.25, 0.125, 0.0625]


def test_cosine_annealing_lr_sequence() -> None:
    # 1 + cos(0, 60, 120, 180, 240, 300, 360 degrees) = 2, 3/2, 1/2, 0, 1/2, 3/2, 2
    expected = [0.5, 0.4, 0.2, 0.1, 0.2, 0.4, 0.5]
    assert sequence(CosineAnnealingLR(sgd(), 3, 0.1), 7) == pytest.approx(expected, rel=1e-14)


def test_cosine_annealing_lr_reaches_its_ends_exactly() -> None:
    values = sequence(CosineAnnealingLR(sgd(0.3), 10, 0.0), 11)
    assert values[0] == 0.3
    assert values[10] == 0.0


def test_one_cycle_lr_linear_sequence() -> None:
    # Two phases of 10 steps at 30 %: up over steps 0 to 2, down over steps 2 to 9.
    scheduler = OneCycleLR(
        sgd(), 1.0, 10, anneal_strategy="linear", div_factor=5, final_div_factor=2, base_momentum=0.5, max_momentum=0.9
    )
    assert sequence(scheduler, 10) == pytest.approx(
        [0.2, 0.6, 1.0, *(1.0 - 0.9 * k / 7 for k in range(1, 8))], rel=1e-14
    )
    scheduler = OneCycleLR(sgd(), 1.0, 10, anneal_strategy="linear", base_momentum=0.5, max_momentum=0.9)
    assert sequence(scheduler, 10, "momentum") == pytest.approx(
        [0.9, 0.7, 0.5, *(0.5 + 0.4 * k / 7 for k in range(1, 8))], rel=1e-14
    )


def test_one_cycle_lr_cosine_sequence() -> None:
    # Up over steps 0 to 3, down over steps 3 to 9: fractions of 1/3 and 1/6.
    scheduler = OneCycleLR(sgd(), 1.0, 10, pct_start=0.4, div_factor=2, final_div_factor=5)
    rising = [0.5, 0.5 + 0.5 * 0.25, 0.5 + 0.5 * 0.75, 1.0]
    falling = [0.1 + 0.45 * (1 + math.cos(math.pi * k / 6)) for k in range(1, 7)]
    assert sequence(scheduler, 10) == pytest.approx(rising + falling, rel=1e-14)


def test_one_cycle_lr_three_phase_sequence() -> None:
    # Up over steps 0 to 2, back over 2 to 4, down to the minimum over 4 to 9.
    arguments: dict[str, Any] = {"anneal_strategy": "linear", "three_phase": True, "div_factor": 5}
    scheduler = OneCycleLR(sgd(), 1.0, 10, final_div_factor=10, **arguments)
    rates = sequence(scheduler, 10)
    assert rates == pytest.approx([0.2, 0.6, 1.0, 0.6, *(0.2 - 0.18 * k / 5 for k in range(6))], rel=1e-13)
    scheduler = OneCycleLR(sgd(), 1.0, 10, **arguments)
    momenta = sequence(scheduler, 10, "momentum")
    assert momenta == pytest.approx([0.95, 0.9, 0.85, 0.9, *[0.95] * 6], rel=1e-14)


def test_one_cycle_lr_cycles_first_beta_only() -> None:
    optimizer = adam(0.1)
    scheduler = OneCycleLR(optimizer, 1.0, 10)
    betas = sequence(scheduler, 10, "betas")
    assert betas[0] == (pytest.approx(0.95, rel=1e-15), 0.999)
    assert betas[2] == (pytest.approx(0.85, rel=1e-15), 0.999)
    assert {pair[1] for pair in betas} == {0.999}


def test_one_cycle_lr_leaves_momentum_alone_on_request() -> None:
    optimizer = sgd()
    assert set(sequence(OneCycleLR(optimizer, 1.0, 10, cycle_momentum=False), 10, "momentum")) == {0.9}
    optimizer = SimpleNamespace(param_groups=[{"lr": 0.1}])
    OneCycleLR(optimizer, 1.0, 10, cycle_momentum=False).step()
    assert set(optimizer.param_groups[0]) == {"lr", "initial_lr"}


def test_one_cycle_lr_takes_bounds_for_each_group() -> None:
    optimizer = sgd(0.1, 0.2)
    OneCycleLR(optimizer, [1.0, 2.0], 10, base_momentum=[0.5, 0.6], max_momentum=(0.7, 0.8), div_factor=10)
    first, second = optimizer.param_groups
    assert (first["lr"], second["lr"]) == pytest.approx((0.1, 0.2), rel=1e-15)
    assert (first["momentum"], second["momentum"]) == pytest.approx((0.7, 0.8), rel=1e-15)


@pytest.mark.parametrize("strategy", ["cos", "linear"])
@pytest.mark.parametrize("total", [1, 2, 3, 10])
@pytest.mark.parametrize("three_phase", [False, True])
@pytest.mark.parametrize("pct_start", [0, 0.1, 0.3, 0.5, 1])
def test_one_cycle_lr_short_cycles_stay_between_minimum_and_peak(
    strategy: Any, total: int, three_phase: bool, pct_start: float
) -> None:
    if three_phase and pct_start > 0.5:
        return
    arguments: dict[str, Any] = {"anneal_strategy": strategy, "three_phase": three_phase, "pct_start": pct_start}
    scheduler = OneCycleLR(sgd(), 1.0, total, **arguments)
    rates = sequence(scheduler, total + 1)
    assert all(1 / 25 / 1e4 * (1 - 1e-9) <= rate <= 1.0 for rate in rates)
    assert rates[-1] == rates[-2]
    if pct_start < 1 and total > 1:
        assert rates[-1] == pytest.approx(1 / 25 / 1e4, rel=1e-9)
    momenta = [scheduler.momentum_at(step)[0] for step in range(total + 1)]
    assert all(0.85 * (1 - 1e-15) <= momentum <= 0.95 for momentum in momenta)


def test_one_cycle_lr_single_rising_step_is_at_the_peak() -> None:
    assert sequence(OneCycleLR(sgd(), 0.5, 10, pct_start=0.1), 1) == [0.5]


def test_one_cycle_lr_past_its_end_is_refused_and_unchanged() -> None:
    scheduler = OneCycleLR(sgd(), 1.0, 5)
    for _ in range(5):
        scheduler.step()
    before = scheduler.state_dict(), dict(scheduler.optimizer.param_groups[0])
    for _ in range(2):
        with pytest.raises(ValueError, match=r"step 6 is past the end.*at most total_steps=5\. Raise total_steps"):
            scheduler.step()
    assert (scheduler.state_dict(), scheduler.optimizer.param_groups[0]) == before


def test_one_cycle_lr_length_prefers_total_steps() -> None:
    assert OneCycleLR(sgd(), 1.0, 30, 4, 5).total_steps == 30
    assert OneCycleLR(sgd(), 1.0, epochs=4, steps_per_epoch=5).total_steps == 20


# --- What every schedule promises -------------------------------------------------------------------------------------


def test_makers_cover_every_scheduler() -> None:
    assert {type(make(sgd(0.1, 0.2))).__name__ for make in MAKERS.values()} == set(schedulers.__all__) - {"Scheduler"}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_constructor_writes_step_zero(make: Make) -> None:
    optimizer = sgd(0.5, 0.05)
    scheduler = make(optimizer)
    assert scheduler.last_epoch == 0
    assert [group["lr"] for group in optimizer.param_groups] == scheduler.get_last_lr() == scheduler.lr_at(0)
    assert [group["initial_lr"] for group in optimizer.param_groups] == scheduler.base_lrs


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_groups_keep_their_own_rates(make: Make) -> None:
    scheduler = make(sgd(0.5, 0.05))
    both = [sequence(make(sgd(0.5, 0.05)), 40, group=group) for group in (0, 1)]
    assert [list(pair) for pair in zip(*both, strict=True)] == [scheduler.lr_at(step) for step in range(40)]
    if not isinstance(scheduler, OneCycleLR):
        assert both[0] != both[1]


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_lr_at_changes_nothing(make: Make) -> None:
    scheduler = make(sgd(0.5, 0.05))
    before = scheduler.state_dict(), [dict(group) for group in scheduler.optimizer.param_groups]
    scheduler.lr_at(17)
    assert (scheduler.state_dict(), [dict(group) for group in scheduler.optimizer.param_groups]) == before


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("stop", [0, 1, 13, 39])
def test_resuming_is_exact(make: Make, stop: int) -> None:
    unbroken, interrupted = make(sgd(0.5, 0.05)), make(sgd(0.5, 0.05))
    for _ in range(stop):
        unbroken.step()
        interrupted.step()
    state = json.loads(json.dumps(interrupted.state_dict()))
    resumed = make(sgd(0.7, 0.9))
    resumed.load_state_dict(state)
    assert resumed.optimizer.param_groups == unbroken.optimizer.param_groups
    for _ in range(39 - stop):
        unbroken.step()
        resumed.step()
        assert resumed.optimizer.param_groups == unbroken.optimizer.param_groups
        assert resumed.get_last_lr() == unbroken.get_last_lr()
    assert resumed.state_dict() == unbroken.state_dict()


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_state_is_a_copy_both_ways(make: Make) -> None:
    scheduler = make(sgd(0.5, 0.05))
    state = scheduler.state_dict()
    frozen = json.dumps(state)
    scheduler.load_state_dict(state)
    scheduler.step()
    assert json.dumps(state) == frozen
    state["base_lrs"][0] = 99.0
    scheduler.get_last_lr()[0] = 99.0
    assert 99.0 not in scheduler.base_lrs and 99.0 not in scheduler.get_last_lr()


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_last_epoch_resumes_after_that_step(make: Make) -> None:
    scheduler = make(sgd(0.5, 0.05))
    for _ in range(9):
        scheduler.step()
    resumed = SimpleNamespace(param_groups=[dict(group) for group in scheduler.optimizer.param_groups])
    arguments = {
        "StepLR": {"step_size": 7, "gamma": 0.5},
        "MultiStepLR": {"milestones": [3, 9, 9, 25], "gamma": 0.3},
        "ExponentialLR": {"gamma": 0.97},
        "CosineAnnealingLR": {"T_max": 12, "eta_min": 1e-3},
        "OneCycleLR": {"max_lr": [0.4, 0.1], "total_steps": 40},
    }
    name = type(scheduler).__name__
    if make is MAKERS["OneCycleLR three phases"]:
        return
    again = type(scheduler)(resumed, last_epoch=8, **arguments[name])
    assert again.last_epoch == 9
    assert resumed.param_groups == scheduler.optimizer.param_groups


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_new_scheduler_starts_from_present_rates(make: Make) -> None:
    optimizer = sgd(0.5, 0.05)
    first = make(optimizer)
    for _ in range(5):
        first.step()
    optimizer.param_groups[0]["lr"] = 0.2
    second = StepLR(optimizer, 100)
    assert optimizer.param_groups[0]["lr"] == second.base_lrs[0] == 0.2


def test_rate_set_by_hand_lasts_until_the_next_step() -> None:
    scheduler = StepLR(sgd(), 10)
    scheduler.optimizer.param_groups[0]["lr"] = 0.125
    assert scheduler.get_last_lr() == [0.5]
    scheduler.step()
    assert scheduler.optimizer.param_groups[0]["lr"] == 0.5


def test_interval_defaults_and_choice() -> None:
    intervals = {name: make(sgd(0.5, 0.05)).interval for name, make in MAKERS.items()}
    assert {name for name, interval in intervals.items() if interval == "step"} == {
        "OneCycleLR",
        "OneCycleLR three phases",
    }
    assert StepLR(sgd(), 3, interval="step").interval == "step"
    assert OneCycleLR(sgd(), 0.1, 3, interval="epoch").interval == "epoch"


def test_numpy_rate_becomes_python_float() -> None:
    np = pytest.importorskip("numpy")
    optimizer = sgd(np.float32(0.5))
    StepLR(optimizer, np.int64(3), np.float64(0.1)).step()
    assert type(optimizer.param_groups[0]["lr"]) is float


def test_added_parameter_group_is_refused_with_remedy() -> None:
    scheduler = StepLR(sgd(), 3)
    scheduler.optimizer.param_groups.append({"lr": 0.1})  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match=r"2 parameter groups, expected 1\. Create the scheduler after"):
        scheduler.step()
    assert scheduler.last_epoch == 0


def test_overflow_is_refused_and_unchanged() -> None:
    scheduler = ExponentialLR(sgd(), 1e200)
    scheduler.step()
    with pytest.raises(ValueError, match="ExponentialLR: a learning rate overflows at step 2"):
        scheduler.step()
    assert scheduler.last_epoch == 1
    with pytest.raises(ValueError, match="overflows at step 1"):
        ExponentialLR(sgd(1e200), 1e200).step()


def test_underflow_is_zero() -> None:
    assert ExponentialLR(sgd(), 0.1).lr_at(10_000) == [0.0]


def test_subclass_needs_only_a_rate() -> None:
    class Inverse(Scheduler):
        def __init__(self, optimizer: Any, decay: float) -> None:
            self.decay = decay
            super().__init__(optimizer)

        def rate(self, group: int, step: int) -> float:
            return self.base_lrs[group] / (1 + self.decay * step)

    scheduler = Inverse(sgd(), 1.0)
    assert sequence(scheduler, 4) == [0.5, 0.25, 0.5 / 3, 0.125]
    resumed = Inverse(sgd(), 2.0)
    resumed.load_state_dict(scheduler.state_dict())
    assert resumed.decay == 1.0 and resumed.get_last_lr() == [0.125]


def test_repr_shows_arguments_and_count() -> None:
    scheduler = StepLR(sgd(), 3)
    scheduler.step()
    assert repr(scheduler) == "StepLR(step_size=3, gamma=0.1, interval='epoch', base_lrs=[0.5], last_epoch=1)"


@given(st.floats(1e-8, 10.0), st.floats(0.5, 1.0), st.integers(1, 50), st.integers(0, 400))
def test_decay_closed_forms(rate: float, gamma: float, size: int, step: int) -> None:
    assert StepLR(sgd(rate), size, gamma).lr_at(step)[0] == pytest.approx(rate * gamma ** (step // size), rel=1e-15)
    assert ExponentialLR(sgd(rate), gamma).lr_at(step)[0] == pytest.approx(rate * gamma**step, rel=1e-15)


@given(st.floats(1e-3, 10.0), st.floats(0.0, 1e-3), st.integers(1, 300), st.integers(0, 1000))
def test_cosine_closed_form(rate: float, minimum: float, period: int, step: int) -> None:
    expected = minimum + 0.5 * (rate - minimum) * (1 + math.cos(math.pi * step / period))
    value = CosineAnnealingLR(sgd(rate), period, minimum).lr_at(step)[0]
    assert value == pytest.approx(expected, rel=1e-12, abs=1e-15 * rate)
    assert minimum * (1 - 1e-12) <= value <= rate * (1 + 1e-12)


# --- Refusals ---------------------------------------------------------------------------------------------------------

REFUSED: list[tuple[Any, type[Exception], str]] = [
    (lambda: StepLR(None, 3), TypeError, "StepLR: optimizer is a NoneType"),
    (lambda: StepLR(SimpleNamespace(param_groups=[]), 3), TypeError, "StepLR: optimizer is a SimpleNamespace"),
    (lambda: StepLR(SimpleNamespace(param_groups=[{}]), 3), TypeError, "param_groups is a list of dicts with 'lr'"),
    (lambda: StepLR(sgd(-0.1), 3), ValueError, r"param_groups\[0\]\['lr'\] is -0.1"),
    (lambda: StepLR(sgd(math.nan), 3), ValueError, r"param_groups\[0\]\['lr'\] is nan"),
    (lambda: StepLR(sgd("fast"), 3), TypeError, r"param_groups\[0\]\['lr'\] is 'fast'"),
    (lambda: StepLR(sgd(), 0), ValueError, "StepLR: step_size is 0"),
    (lambda: StepLR(sgd(), -3), ValueError, "StepLR: step_size is -3"),
    (lambda: StepLR(sgd(), 2.5), TypeError, "StepLR: step_size is 2.5"),
    (lambda: StepLR(sgd(), 3, 0), ValueError, "StepLR: gamma is 0"),
    (lambda: StepLR(sgd(), 3, -0.5), ValueError, "StepLR: gamma is -0.5"),
    (lambda: StepLR(sgd(), 3, math.nan), ValueError, "StepLR: gamma is nan"),
    (lambda: StepLR(sgd(), 3, math.inf), ValueError, "StepLR: gamma is inf"),
    (lambda: StepLR(sgd(), 3, "0.1"), TypeError, "StepLR: gamma is '0.1'"),
    (lambda: StepLR(sgd(), 3, interval="epochs"), ValueError, "interval is 'epochs'.*Did you mean 'epoch'"),
    (lambda: StepLR(sgd(), 3, interval=1), TypeError, "interval is 1"),
    (lambda: StepLR(sgd(), 3, last_epoch=-2), ValueError, "last_epoch is -2"),
    (lambda: StepLR(sgd(), 3, last_epoch=4), ValueError, r"param_groups\[0\] has no 'initial_lr'.*load_state_dict"),
    (lambda: StepLR(sgd(), 3).lr_at(-1), ValueError, "StepLR: step is -1"),
    (lambda: StepLR(sgd(), 3).lr_at(1.0), TypeError, "StepLR: step is 1.0"),
    (lambda: MultiStepLR(sgd(), 30), TypeError, "milestones is 30, expected a list"),
    (lambda: MultiStepLR(sgd(), "30"), TypeError, "milestones is '30', expected a list"),
    (lambda: MultiStepLR(sgd(), [5, 3]), ValueError, r"milestones is \[5, 3\], expected ascending.*Sort"),
    (lambda: MultiStepLR(sgd(), [3, -5]), ValueError, r"milestones\[1\] is -5"),
    (lambda: MultiStepLR(sgd(), [3, 0.5]), TypeError, r"milestones\[1\] is 0.5"),
    (lambda: MultiStepLR(sgd(), [3], 0.0), ValueError, "MultiStepLR: gamma is 0"),
    (lambda: ExponentialLR(sgd(), 0.0), ValueError, "ExponentialLR: gamma is 0"),
    (lambda: CosineAnnealingLR(sgd(), 0), ValueError, "CosineAnnealingLR: T_max is 0"),
    (lambda: CosineAnnealingLR(sgd(), 10.0), TypeError, "CosineAnnealingLR: T_max is 10.0"),
    (lambda: CosineAnnealingLR(sgd(), 10, -0.1), ValueError, "CosineAnnealingLR: eta_min is -0.1"),
    (lambda: CosineAnnealingLR(sgd(), 10, math.nan), ValueError, "CosineAnnealingLR: eta_min is nan"),
    (lambda: OneCycleLR(sgd(), 1.0), ValueError, "length of the cycle is not given. Pass total_steps"),
    (lambda: OneCycleLR(sgd(), 1.0, epochs=3), ValueError, "length of the cycle is not given"),
    (lambda: OneCycleLR(sgd(), 1.0, 0), ValueError, "total_steps is 0"),
    (lambda: OneCycleLR(sgd(), 1.0, epochs=0, steps_per_epoch=3), ValueError, "epochs is 0"),
    (lambda: OneCycleLR(sgd(), 1.0, epochs=3, steps_per_epoch=1.5), TypeError, "steps_per_epoch is 1.5"),
    (lambda: OneCycleLR(sgd(), 0.0, 9), ValueError, "max_lr is 0"),
    (lambda: OneCycleLR(sgd(), [1.0, 2.0], 9), ValueError, "max_lr has 2 values"),
    (lambda: OneCycleLR(sgd(), [-1.0], 9), ValueError, r"max_lr\[0\] is -1"),
    (lambda: OneCycleLR(sgd(), 1.0, 9, pct_start=1.5), ValueError, "pct_start is 1.5"),
    (lambda: OneCycleLR(sgd(), 1.0, 9, pct_start=0.6, three_phase=True), ValueError, r"pct_start is 0.6.*\[0, 0.5\]"),
    (lambda: OneCycleLR(sgd(), 1.0, 9, anneal_strategy="cosine"), ValueError, "Did you mean 'cos'"),
    (lambda: OneCycleLR(sgd(), 1.0, 9, base_momentum=1.0), ValueError, "base_momentum is 1"),
    (lambda: OneCycleLR(sgd(), 1.0, 9, max_momentum=-0.1), ValueError, "max_momentum is -0.1"),
    (lambda: OneCycleLR(sgd(), 1.0, 9, base_momentum=0.9, max_momentum=0.8), ValueError, "Swap them"),
    (lambda: OneCycleLR(sgd(), 1.0, 9, div_factor=0), ValueError, "div_factor is 0"),
    (lambda: OneCycleLR(sgd(), 1.0, 9, final_div_factor=math.inf), ValueError, "final_div_factor is inf"),
    (lambda: OneCycleLR(sgd(), 1.0, 9, three_phase=1), TypeError, "three_phase is 1"),
    (lambda: OneCycleLR(sgd(), 1.0, 9, cycle_momentum="yes"), TypeError, "cycle_momentum is 'yes'"),
    (
        lambda: OneCycleLR(SimpleNamespace(param_groups=[{"lr": 0.1}]), 1.0, 9),
        ValueError,
        r"param_groups\[0\] has neither 'momentum' nor 'betas'. Pass cycle_momentum=False",
    ),
    (lambda: OneCycleLR(sgd(), 1.0, 9).lr_at(10), ValueError, "step 10 is past the end"),
    (lambda: OneCycleLR(sgd(), 1.0, 9).momentum_at(10), ValueError, "step 10 is past the end"),
    (lambda: OneCycleLR(sgd(), 1.0, 9).momentum_at(-1), ValueError, "step is -1"),
    (lambda: OneCycleLR(sgd(), 1.0, 9, last_epoch=9), ValueError, "step 10 is past the end"),
]


@pytest.mark.parametrize(("make", "error", "words"), REFUSED)
def test_nonsense_is_refused(make: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()


def test_refused_constructor_leaves_the_optimizer_alone() -> None:
    optimizer = sgd()
    for arguments in ({"max_lr": 1.0}, {"max_lr": 1.0, "total_steps": 9, "last_epoch": 9}):
        with pytest.raises(ValueError, match="OneCycleLR"):
            OneCycleLR(optimizer, **arguments)
    assert optimizer.param_groups == sgd().param_groups


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda state: None, TypeError, "state_dict is a NoneType"),
        (lambda state: {}, ValueError, "state_dict is of None"),
        (lambda state: state | {"scheduler": "ExponentialLR"}, ValueError, "state_dict is of 'ExponentialLR'"),
        (lambda state: state | {"more": 1}, ValueError, "'more'"),
        (lambda state: state | {"last_epoch": -1}, ValueError, "last_epoch'] is -1"),
        (lambda state: state | {"last_epoch": "4"}, TypeError, "last_epoch'] is '4', expected a int"),
        (lambda state: state | {"gamma": None}, TypeError, "gamma'] is None"),
        (lambda state: state | {"base_lrs": [0.1, 0.2]}, ValueError, "state_dict has 2 base_lrs, expected 1"),
        (lambda state: state | {"base_lrs": [math.inf]}, ValueError, "overflows"),
    ],
)
def test_wrong_state_is_refused_and_changes_nothing(change: Any, error: type[Exception], words: str) -> None:
    scheduler = StepLR(sgd(), 3)
    scheduler.step()
    before = scheduler.state_dict(), dict(scheduler.optimizer.param_groups[0])
    with pytest.raises(error, match=words):
        scheduler.load_state_dict(change(scheduler.state_dict()))
    assert (scheduler.state_dict(), scheduler.optimizer.param_groups[0]) == before


# --- PyTorch ----------------------------------------------------------------------------------------------------------

PARITY: list[tuple[str, dict[str, Any]]] = [
    ("StepLR", {"step_size": 7}),
    ("StepLR", {"step_size": 1, "gamma": 0.98}),
    ("MultiStepLR", {"milestones": [1, 30, 80, 80, 400], "gamma": 0.3}),
    ("MultiStepLR", {"milestones": [0, 499]}),
    ("ExponentialLR", {"gamma": 0.95}),
    ("ExponentialLR", {"gamma": 1.01}),
    ("CosineAnnealingLR", {"T_max": 500}),
    ("CosineAnnealingLR", {"T_max": 60, "eta_min": 1e-4}),
    ("CosineAnnealingLR", {"T_max": 1, "eta_min": 1e-4}),
    ("OneCycleLR", {"max_lr": 0.3, "total_steps": 500}),
    ("OneCycleLR", {"max_lr": [0.3, 2.0], "epochs": 25, "steps_per_epoch": 20, "anneal_strategy": "linear"}),
    ("OneCycleLR", {"max_lr": 0.3, "total_steps": 503, "three_phase": True, "pct_start": 0.41}),
    ("OneCycleLR", {"max_lr": 0.3, "total_steps": 500, "three_phase": True, "anneal_strategy": "linear"}),
    ("OneCycleLR", {"max_lr": 0.3, "total_steps": 501, "pct_start": 0.0, "div_factor": 3.0, "final_div_factor": 7.0}),
    ("OneCycleLR", {"max_lr": 0.3, "total_steps": 500, "base_momentum": [0.1, 0.2], "max_momentum": [0.3, 0.9]}),
    ("OneCycleLR", {"max_lr": 0.3, "total_steps": 500, "cycle_momentum": False}),
]


@pytest.mark.filterwarnings("ignore:Detected call of:UserWarning")  # the order of step() calls: there is no training
@pytest.mark.parametrize("kind", ["SGD", "Adam"])
@pytest.mark.parametrize(("name", "arguments"), PARITY, ids=str)
def test_sequence_equals_pytorch(name: str, arguments: dict[str, Any], kind: str) -> None:
    torch = pytest.importorskip("torch")
    rates = (0.3, 0.01)
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in rates]
    extra = {"momentum": 0.9} if kind == "SGD" else {}
    theirs = getattr(torch.optim, kind)(groups, **extra)
    ours = sgd(*rates) if kind == "SGD" else adam(*rates)
    their_scheduler = getattr(torch.optim.lr_scheduler, name)(theirs, **arguments)
    our_scheduler = getattr(schedulers, name)(ours, **arguments)
    for step in range(500):
        for index, (our_group, their_group) in enumerate(zip(ours.param_groups, theirs.param_groups, strict=True)):
            where = f"step {step}, group {index}"
            assert our_group["lr"] == pytest.approx(their_group["lr"], rel=1e-12, abs=1e-300), where
            assert our_group["initial_lr"] == their_group["initial_lr"]
            key = "momentum" if kind == "SGD" else "betas"
            assert our_group[key] == pytest.approx(their_group[key], rel=1e-12, abs=0), where
        assert our_scheduler.last_epoch == their_scheduler.last_epoch == step
        assert our_scheduler.get_last_lr() == pytest.approx(their_scheduler.get_last_lr(), rel=1e-12, abs=1e-300)
        if step < 499:
            our_scheduler.step()
            their_scheduler.step()


@pytest.mark.parametrize("name", sorted({name for name, _ in PARITY}))
def test_arguments_equal_pytorch(name: str) -> None:
    torch = pytest.importorskip("torch")
    theirs = inspect.signature(getattr(torch.optim.lr_scheduler, name)).parameters
    ours = inspect.signature(getattr(schedulers, name)).parameters
    assert [*theirs, "interval"] == list(ours)
    assert {key: value.default for key, value in theirs.items()} == {
        key: value.default for key, value in ours.items() if key != "interval"
    }
    assert ours["interval"].kind is inspect.Parameter.KEYWORD_ONLY
