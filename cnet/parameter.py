"""Parameters, and the arena in which all those of a model lie side by side."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from cnet import _check, layout
from cnet._check import Float32Array

__all__ = ["Arena", "Parameter"]

# Each parameter starts on a cache line of its own: 16 floats.
_ALIGNMENT = 16


class Parameter:
    """A tensor that is learned: its values and the gradient that ``backward`` accumulates.

    Parameters
    ----------
    data : array_like of float, optional
        Initial values in the logical layout (see Notes), copied and converted to float32. Without them the parameter
        has neither shape nor values until a layer gives it some, which happens when the layer is built.
    name : str, default ""
        For messages and checkpoints; a layer sets it.
    requires_grad : bool, default True
        Whether optimizers update it. Set the attribute to ``False`` to freeze the parameter.

    Attributes
    ----------
    data, grad : ndarray of float32
        Values and gradient, views of the model's arena in the logical layout. Assigning to ``data`` copies the values
        in.
    shape : tuple of int or None
        None until the parameter is built.

    Raises
    ------
    TypeError
        If ``data`` is not an array of real numbers.
    RuntimeError
        If ``data`` or ``grad`` is read before the parameter is built.

    Notes
    -----
    Linear weights are ``(out, in)`` and convolution weights ``(out, in / groups, kh, kw)``, as in PyTorch, whatever the
    order in memory. The gradient is zero until the first ``backward``. :meth:`zero_grad` puts off the work until the
    gradient is read, and spares it where ``backward`` comes first: a view of ``grad`` from before shows old numbers
    until then.

    Examples
    --------
    >>> from cnet.parameter import Parameter
    >>> weight = Parameter([[1, 2, 3], [4, 5, 6]])
    >>> weight.shape, weight.size, weight.grad.sum()
    ((2, 3), 6, np.float32(0.0))
    """

    def __init__(self, data: object = None, *, name: str = "", requires_grad: bool = True) -> None:
        self.name = name
        self.requires_grad = requires_grad
        self.shape: tuple[int, ...] | None = None
        self.arena: Arena | None = None
        self.offset = 0
        # Whether the gradient is zero, whatever its memory holds: it is cleared when it is read, or written anew.
        self.grad_stale = False
        if data is not None:
            self.materialise(_check.float32("Parameter", "data", data))

    def materialise(self, data: Float32Array) -> None:
        """Give the parameter its shape and first values (logical layout); it lies alone until an arena takes it."""
        self.shape = data.shape
        self.storage = layout.empty(layout.weight_shape(data.shape))
        self.grad_memory, self.grad_stale = layout.zeros(self.storage.shape), False
        layout.weight_logical(self.storage)[...] = data

    def adopt(self, arena: Arena, offset: int) -> None:
        """Move into ``arena``, at ``offset`` elements."""
        size, shape = self.size, self.storage.shape
        storage = arena.data[offset : offset + size].reshape(shape)
        gradient = arena.grad_memory[offset : offset + size].reshape(shape)
        storage[...], gradient[...] = self.storage, self.grad_storage
        self.storage, self.grad_memory = storage, gradient
        self.arena, self.offset = arena, offset

    def __getstate__(self) -> dict[str, Any]:
        # A copy lies alone: it has no part in the arena of the original.
        values = {"data": self.data.copy(), "grad": self.grad.copy()} if self.built else {}
        return {"name": self.name, "requires_grad": self.requires_grad, **values}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state.get("data"), name=state["name"], requires_grad=state["requires_grad"])  # type: ignore[misc]
        if self.built:
            self.grad[...] = state["grad"]

    @property
    def built(self) -> bool:
        """Whether the parameter has a shape and values."""
        return self.shape is not None

    @property
    def size(self) -> int:
        """Number of elements; 0 until the parameter is built."""
        return 0 if self.shape is None else math.prod(self.shape)

    @property
    def data(self) -> Float32Array:
        """The values, in the logical layout."""
        self._require_built("data")
        return layout.weight_logical(self.storage)

    @data.setter
    def data(self, values: object) -> None:
        self._assign("data", self.data, values)

    @property
    def grad_storage(self) -> Float32Array:
        """The accumulated gradient, in the physical layout."""
        self.settle()
        return self.grad_memory

    def settle(self) -> None:
        """Clear the gradient's memory if the gradient is to be zero."""
        if self.grad_stale:
            self.grad_stale = False
            self.grad_memory.fill(0)

    @property
    def grad(self) -> Float32Array:
        """The accumulated gradient, in the logical layout."""
        self._require_built("grad")
        return layout.weight_logical(self.grad_storage)

    @grad.setter
    def grad(self, values: object) -> None:
        self._assign("grad", self.grad, values)

    def zero_grad(self) -> None:
        """Set the gradient to zero."""
        self.grad_stale = self.shape is not None

    def __repr__(self) -> str:
        frozen = "" if self.requires_grad else ", requires_grad=False"
        return f"Parameter({self.name!r}, shape={self.shape}{frozen})"

    @property
    def _subject(self) -> str:
        return f"Parameter {self.name}" if self.name else "Parameter"

    def _assign(self, attribute: str, own: Float32Array, values: object) -> None:
        """Copy values in: the memory stays, because an arena and an optimizer refer to it."""
        array = _check.float32(self._subject, attribute, values)
        if array.shape != self.shape:
            raise _check.shape_error(self._subject, attribute, array.shape, str(self.shape))
        own[...] = array

    def _require_built(self, attribute: str) -> None:
        if self.shape is None:
            raise RuntimeError(
                _check.message(
                    self._subject,
                    f"{attribute} is read before the layer knows its input size",
                    "a built model",
                    "Call model.build(input_shape) or pass a batch through it first.",
                )
            )


