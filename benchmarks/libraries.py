"""cnet and PyTorch behind one face, each in a process of its own, and the ways of running them that are compared.

Run as a script this is such a process: ``python libraries.py cnet 2`` runs cnet on two threads and answers requests
for times, see ``serve``.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes.util
import dataclasses
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import timing
from nets import build, parse

Calls = dict[str, Callable[[], Any]]


class Cnet:
    """Nets and layers of cnet. Every task gives calls to be timed, by name."""

    def __init__(self, threads: int) -> None:
        import cnet
        from cnet import layers, losses, optimizers

        self.cnet, self.layers, self.losses, self.optimizers = cnet, layers, losses, optimizers
        cnet.set_num_threads(threads)
        cnet.manual_seed(0)

    def describe(self) -> dict[str, Any]:
        from cnet.kernels import _dispatch

        return {"cnet_isa": _dispatch.isa()}

    def batch(self, shape: tuple[int, ...], channels_last: bool) -> tuple[Any, Any]:
        """Random samples, with their channels as users have them or as layers hand them on; and labels."""
        import numpy as np

        from cnet import layout

        generator = np.random.default_rng(0)
        x = generator.standard_normal(shape, np.float32)
        return layout.logical(layout.physical(x)) if channels_last else x, generator.integers(0, 10, shape[0])

    def _learner(self, text: str) -> tuple[Any, Any, Any]:
        model = self.layers.Sequential(*build(text, self.layers))
        optimizer = self.optimizers.SGD(model.parameters(), lr=1e-4, momentum=0.9)
        return model, self.losses.CrossEntropyLoss(), optimizer

    def train(self, text: str, x: Any, y: Any, channels_last: bool) -> Calls:
        model, criterion, optimizer = self._learner(text)

        def step() -> None:
            optimizer.zero_grad()
            criterion(model(x), y)
            model.backward(criterion.backward(), input_grad=False)
            optimizer.step()

        return {"train": step}

    def infer(self, text: str, x: Any, y: Any, channels_last: bool) -> Calls:
        model = self.layers.Sequential(*build(text, self.layers)).eval()
        return {"infer": lambda: model(x)}

    def layer(self, text: str, x: Any, y: Any, channels_last: bool) -> Calls:
        (layer,) = build(text, self.layers)
        dy, _ = self.batch(layer(x).shape, channels_last)

        def step() -> None:
            layer.zero_grad()
            layer(x)
            layer.backward(dy)

        return {"forward": lambda: layer(x), "training": step}

    def release(self) -> None:
        """Give back the memory of what is no longer needed, and count the peak anew."""
        self.cnet.empty_cache()
        self.cnet.reset_peak_memory()

    def memory(self) -> dict[str, float]:
        """What the library itself knows of its memory: the most that its allocator had in use at once."""
        return {"pool_megabytes": self.cnet.memory_stats()["peak"] / 1e6}

    def profile(self, text: str, x: Any, y: Any, seconds: float) -> list[tuple[str, float, float | None]]:
        """Median microseconds of each layer forward and backward, run one by one, and of the rest of a step."""
        model, criterion, optimizer = self._learner(text)
        model(x)
        times: dict[Any, list[float]] = defaultdict(list)

        def timed(name: Any, call: Callable[..., Any], *arguments: Any) -> Any:
            start = time.perf_counter()
            result = call(*arguments)
            times[name].append(1e6 * (time.perf_counter() - start))
            return result

        end = time.perf_counter() + seconds
        while time.perf_counter() < end or not times:
            timed("zero_grad", optimizer.zero_grad)
            output = x
            for index, layer in enumerate(model):
                output = timed((index, "forward"), layer.forward, output)
            timed(("loss", "forward"), criterion.forward, output, y)
            gradient = timed(("loss", "backward"), criterion.backward)
            for index, layer in reversed(list(enumerate(model))):
                gradient = timed((index, "backward"), layer.backward, gradient, index > 0)
            timed("optimizer step", optimizer.step)
        middle = {name: statistics.median(values) for name, values in times.items()}
        named = [(repr(layer), index) for index, layer in enumerate(model)] + [("loss", "loss")]
        rows = [(name, middle[key, "forward"], middle[key, "backward"]) for name, key in named]
        return rows + [(name, middle[name], None) for name in ("optimizer step", "zero_grad")]


class Torch:
    """The same of PyTorch."""

    def __init__(self, threads: int) -> None:
        try:
            import torch
        except ImportError:
            sys.exit(f"error: {sys.executable} has no PyTorch; install it, or name another with --torch-python")
        self.torch = torch
        torch.set_num_threads(threads)
        torch.manual_seed(0)

    def describe(self) -> dict[str, Any]:
        return {"torch": self.torch.__version__, "torch_isa": self.torch.backends.cpu.get_cpu_capability().lower()}

    def batch(self, shape: tuple[int, ...], channels_last: bool) -> tuple[Any, Any]:
        x = self.torch.randn(shape)
        return self._place(x, channels_last), self.torch.randint(0, 10, shape[:1])

    def _place(self, thing: Any, channels_last: bool) -> Any:
        """A module or tensor in this memory format."""
        return thing.to(memory_format=self.torch.channels_last) if channels_last else thing

    def _model(self, text: str, channels_last: bool) -> Any:
        return self._place(self.torch.nn.Sequential(*build(text, self.torch.nn)), channels_last)

    def train(self, text: str, x: Any, y: Any, channels_last: bool) -> Calls:
        model = self._model(text, channels_last)
        optimizer = self.torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            self.torch.nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()

        return {"train": step}

    def infer(self, text: str, x: Any, y: Any, channels_last: bool) -> Calls:
        model = self._model(text, channels_last).eval()

        def infer() -> None:
            with self.torch.inference_mode():
                model(x)

        return {"infer": infer}

    def layer(self, text: str, x: Any, y: Any, channels_last: bool) -> Calls:
        (layer,) = self._model(text, channels_last)
        x.requires_grad_()
        dy = self.torch.randn_like(layer(x))
        leaves = [x, *layer.parameters()]

        def step() -> None:
            for leaf in leaves:
                leaf.grad = None
            layer(x).backward(dy)

        return {"forward": lambda: layer(x), "training": step}

    def release(self) -> None:
        """PyTorch gives memory back by itself."""

    def memory(self) -> dict[str, float]:
        return {}


LIBRARIES = {"cnet": Cnet, "torch": Torch}

# What keeps each library to an instruction set. PyTorch consists of three that choose for themselves.
TORCH_ISAS = {
    "avx512": {
        "ATEN_CPU_CAPABILITY": "avx512",
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
        "MKL_ENABLE_INSTRUCTIONS": "AVX512",
    },
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "baseline": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
}


@dataclasses.dataclass(frozen=True, eq=False)
class Side:
    """One way of running one library."""

    name: str
    library: str
    channels_last: bool
    command: list[str]
    environment: dict[str, str]

    def start(self, threads: int) -> timing.Worker:
        """A process for this side; ``serve`` says what it can be asked."""
        return timing.Worker([*self.command, self.library, str(threads)], self.environment)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What every comparison with PyTorch can be told."""
    parser.add_argument("--torch-python", default=sys.executable, metavar="FILE", help="interpreter that has PyTorch")
    parser.add_argument("--isa", choices=TORCH_ISAS, help="instruction set of both (default: each takes its best)")
    parser.add_argument(
        "--tcmalloc",
        metavar="FILE",
        default=_find_tcmalloc(),
        help="allocator to run PyTorch with too; 'none' for none (default: %(default)s, what the system has)",
    )
    parser.add_argument("--json", metavar="FILE", help="where all results go")


