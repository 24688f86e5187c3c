"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from cnet import _check, _threads
from cnet.kernels import optimizer
from cnet.optimizers.base import Group, Optimizer, Range
from cnet.parameter import Parameter


class SGD(Optimizer):
    r"""Stochastic gradient descent with momentum.

    .. math::

        g &\leftarrow g + \lambda \theta \\
        b &\leftarrow \mu b + (1 - \tau) g \quad (\text{at the first step } b \leftarrow g) \\
        \theta &\leftarrow \theta - \eta b, \quad\text{or with Nesterov}\quad \theta - \eta (g + \mu b)

    Parameters
    ----------
    parameters : iterable of Parameter, or of dict
        What to update; dicts are groups with options of their own.
    lr : float, default 0.001
        Learning rate :math:`\eta`, ``>= 0``, per step.
    momentum : float, default 0
        :math:`\mu`, ``>= 0``; 0 keeps no buffer.
    dampening : float, default 0
        :math:`\tau`; must be 0 with Nesterov.
    weight_decay : float, default 0
        :math:`\lambda`, ``>= 0``, the L2 penalty per step, coupled to the learning rate. Applies to biases too: put
        those in a group with ``weight_decay=0`` to exempt them.
    nesterov : bool, default False
        Look ahead along the momentum; needs ``momentum > 0``.
    maximize : bool, default False
        Ascend: :math:`g \leftarrow -g` first.

    Raises
    ------
    TypeError, ValueError
        If an option is out of range, or Nesterov meets no momentum or a dampening.

    Notes
    -----
    PyTorch's update rule exactly: the learning rate multiplies the buffer at the step, so a change of learning rate
    acts at once on all of it.

    References
    ----------
    PyTorch, ``torch.optim.SGD``. I. Sutskever et al., "On the importance of initialization and momentum in deep
    learning", ICML 2013.

    Examples
    --------
    >>> from cnet.optimizers import SGD
    >>> from cnet.parameter import Parameter
    >>> weight = Parameter([1.0])
    >>> optimizer = SGD([weight], lr=0.1, momentum=0.9)
    >>> for _ in range(2):
    ...     weight.grad[...] = 1.0
    ...     optimizer.step()
    >>> round(float(weight.data[0]), 4)
    0.71
    """

    def __init__(
        self,
        parameters: Iterable[Parameter] | Iterable[Mapping[str, Any]],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            parameters,
            {
                "lr": lr,
                "momentum": momentum,
                "dampening": dampening,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
                "maximize": maximize,
            },
        )

    state_names: ClassVar[tuple[str, ...]] = ("momentum_buffer",)

    def _state_in_use(self, group: Group) -> tuple[str, ...]:
        return self.state_names if group["momentum"] else ()

    def _check_options(self, options: Mapping[str, Any]) -> None:
        for name in ("lr", "momentum", "weight_decay"):
            _check.real("SGD", name, options[name], 0)
        _check.real("SGD", "dampening", options["dampening"])
        for name in ("nesterov", "maximize"):
            _check.boolean("SGD", name, options[name])
        if options["nesterov"] and (options["momentum"] == 0 or options["dampening"] != 0):
            received = f"nesterov with momentum {options['momentum']} and dampening {options['dampening']}"
            raise ValueError(_check.message("SGD", received, "momentum > 0 and dampening 0"))

    def _update(self, group: Group, part: Range) -> None:
        optimizer.sgd_step(
            part.data,
            part.grad,
            part.state.get("momentum_buffer"),
            group["lr"],
            group["momentum"],
            group["dampening"],
            group["nesterov"],
            group["weight_decay"],
            group["maximize"],
            part.first,
            _threads._count,
        )
