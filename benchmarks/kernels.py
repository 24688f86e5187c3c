"""How close each kernel comes to what the machine can do: a table, and a picture of the roofline.

    python benchmarks/kernels.py                                    # every instruction set, 1 thread and all cores
    python benchmarks/kernels.py --only "conv|dense" --isa avx512 --threads 1 --png roofline.png --json kernels.json

Both roofs are measured in the same run, by compiled probes (csrc/kernels/probe.c) on as many threads as the kernel:
multiply-adds in registers, and ``y += x`` over arrays that half fill a cache or, for the memory, are four times as
large as the largest cache. Clocks drift, so every measurement of a kernel stands between two of its roofs and is
divided by their mean; the table shows medians over the rounds.

Operations are those of the mathematics: two for a multiply-add and one for any other, be it a comparison, an
exponential or only a move. Bytes are those of all arrays, twice where one is read and written. A kernel is held
against the smallest cache that holds its arrays, else against the memory: the column ``from``. A store that must fetch
the line it overwrites costs more than is counted. Elementwise kernels come in two sizes, one for the second cache and
one for the memory.
"""

import argparse
import functools
import os
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import timing
from nets import count_flops, parse, split_batch

from cnet import layout
from cnet.kernels import (
    _dispatch,
    activation,
    conv2d,
    dense,
    dropout,
    loss,
    maxpool2d,
    normalization,
    optimizer,
    probe,
    transpose,
)

DENSE = ("64x784 fc128", "256x1024 fc1024", "1x1024 fc1024")
CONVOLUTIONS = (
    "64x1x28x28 c32k3p1",
    "64x32x14x14 c64k3p1",
    "64x6x14x14 c16k5",
    "64x3x32x32 c64k3p1",
    "16x128x16x16 c128k3p1",
    "16x64x28x28 c128k3s2p1",
    "16x256x14x14 c64k1",
    "16x96x28x28 c96k3p1g4",
    "16x128x28x28 c128k3p1g128",
)


class Case(NamedTuple):
    """One kernel on one set of arrays."""

    name: str
    size: str
    operations: int
    bytes: int
    run: Callable[[int], object]


def case(name, size, operations, arrays, run, updated=()):
    """A case over these arrays; those in ``updated`` are read and written."""
    return Case(name, size, int(operations), sum(array.nbytes for array in (*arrays, *updated, *updated)), run)


def floats(*shape):
    """Numbers as activations have them, in memory of our own."""
    return np.resize(np.random.default_rng(0).standard_normal(4096, np.float32), shape)


# ---- which kernels


def all_cases(levels):
    for spec in DENSE:
        yield from dense_cases(spec)
    for spec in CONVOLUTIONS:
        yield from conv_cases(spec)
    for level in ("L2", "memory"):
        yield from elementwise_cases(level, levels[level].bytes)


def dense_cases(spec):
    samples, text = split_batch(spec)
    shape, (layer,) = parse(text)
    x, w, dy, bias = (
        floats(samples, *shape),
        floats(*shape, layer.size),
        floats(samples, layer.size),
        floats(layer.size),
    )
    y, dx, dw, dbias = floats(*dy.shape), floats(*x.shape), floats(*w.shape), floats(layer.size)
    flops = samples * count_flops(shape, layer)
    bound = dense.Dense(w, bias, dw, dbias)
    work, none = floats(bound.forward_workspace(samples)), floats(0)
    both = (x, dy, w, dx)
    yield case("dense forward", spec, flops, (x, w, bias, y), lambda t: bound.forward(x, y, work, t))
    yield case("dense dW", spec, flops, (x, dy), lambda t: bound.backward(x, dy, None, none, t), (dw, dbias))
    yield case("dense dW dX", spec, 2 * flops, both, lambda t: bound.backward(x, dy, dx, none, t), (dw, dbias))


