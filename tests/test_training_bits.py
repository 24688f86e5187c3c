"""A training is a function of its seed: the same bytes from run to run and on any number of threads."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import cnet
import cnet.layers
from cnet.layers import (
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    Dropout,
    Flatten,
    Layer,
    LeakyReLU,
    Linear,
    MaxPool2d,
    PReLU,
    ReLU,
    Residual,
    Sequential,
    Softmax,
)
from cnet.losses import CrossEntropyLoss
from cnet.optimizers import SGD

THREADS = (1, 2, 3)


@pytest.fixture(autouse=True)
def threads_restored() -> Iterator[None]:
    before = cnet.get_num_threads()
    yield
    cnet.set_num_threads(before)


def every_kind() -> Sequential:
    """A network with every kind of layer."""
    return Sequential(
        Conv2d(3, 24, 3, padding=1),
        BatchNorm2d(24),
        PReLU(24),
        MaxPool2d(2),
        Residual(Sequential(Conv2d(24, 24, 3, padding=1, groups=24), LeakyReLU(0.1), Conv2d(24, 24, 1))),
        Residual(Conv2d(24, 40, 3, stride=2, padding=1), Conv2d(24, 40, 1, stride=2, bias=False)),
        ReLU(),
        Dropout(0.2),
        Flatten(),
        Linear(None, 150),
        BatchNorm1d(150),
        PReLU(),
        Dropout(0.5),
        Linear(150, 10),
        Softmax(),
    )


def multilayer_perceptron() -> Sequential:
    return Sequential(Flatten(), Linear(None, 300), ReLU(), Dropout(0.3), Linear(300, 100), PReLU(100), Linear(100, 10))


NETWORKS: dict[str, tuple[Callable[[], Sequential], bool]] = {
    "every-kind": (every_kind, False),
    "multilayer-perceptron": (multilayer_perceptron, True),
}


def test_network_has_every_kind_of_layer() -> None:
    used = {type(part) for _, part in every_kind().named_layers()}
    public = {
        value
        for module in pkgutil.iter_modules(cnet.layers.__path__, "cnet.layers.")
        for name, value in vars(importlib.import_module(module.name)).items()
        if inspect.isclass(value) and issubclass(value, Layer) and not name.startswith("_")
    }
    missing = {kind.__name__ for kind in public - used if kind._forward is not Layer._forward}
    assert not missing, f"add {sorted(missing)} to every_kind()"


def train(network: str, seed: int, threads: int, epochs: int = 2) -> tuple[list[float], dict[str, str]]:
    """Losses of all steps, and digests of the trained state, of the optimizer's and of an evaluation."""
    cnet.set_num_threads(threads)
    cnet.manual_seed(seed)
    make, from_logits = NETWORKS[network]
    generator = np.random.default_rng(0)
    x = generator.standard_normal((75, 3, 14, 14), dtype=np.float32)
    labels = generator.integers(0, 10, 75)
    model, criterion = make(), CrossEntropyLoss(from_logits)
    weights = SGD(model.parameters(), lr=0.02, momentum=0.9, nesterov=True, weight_decay=1e-3)
    losses = []
    for _ in range(epochs):
        # Batches of 32, 32 and 11.
        for start in range(0, 75, 32):
            losses.append(criterion(model(x[start : start + 32]), labels[start : start + 32]))
            model.backward(criterion.backward(), input_grad=False)
            weights.step()
            weights.zero_grad()
    arrays = model.state_dict()
    for index, entry in weights.state_dict()["state"].items():
        arrays |= {f"{name} of {index}": value for name, value in entry.items()}
    arrays["evaluation"] = model.eval()(x)
    arrays["evaluation of one"] = model(x[:1])
    assert all(np.isfinite(value).all() for value in arrays.values())
    return losses, {name: hashlib.sha256(value.tobytes()).hexdigest() for name, value in arrays.items()}


@pytest.mark.parametrize("network", NETWORKS)
def test_training_gives_the_same_bytes_on_any_number_of_threads(isa: str, network: str) -> None:
    expected = train(network, seed=1, threads=1)
    assert len(set(expected[0])) == len(expected[0])
    for threads in THREADS:
        for _ in range(2):
            losses, digests = train(network, seed=1, threads=threads)
            assert losses == expected[0], f"{threads} threads"
            assert {name for name in digests if digests[name] != expected[1][name]} == set(), f"{threads} threads"


@pytest.mark.parametrize("network", NETWORKS)
def test_number_of_threads_may_change_during_a_training(network: str) -> None:
    """A layer binds nothing to the number of threads it was built with."""
    results = []
    for change in (False, True):
        cnet.set_num_threads(1)
        cnet.manual_seed(3)
        make, from_logits = NETWORKS[network]
        generator = np.random.default_rng(0)
        x, labels = generator.standard_normal((20, 3, 14, 14)), generator.integers(0, 10, 20)
        model, criterion = make(), CrossEntropyLoss(from_logits)
        optimizer = SGD(model.parameters(), lr=0.02, momentum=0.9)
        for step in range(4):
            if change:
                cnet.set_num_threads(1 + step)
            criterion(model(x), labels)
            if change:
                cnet.set_num_threads(4 - step)
            model.backward(criterion.backward(), input_grad=False)
            optimizer.step()
            optimizer.zero_grad()
        results.append({name: value.tobytes() for name, value in model.state_dict().items()})
    assert results[0] == results[1]


@pytest.mark.parametrize("network", NETWORKS)
def test_other_seeds_give_other_bytes(network: str) -> None:
    first, other = train(network, seed=1, threads=2), train(network, seed=2, threads=2)
    assert first[0] != other[0]
    same = {name for name in first[1] if first[1][name] == other[1][name]}
    # Counters of batches are the same whatever the seed.
    assert {name for name in same if "num_batches" not in name} == set()


def test_dropout_makes_the_difference_of_equal_weights() -> None:
    """The seed reaches the masks as well as the initial weights."""
    results = []
    for seed in (1, 2):
        cnet.manual_seed(7)
        model = multilayer_perceptron().build((3, 14, 14))
        cnet.manual_seed(seed)
        results.append(model(np.ones((4, 3, 14, 14), np.float32)).tobytes())
    assert results[0] != results[1]


@pytest.mark.parametrize("network", NETWORKS)
def test_memory_used_before_does_not_show(network: str) -> None:
    """What an earlier model left in the pool must not reach a result."""
    results = []
    for poison in (np.nan, 1e30):
        blocks = [cnet.layout.empty((size,)) for size in range(128, 60_000, 512) for _ in range(2)]
        for block in blocks:
            block.fill(poison)
        del blocks, block
        results.append(train(network, seed=1, threads=3, epochs=1))
    assert results[0] == results[1]
