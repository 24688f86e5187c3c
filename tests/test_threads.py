"""The number of threads: where it comes from, and that forks, child processes and Python threads get along with it."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kernel_cases import run_in_child

import cnet
from cnet import _threads, layers
from cnet.losses import CrossEntropyLoss
from cnet.optimizers import SGD

TIME_LIMIT = 120


def counts_threads() -> bool:
    """Whether new threads can be told from old ones: LLVM keeps its threads when it is asked to release them."""
    return sys.platform.startswith("linux") and "libomp." not in Path("/proc/self/maps").read_text()


@pytest.fixture(autouse=True)
def threads_restored() -> Iterator[None]:
    before = cnet.get_num_threads()
    yield
    cnet.set_num_threads(before)


# ---- setting it


@pytest.mark.parametrize("count", [1, 2, 7, 1000, np.int64(3)])
def test_set_number_is_the_number(count: int) -> None:
    cnet.set_num_threads(count)
    assert cnet.get_num_threads() == count and type(cnet.get_num_threads()) is int


@pytest.mark.parametrize(
    ("count", "error"),
    [(0, ValueError), (-1, ValueError), (1.0, TypeError), ("2", TypeError), (None, TypeError), (True, TypeError)],
)
def test_nonsense_number_is_refused(count: Any, error: type[Exception]) -> None:
    before = cnet.get_num_threads()
    with pytest.raises(error, match=r"^set_num_threads: count is .*, expected an integer >= 1"):
        cnet.set_num_threads(count)
    assert cnet.get_num_threads() == before


# ---- cgroups


class Machine:
    """Control groups of an imagined machine."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.membership = folder / "cgroup", folder / "self"
        self.root.mkdir()
        monkeypatch.setattr(_threads, "_CGROUP", self.root)
        paths = {"/proc/self/cgroup": self.membership}
        monkeypatch.setattr(_threads, "Path", lambda path: paths[path])

    def member_of(self, *lines: str) -> None:
        self.membership.write_text("".join(f"{line}\n" for line in lines))

    def version_2(self, group: str, text: str) -> None:
        self._write(group, "cpu.max", text)

    def version_1(self, group: str, quota: str, period: str) -> None:
        self._write(f"cpu/{group}", "cpu.cfs_quota_us", quota)
        self._write(f"cpu/{group}", "cpu.cfs_period_us", period)

    def _write(self, group: str, name: str, text: str) -> None:
        folder = self.root / group.strip("/")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)

    @staticmethod
    def quota() -> int | None:
        return _threads.explain()["cgroup quota"]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


ROUNDED_UP = [(100_000, 1), (200_000, 2), (150_000, 2), (100_001, 2), (50_000, 1), (1_000, 1), (6_400_000, 64)]


@pytest.mark.parametrize(("quota", "cores"), ROUNDED_UP)
def test_quota_of_a_version_2_group_is_rounded_up(machine: Machine, quota: int, cores: int) -> None:
    machine.member_of("0::/")
    machine.version_2("", f"{quota} 100000\n")
    assert machine.quota() == cores


@pytest.mark.parametrize(("quota", "cores"), ROUNDED_UP)
def test_quota_of_a_version_1_group_is_rounded_up(machine: Machine, quota: int, cores: int) -> None:
    machine.member_of("3:cpuset:/", "1:cpu,cpuacct:/")
    machine.version_1("", f"{quota}\n", "100000\n")
    assert machine.quota() == cores


def test_no_quota_is_no_limit(machine: Machine) -> None:
    assert machine.quota() is None
    machine.member_of("0::/user.slice", "1:cpu,cpuacct:/docker")
    machine.version_2("user.slice", "max 100000\n")
    machine.version_1("docker", "-1\n", "100000\n")
    machine.version_1("", "-1\n", "100000\n")
    assert machine.quota() is None


def test_tightest_quota_above_the_process_counts(machine: Machine) -> None:
    machine.member_of("0::/kubepods/pod/container")
    machine.version_2("kubepods", "800000 100000")
    machine.version_2("kubepods/pod", "300000 100000")
    machine.version_2("kubepods/pod/container", "max 100000")
    assert machine.quota() == 3
    machine.version_2("kubepods/pod/container", "40000 20000")
    assert machine.quota() == 2
    machine.version_2("kubepods/pod/container/deeper", "10000 100000")
    machine.version_2("elsewhere", "10000 100000")
    assert machine.quota() == 2


