import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]

def dropout_forward(
    x: Float32Array, y: Float32Array, seed: int, call: int, probability: float, threads: int
) -> None: ...
def dropout_backward(
    dy: Float32Array, dx: Float32Array, seed: int, call: int, probability: float, threads: int
) -> None: ...
def philox(counter: NDArray[np.uint32], key: NDArray[np.uint32]) -> tuple[int, int, int, int]: ...
