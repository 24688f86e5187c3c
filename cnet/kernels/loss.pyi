import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]

def softmax_forward(x: Float32Array, y: Float32Array, threads: int) -> None: ...
def softmax_backward(y: Float32Array, dy: Float32Array, dx: Float32Array, threads: int) -> None: ...
def cross_entropy(
    x: Float32Array,
    labels: NDArray[np.int64] | None,
    targets: Float32Array | None,
    from_logits: bool,
    scale: float,
    dx: Float32Array,
    losses: NDArray[np.float64],
    threads: int,
) -> float | None: ...
def count_hits(x: Float32Array, labels: NDArray[np.int64]) -> int: ...