def conv_cases(spec):
    samples, text = split_batch(spec)
    shape, (layer,) = parse(text)
    channels, height, width = shape
    kernel, stride, (vertical, horizontal), dilation = layer.windows()
    sides = (vertical, vertical, horizontal, horizontal)
    bound = conv2d.Conv2d(channels, layer.size, height, width, kernel, stride, sides, dilation, layer.groups)
    x, dx = (floats(samples, height, width, channels) for _ in range(2))
    y, dy = (floats(samples, bound.out_height, bound.out_width, layer.size) for _ in range(2))
    w, dw = (floats(*kernel, channels // layer.groups, layer.size) for _ in range(2))
    bias, dbias = floats(layer.size), floats(layer.size)
    flops = samples * count_flops(shape, layer)
    name = "depthwise" if layer.groups == channels > 1 else "conv"

    # Workspace comes from the pool, which hands out the same block every time.
    def forward(t):
        bound.forward(x, w, bias, y, layout.empty((bound.forward_workspace(samples, t),)), t)

    def input_grad(t):
        bound.input_grad(dy, w, dx, layout.empty((bound.input_grad_workspace(samples, t),)), t)

    def weight_grad(t):
        bound.weight_grad(x, dy, dw, dbias, layout.empty((bound.weight_grad_workspace(samples, t),)), t)

    yield case(f"{name} forward", spec, flops, (x, w, bias, y), forward)
    yield case(f"{name} dX", spec, flops, (dy, w, dx), input_grad)
    yield case(f"{name} dW", spec, flops, (x, dy), weight_grad, (dw, dbias))


def elementwise_cases(level, budget):
    """Kernels whose time is memory traffic, over up to three arrays that fill the budget."""
    channels, side, classes = 64, 14, 10
    images = max(1, budget // (3 * 4 * side * side * channels))
    size = images * side * side * channels
    x, dy, out = floats(size), floats(size), floats(size)
    label = f"{size:,} floats"
    one, other, result = (array.reshape(-1, channels) for array in (x, dy, out))
    mean, variance, gain, dgain, shift = (np.full(channels, value, np.float32) for value in (0, 1, 1, 0, 0))
    sums = np.empty((2, channels))
    work = np.empty(normalization.workspace(*one.shape), np.float32)
    yield case("relu forward", label, size, (x, out), lambda t: activation.relu_forward(x, out, t))
    yield case("relu backward", label, size, (x, dy, out), lambda t: activation.relu_backward(x, dy, out, t))
    yield case("prelu forward", label, 2 * size, (x, out), lambda t: activation.prelu_forward(one, gain, result, t))
    slopes = np.empty(activation.prelu_workspace(*one.shape, channels), np.float32)
    yield case(
        "prelu backward", label, 4 * size, (x, dy, out),
        lambda t: activation.prelu_backward(one, gain, other, result, dgain, slopes, t),
    )  # fmt: skip
    yield case(
        "batch norm moments", label, 4 * size, (x,), lambda t: normalization.moments(one, mean, variance, work, t)
    )
    yield case(
        "batch norm forward", label, 3 * size, (x, out),
        lambda t: normalization.forward(one, mean, gain, shift, result, t),
    )  # fmt: skip
    yield case(
        "batch norm sums", label, 4 * size, (x, dy), lambda t: normalization.sums(one, other, mean, sums, work, t)
    )
    yield case(
        "batch norm backward", label, 5 * size, (x, dy, out),
        lambda t: normalization.backward(one, other, mean, gain, shift, shift, result, t),
    )  # fmt: skip
    # At rate 0 the weights stay what they are, however often it is called.
    yield case(
        "sgd momentum", label, 6 * size, (dy,),
        lambda t: optimizer.sgd_step(x, dy, out, 0.0, 0.9, 0.0, False, 5e-4, False, False, t), (x, out),
    )  # fmt: skip
    yield case("dropout forward", label, 2 * size, (x, out), lambda t: dropout.dropout_forward(x, out, 0, 0, 0.5, t))
    yield from softmax_cases(label, size // classes, classes, x, out)
    yield from pooling_cases(label, x.reshape(images, side, side, channels), out.reshape(images, side, side, channels))
    turned, straight = (array.reshape(images, *shape) for array, shape in (
        (out, (channels, side * side)), (x, (side * side, channels))))  # fmt: skip
    yield case("transpose", label, size, (x, out), lambda t: transpose.transpose(straight, turned, t))


def softmax_cases(label, rows, classes, x, out):
    scores, gradient = (array[: rows * classes].reshape(rows, classes) for array in (x, out))
    labels, losses = np.arange(rows) % classes, np.empty(rows)
    yield case(
        "softmax cross-entropy", label, 6 * scores.size, (scores, gradient, labels, losses),
        lambda t: loss.cross_entropy(scores, labels, None, True, 1 / rows, gradient, losses, t),
    )  # fmt: skip


def pooling_cases(label, x, dx):
    images, side, _, channels = x.shape
    pool = maxpool2d.MaxPool2d(side, side, (2, 2), (2, 2), (0, 0), (1, 1), side // 2, side // 2)
    y = floats(images, side // 2, side // 2, channels)
    index = np.ones(y.shape, np.uint16)
    yield case("max-pool forward", label, 4 * y.size, (x, y, index), lambda t: pool.forward(x, y, index, t))
    yield case("max-pool backward", label, y.size, (y, index, dx), lambda t: pool.backward(y, index, dx, t))


# ---- the roofs


class Level:
    """A cache or the memory, and two arrays of so many bytes together to measure it with."""

    def __init__(self, name, size, bytes, sharing=1):
        self.name, self.bytes = name, bytes
        self._size, self._sharing = size, sharing

    def holds(self, bytes, threads):
        """Whether so many bytes fit, spread over the caches of so many threads' cores; the memory holds anything."""
        return self._size is None or bytes <= self._size * max(1, threads // self._sharing)

    @functools.cached_property
    def _arrays(self):
        # Not zeros: pages that were never written to are all one page, and reading them costs nothing.
        return np.ones(self.bytes // 8, np.float32), np.ones(self.bytes // 8, np.float32)

    def bandwidth(self, threads, seconds):
        """Gigabytes read and written in a second."""
        x, y = self._arrays
        return probe.memory(x, y, threads) / 1e6 / timing.measure(lambda: probe.memory(x, y, threads), seconds)


def find_levels():
    """The caches from the second on, and the memory, smallest first."""
    levels = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        number, size = (int((folder / name).read_text().strip().rstrip("K")) for name in ("level", "size"))
        sharing = (folder / "shared_cpu_map").read_text().replace(",", "")
        if number > 1:
            levels[f"L{number}"] = 1024 * size, int(sharing, 16).bit_count()
    # A guess that suits most machines where the system does not tell.
    levels = levels or {"L2": (1 << 20, 1), "L3": (32 << 20, 1 << 10)}
    largest = max(size for size, _ in levels.values())
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    caches = {name: Level(name, size, size // 2, sharing) for name, (size, sharing) in levels.items()}
    return caches | {"memory": Level("memory", None, min(4 * largest, physical // 8))}


def arithmetic_peak(threads, seconds):
    """Gigaflops of multiply-adds in registers."""
    rounds = 50_000
    return probe.arithmetic(rounds, threads) / 1e6 / timing.measure(lambda: probe.arithmetic(rounds, threads), seconds)


# ---- how fast


def measure(case, levels, threads, arguments):
    """The case's rates and roofs, and how close it comes: medians of the rounds."""
    level = next(level for level in levels.values() if level.holds(case.bytes, threads))
    rounds, others = [], timing.OtherLoad()
    for _ in range(arguments.rounds):

        def roofs():
            quick = arguments.seconds / 4
            return arithmetic_peak(threads, quick), level.bandwidth(threads, quick)

        before = roofs()
        milliseconds = timing.measure(lambda: case.run(threads), arguments.seconds)
        peak, bandwidth = (statistics.mean(pair) for pair in zip(before, roofs(), strict=True))
        gflops, gigabytes = case.operations / 1e6 / milliseconds, case.bytes / 1e6 / milliseconds
        rounds.append(
            {
                "milliseconds": milliseconds,
                "gflops": gflops,
                "peak_gflops": peak,
                "percent_of_peak": 100 * gflops / peak,
                "gigabytes": gigabytes,
                "peak_gigabytes": bandwidth,
                "percent_of_bandwidth": 100 * gigabytes / bandwidth,
            }
        )
    return {"level": level.name, "other_cores": others.cores(), **timing.medians(rounds)}


# ---- the picture


def draw(results, path):
    """The roofs, a numbered mark for each kernel, and beside it what the numbers stand for."""
    from cnet.interop import _drawing

    colours = {"dense": _drawing.BLUE, "convolution": _drawing.ORANGE, "elementwise": _drawing.GREEN}
    width, height = 13.0, max(6.5, 1.0 + 0.125 * len(results))
    with _drawing.drawing("roofline") as new_figure:
        figure = new_figure(width, height)
        axes, legend = figure.subplots(1, 2, width_ratios=(3, 2))
        places = [(result["operations"] / result["bytes"], result["gflops"]) for result in results]
        span = np.geomspace(min(place[0] for place in places) / 3, max(place[0] for place in places) * 2, 300)
        peak = statistics.median(result["peak_gflops"] for result in results)
        for number, level in enumerate(dict.fromkeys(result["level"] for result in results)):
            speed = statistics.median(result["peak_gigabytes"] for result in results if result["level"] == level)
            axes.loglog(span, np.minimum(peak, span * speed), color=_drawing.INK, linewidth=1.2, zorder=1)
            # Each a little further up, for levels may be equally fast.
            spot = span[12 + 16 * number]
            axes.annotate(
                f"{level} {speed:.0f} GB/s ", (spot, spot * speed), ha="right", va="bottom", annotation_clip=False
            )
        axes.annotate(f"{peak:.0f} GFLOP/s", (span[-1], peak), (0, 4), textcoords="offset points", ha="right")
        for family, colour in colours.items():
            of = [place for place, result in zip(places, results, strict=True) if family_of(result) == family]
            if of:
                axes.plot(*zip(*of, strict=True), "o", markersize=6, color=colour, label=family, zorder=2)
        axes.set_xlim(span[0] / 3, span[-1])
        for number, (place, offset) in enumerate(zip(places, label_offsets(places, 72 * width / 2), strict=True), 1):
            style = {"fontsize": 8, "ha": "center", "va": "center", "zorder": 3}
            style["bbox"] = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5}
            axes.annotate(str(number), place, offset, textcoords="offset points", **style)
        count = results[0]["threads"]
        title = f"{results[0]['isa']}, {count} thread{'s' * (count > 1)}"
        axes.set(xlabel="operations a byte", ylabel="GFLOP/s", title=title)
        axes.legend(loc="lower right")
        legend.axis("off")
        shares = (max(result["percent_of_peak"], result["percent_of_bandwidth"]) for result in results)
        lines = [
            f"{number:2}  {result['kernel']:21}  {result['size']:25}  {share:3.0f} %"
            for number, (result, share) in enumerate(zip(results, shares, strict=True), 1)
        ]
        legend.text(0, 1, "\n".join(lines), family="monospace", fontsize=7, linespacing=1.2, va="top")
        legend.set_title("Share of the nearer roof")
        _drawing.save(figure, path)


def family_of(result):
    name = result["kernel"].split()[0]
    return name if name == "dense" else "convolution" if name in ("conv", "depthwise") else "elementwise"


def label_offsets(places, side):
    """Where to write the number of each mark, in points from it, on logarithmic axes of about so many points."""
    logs = np.log10(places)
    points = (logs - logs.min(axis=0)) / np.maximum(np.ptp(logs, axis=0), 1e-9) * side
    directions = np.exp(2j * np.pi * np.arange(8) / 8)
    candidates = [(step.real, step.imag) for radius in (9, 14, 20) for step in radius * directions]
    taken = list(points)
    offsets = []
    for point in points:
        # The candidate with the most room, and of those with enough the nearest to the mark.
        rooms = [min(np.hypot(*(point + offset - other)) for other in taken) for offset in candidates]
        best = next((index for index, room in enumerate(rooms) if room >= 9), int(np.argmax(rooms)))
        offsets.append(candidates[best])
        taken.append(point + candidates[best])
    return offsets


def main():
    cores = timing.machine()["cores"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="PATTERN", help="kernels whose name matches")
    parser.add_argument("--isa", action="append", choices=_dispatch.isas(), help="may be given again (default: all)")
    parser.add_argument("--threads", type=timing.numbers, default=sorted({1, cores}), metavar="N,...")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.1, help="of each measurement")
    parser.add_argument("--png", metavar="FILE", help="picture for the first instruction set and the most threads")
    parser.add_argument("--json", metavar="FILE", help="where all results go")
    arguments = parser.parse_args()
    machine, levels = timing.machine(), find_levels()
    print(timing.headline(machine, f"medians of {arguments.rounds} rounds"))
    table = timing.Table(
        ("kernel", "<21"), ("size", "<25"), ("isa", "<8"), ("threads", "7"), ("ms", "8.3f"), ("GFLOP/s", "7.1f"),
        ("peak", "5.0f"), ("GB/s", "6.1f"), ("of", "5.0f"), ("from", "<7"),
    )  # fmt: skip
    results = []
    for case in all_cases(levels):
        if not re.search(arguments.only, case.name):
            continue
        for isa in arguments.isa or _dispatch.isas():
            _dispatch.set_isa(isa)
            for threads in arguments.threads:
                found = measure(case, levels, threads, arguments)
                table.row(
                    case.name, case.size, isa, threads, found["milliseconds"], found["gflops"],
                    found["percent_of_peak"], found["gigabytes"], found["percent_of_bandwidth"],
                    found["level"] + timing.mark([found["other_cores"]]),
                )  # fmt: skip
                about = {"kernel": case.name, "size": case.size, "operations": case.operations, "bytes": case.bytes}
                results.append({**about, "isa": isa, "threads": threads, **found})
    timing.write_json(machine, arguments, results)
    if arguments.png:
        first = results[0]["isa"], max(arguments.threads)
        draw([result for result in results if (result["isa"], result["threads"]) == first], arguments.png)


if __name__ == "__main__":
    main()
