"""Whether the way in which convolutions are summed shows in the accuracy of whole trainings.

    python benchmarks/algorithms.py                                       # the digits that data.mnist() finds
    python benchmarks/algorithms.py --data path/to/folder --net vgg-like --epochs 50 --seeds 3 --json algorithms.json

Every 3 x 3 convolution of the net is computed by direct summation, by what ``Conv2d`` takes of itself, and by
Winograd's filtering with tiles of 4 x 4, the least accurate. All start from the same weights and see the same batches,
seed by seed; the table shows the loss of the last epoch and the share of test images that are recognised. What the
seeds make of the accuracy is what an algorithm may make of it.
"""

import argparse
import functools
import json
import statistics
import types

from nets import NETS, build

ALGORITHMS = ("direct", "auto", "winograd4")
SHORT = {
    **NETS,
    "vgg-like": (
        "1x28x28 c16k3p1 bn relu c16k3p1 bn relu pool2 c32k3p1 bn relu c32k3p1 bn relu pool2 "
        "c64k3p1 bn relu c64k3p1 bn relu flatten fc10"
    ),
}
BATCH, RATE, MOMENTUM, DECAY = 64, 0.05, 0.9, 5e-4


def train(text, algorithm, folder, epochs, seed):
    """The loss of the last epoch, and the share of test images recognised after it."""
    import cnet
    from cnet import data, layers, losses, optimizers, schedulers

    cnet.manual_seed(seed)
    train_images, test = data.mnist(folder, verbose=False)
    loader = data.DataLoader(train_images, BATCH, shuffle=True)
    library = types.SimpleNamespace(**{name: getattr(layers, name) for name in layers.__all__})
    library.Conv2d = functools.partial(layers.Conv2d, algorithm=algorithm)
    model = layers.Sequential(*build(text, library))
    optimizer = optimizers.SGD(model.parameters(), RATE, MOMENTUM, weight_decay=DECAY, nesterov=True)
    scheduler = schedulers.OneCycleLR(optimizer, max_lr=RATE, total_steps=epochs * len(loader))
    trainer = cnet.Trainer(model, losses.CrossEntropyLoss(), optimizer, scheduler)
    history = trainer.fit(loader, epochs, validation=test, progress=False)
    return history.loss[-1], history.validation_accuracy[-1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--net", default="cnn", help=f"one of {', '.join(SHORT)}, or a text (see nets.py)")
    parser.add_argument("--data", help="folder of the MNIST files; default those that data.mnist() finds")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", help="write the results here too")
    options = parser.parse_args()
    text = SHORT.get(options.net, options.net)
    results = {algorithm: [] for algorithm in ALGORITHMS}
    print(f"{options.net}: {options.epochs} epochs\n{'seed':>4}  " + "".join(f"{name:>20}" for name in ALGORITHMS))
    for seed in range(options.seeds):
        for algorithm in ALGORITHMS:
            results[algorithm].append(train(text, algorithm, options.data, options.epochs, seed))
        pairs = [results[algorithm][-1] for algorithm in ALGORITHMS]
        print(f"{seed:4}  " + "".join(f"{loss:11.4f} {100 * share:6.2f} %" for loss, share in pairs), flush=True)
    means = [[statistics.mean(column) for column in zip(*results[name], strict=True)] for name in ALGORITHMS]
    print("mean  " + "".join(f"{loss:11.4f} {100 * share:6.2f} %" for loss, share in means))
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"net": text, "epochs": options.epochs, "loss and accuracy": results}, file, indent=1)


if __name__ == "__main__":
    main()
