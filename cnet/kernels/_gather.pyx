"""The loop nest behind convolution: every output pixel gathers a weighted sum of source pixels under a window.

::

    y[n, p + i * out_step, q + j * out_step, o] = bias[o]
        + sum over taps t of phase (p, q), and c, of  x[n, i * step + row[t], j * step + column[t], c] * w[t][c, o]

A convolution's forward pass is one phase whose taps step through the kernel. Its input gradient gathers too, from the
output gradient with the weights transposed: with stride s the pixels of each residue class modulo s see a fixed subset
of the taps, so it is s * s phases. (A transposed convolution is the same two passes exchanged.)

The window's pixels are read in place through the channels-last layout: a row of the window is one contiguous stretch,
or one stretch per tap where dilation or groups part them. Where windows reach over the edge, a thread first copies the
image into zeros, in a scratch that stays in its second-level cache; there is no other copy, and no patch matrix.
"""

cimport cython
from cython.parallel cimport prange, threadid
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from cnet.kernels._dispatch cimport CN_LINE, GRAIN, cn_epilogue, cn_table, table, team, whole_lines
from cnet.kernels._frame cimport frame_row, image_floats, load_rows
from cnet.kernels._passes cimport Pass, Sink, Source, put_windows

cdef enum:
    # Work items that a call is cut into where the batch alone does not give as many.
    ITEMS = 16
    # Weights beyond this many floats (a quarter of a 2 MB second-level cache) do not stay there beside the images, so a
    # few images at a time share each panel; and so many floats of images at most.
    RESIDENT = 131072
    SHARED_IMAGES = 4
    # What the cost of a layer is made of, in multiply-adds of a vector at full speed, fitted to the times of 180 layers
    # with a first-level cache of 48 KB and a second-level cache of 2 MB: what a tile takes for each vector; a cache
    # line of weights where so many floats do not stay in the first-level cache, and where so many do not in the second.
    TILE_COST = 40
    NEAR_FLOATS = 6144
    FAR_COST = 10
    FAR_FLOATS = 655360
    FARTHEST_COST = 26


