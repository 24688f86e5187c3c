"""The weight gradient of any convolution: for every tap, the pixels under it times the output gradient.

It is summed over fixed groups of images, and the groups' sums are added in order: no bit depends on the threads.
"""

from cython.parallel cimport prange, threadid
from libc.string cimport memset

from cnet.kernels._dispatch cimport cn_table, table, team, whole_lines
from cnet.kernels._frame cimport Frame, frame_row, image_floats, load_rows
from cnet.kernels._gather cimport Gather, Phase
from cnet.kernels._passes cimport GradPass, Source

cdef enum:
    # Work items of a weight gradient, and the floats that all partial sums may take together: more groups of images
    # would be more parallel, but their partial sums must be written and read again.
    ITEMS = 16
    PARTIAL_FLOATS = 1572864
    # Output pixels that a register tile sums over before it moves on: enough to pay for loading and storing the tile,
    # few enough that the pixels of x and dy stay in the nearest caches until every tile has met them.
    POINTS = 128
    # What a line of points costs a tile, and loading and storing each of its vectors, in multiply-adds of a vector:
    # fitted to the times of 170 layers.
    LINE_COST = 20
    TILE_COST = 4


cdef double outer_cost(
    const cn_table* c, Py_ssize_t rows, Py_ssize_t width, Py_ssize_t lines, Py_ssize_t points
) noexcept nogil:
    """What sums of products over points take, in multiply-adds of a vector at full speed."""
    cdef Py_ssize_t tiles = (rows + c.tile_rows - 1) // c.tile_rows, column = 0, vectors
    cdef double height = <double>rows / tiles, sum = 0
    while column < width:
        vectors = (min(c.tile_columns, width - column) + c.lanes - 1) // c.lanes
        # The two loads of a cycle feed two multiply-adds.
        sum += lines * (points * max(height * vectors, height + vectors) + LINE_COST) + TILE_COST * height * vectors
        column = column + c.tile_columns
    return sum * tiles


