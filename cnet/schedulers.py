r"""Learning-rate schedules.

A scheduler writes the learning rate (and, for :class:`OneCycleLR`, the momentum) into the parameter groups of an
optimizer. It knows nothing else of the optimizer. Names, arguments, defaults and values are PyTorch's::

    scheduler = StepLR(optimizer, step_size=10)
    for epoch in range(30):
        ...                       # optimizer.step() for every batch
        scheduler.step()          # once an epoch

Every schedule counts calls of :meth:`Scheduler.step`. What a call stands for, an epoch or a batch, is written in
``interval``: a Trainer reads it and calls accordingly, a hand-written loop should do the same. A count in the arguments
(``step_size``, ``milestones``, ``T_max``, ``total_steps``) is in that unit.

Values are computed in closed form from that count, never from the previous value. So a resumed run has the very
numbers of an uninterrupted one, and any part of a schedule can be looked at beforehand (:meth:`Scheduler.lr_at`). The
price: a learning rate that someone writes into a group is overwritten at the next step. To change course, create a new
scheduler, which starts from the rates the groups then have.
"""

from __future__ import annotations

import bisect
import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import Any, Literal, Protocol

from cnet import _check

__all__ = ["CosineAnnealingLR", "ExponentialLR", "MultiStepLR", "OneCycleLR", "Scheduler", "StepLR"]

Interval = Literal["epoch", "step"]
_INTERVALS = ("epoch", "step")


class _Optimizer(Protocol):
    @property
    def param_groups(self) -> Sequence[MutableMapping[str, Any]]: ...