def _find_tcmalloc() -> str:
    # Only Linux preloads a library by LD_PRELOAD.
    names = ("tcmalloc", "tcmalloc_minimal") if sys.platform == "linux" else ()
    return next(filter(None, map(ctypes.util.find_library, names)), "none")


def cnet_side(arguments: argparse.Namespace, script: str = __file__) -> Side:
    """cnet, in a process of the script."""
    environment = {"CNET_ISA": arguments.isa} if arguments.isa else {}
    return Side("cnet", "cnet", False, [sys.executable, script], environment)


def torch_sides(arguments: argparse.Namespace, script: str = __file__, images: bool = True) -> list[Side]:
    """PyTorch in both of its memory formats, where there are images, and each with tcmalloc, where that is found."""
    environments = {"": TORCH_ISAS.get(arguments.isa, {})}
    if arguments.tcmalloc != "none":
        environments[" tcmalloc"] = {**environments[""], "LD_PRELOAD": arguments.tcmalloc}
    formats = {"NCHW": False, "NHWC": True} if images else {"NCHW": False}
    return [
        Side(name + suffix, "torch", last, [arguments.torch_python, script], environment)
        for suffix, environment in environments.items()
        for name, last in formats.items()
    ]


@contextlib.contextmanager
def start_all(threads: dict[Side, int]) -> Iterator[dict[Side, timing.Worker]]:
    """A process for each side on so many threads; sides that differ in their memory format only share one."""
    workers: dict[Any, timing.Worker] = {}
    of_side = {}
    with contextlib.ExitStack() as stack:
        for side, count in threads.items():
            key = side.library, count, *side.environment.items()
            if key not in workers:
                workers[key] = stack.enter_context(side.start(count))
            of_side[side] = workers[key]
        yield of_side


