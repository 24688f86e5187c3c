"""Trains neural networks on the CPU: small, fast, readable, and the same bits at any thread count.

>>> import cnet
>>> from cnet import data, layers, losses, optimizers
>>> cnet.manual_seed(0)
>>> train, test = data.mnist(download=False, verbose=False)
>>> model = layers.Sequential(layers.Flatten(), layers.Linear(784, 32), layers.ReLU(), layers.Linear(32, 10))
>>> optimizer = optimizers.SGD(model.parameters(), lr=0.02, momentum=0.9)
>>> trainer = cnet.Trainer(model, losses.CrossEntropyLoss(), optimizer)
>>> history = trainer.fit(train, epochs=1, validation=test, progress=False)
>>> history.epochs[-1].validation_accuracy > 0.8
True

Layers, losses, optimizers, schedulers, initialisers and metrics carry PyTorch's names and defaults. Arrays are NumPy's.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnet import data, initializers, layers, losses, metrics, optimizers, random, schedulers, training
    from cnet._threads import get_num_threads, set_num_threads
    from cnet.layout import empty_cache, memory_stats, reset_peak_memory
    from cnet.parameter import Parameter
    from cnet.random import manual_seed
    from cnet.training import History, Trainer, load_weights, save_weights

__all__ = [
    "History",
    "Parameter",
    "Trainer",
    "data",
    "empty_cache",
    "get_num_threads",
    "initializers",
    "layers",
    "load_weights",
    "losses",
    "manual_seed",
    "memory_stats",
    "metrics",
    "optimizers",
    "random",
    "reset_peak_memory",
    "save_weights",
    "schedulers",
    "set_num_threads",
    "training",
]

__version__ = "0.1.0"

# Each public name and the module it comes from; a module is loaded when one of its names is first asked for, so that
# `import cnet` costs a few milliseconds whatever the library grows to. A subpackage comes from itself.
_HOMES = {
    "History": "training",
    "Parameter": "parameter",
    "Trainer": "training",
    "empty_cache": "layout",
    "get_num_threads": "_threads",
    "load_weights": "training",
    "manual_seed": "random",
    "memory_stats": "layout",
    "reset_peak_memory": "layout",
    "save_weights": "training",
    "set_num_threads": "_threads",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'cnet' has no attribute {name!r}")
    module = importlib.import_module(f"cnet.{_HOMES.get(name, name)}")
    value = getattr(module, name) if name in _HOMES else module
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
