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
    # Whether the taps of each row of the window are multiplied apart.
    cdef bint by_rows
    # Where a column's first product lies in a row of products; where the weights of the window's rows lie, those that
    # meet the same row of the result in order; and how far apart the rows of pixels are that do.
    cdef Py_ssize_t* starts
    cdef Py_ssize_t* places
    cdef Py_ssize_t* segments

    cdef double cost(self, const cn_table* c) noexcept nogil
    cdef double cost_of(self, const cn_table* c, bint by_rows) noexcept nogil
    cdef Py_ssize_t lines(self) noexcept nogil
    cdef Py_ssize_t breadth(self) noexcept nogil
    cdef Py_ssize_t products(self) noexcept nogil
    cdef Py_ssize_t packed_size(self) noexcept nogil
    cdef Py_ssize_t rows_per_item(self, Py_ssize_t samples) noexcept nogil
    cdef Py_ssize_t most_source_rows(self, Py_ssize_t samples) noexcept nogil
    cdef Py_ssize_t product_floats(self, Py_ssize_t rows, Py_ssize_t panel) noexcept nogil
    cdef Py_ssize_t scratch_size(self, Py_ssize_t samples, Py_ssize_t panel, bint through) noexcept nogil
    cdef void pack(
        self, const cn_table* c, Py_ssize_t line, Py_ssize_t column, const float* weight, float* packed
    ) noexcept nogil
    cdef void run_item(
        self, const cn_table* c, const Source* x, const float* packed, float* y, float* scratch, Py_ssize_t samples,
        Py_ssize_t image, Py_ssize_t first_row, Py_ssize_t last_row
    ) noexcept nogil
    cdef void put_row(
        self, const cn_table* c, const float* source, const float* packed, float* scratch, Py_ssize_t first,
        Py_ssize_t row, float* y
    ) noexcept nogil
    cdef void multiply(
        self, const cn_table* c, Py_ssize_t pixels, const float* source, const Py_ssize_t* segments, Py_ssize_t count,
        const float* packed, float* to
    ) noexcept nogil
