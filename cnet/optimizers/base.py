"""What every optimizer is: parameter groups, their ranges of the arena, and state that follows the parameters."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from cnet import _check
from cnet._check import Float32Array
from cnet.parameter import Arena, Parameter, gather_unique, padded_size, settle, spread

Group = dict[str, Any]


@dataclass(frozen=True)
class Range:
    """A stretch of an arena whose parameters are updated alike: views of its values, gradients and state."""

    data: Float32Array
    grad: Float32Array
    state: dict[str, Float32Array]
    first: bool
    """Whether this is the first step of these parameters."""


class Optimizer:
    r"""Base of all optimizers: :math:`\theta_{t+1} = \theta_t + u(g_t, \theta_t, s_t)`.

    A subclass names its state in ``state_names`` and overrides :meth:`_update`, which gets one flat stretch of the
    arena at a time, usually a whole model.

    Parameters
    ----------
    parameters : iterable of Parameter, or of dict
        What to update: ``model.parameters()``, or parameter groups, dicts with the key ``"params"`` and any of the
        options of ``defaults``.
    defaults : dict
        Options for groups that do not say otherwise.

    Attributes
    ----------
    param_groups : list of dict
        The groups with all their options. Schedulers set ``"lr"`` here.

    Raises
    ------
    TypeError
        If something is not a parameter or a group.
    ValueError
        If there are no parameters, or one is in two groups.

    Notes
    -----
    The optimizer may be created before the model is built: it looks for the parameters' memory at its first step. A
    parameter with ``requires_grad`` False is left alone, with its state.

    References
    ----------
    PyTorch, ``torch.optim.Optimizer``.

    Examples
    --------
    An optimizer of one's own, :math:`\theta \leftarrow \theta - lr\,\mathrm{sign}(g)`:

    >>> import numpy as np
    >>> from cnet.optimizers import Optimizer
    >>> from cnet.parameter import Parameter
    >>> class SignSGD(Optimizer):
    ...     def _update(self, group, part):
    ...         part.data[...] -= group["lr"] * np.sign(part.grad)
    >>> weight = Parameter([1.0, 2.0])
    >>> optimizer = SignSGD([weight], {"lr": 0.5})
    >>> weight.grad[...] = [3.0, -3.0]
    >>> optimizer.step()
    >>> weight.data.tolist()
    [0.5, 2.5]
    """

    # Buffers of the shape of the parameters, zero at first, that the update rule carries from step to step.
    state_names: ClassVar[tuple[str, ...]] = ()

    def __init__(self, parameters: Iterable[Parameter] | Iterable[Mapping[str, Any]], defaults: Group) -> None:
        self.defaults = dict(defaults)
        self.param_groups: list[Group] = []
        items = list(parameters)
        if not items:
            raise ValueError(_check.message(self._subject, "no parameters", "at least one", "Pass model.parameters()."))
        if all(isinstance(item, Mapping) for item in items):
            for group in items:
                self.add_param_group(group)  # type: ignore[arg-type]
        else:
            self.add_param_group({"params": items})
        self._buffers: dict[tuple[Arena, str], Float32Array] = {}
        # Where each parameter lay when its state was last bound.
        self._homes: dict[Parameter, tuple[Arena, int]] = {}
        # The state that each parameter has had a step with; no key before its first step.
        self._started: dict[Parameter, frozenset[str]] = {}
        self._bound: list[Any] = []
        self._ranges: list[list[Range]] = []
        # Whether any range has its first step before it.
        self._starting = False

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Add parameters with options of their own.

        Parameters
        ----------
        group : mapping
            ``"params"`` (a Parameter or several) and any of the optimizer's options.
        """
        unknown = group.keys() - self.defaults.keys() - {"params"}
        if "params" not in group or unknown:
            expected = "'params' and any of " + ", ".join(map(repr, self.defaults))
            raise ValueError(_check.message(self._subject, f"a group has the keys {sorted(group)}", expected))
        self._check_options({**self.defaults, **group})
        params = [group["params"]] if isinstance(group["params"], Parameter) else list(group["params"])
        for item in params:
            if not isinstance(item, Parameter):
                received = f"parameters hold a {type(item).__name__}"
                raise TypeError(_check.message(self._subject, received, "Parameter objects or group dicts"))
        taken = {id(p) for other in self.param_groups for p in other["params"]}
        if len(gather_unique(params)) < len(params) or any(id(p) in taken for p in params):
            raise ValueError(_check.message(self._subject, "a parameter is given twice", "each in one group only"))
        self.param_groups.append({**self.defaults, **group, "params": params})
        self._bound = []

    def step(self) -> None:
        """Update every parameter from its gradient.

        Raises
        ------
        RuntimeError
            If a parameter is not built yet.
        """
        if self._now() != self._bound:
            self._bind()
        for group in self.param_groups:
            settle(group["params"])
        for group, ranges in zip(self.param_groups, self._ranges, strict=True):
            for part in ranges:
                self._update(group, part)
        if self._starting:
            self._note_started()

    def zero_grad(self) -> None:
        """Set the gradients of all parameters to zero; see :class:`~cnet.parameter.Parameter` on when."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """The state of each parameter (by its position over all groups) and the options of each group; copies.

        Returns
        -------
        dict
            ``"state"``: ``{position: {name: ndarray in the logical layout}}`` for parameters that have been updated;
            ``"param_groups"``: the options, with ``"params"`` as positions.
        """
        groups, state, index = [], {}, 0
        for group in self.param_groups:
            positions = range(index, index + len(group["params"]))
            groups.append({**group, "params": list(positions)})
            for index, parameter in zip(positions, group["params"], strict=True):
                if parameter in self._started:
                    names = sorted(self._started[parameter])
                    state[index] = {name: np.array(self._state_of(parameter, name), order="C") for name in names}
            index = positions.stop
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned.

        Parameters
        ----------
        state : mapping
            Of an optimizer of this class over parameters of the same number and shapes.

        Raises
        ------
        ValueError
            If groups, names or shapes differ; nothing has changed then.
        RuntimeError
            If a parameter is not built yet.
        """
        parameters = self._all_parameters()
        sizes = [len(group["params"]) for group in self.param_groups]
        try:
            entries = {int(index): dict(entry) for index, entry in state["state"].items()}
            groups = [dict(group) for group in state["param_groups"]]
            received = [len(group["params"]) for group in groups]
        except (KeyError, TypeError, ValueError, AttributeError):
            raise ValueError(
                _check.message(self._subject, "state is malformed", "what state_dict() returned")
            ) from None
        if received != sizes or any(g.keys() != own.keys() for g, own in zip(groups, self.param_groups, strict=True)):
            raise ValueError(
                _check.message(self._subject, f"state has groups of {received} parameters", f"{sizes}, same options")
            )
        for group in groups:
            self._check_options(group)
        for index, entry in entries.items():
            if not 0 <= index < len(parameters):
                text = f"state is of a parameter {index}"
                raise ValueError(_check.message(self._subject, text, f"positions below {len(parameters)}"))
            entry.update({name: _check.float32(self._subject, name, value) for name, value in entry.items()})
            shapes = {name: value.shape for name, value in entry.items()}
            expected = dict.fromkeys(self.state_names, parameters[index].shape)
            # Without any, the parameter has had its steps while the options asked for none.
            if shapes not in (expected, {}):
                raise ValueError(_check.message(self._subject, f"state {index} has {shapes}", f"{expected}"))
        self._require_built()
        for own, group in zip(self.param_groups, groups, strict=True):
            own.update({name: value for name, value in group.items() if name != "params"})
        self._started = {parameters[index]: frozenset(entry) for index, entry in entries.items()}
        self._bind()
        for buffer in self._buffers.values():
            buffer.fill(0)
        for index, entry in entries.items():
            for name, value in entry.items():
                self._state_of(parameters[index], name)[...] = value
        self._bound = []

    def _state_in_use(self, group: Group) -> tuple[str, ...]:
        """The names of the state that the update rule carries with these options."""
        return self.state_names

    def _check_options(self, options: Mapping[str, Any]) -> None:
        """Refuse options of a group that are out of range."""

    def _update(self, group: Group, part: Range) -> None:
        raise NotImplementedError

    def _all_parameters(self) -> list[Parameter]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def _now(self) -> list[Any]:
        """All that the binding depends on: where each parameter is, whether it is free to move, and with what state."""
        found: list[Any] = []
        for group in self.param_groups:
            params = group["params"]
            found += (self._state_in_use(group), *params)
            found += [p.arena for p in params]
            found += [p.requires_grad for p in params]
        return found

    def _require_built(self) -> None:
        for parameter in self._all_parameters():
            if not parameter.built:
                received = f"step before {parameter.name or 'a parameter'} is built"
                remedy = "Call model.build(input_shape) or pass a batch through the model first."
                raise RuntimeError(_check.message(self._subject, received, remedy=remedy))

    def _bind(self) -> None:
        """Find the parameters in memory, carry their state along, and merge neighbours into ranges."""
        self._require_built()
        loose = [parameter for parameter in self._all_parameters() if parameter.arena is None]
        if loose:
            Arena(loose)
        self._carry_state()
        self._ranges = [self._group_ranges(group) for group in self.param_groups]
        self._starting = any(part.first for ranges in self._ranges for part in ranges)
        self._bound = self._now()

    def _carry_state(self) -> None:
        """State lies as its parameters do: make buffers for their arenas, and move what lay in former ones."""
        buffers: dict[tuple[Arena, str], Float32Array] = {}
        homes: dict[Parameter, tuple[Arena, int]] = {}
        for group in self.param_groups:
            in_use = self._state_in_use(group)
            for parameter, name in itertools.product(group["params"], self.state_names):
                # State that is out of use for a while waits where it is.
                if name not in in_use and name not in self._started.get(parameter, ()):
                    continue
                arena, start = parameter.arena, parameter.offset
                if (arena, name) not in buffers:
                    kept = self._buffers.get((arena, name))
                    buffers[arena, name] = arena.zeros() if kept is None else kept
                former, offset = self._homes.get(parameter, (arena, start))
                if former is not arena and (former, name) in self._buffers:
                    part = self._buffers[former, name][offset : offset + parameter.size]
                    buffers[arena, name][start : start + parameter.size] = part
            homes.update({parameter: (parameter.arena, parameter.offset) for parameter in group["params"]})
        self._buffers, self._homes = buffers, homes

    def _state_of(self, parameter: Parameter, name: str) -> Float32Array:
        """The logical view of a parameter's state, where it was last bound."""
        arena, offset = self._homes[parameter]
        return spread(parameter, self._buffers[arena, name], offset)

    def _group_ranges(self, group: Group) -> list[Range]:
        spans: list[tuple[Arena, int, int, bool]] = []
        in_use = frozenset(self._state_in_use(group))
        moving = [parameter for parameter in group["params"] if parameter.requires_grad]
        for parameter in sorted(moving, key=lambda p: (id(p.arena), p.offset)):
            arena = parameter.arena
            first = parameter not in self._started or not in_use <= self._started[parameter]
            assert arena is not None
            end = parameter.offset + padded_size(parameter)
            if spans and spans[-1][0] is arena and spans[-1][2] == parameter.offset and spans[-1][3] == first:
                spans[-1] = (arena, spans[-1][1], end, first)
            else:
                spans.append((arena, parameter.offset, end, first))
        return [
            Range(
                arena.data[start:end],
                arena.grad_memory[start:end],
                {name: self._buffers[arena, name][start:end] for name in self._state_in_use(group)},
                first,
            )
            for arena, start, end, first in spans
        ]

    def _note_started(self) -> None:
        """After the first step of some parameters their ranges are no longer first, and may merge with others."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.requires_grad:
                    had = self._started.get(parameter, frozenset())
                    self._started[parameter] = had | frozenset(self._state_in_use(group))
        self._bound = []

    @property
    def _subject(self) -> str:
        return type(self).__name__

    def __repr__(self) -> str:
        options = (", ".join(f"{k}={v}" for k, v in group.items() if k != "params") for group in self.param_groups)
        return f"{self._subject}({'; '.join(options)})"
