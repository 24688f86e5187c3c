"""Optimizer steps over a stretch of the arena, split into fixed chunks; every element has one owner."""

from cython.parallel cimport prange

from cnet.kernels._dispatch cimport cn_table, table, team

cdef enum:
    # Elements of a work item, and what an element costs in multiply-adds: its memory traffic.
    CHUNK = 4096
    COST = 24


def sgd_step(
    float[::1] weight not None, const float[::1] gradient not None, float[::1] buffer, double lr, double momentum,
    double dampening, bint nesterov, double weight_decay, bint maximize, bint first, int threads,
):
    """One step of SGD in place; ``buffer`` is the momentum's, or None where ``momentum`` is 0."""
    cdef const cn_table* c = table()
    cdef Py_ssize_t size = weight.shape[0], items = (size + CHUNK - 1) // CHUNK, item
    assert gradient.shape[0] == size and (buffer is None or buffer.shape[0] == size)
    if size == 0:
        return
    cdef float* state = &buffer[0] if buffer is not None else NULL
    cdef float sign = -1 if maximize else 1
    # At its first step the buffer becomes the gradient, undamped, whatever the buffer holds.
    cdef float carry = 0 if first or state is NULL else <float>momentum
    cdef float keep = 1 if first or state is NULL else <float>(1 - dampening)
    cdef float look_ahead = 1 if nesterov and state is not NULL else 0
    cdef float ahead = <float>momentum if nesterov and state is not NULL else 1
    cdef int count = team(items, size * COST, threads)
    for item in prange(items, nogil=True, schedule="static", num_threads=count):
        c.sgd_f32(
            min(<Py_ssize_t>CHUNK, size - item * CHUNK), &weight[item * CHUNK], &gradient[item * CHUNK],
            state + item * CHUNK if state is not NULL else NULL, <float>lr, sign, <float>weight_decay, carry, keep,
            look_ahead, ahead)
