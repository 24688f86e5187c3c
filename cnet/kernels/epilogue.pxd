from libc.stdint cimport uint8_t

from cnet.kernels._dispatch cimport cn_epilogue
from cnet.kernels._passes cimport Source

cdef class Epilogue:
    cdef readonly Py_ssize_t height, width, channels
    cdef readonly Py_ssize_t out_height, out_width
    cdef cn_epilogue c
    cdef Source source
    cdef Py_ssize_t samples
    # The arrays that the pointers in `c` and `source` point into.
    cdef object bound, bound_gradient

    cdef Py_ssize_t parts(self, Py_ssize_t samples)
    cdef check_in(self, const float[:, :, :, ::1] x, Py_ssize_t samples)
    cdef check_out(self, const float[:, :, :, ::1] y, Py_ssize_t samples)
    cdef check_index(self, const uint8_t[:, :, :, ::1] index, Py_ssize_t samples)
