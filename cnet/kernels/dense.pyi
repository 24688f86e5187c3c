import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]

def forward(
    x: Float32Array, weight: Float32Array, bias: Float32Array | None, y: Float32Array, threads: int
) -> None: ...
def input_grad(dy: Float32Array, weight: Float32Array, dx: Float32Array, threads: int) -> None: ...
def weight_grad(
    x: Float32Array, dy: Float32Array, dweight: Float32Array, dbias: Float32Array | None, threads: int
) -> None: ...
