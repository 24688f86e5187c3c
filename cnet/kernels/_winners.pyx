"""The weight gradient of a convolution whose output is max-pooled, from the winners alone.

Of the pixels in a window of the pooling only the first largest has a gradient: with windows of 2 x 2 three quarters of
all products are with zeros, and where an activation's slope is zero, so are more. For every output channel the winners
are listed, and what lies under the kernel at each is added to the sums, which stay in registers.

A normalisation between takes its part of every pixel's gradient, so that there it is another pass's work.
"""

from libc.string cimport memset

from cnet.kernels._dispatch cimport cn_epilogue, cn_table, whole_lines
from cnet.kernels._dots cimport DotsGrad
from cnet.kernels._frame cimport frame_row, image_floats, load_rows
from cnet.kernels._gather cimport Gather, Phase
from cnet.kernels._passes cimport Source

cdef enum:
    # Floats of the source that all channels of some rows of windows read: they stay in a first-level cache of 48 KB.
    NEAR_FLOATS = 8192
    # What the cost of a layer is made of, in multiply-adds of a vector at full speed, fitted to the times of 20 layers
    # of 1 to 256 channels: a tile of sums for each winner; for some rows of windows a call, and each vector of sums,
    # where they stay in the second-level cache and where they are more than so many floats.
    TILE_SUMS = 18
    WINNER_COST = 8
    CALL_COST = 60
    SUM_COST = 8
    FAR_SUM_COST = 16
    RESIDENT = 131072
    # Taps of the largest window that is pooled, see `Epilogue`.
    MOST_TAPS = 256


cdef class WinnersGrad(DotsGrad):
    """The weight gradient of the convolution whose forward pass is ``gather``, behind an epilogue that pools."""

    cdef Py_ssize_t units(self, const cn_table* c) noexcept nogil:
        return self.gather.out_channels

    cdef Py_ssize_t rows_at_once(self, const cn_epilogue* epilogue) noexcept nogil:
        """Rows of windows of the pooling."""
        cdef Py_ssize_t rows = NEAR_FLOATS // frame_row(&self.gather.frame) - self.gather.reach
        return max(<Py_ssize_t>1, rows // (self.gather.row_step * epilogue.pool_rows) + 1)

    cdef double cost_behind(self, const cn_table* c, const cn_epilogue* epilogue) noexcept nogil:
        """What an image takes, in multiply-adds of a vector at full speed."""
        cdef Phase* phase = &self.gather.phases[0]
        cdef Py_ssize_t vectors = phase.segment_count * ((phase.run + c.lanes - 1) // c.lanes)
        cdef Py_ssize_t rows = self.target.height // epilogue.pool_rows
        cdef Py_ssize_t together = min(rows, self.rows_at_once(epilogue))
        cdef Py_ssize_t windows = rows * (self.target.width // epilogue.pool_columns)
        # A vector that begins anywhere ends in another cache line.
        cdef Py_ssize_t loads = vectors if self.gather.channels % c.lanes == 0 else 2 * vectors
        cdef Py_ssize_t sums = vectors * (SUM_COST if self.weights <= RESIDENT else FAR_SUM_COST)
        cdef double winner = loads + WINNER_COST * ((vectors + TILE_SUMS - 1) // TILE_SUMS)
        return self.target.channels * (windows * winner + <double>rows / together * (sums + CALL_COST))

    cdef Py_ssize_t scratch_size(self, bint through) noexcept nogil:
        """Floats of an image in its frame, and of the gradients of its windows."""
        return self.gather.image_size(False) + whole_lines(image_floats(&self.target))

    cdef void part_grad(
        self, const cn_table* c, Gather g, const Source* x, const Source* dy, float* partial, bint with_bias,
        float* scratch, Py_ssize_t first_image, Py_ssize_t last_image, Py_ssize_t first_unit, Py_ssize_t last_unit
    ) noexcept nogil:
        cdef cn_epilogue pooled = dy.epilogue[0], apart = dy.epilogue[0]
        cdef Phase* phase = &g.phases[0]
        cdef Py_ssize_t[MOST_TAPS] taps
        cdef float* gradient = scratch + self.gather.image_size(False)
        cdef Py_ssize_t row = g.row_step * frame_row(&g.frame), pixel = g.column_step * g.channels
        cdef Py_ssize_t rows = g.out_height // pooled.pool_rows, columns = g.out_width // pooled.pool_columns
        cdef Py_ssize_t terms = g.taps * g.depth, first, last, image, channel, tap, start, place
        cdef const float* source
        # The gradients behind the activation, as if there were no pooling.
        apart.pool_rows = apart.pool_columns = 1
        for tap in range(pooled.pool_rows * pooled.pool_columns):
            taps[tap] = tap // pooled.pool_columns * row + tap % pooled.pool_columns * pixel
        memset(partial + first_unit * terms, 0, (last_unit - first_unit) * terms * sizeof(float))
        for image in range(first_image, last_image):
            source = x.x + image * image_floats(&g.frame)
            if g.padded:
                load_rows(c, &g.frame, x, image, scratch, 0, g.frame.rows)
                source = scratch
            start = image * rows * columns * g.out_channels
            c.epilogue_grad_f32(
                &apart, rows * columns, g.out_channels, 0, 1, dy.x + start,
                dy.value + start if dy.value is not NULL else NULL, NULL, NULL, 0, NULL, NULL, gradient, 0)
            first = 0
            while first < rows:
                last = min(rows, first + self.rows_at_once(&pooled))
                for channel in range(first_unit, last_unit):
                    place = first * columns * g.out_channels + channel
                    c.winners_grad_f32(
                        last - first, columns, g.out_channels, gradient + place, dy.index + start + place, taps,
                        pooled.pool_rows * row, pooled.pool_columns * pixel, phase.segment_count, phase.segments,
                        phase.run, source + first * pooled.pool_rows * row + channel // g.breadth * g.depth,
                        partial + channel * terms)
                first = last
