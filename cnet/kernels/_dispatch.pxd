# The C kernels as Cython sees them: csrc/cnet.h, with one field for each row of csrc/kernels.def.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "cnet.h":
    ctypedef Py_ssize_t cn_size
    cdef enum cn_activation:
        CN_IDENTITY
        CN_RELU
        CN_SLOPE
    # Floats of a cache line.
    enum: CN_LINE
    void cn_ask(const float* p, cn_size floats, bint to_write) noexcept nogil

    ctypedef struct cn_epilogue:
        cn_activation activation
        cn_size pool_rows
        cn_size pool_columns
        const float* mean
        const float* scale
        const float* shift
        const float* slope
    ctypedef struct cn_table:
        const char* isa
        cn_size lanes
        cn_size tile_rows
        cn_size tile_columns
        void (*gemm_f32)(
            cn_size rows, cn_size width, const float* a, cn_size a_row, const cn_size* segments, cn_size segment_count,
            cn_size run, const float* b, cn_size b_row, const float* start, cn_size start_row, float* c, cn_size c_row
        ) noexcept nogil
        void (*outer_f32)(
            cn_size rows, cn_size width, cn_size lines, cn_size points, const float* a, cn_size a_line, cn_size a_point,
            const float* b, cn_size b_line, cn_size b_point, const float* start, float* c, cn_size c_row
        ) noexcept nogil
        void (*transpose_f32)(
            cn_size rows, cn_size columns, const float* x, cn_size x_row, float* y, cn_size y_row
        ) noexcept nogil
        void (*pack_f32)(cn_size rows, cn_size columns, const float* x, cn_size x_row, float* panel) noexcept nogil
        void (*pack_transposed_f32)(
            cn_size rows, cn_size columns, const float* x, cn_size x_row, float* panel
        ) noexcept nogil
        void (*patches_f32)(
            cn_size points, const float* a, cn_size a_point, const cn_size* segments, cn_size segment_count,
            cn_size run, float* y, cn_size y_row
        ) noexcept nogil
        void (*product_f32)(
            cn_size rows, cn_size width, cn_size depth, const float* a, cn_size a_row, cn_size a_step, const float* b,
            cn_size b_row, const float* start, cn_size start_row, float* c, cn_size c_row
        ) noexcept nogil
        void (*dense_input_grad_f32)(
            cn_size rows, cn_size width, cn_size depth, const float* dy, cn_size dy_row, const float* w, cn_size w_row,
            float* dx, cn_size dx_row
        ) noexcept nogil
        void (*dots_f32)(
            cn_size points, cn_size channels, const float* a, cn_size a_point, const cn_size* segments,
            cn_size segment_count, cn_size run, const float* w, cn_size w_row, const float* bias, float* y,
            cn_size y_point
        ) noexcept nogil
        void (*depthwise_f32)(
            cn_size points, cn_size channels, cn_size taps, const float* a, cn_size a_point, const cn_size* offsets,
            const float* w, const float* bias, float* y, cn_size y_point
        ) noexcept nogil
        void (*depthwise_weight_grad_f32)(
            cn_size lines, cn_size points, cn_size channels, cn_size taps, const float* a, cn_size a_line,
            cn_size a_point, const cn_size* offsets, const float* b, cn_size b_line, float* dw
        ) noexcept nogil
        void (*spread_f32)(
            cn_size points, cn_size groups, cn_size depth, cn_size breadth, const float* x, float* y
        ) noexcept nogil
        void (*overlap_row_f32)(
            cn_size columns, cn_size channels, const cn_size* starts, const cn_size* taps, cn_size tap_step,
            cn_size rows, cn_size row_step, const float* x, float* y
        ) noexcept nogil
        void (*winograd_input_f32)(
            cn_size m, cn_size n, cn_size tiles, cn_size channels, const float* x, cn_size x_row, cn_size x_pixel,
            float* v, cn_size v_element, cn_size v_tile
        ) noexcept nogil
        void (*winograd_output_grad_f32)(
            cn_size m, cn_size n, cn_size tiles, cn_size channels, const float* dy, cn_size dy_row,
            cn_size dy_pixel, float* v, cn_size v_element, cn_size v_tile
        ) noexcept nogil
        void (*winograd_output_f32)(
            cn_size m, cn_size n, cn_size rows, cn_size columns, cn_size channels, const float* v, cn_size v_element,
            cn_size v_tile, const float* bias, float* y, cn_size y_row, cn_size y_pixel
        ) noexcept nogil
        void (*winograd_weight_f32)(
            cn_size m, cn_size n, cn_size depth, cn_size width, const float* w, cn_size w_row, cn_size w_column,
            cn_size w_depth, float* u, cn_size u_element
        ) noexcept nogil
        void (*winograd_weight_grad_f32)(
            cn_size m, cn_size n, cn_size size, const float* u, cn_size u_element, float* dw, cn_size dw_tap
        ) noexcept nogil
        void (*epilogue_f32)(
            const cn_epilogue* e, cn_size windows, cn_size width, cn_size channel, const float* x, cn_size x_row,
            cn_size x_pixel, float* y, uint8_t* index, float* before, cn_size y_pixel
        ) noexcept nogil
        void (*epilogue_sums_f32)(
            const cn_epilogue* e, cn_size pixels, cn_size channels, const float* dy, const float* x, float* total,
            float* product, float* dslope
        ) noexcept nogil
        void (*epilogue_grad_f32)(
            const cn_epilogue* e, cn_size windows, cn_size channels, cn_size first, cn_size last, const float* dy,
            const float* x, const uint8_t* index, const float* raw, cn_size raw_row, const float* factor,
            const float* offset, float* dx, cn_size dx_row
        ) noexcept nogil
        void (*winners_grad_f32)(
            cn_size rows, cn_size columns, cn_size channels, const float* gradient, const uint8_t* index,
            const cn_size* taps, cn_size row_step, cn_size column_step, cn_size segment_count, const cn_size* segments,
            cn_size run, const float* x, float* dw
        ) noexcept nogil
        void (*column_sum_f32)(cn_size rows, cn_size columns, const float* x, cn_size x_row, float* y) noexcept nogil
        void (*add_parts_f32)(cn_size parts, cn_size size, const float* x, cn_size x_part, float* y) noexcept nogil
        void (*moments_f32)(
            cn_size rows, cn_size channels, const float* x, float* mean, float* squares
        ) noexcept nogil
        void (*combine_moments_f32)(
            cn_size rows, cn_size channels, cn_size folds, cn_size size, const float* chunks, float* mean,
            float* variance
        ) noexcept nogil
        void (*normalise_f32)(
            cn_size rows, cn_size channels, const float* x, const float* mean, const float* scale, const float* shift,
            float* y
        ) noexcept nogil
        void (*normalise_sums_f32)(
            cn_size rows, cn_size channels, const float* x, const float* dy, const float* mean, float* total,
            float* slope
        ) noexcept nogil
        void (*normalise_grad_f32)(
            cn_size rows, cn_size channels, const float* x, const float* dy, const float* mean, const float* scale,
            const float* factor, const float* offset, float* dx
        ) noexcept nogil
        void (*relu_f32)(cn_size size, const float* x, float* y) noexcept nogil
        void (*relu_grad_f32)(cn_size size, const float* x, const float* dy, float* dx) noexcept nogil
        void (*leaky_relu_f32)(cn_size size, float slope, const float* x, float* y) noexcept nogil
        void (*leaky_relu_grad_f32)(
            cn_size size, float slope, const float* x, const float* dy, float* dx
        ) noexcept nogil
        void (*prelu_f32)(
            cn_size rows, cn_size channels, const float* slope, const float* x, float* y
        ) noexcept nogil
        void (*prelu_grad_f32)(
            cn_size rows, cn_size channels, const float* slope, const float* x, const float* dy, float* dx,
            float* dslope
        ) noexcept nogil
        void (*sgd_f32)(
            cn_size size, float* weight, const float* gradient, float* buffer, float rate, float sign, float decay,
            float momentum, float keep, float look_ahead, float ahead
        ) noexcept nogil
        void (*dropout_f32)(
            cn_size size, cn_size first, const float* x, uint64_t seed, uint64_t call, uint32_t threshold, float scale,
            float* y
        ) noexcept nogil
        void (*philox_u32)(const uint32_t* counter, const uint32_t* key, uint32_t* words) noexcept nogil
        void (*softmax_f32)(cn_size rows, cn_size classes, const float* x, float* y) noexcept nogil
        void (*softmax_grad_f32)(
            cn_size rows, cn_size classes, const float* y, const float* dy, float* dx
        ) noexcept nogil
        void (*softmax_cross_entropy_f32)(
            cn_size rows, cn_size classes, const float* x, const int64_t* labels, const float* t, float scale,
            float* dx, double* losses
        ) noexcept nogil
        void (*cross_entropy_f32)(
            cn_size rows, cn_size classes, const float* p, const int64_t* labels, const float* t, float scale,
            float* dp, double* losses
        ) noexcept nogil
        void (*count_hits_f32)(
            cn_size rows, cn_size classes, const float* x, const int64_t* labels, cn_size* hits
        ) noexcept nogil
        void (*maxpool_row_f32)(
            cn_size columns, cn_size channels, const cn_size* start, const cn_size* tap, const cn_size* taps,
            cn_size column_step, cn_size kernel_width, cn_size rows, cn_size row_tap, cn_size row_step, const float* x,
            cn_size x_size, float* y, uint16_t* index
        ) noexcept nogil
        void (*maxpool_grad_row_f32)(
            cn_size columns, cn_size channels, cn_size width, const cn_size* start, const cn_size* tap,
            const cn_size* taps, cn_size column_step, cn_size kernel_width, cn_size rows, cn_size row_tap,
            cn_size row_step, const cn_size* offsets, const float* dy, const uint16_t* index, float* dx
        ) noexcept nogil
        void (*probe_arithmetic_f32)(cn_size rounds, float factor, float term, float* y) noexcept nogil
        void (*probe_memory_f32)(cn_size size, const float* x, float* y) noexcept nogil

# The table in use. Read it once, before a parallel region.
cdef const cn_table* table() noexcept nogil

# Multiply-adds that one thread must have to itself before another is called in: about a microsecond of work, twice what
# waking a waiting thread costs.
cdef enum:
    GRAIN = 65536


cdef inline Py_ssize_t whole_lines(Py_ssize_t floats) noexcept nogil:
    """The floats of whole cache lines that hold so many."""
    return (floats + CN_LINE - 1) // CN_LINE * CN_LINE


# How many threads a region of so many independent items and so many multiply-adds deserves: 1 or `threads`.
cdef int team(Py_ssize_t items, Py_ssize_t work, int threads) noexcept nogil
