from cnet.kernels._direct_grad cimport DirectGrad
from cnet.kernels._gather cimport Gather

cdef class Dots(Gather):
    pass


cdef class DotsGrad(DirectGrad):
    pass
