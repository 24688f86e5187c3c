"""3 x 3 convolutions of stride 1 by Winograd's minimal filtering, see csrc/kernels/winograd.c.

An item of work is some rows of tiles of an image, or a few small images whole: few enough tiles that their transforms
stay in a core's second-level cache, enough that each weight that is read multiplies many of them. An item copies its
pixels into a frame of zeros, transforms them, multiplies by the transformed weights, a panel of output channels at a
time, and transforms back. The input gradient is the same with the weights turned by 180 degrees and transposed.
"""

from cython.parallel cimport prange, threadid

from cnet.kernels._ahead cimport Ahead, ahead, ask
from cnet.kernels._dispatch cimport cn_epilogue, cn_table, table, team, whole_lines
from cnet.kernels._frame cimport frame_row, image_floats, load_rows
from cnet.kernels._passes cimport Pass, Sink, Source, put_windows

cdef enum:
    # Work items that a call is cut into where the batch gives as many.
    ITEMS = 8
    # Tiles of an item, and floats of their transforms (half of a 2 MB second-level cache) where channels are many.
    TILES = 48
    TRANSFORMED_FLOATS = 262144
    # Input channels whose weights are transformed together: nine taps of a panel, in half of a second-level cache.
    WEIGHT_ROWS = 32

# The one segment of a row of transforms.
cdef Py_ssize_t[1] WHOLE = [0]


