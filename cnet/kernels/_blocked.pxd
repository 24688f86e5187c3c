from cnet.kernels._direct_grad cimport DirectGrad
from cnet.kernels._gather cimport Gather
from cnet.kernels._passes cimport GradPass, Pass

# How a convolution is written as one of blocks of pixels.
cdef struct Blocking:
    Py_ssize_t pixels                   # in a block
    Py_ssize_t step                     # columns of the source from one to the next
    Py_ssize_t kernel_height, kernel_width
    Py_ssize_t depth, breadth           # channels in, and channels out of one pixel


cdef Py_ssize_t best_pixels(
    Py_ssize_t lanes, Py_ssize_t width, Py_ssize_t kernel_width, Py_ssize_t step, Py_ssize_t channels, bint forward,
    bint forced
)


cdef class Blocked(Pass):
    cdef Blocking blocking
    cdef Gather gather

    cdef bint fits(self)


cdef class BlockedGrad(GradPass):
    cdef Blocking blocking
    cdef DirectGrad direct
