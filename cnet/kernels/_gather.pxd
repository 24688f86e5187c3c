from cnet.kernels._dispatch cimport cn_epilogue, cn_table
from cnet.kernels._frame cimport Frame
from cnet.kernels._passes cimport Pass, Sink, Source

# Costs that other passes share with the gather, in multiply-adds of a vector.
cdef enum:
    # Sums that hide the latency of a multiply-add.
    IN_FLIGHT = 8
    # What a stretch of memory under the window takes.
    STRETCH_COST = 16

cdef struct Phase:
    Py_ssize_t first_row, first_column  # of the outputs it writes
    Py_ssize_t rows, columns            # how many it writes
    Py_ssize_t taps
    Py_ssize_t* order                   # the kernel tap (kh * KW + kw) at each place of the packed weights
    Py_ssize_t* segments                # offsets of the contiguous stretches under the window, from its first element
    Py_ssize_t segment_count, run       # run: elements in each segment
    Py_ssize_t row_taps                 # rows of the window, each of the same number of segments
    Py_ssize_t* tap_rows                # and which row of the frame each begins with
    Py_ssize_t packed                   # where its packed weights begin, in rows of a panel

cdef class Gather(Pass):
    cdef Frame frame
    cdef Py_ssize_t channels, out_height, out_width, out_channels
    cdef Py_ssize_t groups, depth, breadth
    # Pixels that the epilogue sees in one of ours, see `_blocked`.
    cdef Py_ssize_t pixels
    # `skips` leaves rows of padding out of the sums. The forward pass does not: padding times a weight that is not a
    # number is not one either.
    cdef bint padded, depthwise, skips
    cdef Py_ssize_t row_step, column_step
    cdef Py_ssize_t out_row_step, out_column_step
    cdef Py_ssize_t taps, phase_count, phase_rows, phase_columns, reach
    cdef Phase* phases
    cdef Py_ssize_t* indices

    cdef Py_ssize_t panel(self, const cn_table* c) noexcept nogil
    cdef Py_ssize_t packed_size(self, Py_ssize_t panel) noexcept nogil
    cdef Py_ssize_t image_size(self, bint through) noexcept nogil
    cdef Py_ssize_t images_per_item(self, Py_ssize_t samples, Py_ssize_t panel) noexcept nogil
    cdef Py_ssize_t least_rows(self, Py_ssize_t images) noexcept nogil
    cdef Py_ssize_t block_size(self, Py_ssize_t panel, const cn_epilogue* epilogue) noexcept nogil
    cdef void pack(
        self, const cn_table* c, Py_ssize_t item, const float* weight, bint transposed, float* packed
    ) noexcept nogil
    cdef void run_item(
        self, const cn_table* c, const Source* x, const float* packed, const float* bias, const Sink* sink,
        float* scratch, Py_ssize_t first_image, Py_ssize_t last_image, Py_ssize_t first_row, Py_ssize_t last_row
    ) noexcept nogil
    cdef void item_rows(
        self, const cn_table* c, const float* source, Py_ssize_t image_size, const float* packed, const float* bias,
        const Sink* sink, float* block, Py_ssize_t first_image, Py_ssize_t last_image, Py_ssize_t first_row,
        Py_ssize_t last_row
    ) noexcept nogil
    cdef void rows(
        self, const cn_table* c, const Phase* phase, const float* source, const float* packed, const float* bias,
        const Sink* sink, float* block, Py_ssize_t image, Py_ssize_t channel, Py_ssize_t width, Py_ssize_t first_row,
        Py_ssize_t last_row
    ) noexcept nogil
    cdef void products(
        self, const cn_table* c, const Phase* phase, Py_ssize_t first, Py_ssize_t segments, Py_ssize_t width,
        const float* source, const float* packed, const float* bias, float* to, Py_ssize_t out_pixel
    ) noexcept nogil
    cdef double cost(self, const cn_table* c) noexcept nogil
