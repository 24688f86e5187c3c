"""What the benchmarks share: times and memory of a call, worker processes, the machine's description, tables, JSON."""

from __future__ import annotations

import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

# ---- in the process that is measured


def measure(call: Callable[[], Any], seconds: float) -> float:
    """Median milliseconds of a call, after a warm-up of a quarter of the time; at least three calls are timed.

    The warm-up also gives the threads of another process, which spin for a while after its last call, time to sleep.
    """
    end = time.perf_counter() + seconds / 4
    call()
    while time.perf_counter() < end:
        call()
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


class PeakMemory:
    """How far the resident memory of this process rises above what it is now.

    Linux can forget the peak so far, and tells code that was read from files apart, which is left out. Elsewhere the
    peak of the whole run must do, which misses a rise that stays below an earlier one.
    """

    def __init__(self) -> None:
        try:
            Path("/proc/self/clear_refs").write_text("5")
            self._before = _resident("VmRSS")
        except OSError:
            self._before = None
            self._run = _peak_of_run()

    def megabytes(self) -> float:
        """The rise since this object was made, in MB of 1e6 bytes."""
        if self._before is None:
            return (_peak_of_run() - self._run) / 1e6
        return (_resident("VmHWM") - self._before) / 1e6


def _resident(measure: str) -> int:
    """A measure of resident memory in bytes, without the pages of files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.endswith(" kB")}
    return 1024 * (kilobytes[measure] - kilobytes["RssFile"])


def _peak_of_run() -> int:
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class OtherLoad:
    """How many of our cores other processes keep busy; without it, a disturbed measurement looks like any other."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._before = _busy_seconds_of_others()

    def cores(self) -> float | None:
        """The average since this object was made, to about 10 ms of work; None where the system does not tell."""
        now = _busy_seconds_of_others()
        if now is None or self._before is None:
            return None
        return max(0.0, now - self._before) / (time.perf_counter() - self._start)


def _busy_seconds_of_others() -> float | None:
    try:
        lines = Path("/proc/stat").read_text().splitlines()
    except OSError:
        return None
    ours = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    ticks = 0
    for name, *counts in (line.split() for line in lines):
        if name in ours:
            user, nice, system, _idle, _waiting, interrupts, soft_interrupts, stolen = map(int, counts[:8])
            ticks += user + nice + system + interrupts + soft_interrupts + stolen
    # The children's too: they count from when they have been waited for.
    return ticks / os.sysconf("SC_CLK_TCK") - sum(os.times()[:4])


def serve(answer: Callable[..., dict]) -> None:
    """Be a worker: answer the requests of `Worker.ask` until there are no more."""
    # Ctrl-C is for the process that asks, which then closes our input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in sys.stdin:
        print(json.dumps(answer(**json.loads(line))), flush=True)


# ---- in the process that compares

# Cores that others may use during a measurement before its row is marked: waiting threads of one library suffer more
# from a stranger on their core than those of another.
DISTURBED = 0.1


def mark(cores: Iterable[float | None]) -> str:
    """A star for a row if others disturbed one of its measurements."""
    return "*" if max(filter(None, cores), default=0.0) > DISTURBED else ""


