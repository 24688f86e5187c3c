"""The input gradient of a convolution whose input has few channels.

Summing up a pixel's few channels (``_gather``) would leave most lanes of a vector idle. Here each pixel of the output
gradient is multiplied by all weights at once, (taps x input channels) products side by side, and the products of
neighbouring pixels that fall on the same place are added up afterwards.

An item of work is some rows of an image: the rows of the source that reach them are multiplied into a scratch, which
stays in the second-level cache, and added up from there.
"""

from cython.parallel cimport prange, threadid
from libc.stdlib cimport calloc, free

from cnet.kernels._dispatch cimport GRAIN, cn_epilogue, cn_table, table, team, whole_lines
from cnet.kernels._frame cimport frame_row, load_rows
from cnet.kernels._passes cimport Pass, Sink, Source

cdef enum:
    # Work items that a call is cut into where the batch alone does not give as many.
    ITEMS = 16
    # Floats of products of an item: a quarter of a 2 MB second-level cache.
    PRODUCTS = 131072

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
        self.starts = <Py_ssize_t*>calloc(self.width, sizeof(Py_ssize_t))
        if self.starts is NULL:
            raise MemoryError
        for i in range(self.width):
            self.starts[i] = self.columns.source[i] * self.products() + self.columns.first[i] * self.channels

    def __dealloc__(self):
        free(self.rows.taps)
        free(self.columns.taps)
        free(self.starts)

    cdef Py_ssize_t products(self) noexcept nogil:
        """Floats that a source pixel is multiplied into, in whole panels of every instruction set."""
        return (self.kernel_height * self.kernel_width * self.channels + 31) // 32 * 32

    cdef Py_ssize_t rows_per_item(self, Py_ssize_t samples) noexcept nogil:
        cdef Py_ssize_t source_rows = PRODUCTS // (self.frame.width * self.products())
        cdef Py_ssize_t fitting = (source_rows - self.kernel_height // self.row_step - 1) * self.row_step
        cdef Py_ssize_t work = self.frame.height * self.frame.width * self.products() * self.frame.channels
        cdef Py_ssize_t blocks = max(<Py_ssize_t>1, min((ITEMS + samples - 1) // samples, work // GRAIN))
        # Rows at the seams are multiplied twice: not for fewer rows than the kernel has.
        return min(self.height, max(self.kernel_height, min(fitting, (self.height + blocks - 1) // blocks)))

    cdef Py_ssize_t most_source_rows(self, Py_ssize_t samples) noexcept nogil:
        cdef Py_ssize_t rows = self.rows_per_item(samples) + self.kernel_height - 2
        return min(self.frame.height, rows // self.row_step + 1)

    cdef Py_ssize_t scratch_size(self, Py_ssize_t samples, Py_ssize_t panel, bint through) noexcept nogil:
        # A vector may be read from the last channels on.
        cdef Py_ssize_t rows = self.most_source_rows(samples)
        cdef Py_ssize_t size = rows * self.frame.width * self.products() + panel
        return size + (whole_lines(rows * frame_row(&self.frame)) if through else 0)

    cdef Py_ssize_t workspace_size(
        self, Py_ssize_t samples, bint through, const cn_epilogue* epilogue, int threads
    ) noexcept nogil:
        """The packed weights, and a scratch for each thread."""
        return (self.products() * self.frame.channels
                + threads * self.scratch_size(samples, table().tile_columns, through))

    cdef void run(
        self, const Source* x, const float* weight, bint transposed, const float* bias, Sink sink, Py_ssize_t samples,
        float* workspace, int threads
    ):
        cdef const cn_table* c = table()
        cdef Py_ssize_t panel = c.tile_columns, depth = self.frame.channels
        cdef Py_ssize_t breadth = self.kernel_height * self.kernel_width * self.channels
        cdef Py_ssize_t panels = (breadth + panel - 1) // panel, scratch_size, rows, blocks, item, image, block
        cdef float* scratch = workspace + self.products() * depth
        cdef int count = team(panels, breadth * depth // 4, threads)
        scratch_size = self.scratch_size(samples, panel, x.epilogue is not NULL)
        for item in prange(panels, nogil=True, schedule="static", num_threads=count):
            c.pack_transposed_f32(
                depth, min(panel, breadth - item * panel), weight + item * panel * depth, depth,
                workspace + item * panel * depth)
        rows = self.rows_per_item(samples)
        blocks = (self.height + rows - 1) // rows
        count = team(samples * blocks, samples * self.frame.height * self.frame.width * breadth * depth, threads)
        for item in prange(samples * blocks, nogil=True, schedule="static", num_threads=count):
            image = item // blocks
            block = item % blocks
            self.run_item(
                c, x, workspace, sink.y, scratch + threadid() * scratch_size, samples, image, block * rows,
                min(self.height, (block + 1) * rows))

    cdef void run_item(
        self, const cn_table* c, const Source* x, const float* packed, float* y, float* scratch, Py_ssize_t samples,
        Py_ssize_t image, Py_ssize_t first_row, Py_ssize_t last_row
    ) noexcept nogil:
        cdef Py_ssize_t panel = c.tile_columns, depth = self.frame.channels, width = self.frame.width
        cdef Py_ssize_t breadth = self.kernel_height * self.kernel_width * self.channels, products = self.products()
        cdef Py_ssize_t first = self.frame.height, last = 0, row, column = 0, image_rows = image * self.frame.height
        cdef float* copy = scratch + self.most_source_rows(samples) * width * products + panel
        cdef const float* source
        for row in range(first_row, last_row):
            if self.rows.taps[row] > 0:
                last = max(last, self.rows.source[row] + 1)
                first = min(first, self.rows.source[row] - self.rows.taps[row] + 1)
        source = x.x + (image_rows + first) * width * depth
        if x.epilogue is not NULL and first < last:
            load_rows(c, &self.frame, x, image, copy, first, last)
            source = copy
        while column < breadth and first < last:
            c.gemm_f32(
                (last - first) * width, min(panel, breadth - column), source, depth, WHOLE, 1, depth,
                packed + column * depth, panel, NULL, 0, scratch + column, products)
            column = column + panel
        for row in range(first_row, last_row):
            c.overlap_row_f32(
                self.width, self.channels, self.starts, self.columns.taps,
                self.column_step * self.channels - products, self.rows.taps[row],
                self.row_step * self.kernel_width * self.channels - width * products,
                scratch + (self.rows.source[row] - first) * width * products
                + self.rows.first[row] * self.kernel_width * self.channels,
                y + (image * self.height + row) * self.width * self.channels)
