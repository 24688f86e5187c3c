import numpy as np
from numpy.typing import NDArray

from cnet.kernels.epilogue import Epilogue

Float32Array = NDArray[np.float32]
Pair = tuple[int, int]

ALGORITHMS: tuple[str, ...]

class Conv2d:
    in_channels: int
    out_channels: int
    height: int
    width: int
    out_height: int
    out_width: int
    groups: int
    kernel_height: int
    kernel_width: int
    flat: bool
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        height: int,
        width: int,
        kernel: Pair,
        stride: Pair = ...,
        padding: tuple[int, int, int, int] = ...,
        dilation: Pair = ...,
        groups: int = ...,
        algorithm: str = ...,
    ) -> None: ...
    def forward_workspace(self, samples: int, threads: int, epilogue: Epilogue | None = ...) -> int: ...
    def forward(
        self,
        x: Float32Array,
        weight: Float32Array,
        bias: Float32Array | None,
        y: Float32Array,
        workspace: Float32Array,
        threads: int,
        epilogue: Epilogue | None = ...,
        index: NDArray[np.uint8] | None = ...,
        before: Float32Array | None = ...,
    ) -> None: ...
    def input_grad_workspace(self, samples: int, threads: int, epilogue: Epilogue | None = ...) -> int: ...
    def input_grad(
        self,
        dy: Float32Array | None,
        weight: Float32Array,
        dx: Float32Array,
        workspace: Float32Array,
        threads: int,
        epilogue: Epilogue | None = ...,
    ) -> None: ...
    def weight_grad_workspace(self, samples: int, threads: int, epilogue: Epilogue | None = ...) -> int: ...
    def weight_grad(
        self,
        x: Float32Array,
        dy: Float32Array | None,
        dweight: Float32Array,
        dbias: Float32Array | None,
        workspace: Float32Array,
        threads: int,
        epilogue: Epilogue | None = ...,
    ) -> None: ...
