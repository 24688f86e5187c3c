import numpy as np
from numpy.typing import NDArray

from cnet.kernels.epilogue import Epilogue

Float32Array = NDArray[np.float32]

class Dense:
    weight: Float32Array
    bias: Float32Array | None
    def __init__(
        self, weight: Float32Array, bias: Float32Array | None, dweight: Float32Array, dbias: Float32Array | None
    ) -> None: ...
    def forward_workspace(self, samples: int) -> int: ...
    def forward(
        self,
        x: Float32Array,
        y: Float32Array,
        workspace: Float32Array | None,
        threads: int,
        epilogue: Epilogue | None = ...,
        before: Float32Array | None = ...,
    ) -> None: ...
    def backward_workspace(self, samples: int, epilogue: Epilogue | None = ...) -> int: ...
    def backward(
        self,
        x: Float32Array,
        dy: Float32Array | None,
        dx: Float32Array | None,
        workspace: Float32Array | None,
        threads: int,
        epilogue: Epilogue | None = ...,
        anew: bool = ...,
    ) -> None: ...
