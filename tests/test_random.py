"""The default generator: seeding, spawning, state, threads and forks."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from cnet import random


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leave the default generator as it was: other tests may rely on their seed."""
    state = random.get_rng_state()
    yield
    random.set_rng_state(state)


def run(script: str) -> str:
    """Run a script in a fresh interpreter, with a time limit."""
    command = [sys.executable, "-W", "ignore", "-c", script]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


def test_manual_seed_restarts_draws() -> None:
    random.manual_seed(3)
    first = random.default_generator().random(5)
    random.manual_seed(3)
    assert random.default_generator().random(5).tobytes() == first.tobytes()
    random.manual_seed(4)
    assert random.default_generator().random(5).tobytes() != first.tobytes()


def test_manual_seed_is_numpys_pcg64() -> None:
    random.manual_seed(11)
    expected = np.random.Generator(np.random.PCG64(11)).random(4)
    assert random.default_generator().random(4).tobytes() == expected.tobytes()


@pytest.mark.parametrize("seed", [0, np.int64(5), 2**31, 2**200], ids=str)
def test_manual_seed_takes_any_size(seed: int) -> None:
    random.manual_seed(seed)
    assert random.get_rng_state()["seed"] == seed


@pytest.mark.parametrize(
    ("seed", "error"), [(-1, ValueError), (1.0, TypeError), (True, TypeError), (None, TypeError), ("1", TypeError)]
)
def test_manual_seed_refuses_nonsense_and_keeps_state(seed: Any, error: type[Exception]) -> None:
    before = random.get_rng_state()
    with pytest.raises(error, match="manual_seed: seed is"):
        random.manual_seed(seed)
    assert random.get_rng_state() == before


def test_earlier_generator_keeps_its_sequence() -> None:
    random.manual_seed(3)
    earlier = random.default_generator()
    expected = np.random.Generator(np.random.PCG64(3)).random(3)
    random.manual_seed(4)
    assert random.default_generator() is not earlier
    assert earlier.random(3).tobytes() == expected.tobytes()


def test_spawn_is_a_function_of_seed_and_order() -> None:
    random.manual_seed(3)
    first = [random.spawn().random() for _ in range(3)]
    random.manual_seed(3)
    random.default_generator().random(10)
    assert [random.spawn().random() for _ in range(3)] == first
    assert len(set(first)) == 3


def test_spawn_leaves_default_generator() -> None:
    random.manual_seed(3)
    expected = random.default_generator().random(3)
    random.manual_seed(3)
    random.spawn()
    assert random.default_generator().random(3).tobytes() == expected.tobytes()


def test_spawned_generators_are_uncorrelated() -> None:
    random.manual_seed(3)
    count = 10_000
    samples = np.stack([random.default_generator().random(count), *(random.spawn().random(count) for _ in range(4))])
    correlations = np.corrcoef(samples)[np.triu_indices(5, 1)]
    assert np.abs(correlations).max() < 4 / math.sqrt(count)


def test_state_round_trips_through_json() -> None:
    random.manual_seed(3)
    random.default_generator().random(7)
    random.default_generator().random(3, dtype=np.float32)  # leaves half a 64-bit draw behind
    random.spawn()
    state = json.loads(json.dumps(random.get_rng_state()))
    expected = random.default_generator().random(5), random.spawn().random(5)
    random.manual_seed(99)
    random.set_rng_state(state)
    assert random.default_generator().random(5).tobytes() == expected[0].tobytes()
    assert random.spawn().random(5).tobytes() == expected[1].tobytes()


def test_state_is_a_snapshot() -> None:
    state = random.get_rng_state()
    copied = json.dumps(state)
    random.default_generator().random(100)
    random.spawn()
    assert json.dumps(state) == copied


@pytest.mark.parametrize(
    ("state", "error"),
    [
        (None, TypeError),
        (3, TypeError),
        ({}, ValueError),
        ({"seed": 3, "spawned": 0, "stream": {}}, ValueError),
        ({"seed": 3, "spawned": 0, "stream": np.random.MT19937(0).state}, ValueError),
        ({"seed": "three", "spawned": 0, "stream": np.random.PCG64(0).state}, ValueError),
    ],
    ids=lambda value: str(value)[:40],
)
def test_malformed_state_is_refused_and_changes_nothing(state: Any, error: type[Exception]) -> None:
    before = random.get_rng_state()
    with pytest.raises(error, match=r"set_rng_state: state is .* Pass what get_rng_state"):
        random.set_rng_state(state)
    assert random.get_rng_state() == before


def test_threads_spawn_distinct_generators() -> None:
    random.manual_seed(3)
    draws: list[float] = []
    barrier = threading.Barrier(8)

    def work() -> None:
        barrier.wait()
        draws.extend(random.spawn().random() for _ in range(50))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    random.manual_seed(3)
    assert sorted(draws) == sorted(random.spawn().random() for _ in range(400))


def test_unseeded_runs_differ_and_seeded_runs_agree() -> None:
    script = "from cnet import random; {} print(random.default_generator().random(), random.spawn().random())"
    assert run(script.format("")) != run(script.format(""))
    assert run(script.format("random.manual_seed(5);")) == run(script.format("random.manual_seed(5);"))


def test_import_reads_no_entropy() -> None:
    assert run("from cnet import random; print(random._generator)") == "None"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_forked_child_can_draw_though_the_lock_was_held() -> None:
    script = """
import os
from cnet import random
random.manual_seed(1)
with random._guard:
    child = os.fork()
    if child == 0:
        random.default_generator().random()
        random.spawn().random()
        os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert run(script) == "7"
