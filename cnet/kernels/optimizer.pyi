import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]

def sgd_step(
    weight: Float32Array,
    gradient: Float32Array,
    buffer: Float32Array | None,
    lr: float,
    momentum: float,
    dampening: float,
    nesterov: bool,
    weight_decay: float,
    maximize: bool,
    first: bool,
    threads: int,
) -> None: ...
