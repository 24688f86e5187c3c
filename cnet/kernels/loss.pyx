"""Softmax and cross-entropy, split over groups of rows; the mean is summed in float64 in the order of the rows."""

from cython.parallel cimport prange
from libc.stdint cimport int64_t

from cnet.kernels._dispatch cimport cn_table, table, team

cdef enum:
    # Rows of a work item, and the cost of an element in multiply-adds: that of an exponential.
    ROWS = 32
    COST = 32


def softmax_forward(const float[:, ::1] x not None, float[:, ::1] y not None, int threads):
    """``y = softmax(x)`` over each row."""
    cdef const cn_table* c = table()
    cdef Py_ssize_t rows = x.shape[0], classes = x.shape[1], items = (rows + ROWS - 1) // ROWS, item
    assert y.shape[0] == rows and y.shape[1] == classes
    if rows == 0 or classes == 0:
        return
    cdef int count = team(items, rows * classes * COST, threads)
    for item in prange(items, nogil=True, schedule="static", num_threads=count):
        c.softmax_f32(min(<Py_ssize_t>ROWS, rows - item * ROWS), classes, &x[item * ROWS, 0], &y[item * ROWS, 0])


def softmax_backward(
    const float[:, ::1] y not None, const float[:, ::1] dy not None, float[:, ::1] dx not None, int threads
):
    """``dx = y * (dy - sum(dy * y))`` over each row, with ``y`` the output of the forward pass."""
    cdef const cn_table* c = table()
    cdef Py_ssize_t rows = y.shape[0], classes = y.shape[1], items = (rows + ROWS - 1) // ROWS, item
    assert dy.shape[0] == rows and dy.shape[1] == classes and dx.shape[0] == rows and dx.shape[1] == classes
    if rows == 0 or classes == 0:
        return
    cdef int count = team(items, rows * classes * COST, threads)
    for item in prange(items, nogil=True, schedule="static", num_threads=count):
        c.softmax_grad_f32(
            min(<Py_ssize_t>ROWS, rows - item * ROWS), classes, &y[item * ROWS, 0], &dy[item * ROWS, 0],
            &dx[item * ROWS, 0])


def cross_entropy(
    const float[:, ::1] x not None,
    const int64_t[::1] labels,
    const float[:, ::1] targets,
    bint from_logits,
    double scale,
    float[:, ::1] dx not None,
    double[::1] losses not None,
    int threads,
):
    """The sum of all rows' cross-entropies times ``scale``, and its gradient over ``dx``.

    ``x`` holds scores, or probabilities where ``from_logits`` is false. The truth is ``labels`` or ``targets``, rows of
    probabilities; the other is None. ``losses`` takes each row's own, and may be longer. Returns None, having done
    nothing, where a label is outside ``[0, classes)``: they are checked here, where that costs next to nothing.
    """
    cdef const cn_table* c = table()
    cdef Py_ssize_t rows = x.shape[0], classes = x.shape[1], items = (rows + ROWS - 1) // ROWS, item, first, count
    cdef const int64_t* label = NULL
    cdef const float* target = NULL
    cdef double total = 0
    cdef bint outside = False
    assert (labels is None) != (targets is None) and losses.shape[0] >= rows
    assert dx.shape[0] == rows and dx.shape[1] == classes
    assert labels is None or labels.shape[0] == rows
    assert targets is None or (targets.shape[0] == rows and targets.shape[1] == classes)
    if rows == 0 or classes == 0:
        return 0.0
    if labels is not None:
        label = &labels[0]
        for item in range(rows):
            outside |= label[item] < 0 or label[item] >= classes
        if outside:
            return None
    else:
        target = &targets[0, 0]
    cdef int team_size = team(items, rows * classes * COST, threads)
    for item in prange(items, nogil=True, schedule="static", num_threads=team_size):
        first = item * ROWS
        count = min(<Py_ssize_t>ROWS, rows - first)
        if from_logits:
            c.softmax_cross_entropy_f32(
                count, classes, &x[first, 0], label + first if label is not NULL else NULL,
                target + first * classes if target is not NULL else NULL, <float>scale, &dx[first, 0], &losses[first])
        else:
            c.cross_entropy_f32(
                count, classes, &x[first, 0], label + first if label is not NULL else NULL,
                target + first * classes if target is not NULL else NULL, <float>scale, &dx[first, 0], &losses[first])
    for item in range(rows):
        total += losses[item]
    return total * scale


def count_hits(const float[:, ::1] x not None, const int64_t[::1] labels not None):
    """How many rows of ``x`` have their largest element, the first one of several or the first NaN, at the label."""
    cdef Py_ssize_t hits = 0
    assert labels.shape[0] == x.shape[0]
    if x.shape[0] and x.shape[1]:
        table().count_hits_f32(x.shape[0], x.shape[1], &x[0, 0], &labels[0], &hits)
    return hits
