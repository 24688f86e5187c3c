import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]

def workspace(rows: int, channels: int) -> int: ...
def moments(x: Float32Array, mean: Float32Array, variance: Float32Array, work: Float32Array, threads: int) -> None: ...
def affine(
    variance: Float32Array,
    eps: float,
    weight: Float32Array | None,
    bias: Float32Array | None,
    scale: Float32Array,
    shift: Float32Array,
) -> None: ...
def correction(
    sums: Float64Array,
    rows: int,
    variance: Float32Array,
    eps: float,
    weight: Float32Array | None,
    factor: Float32Array,
    offset: Float32Array,
    dweight: Float32Array | None,
    dbias: Float32Array | None,
) -> None: ...
def forward(
    x: Float32Array, mean: Float32Array, scale: Float32Array, shift: Float32Array, y: Float32Array, threads: int
) -> None: ...
def sums(
    x: Float32Array, dy: Float32Array, mean: Float32Array, sums: Float64Array, work: Float32Array, threads: int
) -> None: ...
def backward(
    x: Float32Array,
    dy: Float32Array,
    mean: Float32Array,
    scale: Float32Array,
    factor: Float32Array,
    offset: Float32Array,
    dx: Float32Array,
    threads: int,
) -> None: ...
