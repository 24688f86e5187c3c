"""The input gradient of a convolution whose input has few channels.

Summing up a pixel's few channels (``_gather``) would leave most lanes of a vector idle. Here each pixel of the output
gradient is multiplied by the weights of many taps at once, (taps x input channels) products side by side, and the
products of neighbouring pixels that fall on the same place are added up afterwards.

The taps are those of a row of the window where they fill vectors: the products of all rows of pixels that reach a row
of the result are summed in registers, and only neighbours in a row are added up. Else the taps are all there are: the
rows of the source that reach an item's are multiplied into a scratch, which stays in the second-level cache. An item
of work is some rows of an image.
"""

from cython.parallel cimport prange, threadid
from libc.stdlib cimport calloc, free

from cnet.kernels._dispatch cimport GRAIN, cn_epilogue, cn_table, table, team, whole_lines
from cnet.kernels._frame cimport frame_row, load_rows
from cnet.kernels._gather cimport IN_FLIGHT, STRETCH_COST
from cnet.kernels._passes cimport Pass, Sink, Source

cdef enum:
    # Work items that a call is cut into where the batch alone does not give as many.
    ITEMS = 16
    # Floats of products of an item: a quarter of a 2 MB second-level cache.
    PRODUCTS = 131072
    # What storing a vector of a pixel's products and adding up a tap's costs, in multiply-adds of a vector.
    PRODUCT_COST = 8
    OVERLAP_COST = 4

# The one segment of a row of pixels.
cdef Py_ssize_t[1] WHOLE = [0]


cdef Reach reach(
    Py_ssize_t size, Py_ssize_t sources, Py_ssize_t kernel, Py_ssize_t step, Py_ssize_t padding
) except *:
    cdef Reach r
    cdef Py_ssize_t i, tap, source
    r.taps = <Py_ssize_t*>calloc(3 * size, sizeof(Py_ssize_t))
    if r.taps is NULL:
        raise MemoryError
    r.first, r.source = r.taps + size, r.taps + 2 * size
    for i in range(size):
        for tap in range(kernel):
            source = (i + padding - tap) // step
            if (i + padding - tap) % step == 0 and 0 <= source < sources:
                if r.taps[i] == 0:
                    r.first[i], r.source[i] = tap, source
                r.taps[i] += 1
    return r


