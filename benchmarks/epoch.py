"""Seconds from the start of a process to 99 % on the test images of MNIST, cnet against PyTorch.

    python benchmarks/epoch.py --data path/to/folder
    python benchmarks/epoch.py --rounds 5 --threads 1 --json epoch.json         # the folder is in CNET_DATA_DIR

Both train LeNet-5 with the same recipe on the same files: 3 epochs, batches of 128, SGD with Nesterov momentum and
weight decay, one cycle of the learning rate. The clock runs from the start of the process, so what a user waits for
counts: importing the library, reading the data, and the test images after each epoch. Each run is a process of its own;
rounds alternate them, each with a seed of its own; the table shows medians. PyTorch reads the files with NumPy and
needs no torchvision; it runs in both of its memory formats, and with tcmalloc where that library is found.
"""

import argparse
import collections
import gzip
import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import libraries
import timing
from nets import NETS, build

TARGET = 0.99
EPOCHS, BATCH = 3, 128
RATE, MOMENTUM, DECAY = 0.1, 0.9, 5e-4
MEAN, DEVIATION = 0.1307, 0.3081

# ---- in the process that trains: each prints a line when it has come so far, and the parent looks at the clock


def tell(event, **more):
    print(json.dumps({"event": event, **more}), flush=True)


def train_cnet(folder, threads, seed, channels_last):
    import cnet
    from cnet import data, layers, losses, optimizers, schedulers

    tell("import")
    cnet.set_num_threads(threads)
    cnet.manual_seed(seed)
    train, test = data.mnist(folder, verbose=False)
    tell("data")
    loader = data.DataLoader(train, BATCH, shuffle=True)
    model = layers.Sequential(*build(NETS["lenet5"], layers))
    optimizer = optimizers.SGD(model.parameters(), RATE, MOMENTUM, weight_decay=DECAY, nesterov=True)
    scheduler = schedulers.OneCycleLR(optimizer, max_lr=RATE, total_steps=EPOCHS * len(loader))
    trainer = cnet.Trainer(model, losses.CrossEntropyLoss(), optimizer, scheduler)
    for _ in range(EPOCHS):
        history = trainer.fit(loader, 1, validation=test, progress=False)
        tell("epoch", accuracy=history.validation_accuracy[-1])


def train_torch(folder, threads, seed, channels_last):
    import torch
    from torch.nn.functional import cross_entropy

    tell("import")
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    images, labels = (torch.from_numpy(read_idx(folder, "train", kind)) for kind in ("images", "labels"))
    test_images, test_labels = (torch.from_numpy(read_idx(folder, "t10k", kind)) for kind in ("images", "labels"))
    labels, test_labels = labels.long(), test_labels.long()
    tell("data")
    form = torch.channels_last if channels_last else torch.contiguous_format

    def prepare(pixels):
        x = pixels.unsqueeze(1).float().div_(255).sub_(MEAN).div_(DEVIATION)
        return x.contiguous(memory_format=form)

    model = torch.nn.Sequential(*build(NETS["lenet5"], torch.nn)).to(memory_format=form)
    optimizer = torch.optim.SGD(model.parameters(), RATE, MOMENTUM, weight_decay=DECAY, nesterov=True)
    steps = EPOCHS * math.ceil(len(images) / BATCH)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=RATE, total_steps=steps)
    for _ in range(EPOCHS):
        model.train()
        for chosen in torch.randperm(len(images)).split(BATCH):
            optimizer.zero_grad(set_to_none=True)
            cross_entropy(model(prepare(images[chosen])), labels[chosen]).backward()
            optimizer.step()
            scheduler.step()
        model.eval()
        with torch.inference_mode():
            hits = sum(
                (model(prepare(x)).argmax(1) == y).sum().item()
                for x, y in zip(test_images.split(256), test_labels.split(256), strict=True)
            )
        tell("epoch", accuracy=hits / len(test_images))


