"""Convolution in small groups, whose channels would leave most lanes of a vector idle.

Each input channel is copied beside itself as many times as its group has output channels, so that the channels of all
groups lie as those of the output do. What remains is a depthwise convolution with as many taps as a group's sum has
terms, and its lanes run over the channels of all groups. A few rows of windows are spread out at a time.
"""

from libc.stdlib cimport calloc, free
from libc.string cimport memset

from cnet.kernels._direct_grad cimport DirectGrad
from cnet.kernels._dispatch cimport cn_epilogue, cn_table, whole_lines
from cnet.kernels._frame cimport frame_row, load_rows
from cnet.kernels._gather cimport Gather, Phase
from cnet.kernels._passes cimport Sink, Source, put_windows

cdef enum:
    # Floats that are spread out at a time: a quarter of a 2 MB second-level cache.
    SPREAD = 131072
    # A vector beyond the last channel is written, of every instruction set.
    SLACK = 16
    # Costs in multiply-adds of a vector at full speed: of one whose factor comes from the second-level cache, and of
    # the copies of a channel. They tell apart some twenty layers of 1 to 16 channels a group.
    LOAD_COST = 4
    COPY_COST = 3


cdef class Spread(Gather):
    """Arguments as for ``Gather``."""

    def __cinit__(self, source, target, step, out_step, Py_ssize_t groups, Py_ssize_t kernel_width, phases):
        cdef Py_ssize_t number, tap, i
        cdef Phase* phase
        self.wide = self.depth * self.out_channels
        self.offsets = <Py_ssize_t*>calloc(max(1, self.taps * self.depth), sizeof(Py_ssize_t))
        if self.offsets is NULL:
            raise MemoryError
        for number in range(self.phase_count):
            phase = &self.phases[number]
            for tap in range(phase.taps):
                for i in range(self.depth):
                    self.offsets[phase.packed + tap * self.depth + i] = (
                        phase.segments[tap] // self.channels * self.wide + i * self.out_channels)

    def __dealloc__(self):
        free(self.offsets)

    cdef double cost(self, const cn_table* c) noexcept nogil:
        cdef Py_ssize_t vectors = (self.out_channels + c.lanes - 1) // c.lanes, number
        cdef double sum = 0
        for number in range(self.phase_count):
            sum += self.phases[number].rows * self.phases[number].columns * <double>self.phases[number].taps
        sum = sum * self.depth * vectors * LOAD_COST
        return sum + <double>self.frame.rows * self.frame.columns * self.channels * COPY_COST * (
            (self.breadth + c.lanes - 1) // c.lanes)

    cdef Py_ssize_t panel(self, const cn_table* c) noexcept nogil:
        return self.breadth

    cdef Py_ssize_t packed_size(self, Py_ssize_t panel) noexcept nogil:
        return self.taps * self.depth * self.out_channels

    cdef Py_ssize_t image_size(self, bint through) noexcept nogil:
        return 0

    cdef Py_ssize_t images_per_item(self, Py_ssize_t samples, Py_ssize_t panel) noexcept nogil:
        return 1

    cdef Py_ssize_t rows_at_once(self, const cn_epilogue* epilogue) noexcept nogil:
        """Rows of windows for which the source is spread out."""
        cdef Py_ssize_t unit = epilogue.pool_rows if epilogue is not NULL else 1
        cdef Py_ssize_t rows = SPREAD // (self.frame.columns * self.wide) - self.reach
        return max(<Py_ssize_t>1, min(rows // self.row_step + 1, self.phase_rows) // unit) * unit

    cdef Py_ssize_t source_rows(self, Py_ssize_t rows) noexcept nogil:
        return min(self.frame.rows, (rows - 1) * self.row_step + self.reach)

    cdef Py_ssize_t spread_size(self, Py_ssize_t rows) noexcept nogil:
        """Floats of the source of so many rows of windows, spread out and as it is."""
        return whole_lines(self.source_rows(rows) * self.frame.columns * (self.wide + self.channels) + SLACK)

    cdef Py_ssize_t block_size(self, Py_ssize_t panel, const cn_epilogue* epilogue) noexcept nogil:
        cdef Py_ssize_t block = self.out_width * self.out_channels * epilogue.pool_rows if epilogue is not NULL else 0
        return self.spread_size(self.rows_at_once(epilogue)) + whole_lines(block)

    cdef void pack(
        self, const cn_table* c, Py_ssize_t item, const float* weight, bint transposed, float* packed
    ) noexcept nogil:
        """The weights of group ``item``: ``[tap][in][out]`` of all phases."""
        cdef Py_ssize_t number, place, i, j, tap
        cdef Phase* phase
        cdef float* to
        for number in range(self.phase_count):
            phase = &self.phases[number]
            for place in range(phase.taps):
                tap = phase.order[place]
                for i in range(self.depth):
                    to = packed + (phase.packed + place * self.depth + i) * self.out_channels + item * self.breadth
                    for j in range(self.breadth):
                        if transposed:
                            to[j] = weight[(tap * self.breadth + j) * self.channels + item * self.depth + i]
                        else:
                            to[j] = weight[(tap * self.depth + i) * self.out_channels + item * self.breadth + j]

    cdef void spread(
        self, const cn_table* c, const Source* x, Py_ssize_t image, float* wide, Py_ssize_t first_row,
        Py_ssize_t last_row
    ) noexcept nogil:
        """What the windows of some rows see of an image."""
        cdef Py_ssize_t last = min(self.frame.rows, (last_row - 1) * self.row_step + self.reach)
        # There may be none left, where no window meets the image.
        cdef Py_ssize_t first = min(first_row * self.row_step, last), pixels = (last - first) * self.frame.columns
        cdef float* narrow = wide + (pixels * self.wide + SLACK)
        load_rows(c, &self.frame, x, image, narrow, first, last)
        c.spread_f32(pixels, self.groups, self.depth, self.breadth, narrow, wide)

    cdef void run_item(
        self, const cn_table* c, const Source* x, const float* packed, const float* bias, const Sink* sink,
        float* scratch, Py_ssize_t first_image, Py_ssize_t last_image, Py_ssize_t first_row, Py_ssize_t last_row
    ) noexcept nogil:
        cdef const cn_epilogue* epilogue = sink.epilogue
        cdef Py_ssize_t rows = self.rows_at_once(epilogue), channels = self.out_channels
        cdef Py_ssize_t image, first, last, row, number, place, block_row = self.out_width * channels
        cdef Py_ssize_t source_row = self.row_step * self.frame.columns * self.wide
        cdef float* block = scratch + self.spread_size(rows)
        cdef float* to
        cdef Phase* phase
        for image in range(first_image, last_image):
            first = first_row
            while first < last_row:
                last = min(last_row, first + rows)
                self.spread(c, x, image, scratch, first, last)
                for number in range(self.phase_count):
                    phase = &self.phases[number]
                    for row in range(first, min(last, phase.rows)):
                        if epilogue is not NULL:
                            to = block + row % epilogue.pool_rows * block_row
                        else:
                            place = image * self.out_height + phase.first_row + row * self.out_row_step
                            to = sink.y + place * block_row + phase.first_column * channels
                        c.depthwise_f32(
                            phase.columns, channels, phase.taps * self.depth, scratch + (row - first) * source_row,
                            self.column_step * self.wide, self.offsets + phase.packed, packed + phase.packed * channels,
                            bias, to, self.out_column_step * channels)
                        if epilogue is not NULL and row % epilogue.pool_rows == epilogue.pool_rows - 1:
                            put_windows(
                                c, sink, image * self.out_height // epilogue.pool_rows + row // epilogue.pool_rows,
                                self.out_width // epilogue.pool_columns, channels, 0, channels, block, block_row,
                                channels)
                first = last


cdef class SpreadGrad(DirectGrad):
    """The weight gradient of the convolution whose forward pass is the ``Spread``."""

    def __cinit__(self, Gather gather not None):
        self.spread = gather

    cdef double cost(self, const cn_table* c, Py_ssize_t samples) noexcept nogil:
        return self.spread.cost(c)

    cdef Py_ssize_t units(self, const cn_table* c) noexcept nogil:
        return 1

    cdef Py_ssize_t lines(self) noexcept nogil:
        return self.spread.rows_at_once(NULL)

    cdef Py_ssize_t scratch_size(self, bint through) noexcept nogil:
        cdef Py_ssize_t gradient = whole_lines(self.lines() * frame_row(&self.target))
        return self.spread.spread_size(self.lines()) + (gradient if through else 0)

    cdef void part_grad(
        self, const cn_table* c, Gather g, const Source* x, const Source* dy, float* partial, bint with_bias,
        float* scratch, Py_ssize_t first_image, Py_ssize_t last_image, Py_ssize_t first_unit, Py_ssize_t last_unit
    ) noexcept nogil:
        cdef Py_ssize_t pixels = g.out_height * g.out_width, row = frame_row(&self.target), wide = self.spread.wide
        cdef Py_ssize_t image, line, last
        cdef float* copy = scratch + self.spread.spread_size(self.lines())
        cdef const float* gradient
        memset(partial, 0, (self.weights + g.out_channels) * sizeof(float))
        for image in range(first_image, last_image):
            if with_bias:
                c.column_sum_f32(
                    pixels, g.out_channels, dy.x + image * pixels * g.out_channels, g.out_channels,
                    partial + self.weights)
            line = 0
            while line < g.out_height:
                last = min(g.out_height, line + self.lines())
                self.spread.spread(c, x, image, scratch, line, last)
                gradient = dy.x + image * pixels * g.out_channels + line * row
                if dy.epilogue is not NULL:
                    load_rows(c, &self.target, dy, image, copy, line, last)
                    gradient = copy
                c.depthwise_weight_grad_f32(
                    last - line, g.out_width, g.out_channels, g.taps * g.depth, scratch,
                    g.row_step * g.frame.columns * wide, g.column_step * wide, self.spread.offsets, gradient, row,
                    partial)
                line = last