cdef class DirectGrad(GradPass):
    """The weight gradient of the convolution whose forward pass is ``gather``."""

    def __cinit__(self, Gather gather not None):
        self.gather, self.part_pixels = gather, 1
        self.weights = gather.taps * gather.depth * gather.out_channels
        self.target = Frame(
            gather.out_height, gather.out_width, gather.out_channels, 0, 0, gather.out_height, gather.out_width)

    cdef Py_ssize_t panels(self, Py_ssize_t panel) noexcept nogil:
        return (self.gather.breadth + panel - 1) // panel

    cdef Py_ssize_t units(self, const cn_table* c) noexcept nogil:
        """What work items of one group of images may share."""
        return self.gather.groups * self.panels(c.tile_columns)

    cdef Py_ssize_t part_size(self) noexcept nogil:
        return whole_lines(self.weights + self.gather.out_channels)

    cdef Py_ssize_t parts(self, Py_ssize_t samples) noexcept nogil:
        """Groups of images whose sums are formed apart."""
        cdef Py_ssize_t pixels = samples * self.target.height * self.gather.out_width
        return max(1, min(
            min(samples, <Py_ssize_t>ITEMS), min(PARTIAL_FLOATS // self.part_size(), pixels // self.part_pixels)))

    cdef Py_ssize_t lines(self) noexcept nogil:
        """Rows of output pixels that a register tile sums over."""
        return min(self.target.height, max(<Py_ssize_t>1, POINTS // self.target.width))

    cdef Py_ssize_t scratch_size(self, bint through) noexcept nogil:
        """Floats for an image in its frame, and for the lines of a gradient that comes through an epilogue."""
        cdef Py_ssize_t gradient = whole_lines(self.lines() * frame_row(&self.target))
        return self.gather.image_size(False) + (gradient if through else 0)

    cdef Py_ssize_t workspace_size(self, Py_ssize_t samples, bint through, int threads) noexcept nogil:
        return self.parts(samples) * self.part_size() + threads * self.scratch_size(through)

    cdef void run(
        self, const float* x, const Source* dy, float* dweight, float* dbias, Py_ssize_t samples, float* workspace,
        int threads
    ):
        cdef const cn_table* c = table()
        cdef Py_ssize_t parts = self.parts(samples), size = self.part_size(), weights = self.weights
        cdef Py_ssize_t units = self.units(c)
        cdef Py_ssize_t splits = 1 if self.gather.depthwise else min(units, (ITEMS + parts - 1) // parts)
        cdef Py_ssize_t scratch_size = self.scratch_size(dy.epilogue is not NULL), item, part, split, first, last
        cdef Source images = Source(x, NULL, NULL, NULL, NULL, NULL, NULL)
        cdef Py_ssize_t chunk = 4096, chunks = (weights + chunk - 1) // chunk
        cdef float* scratch = workspace + parts * size
        cdef Py_ssize_t work = samples * self.gather.out_height * self.gather.out_width * weights
        cdef int count = team(parts * splits, work, threads)
        for item in prange(parts * splits, nogil=True, schedule="static", num_threads=count):
            part = item // splits
            split = item % splits
            self.part_grad(
                c, self.gather, &images, dy, workspace + part * size, dbias is not NULL and split == 0,
                scratch + threadid() * scratch_size, samples * part // parts, samples * (part + 1) // parts,
                units * split // splits, units * (split + 1) // splits)
        count = team(chunks, parts * weights // 4, threads)
        for item in prange(chunks, nogil=True, schedule="static", num_threads=count):
            first = item * chunk
            last = min(weights, first + chunk)
            c.add_parts_f32(parts, last - first, workspace + first, size, dweight + first)
        if dbias is not NULL:
            c.add_parts_f32(parts, self.gather.out_channels, workspace + weights, size, dbias)

    cdef double cost(self, const cn_table* c, Py_ssize_t samples) noexcept nogil:
        """What an image of so many takes, in multiply-adds of a vector at full speed."""
        cdef Phase* phase = &self.gather.phases[0]
        return <double>self.target.height / self.lines() * self.gather.groups * phase.segment_count * outer_cost(
            c, phase.run, self.gather.breadth, self.lines(), self.gather.out_width)

    cdef void part_grad(
        self, const cn_table* c, Gather g, const Source* x, const Source* dy, float* partial, bint with_bias,
        float* scratch, Py_ssize_t first_image, Py_ssize_t last_image, Py_ssize_t first_panel, Py_ssize_t last_panel
    ) noexcept nogil:
        """The sums of a group of images for some panels of output channels, written over ``partial``."""
        cdef Py_ssize_t pixels = g.out_height * g.out_width, row = g.row_step * frame_row(&g.frame), image, line, last
        cdef float* bias = partial + self.weights
        cdef float* spread = scratch + g.image_size(False)
        cdef const float* source
        cdef const float* gradient
        if with_bias:
            memset(bias, 0, g.out_channels * sizeof(float))
        if g.depthwise:
            memset(partial, 0, self.weights * sizeof(float))
        for image in range(first_image, last_image):
            source, gradient = x.x + image * image_floats(&g.frame), dy.x + image * image_floats(&self.target)
            if with_bias:
                c.column_sum_f32(pixels, g.out_channels, gradient, g.out_channels, bias)
            if g.padded:
                load_rows(c, &g.frame, x, image, scratch, 0, g.frame.rows)
                source = scratch
            line = 0
            while line < g.out_height:
                last = min(g.out_height, line + self.lines())
                if dy.epilogue is not NULL:
                    load_rows(c, &self.target, dy, image, spread, line, last)
                    gradient = spread
                self.lines_grad(
                    c, g, source + line * row, gradient, partial, last - line, first_panel, last_panel,
                    image > first_image or line > 0)
                gradient = gradient + (last - line) * frame_row(&self.target)
                line = last

    cdef void lines_grad(
        self, const cn_table* c, Gather g, const float* source, const float* gradient, float* partial,
        Py_ssize_t lines, Py_ssize_t first_panel, Py_ssize_t last_panel, bint accumulate
    ) noexcept nogil:
        """Add (or write) the products of a few lines of output pixels."""
        cdef Phase* phase = &g.phases[0]
        cdef Py_ssize_t panel = c.tile_columns, panels = self.panels(panel), pixel = g.column_step * g.frame.channels
        cdef Py_ssize_t line = g.row_step * frame_row(&g.frame), out_line = g.out_width * g.out_channels
        cdef Py_ssize_t segment, index, channel, column
        cdef float* to
        if g.depthwise:
            c.depthwise_weight_grad_f32(
                lines, g.out_width, g.frame.channels, phase.taps, source, line, pixel, phase.segments, gradient,
                out_line, partial)
            return
        for segment in range(phase.segment_count):
            for index in range(first_panel, last_panel):
                column = index % panels * panel
                channel = index // panels * g.breadth + column
                to = partial + segment * phase.run * g.out_channels + channel
                c.outer_f32(
                    phase.run, min(panel, g.breadth - column), lines, g.out_width,
                    source + phase.segments[segment] + index // panels * g.depth, line, pixel, gradient + channel,
                    out_line, g.out_channels, to if accumulate else NULL, to, g.out_channels)
