"""Nets and layers as short texts, and what each library makes of them.

A text names the input, without the batch, and then the layers: ``1x28x28 c32k3p1 relu pool2 flatten fc10``. A *spec*
is a text with the batch in front of the input, ``64x1x28x28 c32k3p1``. Layers are

=====================  ===============================================================================================
``cOUTkKsSpPdDgG``     convolution, OUT channels, kernel K; stride S, padding P, dilation D and groups G may be left out
``poolKsSpP``          max-pooling with kernel K; stride S (else K) and padding P may be left out
``fcOUT``              fully connected
``relu leaky prelu``   activations
``bn dropP flatten``   batch normalisation, dropout with probability P, flatten
=====================  ===============================================================================================

K, S, P and D may be pairs, vertical first: ``c16k3x5p1x2``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

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

Shape = tuple[int, ...]
Pair = tuple[int, int]
Number = int | float | Pair

# The kinds that a size follows, with the options that may follow it; and those without a size, with their classes.
SIZED = {"c": "kspdg", "pool": "sp", "fc": "", "drop": ""}
BARE = {"relu": "ReLU", "leaky": "LeakyReLU", "prelu": "PReLU", "flatten": "Flatten", "bn": "BatchNorm2d"}

_VALUE = r"\d*\.\d+|\d+(?:x\d+)?"
_WORD = re.compile(rf"([a-z]+)({_VALUE})?((?:[a-z](?:{_VALUE}))*)")


class Layer(NamedTuple):
    """One word of a text."""

    kind: str
    size: Number | None
    options: dict[str, Number]

    def pair(self, option: str, default: Number) -> Pair:
        """An option as ``(vertical, horizontal)``."""
        value = self.options.get(option, default)
        return value if isinstance(value, tuple) else (value, value)

    @property
    def groups(self) -> int:
        return self.options.get("g", 1)

    def windows(self) -> tuple[Pair, Pair, Pair, Pair]:
        """Kernel, stride, padding and dilation of a convolution or a pooling."""
        kernel = self.pair("k", self.size)
        return kernel, self.pair("s", kernel if self.kind == "pool" else 1), self.pair("p", 0), self.pair("d", 1)


def parse(text: str) -> tuple[Shape, list[Layer]]:
    """The shape of a sample, and the layers."""
    first, *words = text.split()
    if not re.fullmatch(r"\d+(x\d+)*", first):
        raise ValueError(f"{text!r} begins with {first!r}, expected the shape of a sample, such as 1x28x28")
    return tuple(int(size) for size in first.split("x")), [_parse_word(word) for word in words]


def _parse_word(word: str) -> Layer:
    match = _WORD.fullmatch(word)
    kind, size, options = match.groups() if match else ("", None, "")
    found = {key: _parse_value(value) for key, value in re.findall(rf"([a-z])({_VALUE})", options)}
    known = kind in (SIZED if size else BARE) and set(found) <= set(SIZED.get(kind, ""))
    if not known or (kind == "c" and "k" not in found):
        kinds = ", ".join([*SIZED, *BARE])
        raise ValueError(f"{word!r} is no layer, expected one of {kinds}, with numbers as in c32k3p1 or pool2")
    return Layer(kind, None if size is None else _parse_value(size), found)


def _parse_value(text: str) -> Number:
    if "x" in text:
        high, wide = text.split("x")
        return int(high), int(wide)
    return float(text) if "." in text else int(text)


def write(shape: Shape, layers: list[Layer]) -> str:
    """The text that ``parse`` reads so."""
    return " ".join(["x".join(map(str, shape)), *map(_write_word, layers)])


def _write_word(layer: Layer) -> str:
    return "".join(key + _write_value(value) for key, value in [(layer.kind, layer.size), *layer.options.items()])


def _write_value(value: Number | None) -> str:
    if value is None:
        return ""
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def split_batch(spec: str) -> tuple[int, str]:
    """``(64, "1x28x28 c32k3")`` of ``"64x1x28x28 c32k3"``."""
    batch, separator, text = spec.partition("x")
    if not separator or not batch.isdecimal():
        raise ValueError(f"{spec!r} has no batch in front of the shape of a sample, such as 64x1x28x28")
    return int(batch), text


def output_shape(shape: Shape, layer: Layer) -> Shape:
    """The shape of a sample after a layer."""
    if layer.kind in ("c", "pool"):
        sides = [
            (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, stride, padding, dilation in zip(shape[1:], *layer.windows(), strict=True)
        ]
        return (layer.size if layer.kind == "c" else shape[0], *sides)
    if layer.kind == "fc":
        return (layer.size,)
    return (math.prod(shape),) if layer.kind == "flatten" else shape


def walk(text: str) -> Iterator[tuple[Shape, Layer]]:
    """Each layer with the shape of a sample before it."""
    shape, layers = parse(text)
    for layer in layers:
        yield shape, layer
        shape = output_shape(shape, layer)


def count_weights(shape: Shape, layer: Layer) -> int:
    """Weights of a layer, biases left out."""
    if layer.kind == "c":
        return layer.size * shape[0] // layer.groups * math.prod(layer.pair("k", 1))
    return shape[0] * layer.size if layer.kind == "fc" else 0


def count_flops(shape: Shape, layer: Layer) -> int:
    """Floating-point operations of the forward pass of a sample: two for a multiply-add, one for anything else."""
    if layer.kind == "c":
        return 2 * count_weights(shape, layer) * math.prod(output_shape(shape, layer)[1:])
    if layer.kind == "fc":
        return 2 * count_weights(shape, layer)
    taps = math.prod(layer.windows()[0]) if layer.kind == "pool" else 1
    return taps * math.prod(output_shape(shape, layer))


def build(text: str, library: Any) -> list[Any]:
    """The net as a list of layers of ``torch.nn`` or ``cnet.layers``, which share names and arguments."""
    return [_build_layer(shape, layer, library) for shape, layer in walk(text)]


def _build_layer(shape: Shape, layer: Layer, library: Any) -> Any:
    if layer.kind == "c":
        kernel, stride, padding, dilation = layer.windows()
        named = {"stride": stride, "padding": padding, "dilation": dilation, "groups": layer.groups}
        return library.Conv2d(shape[0], layer.size, kernel, **named)
    if layer.kind == "pool":
        kernel, stride, padding, _ = layer.windows()
        return library.MaxPool2d(kernel, stride, padding)
    if layer.kind == "fc":
        return library.Linear(shape[0], layer.size)
    if layer.kind == "drop":
        return library.Dropout(layer.size)
    if layer.kind == "bn":
        return (library.BatchNorm2d if len(shape) == 3 else library.BatchNorm1d)(shape[0])
    return getattr(library, BARE[layer.kind])()
