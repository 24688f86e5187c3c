import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]

def arithmetic(rounds: int, threads: int) -> int: ...
def memory(x: Float32Array, y: Float32Array, threads: int) -> int: ...
