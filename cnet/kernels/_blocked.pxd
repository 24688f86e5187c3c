from cnet.kernels._direct_grad cimport DirectGrad
from cnet.kernels._gather cimport Gather
from cnet.kernels._passes cimport GradPass, Pass

# How a convolution is written as one of pixels[blocks of them].
cdef struct Blocking:
    Py_ssize_t pixels                   # in a block
    Py_ssize_t step                     # columns of the source from one to the next
    Py_ssize_t kernel_height, kernel_width
    Py_ssize_t depth, breadth           # channels in, and channels out of one pixel


cdef class Blocked(Pass):
    cdef Blocking blocking
    cdef Gather gather

    cdef bint fits(self)


cdef class BlockedGrad(GradPass):
    cdef Blocking blocking
    cdef DirectGrad direct
