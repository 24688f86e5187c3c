"""Hundreds of generated layers, forward and backward, cnet against PyTorch: where is the cliff?

    python benchmarks/sweep.py                                      # 300 layers, a quarter of an hour
    python benchmarks/sweep.py --count 1000 --seed 1 --only conv --isa avx2 --json sweep.json
    python benchmarks/sweep.py --spec "64x3x32x32 c16k3s2p1"        # some layers again; specs are explained in nets.py
    python benchmarks/sweep.py --threads-check                      # cnet on 2 threads against cnet on 1; no PyTorch

One process of each side lives through the sweep, so that all see the same machine and none pays for its start. For each
layer they are asked in turn, for several short rounds; a ratio is the median over the rounds of PyTorch's best time by
cnet's. The better of PyTorch's two memory formats counts, and of its own allocator and tcmalloc where that is found.
Inputs and gradients come as the library's own layers hand them on. Two passes are measured, both in training mode:
``forward``, and ``training``, which is forward and backward with the gradients of the input and of all parameters.

Layers are a function of the seed. A forward pass takes at most 1e9 floating-point operations, and its input, output and
weights at most 80 MB together: tens of milliseconds on a small machine.
"""

import argparse
import collections
import dataclasses
import math
import random
import statistics
import sys
import textwrap

import libraries
import timing
from nets import Layer, count_flops, count_weights, output_shape, parse, split_batch, write

MOST_FLOPS = 1e9
MOST_FLOATS = 20e6
PASSES = ("forward", "training")
# Layers below this ratio are counted, and so many of both ends are shown.
SLOW, WORST, BEST = 0.9, 20, 5

# ---- which layers


def generate(seed, count, only=None):
    """So many different specs, in the order in which they are drawn."""
    generator = random.Random(seed)
    kinds = [only] if only else list(KINDS)
    specs = {}
    while len(specs) < count:
        kind = generator.choices(kinds, [KINDS[name][0] for name in kinds])[0]
        shape, layer = KINDS[kind][1](generator)
        batch = draw(generator, 1, 256, (1, 8, 16, 32, 64, 128, 256))
        # Large samples come in small batches, lest the limits turn away all large samples.
        while batch > 1 and not within_limits(batch, shape, layer):
            batch //= 2
        if within_limits(batch, shape, layer):
            specs[f"{batch}x{write(shape, [layer])}"] = None
    return list(specs)


def draw(generator, low, high, usual):
    """A size: every other time a usual one, else any, each power of two being as likely as the next."""
    fitting = [size for size in usual if low <= size <= high]
    if fitting and generator.random() < 0.5:
        return generator.choice(fitting)
    return min(high, int(low * ((high + 1) / low) ** generator.random()))


def draw_image(generator):
    height = draw(generator, 7, 64, (7, 8, 14, 16, 28, 32, 56, 64))
    return height, draw(generator, 7, 64, (7, 14, 28, 56)) if generator.random() < 0.2 else height


def draw_channels(generator, most=512):
    return draw(generator, 1, most, (1, 3, 8, 16, 32, 64, 128, 256, 512))


