import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]

def workspace(rows: int, channels: int) -> int: ...
def moments(x: Float32Array, mean: Float32Array, variance: Float32Array, work: Float32Array, threads: int) -> None: ...
def forward(
    x: Float32Array,
    mean: Float32Array,
    variance: Float32Array,
    eps: float,
    weight: Float32Array | None,
    bias: Float32Array | None,
    y: Float32Array,
    work: Float32Array,
    threads: int,
) -> None: ...
def backward(
    x: Float32Array,
    dy: Float32Array,
    mean: Float32Array,
    variance: Float32Array,
    eps: float,
    weight: Float32Array | None,
    dx: Float32Array | None,
    dweight: Float32Array | None,
    dbias: Float32Array | None,
    work: Float32Array,
    threads: int,
) -> None: ...
