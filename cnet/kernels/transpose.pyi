import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]

def transpose(x: Float32Array, y: Float32Array, threads: int) -> None: ...