def test_tightest_quota_of_version_1_counts(machine: Machine) -> None:
    machine.member_of("4:cpu,cpuacct:/docker/abc", "2:memory:/docker/abc")
    machine.version_1("docker", "500000", "100000")
    machine.version_1("docker/abc", "250000", "100000")
    assert machine.quota() == 3


def test_groups_of_other_controllers_do_not_count(machine: Machine) -> None:
    machine.member_of("7:memory:/tight", "6:cpuset:/tight", "5:cpuacct:/tight", "4:name=systemd:/tight")
    machine.version_1("tight", "100000", "100000")
    machine.version_2("tight", "100000 100000")
    assert machine.quota() is None


def test_both_versions_at_once(machine: Machine) -> None:
    machine.member_of("1:cpu:/a", "0::/b")
    machine.version_1("a", "400000", "100000")
    machine.version_2("b", "300000 100000")
    assert machine.quota() == 3


def test_path_outside_the_namespace_is_not_followed(machine: Machine) -> None:
    machine.member_of("0::/../../other")
    machine.version_2("", "200000 100000")
    (machine.root.parent / "cpu.max").write_text("100000 100000")
    assert machine.quota() == 2


NONSENSE = ["", "\n", "abc", "a b", "1 2 3", "100000 0", "0 0", "-5 100000", "0 100000", "1e5 100000", "-1", "0"]


@pytest.mark.parametrize("text", [*NONSENSE, "100000"])
def test_nonsense_in_a_version_2_quota_is_no_limit(machine: Machine, text: str) -> None:
    machine.member_of("0::/")
    machine.version_2("", text)
    assert machine.quota() is None


@pytest.mark.parametrize("text", NONSENSE)
def test_nonsense_in_a_version_1_quota_is_no_limit(machine: Machine, text: str) -> None:
    machine.member_of("1:cpu:/")
    machine.version_1("", text, "100000")
    assert machine.quota() is None
    machine.version_1("", "100000", text)
    assert machine.quota() is None


def test_nonsense_in_the_list_of_groups_is_no_limit(machine: Machine) -> None:
    machine.member_of("", "::", "cpu", "1:cpu", ":::::", "0::relative/path", "\x00")
    assert machine.quota() is None


# ---- the environment


@pytest.mark.parametrize("name", ["CNET_NUM_THREADS", "OMP_NUM_THREADS"])
@pytest.mark.parametrize(
    ("text", "limit"),
    [("1", 1), ("3", 3), (" 5 ", 5), ("4,2,1", 4), ("64", 64)]
    + [(text, None) for text in ("", " ", "0", "-2", "two", "1.5", "2x", ",3", "\u00b2", "None")],
)
def test_environment_is_read(monkeypatch: pytest.MonkeyPatch, name: str, text: str, limit: int | None) -> None:
    monkeypatch.setenv(name, text)
    assert _threads.explain()[name] == limit
    monkeypatch.delenv(name)
    assert _threads.explain()[name] is None


def imported(prelude: str = "", **environment: str) -> tuple[int, dict[str, int | None]]:
    """The number of threads in a fresh interpreter, and what it is made of."""
    script = f"""
import json, os
for name in ("CNET_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.pop(name, None)
os.environ.update({environment!r})
{prelude}
import cnet
from cnet import _threads
print(json.dumps([cnet.get_num_threads(), _threads.explain()]))
"""
    result = run_in_child(script, TIME_LIMIT)
    assert result.returncode == 0, result.stderr
    count, explained = json.loads(result.stdout)
    return count, explained


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"CNET_NUM_THREADS": "1"},
        {"OMP_NUM_THREADS": "1,2"},
        {"CNET_NUM_THREADS": "1000", "OMP_NUM_THREADS": "1"},
        {"CNET_NUM_THREADS": "1000", "OMP_NUM_THREADS": "1000"},
        {"CNET_NUM_THREADS": "many", "OMP_NUM_THREADS": "-1"},
    ],
    ids=str,
)
def test_default_is_the_least_of_all_limits(environment: dict[str, str]) -> None:
    count, explained = imported(**environment)
    assert set(explained) == {"affinity", "cgroup quota", "CNET_NUM_THREADS", "OMP_NUM_THREADS", "OpenMP"}
    assert count == min(limit for limit in explained.values() if limit is not None) >= 1
    if "1" in str(environment).replace("1000", "").replace("-1", ""):
        assert count == 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system binds no processes to cores")
