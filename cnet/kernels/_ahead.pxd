"""Asking for memory before it is needed, while the processor multiplies: else a transform waits for each line."""

from cnet.kernels._dispatch cimport cn_ask, cn_ask_to_write

# What is left to ask for, and how much of it at a time.
cdef struct Stretch:
    const float* at
    Py_ssize_t left, share


cdef inline Stretch stretch(const float* at, Py_ssize_t floats, Py_ssize_t times) noexcept nogil:
    """So many floats, asked for in equal shares of whole cache lines; none if there are fewer than none."""
    floats = max(<Py_ssize_t>0, floats)
    return Stretch(at, floats, (floats + times * 16 - 1) // (times * 16) * 16)


cdef inline void ask(Stretch* s) noexcept nogil:
    """Ask for the next share, to read it."""
    cdef Py_ssize_t floats = min(s.share, s.left)
    cn_ask(s.at, floats)
    s.at += floats
    s.left -= floats


cdef inline void ask_to_write(Stretch* s) noexcept nogil:
    """Ask for the next share, to write over it."""
    cdef Py_ssize_t floats = min(s.share, s.left)
    cn_ask_to_write(s.at, floats)
    s.at += floats
    s.left -= floats
