"""Dropout: a mask is a function of a seed, the number of the call and the position, so none is ever stored."""

from cython.parallel cimport prange
from libc.stdint cimport uint32_t, uint64_t

from cnet.kernels._dispatch cimport cn_table, table, team

cdef enum:
    # Elements of a work item, a multiple of the 64 that share counters; and the cost of one in multiply-adds.
    CHUNK = 4096
    COST = 48


cdef void apply(
    const float[::1] x, float[::1] y, uint64_t seed, uint64_t call, double probability, int threads
):
    cdef const cn_table* c = table()
    cdef Py_ssize_t size = x.shape[0], items = (size + CHUNK - 1) // CHUNK, item
    assert y.shape[0] == size and 0 <= probability <= 1
    if size == 0:
        return
    # A word is below the threshold with the given probability, to 2^-32; what remains is scaled by the exact inverse.
    cdef double words = 4294967296.0
    cdef double bound = probability * words
    cdef uint32_t threshold = <uint32_t>(bound if bound < words - 1 else words - 1)
    cdef float scale = <float>(1 / (1 - probability)) if probability < 1 else 0
    cdef int count = team(items, size * COST, threads)
    for item in prange(items, nogil=True, schedule="static", num_threads=count):
        c.dropout_f32(
            min(<Py_ssize_t>CHUNK, size - item * CHUNK), item * CHUNK, &x[item * CHUNK], seed, call, threshold, scale,
            &y[item * CHUNK])


def dropout_forward(
    const float[::1] x not None, float[::1] y not None, uint64_t seed, uint64_t call, double probability, int threads
):
    """``y = x * mask / (1 - probability)``, and 0 everywhere for probability 1."""
    apply(x, y, seed, call, probability, threads)


def dropout_backward(
    const float[::1] dy not None, float[::1] dx not None, uint64_t seed, uint64_t call, double probability, int threads
):
    """``dx = dy * mask / (1 - probability)``, with the mask of the forward pass of this seed and call."""
    apply(dy, dx, seed, call, probability, threads)


def philox(const uint32_t[::1] counter not None, const uint32_t[::1] key not None):
    """The four words of Philox4x32-10 for a counter of four words and a key of two."""
    cdef uint32_t words[4]
    assert counter.shape[0] == 4 and key.shape[0] == 2
    table().philox_u32(&counter[0], &key[0], words)
    return words[0], words[1], words[2], words[3]
