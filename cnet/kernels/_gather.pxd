from cnet.kernels._dispatch cimport cn_table

cdef struct Phase:
    Py_ssize_t first_row, first_column  # of the outputs it writes
    Py_ssize_t rows, columns            # how many it writes
    Py_ssize_t taps
    Py_ssize_t* order                   # the kernel tap (kh * KW + kw) at each place of the packed weights
    Py_ssize_t* segments                # offsets of the contiguous stretches under the window, from its first element
    Py_ssize_t segment_count, run       # run: elements in each segment
    Py_ssize_t packed                   # where its packed weights begin, in rows of a panel


cdef class Gather:
    cdef readonly Py_ssize_t height, width, channels
    cdef readonly Py_ssize_t out_height, out_width, out_channels
    cdef readonly Py_ssize_t groups, depth, breadth
    cdef readonly Py_ssize_t top, left, padded_height, padded_width
    cdef readonly bint padded, depthwise
    cdef readonly Py_ssize_t row_step, column_step
    cdef Py_ssize_t out_row_step, out_column_step
    cdef Py_ssize_t taps, phase_count, phase_rows, reach
    cdef Phase* phases
    cdef Py_ssize_t* indices

    cdef Py_ssize_t packed_size(self, Py_ssize_t panel) noexcept nogil
    cdef Py_ssize_t image_size(self) noexcept nogil
    cdef Py_ssize_t images_per_item(self, Py_ssize_t samples, Py_ssize_t panel) noexcept nogil
    cdef Py_ssize_t workspace_size(self, Py_ssize_t samples, int threads) noexcept nogil
    cdef void pad(self, const float* image, float* scratch, Py_ssize_t first, Py_ssize_t last) noexcept nogil
    cdef void run(
        self, const float* x, const float* weight, bint transposed, const float* bias, float* y, Py_ssize_t samples,
        float* workspace, int threads
    )
    cdef void pack(
        self, const cn_table* c, Py_ssize_t item, const float* weight, bint transposed, float* packed
    ) noexcept nogil
    cdef void run_item(
        self, const cn_table* c, const float* x, const float* packed, const float* bias, float* y, float* scratch,
        Py_ssize_t first_image, Py_ssize_t last_image, Py_ssize_t first_row, Py_ssize_t last_row
    ) noexcept nogil
    cdef void rows(
        self, const cn_table* c, const Phase* phase, const float* source, const float* packed, const float* bias,
        float* y, Py_ssize_t first_row, Py_ssize_t last_row, Py_ssize_t count
    ) noexcept nogil
