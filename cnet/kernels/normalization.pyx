"""Batch normalisation over the rows of ``x[rows, channels]``: statistics, output and gradients.

Sums over rows are formed for fixed chunks of rows and combined in float64 in the order of the chunks, so that they are
accurate for any batch and do not depend on the threads. Of few channels several rows are folded into one, as if each
had channels of its own: vectors are full then.
"""

from cython.parallel cimport prange
from libc.math cimport sqrt
from libc.string cimport memcpy

from cnet.kernels._dispatch cimport cn_table, table, team

cdef enum:
    # Floats of a chunk: half of a 48 KB first-level cache, so that a second pass over the chunk finds it there.
    CHUNK = 6144
    # Floats of a folded row, at most; and folded rows, at least: means of fewer would be rounded too coarsely for the
    # squares between them.
    FOLDED = 64
    LEAST_ROWS = 32
    # An element costs its memory traffic, which is that of so many multiply-adds in registers.
    COST = 16


cdef struct Shape:
    # Of the array; of the array folded; rows that are left over; and folded rows of a chunk, and how many chunks.
    Py_ssize_t rows, channels, folds, folded, width, rest, size, chunks


cdef inline Shape shape_of(Py_ssize_t rows, Py_ssize_t channels) noexcept nogil:
    cdef Shape s
    s.rows, s.channels = rows, channels
    s.folds = max(<Py_ssize_t>1, min(FOLDED // channels, rows // LEAST_ROWS))
    s.folded, s.rest, s.width = rows // s.folds, rows % s.folds, s.folds * channels
    s.size = max(<Py_ssize_t>8, CHUNK // s.width)
    s.chunks = (s.folded + s.size - 1) // s.size
    return s


cdef inline Py_ssize_t items_of(const Shape* s) noexcept nogil:
    """The chunks, and the rows that are left over."""
    return s.chunks + (s.rest > 0)


cdef inline Py_ssize_t item_rows(const Shape* s, Py_ssize_t item) noexcept nogil:
    return min(s.size, s.folded - item * s.size) if item < s.chunks else s.rest


cdef inline Py_ssize_t item_width(const Shape* s, Py_ssize_t item) noexcept nogil:
    return s.width if item < s.chunks else s.channels


cdef inline Py_ssize_t item_start(const Shape* s, Py_ssize_t item) noexcept nogil:
    """The first element of an item."""
    return item * s.size * s.width if item < s.chunks else s.folded * s.width


cdef inline const float* fold(const Shape* s, const float* x, float* wide) noexcept nogil:
    """The numbers of each channel for each of the rows in a folded one, in ``wide`` where there are several."""
    cdef Py_ssize_t i
    if s.folds == 1:
        return x
    for i in range(s.folds):
        memcpy(wide + i * s.channels, x, s.channels * sizeof(float))
    return wide


def workspace(Py_ssize_t rows, Py_ssize_t channels):
    """Floats of workspace that ``moments`` and ``sums`` need."""
    cdef Shape s = shape_of(rows, channels)
    return 2 * s.width * s.chunks + 2 * channels


def moments(
    const float[:, ::1] x not None, float[::1] mean not None, float[::1] variance not None,
    float[::1] work not None, int threads,
):
    """Mean and biased variance of each channel."""
    cdef const cn_table* c = table()
    cdef Shape s = shape_of(x.shape[0], x.shape[1])
    cdef Py_ssize_t item
    assert s.rows > 0 and mean.shape[0] == s.channels and variance.shape[0] == s.channels
    assert work.shape[0] >= workspace(s.rows, s.channels)
    cdef const float* first = &x[0, 0]
    cdef float* parts = &work[0]
    cdef int team_size = team(items_of(&s), s.rows * s.channels * COST, threads)
    for item in prange(items_of(&s), nogil=True, schedule="static", num_threads=team_size):
        c.moments_f32(
            item_rows(&s, item), item_width(&s, item), first + item_start(&s, item), parts + 2 * item * s.width,
            parts + 2 * item * s.width + item_width(&s, item))
    c.combine_moments_f32(s.rows, s.channels, s.folds, s.size, parts, &mean[0], &variance[0])


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
    cdef Shape s = shape_of(x.shape[0], x.shape[1])
    cdef Py_ssize_t item
    cdef float[3 * FOLDED] wide
    assert y.shape[0] == s.rows and y.shape[1] == s.channels
    assert mean.shape[0] == s.channels and scale.shape[0] == s.channels and shift.shape[0] == s.channels
    if s.rows == 0:
        return
    cdef const float* means = fold(&s, &mean[0], wide)
    cdef const float* scales = fold(&s, &scale[0], wide + FOLDED)
    cdef const float* shifts = fold(&s, &shift[0], wide + 2 * FOLDED)
    cdef const float* source = &x[0, 0]
    cdef float* target = &y[0, 0]
    cdef int team_size = team(items_of(&s), s.rows * s.channels * COST, threads)
    for item in prange(items_of(&s), nogil=True, schedule="static", num_threads=team_size):
        c.normalise_f32(
            item_rows(&s, item), item_width(&s, item), source + item_start(&s, item), means, scales, shifts,
            target + item_start(&s, item))


def sums(
    const float[:, ::1] x not None, const float[:, ::1] dy not None, const float[::1] mean not None,
    double[:, ::1] sums not None, float[::1] work not None, int threads,
):
    """``sums[0]`` = the sum of ``dy`` over rows, ``sums[1]`` = that of ``dy * (x - mean)``."""
    cdef const cn_table* c = table()
    cdef Shape s = shape_of(x.shape[0], x.shape[1])
    cdef Py_ssize_t item, width, row, channel
    cdef float[FOLDED] wide
    assert s.rows > 0 and dy.shape[0] == s.rows and dy.shape[1] == s.channels and mean.shape[0] == s.channels
    assert sums.shape[0] >= 2 and sums.shape[1] == s.channels and work.shape[0] >= workspace(s.rows, s.channels)
    cdef const float* means = fold(&s, &mean[0], wide)
    cdef const float* value = &x[0, 0]
    cdef const float* gradient = &dy[0, 0]
    cdef float* parts = &work[0]
    cdef int team_size = team(items_of(&s), s.rows * s.channels * COST, threads)
    for item in prange(items_of(&s), nogil=True, schedule="static", num_threads=team_size):
        c.normalise_sums_f32(
            item_rows(&s, item), item_width(&s, item), value + item_start(&s, item), gradient + item_start(&s, item),
            means, parts + 2 * item * s.width, parts + 2 * item * s.width + item_width(&s, item))
    sums[:2, :] = 0
    for item in range(items_of(&s)):
        width = item_width(&s, item)
        for row in range(width // s.channels):
            for channel in range(s.channels):
                sums[0, channel] += parts[2 * item * s.width + row * s.channels + channel]
                sums[1, channel] += parts[2 * item * s.width + width + row * s.channels + channel]


def backward(
    const float[:, ::1] x not None, const float[:, ::1] dy not None, const float[::1] mean not None,
    const float[::1] scale not None, const float[::1] factor not None, const float[::1] offset not None,
    float[:, ::1] dx not None, int threads,
):
    """``dx = dy * scale - ((x - mean) * factor + offset)``; see ``correction``."""
    cdef const cn_table* c = table()
    cdef Shape s = shape_of(x.shape[0], x.shape[1])
    cdef Py_ssize_t item
    cdef float[4 * FOLDED] wide
    assert s.rows > 0 and dy.shape[0] == s.rows and dy.shape[1] == s.channels
    assert dx.shape[0] == s.rows and dx.shape[1] == s.channels and mean.shape[0] == s.channels
    assert scale.shape[0] == s.channels and factor.shape[0] == s.channels and offset.shape[0] == s.channels
    cdef const float* means = fold(&s, &mean[0], wide)
    cdef const float* scales = fold(&s, &scale[0], wide + FOLDED)
    cdef const float* factors = fold(&s, &factor[0], wide + 2 * FOLDED)
    cdef const float* offsets = fold(&s, &offset[0], wide + 3 * FOLDED)
    cdef const float* value = &x[0, 0]
    cdef const float* gradient = &dy[0, 0]
    cdef float* target = &dx[0, 0]
    cdef int team_size = team(items_of(&s), s.rows * s.channels * COST, threads)
    for item in prange(items_of(&s), nogil=True, schedule="static", num_threads=team_size):
        c.normalise_grad_f32(
            item_rows(&s, item), item_width(&s, item), value + item_start(&s, item), gradient + item_start(&s, item),
            means, scales, factors, offsets, target + item_start(&s, item))
