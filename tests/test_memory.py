"""A training in its steady state asks the system for nothing: no memory, no page."""

from __future__ import annotations

import gc
import os
import sys

import numpy as np
import pytest
from kernel_cases import call_in_child

import cnet
from cnet.layers import Conv2d, Dropout, Flatten, Layer, Linear, MaxPool2d, PReLU, ReLU, Residual, Sequential
from cnet.losses import CrossEntropyLoss
from cnet.optimizers import SGD

on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")

BATCHES = (32, 32, 13)


def network() -> Sequential:
    return Sequential(
        Conv2d(1, 8, 3, padding=1),
        PReLU(),
        MaxPool2d(2),
        Residual(Conv2d(8, 8, 3, padding=1)),
        ReLU(),
        MaxPool2d(2),
        Flatten(),
        Dropout(0.5),
        Linear(None, 32),
        PReLU(),
        Linear(32, 10),
    )


class Training:
    """A small training, an epoch of three batches at a time."""

    def __init__(self) -> None:
        cnet.manual_seed(1)
        generator = np.random.default_rng(1)
        self.x = [generator.standard_normal((size, 1, 20, 20), dtype=np.float32) for size in BATCHES]
        self.labels = [generator.integers(0, 10, size) for size in BATCHES]
        self.model, self.criterion = network(), CrossEntropyLoss()
        self.optimizer = SGD(self.model.parameters(), lr=0.01, momentum=0.9)

    def epoch(self) -> None:
        for x, labels in zip(self.x, self.labels, strict=True):
            self.criterion(self.model(x), labels)
            self.model.backward(self.criterion.backward(), input_grad=False)
            self.optimizer.step()
            self.optimizer.zero_grad()

    def evaluate(self) -> None:
        self.model.eval()
        for x in self.x:
            self.model(x)
        self.model.train()


