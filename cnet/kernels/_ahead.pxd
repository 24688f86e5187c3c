"""Asking for memory before it is needed, while the processor multiplies: else a transform waits for each line."""

from cnet.kernels._dispatch cimport cn_ask, whole_lines

# What is left to ask for, and how much of it at a time.
cdef struct Ahead:
    const float* at
    Py_ssize_t left, share
    bint to_write


cdef inline Ahead ahead(const float* at, Py_ssize_t floats, Py_ssize_t times, bint to_write) noexcept nogil:
    """So many floats, asked for in equal shares of whole cache lines; none if there are fewer than none."""
    floats = max(<Py_ssize_t>0, floats)
    return Ahead(at, floats, whole_lines((floats + times - 1) // times), to_write)


cdef inline void ask(Ahead* a) noexcept nogil:
    """Ask for the next share."""
    cdef Py_ssize_t floats = min(a.share, a.left)
    cn_ask(a.at, floats, a.to_write)
    a.at += floats
    a.left -= floats
