"""The same bytes on any number of threads, and from run to run."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

import numpy as np
import pytest
from kernel_cases import Array, Guarded, assert_same_bytes, call_in_child, random_array, read_only

from cnet.kernels import _dispatch
from cnet.kernels.conv2d import Conv2d
from cnet.kernels.dense import Dense

THREADS = (1, 2, 3, 5)
# A thread is called in for every so many multiply-adds: each call below has ten times that for each of five threads.
GRAIN = 65536

# Fills an output, for a number of threads.
Pass = Callable[[int], list[Array]]


def dense_passes(name: str, samples: int, inputs: int, outputs: int) -> dict[str, Pass]:
    generator = np.random.default_rng(4)
    assert samples * inputs * outputs > 10 * 5 * GRAIN
    x, weight = random_array(generator, (samples, inputs)), random_array(generator, (inputs, outputs))
    bias, dy = random_array(generator, outputs), random_array(generator, (samples, outputs))
    start, bias_start = random_array(generator, weight.shape), random_array(generator, outputs)
    x, weight, bias, dy = (read_only(array) for array in (x, weight, bias, dy))

    def forward(threads: int) -> list[Array]:
        y, layer = Guarded(dy.shape).array, Dense(weight, bias, start, bias_start)
        layer.forward(x, y, Guarded(layer.forward_workspace(samples)).array, threads)
        return [y]

    def backward(threads: int) -> list[Array]:
        dweight, dbias, dx = Guarded(weight.shape, start), Guarded(outputs, bias_start), Guarded(x.shape)
        Dense(weight, bias, dweight.array, dbias.array).backward(x, dy, dx.array, None, threads)
        return [dweight.array, dbias.array, dx.array]

    return {f"{name}-forward": forward, f"{name}-backward": backward}


def conv2d_passes(name: str, samples: int, conv: Conv2d) -> dict[str, Pass]:
    generator = np.random.default_rng(5)
    x = random_array(generator, (samples, conv.height, conv.width, conv.in_channels))
    weights = conv.kernel_height, conv.kernel_width, conv.in_channels // conv.groups, conv.out_channels
    dy = random_array(generator, (samples, conv.out_height, conv.out_width, conv.out_channels))
    assert dy.size * np.prod(weights[:3]) > 10 * 5 * GRAIN
    weight, bias = random_array(generator, weights), random_array(generator, conv.out_channels)
    start, bias_start = random_array(generator, weights), random_array(generator, conv.out_channels)
    x, weight, bias, dy = (read_only(array) for array in (x, weight, bias, dy))

    def forward(threads: int) -> list[Array]:
        y, workspace = Guarded(dy.shape).array, Guarded(conv.forward_workspace(samples, threads)).array
        conv.forward(x, weight, bias, y, workspace, threads)
        return [y]

    def input_grad(threads: int) -> list[Array]:
        dx, workspace = Guarded(x.shape).array, Guarded(conv.input_grad_workspace(samples, threads)).array
        conv.input_grad(dy, weight, dx, workspace, threads)
        return [dx]

    def weight_grad(threads: int) -> list[Array]:
        dweight, dbias = Guarded(weights, start).array, Guarded(conv.out_channels, bias_start).array
        workspace = Guarded(conv.weight_grad_workspace(samples, threads)).array
        conv.weight_grad(x, dy, dweight, dbias, workspace, threads)
        return [dweight, dbias]

    return {f"{name}-forward": forward, f"{name}-input_grad": input_grad, f"{name}-weight_grad": weight_grad}


same, valid = (1, 1, 1, 1), (0, 0, 0, 0)
PASSES = {
    **dense_passes("dense", 93, 331, 173),
    # Few samples, so that the sum over inputs comes in parts.
    **dense_passes("dense-deep", 31, 901, 130),
    **conv2d_passes("conv2d", 19, Conv2d(21, 37, 13, 14, (3, 3), (1, 1), same)),
    **conv2d_passes("conv2d-one-image", 1, Conv2d(33, 130, 17, 19, (3, 3), (1, 1), same)),
    **conv2d_passes("conv2d-strided", 7, Conv2d(40, 70, 19, 21, (5, 3), (2, 3), (2, 1, 0, 3), (1, 2))),
    **conv2d_passes("conv2d-one-by-one", 17, Conv2d(70, 45, 9, 11, (1, 1), (1, 1), valid)),
    **conv2d_passes("conv2d-groups", 9, Conv2d(48, 66, 15, 16, (3, 3), (1, 1), same, (1, 1), 3)),
    **conv2d_passes("conv2d-depthwise", 23, Conv2d(53, 53, 18, 19, (3, 3), (1, 1), same, (1, 1), 53)),
    # More weights than the weight gradient keeps sixteen partial sums of, and images that share panels of them.
    **conv2d_passes("conv2d-many-weights", 37, Conv2d(128, 130, 3, 4, (3, 3), (1, 1), same)),
}


@pytest.mark.parametrize("name", PASSES)
def test_kernel_gives_the_same_bytes_on_any_number_of_threads(isa: str, name: str) -> None:
    expected = PASSES[name](1)
    assert all(np.isfinite(array).all() for array in expected)
    for threads in THREADS:
        for run in range(3):
            for array, one_thread in zip(PASSES[name](threads), expected, strict=True):
                assert_same_bytes(array, one_thread, f"run {run} on {threads} threads")


def tasks() -> int:
    return len(os.listdir("/proc/self/task"))


def check_threads_start() -> None:
    before = tasks()
    for name, run in PASSES.items():
        run(5)
        assert tasks() - before == 4, f"{name}: five threads were allowed, {tasks() - before} joined the first"
        _dispatch.release_threads()
        # Released threads take a moment to end.
        limit = time.monotonic() + 20
        while tasks() > before and time.monotonic() < limit:
            time.sleep(0.001)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads are counted in /proc")
@pytest.mark.skipif(not _dispatch.has_openmp(), reason="a build without OpenMP has one thread")
def test_kernels_start_the_threads_they_are_given() -> None:
    """Else the test above would compare one thread with itself."""
    call_in_child(__file__, "check_threads_start", OMP_DYNAMIC="false", OMP_THREAD_LIMIT="64")
