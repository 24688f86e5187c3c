"""The tree that layers form: its parameters and buffers, their names, and the values that are saved and loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cnet import _check
from cnet.parameter import Parameter, gather_unique

if TYPE_CHECKING:
    # Every node is a Layer; the two classes are apart so that each is one idea.
    from cnet.layers.base import Layer

Self = TypeVar("Self", bound="LayerTree")


class LayerTree:
    """A layer as a node: it owns parameters and buffers, and layers that own theirs."""

    # Attributes that are saved with the parameters but not learned.
    buffer_names: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        self.training = True

    @property
    def built(self) -> bool:
        """Whether every parameter has its shape and values."""
        return all(parameter.built for parameter in self.parameters())

    def children(self) -> dict[str, Layer]:
        """The layers directly inside this one, by name."""
        return {name: cast("Layer", value) for name, value in vars(self).items() if isinstance(value, LayerTree)}

    def named_layers(self, prefix: str = "") -> Iterator[tuple[str, Layer]]:
        """This layer and all inside it, with dotted names; this layer's own name is ``prefix``."""
        yield prefix, cast("Layer", self)
        for name, child in self.children().items():
            yield from child.named_layers(f"{prefix}.{name}" if prefix else name)

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """All parameters with PyTorch's names, such as ``"0.weight"``."""
        for path, layer in self.named_layers():
            for name, value in vars(layer).items():
                if isinstance(value, Parameter):
                    yield (f"{path}.{name}" if path else name), value

    def parameters(self) -> list[Parameter]:
        """All parameters, in the order of the layers, each once."""
        return gather_unique(parameter for _, parameter in self.named_parameters())

    def named_buffers(self) -> Iterator[tuple[str, NDArray[Any]]]:
        """All buffers (state that is saved but not learned, such as running statistics), by dotted name."""
        for path, layer in self.named_layers():
            for name in layer.buffer_names:
                yield (f"{path}.{name}" if path else name), getattr(layer, name)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Copies of all parameters and buffers, by name, C-ordered in the logical layout.

        Raises
        ------
        RuntimeError
            If the layer is not built.
        """
        values = {name: parameter.data for name, parameter in self.named_parameters()} | dict(self.named_buffers())
        return {name: np.array(value, order="C") for name, value in values.items()}

    def load_state_dict(self, state: Mapping[str, ArrayLike], strict: bool = True) -> None:
        """Copy values into the parameters and buffers.

        Parameters
        ----------
        state : mapping of str to array_like
            What :meth:`state_dict` returned, or a PyTorch state dict's arrays.
        strict : bool, default True
            Whether a name missing from or unknown in ``state`` is an error.

        Raises
        ------
        RuntimeError
            If the layer is not built.
        KeyError
            If names are missing or unknown and ``strict`` is True.
        ValueError
            If a shape differs. In every case of error nothing has been copied.
        """
        own = {name: parameter.data for name, parameter in self.named_parameters()} | dict(self.named_buffers())
        if strict and own.keys() != state.keys():
            missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
            raise KeyError(
                _check.message(
                    f"{self._subject}.load_state_dict",
                    f"missing {missing}, unknown {unknown}",
                    "the names of state_dict()",
                    "Pass strict=False to load those in common.",
                )
            )
        checked = {name: _check.numeric(self._subject, name, state[name]) for name in own if name in state}
        for name, value in checked.items():
            if value.shape != own[name].shape:
                raise _check.shape_error(f"{self._subject}.load_state_dict", name, value.shape, str(own[name].shape))
        for name, value in checked.items():
            own[name][...] = value

    def train(self: Self, mode: bool = True) -> Self:
        """Switch this layer and all inside it to training (or, with ``mode=False``, to evaluation); returns itself."""
        for _, layer in self.named_layers():
            layer.training = _check.boolean(self._subject, "mode", mode)
        return self

    def eval(self: Self) -> Self:
        """Switch to evaluation: dropout off, running statistics used, nothing kept for backward; returns itself."""
        return self.train(False)

    def zero_grad(self) -> None:
        """Set the gradient of every parameter to zero."""
        for parameter in self.parameters():
            parameter.zero_grad()

    def count_parameters(self) -> int:
        """Number of learned values; 0 for those not built yet."""
        return sum(parameter.size for parameter in self.parameters())

    def __repr__(self) -> str:
        children = self.children()
        if not children:
            return f"{type(self).__name__}({self._signature()})"
        lines = [f"({name}): {child!r}".replace("\n", "\n  ") for name, child in children.items()]
        return "\n  ".join([f"{type(self).__name__}({self._signature()}", *lines]) + "\n)"

    @property
    def _subject(self) -> str:
        """How messages name the layer."""
        return type(self).__name__

    def _signature(self) -> str:
        """The arguments that ``repr`` shows."""
        return ""
