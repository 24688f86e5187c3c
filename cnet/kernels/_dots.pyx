"""Convolutions with few output channels, as dot products: lanes run along the sum, not along the channels.

It is the loop nest of ``_gather`` around another kernel (csrc/kernels/dots.c). The forward pass of few output channels
and the input gradient of few input channels are alike to it.
"""

from libc.math cimport INFINITY
from libc.string cimport memcpy, memset

from cnet.kernels._direct_grad cimport DirectGrad, outer_cost
from cnet.kernels._dispatch cimport cn_table, table, whole_lines
from cnet.kernels._frame cimport frame_row
from cnet.kernels._gather cimport Gather, Phase
from cnet.kernels._passes cimport Source

cdef enum:
    # In multiply-adds of a vector: what a stretch of memory under the window costs besides its products, and what
    # adding up the lanes of a sum does. Fitted to rows of 30 pixels of 1 to 16 channels, with stretches of 3 to 2560.
    STRETCH_COST = 6
    SUM_COST = 8
    # What the loads of a point cost, for each four channels that share them.
    LOAD_COST = 2
    # What a weight's gradient costs that has to be transposed.
    WEIGHT_COST = 10


cdef class Dots(Gather):
    """Arguments as for ``Gather``."""

    cdef double cost(self, const cn_table* c) noexcept nogil:
        # Channels share the loads of a point in fours, and so the rows that a tile reads come from farther away than in
        # the other passes: for more channels than fill a vector it has never been the fastest.
        if self.breadth > c.lanes:
            return INFINITY
        cdef Py_ssize_t channels = self.breadth + (self.breadth + 3) // 4 * LOAD_COST, number
        cdef Phase* phase
        cdef double sum = 0
        for number in range(self.phase_count):
            phase = &self.phases[number]
            # Points that are left after fours of them take twice as long each.
            sum += <double>phase.rows * (phase.columns + phase.columns % 4) * (
                self.breadth * SUM_COST
                + phase.segment_count * (STRETCH_COST + (phase.run + c.lanes - 1) // c.lanes * channels))
        return sum * self.groups

    cdef Py_ssize_t panel(self, const cn_table* c) noexcept nogil:
        return self.breadth

    cdef void pack(
        self, const cn_table* c, Py_ssize_t item, const float* weight, bint transposed, float* packed
    ) noexcept nogil:
        """Those of each output channel of group ``item`` in a row, in the order of the segments."""
        cdef Py_ssize_t number, place, tap, row, out
        cdef const float* channel
        cdef Phase* phase
        cdef float* to
        for number in range(self.phase_count):
            phase = &self.phases[number]
            row = phase.taps * self.depth
            to = packed + (phase.packed * self.groups + item * row) * self.breadth
            for place in range(phase.taps):
                tap = phase.order[place]
                if transposed:
                    channel = weight + tap * self.breadth * self.channels + item * self.depth
                    for out in range(self.breadth):
                        memcpy(to + out * row, channel + out * self.channels, self.depth * sizeof(float))
                else:
                    c.transpose_f32(
                        self.depth, self.breadth, weight + tap * self.depth * self.out_channels + item * self.breadth,
                        self.out_channels, to, row)
                to += self.depth

    cdef void products(
        self, const cn_table* c, const Phase* phase, Py_ssize_t first, Py_ssize_t segments, Py_ssize_t width,
        const float* source, const float* packed, const float* bias, float* to, Py_ssize_t out_pixel
    ) noexcept nogil:
        c.dots_f32(
            phase.columns, width, source, self.column_step * self.channels, phase.segments + first, segments,
            phase.run, packed + first * phase.run, phase.taps * self.depth, bias, to, out_pixel)


cdef class DotsGrad(DirectGrad):
    """A weight gradient whose lanes run along the stretches under the window: few output channels are its rows.

    ``part_grad`` writes sums ``[out][tap][in]``.
    """

    cdef Py_ssize_t units(self, const cn_table* c) noexcept nogil:
        return self.gather.groups * self.gather.phases[0].segment_count

    cdef double cost(self, const cn_table* c, Py_ssize_t samples) noexcept nogil:
        cdef Phase* phase = &self.gather.phases[0]
        cdef double each = self.gather.groups * phase.segment_count * outer_cost(
            c, self.gather.breadth, phase.run, self.lines(), self.target.width)
        return each * self.target.height / self.lines() + <double>self.weights * WEIGHT_COST / samples

    cdef Py_ssize_t workspace_size(self, Py_ssize_t samples, bint through, int threads) noexcept nogil:
        """The gradients, transposed and back again, and what forming them needs."""
        return 2 * whole_lines(self.weights) + DirectGrad.workspace_size(self, samples, through, threads)

    cdef void run(
        self, const float* x, const Source* dy, float* dweight, float* dbias, Py_ssize_t samples, float* workspace,
        int threads
    ):
        cdef const cn_table* c = table()
        cdef Py_ssize_t terms = self.gather.taps * self.gather.depth, channels = self.gather.out_channels
        cdef float* back = workspace + whole_lines(self.weights)
        memset(workspace, 0, self.weights * sizeof(float))
        DirectGrad.run(self, x, dy, workspace, dbias, samples, back + whole_lines(self.weights), threads)
        c.transpose_f32(channels, terms, workspace, terms, back, channels)
        c.add_parts_f32(1, self.weights, back, 0, dweight)

    cdef void lines_grad(
        self, const cn_table* c, Gather g, const float* source, const float* gradient, float* partial,
        Py_ssize_t lines, Py_ssize_t first_unit, Py_ssize_t last_unit, bint accumulate
    ) noexcept nogil:
        cdef Phase* phase = &g.phases[0]
        cdef Py_ssize_t terms = g.taps * g.depth, unit, group, segment, place
        cdef float* to
        for unit in range(first_unit, last_unit):
            group = unit // phase.segment_count
            segment = unit % phase.segment_count
            place = 0
            while place < phase.run:
                to = partial + group * g.breadth * terms + segment * phase.run + place
                c.outer_f32(
                    g.breadth, min(c.tile_columns, phase.run - place), lines, g.out_width,
                    gradient + group * g.breadth, g.out_width * g.out_channels, g.out_channels,
                    source + phase.segments[segment] + group * g.depth + place, g.row_step * frame_row(&g.frame),
                    g.column_step * g.channels, to if accumulate else NULL, to, terms)
                place = place + c.tile_columns
