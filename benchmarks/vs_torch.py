"""Time of a training step and of inference, cnet against PyTorch, each in a process of its own, in alternation.

    python benchmarks/vs_torch.py                               # all named nets, batch 64
    python benchmarks/vs_torch.py mlp "3x64x64 c16k3s2 relu flatten fc10" --batch 32 --threads 1 --rounds 7

Machines are shared and their speed drifts, so neither library is timed alone: rounds alternate the processes, each
round gives one ratio, and the table shows the median of the ratios with their spread. PyTorch gets the better of its
two memory formats. A step is forward, loss, backward and SGD with momentum on one batch.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

from nets import NETS, build, parse

MODES = ("train", "infer")


def cnet_step(text, batch, threads, mode, channels_last):
    import numpy as np

    import cnet
    from cnet import layers, losses, optimizers

    cnet.set_num_threads(threads)
    cnet.manual_seed(0)
    generator = np.random.default_rng(0)
    x = generator.standard_normal((batch, *parse(text)[0]), np.float32)
    y = generator.integers(0, 10, batch)
    model = layers.Sequential(*build(text, layers))
    if mode == "infer":
        model.eval()
        return lambda: model(x)
    criterion = losses.CrossEntropyLoss()
    optimizer = optimizers.SGD(model.parameters(), lr=1e-4, momentum=0.9)

    def step():
        optimizer.zero_grad()
        criterion(model(x), y)
        model.backward(criterion.backward(), input_grad=False)
        optimizer.step()

    return step


def torch_step(text, batch, threads, mode, channels_last):
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    x = torch.randn(batch, *parse(text)[0])
    y = torch.randint(0, 10, (batch,))
    model = torch.nn.Sequential(*build(text, torch.nn))
    if channels_last:
        model, x = model.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    if mode == "infer":
        model.eval()

        def infer():
            with torch.inference_mode():
                model(x)

        return infer
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

    def step():
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def measure(step, seconds):
    """Median milliseconds of a call, after a warm-up."""
    end = time.perf_counter() + seconds / 4
    while time.perf_counter() < end:
        step()
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def worker(arguments):
    make = cnet_step if arguments.worker == "cnet" else torch_step
    step = make(arguments.nets[0], arguments.batch, arguments.threads, arguments.mode, arguments.channels_last)
    print(json.dumps(measure(step, arguments.seconds)))


def run_worker(arguments, library, text, mode, channels_last=False):
    command = [arguments.torch_python if library == "torch" else sys.executable, __file__, text, "--worker", library]
    command += ["--mode", mode, "--batch", str(arguments.batch), "--threads", str(arguments.threads)]
    command += ["--seconds", str(arguments.seconds)] + ["--channels-last"] * channels_last
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def compare(arguments, text, mode):
    """Rounds of (cnet, PyTorch's best) in milliseconds."""
    formats = (False, True) if len(parse(text)[0]) == 3 else (False,)
    rounds = []
    for _ in range(arguments.rounds):
        ours = run_worker(arguments, "cnet", text, mode)
        theirs = [run_worker(arguments, "torch", text, mode, last) for last in formats]
        rounds.append({"cnet": ours, "nchw": theirs[0], "channels_last": theirs[-1], "ratio": min(theirs) / ours})
    return rounds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="*", default=list(NETS), help=f"texts, or names of {', '.join(NETS)}")
    parser.add_argument("--mode", choices=MODES, action="append", help="default: both")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--json", help="file for the results")
    parser.add_argument("--torch-python", default=sys.executable, help="interpreter that has PyTorch")
    parser.add_argument("--worker", choices=("cnet", "torch"), help=argparse.SUPPRESS)
    parser.add_argument("--channels-last", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        arguments.mode = arguments.mode[0]
        return worker(arguments)
    print(f"batch {arguments.batch}, {arguments.threads} threads, medians of {arguments.rounds} rounds")
    print(
        f"{'net':12} {'mode':6} {'cnet ms':>9} {'NCHW ms':>9} {'NHWC ms':>9} {'ratio':>6}  (least-most), PyTorch / cnet"
    )
    results = []
    for name in arguments.nets:
        for mode in arguments.mode or MODES:
            rounds = compare(arguments, NETS.get(name, name), mode)
            middle = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
            ratios = [one["ratio"] for one in rounds]
            print(
                f"{name[:12]:12} {mode:6} {middle['cnet']:9.3f} {middle['nchw']:9.3f} {middle['channels_last']:9.3f} "
                f"{middle['ratio']:6.2f}  ({min(ratios):.2f}-{max(ratios):.2f})",
                flush=True,
            )
            results.append(
                {"net": name, "mode": mode, "batch": arguments.batch, "threads": arguments.threads, **middle}
            )
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
