"""The table that ``model.summary()`` returns."""

from __future__ import annotations

from cnet import _check
from cnet.layers.base import Layer, Shape

_HEADER = ("layer", "type", "output shape", "parameters", "FLOPs")


def summarise(layer: Layer, input_shape: Shape | None = None) -> str:
    """Describe a layer and all inside it, one a line.

    Parameters
    ----------
    layer : Layer
        Usually a whole model.
    input_shape : tuple of int, optional
        Shape of one sample, such as ``(1, 28, 28)``; default the one the layer was last built for.

    Returns
    -------
    str
        Name, type, output shape (``N`` samples), parameters and forward FLOPs of one sample of each layer, and totals.

    Raises
    ------
    RuntimeError
        If the layer has not been built and no shape is given.
    ValueError
        If the layer cannot take inputs of this shape.

    Notes
    -----
    A layer that is not built is built for this shape. FLOPs count a multiply-add as two.

    Examples
    --------
    >>> from cnet import layers
    >>> print(layers.Sequential(layers.Flatten(), layers.Linear(None, 10)).summary((1, 28, 28)))
    layer  type     output shape  parameters   FLOPs
    ------------------------------------------------
    0      Flatten  (N, 784)               0       0
    1      Linear   (N, 10)            7,850  15,690
    ------------------------------------------------
    total                              7,850  15,690
    """
    shape = input_shape if input_shape is not None else layer._input_shape
    if shape is None:
        raise RuntimeError(
            _check.message(type(layer).__name__, "summary of a layer that is not built", remedy="Pass input_shape.")
        )
    if shape != layer._input_shape:
        layer.build(shape)
    rows = [_row(name, part) for name, part in layer.named_layers() if not part.children()]
    total = ("total", "", "", f"{layer.count_parameters():,}", f"{layer.flops(tuple(shape)):,}")
    table = [_HEADER, *rows, total]
    widths = [max(len(row[column]) for row in table) for column in range(len(_HEADER))]
    lines = [
        "  ".join(
            text.ljust(width) if column < 3 else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in table
    ]
    rule = "-" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


def _row(name: str, layer: Layer) -> tuple[str, str, str, str, str]:
    shape = layer._input_shape
    if shape is None:
        # A branch that its container does not run has met no shape.
        return name, type(layer).__name__, "", "0", "0"
    output = "(" + ", ".join(["N", *map(str, layer.output_shape(shape))]) + ")"
    return name, type(layer).__name__, output, f"{layer.count_parameters():,}", f"{layer.flops(shape):,}"
