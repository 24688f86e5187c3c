"""Convolution with the pixels under each window copied into a row of their own, for some rows of pixels at a time.

Direct summation (``_gather``) forms one row of output pixels at a time. Where rows are short its register tiles are
not full, and every few pixels read all weights again from the second-level cache, or a farther one. Here the pixels of
several rows, and of several images, make one product with many rows. The copies of a thread stay in its second-level
cache; of long sums only a stretch is copied at a time, so that the weights it meets stay there too.
"""

from libc.string cimport memcpy, memset

from cnet.kernels._direct_grad cimport DirectGrad, outer_cost
from cnet.kernels._dispatch cimport CN_LINE, cn_epilogue, cn_table, whole_lines
from cnet.kernels._frame cimport frame_row, image_floats, load_rows
from cnet.kernels._gather cimport IN_FLIGHT, Gather, Phase
from cnet.kernels._passes cimport Sink, Source, put_windows

cdef enum:
    # Pixels of a product: eight register tiles of AVX-512.
    PIXELS = 112
    # Those of a weight gradient, which loads and stores its tiles anew for every product.
    GRAD_PIXELS = 192
    # Terms of the sum that are copied at a time: up to 393 KB of pixels, and 64 KB of a panel's weights.
    TERMS = 512
    # Images are not put together where fewer items of work than this would remain, nor more floats of them in their
    # frames than half a second-level cache of 2 MB holds.
    ITEMS = 4
    RESIDENT = 262144
    # What copies of a cache line cost, of pixels and of outputs, fitted as the costs in `_gather`; and in a weight
    # gradient, which stores fewer sums, of pixels and of gradients.
    COPY_COST = 36
    APART_COST = 6
    GRAD_COPY_COST = 19
    PACK_COST = 22
    # Columns of the widest panel.
    PANEL = 32

# The one segment of a row of a patch.
cdef Py_ssize_t[1] WHOLE = [0]


