"""Dense layer: ``y = x w + bias`` and its gradients, split over panels of columns and groups of rows.

Every element of an output is summed by one thread, in one order, so the number of threads cannot change a bit.
"""

from cython.parallel cimport prange

from cnet.kernels._dispatch cimport cn_table, table, team

cdef enum:
    # Rows that share a packed block of weights: packing is then a twentieth of the work.
    MOST_ROWS = 64
    # Where there are few panels of columns, smaller groups of rows make up for it, down to two tiles of rows.
    LEAST_ROWS = 28
    ITEMS = 4


cdef inline Py_ssize_t row_groups(Py_ssize_t samples, Py_ssize_t panels) noexcept nogil:
    cdef Py_ssize_t fewest = (samples + MOST_ROWS - 1) // MOST_ROWS, most = (samples + LEAST_ROWS - 1) // LEAST_ROWS
    return max(fewest, min(most, (ITEMS + panels - 1) // panels))


def forward(
    const float[:, ::1] x not None,
    const float[:, ::1] weight not None,
    const float[::1] bias,
    float[:, ::1] y not None,
    int threads,
):
    """``y[n, o] = bias[o] + sum_i x[n, i] weight[i, o]``; ``bias`` may be None."""
    cdef const cn_table* c = table()
    cdef Py_ssize_t samples = x.shape[0], inputs = x.shape[1], outputs = weight.shape[1], panel = c.tile_columns
    cdef Py_ssize_t panels = (outputs + panel - 1) // panel, groups = row_groups(samples, max(1, panels))
    cdef Py_ssize_t item, first, last, column
    cdef const float* b = &bias[0] if bias is not None and outputs else NULL
    assert weight.shape[0] == inputs and y.shape[0] == samples and y.shape[1] == outputs
    assert bias is None or bias.shape[0] == outputs
    if samples == 0 or outputs == 0:
        return
    cdef int count = team(panels * groups, samples * inputs * outputs, threads)
    for item in prange(panels * groups, nogil=True, schedule="static", num_threads=count):
        column = item // groups * panel
        first = samples * (item % groups) // groups
        last = samples * (item % groups + 1) // groups
        c.dense_forward_f32(
            last - first, min(panel, outputs - column), inputs, &x[first, 0], inputs, &weight[0, column], outputs,
            b + column if b is not NULL else NULL, &y[first, column], outputs,
        )


def input_grad(
    const float[:, ::1] dy not None,
    const float[:, ::1] weight not None,
    float[:, ::1] dx not None,
    int threads,
):
    """``dx[n, i] = sum_o dy[n, o] weight[i, o]``."""
    cdef const cn_table* c = table()
    cdef Py_ssize_t samples = dy.shape[0], inputs = weight.shape[0], outputs = dy.shape[1], panel = c.tile_columns
    cdef Py_ssize_t panels = (inputs + panel - 1) // panel, groups = row_groups(samples, max(1, panels))
    cdef Py_ssize_t item, first, last, column
    assert weight.shape[1] == outputs and dx.shape[0] == samples and dx.shape[1] == inputs
    if samples == 0 or inputs == 0:
        return
    cdef int count = team(panels * groups, samples * inputs * outputs, threads)
    for item in prange(panels * groups, nogil=True, schedule="static", num_threads=count):
        column = item // groups * panel
        first = samples * (item % groups) // groups
        last = samples * (item % groups + 1) // groups
        c.dense_input_grad_f32(
            last - first, min(panel, inputs - column), outputs, &dy[first, 0], outputs, &weight[column, 0], outputs,
            &dx[first, column], inputs,
        )


def weight_grad(
    const float[:, ::1] x not None,
    const float[:, ::1] dy not None,
    float[:, ::1] dweight not None,
    float[::1] dbias,
    int threads,
):
    """``dweight[i, o] += sum_n x[n, i] dy[n, o]`` and ``dbias[o] += sum_n dy[n, o]``; ``dbias`` may be None."""
    cdef const cn_table* c = table()
    cdef Py_ssize_t samples = x.shape[0], inputs = x.shape[1], outputs = dy.shape[1], panel = c.tile_columns
    # Groups of input features, each a few register tiles: every element of dweight belongs to one item.
    cdef Py_ssize_t group = 8 * c.tile_rows, groups = (inputs + group - 1) // group
    cdef Py_ssize_t panels = (outputs + panel - 1) // panel
    cdef Py_ssize_t item, first, last, column
    assert dy.shape[0] == samples and dweight.shape[0] == inputs and dweight.shape[1] == outputs
    assert dbias is None or dbias.shape[0] == outputs
    if samples == 0 or outputs == 0:
        return
    cdef int count = team(panels * groups, samples * inputs * outputs, threads)
    for item in prange(panels * groups, nogil=True, schedule="static", num_threads=count):
        column = item // groups * panel
        first = inputs * (item % groups) // groups
        last = inputs * (item % groups + 1) // groups
        c.dense_weight_grad_f32(
            last - first, min(panel, outputs - column), samples, &x[0, first], inputs, &dy[0, column], outputs,
            &dweight[first, column], outputs,
        )
    if dbias is not None:
        c.column_sum_f32(samples, outputs, &dy[0, 0], outputs, &dbias[0])
