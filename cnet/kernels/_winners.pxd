from cnet.kernels._dispatch cimport cn_epilogue, cn_table
from cnet.kernels._dots cimport DotsGrad

cdef class WinnersGrad(DotsGrad):
    cdef Py_ssize_t rows_at_once(self, const cn_epilogue* epilogue) noexcept nogil
    cdef double cost_behind(self, const cn_table* c, const cn_epilogue* epilogue) noexcept nogil