def resident() -> int:
    """Bytes of this process in memory."""
    import resource

    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def page_faults() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def check_steady_state() -> None:
    """Run in a process of its own, where nothing else moves the figures."""
    cnet.set_num_threads(int(os.environ["CNET_TEST_THREADS"]))
    epochs = 200 if cnet.get_num_threads() == 1 else 40
    training = Training()
    for _ in range(5):
        training.epoch()
        training.evaluate()
    gc.collect()
    held, memory, faults = cnet.memory_stats()["held"], resident(), page_faults()
    for _ in range(epochs):
        training.epoch()
    steps = epochs * len(BATCHES)
    faults = page_faults() - faults
    assert cnet.memory_stats()["held"] == held, "the pool grew"
    # An activation of the first layer alone is 100 pages.
    assert faults <= steps // 20, f"{faults} page faults in {steps} steps"
    for _ in range(epochs // 4):
        training.evaluate()
    assert cnet.memory_stats()["held"] == held, "the pool grew in evaluation"
    assert resident() - memory <= 1 << 20, f"{resident() - memory} bytes more are resident"


def check_big_steady_state() -> None:
    """Arrays of many sizes above the threshold from which malloc gives memory back at once."""
    cnet.set_num_threads(int(os.environ["CNET_TEST_THREADS"]))
    model = Sequential(Conv2d(8, 16, 3, padding=1), ReLU(), MaxPool2d(2), Flatten(), Linear(None, 10))
    x = np.ones((64, 64, 64, 8), np.float32).transpose(0, 3, 1, 2)
    criterion, labels = CrossEntropyLoss(), np.zeros(64, int)
    faults = held = 0
    for step in range(20):
        if step == 5:
            faults, held = page_faults(), cnet.memory_stats()["held"]
        criterion(model(x), labels)
        model.backward(criterion.backward(), input_grad=False)
    assert cnet.memory_stats()["held"] == held, "the pool grew"
    # Four megabytes and more an activation: a fresh one each step would be a thousand faults.
    assert page_faults() - faults <= 15, f"{page_faults() - faults} page faults in 15 steps"


@on_linux
@pytest.mark.parametrize("threads", ["1", "3"])
@pytest.mark.parametrize("check", ["check_steady_state", "check_big_steady_state"])
def test_steady_state_takes_no_memory_and_no_pages(check: str, threads: str) -> None:
    # Waiting threads sleep, so that the test does not depend on what else the machine is busy with.
    call_in_child(__file__, check, CNET_TEST_THREADS=threads, OMP_WAIT_POLICY="passive")


def test_pool_holds_what_the_largest_batch_needs_and_no_more() -> None:
    training = Training()
    for _ in range(3):
        training.epoch()
    held = cnet.memory_stats()["held"]
    for _ in range(5):
        training.epoch()
        training.evaluate()
    assert cnet.memory_stats()["held"] == held


@pytest.mark.parametrize("input_grad", [True, False])
def test_activations_are_freed_by_backward(input_grad: bool) -> None:
    training = Training()
    training.epoch()
    gc.collect()
    before = cnet.memory_stats()["used"]
    x, labels = training.x[0], training.labels[0]
    training.criterion(training.model(x), labels)
    during = cnet.memory_stats()["used"]
    # The first layers are fused; what comes out of them, after pooling, has 8 channels of 100 pixels.
    assert during - before > 4 * 32 * 8 * 100
    training.model.backward(training.criterion.backward(), input_grad=input_grad)
    assert cnet.memory_stats()["used"] == before


def test_activations_are_freed_during_backward() -> None:
    """Each layer lets go of what it kept as soon as it has used it, so backward needs no second copy of them all."""
    model = Sequential(*[layer for _ in range(12) for layer in (Linear(256, 256, bias=False), ReLU())]).build((256,))
    x = np.ones((512, 256), np.float32)
    dy = np.ones((512, 256), np.float32)
    model.backward(model(x) * 0 + dy, input_grad=False)
    gc.collect()
    model(x)
    cnet.reset_peak_memory()
    before = cnet.memory_stats()["used"]
    model.backward(dy, input_grad=False)
    # Two gradients are alive at a time, and nothing is freed before the first is made.
    assert cnet.memory_stats()["peak"] - before <= 3 * x.nbytes


def test_evaluation_keeps_no_activation() -> None:
    model: Layer = network().build((1, 20, 20)).eval()
    x = np.ones((32, 1, 20, 20), np.float32)
    model(x)
    gc.collect()
    before = cnet.memory_stats()["used"]
    y = model(x)
    kept = cnet.memory_stats()["used"] - before
    assert y.nbytes <= kept <= y.nbytes + 1024
    del y
    assert cnet.memory_stats()["used"] == before


def test_evaluation_after_training_lets_go_of_what_training_kept() -> None:
    model = network().build((1, 20, 20))
    x = np.ones((32, 1, 20, 20), np.float32)
    gc.collect()
    before = cnet.memory_stats()["used"]
    model(x)
    assert cnet.memory_stats()["used"] > before
    model.eval()(x)
    assert cnet.memory_stats()["used"] == before


def test_model_and_optimizer_give_everything_back() -> None:
    gc.collect()
    before = cnet.memory_stats()["used"]
    training = Training()
    training.epoch()
    training.criterion(training.model(training.x[0]), training.labels[0])
    assert cnet.memory_stats()["used"] > before
    del training
    gc.collect()
    assert cnet.memory_stats()["used"] == before


def test_memory_of_parameters_is_twice_their_size_and_momentum_once_more() -> None:
    gc.collect()
    before = cnet.memory_stats()["used"]
    model = Sequential(Linear(1000, 1000, bias=False)).build((1000,))
    built = cnet.memory_stats()["used"] - before
    assert 8_000_000 <= built <= 8_000_000 * 9 / 8 + 4096
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer.step()
    assert 12_000_000 <= cnet.memory_stats()["used"] - before <= 12_000_000 * 9 / 8 + 4096
