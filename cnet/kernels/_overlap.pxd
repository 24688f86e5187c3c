from cnet.kernels._dispatch cimport cn_epilogue, cn_table
from cnet.kernels._frame cimport Frame
from cnet.kernels._passes cimport Pass, Sink, Source

# For each position along an axis of the result: how many taps reach it, the first of them, and the source position that
# it comes from. The next tap is a stride further and comes from the source position before.
cdef struct Reach:
    Py_ssize_t* taps
    Py_ssize_t* first
    Py_ssize_t* source


cdef class Overlap(Pass):
    cdef Frame frame
    cdef Py_ssize_t height, width, channels
    cdef Py_ssize_t kernel_height, kernel_width, row_step, column_step
    cdef Reach rows, columns
    # Where a column's first product lies in a row of products.
    cdef Py_ssize_t* starts

    cdef Py_ssize_t products(self) noexcept nogil
    cdef Py_ssize_t rows_per_item(self, Py_ssize_t samples) noexcept nogil
    cdef Py_ssize_t most_source_rows(self, Py_ssize_t samples) noexcept nogil
    cdef Py_ssize_t scratch_size(self, Py_ssize_t samples, Py_ssize_t panel, bint through) noexcept nogil
    cdef void run_item(
        self, const cn_table* c, const Source* x, const float* packed, float* y, float* scratch, Py_ssize_t samples,
        Py_ssize_t image, Py_ssize_t first_row, Py_ssize_t last_row
    ) noexcept nogil