def draw_convolution(generator):
    groups, breadth = 1, draw_channels(generator)
    out = draw_channels(generator)
    style = generator.random()
    if style < 0.15:
        groups, breadth = breadth, 1
        out = groups * (2 if groups <= 256 and generator.random() < 0.2 else 1)
    elif style < 0.3:
        groups = generator.choice((2, 3, 4, 8, 16, 32))
        breadth = draw_channels(generator, 512 // groups)
        out = groups * draw_channels(generator, 512 // groups)
    kernel = draw_pair(generator, lambda: generator.choice((1, 1, 2, 3, 3, 3, 3, 4, 5, 5, 6, 7)))
    # None or half the kernel in most cases; anything below the kernel in others.
    padding = tuple(generator.choice((0, size // 2, size // 2, generator.randrange(size))) for size in kernel)
    options = {
        "k": kernel,
        "s": draw_pair(generator, lambda: generator.choice((1, 1, 1, 1, 2, 2, 3))),
        "p": padding,
        "d": draw_pair(generator, lambda: 1 if generator.random() < 0.95 else 2),
        "g": groups,
    }
    return (groups * breadth, *draw_image(generator)), Layer("c", out, tidy(options, s=1, p=0, d=1, g=1))


def draw_pair(generator, one):
    """The same vertically and horizontally, but one time in seven."""
    first = one()
    return first, one() if generator.random() < 0.15 else first


def tidy(options, **defaults):
    """Options as people write them: pairs of equals as one number, and without what goes without saying."""
    tidied = {}
    for key, value in options.items():
        if isinstance(value, tuple) and value[0] == value[1]:
            value = value[0]
        if value != defaults.get(key):
            tidied[key] = value
    return tidied


def draw_pooling(generator):
    kernel = generator.choice((2, 2, 2, 3, 3, 4, 5))
    options = {"s": generator.choice((kernel, kernel, 1, 2)), "p": generator.choice((0, 0, kernel // 2))}
    return (draw_channels(generator), *draw_image(generator)), Layer("pool", kernel, tidy(options, s=kernel, p=0))


def draw_linear(generator):
    usual = (1, 10, 64, 84, 120, 128, 256, 512, 784, 1024, 2048, 4096)
    return (draw(generator, 1, 4096, usual),), Layer("fc", draw(generator, 1, 4096, usual), {})


def draw_normalisation(generator):
    return (draw_channels(generator), *draw_image(generator)), Layer("bn", None, {})


def draw_activation(generator):
    kind = generator.choice(("relu", "leaky", "prelu"))
    return (draw_channels(generator), *draw_image(generator)), Layer(kind, None, {})


# Each kind's share of a sweep, and how one is drawn.
KINDS = {
    "conv": (0.72, draw_convolution),
    "linear": (0.12, draw_linear),
    "pool": (0.06, draw_pooling),
    "norm": (0.05, draw_normalisation),
    "activation": (0.05, draw_activation),
}


def within_limits(batch, shape, layer):
    after = output_shape(shape, layer)
    if min(after) < 1 or (layer.kind == "bn" and batch * math.prod(shape[1:]) < 2):
        return False
    floats = batch * (math.prod(shape) + math.prod(after)) + count_weights(shape, layer)
    return floats <= MOST_FLOATS and batch * count_flops(shape, layer) <= MOST_FLOPS


def kind_of(spec):
    """The row of the table of kinds that a spec belongs to."""
    shape, layers = parse(split_batch(spec)[1])
    if len(layers) != 1:
        raise ValueError(f"{spec!r} has {len(layers)} layers, expected one")
    (layer,) = layers
    if layer.kind != "c":
        return {"fc": "linear", "bn": "norm", "pool": "pool"}.get(layer.kind, "activation")
    if layer.groups > 1:
        return "conv depthwise" if layer.groups == shape[0] else "conv groups"
    return "conv 1x1" if layer.pair("k", 1) == (1, 1) else "conv"


# ---- how fast


def measure(processes, sides, spec, arguments):
    """Median milliseconds of each side and pass, and by pass the ratio of the other sides' best to the first side's."""
    batch, text = split_batch(spec)
    image = len(parse(text)[0]) == 3
    asked = [side for side in sides if image or side.library == "cnet" or not side.channels_last]

    def ask(side):
        options = {"channels_last": image and side.channels_last, "seconds": arguments.seconds}
        return processes[side].ask(task="layer", text=text, batch=batch, **options)

    rounds = timing.rounds(asked, arguments.rounds, ask)
    others = [answer["other_cores"] for answers in rounds for answer in answers.values()]
    passes = {name: timing.compare(rounds, sides[0].name, name) for name in PASSES}
    return {"spec": spec, "kind": kind_of(spec), "other_cores": others, **passes}


def report(results, name, ours):
    """Print the statistics of a pass, the worst layers and the best."""
    quiet = [result for result in results if not timing.mark(result["other_cores"])]
    left_out = (
        f"{len(results) - len(quiet)} more left out, which others disturbed" if quiet else "all disturbed by others"
    )
    ordered = sorted(quiet or results, key=lambda result: result[name]["ratio"]["median"])
    ratios = [result[name]["ratio"]["median"] for result in ordered]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    below = {limit: sum(ratio < limit for ratio in ratios) for limit in (SLOW, 1)}
    kinds = collections.defaultdict(list)
    for result in ordered:
        kinds[result["kind"]].append(result[name]["ratio"]["median"])
    means = [f"{kind} {statistics.geometric_mean(of):.2f} ({len(of)})" for kind, of in sorted(kinds.items())]
    print(f"\n{name}: {len(ratios)} layers; {left_out}")
    print(f"median {middle:.2f}, quartiles {low:.2f} and {high:.2f}; below {SLOW}: {below[SLOW]}, below 1: {below[1]}")
    print(textwrap.fill("geometric means: " + ", ".join(means), 100))
    table = timing.Table(("spec", "<50"), ("ms", "9.3f"), ("other ms", "9.3f"), ("ratio", "6.2f"), ("(spread)", "<16"))
    parts = [ordered] if len(ordered) <= WORST + BEST else [ordered[:WORST], ordered[-BEST:]]
    for index, part in enumerate(parts):
        if index:
            print("...")
        for result in part:
            times, ratio = result[name]["milliseconds"], result[name]["ratio"]
            best = min(value for side, value in times.items() if side != ours)
            table.row(result["spec"], times[ours], best, ratio["median"], timing.spread(ratio, result["other_cores"]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300, help="layers (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=KINDS, help="layers of one kind")
    parser.add_argument("--spec", action="append", help="this layer instead; may be given again")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.1, help="of each pass of each side in a round")
    parser.add_argument("--threads-check", action="store_true", help="cnet on --threads threads against cnet on one")
    libraries.add_options(parser)
    arguments = parser.parse_args()
    specs = arguments.spec or generate(arguments.seed, arguments.count, arguments.only)
    try:
        for spec in specs:
            kind_of(spec)
    except ValueError as error:
        parser.error(str(error))

    ours = dataclasses.replace(libraries.cnet_side(arguments), channels_last=True)
    if arguments.threads_check:
        machine = timing.machine()
        threads = {ours: arguments.threads, dataclasses.replace(ours, name="cnet on 1 thread"): 1}
        what = f"ratio is cnet's time on 1 thread / that on {arguments.threads}"
    else:
        machine = libraries.describe(arguments)
        threads = dict.fromkeys([ours, *libraries.torch_sides(arguments)], arguments.threads)
        what = f"{arguments.threads} threads; ratio is PyTorch's best time / cnet's"
    print(timing.headline(machine, f"{len(specs)} layers, medians of {arguments.rounds} rounds; {what}"))

    results = []
    with libraries.start_all(threads) as processes:
        try:
            for index, spec in enumerate(specs):
                if sys.stderr.isatty():
                    print(f"\r{index}/{len(specs)} {spec:60.60}", end="\r", file=sys.stderr, flush=True)
                results.append(measure(processes, list(threads), spec, arguments))
        except KeyboardInterrupt:
            print(f"stopped after {len(results)} layers")
    for name in PASSES if results else ():
        report(results, name, ours.name)
    timing.write_json(machine, arguments, results)


if __name__ == "__main__":
    main()
