"""Functions that are called when a layer has run: to look at what passes through a model, or to change it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from cnet import _check
from cnet._check import Float32Array

Hook = Callable[[Any, Any, Any], Any]

# No key is used twice, so that a handle never takes back a hook that was registered after its own was.
_keys = itertools.count()


class HookHandle:
    """What registering a hook returns: ``remove()`` takes it back."""

    def __init__(self, hooks: dict[int, Hook], key: int) -> None:
        self._hooks = hooks
        self._key = key

    def remove(self) -> None:
        """Do not call the hook any more; a second time does nothing."""
        self._hooks.pop(self._key, None)


class Hooks:
    """A layer's hooks."""

    def __init__(self) -> None:
        self._forward_hooks: dict[int, Hook] = {}
        self._backward_hooks: dict[int, Hook] = {}

    def register_forward_hook(self, hook: Hook) -> HookHandle:
        """Call ``hook(layer, x, y)`` after each forward pass of this layer.

        Parameters
        ----------
        hook : callable
            If it returns an array, that takes the place of ``y``; None leaves it.

        Returns
        -------
        HookHandle
            Its ``remove()`` takes the hook back.

        Raises
        ------
        TypeError
            If ``hook`` cannot be called.

        Examples
        --------
        >>> from cnet import layers
        >>> layer = layers.ReLU()
        >>> handle = layer.register_forward_hook(lambda layer, x, y: print(layer, x.shape, float(y.max())))
        >>> y = layer([[-1.0, 2.0]])
        ReLU() (1, 2) 2.0
        >>> handle.remove()
        """
        return self._register(self._forward_hooks, hook)

    def register_full_backward_hook(self, hook: Hook) -> HookHandle:
        """Call ``hook(layer, dx, dy)`` after each backward pass of this layer.

        Parameters
        ----------
        hook : callable
            ``dx`` is None where no gradient of the input was asked for. If the hook returns an array, that takes the
            place of ``dx``; None leaves it.

        Returns
        -------
        HookHandle
            Its ``remove()`` takes the hook back.

        Raises
        ------
        TypeError
            If ``hook`` cannot be called.
        """
        return self._register(self._backward_hooks, hook)

    def _register(self, hooks: dict[int, Hook], hook: Hook) -> HookHandle:
        if not callable(hook):
            raise TypeError(_check.message(type(self).__name__, f"hook is a {type(hook).__name__}", "a function"))
        key = next(_keys)
        hooks[key] = hook
        return HookHandle(hooks, key)

    def _after_forward(self, x: Float32Array, y: Float32Array) -> Float32Array:
        for hook in tuple(self._forward_hooks.values()):
            y = _replaced(hook(self, x, y), y)
        return y

    def _after_backward(self, dx: Float32Array | None, dy: Float32Array) -> Float32Array | None:
        for hook in tuple(self._backward_hooks.values()):
            dx = _replaced(hook(self, dx, dy), dx)
        return dx


def _replaced(result: Any, array: Any) -> Any:
    """What a hook returned, checked, or the array it was called with."""
    if result is None or array is None:
        return array
    new = _check.float32("hook", "its result", result)
    if new.shape != array.shape:
        raise _check.shape_error("hook", "its result", new.shape, str(array.shape))
    return new
