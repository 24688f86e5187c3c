"""Batch normalisation over the rows of ``x[rows, channels]``: statistics, output and gradients.

Sums over rows are formed for fixed chunks of rows and combined in float64 in the order of the chunks, so that they are
accurate for any batch and do not depend on the threads.
"""

from cython.parallel cimport prange
from libc.math cimport sqrt

from cnet.kernels._dispatch cimport cn_table, table, team

cdef enum:
    # Floats of a chunk: half of a 48 KB first-level cache, so that a second pass over the chunk finds it there.
    CHUNK = 6144
    # An element costs its memory traffic, which is that of so many multiply-adds in registers.
    COST = 16


cdef inline Py_ssize_t chunk_rows(Py_ssize_t channels) noexcept nogil:
    return max(<Py_ssize_t>8, CHUNK // channels)


cdef inline Py_ssize_t chunks_of(Py_ssize_t rows, Py_ssize_t channels) noexcept nogil:
    cdef Py_ssize_t size = chunk_rows(channels)
    return (rows + size - 1) // size


def workspace(Py_ssize_t rows, Py_ssize_t channels):
    """Floats of workspace that ``moments`` and ``sums`` need."""
    return 2 * channels * chunks_of(rows, channels)


def moments(
    const float[:, ::1] x not None, float[::1] mean not None, float[::1] variance not None,
    float[::1] work not None, int threads,
):
    """Mean and biased variance of each channel."""
    cdef const cn_table* c = table()
    cdef Py_ssize_t rows = x.shape[0], channels = x.shape[1], size = chunk_rows(channels)
    cdef Py_ssize_t chunks = chunks_of(rows, channels), item
    assert rows > 0 and mean.shape[0] == channels and variance.shape[0] == channels
    assert work.shape[0] >= workspace(rows, channels)
    cdef float* part = &work[0]
    cdef int team_size = team(chunks, rows * channels * COST, threads)
    for item in prange(chunks, nogil=True, schedule="static", num_threads=team_size):
        c.moments_f32(
            min(size, rows - item * size), channels, &x[item * size, 0], part + 2 * item * channels,
            part + (2 * item + 1) * channels)
    c.combine_moments_f32(rows, size, channels, part, &mean[0], &variance[0])


def affine(
    const float[::1] variance not None, double eps, const float[::1] weight, const float[::1] bias,
    float[::1] scale not None, float[::1] shift not None,
):
    """``scale = weight / sqrt(variance + eps)`` and ``shift = bias``; ``weight`` and ``bias`` may be None."""
    cdef Py_ssize_t channels = variance.shape[0], channel
    assert scale.shape[0] == channels and shift.shape[0] == channels
    assert (weight is None or weight.shape[0] == channels) and (bias is None or bias.shape[0] == channels)
    for channel in range(channels):
        scale[channel] = <float>((weight[channel] if weight is not None else 1.0) / sqrt(variance[channel] + eps))
        shift[channel] = bias[channel] if bias is not None else 0


def correction(
    const double[:, ::1] sums not None, Py_ssize_t rows, const float[::1] variance not None, double eps,
    const float[::1] weight, float[::1] factor not None, float[::1] offset not None, float[::1] dweight,
    float[::1] dbias,
):
    """What the statistics take back from a gradient ``g``: ``dx = g * scale - ((x - mean) * factor + offset)``.

    ``sums[0]`` is the sum of ``g`` over ``rows`` rows and ``sums[1]`` that of ``g * (x - mean)``. ``dweight`` and
    ``dbias`` grow by their gradients; either may be None.
    """
    cdef Py_ssize_t channels = variance.shape[0], channel
    cdef double inverse, gain
    assert rows > 0 and sums.shape[0] >= 2 and sums.shape[1] == channels
    assert factor.shape[0] == channels and offset.shape[0] == channels
    assert weight is None or weight.shape[0] == channels
    assert dweight is None or dweight.shape[0] == channels
    assert dbias is None or dbias.shape[0] == channels
    for channel in range(channels):
        inverse = 1 / sqrt(variance[channel] + eps)
        gain = inverse * (weight[channel] if weight is not None else 1.0)
        factor[channel] = <float>(gain * inverse * inverse * sums[1, channel] / rows)
        offset[channel] = <float>(gain * sums[0, channel] / rows)
        if dweight is not None:
            dweight[channel] += <float>(sums[1, channel] * inverse)
        if dbias is not None:
            dbias[channel] += <float>sums[0, channel]


def forward(
    const float[:, ::1] x not None, const float[::1] mean not None, const float[::1] scale not None,
    const float[::1] shift not None, float[:, ::1] y not None, int threads,
):
    """``y = (x - mean) * scale + shift``."""
    cdef const cn_table* c = table()
    cdef Py_ssize_t rows = x.shape[0], channels = x.shape[1], size = chunk_rows(channels)
    cdef Py_ssize_t chunks = chunks_of(rows, channels), item
    assert y.shape[0] == rows and y.shape[1] == channels
    assert mean.shape[0] == channels and scale.shape[0] == channels and shift.shape[0] == channels
    if rows == 0:
        return
    cdef int team_size = team(chunks, rows * channels * COST, threads)
    for item in prange(chunks, nogil=True, schedule="static", num_threads=team_size):
        c.normalise_f32(
            min(size, rows - item * size), channels, &x[item * size, 0], &mean[0], &scale[0], &shift[0],
            &y[item * size, 0])


def sums(
    const float[:, ::1] x not None, const float[:, ::1] dy not None, const float[::1] mean not None,
    double[:, ::1] sums not None, float[::1] work not None, int threads,
):
    """``sums[0]`` = the sum of ``dy`` over rows, ``sums[1]`` = that of ``dy * (x - mean)``."""
    cdef const cn_table* c = table()
    cdef Py_ssize_t rows = x.shape[0], channels = x.shape[1], size = chunk_rows(channels)
    cdef Py_ssize_t chunks = chunks_of(rows, channels), item, channel
    cdef double total, slope
    assert rows > 0 and dy.shape[0] == rows and dy.shape[1] == channels and mean.shape[0] == channels
    assert sums.shape[0] >= 2 and sums.shape[1] == channels and work.shape[0] >= workspace(rows, channels)
    cdef float* part = &work[0]
    cdef int team_size = team(chunks, rows * channels * COST, threads)
    for item in prange(chunks, nogil=True, schedule="static", num_threads=team_size):
        c.normalise_sums_f32(
            min(size, rows - item * size), channels, &x[item * size, 0], &dy[item * size, 0], &mean[0],
            part + 2 * item * channels, part + (2 * item + 1) * channels)
    for channel in range(channels):
        total = slope = 0
        for item in range(chunks):
            total += part[2 * item * channels + channel]
            slope += part[(2 * item + 1) * channels + channel]
        sums[0, channel] = total
        sums[1, channel] = slope


def backward(
    const float[:, ::1] x not None, const float[:, ::1] dy not None, const float[::1] mean not None,
    const float[::1] scale not None, const float[::1] factor not None, const float[::1] offset not None,
    float[:, ::1] dx not None, int threads,
):
    """``dx = dy * scale - ((x - mean) * factor + offset)``; see ``correction``."""
    cdef const cn_table* c = table()
    cdef Py_ssize_t rows = x.shape[0], channels = x.shape[1], size = chunk_rows(channels)
    cdef Py_ssize_t chunks = chunks_of(rows, channels), item
    assert rows > 0 and dy.shape[0] == rows and dy.shape[1] == channels
    assert dx.shape[0] == rows and dx.shape[1] == channels and mean.shape[0] == channels
    assert scale.shape[0] == channels and factor.shape[0] == channels and offset.shape[0] == channels
    cdef int team_size = team(chunks, rows * channels * COST, threads)
    for item in prange(chunks, nogil=True, schedule="static", num_threads=team_size):
        c.normalise_grad_f32(
            min(size, rows - item * size), channels, &x[item * size, 0], &dy[item * size, 0], &mean[0], &scale[0],
            &factor[0], &offset[0], &dx[item * size, 0])
