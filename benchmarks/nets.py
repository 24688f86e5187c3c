"""Nets as short texts, and what each library makes of them.

A text names the input and then the layers: ``1x28x28 c32k3p1 relu pool2 flatten fc10``. Layers are

===================  ============================================================================
``cOUTkKsSpPgG``     convolution, OUT channels, K x K kernel; stride S, padding P and groups G may be left out
``poolK``            max-pooling with K x K windows and stride K
``fcOUT``            fully connected
``relu prelu bn``    activations, batch normalisation
``dropP flatten``    dropout with probability P, flatten
===================  ============================================================================
"""

import math
import re

NETS = {
    "seedcnn": "1x28x28 c32k3p1 relu pool2 c64k3p1 relu pool2 flatten fc128 relu fc10",
    "cnn": "1x28x28 c32k3p1 prelu pool2 c64k3p1 prelu pool2 flatten fc128 prelu drop0.5 fc10",
    "lenet5": "1x28x28 c6k5p2 relu pool2 c16k5 relu pool2 flatten fc120 relu fc84 relu fc10",
    "mlp": "784 fc128 relu fc64 relu fc10",
    "vgg": (
        "3x32x32 c64k3p1 bn relu c64k3p1 bn relu pool2 c128k3p1 bn relu c128k3p1 bn relu pool2 "
        "c256k3p1 bn relu c256k3p1 bn relu pool2 flatten fc10"
    ),
}
NETS["vgg-plain"] = NETS["vgg"].replace(" bn", "")


def parse(text):
    """``(input shape, layers)`` with layers ``(kind, options)``."""
    first, *words = text.split()
    shape = tuple(int(size) for size in first.split("x"))
    layers = []
    for word in words:
        kind, numbers = re.fullmatch(r"([a-z]+)(.*)", word).groups()
        if kind == "c":
            options = {key: int(value) for key, value in re.findall(r"([a-z]?)(\d+)", numbers)}
            layers.append(("conv", options))
        else:
            layers.append((kind, float(numbers) if numbers else None))
    return shape, layers


def shapes(text):
    """The shape before each layer, without the batch axis."""
    shape, layers = parse(text)
    for kind, options in layers:
        yield shape, kind, options
        if kind == "conv":
            stride, padding, kernel = options.get("s", 1), options.get("p", 0), options["k"]
            shape = (options[""], *((size + 2 * padding - kernel) // stride + 1 for size in shape[1:]))
        elif kind == "pool":
            shape = (shape[0], *(size // int(options) for size in shape[1:]))
        elif kind == "flatten":
            shape = (math.prod(shape),)
        elif kind == "fc":
            shape = (int(options),)


def build(text, library):
    """The net as a list of layers of ``torch.nn`` or ``cnet.layers``, which share names and arguments."""
    layers = []
    for shape, kind, options in shapes(text):
        if kind == "conv":
            named = {"stride": options.get("s", 1), "padding": options.get("p", 0), "groups": options.get("g", 1)}
            layers.append(library.Conv2d(shape[0], options[""], options["k"], **named))
        elif kind == "fc":
            layers.append(library.Linear(shape[0], int(options)))
        elif kind == "pool":
            layers.append(library.MaxPool2d(int(options)))
        elif kind == "drop":
            layers.append(library.Dropout(options))
        elif kind == "bn":
            layers.append((library.BatchNorm2d if len(shape) == 3 else library.BatchNorm1d)(shape[0]))
        else:
            names = {"relu": "ReLU", "prelu": "PReLU", "flatten": "Flatten"}
            layers.append(getattr(library, names[kind])())
    return layers
