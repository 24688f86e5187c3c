"""Train a network to read handwritten digits: a whole run, from the data to the pictures, with cnet.

    python examples/train_mnist.py
    python examples/train_mnist.py --arch lenet5 --epochs 5 --output runs/lenet

Writes into the output folder: weights.npz and, where matplotlib is installed, learning_curves.png,
confusion_matrix.png and worst_mistakes.png.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

import cnet
from cnet import data, layers, losses, metrics, optimizers, schedulers
from cnet.interop import figures

# Epochs for the 60,000 images of the full set, and for the 5,000 of the subset in the package.
FEW, MANY = 3, 20


def cnn() -> layers.Sequential:
    """Two convolutions and two dense layers: the most accurate of the three."""
    return layers.Sequential(
        layers.Conv2d(1, 32, 3, padding=1), layers.PReLU(), layers.MaxPool2d(2),
        layers.Conv2d(32, 64, 3, padding=1), layers.PReLU(), layers.MaxPool2d(2),
        layers.Flatten(),
        layers.Linear(64 * 7 * 7, 128), layers.PReLU(), layers.Dropout(0.5),
        layers.Linear(128, 10),
    )  # fmt: skip


def lenet5() -> layers.Sequential:
    """A small classic, after LeCun et al., 1998."""
    return layers.Sequential(
        layers.Conv2d(1, 6, 5, padding=2), layers.ReLU(), layers.MaxPool2d(2),
        layers.Conv2d(6, 16, 5), layers.ReLU(), layers.MaxPool2d(2),
        layers.Flatten(),
        layers.Linear(16 * 5 * 5, 120), layers.ReLU(),
        layers.Linear(120, 84), layers.ReLU(),
        layers.Linear(84, 10),
    )  # fmt: skip


def mlp() -> layers.Sequential:
    """Dense layers only, which know nothing of pixels side by side."""
    return layers.Sequential(
        layers.Flatten(),
        layers.Linear(784, 128), layers.ReLU(),
        layers.Linear(128, 64), layers.ReLU(),
        layers.Linear(64, 10),
    )  # fmt: skip


def make_scheduler(name: str, optimizer: optimizers.SGD, epochs: int, steps: int) -> schedulers.Scheduler | None:
    """How the learning rate goes from the first of so many steps to the last."""
    if name == "onecycle":
        return schedulers.OneCycleLR(optimizer, max_lr=optimizer.param_groups[0]["lr"], total_steps=steps)
    if name == "cosine":
        return schedulers.CosineAnnealingLR(optimizer, T_max=steps, interval="step")
    if name == "step":
        return schedulers.StepLR(optimizer, step_size=max(1, epochs // 3))
    return None


def count(text: str) -> int:
    """A whole number above zero, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not above zero")
    return number


def read_options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        usage="%(prog)s [options]", description="Train a network to read handwritten digits (MNIST)."
    )
    add = parser.add_argument
    add("--arch", choices=["cnn", "lenet5", "mlp"], default="cnn", help="the network (default: %(default)s)")
    add("--data", metavar="FOLDER", help="where the four MNIST files are (default: cache, download or bundled subset)")
    add("--epochs", type=count, metavar="N", help=f"passes over the data (default: {FEW}, or {MANY} for the subset)")
    add("--batch-size", type=count, default=64, metavar="N", help="images in a step (default: %(default)s)")
    add("--lr", type=float, default=0.05, metavar="X", help="largest learning rate (default: %(default)s)")
    add("--optimizer", choices=["sgd", "nesterov"], default="nesterov", help="kind of momentum (default: %(default)s)")
    courses = ["onecycle", "cosine", "step", "none"]
    add("--scheduler", choices=courses, default="onecycle", help="course of the learning rate (default: %(default)s)")
    add("--weight-decay", type=float, default=5e-4, metavar="X", help="L2 penalty (default: %(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="equal seeds give equal weights (default: %(default)s)")
    add("--threads", type=count, metavar="N", help="threads (default: as many as there are cores)")
    add("--output", type=Path, metavar="FOLDER", help="where the results go (default: runs/mnist-ARCH)")
    add("--min-accuracy", type=float, metavar="PERCENT", help="exit with status 1 below this test accuracy")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = read_options(arguments)
    if options.threads is not None:
        cnet.set_num_threads(options.threads)
    # Before the model, whose first weights are drawn at random.
    cnet.manual_seed(options.seed)

    train, test = data.mnist(options.data)
    loader = data.DataLoader(train, options.batch_size, shuffle=True)
    epochs = options.epochs if options.epochs is not None else FEW if len(train) >= 20_000 else MANY

    model = {"cnn": cnn, "lenet5": lenet5, "mlp": mlp}[options.arch]()
    print(model.summary(train.x.shape[1:]))
    optimizer = optimizers.SGD(
        model.parameters(),
        lr=options.lr,
        momentum=0.9,
        weight_decay=options.weight_decay,
        nesterov=options.optimizer == "nesterov",
    )
    scheduler = make_scheduler(options.scheduler, optimizer, epochs, epochs * len(loader))
    trainer = cnet.Trainer(model, losses.CrossEntropyLoss(), optimizer, scheduler)
    # Ctrl-C ends the training early; what was learned is then measured and kept all the same.
    history = trainer.fit(loader, epochs, validation=test)
    if not len(history):
        return 1

    probabilities = trainer.predict_proba(test)
    matrix = metrics.confusion_matrix(test.y, probabilities, classes=10)
    accuracy = 100 * np.trace(matrix) / matrix.sum()
    speed = np.average(history.images_per_second, weights=history.seconds)
    print_matrix(matrix)
    print(f"test accuracy {accuracy:.2f} %  trained for {sum(history.seconds):.1f} s  {speed:,.0f} images/s")

    folder = options.output or Path("runs", f"mnist-{options.arch}")
    folder.mkdir(parents=True, exist_ok=True)
    cnet.save_weights(model, folder / "weights.npz")
    print(f"wrote {folder / 'weights.npz'}")
    try:
        figures.learning_curves(history, folder / "learning_curves.png")
        figures.confusion_matrix(matrix, folder / "confusion_matrix.png")
        figures.worst_mistakes(test.x, test.y, probabilities, folder / "worst_mistakes.png")
        print(f"wrote {folder / '*.png'}")
    except ImportError as error:
        print(f"no pictures: {error}")

    if options.min_accuracy is not None and accuracy < options.min_accuracy:
        print(f"test accuracy {accuracy:.2f} % is below {options.min_accuracy:g} %", file=sys.stderr)
        return 1
    return 0


def print_matrix(matrix: np.ndarray) -> None:
    """One row for each true digit; a dot is a zero."""
    width = len(str(matrix.max())) + 2
    print("\nrows: true digits, columns: predicted digits")
    print("   " + "".join(f"{digit:{width}}" for digit in range(len(matrix))))
    for digit, row in enumerate(matrix):
        print(f"{digit:3}" + "".join(f"{count or '.':>{width}}" for count in row))
    print()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, ValueError, FloatingPointError) as error:
        sys.exit(f"error: {error}")
