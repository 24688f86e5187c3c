import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]
Uint8Array = NDArray[np.uint8]

class Epilogue:
    height: int
    width: int
    channels: int
    out_height: int
    out_width: int
    def __init__(
        self, height: int, width: int, channels: int, activation: str, pool: tuple[int, int] = ...
    ) -> None: ...
    def bind(
        self,
        slope: Float32Array | None,
        mean: Float32Array | None = ...,
        scale: Float32Array | None = ...,
        shift: Float32Array | None = ...,
    ) -> None: ...
    def forward(
        self,
        x: Float32Array,
        y: Float32Array,
        index: Uint8Array | None,
        before: Float32Array | None,
        threads: int,
    ) -> None: ...
    def workspace(self, samples: int) -> int: ...
    def sums(
        self,
        dy: Float32Array,
        x: Float32Array | None,
        sums: Float64Array,
        workspace: Float32Array,
        threads: int,
    ) -> None: ...
    def bind_gradient(
        self,
        dy: Float32Array,
        value: Float32Array | None,
        index: Uint8Array | None,
        raw: Float32Array | None = ...,
        factor: Float32Array | None = ...,
        offset: Float32Array | None = ...,
    ) -> None: ...
    def release(self) -> None: ...