cdef class Winograd(Pass):
    """One direction of a convolution, its geometry bound once.

    ``source`` and ``target`` are ``(height, width, channels)``; the first window begins ``top`` rows above and ``left``
    columns before the source. ``tile`` is the size of an output tile: (2, 2), (4, 2) or (4, 4).
    """

    def __cinit__(self, source, target, Py_ssize_t top, Py_ssize_t left, tile):
        assert tile in ((2, 2), (4, 2), (4, 4)) and top >= 0 and left >= 0
        self.frame.height, self.frame.width, self.frame.channels = source
        self.out_height, self.out_width, self.out_channels = target
        self.m, self.n = m, n = tile
        self.elements = (m + 2) * (n + 2)
        self.tile_rows, self.tile_columns = (self.out_height + m - 1) // m, (self.out_width + n - 1) // n
        self.frame.top, self.frame.left = top, left
        self.frame.rows, self.frame.columns = self.tile_rows * m + 2, self.tile_columns * n + 2
        assert self.frame.rows >= top + self.frame.height and self.frame.columns >= left + self.frame.width

    cdef Py_ssize_t most_tiles(self) noexcept nogil:
        return max(<Py_ssize_t>1, min(<Py_ssize_t>TILES, TRANSFORMED_FLOATS // (self.elements * self.frame.channels)))

    cdef Py_ssize_t images_per_item(self, Py_ssize_t samples) noexcept nogil:
        cdef Py_ssize_t fitting = self.most_tiles() // (self.tile_rows * self.tile_columns)
        return max(<Py_ssize_t>1, min(fitting, samples // ITEMS))

    cdef Py_ssize_t rows_per_item(self, const cn_epilogue* epilogue) noexcept nogil:
        # Rows of tiles; they end where windows of the epilogue do.
        cdef Py_ssize_t unit = 1, fitting = max(<Py_ssize_t>1, self.most_tiles() // self.tile_columns)
        if epilogue is not NULL:
            while unit * self.m % epilogue.pool_rows:
                unit += 1
        return min(self.tile_rows, max(unit, fitting // unit * unit))

    cdef Py_ssize_t packed_size(self, Py_ssize_t panel) noexcept nogil:
        return (self.out_channels + panel - 1) // panel * self.elements * plane(self.frame.channels * panel)

    cdef Py_ssize_t scratch_size(
        self, Py_ssize_t samples, Py_ssize_t panel, const cn_epilogue* epilogue
    ) noexcept nogil:
        # The rows of pixels, both sides of the products, and a panel of output rows for the epilogue.
        cdef Py_ssize_t rows = self.rows_per_item(epilogue)
        cdef Py_ssize_t tiles = self.images_per_item(samples) * rows * self.tile_columns
        cdef Py_ssize_t size = whole_lines((rows * self.m + 2) * frame_row(&self.frame))
        size += self.elements * (plane(tiles * self.frame.channels) + plane(tiles * panel))
        if epilogue is not NULL:
            size += whole_lines(rows * self.m * self.out_width * panel)
        # Weights are transformed before, in the same place.
        return max(size, 9 * WEIGHT_ROWS * panel)

    cdef Py_ssize_t workspace_size(
        self, Py_ssize_t samples, bint through, const cn_epilogue* epilogue, int threads
    ) noexcept nogil:
        """The transformed weights, and a scratch for each thread."""
        cdef Py_ssize_t panel = table().tile_columns
        return self.packed_size(panel) + threads * self.scratch_size(samples, panel, epilogue)

    cdef void run(
        self, const Source* x, const float* weight, bint transposed, const float* bias, Sink sink, Py_ssize_t samples,
        float* workspace, int threads
    ):
        cdef const cn_table* c = table()
        cdef Py_ssize_t panel = c.tile_columns, panels = (self.out_channels + panel - 1) // panel
        cdef Py_ssize_t share = self.images_per_item(samples), batches = (samples + share - 1) // share
        cdef Py_ssize_t rows = self.rows_per_item(sink.epilogue), blocks = (self.tile_rows + rows - 1) // rows
        cdef Py_ssize_t scratch_size = self.scratch_size(samples, panel, sink.epilogue)
        cdef Py_ssize_t item, batch, block, groups = (self.frame.channels + WEIGHT_ROWS - 1) // WEIGHT_ROWS
        cdef float* scratch = workspace + self.packed_size(panel)
        cdef Py_ssize_t weights = self.frame.channels * self.out_channels
        cdef int count = team(panels * groups, weights * 16, threads)
        for item in prange(panels * groups, nogil=True, schedule="static", num_threads=count):
            self.pack(c, item, weight, transposed, scratch + threadid() * scratch_size, workspace)
        count = team(batches * blocks, samples * self.tile_rows * self.tile_columns * self.elements * weights, threads)
        for item in prange(batches * blocks, nogil=True, schedule="static", num_threads=count):
            batch = item // blocks
            block = item % blocks
            self.run_item(
                c, x, workspace, bias, &sink, scratch + threadid() * scratch_size, samples, batch * share,
                min(samples, (batch + 1) * share), block * rows, min(self.tile_rows, (block + 1) * rows))

    cdef void pack(
        self, const cn_table* c, Py_ssize_t item, const float* weight, bint transposed, float* scratch, float* packed
    ) noexcept nogil:
        """Transform the weights of some input channels of one panel of output channels."""
        cdef Py_ssize_t panel = c.tile_columns, panels = (self.out_channels + panel - 1) // panel, tap
        cdef Py_ssize_t depth = self.frame.channels, column = item % panels * panel, row = item // panels * WEIGHT_ROWS
        cdef Py_ssize_t rows = min(<Py_ssize_t>WEIGHT_ROWS, depth - row), width = min(panel, self.out_channels - column)
        cdef float* to = packed + item % panels * self.elements * plane(depth * panel) + row * panel
        if not transposed:
            c.winograd_weight_f32(
                self.m, self.n, rows, width, weight + row * self.out_channels + column, 3 * depth * self.out_channels,
                depth * self.out_channels, self.out_channels, to, plane(depth * panel))
            return
        for tap in range(9):
            c.pack_transposed_f32(
                rows, width, weight + (tap * self.out_channels + column) * depth + row, depth,
                scratch + tap * rows * panel)
        c.winograd_weight_f32(
            self.m, self.n, rows, width, scratch + 8 * rows * panel, -3 * rows * panel, -rows * panel, panel, to,
            plane(depth * panel))

    cdef void run_item(
        self, const cn_table* c, const Source* x, const float* packed, const float* bias, const Sink* sink,
        float* scratch, Py_ssize_t samples, Py_ssize_t first_image, Py_ssize_t last_image, Py_ssize_t first_row,
        Py_ssize_t last_row
    ) noexcept nogil:
        """Rows ``first_row`` to ``last_row`` of tiles of a few images."""
        cdef Py_ssize_t panel = c.tile_columns, depth = self.frame.channels, element, image, row, column, tile
        cdef Py_ssize_t line = frame_row(&self.frame), image_tiles = (last_row - first_row) * self.tile_columns
        cdef Py_ssize_t tiles = (last_image - first_image) * image_tiles, width
        cdef Py_ssize_t frame_size = whole_lines((self.rows_per_item(sink.epilogue) * self.m + 2) * line)
        cdef float* transformed = scratch + frame_size
        cdef float* products = transformed + self.elements * plane(tiles * depth)
        cdef float* block = products + self.elements * plane(tiles * panel)
        cdef Py_ssize_t times = self.elements * ((self.out_channels + panel - 1) // panel)
        cdef Ahead pixels = self.next_pixels(x, samples, last_image, last_row, tiles, times)
        cdef Ahead output = self.output(sink, first_image, last_image, first_row, tiles, times)
        for image in range(first_image, last_image):
            load_rows(c, &self.frame, x, image, scratch, first_row * self.m, last_row * self.m + 2)
            for row in range(last_row - first_row):
                tile = (image - first_image) * image_tiles + row * self.tile_columns
                c.winograd_input_f32(
                    self.m, self.n, self.tile_columns, depth, scratch + row * self.m * line, line, depth,
                    transformed + tile * depth, plane(tiles * depth), depth)
        column = 0
        while column < self.out_channels:
            width = min(panel, self.out_channels - column)
            for element in range(self.elements):
                ask(&pixels)
                ask(&output)
                c.gemm_f32(
                    tiles, width, transformed + element * plane(tiles * depth), depth, WHOLE, 1, depth,
                    packed + (column // panel * self.elements + element) * plane(depth * panel), panel, NULL, 0,
                    products + element * plane(tiles * panel), panel)
            for image in range(first_image, last_image):
                self.finish(
                    c, products + (image - first_image) * image_tiles * panel, plane(tiles * panel), bias, sink, block,
                    image, column, width, first_row, last_row)
            column = column + panel

    cdef Ahead next_pixels(
        self, const Source* x, Py_ssize_t samples, Py_ssize_t last_image, Py_ssize_t last_row, Py_ssize_t tiles,
        Py_ssize_t times
    ) noexcept nogil:
        """What the next item reads, in memory behind what this one does, if it has as many tiles."""
        cdef Py_ssize_t row = min(self.frame.height, last_row * self.m + 2 - self.frame.top), image = last_image - 1
        cdef Py_ssize_t start = (image * self.frame.height + row) * self.frame.width * self.frame.channels
        cdef Py_ssize_t floats = tiles * self.m * self.n * self.frame.channels
        if x.epilogue is not NULL and x.raw is NULL:
            # A gradient of windows, which are fewer than pixels.
            floats = 0
        return ahead(
            (x.raw if x.raw is not NULL else x.x) + start, min(floats, samples * image_floats(&self.frame) - start),
            times, False)

    cdef Ahead output(
        self, const Sink* sink, Py_ssize_t first_image, Py_ssize_t last_image, Py_ssize_t first_row, Py_ssize_t tiles,
        Py_ssize_t times
    ) noexcept nogil:
        """What this item writes."""
        cdef Py_ssize_t row = self.out_width * self.out_channels, window = 1
        cdef Py_ssize_t start = (first_image * self.out_height + first_row * self.m) * row
        cdef Py_ssize_t end = last_image * self.out_height * row
        if sink.epilogue is not NULL:
            window = sink.epilogue.pool_rows * sink.epilogue.pool_columns
        return ahead(
            sink.y + start // window, min(tiles * self.m * self.n * self.out_channels, end - start) // window, times,
            True)

    cdef void finish(
        self, const cn_table* c, const float* products, Py_ssize_t products_element, const float* bias,
        const Sink* sink, float* block, Py_ssize_t image, Py_ssize_t channel, Py_ssize_t width, Py_ssize_t first_row,
        Py_ssize_t last_row
    ) noexcept nogil:
        """Transform the products of one image and panel back, and through the epilogue where there is one."""
        cdef Py_ssize_t panel = c.tile_columns, first = first_row * self.m, pixel = self.out_channels
        cdef Py_ssize_t last = min(self.out_height, last_row * self.m), row, window
        cdef float* to = sink.y + (image * self.out_height + first) * self.out_width * pixel + channel
        cdef const cn_epilogue* e = sink.epilogue
        if e is not NULL:
            to, pixel = block, panel
        for row in range(last_row - first_row):
            c.winograd_output_f32(
                self.m, self.n, min(self.m, last - first - row * self.m), self.out_width, width,
                products + row * self.tile_columns * panel, products_element, panel,
                bias + channel if bias is not NULL else NULL, to + row * self.m * self.out_width * pixel,
                self.out_width * pixel, pixel)
        if e is NULL:
            return
        for window in range(first // e.pool_rows, last // e.pool_rows):
            put_windows(
                c, sink, image * (self.out_height // e.pool_rows) + window, self.out_width // e.pool_columns,
                self.out_channels, channel, width, block + (window * e.pool_rows - first) * self.out_width * panel,
                self.out_width * panel, panel)
