from cnet.kernels._direct_grad cimport DirectGrad
from cnet.kernels._dispatch cimport cn_epilogue, cn_table
from cnet.kernels._gather cimport Gather
from cnet.kernels._passes cimport Source

cdef class Spread(Gather):
    # Floats of a pixel that is spread out, and where its copies lie under the windows of each phase.
    cdef Py_ssize_t wide
    cdef Py_ssize_t* offsets

    cdef Py_ssize_t source_rows(self, Py_ssize_t rows) noexcept nogil
    cdef Py_ssize_t spread_size(self, Py_ssize_t rows) noexcept nogil
    cdef Py_ssize_t rows_at_once(self, const cn_epilogue* epilogue) noexcept nogil
    cdef void spread(
        self, const cn_table* c, const Source* x, Py_ssize_t image, float* wide, Py_ssize_t first_row,
        Py_ssize_t last_row
    ) noexcept nogil


cdef class SpreadGrad(DirectGrad):
    cdef Spread spread
