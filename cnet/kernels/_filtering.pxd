from cnet.kernels._winograd cimport Winograd
from cnet.kernels._winograd_grad cimport WinogradGrad

cdef class Filtering:
    cdef Winograd forward, input_grad
    cdef WinogradGrad weight_grad

    cdef double share(self) noexcept


cdef Filtering cheapest(list filterings, bint forward, Py_ssize_t samples, bint forced)