def describe(arguments: argparse.Namespace) -> dict[str, Any]:
    """The machine, and what the libraries say of themselves."""
    found = timing.machine() | {"tcmalloc": Path(arguments.tcmalloc).name}
    # The last of PyTorch's sides has all that may be wrong with one: better now than after minutes.
    for side in (cnet_side(arguments), torch_sides(arguments)[-1]):
        with side.start(1) as worker:
            found |= worker.ask(task="describe")
    return found


def serve(library: Any) -> None:
    """Answer requests for a task of the library: ``train``, ``infer``, ``layer``, ``profile`` or ``describe``.

    What was built last stays, in both formats, for the next round of the same.
    """
    built: dict[bool, tuple[Calls, timing.PeakMemory]] = {}
    building: tuple[str, str, int] | None = None
    warm_up = "1x8x8 c2k3 bn relu pool2 flatten fc10"

    def answer(
        task: str, text: str = "", batch: int = 1, channels_last: bool = False, seconds: float = 0.0
    ) -> dict[str, Any]:
        nonlocal building
        if task == "describe":
            return library.describe()
        if task == "profile":
            x, y = library.batch((batch, *parse(text)[0]), channels_last)
            return {"rows": library.profile(text, x, y, seconds)}
        if building is None:
            # What a library loads at its first step is not the memory of the model.
            for call in library.train(warm_up, *library.batch((2, *parse(warm_up)[0]), False), False).values():
                call()
        if building != (task, text, batch):
            built.clear()
            library.release()
            building = task, text, batch
        if channels_last not in built:
            x, y = library.batch((batch, *parse(text)[0]), channels_last)
            memory = timing.PeakMemory()
            built[channels_last] = getattr(library, task)(text, x, y, channels_last), memory
        calls, memory = built[channels_last]
        others = timing.OtherLoad()
        times = {name: timing.measure(call, seconds) for name, call in calls.items()}
        load = {"other_cores": others.cores()}
        return {"milliseconds": times, "megabytes": memory.megabytes(), **load, **library.memory()}

    timing.serve(answer)


def check_preloaded() -> None:
    """Stop if LD_PRELOAD names what the loader could not find: it only warns, and we would measure the wrong thing."""
    name = Path(os.environ.get("LD_PRELOAD", "")).name
    if name and name not in Path("/proc/self/maps").read_text():
        sys.exit(f"error: {os.environ['LD_PRELOAD']} was not loaded")


if __name__ == "__main__":
    check_preloaded()
    serve(LIBRARIES[sys.argv[1]](int(sys.argv[2])))
