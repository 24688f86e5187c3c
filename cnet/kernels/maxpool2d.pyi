import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]
Pair = tuple[int, int]

class MaxPool2d:
    height: int
    width: int
    out_height: int
    out_width: int
    def __init__(
        self,
        height: int,
        width: int,
        kernel: Pair,
        stride: Pair,
        padding: Pair,
        dilation: Pair,
        out_height: int,
        out_width: int,
    ) -> None: ...
    def forward(self, x: Float32Array, y: Float32Array, index: NDArray[np.uint16] | None, threads: int) -> None: ...
    def backward(self, dy: Float32Array, index: NDArray[np.uint16], dx: Float32Array, threads: int) -> None: ...
