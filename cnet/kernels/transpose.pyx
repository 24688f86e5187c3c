"""Batched matrix transpose: the conversion between the two orders of an image's axes."""

from cython.parallel cimport prange

from cnet.kernels._dispatch cimport cn_table, table, team

# Rows of x in a work item; a multiple of every vector length, so that only the last item has a ragged edge.
cdef enum:
    ROWS = 64


def transpose(const float[:, :, ::1] x not None, float[:, :, ::1] y not None, int threads):
    """``y[n, j, i] = x[n, i, j]``."""
    cdef const cn_table* c = table()
    cdef Py_ssize_t samples = x.shape[0], rows = x.shape[1], columns = x.shape[2], blocks = (rows + ROWS - 1) // ROWS
    cdef Py_ssize_t item, image, first
    assert y.shape[0] == samples and y.shape[1] == columns and y.shape[2] == rows
    if samples == 0 or rows == 0 or columns == 0:
        return
    # Moving a float costs about as much as eight multiply-adds.
    cdef int count = team(samples * blocks, 8 * samples * rows * columns, threads)
    for item in prange(samples * blocks, nogil=True, schedule="static", num_threads=count):
        image = item // blocks
        first = item % blocks * ROWS
        c.transpose_f32(
            min(<Py_ssize_t>ROWS, rows - first), columns, &x[image, first, 0], columns, &y[image, 0, first], rows)