cdef inline bint next_stretch(const Phase* phase, Stretch* s) noexcept nogil:
    """The stretch after ``s``, which begins as zeros; False after the last. A sum without terms is one stretch."""
    if phase.segment_count == 0:
        s.segment += 1
        return s.segment == 1
    s.first += s.size
    if phase.run > TERMS:
        # As even as can be.
        s.offset = s.offset + s.run
        if s.size == 0 or s.offset == phase.run:
            s.segment, s.offset = s.segment + s.segments, 0
        s.segments = 1
        s.run = min(phase.run - s.offset, (phase.run + (phase.run - 1) // TERMS) // ((phase.run - 1) // TERMS + 1))
    else:
        s.segment, s.run = s.segment + s.segments, phase.run
        s.segments = min(phase.segment_count - s.segment, TERMS // phase.run)
    s.size = s.segments * s.run
    return s.segment < phase.segment_count


cdef inline Py_ssize_t patch_row(Py_ssize_t terms) noexcept nogil:
    """Floats from one patch to the next: an odd number of cache lines, so that tiles do not meet in few sets."""
    return ((min(terms, <Py_ssize_t>TERMS) + 15) // 16 | 1) * 16


cdef class Patches(Gather):
    """Arguments as for ``Gather``."""

    cdef Py_ssize_t images_per_item(self, Py_ssize_t samples, Py_ssize_t panel) noexcept nogil:
        cdef Py_ssize_t images = PIXELS // max(1, self.phase_rows * self.phase_columns)
        images = min(min(images, samples // ITEMS), RESIDENT // (self.frame.rows * frame_row(&self.frame)))
        return max(1, images)

    cdef Py_ssize_t least_rows(self, Py_ssize_t images) noexcept nogil:
        return max(1, PIXELS // max(1, images * self.phase_columns))

    cdef Py_ssize_t most_pixels(self, const cn_epilogue* epilogue) noexcept nogil:
        return max(<Py_ssize_t>PIXELS, self.phase_columns * (epilogue.pool_rows if epilogue is not NULL else 1))

    cdef Py_ssize_t block_size(self, Py_ssize_t panel, const cn_epilogue* epilogue) noexcept nogil:
        """Floats of the patches, and of output pixels that do not go straight to where they belong."""
        cdef Py_ssize_t terms = 0, number
        cdef bint apart = epilogue is not NULL or self.phase_count > 1
        for number in range(self.phase_count):
            terms = max(terms, self.phases[number].taps * self.depth)
        terms = patch_row(terms) + (self.out_channels if apart else 0)
        return whole_lines(self.most_pixels(epilogue) * terms)

    cdef double cost(self, const cn_table* c) noexcept nogil:
        return self.cost_of(c, 1)

    cdef double cost_of(self, const cn_table* c, Py_ssize_t samples) noexcept nogil:
        """What an image of so many takes, see ``Gather.cost``: full tiles, but copies."""
        cdef Py_ssize_t images = self.images_per_item(samples, 0), number, pixels, tiles, column, vectors
        cdef Phase* phase
        cdef double sum = 0, rows, vector
        for number in range(self.phase_count):
            phase = &self.phases[number]
            if phase.rows == 0 or phase.columns == 0:
                continue
            pixels = images * phase.rows * phase.columns
            if images == 1:
                pixels = min(pixels, max(<Py_ssize_t>1, PIXELS // phase.columns) * phase.columns)
            tiles = (pixels + c.tile_rows - 1) // c.tile_rows
            rows = <double>pixels / tiles
            vector = 0
            column = 0
            while column < self.breadth:
                vectors = (min(c.tile_columns, self.breadth - column) + c.lanes - 1) // c.lanes
                vector += max(max(<double>IN_FLIGHT, rows * vectors), rows + vectors) / rows
                column = column + c.tile_columns
            vector = phase.segment_count * (phase.run * vector + (phase.run + CN_LINE - 1) // CN_LINE * COPY_COST)
            if self.phase_count > 1:
                vector += <double>self.breadth * APART_COST / CN_LINE
            sum += phase.rows * phase.columns * vector
        return sum * self.groups

    cdef void item_rows(
        self, const cn_table* c, const float* source, Py_ssize_t image_size, const float* packed, const float* bias,
        const Sink* sink, float* block, Py_ssize_t first_image, Py_ssize_t last_image, Py_ssize_t first_row,
        Py_ssize_t last_row
    ) noexcept nogil:
        cdef Py_ssize_t unit = sink.epilogue.pool_rows if sink.epilogue is not NULL else 1, number, rows, row, last
        cdef Phase* phase
        for number in range(self.phase_count):
            phase = &self.phases[number]
            if phase.columns == 0:
                continue
            rows = max(<Py_ssize_t>1, PIXELS // ((last_image - first_image) * phase.columns * unit)) * unit
            row = first_row
            while row < min(last_row, phase.rows):
                last = min(min(last_row, phase.rows), row + rows)
                self.phase_patches(
                    c, phase, source + (row - first_row) * self.row_step * frame_row(&self.frame), image_size, packed,
                    bias, sink, block, first_image, last_image, row, last)
                row = last

    cdef void phase_patches(
        self, const cn_table* c, Phase* phase, const float* source, Py_ssize_t image_size, const float* packed,
        const float* bias, const Sink* sink, float* block, Py_ssize_t first_image, Py_ssize_t last_image,
        Py_ssize_t first_row, Py_ssize_t last_row
    ) noexcept nogil:
        """Rows of a phase as one product."""
        cdef Py_ssize_t panel = c.tile_columns, panels = (self.breadth + panel - 1) // panel
        cdef Py_ssize_t channels = self.out_channels
        cdef Py_ssize_t terms = phase.taps * self.depth, patch = patch_row(terms), columns = phase.columns
        cdef Py_ssize_t rows = last_row - first_row, pixels = (last_image - first_image) * rows * columns
        cdef Py_ssize_t source_row = self.row_step * frame_row(&self.frame), pixel = self.column_step * self.channels
        cdef Py_ssize_t group, index, image, row, column, place, start_row
        cdef bint apart = sink.epilogue is not NULL or self.phase_count > 1
        cdef const cn_epilogue* epilogue = sink.epilogue
        cdef const float* start
        cdef float* out
        cdef float* to
        cdef Stretch s
        out = block + self.most_pixels(epilogue) * patch if apart else (
            sink.y + (first_image * self.out_height + first_row) * self.out_width * channels)
        for group in range(self.groups):
            s = Stretch(0, 0, 0, 0, 0, 0)
            while next_stretch(phase, &s):
                to = block
                for image in range(last_image - first_image):
                    for row in range(rows):
                        c.patches_f32(
                            columns, source + image * image_size + row * source_row + group * self.depth + s.offset,
                            pixel, phase.segments + s.segment, s.segments, s.run, to, patch)
                        to += columns * patch
                for index in range(panels):
                    column = group * self.breadth + index * panel
                    # The sum goes on from where the stretches before have left it.
                    if s.first > 0:
                        start, start_row = out + column, channels
                    else:
                        start, start_row = bias + column if bias is not NULL else NULL, 0
                    place = phase.packed * panels * self.groups + (group * panels + index) * terms + s.first
                    c.gemm_f32(
                        pixels, min(panel, self.breadth - index * panel), block, patch, WHOLE, 1, s.size,
                        packed + place * panel, panel, start, start_row, out + column, channels)
        if not apart:
            return
        for image in range(first_image, last_image):
            for row in range(first_row, last_row):
                if epilogue is NULL:
                    place = (image * self.out_height + phase.first_row + row * self.out_row_step) * self.out_width
                    to = sink.y + (place + phase.first_column) * channels
                    for column in range(columns):
                        memcpy(to + column * self.out_column_step * channels, out + column * channels,
                               channels * sizeof(float))
                elif row % epilogue.pool_rows == epilogue.pool_rows - 1:
                    put_windows(
                        c, sink, image * self.out_height // epilogue.pool_rows + row // epilogue.pool_rows,
                        columns // epilogue.pool_columns, channels, 0, channels,
                        out - (epilogue.pool_rows - 1) * columns * channels, columns * channels, channels)
                out += columns * channels


cdef class PatchesGrad(DirectGrad):
    """The weight gradient of the convolution whose forward pass is ``gather``."""

    def __cinit__(self, Gather gather not None):
        self.part_pixels = GRAD_PIXELS

    cdef Py_ssize_t units(self, const cn_table* c) noexcept nogil:
        """Stretches of the sums of all groups: a work item has patches of its own."""
        cdef Py_ssize_t count = 0
        cdef Stretch s = Stretch(0, 0, 0, 0, 0, 0)
        while next_stretch(&self.gather.phases[0], &s):
            count += 1
        return count * self.gather.groups

    cdef double cost(self, const cn_table* c, Py_ssize_t samples) noexcept nogil:
        cdef Py_ssize_t pixels = self.target.height * self.target.width, terms = self.gather.taps * self.gather.depth
        cdef Py_ssize_t stretches = (terms + TERMS - 1) // TERMS
        # Of a product.
        cdef Py_ssize_t points = pixels * min(samples, self.images())
        if self.images() == 1:
            points = self.lines() * self.target.width
        cdef double sum = outer_cost(c, terms, self.gather.breadth, 1, points) * pixels / points
        sum += <double>pixels * GRAD_COPY_COST * self.gather.phases[0].segment_count * (
            (self.gather.phases[0].run + CN_LINE - 1) // CN_LINE)
        if self.target.channels > c.tile_columns:
            sum += <double>pixels * PACK_COST * stretches * ((self.gather.breadth + CN_LINE - 1) // CN_LINE)
        return sum * self.gather.groups

    cdef Py_ssize_t images(self) noexcept nogil:
        """That are put together."""
        cdef Py_ssize_t image = self.gather.frame.rows * frame_row(&self.gather.frame)
        return max(<Py_ssize_t>1, min(GRAD_PIXELS // (self.target.height * self.target.width), RESIDENT // image))

    cdef Py_ssize_t lines(self) noexcept nogil:
        return min(self.target.height, max(<Py_ssize_t>1, GRAD_PIXELS // self.target.width))

    cdef Py_ssize_t scratch_size(self, bint through) noexcept nogil:
        """Floats for the images in their frames, their patches, a panel of gradients, and those from an epilogue."""
        cdef Py_ssize_t pixels = max(<Py_ssize_t>GRAD_PIXELS, self.target.width)
        cdef Py_ssize_t row = patch_row(self.gather.taps * self.gather.depth) + PANEL
        row += self.target.channels if through else 0
        return self.images() * self.gather.image_size(False) + whole_lines(pixels * row)

    cdef void part_grad(
        self, const cn_table* c, Gather g, const Source* x, const Source* dy, float* partial, bint with_bias,
        float* scratch, Py_ssize_t first_image, Py_ssize_t last_image, Py_ssize_t first_unit, Py_ssize_t last_unit
    ) noexcept nogil:
        cdef Py_ssize_t image_size = g.image_size(False), share = self.images(), image = first_image, last, row, end
        cdef Py_ssize_t number, place = g.out_height * g.out_width
        cdef Py_ssize_t most = max(<Py_ssize_t>GRAD_PIXELS, g.out_width)
        cdef float* patches = scratch + share * image_size
        cdef float* panel = patches + most * patch_row(g.phases[0].taps * g.depth)
        cdef const float* source
        cdef const float* gradient
        cdef float* bias = partial + self.weights
        if with_bias:
            memset(bias, 0, g.out_channels * sizeof(float))
            c.column_sum_f32(
                (last_image - first_image) * place, g.out_channels, dy.x + first_image * place * g.out_channels,
                g.out_channels, bias)
        while image < last_image:
            last = min(last_image, image + share)
            source = x.x + image * image_floats(&g.frame)
            if g.padded:
                for number in range(image, last):
                    load_rows(c, &g.frame, x, number, scratch + (number - image) * image_size, 0, g.frame.rows)
                source = scratch
            row = 0
            while row < g.out_height:
                end = min(g.out_height, row + self.lines())
                gradient = dy.x + (image * place + row * g.out_width) * g.out_channels
                if dy.epilogue is not NULL:
                    gradient = panel + most * PANEL
                    for number in range(image, last):
                        load_rows(
                            c, &self.target, dy, number,
                            panel + most * PANEL + (number - image) * place * g.out_channels, row, end)
                self.products(
                    c, g, source + row * g.row_step * frame_row(&g.frame),
                    image_size if g.padded else image_floats(&g.frame), last - image, end - row, gradient, patches,
                    panel, partial, first_unit, last_unit, image > first_image or row > 0)
                row = end
            image = last

    cdef void products(
        self, const cn_table* c, Gather g, const float* source, Py_ssize_t image_size, Py_ssize_t images,
        Py_ssize_t rows, const float* gradient, float* patches, float* panel, float* partial, Py_ssize_t first_unit,
        Py_ssize_t last_unit, bint accumulate
    ) noexcept nogil:
        """Add (or write) the products of some pixels, for some stretches of the sums."""
        cdef Phase* phase = &g.phases[0]
        cdef Py_ssize_t patch = patch_row(phase.taps * g.depth), pixels = images * rows * g.out_width
        cdef Py_ssize_t unit = 0, group, image, row, column, width, channel
        cdef float* to
        cdef const float* right
        cdef Py_ssize_t right_row
        cdef Stretch s
        for group in range(g.groups):
            s = Stretch(0, 0, 0, 0, 0, 0)
            while next_stretch(phase, &s):
                unit += 1
                if not first_unit < unit <= last_unit:
                    continue
                to = patches
                for image in range(images):
                    for row in range(rows):
                        c.patches_f32(
                            g.out_width, source + image * image_size + row * g.row_step * frame_row(&g.frame)
                            + group * g.depth + s.offset, g.column_step * g.channels, phase.segments + s.segment,
                            s.segments, s.run, to, patch)
                        to += g.out_width * patch
                column = 0
                while column < g.breadth:
                    width = min(c.tile_columns, g.breadth - column)
                    channel = group * g.breadth + column
                    right, right_row = gradient + channel, g.out_channels
                    if g.out_channels > c.tile_columns:
                        # Rows of many channels meet in few sets of the cache.
                        c.pack_f32(pixels, width, right, right_row, panel)
                        right, right_row = panel, c.tile_columns
                    to = partial + s.first * g.out_channels + channel
                    c.outer_f32(
                        s.size, width, 1, pixels, patches, 0, patch, right, 0, right_row, to if accumulate else NULL,
                        to, g.out_channels)
                    column = column + c.tile_columns