class Arena:
    """Two flat float32 buffers with the values and the gradients of many parameters, in order.

    An optimizer step is then one pass over memory, and so are a gradient norm and a checkpoint. Each parameter starts
    on a cache line; the few elements between two parameters stay zero.

    Parameters
    ----------
    parameters : iterable of Parameter
        Built parameters; their values and gradients move in.

    Attributes
    ----------
    data, grad : ndarray of float32, shape (size,)
        The buffers, aligned to 64 bytes.

    Examples
    --------
    >>> from cnet.parameter import Arena, Parameter
    >>> weight, bias = Parameter([[1, 2], [3, 4]]), Parameter([5, 6])
    >>> arena = Arena([weight, bias])
    >>> arena.data.size, bias.offset, arena.data[bias.offset]
    (32, 16, np.float32(5.0))
    >>> weight.data[0, 0] = 9
    >>> arena.data[0]
    np.float32(9.0)
    """

    def __init__(self, parameters: Iterable[Parameter]) -> None:
        self.parameters: Sequence[Parameter] = tuple(parameters)
        offsets, size = [], 0
        for parameter in self.parameters:
            offsets.append(size)
            size += padded_size(parameter)
        self.data = layout.zeros((size,))
        # The gradients, but for those that are zero whatever stands here.
        self.grad_memory = layout.zeros((size,))
        for parameter, offset in zip(self.parameters, offsets, strict=True):
            parameter.adopt(self, offset)
        # Where the parameters lay before, nothing of their size will be asked for again.
        layout.empty_cache()

    def zeros(self) -> Float32Array:
        """A buffer of the same shape, such as an optimizer's momentum."""
        return layout.zeros(self.data.shape)

    @property
    def grad(self) -> Float32Array:
        """All gradients."""
        settle(self.parameters)
        return self.grad_memory

    def zero_grad(self) -> None:
        """Set every gradient to zero."""
        for parameter in self.parameters:
            parameter.zero_grad()

    @staticmethod
    def holds(parameters: Sequence[Parameter]) -> bool:
        """Whether these parameters, and no others, share one arena in this order."""
        if not parameters or parameters[0].arena is None:
            return not parameters
        owned = parameters[0].arena.parameters
        return len(owned) == len(parameters) and all(a is b for a, b in zip(owned, parameters, strict=True))


def settle(parameters: Iterable[Parameter]) -> None:
    """Make the memory of all gradients hold what they are."""
    for parameter in parameters:
        parameter.settle()


def claim(parameters: Sequence[Parameter]) -> bool:
    """Whether all gradients are stale: the caller then writes all of their memory. Else it can be added to."""
    if all(parameter.grad_stale for parameter in parameters):
        for parameter in parameters:
            parameter.grad_stale = False
        return True
    settle(parameters)
    return False


def padded_size(parameter: Parameter) -> int:
    """The elements that a parameter takes in an arena."""
    return -(-parameter.size // _ALIGNMENT) * _ALIGNMENT


def spread(parameter: Parameter, buffer: Float32Array, offset: int | None = None) -> Float32Array:
    """The logical view of a parameter's part, where it lies or at ``offset``, of a buffer of an arena's shape."""
    start = parameter.offset if offset is None else offset
    part = buffer[start : start + parameter.size]
    return layout.weight_logical(part.reshape(parameter.storage.shape))


def gather_unique(parameters: Iterable[Parameter]) -> list[Parameter]:
    """The parameters in order, each once."""
    seen: dict[int, Parameter] = {}
    for parameter in parameters:
        seen.setdefault(id(parameter), parameter)
    return list(seen.values())