def test_affinity_limits_the_default() -> None:
    cores = os.sched_getaffinity(0)
    _, explained = imported()
    assert explained["affinity"] == len(cores)
    count, explained = imported(prelude=f"os.sched_setaffinity(0, {{{min(cores)}}})")
    assert explained["affinity"] == 1 == count


# ---- processes and threads

# Layers wide enough that the kernels call in every thread they may.
TRAINING = """
import sys
import numpy as np
import cnet
from cnet import layers
from cnet.losses import CrossEntropyLoss
from cnet.optimizers import SGD

def train(seed=0, steps=3):
    cnet.set_num_threads(3)
    cnet.manual_seed(seed)
    generator = np.random.default_rng(seed)
    x, labels = generator.standard_normal((32, 3, 16, 16)), generator.integers(0, 10, 32)
    model = layers.Sequential(
        layers.Conv2d(3, 16, 3, padding=1), layers.ReLU(), layers.MaxPool2d(2), layers.Flatten(),
        layers.Dropout(0.5), layers.Linear(1024, 256), layers.PReLU(), layers.Linear(256, 10),
    )
    criterion, optimizer = CrossEntropyLoss(), SGD(model.parameters(), 0.01, 0.9)
    for _ in range(steps):
        criterion(model(x), labels)
        model.backward(criterion.backward(), input_grad=False)
        optimizer.step()
        optimizer.zero_grad()
    return b"".join(value.tobytes() for value in model.state_dict().values())
"""

CHILDREN = """
import multiprocessing

def work(queue):
    queue.put(train())

if __name__ == "__main__":
    expected = train()
    context = multiprocessing.get_context(sys.argv[1])
    for _ in range(2):
        queue = context.Queue()
        workers = [context.Process(target=work, args=(queue,)) for _ in range(2)]
        for worker in workers:
            worker.start()
        results = [queue.get(timeout=50) for _ in workers]
        for worker in workers:
            worker.join(timeout=20)
        assert [worker.exitcode for worker in workers] == [0, 0]
        assert results == [expected] * 2, "a child computes other bits"
        assert train() == expected, "the parent computes other bits after its children"
    print("done")
"""

FORKED = """
import os, threading, warnings

warnings.simplefilter("ignore", DeprecationWarning)
expected = train()

def fork_and_train(depth):
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if train() == expected and (depth == 0 or fork_and_train(depth - 1)):
                status = 0
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1] == 0

for _ in range(3):
    assert fork_and_train(1), "a forked child computes other bits"
    assert train() == expected
# A thread other than the first has workers of its own.
outcome = []
def trained_thread():
    outcome.append(train() == expected and fork_and_train(0) and train() == expected)
thread = threading.Thread(target=trained_thread)
thread.start()
thread.join()
assert outcome == [True]
assert fork_and_train(0) and train() == expected
print("done")
"""