cdef class Overlap(Pass):
    """The geometry of an input gradient, bound once; ``source`` is the output gradient's, ``target`` the input's."""

    def __cinit__(self, source, target, kernel, step, Py_ssize_t top, Py_ssize_t left):
        cdef Py_ssize_t i
        self.frame.height, self.frame.width, self.frame.channels = source
        self.frame.rows, self.frame.columns = self.frame.height, self.frame.width
        self.height, self.width, self.channels = target
        self.kernel_height, self.kernel_width = kernel
        self.row_step, self.column_step = step
        self.rows = reach(self.height, self.frame.height, self.kernel_height, self.row_step, top)
        self.columns = reach(self.width, self.frame.width, self.kernel_width, self.column_step, left)
        self.by_rows = self.cost_of(table(), True) < self.cost_of(table(), False)
        self.starts = <Py_ssize_t*>calloc(self.width + 2 * self.kernel_height, sizeof(Py_ssize_t))
        if self.starts is NULL:
            raise MemoryError
        for i in range(self.width):
            self.starts[i] = self.columns.source[i] * self.products() + self.columns.first[i] * self.channels
        self.places, self.segments = self.starts + self.width, self.starts + self.width + self.kernel_height
        for place, tap in enumerate(tap for first in range(step[0]) for tap in range(first, kernel[0], step[0])):
            self.places[tap] = place
        for i in range(self.kernel_height):
            self.segments[i] = -i * self.frame.width * self.frame.channels

    def __dealloc__(self):
        free(self.rows.taps)
        free(self.columns.taps)
        free(self.starts)

    cdef double cost(self, const cn_table* c) noexcept nogil:
        """What an image takes, see ``Gather.cost``."""
        return self.cost_of(c, self.by_rows)

    cdef double cost_of(self, const cn_table* c, bint by_rows) noexcept nogil:
        cdef Py_ssize_t tap_vectors = (self.channels + c.lanes - 1) // c.lanes, rows = self.kernel_height
        cdef Py_ssize_t row = self.kernel_width * self.channels, width = self.frame.width
        # Vectors of a pixel's products with a row of the window, or with all.
        cdef Py_ssize_t vectors = ((row if by_rows else rows * row) + c.lanes - 1) // c.lanes
        cdef Py_ssize_t panels = (row + c.tile_columns - 1) // c.tile_columns
        cdef Py_ssize_t tiles = (width + c.tile_rows - 1) // c.tile_rows * panels
        if by_rows:
            return <double>self.frame.height * rows * (
                self.frame.channels * max(IN_FLIGHT, width * vectors) + STRETCH_COST * tiles
            ) + self.height * width * (vectors * PRODUCT_COST + self.kernel_width * tap_vectors * OVERLAP_COST)
        return <double>self.frame.height * self.frame.width * (
            vectors * (self.frame.channels + PRODUCT_COST) + rows * self.kernel_width * tap_vectors * OVERLAP_COST)

    cdef Py_ssize_t lines(self) noexcept nogil:
        """Parts of the window whose taps are multiplied apart: its rows, or all of it."""
        return self.kernel_height if self.by_rows else 1

    cdef Py_ssize_t breadth(self) noexcept nogil:
        """Products of a source pixel, side by side."""
        return self.kernel_height // self.lines() * self.kernel_width * self.channels

    cdef Py_ssize_t products(self) noexcept nogil:
        """The floats that they take, in whole panels of every instruction set."""
        return (self.breadth() + 31) // 32 * 32

    cdef Py_ssize_t packed_size(self) noexcept nogil:
        return self.lines() * self.products() * self.frame.channels

    cdef Py_ssize_t rows_per_item(self, Py_ssize_t samples) noexcept nogil:
        cdef Py_ssize_t source_rows = PRODUCTS // (self.frame.width * self.products())
        cdef Py_ssize_t fitting = (source_rows - self.kernel_height // self.row_step - 1) * self.row_step
        cdef Py_ssize_t work = self.frame.height * self.frame.width * self.products() * self.frame.channels
        cdef Py_ssize_t blocks = max(<Py_ssize_t>1, min((ITEMS + samples - 1) // samples, work // GRAIN))
        if self.by_rows:
            fitting = self.height
        # Rows at the seams are read or multiplied twice: not for fewer rows than the kernel has.
        return min(self.height, max(self.kernel_height, min(fitting, (self.height + blocks - 1) // blocks)))

    cdef Py_ssize_t most_source_rows(self, Py_ssize_t samples) noexcept nogil:
        cdef Py_ssize_t rows = self.rows_per_item(samples) + self.kernel_height - 2
        return min(self.frame.height, rows // self.row_step + 1)

    cdef Py_ssize_t scratch_size(self, Py_ssize_t samples, Py_ssize_t panel, bint through) noexcept nogil:
        cdef Py_ssize_t rows = self.most_source_rows(samples)
        return self.product_floats(rows, panel) + (whole_lines(rows * frame_row(&self.frame)) if through else 0)

    cdef Py_ssize_t product_floats(self, Py_ssize_t rows, Py_ssize_t panel) noexcept nogil:
        """Floats of the products with so many source rows; a vector may be read from the last channels on."""
        return (1 if self.by_rows else rows) * self.frame.width * self.products() + panel

    cdef Py_ssize_t workspace_size(
        self, Py_ssize_t samples, bint through, const cn_epilogue* epilogue, int threads
    ) noexcept nogil:
        """The packed weights, and a scratch for each thread."""
        return self.packed_size() + threads * self.scratch_size(samples, table().tile_columns, through)

    cdef void run(
        self, const Source* x, const float* weight, bint transposed, const float* bias, Sink sink, Py_ssize_t samples,
        float* workspace, int threads
    ):
        cdef const cn_table* c = table()
        cdef Py_ssize_t panel = c.tile_columns, depth = self.frame.channels, breadth = self.breadth()
        cdef Py_ssize_t panels = (breadth + panel - 1) // panel, lines = self.lines(), scratch_size
        cdef Py_ssize_t rows, blocks, item, image, block
        cdef float* scratch = workspace + self.packed_size()
        cdef int count = team(panels * lines, lines * breadth * depth // 4, threads)
        scratch_size = self.scratch_size(samples, panel, x.epilogue is not NULL)
        for item in prange(panels * lines, nogil=True, schedule="static", num_threads=count):
            self.pack(c, item % lines, item // lines * panel, weight, workspace)
        rows = self.rows_per_item(samples)
        blocks = (self.height + rows - 1) // rows
        count = team(
            samples * blocks, samples * self.frame.height * self.frame.width * lines * breadth * depth, threads)
        for item in prange(samples * blocks, nogil=True, schedule="static", num_threads=count):
            image = item // blocks
            block = item % blocks
            self.run_item(
                c, x, workspace, sink.y, scratch + threadid() * scratch_size, samples, image, block * rows,
                min(self.height, (block + 1) * rows))

    cdef void pack(
        self, const cn_table* c, Py_ssize_t line, Py_ssize_t column, const float* weight, float* packed
    ) noexcept nogil:
        """The weights of one panel of products, of part ``line`` of the window."""
        cdef Py_ssize_t panel = c.tile_columns, depth = self.frame.channels, breadth = self.breadth()
        c.pack_transposed_f32(
            depth, min(panel, breadth - column), weight + (line * breadth + column) * depth, depth,
            packed + (column * self.lines() + self.places[line] * panel) * depth)

    cdef void run_item(
        self, const cn_table* c, const Source* x, const float* packed, float* y, float* scratch, Py_ssize_t samples,
        Py_ssize_t image, Py_ssize_t first_row, Py_ssize_t last_row
    ) noexcept nogil:
        cdef Py_ssize_t depth = self.frame.channels, width = self.frame.width, image_rows = image * self.frame.height
        cdef Py_ssize_t first = self.frame.height, last = 0, row
        cdef float* copy = scratch + self.product_floats(self.most_source_rows(samples), c.tile_columns)
        cdef const float* source
        for row in range(first_row, last_row):
            if self.rows.taps[row] > 0:
                last = max(last, self.rows.source[row] + 1)
                first = min(first, self.rows.source[row] - self.rows.taps[row] + 1)
        source = x.x + (image_rows + first) * width * depth
        if x.epilogue is not NULL and first < last:
            load_rows(c, &self.frame, x, image, copy, first, last)
            source = copy
        if not self.by_rows and first < last:
            self.multiply(c, (last - first) * width, source, WHOLE, 1, packed, scratch)
        for row in range(first_row, last_row):
            self.put_row(
                c, source - first * width * depth, packed, scratch, first, row,
                y + (image * self.height + row) * self.width * self.channels)

    cdef void put_row(
        self, const cn_table* c, const float* source, const float* packed, float* scratch, Py_ssize_t first,
        Py_ssize_t row, float* y
    ) noexcept nogil:
        """A row of the result, from the products or, by rows, from ``source``, an image's pixels."""
        cdef Py_ssize_t depth = self.frame.channels, width = self.frame.width, products = self.products()
        cdef Py_ssize_t next_column = self.column_step * self.channels - products, taps = self.rows.taps[row]
        cdef Py_ssize_t from_row = self.rows.source[row], tap = self.rows.first[row]
        if self.by_rows:
            # The window's next row meets the pixels of the row before.
            self.multiply(
                c, width, source + from_row * width * depth, self.segments, taps,
                packed + self.places[tap] * depth * c.tile_columns, scratch)
            c.overlap_row_f32(
                self.width, self.channels, self.starts, self.columns.taps, next_column, 1, 0, scratch, y)
        else:
            c.overlap_row_f32(
                self.width, self.channels, self.starts, self.columns.taps, next_column, taps,
                self.row_step * self.kernel_width * self.channels - width * products,
                scratch + (from_row - first) * width * products + tap * self.kernel_width * self.channels, y)

    cdef void multiply(
        self, const cn_table* c, Py_ssize_t pixels, const float* source, const Py_ssize_t* segments, Py_ssize_t count,
        const float* packed, float* to
    ) noexcept nogil:
        """The products of neighbouring pixels, summed over the segments."""
        cdef Py_ssize_t panel = c.tile_columns, depth = self.frame.channels, breadth = self.breadth(), column = 0
        while column < breadth:
            c.gemm_f32(
                pixels, min(panel, breadth - column), source, depth, segments, count, depth,
                packed + column * self.lines() * depth, panel, NULL, 0, to + column, self.products())
            column = column + panel