cdef class Gather(Pass):
    """Geometry of a gather, bound once.

    ``source`` and ``target`` are ``(height, width, channels)``, ``step`` and ``out_step`` are per axis, and ``phases``
    is a list of ``(first_row, first_column, row_taps, column_taps)`` with taps ``(source offset, kernel index)`` in
    ascending order of offset. ``kernel_width`` turns a pair of kernel indices into a tap number.
    """

    def __cinit__(self, source, target, step, out_step, Py_ssize_t groups, Py_ssize_t kernel_width, phases):
        self.frame.height, self.frame.width, self.channels = source
        self.frame.channels = self.channels
        self.out_height, self.out_width, self.out_channels = target
        self.row_step, self.column_step = step
        self.out_row_step, self.out_column_step = out_step
        self.groups, self.pixels = groups, 1
        self.depth = self.channels // groups
        self.breadth = self.out_channels // groups
        self.depthwise = groups > 1 and self.depth == 1 and self.breadth == 1
        self._measure_padding(phases)
        self.phase_count = len(phases)
        self.taps = sum(len(rows) * len(columns) for _, _, rows, columns in phases)
        self.phases = <Phase*>calloc(max(1, self.phase_count), sizeof(Phase))
        cdef Py_ssize_t tap_rows = sum(len(rows) for _, _, rows, _ in phases)
        self.indices = <Py_ssize_t*>calloc(max(1, 2 * self.taps + tap_rows), sizeof(Py_ssize_t))
        if self.phases is NULL or self.indices is NULL:
            raise MemoryError()
        self._bind_phases(phases, kernel_width)

    def __dealloc__(self):
        free(self.phases)
        free(self.indices)

    @cython.wraparound(True)
    def _measure_padding(self, phases):
        # The rows and columns that some window reads, from the first to one past the last.
        low_row = low_column = 0
        high_row, high_column = self.frame.height, self.frame.width
        for first_row, first_column, row_taps, column_taps in phases:
            rows, columns = self._extent(first_row, first_column)
            if rows and row_taps and columns and column_taps:
                low_row = min(low_row, row_taps[0][0])
                low_column = min(low_column, column_taps[0][0])
                high_row = max(high_row, (rows - 1) * self.row_step + row_taps[-1][0] + 1)
                high_column = max(high_column, (columns - 1) * self.column_step + column_taps[-1][0] + 1)
        self.frame.top, self.frame.left = -low_row, -low_column
        # From a window's first row to one past its last, for the phase that reaches furthest.
        reach = (rows[-1][0] + 1 for _, _, rows, columns in phases if rows and columns)
        self.reach = self.frame.top + max(reach, default=0)
        self.frame.rows, self.frame.columns = high_row - low_row, high_column - low_column
        self.padded = (self.frame.rows, self.frame.columns) != (self.frame.height, self.frame.width)

    def _extent(self, first_row, first_column):
        rows = -(-(self.out_height - first_row) // self.out_row_step)
        columns = -(-(self.out_width - first_column) // self.out_column_step)
        return max(0, rows), max(0, columns)

    def _bind_phases(self, phases, Py_ssize_t kernel_width):
        cdef Phase* phase
        cdef Py_ssize_t row = frame_row(&self.frame)
        cdef Py_ssize_t bound = 0, bound_rows = 2 * self.taps, number, i
        for number, (first_row, first_column, row_taps, column_taps) in enumerate(phases):
            phase = &self.phases[number]
            phase.first_row, phase.first_column = first_row, first_column
            phase.rows, phase.columns = self._extent(first_row, first_column)
            phase.taps = len(row_taps) * len(column_taps)
            phase.order, phase.segments = self.indices + 2 * bound, self.indices + 2 * bound + phase.taps
            phase.packed = bound * self.depth
            offsets = [
                (r + self.frame.top) * row + (q + self.frame.left) * self.channels
                for r, _ in row_taps for q, _ in column_taps
            ]
            for i, index in enumerate(kh * kernel_width + kw for _, kh in row_taps for _, kw in column_taps):
                phase.order[i] = index
            # Neighbouring taps of a row make one stretch when their pixels touch and every channel takes part.
            touching = all(b[0] == a[0] + 1 for a, b in zip(column_taps, column_taps[1:]))
            stretch = len(column_taps) if self.groups == 1 and touching and column_taps else 1
            for i, offset in enumerate(offsets[::stretch]):
                phase.segments[i] = offset
            phase.segment_count, phase.run = phase.taps // stretch, stretch * self.depth
            phase.row_taps, phase.tap_rows = len(row_taps), self.indices + bound_rows
            for i, (offset, _) in enumerate(row_taps):
                phase.tap_rows[i] = offset + self.frame.top
            bound += phase.taps
            bound_rows += phase.row_taps
            self.phase_rows = max(self.phase_rows, phase.rows)
            self.phase_columns = max(self.phase_columns, phase.columns)

    cdef Py_ssize_t panel(self, const cn_table* c) noexcept nogil:
        """Output channels of a group that are computed at once."""
        return c.tile_columns

    cdef Py_ssize_t packed_size(self, Py_ssize_t panel) noexcept nogil:
        if self.depthwise:
            return self.taps * self.channels
        return self.groups * ((self.breadth + panel - 1) // panel) * panel * self.taps * self.depth

    cdef Py_ssize_t image_size(self, bint through) noexcept nogil:
        """Floats of one image in its frame, in whole cache lines; 0 where it can be read in place."""
        return whole_lines(self.frame.rows * frame_row(&self.frame)) if self.padded or through else 0

    cdef Py_ssize_t images_per_item(self, Py_ssize_t samples, Py_ssize_t panel) noexcept nogil:
        if self.packed_size(panel) <= RESIDENT:
            return 1
        cdef Py_ssize_t images = RESIDENT // max(1, self.frame.height * self.frame.width * self.channels)
        return max(1, min(min(images, <Py_ssize_t>SHARED_IMAGES), samples // ITEMS))

    cdef Py_ssize_t least_rows(self, Py_ssize_t images) noexcept nogil:
        """Rows of so many images that are worth an item of their own."""
        return 1

    cdef Py_ssize_t block_size(self, Py_ssize_t panel, const cn_epilogue* epilogue) noexcept nogil:
        """Floats of a row of windows of one panel, which waits in the nearest cache for its epilogue."""
        if epilogue is NULL:
            return 0
        return whole_lines(epilogue.pool_rows * self.out_width * (self.channels if self.depthwise else panel))

    cdef Py_ssize_t workspace_size(
        self, Py_ssize_t samples, bint through, const cn_epilogue* epilogue, int threads
    ) noexcept nogil:
        """The packed weights, and for each thread the images of an item and a block of rows."""
        cdef Py_ssize_t panel = self.panel(table())
        cdef Py_ssize_t scratch = self.images_per_item(samples, panel) * self.image_size(through)
        return whole_lines(self.packed_size(panel)) + threads * (scratch + self.block_size(panel, epilogue))

    cdef void run(
        self, const Source* x, const float* weight, bint transposed, const float* bias, Sink sink, Py_ssize_t samples,
        float* workspace, int threads
    ):
        cdef const cn_table* c = table()
        cdef Py_ssize_t panel = self.panel(c), packed_size = whole_lines(self.packed_size(panel))
        cdef Py_ssize_t share = self.images_per_item(samples, panel), batches = (samples + share - 1) // share
        cdef Py_ssize_t work = samples * self.taps * self.depth * self.out_channels * self.phase_rows * (
            self.out_width // self.out_column_step)
        # Blocks of rows end where windows of the epilogue do, and are worth a thread's while.
        cdef Py_ssize_t unit = sink.epilogue.pool_rows if sink.epilogue is not NULL else 1
        cdef Py_ssize_t units = self.phase_rows // unit
        # Two items at least: one image has to be enough for two threads.
        cdef Py_ssize_t least = max(<Py_ssize_t>1, min(self.least_rows(share), self.phase_rows * batches // 2))
        cdef Py_ssize_t blocks = max(1, min(
            min(units, (ITEMS + batches - 1) // batches), min(work // batches // GRAIN, self.phase_rows // least)))
        cdef bint through = x.epilogue is not NULL
        cdef Py_ssize_t scratch_size = share * self.image_size(through) + self.block_size(panel, sink.epilogue)
        cdef float* scratch = workspace + packed_size
        cdef Py_ssize_t panels = 1 if self.depthwise else self.groups * ((self.breadth + panel - 1) // panel)
        cdef Py_ssize_t item, batch, block
        cdef int count = team(panels, packed_size // 4, threads)
        for item in prange(panels, nogil=True, schedule="static", num_threads=count):
            self.pack(c, item, weight, transposed, workspace)
        count = team(batches * blocks, work, threads)
        for item in prange(batches * blocks, nogil=True, schedule="static", num_threads=count):
            batch = item // blocks
            block = item % blocks
            self.run_item(
                c, x, workspace, bias, &sink, scratch + threadid() * scratch_size,
                batch * share, min(samples, (batch + 1) * share),
                units * block // blocks * unit, units * (block + 1) // blocks * unit,
            )

    cdef void pack(
        self, const cn_table* c, Py_ssize_t item, const float* weight, bint transposed, float* packed
    ) noexcept nogil:
        """Panel ``item`` of every phase, in the order in which the phase's segments meet the taps."""
        cdef Py_ssize_t panel = self.panel(c), panels = (self.breadth + panel - 1) // panel
        cdef Py_ssize_t group = item // panels, column = item % panels * panel
        cdef Py_ssize_t count = min(panel, self.breadth - column), number, place, tap, taps
        cdef Phase* phase
        cdef float* to
        for number in range(self.phase_count):
            phase = &self.phases[number]
            if self.depthwise:
                to = packed + phase.packed * self.channels
                for place in range(phase.taps):
                    memcpy(to + place * self.channels, weight + phase.order[place] * self.channels,
                           self.channels * sizeof(float))
                continue
            to = packed + (phase.packed * panels * self.groups + item * phase.taps * self.depth) * panel
            place = 0
            while place < phase.taps:
                tap = phase.order[place]
                taps = 1
                if transposed:
                    c.pack_transposed_f32(
                        self.depth, count, weight + (tap * self.breadth + column) * self.channels + group * self.depth,
                        self.channels, to)
                else:
                    # Taps that follow each other in memory too are packed together.
                    while place + taps < phase.taps and phase.order[place + taps] == tap + taps:
                        taps = taps + 1
                    c.pack_f32(
                        taps * self.depth, count,
                        weight + tap * self.depth * self.out_channels + group * self.breadth + column,
                        self.out_channels, to)
                to += taps * self.depth * panel
                place = place + taps

    cdef void run_item(
        self, const cn_table* c, const Source* x, const float* packed, const float* bias, const Sink* sink,
        float* scratch, Py_ssize_t first_image, Py_ssize_t last_image, Py_ssize_t first_row, Py_ssize_t last_row
    ) noexcept nogil:
        """Rows ``first_row`` to ``last_row`` of every phase, for a few images."""
        cdef bint through = x.epilogue is not NULL
        cdef Py_ssize_t image_size = image_floats(&self.frame), first_source = first_row * self.row_step, last_source
        cdef Py_ssize_t image
        cdef const float* source = x.x + first_image * image_size + first_source * self.frame.width * self.channels
        cdef float* block = scratch + (last_image - first_image) * self.image_size(through)
        if self.padded or through:
            # Up to the last row that the last window of this block reads.
            last_source = min(self.frame.rows, (last_row - 1) * self.row_step + self.reach)
            # There may be none left, where no window meets the image.
            first_source = min(first_source, last_source)
            source, image_size = scratch, self.image_size(through)
            for image in range(first_image, last_image):
                load_rows(
                    c, &self.frame, x, image, scratch + (image - first_image) * image_size, first_source, last_source)
        self.item_rows(
            c, source, image_size, packed, bias, sink, block, first_image, last_image, first_row, last_row)

    cdef void item_rows(
        self, const cn_table* c, const float* source, Py_ssize_t image_size, const float* packed, const float* bias,
        const Sink* sink, float* block, Py_ssize_t first_image, Py_ssize_t last_image, Py_ssize_t first_row,
        Py_ssize_t last_row
    ) noexcept nogil:
        """The same, of images that can be read in place: ``source`` is the first row of windows of the first."""
        cdef Py_ssize_t panel = self.panel(c), panels = (self.breadth + panel - 1) // panel
        cdef Py_ssize_t image, number, index, group, column
        cdef Phase* phase
        for number in range(self.phase_count):
            phase = &self.phases[number]
            if self.depthwise:
                for image in range(first_image, last_image):
                    self.rows(
                        c, phase, source + (image - first_image) * image_size, packed + phase.packed * self.channels,
                        bias, sink, block, image, 0, self.channels, first_row, last_row)
                continue
            # A panel of weights meets every image of the item while it is in the cache.
            for index in range(self.groups * panels):
                group = index // panels
                column = index % panels * panel
                for image in range(first_image, last_image):
                    self.rows(
                        c, phase, source + (image - first_image) * image_size + group * self.depth,
                        packed + (phase.packed * panels * self.groups + index * phase.taps * self.depth) * panel,
                        bias, sink, block, image, group * self.breadth + column, min(panel, self.breadth - column),
                        first_row, last_row)

    cdef void rows(
        self, const cn_table* c, const Phase* phase, const float* source, const float* packed, const float* bias,
        const Sink* sink, float* block, Py_ssize_t image, Py_ssize_t channel, Py_ssize_t width, Py_ssize_t first_row,
        Py_ssize_t last_row
    ) noexcept nogil:
        """Rows of one phase and one image, for ``width`` output channels from ``channel`` on."""
        cdef Py_ssize_t pixel = self.column_step * self.channels, out_pixel = self.out_column_step * self.out_channels
        cdef Py_ssize_t source_row = self.row_step * frame_row(&self.frame), row, place
        # The pixels of a block lie together, those of a panel apart.
        cdef Py_ssize_t block_pixel = self.out_channels if self.depthwise or self.pixels > 1 else self.panel(c)
        cdef Py_ssize_t block_row = self.out_width * block_pixel
        cdef Py_ssize_t top, bottom, first = 0, segments = phase.segment_count, each
        cdef const cn_epilogue* epilogue = sink.epilogue
        cdef float* to
        each = segments // phase.row_taps if segments > 0 else 0
        if bias is not NULL:
            bias = bias + channel
        if epilogue is not NULL:
            out_pixel = block_pixel
        for row in range(first_row, min(last_row, phase.rows)):
            if epilogue is not NULL:
                to = block + row % epilogue.pool_rows * block_row
            else:
                place = (image * self.out_height + phase.first_row + row * self.out_row_step) * self.out_width
                to = sink.y + (place + phase.first_column) * self.out_channels + channel
            if self.skips and each > 0:
                # Rows of the window above the image and below it.
                top, bottom = self.frame.top - row * self.row_step, phase.row_taps
                first = 0
                while first < bottom and phase.tap_rows[first] < top:
                    first += 1
                while bottom > first and phase.tap_rows[bottom - 1] >= top + self.frame.height:
                    bottom -= 1
                first, segments = first * each, (bottom - first) * each
            if self.depthwise:
                c.depthwise_f32(
                    phase.columns, width, phase.taps, source, pixel, phase.segments, packed, bias, to, out_pixel)
            else:
                self.products(c, phase, first, segments, width, source, packed, bias, to, out_pixel)
            source += source_row
            if epilogue is not NULL and row % epilogue.pool_rows == epilogue.pool_rows - 1:
                put_windows(
                    c, sink, image * self.out_height // epilogue.pool_rows + row // epilogue.pool_rows,
                    self.out_width * self.pixels // epilogue.pool_columns, self.out_channels // self.pixels, channel,
                    width // self.pixels, block, block_row, block_pixel // self.pixels)

    cdef void products(
        self, const cn_table* c, const Phase* phase, Py_ssize_t first, Py_ssize_t segments, Py_ssize_t width,
        const float* source, const float* packed, const float* bias, float* to, Py_ssize_t out_pixel
    ) noexcept nogil:
        """A row of pixels of a phase from some segments, for the ``width`` output channels of a panel."""
        c.gemm_f32(
            phase.columns, width, source, self.column_step * self.channels, phase.segments + first, segments,
            phase.run, packed + first * phase.run * c.tile_columns, c.tile_columns, bias, 0, to, out_pixel)

    cdef double cost(self, const cn_table* c) noexcept nogil:
        """What an image takes, in multiply-adds of a vector at full speed."""
        cdef Py_ssize_t panels = self.breadth // c.tile_columns, rest = self.breadth % c.tile_columns, number
        cdef Py_ssize_t most = self.packed_size(c.tile_columns)
        cdef double sum = 0
        for number in range(self.phase_count):
            sum += panels * panel_cost(c, &self.phases[number], c.tile_columns, most)
            if rest > 0:
                sum += panel_cost(c, &self.phases[number], rest, most)
        return sum * self.groups


cdef double panel_cost(const cn_table* c, const Phase* phase, Py_ssize_t width, Py_ssize_t packed) noexcept nogil:
    """What a phase takes for one panel of output channels, whose weights are part of so many floats."""
    cdef Py_ssize_t tiles = (phase.columns + c.tile_rows - 1) // c.tile_rows, vectors = (width + c.lanes - 1) // c.lanes
    cdef Py_ssize_t terms = phase.segment_count * phase.run
    cdef double rows, step
    if tiles == 0:
        return 0
    rows = <double>phase.columns / tiles
    # The two loads of a cycle feed two multiply-adds.
    step = max(max(<double>IN_FLIGHT, rows * vectors), rows + vectors)
    if terms * vectors * c.lanes > NEAR_FLOATS:
        step = max(step, <double>FAR_COST * vectors * c.lanes / CN_LINE)
    if packed > FAR_FLOATS:
        step = max(step, <double>FARTHEST_COST * vectors * c.lanes / CN_LINE)
    return tiles * phase.rows * (terms * step + TILE_COST * vectors + STRETCH_COST * phase.segment_count)