class Scheduler(ABC):
    r"""Base of all schedules: counts the steps and writes :math:`\eta_t = f(\eta_0, t)` into the parameter groups.

    A subclass overrides :meth:`rate`. What its formula depends on it keeps in public attributes, set before it calls
    this constructor: they make up :meth:`state_dict`.

    Parameters
    ----------
    optimizer : object
        Anything with ``param_groups``, a list of dicts with the key ``"lr"`` (``>= 0``). The scheduler adds
        ``"initial_lr"``, the :math:`\eta_0` of the group, and writes ``"lr"``.
    last_epoch : int
        Number of the last step already taken, ``>= -1``, in units of ``interval``. -1 (default) begins a schedule at
        the rates the groups have; otherwise :math:`\eta_0` is the ``"initial_lr"`` of each group, and the schedule
        stands at ``last_epoch + 1``, as in PyTorch. :meth:`load_state_dict` is the surer way to resume.
    interval : {"epoch", "step"}
        When :meth:`step` is to be called: after each epoch (default) or each optimizer step. Read by the Trainer.
    base_lrs : sequence of float, optional
        For subclasses that set :math:`\eta_0` themselves: one for each group.

    Attributes
    ----------
    base_lrs : list of float
        :math:`\eta_0` of each group.
    last_epoch : int
        The count :math:`t`, 0 after construction.

    Raises
    ------
    TypeError
        If the optimizer has no parameter groups, or an argument has the wrong type.
    ValueError
        If an argument is out of range, or ``last_epoch >= 0`` and a group has no ``"initial_lr"``.

    Notes
    -----
    The rates of step 0 are in force when the constructor returns. Call ``scheduler.step()`` after ``optimizer.step()``.
    Parameter groups must not be added to the optimizer afterwards. One scheduler to an optimizer: a second one would
    overwrite the first.

    References
    ----------
    PyTorch, ``torch.optim.lr_scheduler.LRScheduler``.

    Examples
    --------
    A schedule of one's own, linear from :math:`\eta_0` to 0:

    >>> from types import SimpleNamespace
    >>> from cnet.schedulers import Scheduler
    >>> class Linear(Scheduler):
    ...     def rate(self, group, step):
    ...         return self.base_lrs[group] * max(0.0, 1 - step / 4)
    >>> optimizer = SimpleNamespace(param_groups=[{"lr": 0.5}])  # stands for any optimizer
    >>> scheduler = Linear(optimizer)
    >>> scheduler.step()
    >>> optimizer.param_groups
    [{'lr': 0.375, 'initial_lr': 0.5}]
    """

    def __init__(
        self,
        optimizer: _Optimizer,
        last_epoch: int = -1,
        *,
        interval: Interval = "epoch",
        base_lrs: Sequence[float] | None = None,
    ) -> None:
        subject = type(self).__name__
        groups = _parameter_groups(subject, optimizer)
        last = _check.integer(subject, "last_epoch", last_epoch, -1)
        _check.choice(subject, "interval", interval, _INTERVALS)
        if base_lrs is None:
            base_lrs = _rates_of(subject, groups, "lr" if last == -1 else "initial_lr")
        self.optimizer = optimizer
        self.interval: Interval = interval
        self.base_lrs = _per_group(subject, "base_lrs", tuple(base_lrs), len(groups))
        self._begin(last + 1)

    @abstractmethod
    def rate(self, group: int, step: int) -> float:
        """Return the learning rate of a group at a step, as a pure function.

        Parameters
        ----------
        group : int
            Index into ``optimizer.param_groups`` and ``base_lrs``.
        step : int
            The count, ``>= 0``, in units of ``interval``.

        Returns
        -------
        float
            The learning rate.

        Raises
        ------
        ValueError
            If ``step`` is past the end of a schedule that has one.
        """

    def lr_at(self, step: int) -> list[float]:
        """Return the learning rates at any step, without changing anything: for a plot of the schedule.

        Parameters
        ----------
        step : int
            The count, ``>= 0``, in units of ``interval``.

        Returns
        -------
        list of float
            One learning rate for each parameter group.

        Raises
        ------
        TypeError
            If ``step`` is not an integer.
        ValueError
            If ``step`` is negative or past the end of the schedule, or a rate overflows.
        """
        return self._rates(_check.integer(type(self).__name__, "step", step, 0))

    def step(self) -> None:
        """Advance by one and write the new learning rates into the parameter groups.

        Raises
        ------
        RuntimeError
            If parameter groups were added since the scheduler was created.
        ValueError
            If the schedule has ended, or a rate overflows. The state is then unchanged.
        """
        self._move_to(self.last_epoch + 1)

    def get_last_lr(self) -> list[float]:
        """Return the learning rates last written, one for each parameter group.

        Returns
        -------
        list of float
            A copy.
        """
        return list(self._last_lr)

    def state_dict(self) -> dict[str, Any]:
        """Return the count, the base rates and the arguments, for a checkpoint.

        Returns
        -------
        dict
            A copy made of strings, numbers and lists, which JSON can hold without loss.
        """
        return {"scheduler": type(self).__name__} | copy.deepcopy(self._public())

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a state; the learning rates of its step are written into the parameter groups at once.

        Parameters
        ----------
        state_dict : mapping
            What :meth:`state_dict` returned. Its arguments replace those of the constructor, as in PyTorch.

        Raises
        ------
        TypeError
            If ``state_dict`` is not a mapping or an entry has the wrong type.
        ValueError
            If it is the state of another scheduler or has another number of groups. The scheduler is then unchanged.
        """
        subject = type(self).__name__
        current = self.state_dict()
        if not isinstance(state_dict, Mapping):
            raise TypeError(_check.message(subject, f"state_dict is a {type(state_dict).__name__}", "a mapping"))
        if state_dict.get("scheduler") != subject or state_dict.keys() != current.keys():
            received = f"state_dict is of {state_dict.get('scheduler')!r} with {list(state_dict)}"
            raise ValueError(_check.message(subject, received, f"{subject!r} with {list(current)}"))
        for name, value in state_dict.items():
            if type(value) is not type(current[name]):
                received = f"state_dict[{name!r}] is {value!r}"
                raise TypeError(_check.message(subject, received, f"a {type(current[name]).__name__}"))
        last = _check.integer(subject, "state_dict['last_epoch']", state_dict["last_epoch"], 0)
        if len(state_dict["base_lrs"]) != len(self.base_lrs):
            received = f"state_dict has {len(state_dict['base_lrs'])} base_lrs"
            remedy = "Create the optimizer with the parameter groups it was saved with."
            raise ValueError(_check.message(subject, received, str(len(self.base_lrs)), remedy))
        # A copy takes the state first: only one that works is adopted.
        loaded = copy.copy(self)
        vars(loaded).update({name: copy.deepcopy(value) for name, value in state_dict.items() if name != "scheduler"})
        loaded._begin(last)
        vars(self).update(vars(loaded))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._public().items())})"

    def _public(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name[0] != "_" and name != "optimizer"}

    def _rates(self, step: int) -> list[float]:
        try:
            rates = [self.rate(group, step) for group in range(len(self.base_lrs))]
        except OverflowError:
            rates = [math.inf]
        if not all(map(math.isfinite, rates)):
            received = f"a learning rate overflows at step {step}"
            remedy = "Stop earlier or let it grow more slowly."
            raise ValueError(_check.message(type(self).__name__, received, remedy=remedy))
        return rates

    def _begin(self, step: int) -> None:
        self._move_to(step)
        for group, base_lr in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["initial_lr"] = base_lr

    def _move_to(self, step: int) -> None:
        rates = self._rates(step)
        groups = self.optimizer.param_groups
        if len(groups) != len(rates):
            received = f"the optimizer has {len(groups)} parameter groups"
            remedy = "Create the scheduler after the last parameter group."
            raise RuntimeError(_check.message(type(self).__name__, received, str(len(rates)), remedy))
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
        self._last_lr = rates
        self.last_epoch = step


class StepLR(Scheduler):
    r"""Multiply the learning rate by ``gamma`` every ``step_size`` epochs.

    .. math:: \eta_t = \eta_0 \, \gamma^{\lfloor t / step\_size \rfloor}

    Parameters
    ----------
    optimizer : object
        Anything with ``param_groups``, see :class:`Scheduler`.
    step_size : int
        Length of a stair, ``>= 1``, in units of ``interval``.
    gamma : float
        Factor, ``> 0``; default 0.1.
    last_epoch : int
        Number of the last step already taken; default -1, a new schedule. See :class:`Scheduler`.
    interval : {"epoch", "step"}
        When :meth:`step` is to be called, and the unit of ``step_size``; default ``"epoch"``.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If an argument is out of range.

    Notes
    -----
    The first smaller rate is that of step number ``step_size``, the steps being counted from 0.

    References
    ----------
    PyTorch, ``torch.optim.lr_scheduler.StepLR``.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from cnet.schedulers import StepLR
    >>> optimizer = SimpleNamespace(param_groups=[{"lr": 0.5}])  # stands for any optimizer
    >>> scheduler = StepLR(optimizer, step_size=2, gamma=0.5)
    >>> [scheduler.lr_at(epoch)[0] for epoch in range(5)]
    [0.5, 0.5, 0.25, 0.25, 0.125]
    """

    def __init__(
        self,
        optimizer: _Optimizer,
        step_size: int,
        gamma: float = 0.1,
        last_epoch: int = -1,
        *,
        interval: Interval = "epoch",
    ) -> None:
        self.step_size = _check.integer(type(self).__name__, "step_size", step_size, 1)
        self.gamma = _check.real(type(self).__name__, "gamma", gamma, 0.0, open_low=True)
        super().__init__(optimizer, last_epoch, interval=interval)

    def rate(self, group: int, step: int) -> float:
        return self.base_lrs[group] * self.gamma ** (step // self.step_size)


class MultiStepLR(Scheduler):
    r"""Multiply the learning rate by ``gamma`` at each milestone.

    .. math:: \eta_t = \eta_0 \, \gamma^{|\{m \in milestones : m \le t\}|}

    Parameters
    ----------
    optimizer : object
        Anything with ``param_groups``, see :class:`Scheduler`.
    milestones : iterable of int
        Steps ``>= 0``, in ascending order, in units of ``interval``.
    gamma : float
        Factor, ``> 0``; default 0.1.
    last_epoch : int
        Number of the last step already taken; default -1, a new schedule. See :class:`Scheduler`.
    interval : {"epoch", "step"}
        When :meth:`step` is to be called, and the unit of ``milestones``; default ``"epoch"``.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If an argument is out of range, or the milestones are not in order.

    Notes
    -----
    A milestone given twice counts twice. One at 0 applies from the start.

    References
    ----------
    PyTorch, ``torch.optim.lr_scheduler.MultiStepLR``.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from cnet.schedulers import MultiStepLR
    >>> optimizer = SimpleNamespace(param_groups=[{"lr": 0.5}])  # stands for any optimizer
    >>> scheduler = MultiStepLR(optimizer, milestones=[1, 4], gamma=0.5)
    >>> [scheduler.lr_at(epoch)[0] for epoch in range(5)]
    [0.5, 0.25, 0.25, 0.25, 0.125]
    """

    def __init__(
        self,
        optimizer: _Optimizer,
        milestones: Iterable[int],
        gamma: float = 0.1,
        last_epoch: int = -1,
        *,
        interval: Interval = "epoch",
    ) -> None:
        subject = type(self).__name__
        if isinstance(milestones, str) or not isinstance(milestones, Iterable):
            raise TypeError(_check.message(subject, f"milestones is {milestones!r}", "a list of integers"))
        self.milestones = [_check.integer(subject, f"milestones[{i}]", m, 0) for i, m in enumerate(milestones)]
        if self.milestones != sorted(self.milestones):
            raise ValueError(
                _check.message(subject, f"milestones is {self.milestones}", "ascending steps", "Sort them.")
            )
        self.gamma = _check.real(subject, "gamma", gamma, 0.0, open_low=True)
        super().__init__(optimizer, last_epoch, interval=interval)

    def rate(self, group: int, step: int) -> float:
        return self.base_lrs[group] * self.gamma ** bisect.bisect_right(self.milestones, step)


class ExponentialLR(Scheduler):
    r"""Multiply the learning rate by ``gamma`` every epoch.

    .. math:: \eta_t = \eta_0 \, \gamma^t

    Parameters
    ----------
    optimizer : object
        Anything with ``param_groups``, see :class:`Scheduler`.
    gamma : float
        Factor, ``> 0``. Above 1 the rate grows, as a learning-rate range test wants.
    last_epoch : int
        Number of the last step already taken; default -1, a new schedule. See :class:`Scheduler`.
    interval : {"epoch", "step"}
        When :meth:`step` is to be called; default ``"epoch"``.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If an argument is out of range.

    Notes
    -----
    A rate too small for a float becomes 0; one too large is refused at its step.

    References
    ----------
    PyTorch, ``torch.optim.lr_scheduler.ExponentialLR``.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from cnet.schedulers import ExponentialLR
    >>> optimizer = SimpleNamespace(param_groups=[{"lr": 0.5}])  # stands for any optimizer
    >>> scheduler = ExponentialLR(optimizer, gamma=0.5)
    >>> [scheduler.lr_at(epoch)[0] for epoch in range(4)]
    [0.5, 0.25, 0.125, 0.0625]
    """

    def __init__(
        self, optimizer: _Optimizer, gamma: float, last_epoch: int = -1, *, interval: Interval = "epoch"
    ) -> None:
        self.gamma = _check.real(type(self).__name__, "gamma", gamma, 0.0, open_low=True)
        super().__init__(optimizer, last_epoch, interval=interval)

    def rate(self, group: int, step: int) -> float:
        return self.base_lrs[group] * self.gamma**step


class CosineAnnealingLR(Scheduler):
    r"""Lower the learning rate along half a cosine, from :math:`\eta_0` at step 0 to ``eta_min`` at ``T_max``.

    .. math:: \eta_t = \eta_{min} + \tfrac12 (\eta_0 - \eta_{min}) \left(1 + \cos(\pi t / T_{max})\right)

    Parameters
    ----------
    optimizer : object
        Anything with ``param_groups``, see :class:`Scheduler`.
    T_max : int
        Steps to the minimum, ``>= 1``, in units of ``interval``.
    eta_min : float
        The minimum, ``>= 0``, for all groups; default 0.
    last_epoch : int
        Number of the last step already taken; default -1, a new schedule. See :class:`Scheduler`.
    interval : {"epoch", "step"}
        When :meth:`step` is to be called, and the unit of ``T_max``; default ``"epoch"``.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If an argument is out of range.

    Notes
    -----
    There is no restart: past ``T_max`` the cosine goes on, and the rate rises again with the period ``2 * T_max``.
    PyTorch computes the same values recursively; the two agree to rounding.

    References
    ----------
    I. Loshchilov, F. Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017. PyTorch,
    ``torch.optim.lr_scheduler.CosineAnnealingLR``.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from cnet.schedulers import CosineAnnealingLR
    >>> optimizer = SimpleNamespace(param_groups=[{"lr": 0.5}])  # stands for any optimizer
    >>> scheduler = CosineAnnealingLR(optimizer, T_max=4)
    >>> [round(scheduler.lr_at(epoch)[0], 3) for epoch in range(6)]
    [0.5, 0.427, 0.25, 0.073, 0.0, 0.073]
    """

    def __init__(
        self,
        optimizer: _Optimizer,
        T_max: int,  # noqa: N803 - PyTorch's name
        eta_min: float = 0.0,
        last_epoch: int = -1,
        *,
        interval: Interval = "epoch",
    ) -> None:
        self.T_max = _check.integer(type(self).__name__, "T_max", T_max, 1)
        self.eta_min = _check.real(type(self).__name__, "eta_min", eta_min, 0.0)
        super().__init__(optimizer, last_epoch, interval=interval)

    def rate(self, group: int, step: int) -> float:
        return _cosine(self.base_lrs[group], self.eta_min, step / self.T_max)


class OneCycleLR(Scheduler):
    r"""Raise the learning rate to ``max_lr``, then lower it far below its start, within one run; momentum inversely.

    With :math:`T` ``total_steps`` and :math:`\eta_0 = max\_lr / div\_factor`, the rate goes

    - from :math:`\eta_0` to ``max_lr`` over the steps 0 to :math:`pct\_start \cdot T - 1`,
    - then to :math:`\eta_0 / final\_div\_factor`, reached at step :math:`T - 1`;

    with ``three_phase`` it first returns to :math:`\eta_0` as slowly as it rose. In each phase, from :math:`a` to
    :math:`b`, at the fraction :math:`p`,

    .. math::
        \eta = b + \tfrac12 (a - b)(1 + \cos \pi p) \quad\text{or}\quad \eta = a + (b - a)\, p .

    Parameters
    ----------
    optimizer : object
        Anything with ``param_groups``, see :class:`Scheduler`. To cycle the momentum, each group needs ``"momentum"``
        or ``"betas"``, whose first entry is then cycled.
    max_lr : float or sequence of float
        The peak, ``> 0``; one for all groups or one for each.
    total_steps : int, optional
        Length of the cycle, ``>= 1``, in units of ``interval``. Takes precedence over the next two.
    epochs, steps_per_epoch : int, optional
        Their product is the length; each ``>= 1``.
    pct_start : float
        Fraction of the cycle spent rising, in ``[0, 1]``, with ``three_phase`` in ``[0, 0.5]``; default 0.3.
    anneal_strategy : {"cos", "linear"}
        Cosine (default) or linear phases.
    cycle_momentum : bool
        Whether momentum falls while the rate rises, and rises while it falls; default True.
    base_momentum, max_momentum : float or sequence of float
        Its bounds, in ``[0, 1)``, for all groups or for each; default 0.85 and 0.95.
    div_factor : float
        The peak divided by the first rate, ``> 0``; default 25.
    final_div_factor : float
        The first rate divided by the last, ``> 0``; default 1e4.
    three_phase : bool
        Three phases as in the paper, rather than two (default) as in fastai.
    last_epoch : int
        Number of the last step already taken; default -1, a new schedule. See :class:`Scheduler`.
    interval : {"epoch", "step"}
        When :meth:`step` is to be called; default ``"step"``, after each batch.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If an argument is out of range, no length is given, or a group has nothing to cycle.

    Notes
    -----
    ``total_steps`` calls of :meth:`step` are allowed, as many as batches; one more is a ``ValueError``. The last of
    them leaves the rate where it is, while PyTorch moves past the end, to a rate that may be negative; no batch sees
    either. A rising phase of a single step, where PyTorch divides by zero, is spent at ``max_lr``. The learning rates
    that the groups had before are not used.

    References
    ----------
    L. N. Smith, N. Topin, "Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates",
    arXiv:1708.07120, 2018. PyTorch, ``torch.optim.lr_scheduler.OneCycleLR``.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from cnet.schedulers import OneCycleLR
    >>> optimizer = SimpleNamespace(param_groups=[{"lr": 0.1, "momentum": 0.9}])  # stands for any optimizer
    >>> scheduler = OneCycleLR(optimizer, max_lr=0.5, total_steps=10, anneal_strategy="linear")
    >>> [round(scheduler.lr_at(step)[0], 3) for step in (0, 1, 2, 9)]
    [0.02, 0.26, 0.5, 0.0]
    >>> [round(scheduler.momentum_at(step)[0], 3) for step in (0, 1, 2, 9)]
    [0.95, 0.9, 0.85, 0.95]
    """

    # The step that was last located, and its place: the rates and the momentums of a step ask one after the other.
    _located: tuple[int, tuple[int, float]]

    def __init__(
        self,
        optimizer: _Optimizer,
        max_lr: float | Sequence[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: Literal["cos", "linear"] = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | Sequence[float] = 0.85,
        max_momentum: float | Sequence[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
        *,
        interval: Interval = "step",
    ) -> None:
        subject = type(self).__name__
        groups = _parameter_groups(subject, optimizer)
        self.total_steps = _length(subject, total_steps, epochs, steps_per_epoch)
        self.three_phase = _check.boolean(subject, "three_phase", three_phase)
        # The way back is as long as the rise, and both must fit.
        self.pct_start = _check.real(subject, "pct_start", pct_start, 0.0, 0.5 if self.three_phase else 1.0)
        self.anneal_strategy = _check.choice(subject, "anneal_strategy", anneal_strategy, ("cos", "linear"))
        self.cycle_momentum = _check.boolean(subject, "cycle_momentum", cycle_momentum)
        self.max_lrs = _per_group(subject, "max_lr", max_lr, len(groups), open_low=True)
        self.base_momentums = _per_group(subject, "base_momentum", base_momentum, len(groups), 1.0)
        self.max_momentums = _per_group(subject, "max_momentum", max_momentum, len(groups), 1.0)
        for index, (group, low, high) in enumerate(zip(groups, self.base_momentums, self.max_momentums, strict=True)):
            if low > high:
                received = f"base_momentum is {low:g}, max_momentum is {high:g}"
                raise ValueError(_check.message(subject, received, "base_momentum <= max_momentum", "Swap them."))
            if self.cycle_momentum and "momentum" not in group and "betas" not in group:
                received = f"param_groups[{index}] has neither 'momentum' nor 'betas'"
                raise ValueError(_check.message(subject, received, remedy="Pass cycle_momentum=False."))
        div_factor = _check.real(subject, "div_factor", div_factor, 0.0, open_low=True)
        final_div_factor = _check.real(subject, "final_div_factor", final_div_factor, 0.0, open_low=True)
        base_lrs = [peak / div_factor for peak in self.max_lrs]
        self.min_lrs = [base / final_div_factor for base in base_lrs]
        super().__init__(optimizer, last_epoch, interval=interval, base_lrs=base_lrs)

    def rate(self, group: int, step: int) -> float:
        phase, fraction = self._locate(step)
        start, peak = self.base_lrs[group], self.max_lrs[group]
        if phase == 0:
            return self._anneal(start, peak, fraction)
        if phase == 1 and self.three_phase:
            return self._anneal(peak, start, fraction)
        return self._anneal(start if self.three_phase else peak, self.min_lrs[group], fraction)

    def momentum_at(self, step: int) -> list[float]:
        """Return the momentum of each parameter group at any step, without changing anything.

        Parameters
        ----------
        step : int
            The count, in ``[0, total_steps]``, in units of ``interval``.

        Returns
        -------
        list of float
            One for each parameter group; meaningful if ``cycle_momentum``.

        Raises
        ------
        TypeError
            If ``step`` is not an integer.
        ValueError
            If ``step`` is out of range.
        """
        return self._momentums(_check.integer(type(self).__name__, "step", step, 0))

    def _momentums(self, step: int) -> list[float]:
        phase, fraction = self._locate(step)
        bounds = zip(self.base_momentums, self.max_momentums, strict=True)
        if phase == 0:
            return [self._anneal(high, low, fraction) for low, high in bounds]
        if phase == 1:
            return [self._anneal(low, high, fraction) for low, high in bounds]
        return list(self.max_momentums)

    def _locate(self, step: int) -> tuple[int, float]:
        """Return the number of the phase a step is in, and the fraction of it that has passed."""
        if step == self._located[0]:
            return self._located[1]
        if step > self.total_steps:
            received = f"step {step} is past the end of the cycle"
            remedy = "Raise total_steps (or epochs, steps_per_epoch), or stop calling step()."
            raise ValueError(
                _check.message(type(self).__name__, received, f"at most total_steps={self.total_steps}", remedy)
            )
        final = self.total_steps - 1
        rise = self.pct_start * self.total_steps - 1
        # Where the way back ends; without one it takes no time.
        back = 2 * rise if self.three_phase else rise
        asked, step = step, min(step, final)
        # A short cycle rises in less than a step: its first phase ends before step 0 and the next begins there.
        if step <= rise:
            phase, start, end = 0, 0.0, rise
        elif step <= back:
            phase, start, end = 1, rise, back
        else:
            phase, start, end = 1 + self.three_phase, back, float(final)
        length = end - start
        place = phase, (step - start) / length if length > 0 else 1.0
        self._located = asked, place
        return place

    def _anneal(self, first: float, last: float, fraction: float) -> float:
        if self.anneal_strategy == "cos":
            return _cosine(first, last, fraction)
        return first + (last - first) * fraction

    def _begin(self, step: int) -> None:
        # A loaded state has brought another cycle.
        self._located = -1, (0, 0.0)
        super()._begin(step)

    def _move_to(self, step: int) -> None:
        super()._move_to(step)
        if self.cycle_momentum:
            for group, momentum in zip(self.optimizer.param_groups, self._momentums(step), strict=True):
                if "betas" in group:
                    group["betas"] = (momentum, *group["betas"][1:])
                else:
                    group["momentum"] = momentum


def _cosine(first: float, last: float, fraction: float) -> float:
    """Interpolate along half a cosine: ``first`` at 0, ``last`` at 1."""
    return last + (first - last) / 2 * (1 + math.cos(math.pi * fraction))


def _parameter_groups(subject: str, optimizer: _Optimizer) -> Sequence[MutableMapping[str, Any]]:
    groups = getattr(optimizer, "param_groups", None)
    if (
        not isinstance(groups, Sequence)
        or not groups
        or not all(isinstance(group, MutableMapping) and "lr" in group for group in groups)
    ):
        received = f"optimizer is a {type(optimizer).__name__}"
        remedy = "Pass an optimizer, such as SGD(model.parameters(), lr=0.1)."
        raise TypeError(
            _check.message(subject, received, "an object whose param_groups is a list of dicts with 'lr'", remedy)
        )
    return groups


def _rates_of(subject: str, groups: Sequence[MutableMapping[str, Any]], key: str) -> list[float]:
    for index, group in enumerate(groups):
        if key not in group:
            received = f"param_groups[{index}] has no {key!r}, which last_epoch >= 0 starts from"
            remedy = "Load the state of the optimizer first, or use load_state_dict instead of last_epoch."
            raise ValueError(_check.message(subject, received, remedy=remedy))
    return [_check.real(subject, f"param_groups[{i}][{key!r}]", group[key], 0.0) for i, group in enumerate(groups)]


def _per_group(
    subject: str,
    name: str,
    value: float | Sequence[float],
    count: int,
    below: float | None = None,
    *,
    open_low: bool = False,
) -> list[float]:
    """One number from 0 to ``below`` for each of ``count`` groups."""
    if not isinstance(value, (list, tuple)):
        return [_check.real(subject, name, value, 0.0, below, open_low=open_low, open_high=True)] * count
    if len(value) != count:
        received = f"{name} has {len(value)} values"
        raise ValueError(_check.message(subject, received, f"one, or one for each of the {count} parameter groups"))
    return [
        _check.real(subject, f"{name}[{index}]", number, 0.0, below, open_low=open_low, open_high=True)
        for index, number in enumerate(value)
    ]


def _length(subject: str, total_steps: int | None, epochs: int | None, steps_per_epoch: int | None) -> int:
    if total_steps is not None:
        return _check.integer(subject, "total_steps", total_steps, 1)
    if epochs is None or steps_per_epoch is None:
        remedy = "Pass total_steps, or both epochs and steps_per_epoch, such as len(loader)."
        raise ValueError(_check.message(subject, "the length of the cycle is not given", remedy=remedy))
    return _check.integer(subject, "epochs", epochs, 1) * _check.integer(subject, "steps_per_epoch", steps_per_epoch, 1)