def read_idx(folder, part, kind):
    """The images or labels of a part of MNIST, from a file as everyone names it, with ``.gz`` or without."""
    import numpy as np

    path = next(path for path in sorted(Path(folder).rglob(f"{part}-{kind}*ubyte*")) if path.is_file())
    content = path.read_bytes()
    content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    axes = content[3]
    shape = np.frombuffer(content, ">i4", axes, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape).copy()


TRAINERS = {"cnet": train_cnet, "torch": train_torch}

# ---- in the process that compares

PARTS = ("import", "data", "training", "total", "to_target")


def run(side, arguments, seed):
    """Seconds of a run's parts, and the accuracy after each epoch."""
    options = [side.library, arguments.data, str(arguments.threads), str(seed), str(int(side.channels_last))]
    environment = {**os.environ, **side.environment}
    others, start = timing.OtherLoad(), time.perf_counter()
    process = subprocess.Popen(
        [*side.command, "--worker", *options], env=environment, stdout=subprocess.PIPE, text=True
    )
    events = [{**json.loads(line), "at": time.perf_counter() - start} for line in process.stdout]
    if process.wait():
        sys.exit(f"error: {side.name} ended with status {process.returncode}")
    total = time.perf_counter() - start
    imported, read, *epochs = (event["at"] for event in events)
    accuracies = [event["accuracy"] for event in events[2:]]
    reached = [at for at, accuracy in zip(epochs, accuracies, strict=True) if accuracy >= TARGET]
    parts = (imported, read - imported, epochs[-1] - read, total, *reached[:1])
    return {
        # Without the last part if the accuracy was not reached.
        "seconds": dict(zip(PARTS, parts, strict=False)),
        "accuracies": accuracies,
        "other_cores": others.cores(),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("CNET_DATA_DIR"), help="folder of the four files of MNIST")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", nargs=5, help=argparse.SUPPRESS)
    libraries.add_options(parser)
    arguments = parser.parse_args()
    if arguments.worker:
        library, folder, threads, seed, channels_last = arguments.worker
        libraries.check_preloaded()
        return TRAINERS[library](folder, int(threads), int(seed), channels_last == "1")
    if not arguments.data:
        parser.error("name the folder of MNIST with --data or in CNET_DATA_DIR")

    machine = libraries.describe(arguments)
    goal = f"{100 * TARGET:g} %"
    about = f"LeNet-5 on MNIST, {EPOCHS} epochs, batch {BATCH}, {arguments.threads} threads"
    print(timing.headline(machine, f"{about}; medians of {arguments.rounds} rounds in seconds"))
    sides = [libraries.cnet_side(arguments, __file__), *libraries.torch_sides(arguments, __file__)]
    seeds = collections.Counter()

    def ask(side):
        seeds[side.name] += 1
        return run(side, arguments, seeds[side.name])

    rounds = timing.rounds(sides, arguments.rounds, ask)
    runs = [answer for answers in rounds for answer in answers.values()]
    reached = [part for part in PARTS if all(part in answer["seconds"] for answer in runs)]
    results = {part: timing.compare(rounds, "cnet", part, "seconds") for part in reached}
    columns = [(name, "8.2f") for name in ("import", "data", "training", "total", f"to {goal}")]
    table = timing.Table(("side", "<14"), *columns, ("accuracy after each epoch", "<25"))
    for side in sides:
        seconds = [results[part]["seconds"][side.name] if part in results else None for part in PARTS]
        epochs = zip(*(one[side.name]["accuracies"] for one in rounds), strict=True)
        accuracies = "  ".join(f"{100 * statistics.median(epoch):.2f} %" for epoch in epochs)
        table.row(side.name, *seconds, accuracies)
    others = [answer["other_cores"] for answer in runs]
    for part, result in results.items():
        words = f"to {goal}" if part == "to_target" else part
        ratio = result["ratio"]
        print(f"PyTorch's best / cnet, {words}: {ratio['median']:.2f} {timing.spread(ratio, others)}")
    timing.write_json(machine, arguments, {"medians": results, "rounds": rounds})


if __name__ == "__main__":
    main()
