"""ReLU, LeakyReLU and PReLU, split over fixed chunks of the array.

Elementwise results have one owner and one formula, so any partition gives the same bits. The gradient of PReLU's slopes
is a sum over all rows: each chunk of rows writes partial sums of its own, and they are added up in order.
"""

from cython.parallel cimport prange

from cnet.kernels._dispatch cimport cn_table, table, team

cdef enum:
    # Elements of a work item: a microsecond of work, and a stretch long enough for the prefetcher.
    CHUNK = 4096
    # An element costs its memory traffic, which is that of so many multiply-adds in registers.
    COST = 16
    # Rows of partial sums: enough for many threads, few enough that adding them up is nothing.
    MOST_PARTS = 64


cdef inline Py_ssize_t chunks_of(Py_ssize_t size) noexcept nogil:
    return (size + CHUNK - 1) // CHUNK


cdef inline Py_ssize_t parts_of(Py_ssize_t rows, Py_ssize_t channels) noexcept nogil:
    # Four chunks a part: a part also zeroes and stores a row of sums.
    return max(1, min(rows, min(<Py_ssize_t>MOST_PARTS, chunks_of(rows * channels) // 4)))


def relu_forward(const float[::1] x not None, float[::1] y not None, int threads):
    """``y = 0 where x <= 0, else x``; NaN stays NaN."""
    cdef const cn_table* c = table()
    cdef Py_ssize_t size = x.shape[0], items = chunks_of(size), item
    assert y.shape[0] == size
    if size == 0:
        return
    cdef int count = team(items, size * COST, threads)
    for item in prange(items, nogil=True, schedule="static", num_threads=count):
        c.relu_f32(min(<Py_ssize_t>CHUNK, size - item * CHUNK), &x[item * CHUNK], &y[item * CHUNK])


def relu_backward(const float[::1] x not None, const float[::1] dy not None, float[::1] dx not None, int threads):
    """``dx = 0 where x <= 0, else dy``; ``x`` is the input or the output of the forward pass."""
    cdef const cn_table* c = table()
    cdef Py_ssize_t size = x.shape[0], items = chunks_of(size), item
    assert dy.shape[0] == size and dx.shape[0] == size
    if size == 0:
        return
    cdef int count = team(items, size * COST, threads)
    for item in prange(items, nogil=True, schedule="static", num_threads=count):
        c.relu_grad_f32(
            min(<Py_ssize_t>CHUNK, size - item * CHUNK), &x[item * CHUNK], &dy[item * CHUNK], &dx[item * CHUNK]
        )


def leaky_relu_forward(const float[::1] x not None, float slope, float[::1] y not None, int threads):
    """``y = x where x > 0, else slope * x``."""
    cdef const cn_table* c = table()
    cdef Py_ssize_t size = x.shape[0], items = chunks_of(size), item
    assert y.shape[0] == size
    if size == 0:
        return
    cdef int count = team(items, size * COST, threads)
    for item in prange(items, nogil=True, schedule="static", num_threads=count):
        c.leaky_relu_f32(min(<Py_ssize_t>CHUNK, size - item * CHUNK), slope, &x[item * CHUNK], &y[item * CHUNK])


def leaky_relu_backward(
    const float[::1] x not None, float slope, const float[::1] dy not None, float[::1] dx not None, int threads
):
    """``dx = dy where x > 0, else slope * dy``: the derivative at 0 is the slope."""
    cdef const cn_table* c = table()
    cdef Py_ssize_t size = x.shape[0], items = chunks_of(size), item
    assert dy.shape[0] == size and dx.shape[0] == size
    if size == 0:
        return
    cdef int count = team(items, size * COST, threads)
    for item in prange(items, nogil=True, schedule="static", num_threads=count):
        c.leaky_relu_grad_f32(
            min(<Py_ssize_t>CHUNK, size - item * CHUNK), slope, &x[item * CHUNK], &dy[item * CHUNK], &dx[item * CHUNK]
        )


def prelu_forward(
    const float[:, ::1] x not None, const float[::1] slope not None, float[:, ::1] y not None, int threads
):
    """``y[r, c] = x[r, c] where x[r, c] > 0, else slope[c] * x[r, c]``; one slope serves all channels."""
    cdef const cn_table* c = table()
    cdef Py_ssize_t size = x.shape[0] * x.shape[1], channels = slope.shape[0], rows, items, item, first, last
    assert y.shape[0] == x.shape[0] and y.shape[1] == x.shape[1]
    assert channels == x.shape[1] or channels == 1
    if size == 0:
        return
    rows = size // channels
    items = min(rows, chunks_of(size))
    cdef const float* source = &x[0, 0]
    cdef float* target = &y[0, 0]
    cdef int count = team(items, size * COST, threads)
    for item in prange(items, nogil=True, schedule="static", num_threads=count):
        first = rows * item // items
        last = rows * (item + 1) // items
        if channels == 1:
            c.leaky_relu_f32(last - first, slope[0], source + first, target + first)
        else:
            c.prelu_f32(last - first, channels, &slope[0], source + first * channels, target + first * channels)


def prelu_workspace(Py_ssize_t rows, Py_ssize_t channels, Py_ssize_t slopes):
    """Floats of workspace that ``prelu_backward`` needs for ``x[rows, channels]`` and so many slopes."""
    if rows * channels == 0 or slopes == 0:
        return 0
    return slopes * parts_of(rows * channels // slopes, slopes)


def prelu_backward(
    const float[:, ::1] x not None,
    const float[::1] slope not None,
    const float[:, ::1] dy not None,
    float[:, ::1] dx,
    float[::1] dslope not None,
    float[::1] workspace not None,
    int threads,
):
    """``dx = dy where x > 0, else slope * dy``, and ``dslope[c] += sum_r x[r, c] dy[r, c] where x[r, c] <= 0``.

    ``dx`` may be None. ``workspace`` holds at least ``prelu_workspace(...)`` floats, whose contents do not matter.
    """
    cdef const cn_table* c = table()
    cdef Py_ssize_t size = x.shape[0] * x.shape[1], channels = slope.shape[0], rows, items, item, first, last
    assert dy.shape[0] == x.shape[0] and dy.shape[1] == x.shape[1]
    assert dx is None or (dx.shape[0] == x.shape[0] and dx.shape[1] == x.shape[1])
    assert channels == x.shape[1] or channels == 1
    assert dslope.shape[0] == channels
    if size == 0:
        return
    rows = size // channels
    items = parts_of(rows, channels)
    assert workspace.shape[0] >= items * channels
    cdef const float* source = &x[0, 0]
    cdef const float* above = &dy[0, 0]
    cdef float* below = &dx[0, 0] if dx is not None else NULL
    cdef int count = team(items, size * COST, threads)
    for item in prange(items, nogil=True, schedule="static", num_threads=count):
        first = rows * item // items
        last = rows * (item + 1) // items
        c.prelu_grad_f32(
            last - first, channels, &slope[0], source + first * channels, above + first * channels,
            below + first * channels if below is not NULL else NULL, &workspace[item * channels],
        )
    c.add_parts_f32(items, channels, &workspace[0], channels, &dslope[0])