class Worker:
    """A process that answers requests, both of them lines of JSON on its standard input and output."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.command = command
        self.process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        try:
            print(json.dumps(request), file=self.process.stdin, flush=True)
            return json.loads(self.process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            # What it died of stands above, on the standard error which it shares with us.
            status = self.process.wait()
            sys.exit(f"error: {' '.join(self.command)} ended with status {status} at {request}")

    def close(self) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def rounds(sides: list[Any], count: int, ask: Callable[[Any], dict[str, Any]]) -> list[dict[str, Any]]:
    """Ask all sides in turn, for so many rounds; each round gives the answers by the sides' names.

    The order turns round every time, so that none is always the first. Rounds that others disturbed are thrown away,
    but no more than half of all: a machine that is never quiet shall not hold us up.
    """
    kept: list[dict[str, Any]] = []
    for number in range(2 * count):
        answers = {side.name: ask(side) for side in (sides if number % 2 == 0 else sides[::-1])}
        spare = count + len(kept) - number
        if spare <= 0 or not mark(answer["other_cores"] for answer in answers.values()):
            kept.append(answers)
        if len(kept) == count:
            break
    return kept


def compare(rounds: list[dict[str, Any]], ours: str, what: str, unit: str = "milliseconds") -> dict[str, Any]:
    """Of one of the times that were taken: medians by side, and the ratio of the others' best to ours."""
    times = [{side: answer[unit][what] for side, answer in answers.items()} for answers in rounds]
    ratios = [min(value for side, value in one.items() if side != ours) / one[ours] for one in times]
    return {unit: medians(times), "ratio": summary(ratios)}


def machine() -> dict[str, Any]:
    """What a reader must know of this machine and of cnet."""
    import numpy

    import cnet
    from cnet.kernels import _dispatch

    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "cnet": cnet.__version__,
        "isas": list(_dispatch.isas()),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def headline(machine: dict[str, Any], settings: str) -> str:
    """The machine in two lines, then the settings."""
    versions = {"Python": "python", "NumPy": "numpy", "cnet": "cnet", "PyTorch": "torch"}
    isas = {key: f" ({machine[f'{key}_isa']})" for key in versions.values() if f"{key}_isa" in machine}
    software = ", ".join(
        f"{name} {machine[key]}{isas.get(key, '')}" for name, key in versions.items() if key in machine
    )
    hardware = f"{machine['cpu']}, {machine['cores']} cores, {' '.join(machine['isas'])}, {machine['system']}"
    return f"{hardware}\n{software}\n{settings}\n* others used more than {DISTURBED:g} of our cores meanwhile\n"


class Table:
    """Prints rows under a headline, each as it comes.

    A column is a name and a format, such as ``("cnet ms", "9.3f")``. What is None is printed as a dash, and a text that
    is too long for its column is cut.
    """

    def __init__(self, *columns: tuple[str, str]) -> None:
        self._formats = [format for _, format in columns]
        print(" ".join(self._cell(name, format) for name, format in columns).rstrip())

    def row(self, *values: Any) -> None:
        print(" ".join(map(self._cell, values, self._formats)).rstrip(), flush=True)

    @staticmethod
    def _cell(value: Any, format: str) -> str:
        sign, width = ("<", format[1:]) if format.startswith("<") else (">", format)
        width = width.split(".")[0]
        if value is None or isinstance(value, str):
            return f"{value or '-':{sign}{width}.{width}}"
        return f"{value:{format}}"


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    """The median over the rounds of each entry."""
    return {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}


def summary(values: Iterable[float]) -> dict[str, float]:
    """Median and extremes."""
    ordered = sorted(values)
    return {"median": statistics.median(ordered), "least": ordered[0], "most": ordered[-1]}


def spread(ratio: dict[str, float], cores: Iterable[float | None]) -> str:
    """The extremes of what `summary` returned, and the mark of a disturbed measurement."""
    return f"({ratio['least']:.2f}-{ratio['most']:.2f}){mark(cores)}"


def write_json(machine: dict[str, Any], arguments: Any, results: Any) -> None:
    """Write all that was measured to ``arguments.json``, if that is given; where files lie is nobody's business."""
    if arguments.json:
        places = {"json", "png", "data", "torch_python", "tcmalloc", "worker"}
        settings = {name: value for name, value in vars(arguments).items() if name not in places}
        content = {"machine": machine, "settings": settings, "results": results}
        Path(arguments.json).write_text(json.dumps(content, indent=1) + "\n")


def numbers(text: str) -> list[int]:
    """Whole numbers above zero separated by commas, for argparse."""
    values = [int(part) for part in text.split(",")]
    if min(values) < 1:
        raise ValueError(text)
    return values
