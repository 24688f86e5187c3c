import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]

class Dense:
    weight: Float32Array
    bias: Float32Array | None
    def __init__(
        self, weight: Float32Array, bias: Float32Array | None, dweight: Float32Array, dbias: Float32Array | None
    ) -> None: ...
    def workspace(self, samples: int) -> int: ...
    def forward(self, x: Float32Array, y: Float32Array, workspace: Float32Array | None, threads: int) -> None: ...
    def backward(self, x: Float32Array, dy: Float32Array, dx: Float32Array | None, threads: int) -> None: ...
