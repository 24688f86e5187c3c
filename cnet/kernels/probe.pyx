"""Probes of the machine, for benchmarks: as much arithmetic, and as much memory traffic, as its cores can do."""

from cython.parallel cimport prange

from cnet.kernels._dispatch cimport cn_table, table

cdef enum:
    # Floats between the results of two threads, so that they share no cache line.
    LINE = 16
    MOST_THREADS = 1024


def arithmetic(Py_ssize_t rounds, int threads):
    """Multiply and add in registers, on each thread alike; returns the number of floating-point operations done."""
    cdef const cn_table* c = table()
    cdef float[MOST_THREADS * LINE] results
    cdef int thread
    assert rounds >= 0 and 0 < threads <= MOST_THREADS
    # The factor and the term keep every sum near 1, away from the slow numbers at both ends of the range.
    for thread in prange(threads, nogil=True, schedule="static", num_threads=threads):
        c.probe_arithmetic_f32(rounds, 0.5, 0.5, &results[thread * LINE])
    return 2 * rounds * threads * c.tile_rows * c.tile_columns


def memory(const float[::1] x not None, float[::1] y not None, int threads):
    """``y += x``, each thread on a stretch of its own; returns the number of bytes read and written."""
    cdef const cn_table* c = table()
    cdef Py_ssize_t size = x.shape[0], first, last
    cdef int thread
    assert y.shape[0] == size and threads > 0
    if size == 0:
        return 0
    for thread in prange(threads, nogil=True, schedule="static", num_threads=threads):
        first = size * thread // threads
        last = size * (thread + 1) // threads
        c.probe_memory_f32(last - first, &x[first], &y[first])
    return 3 * size * sizeof(float)