def run_script(path: Path, *arguments: str) -> tuple[int, str, str]:
    """Run a file; at the end of its time it is killed with all its children, which may be what hangs."""
    command = [sys.executable, str(path), *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry or "." for entry in sys.path)}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    try:
        output, errors = process.communicate(timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    return process.returncode, output, errors


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_child_processes_train_after_their_parent_has(tmp_path: Path, method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"the system has no {method}")
    script = tmp_path / "training.py"
    script.write_text(TRAINING + CHILDREN)
    status, output, errors = run_script(script, method)
    assert status == 0 and "done" in output, errors


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
def test_forked_children_and_threads_train_after_their_parent_has(tmp_path: Path) -> None:
    script = tmp_path / "training.py"
    script.write_text(TRAINING + FORKED)
    status, output, errors = run_script(script)
    assert status == 0 and "done" in output, errors


def trained(seed: int, barrier: threading.Barrier | None = None) -> bytes:
    """The parameters of a model after some steps; nothing in it draws from the shared generator."""
    generator = np.random.default_rng(seed)
    x, labels = generator.standard_normal((24, 2, 12, 12)), generator.integers(0, 10, 24)
    model = layers.Sequential(
        layers.Conv2d(2, 12, 3, padding=1), layers.BatchNorm2d(12), layers.ReLU(), layers.MaxPool2d(2),
        layers.Flatten(), layers.Linear(432, 128), layers.PReLU(), layers.Linear(128, 10),
    ).build((2, 12, 12))  # fmt: skip
    for parameter in model.parameters():
        parameter.data = generator.uniform(-0.1, 0.1, parameter.data.shape)
    criterion, optimizer = CrossEntropyLoss(), SGD(model.parameters(), 0.05, 0.9)
    for _ in range(8):
        if barrier:
            barrier.wait(timeout=60)
        criterion(model(x), labels)
        model.backward(criterion.backward(), input_grad=False)
        optimizer.step()
        optimizer.zero_grad()
    return b"".join(value.tobytes() for value in model.state_dict().values())


@pytest.mark.parametrize("threads", [1, 3])
def test_models_in_python_threads_get_the_bits_they_get_one_after_another(threads: int) -> None:
    cnet.set_num_threads(threads)
    expected = [trained(seed) for seed in range(3)]
    for _ in range(3):
        barrier, results = threading.Barrier(3), [b""] * 3

        def work(seed: int, barrier: threading.Barrier = barrier, results: list[bytes] = results) -> None:
            results[seed] = trained(seed, barrier)

        workers = [threading.Thread(target=work, args=(seed,), daemon=True) for seed in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(timeout=TIME_LIMIT)
        assert not any(worker.is_alive() for worker in workers)
        assert results == expected


@pytest.mark.skipif(not counts_threads(), reason="threads are counted in /proc, after GCC's OpenMP has ended them")
@pytest.mark.skipif(_threads.explain()["OpenMP"] is not None, reason="a build without OpenMP has one thread")
def test_trainings_above_use_the_threads_they_are_given() -> None:
    """Else they would say nothing about threads."""
    script = """
import os
from cnet.kernels import _dispatch
train()
_dispatch.release_threads()
before = set(os.listdir("/proc/self/task"))  # perhaps with threads that were told to end and are about to
train()
print(len(set(os.listdir("/proc/self/task")) - before))
"""
    result = run_in_child(TRAINING + script, TIME_LIMIT, OMP_DYNAMIC="false", OMP_THREAD_LIMIT="64")
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) == 2


EACH_LAYER = """
import os
import numpy as np
import cnet
from cnet import layers
from cnet.kernels import _dispatch

cnet.set_num_threads(3)
images, rows = (16, 24, 32, 32), (256, 500)
for layer, shape in [
    (layers.Conv2d(24, 24, 3, padding=1), images), (layers.MaxPool2d(2), images), (layers.BatchNorm2d(24), images),
    (layers.PReLU(24), images), (layers.ReLU(), images), (layers.LeakyReLU(), images), (layers.Dropout(), images),
    (layers.Flatten(), images), (layers.Linear(500, 300), rows), (layers.BatchNorm1d(500), rows),
    (layers.Softmax(), rows),
]:
    x = np.ones(shape, np.float32)
    if len(shape) == 4:
        x = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    layer(x)
    for name, run in (("forward", lambda: layer(x)), ("backward", lambda: layer.backward(dy))):
        _dispatch.release_threads()
        before = set(os.listdir("/proc/self/task"))  # perhaps with threads that were told to end and are about to
        y = run()
        if name == "forward":
            dy = np.ones_like(y)
        started = len(set(os.listdir("/proc/self/task")) - before)
        assert started == 2, f"{layer}, {name}: three threads were allowed, {started} joined the first"
"""


@pytest.mark.skipif(not counts_threads(), reason="threads are counted in /proc, after GCC's OpenMP has ended them")
@pytest.mark.skipif(_threads.explain()["OpenMP"] is not None, reason="a build without OpenMP has one thread")
def test_each_layer_uses_the_threads_it_is_given() -> None:
    result = run_in_child(EACH_LAYER, TIME_LIMIT, OMP_DYNAMIC="false", OMP_THREAD_LIMIT="64")
    assert result.returncode == 0, result.stderr
