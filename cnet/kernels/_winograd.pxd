from cnet.kernels._ahead cimport Ahead
from cnet.kernels._dispatch cimport cn_epilogue, cn_table, whole_lines
from cnet.kernels._frame cimport Frame
from cnet.kernels._passes cimport Pass, Sink, Source

cdef enum:
    # A cache line between the elements of a transform: at a distance of 4 KB times anything all would fall into one set
    # of the first-level cache, and push each other out.
    SKEW = 16


cdef inline Py_ssize_t plane(Py_ssize_t size) noexcept nogil:
    """The distance between the elements of a transform of so many floats each."""
    return whole_lines(size) + SKEW


cdef class Winograd(Pass):
    cdef Frame frame
    # Rows and columns of a tile, and elements of its transform.
    cdef Py_ssize_t m, n, elements
    cdef Py_ssize_t out_height, out_width, out_channels
    cdef Py_ssize_t tile_rows, tile_columns

    cdef Py_ssize_t most_tiles(self) noexcept nogil
    cdef Py_ssize_t images_per_item(self, Py_ssize_t samples) noexcept nogil
    cdef Py_ssize_t rows_per_item(self, const cn_epilogue* epilogue) noexcept nogil
    cdef Py_ssize_t packed_size(self, Py_ssize_t panel) noexcept nogil
    cdef Py_ssize_t scratch_size(
        self, Py_ssize_t samples, Py_ssize_t panel, const cn_epilogue* epilogue
    ) noexcept nogil
    cdef void pack(
        self, const cn_table* c, Py_ssize_t item, const float* weight, bint transposed, float* scratch, float* packed
    ) noexcept nogil
    cdef void run_item(
        self, const cn_table* c, const Source* x, const float* packed, const float* bias, const Sink* sink,
        float* scratch, Py_ssize_t samples, Py_ssize_t first_image, Py_ssize_t last_image, Py_ssize_t first_row,
        Py_ssize_t last_row
    ) noexcept nogil
    cdef Ahead next_pixels(
        self, const Source* x, Py_ssize_t samples, Py_ssize_t last_image, Py_ssize_t last_row, Py_ssize_t tiles,
        Py_ssize_t times
    ) noexcept nogil
    cdef Ahead output(
        self, const Sink* sink, Py_ssize_t first_image, Py_ssize_t last_image, Py_ssize_t first_row, Py_ssize_t tiles,
        Py_ssize_t times
    ) noexcept nogil
    cdef void finish(
        self, const cn_table* c, const float* products, Py_ssize_t products_element, const float* bias,
        const Sink* sink, float* block, Py_ssize_t image, Py_ssize_t channel, Py_ssize_t width, Py_ssize_t first_row,
        Py_ssize_t last_row
    ) noexcept nogil
