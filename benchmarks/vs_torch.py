"""Time and memory of a training step and of inference, cnet against PyTorch, each in a process of its own.

    python benchmarks/vs_torch.py                               # all named nets, batch 64
    python benchmarks/vs_torch.py mlp "3x64x64 c16k3s2 relu flatten fc10" --batch 1,32 --threads 1,2 --rounds 7
    python benchmarks/vs_torch.py lenet5 --isa avx2             # both without AVX-512
    python benchmarks/vs_torch.py lenet5 --profile              # where the time of cnet's step goes; needs no PyTorch

Machines are shared and their speed drifts, so neither library is timed alone: rounds alternate the processes, each
round gives one ratio, and the table shows the median of the ratios with their spread. PyTorch gets the better of its
two memory formats, and of its own allocator and tcmalloc where that library is installed. A step is forward, loss,
backward and SGD with momentum on one batch. Texts of nets are explained in nets.py.

Memory is how far a step raises the resident memory of its process above what it was before the model was made; of
PyTorch's ways the most frugal counts. What a library loads at its first step is left out, and so is code. Of cnet's
memory, ``pool`` is what its own allocator handed out.
"""

import argparse

import libraries
import timing
from nets import NETS, parse

MODES = ("train", "infer")


def compare(arguments, text, mode, batch, threads):
    """Medians of time and memory by side, each round of each side in a new process; and the ratio of the times."""
    images = len(parse(text)[0]) == 3
    sides = [libraries.cnet_side(arguments), *libraries.torch_sides(arguments, images=images)]

    def ask(side):
        options = {"channels_last": side.channels_last, "seconds": arguments.seconds}
        with side.start(threads) as worker:
            return worker.ask(task=mode, text=text, batch=batch, **options)

    rounds = timing.rounds(sides, arguments.rounds, ask)
    memory = [{name: answer["megabytes"] for name, answer in answers.items()} for answers in rounds]
    return {
        **timing.compare(rounds, "cnet", mode),
        "megabytes": timing.medians(memory),
        "cnet_pool_megabytes": rounds[0]["cnet"]["pool_megabytes"],
        "other_cores": [answer["other_cores"] for answers in rounds for answer in answers.values()],
        "rounds": rounds,
    }


def show(table, name, mode, batch, threads, result):
    times, memory, ratio = result["milliseconds"], result["megabytes"], result["ratio"]
    preloaded = [value for side, value in times.items() if side.endswith("tcmalloc")]
    table.row(
        name, mode, batch, threads, times["cnet"], times["NCHW"], times.get("NHWC"), min(preloaded, default=None),
        ratio["median"], timing.spread(ratio, result["other_cores"]),
        memory["cnet"], result["cnet_pool_megabytes"], min(value for side, value in memory.items() if side != "cnet"),
    )  # fmt: skip


def profile(arguments):
    """A table for each net: its layers forward and backward, run one by one, and the rest of a step."""
    side = libraries.cnet_side(arguments)
    print(timing.headline(timing.machine(), "medians in microseconds"))
    for name, batch, threads in cases(arguments):
        text = NETS.get(name, name)
        with side.start(threads) as worker:
            options = {"text": text, "batch": batch, "seconds": arguments.seconds}
            rows = worker.ask(task="profile", **options)["rows"]
            step = 1e3 * worker.ask(task="train", **options)["milliseconds"]["train"]
        table = timing.Table(
            (f"{name}, batch {batch}, {threads} threads", "<58"), ("forward", "9.1f"), ("backward", "9.1f")
        )
        for row in rows:
            table.row(*row)
        table.row("sum of these", sum(row[1] for row in rows), sum(row[2] or 0.0 for row in rows))
        table.row("the step as a whole", step, None)
        print()


def cases(arguments):
    return [(name, batch, t) for name in arguments.nets for batch in arguments.batch for t in arguments.threads]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="*", default=list(NETS), help=f"texts, or names of {', '.join(NETS)}")
    parser.add_argument("--mode", choices=MODES, action="append", help="default: both")
    parser.add_argument("--batch", type=timing.numbers, default=[64], metavar="N,...")
    parser.add_argument("--threads", type=timing.numbers, default=[2], metavar="N,...")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--profile", action="store_true", help="cnet alone, layer by layer")
    libraries.add_options(parser)
    arguments = parser.parse_args()
    try:
        for name in arguments.nets:
            parse(NETS.get(name, name))
    except ValueError as error:
        parser.error(str(error))
    if arguments.profile:
        return profile(arguments)

    machine = libraries.describe(arguments)
    print(timing.headline(machine, f"medians of {arguments.rounds} rounds; ratio is PyTorch's best time / cnet's"))
    table = timing.Table(
        ("net", "<12"), ("mode", "<5"), ("batch", "5"), ("threads", "7"), ("cnet ms", "9.3f"), ("NCHW ms", "9.3f"),
        ("NHWC ms", "9.3f"), ("tcmalloc", "9.3f"), ("ratio", "6.2f"), ("(spread)", "<14"),
        ("cnet MB", "7.1f"), ("pool", "6.1f"), ("torch MB", "8.1f"),
    )  # fmt: skip
    results = []
    for name, batch, threads in cases(arguments):
        for mode in arguments.mode or MODES:
            text = NETS.get(name, name)
            result = compare(arguments, text, mode, batch, threads)
            show(table, name, mode, batch, threads, result)
            where = {"net": name, "text": text, "mode": mode, "batch": batch, "threads": threads}
            results.append({**where, **result})
    timing.write_json(machine, arguments, results)


if __name__ == "__main__":
    main()
