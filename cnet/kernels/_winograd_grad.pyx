"""The weight gradient of 3 x 3 convolutions of stride 1 by Winograd's minimal filtering, see csrc/kernels/winograd.c.

The work goes in rounds of so many tiles that their transforms stay in the second-level caches. In each round the
threads first transform the pixels of ``x`` and ``dy``, unit by unit, and then add the products to the sums, each thread
to elements of its own: no partial sums, and one order of summation whatever the number of threads.

Transforms lie as ``[element][panel of channels][tile][channel]``, so that a register tile reads what lies together.
"""

from cython.parallel cimport prange, threadid
from libc.string cimport memset

from cnet.kernels._ahead cimport Stretch, ask_part, stretch
from cnet.kernels._dispatch cimport cn_table, table, team
from cnet.kernels._frame cimport Frame, frame_row, image_floats, load_rows
from cnet.kernels._passes cimport GradPass, Source
from cnet.kernels._winograd cimport plane, whole_lines

cdef enum:
    # Tiles that are transformed by one thread at a time.
    UNIT_TILES = 16
    # Floats of the transforms of a round: half of a 2 MB second-level cache. 128 K to 512 K measured alike, 1 M slower.
    ROUND_FLOATS = 262144
    # The sums are read and written once a round: at least so many tiles make that worth while.
    LEAST_TILES = 64


cdef class WinogradGrad(GradPass):
    """Geometry of a weight gradient, bound once; arguments as for ``Winograd`` of the forward pass."""

    def __cinit__(self, source, target, Py_ssize_t top, Py_ssize_t left, Py_ssize_t m):
        assert m in (2, 4) and top >= 0 and left >= 0
        self.source.height, self.source.width, self.source.channels = source
        self.target.height, self.target.width, self.target.channels = target
        self.m, self.elements = m, (m + 2) * (m + 2)
        self.tile_rows = (self.target.height + m - 1) // m
        self.tile_columns = (self.target.width + m - 1) // m
        self.source.top, self.source.left = top, left
        self.target.rows, self.target.columns = self.tile_rows * m, self.tile_columns * m
        self.source.rows, self.source.columns = self.target.rows + 2, self.target.columns + 2
        self.unit_rows = max(<Py_ssize_t>1, min(self.tile_rows, UNIT_TILES // self.tile_columns))
        self.units = (self.tile_rows + self.unit_rows - 1) // self.unit_rows

    cdef Py_ssize_t round_units(self, Py_ssize_t samples) noexcept nogil:
        cdef Py_ssize_t channels = self.source.channels + self.target.channels
        cdef Py_ssize_t tiles = max(<Py_ssize_t>LEAST_TILES, ROUND_FLOATS // (self.elements * channels))
        return min(samples * self.units, max(<Py_ssize_t>1, tiles // (self.unit_rows * self.tile_columns)))

    cdef Py_ssize_t transform_size(self, Py_ssize_t samples, Py_ssize_t channels, Py_ssize_t panel) noexcept nogil:
        """Floats of the transforms of a round, of so many channels."""
        cdef Py_ssize_t tiles = self.round_units(samples) * self.unit_rows * self.tile_columns
        return self.elements * ((channels + panel - 1) // panel) * plane(tiles * panel)

    cdef Py_ssize_t scratch_size(self) noexcept nogil:
        cdef Py_ssize_t rows = self.unit_rows * self.m
        return whole_lines((rows + 2) * frame_row(&self.source)) + whole_lines(rows * frame_row(&self.target))

    cdef Py_ssize_t workspace_size(self, Py_ssize_t samples, bint through, int threads) noexcept nogil:
        """Transforms, sums, a bias gradient for each unit, a scratch for each thread."""
        cdef Py_ssize_t panel = table().tile_columns
        cdef Py_ssize_t transforms = self.transform_size(samples, self.source.channels, panel)
        transforms += self.transform_size(samples, self.target.channels, panel)
        return (transforms + self.elements * plane(self.source.channels * self.target.channels)
                + whole_lines(samples * self.units * self.target.channels) + threads * self.scratch_size())

    cdef Py_ssize_t first_tile(self, Py_ssize_t unit) noexcept nogil:
        """The number of a unit's first tile, counted over all images."""
        return (unit // self.units * self.tile_rows + unit % self.units * self.unit_rows) * self.tile_columns

    cdef void run(
        self, const float* x, const Source* dy, float* dweight, float* dbias, Py_ssize_t samples, float* workspace,
        int threads
    ):
        cdef const cn_table* c = table()
        cdef Py_ssize_t panel = c.tile_columns, depth = self.source.channels, breadth = self.target.channels
        cdef Py_ssize_t blocks = (depth + panel - 1) // panel, panels = (breadth + panel - 1) // panel
        cdef Py_ssize_t units = samples * self.units, step = self.round_units(samples), weights = depth * breadth
        cdef Py_ssize_t sum_plane = plane(weights), scratch_size = self.scratch_size()
        cdef Py_ssize_t first, last, tiles, item, element, block, column, chunk = 4096
        cdef float* source = workspace
        cdef float* target = source + self.transform_size(samples, depth, panel)
        cdef float* sums = target + self.transform_size(samples, breadth, panel)
        cdef float* biases = sums + self.elements * sum_plane
        cdef float* scratch = biases + whole_lines(units * breadth)
        cdef float* to
        cdef Source images = Source(x, NULL, NULL, NULL, NULL, NULL, NULL)
        # What the next round transforms, unless channels are so many that it would push this round's out of the cache:
        # asking for it took 25 % off the time of 32 x 64 channels, and cost 256 x 256 channels 15 %.
        cdef bint roomy = self.elements * (depth + breadth) * LEAST_TILES < ROUND_FLOATS
        # The gradient only where it is read pixel by pixel.
        cdef bint whole = roomy and (dy.epilogue is NULL or dy.raw is not NULL)
        cdef Stretch pixels, gradient
        cdef Py_ssize_t following, parts = self.elements * blocks * panels
        cdef int count
        for first in range(0, units, step):
            last = min(units, first + step)
            tiles = self.first_tile(last) - self.first_tile(first)
            # Transforming a float costs about as much as eight multiply-adds.
            count = team(last - first, 8 * tiles * self.elements * (depth + breadth), threads)
            for item in prange(first, last, nogil=True, schedule="static", num_threads=count):
                self.transform(
                    c, &images, dy, item, self.first_tile(item) - self.first_tile(first), tiles, source, target,
                    biases + item * breadth if dbias is not NULL else NULL, scratch + threadid() * scratch_size)
            following = min(units, last + step)
            pixels = self.ahead(&self.source, x, last, following if roomy else last, samples, parts)
            gradient = self.ahead(
                &self.target, dy.raw if dy.raw is not NULL else dy.x, last, following if whole else last, samples,
                parts)
            count = team(parts, tiles * self.elements * weights, threads)
            for item in prange(parts, nogil=True, schedule="static", num_threads=count):
                # Each thread asks for what it will read itself.
                ask_part(&pixels, item)
                ask_part(&gradient, item)
                element = item // (blocks * panels)
                block = item // panels % blocks
                column = item % panels * panel
                to = sums + element * sum_plane + block * panel * breadth + column
                c.outer_f32(
                    min(panel, depth - block * panel), min(panel, breadth - column), 1, tiles,
                    source + (element * blocks + block) * plane(tiles * panel), 0, panel,
                    target + (element * panels + item % panels) * plane(tiles * panel), 0, panel,
                    to if first > 0 else NULL, to, breadth)
        count = team((weights + chunk - 1) // chunk, 16 * weights, threads)
        for item in prange((weights + chunk - 1) // chunk, nogil=True, schedule="static", num_threads=count):
            c.winograd_weight_grad_f32(
                self.m, min(chunk, weights - item * chunk), sums + item * chunk, sum_plane, dweight + item * chunk,
                weights)
        if dbias is not NULL:
            c.column_sum_f32(units, breadth, biases, breadth, dbias)

    cdef Stretch ahead(
        self, const Frame* f, const float* images, Py_ssize_t first, Py_ssize_t last, Py_ssize_t samples,
        Py_ssize_t times
    ) noexcept nogil:
        """The pixels of some units."""
        cdef Py_ssize_t row = min(f.height, first % self.units * self.unit_rows * self.m), line = f.width * f.channels
        cdef Py_ssize_t start = (first // self.units * f.height + row) * line
        cdef Py_ssize_t floats = (last - first) * self.unit_rows * self.m * line
        return stretch(images + start, min(floats, samples * image_floats(f) - start), times)

    cdef void transform(
        self, const cn_table* c, const Source* x, const Source* dy, Py_ssize_t unit, Py_ssize_t tile, Py_ssize_t tiles,
        float* source, float* target, float* bias, float* scratch
    ) noexcept nogil:
        """Transform a unit, whose tiles are those from ``tile`` on of the round's ``tiles``."""
        cdef Py_ssize_t panel = c.tile_columns, image = unit // self.units, row, block
        cdef Py_ssize_t first = unit % self.units * self.unit_rows, last = min(self.tile_rows, first + self.unit_rows)
        cdef Py_ssize_t depth = self.source.channels, breadth = self.target.channels, space = plane(tiles * panel)
        cdef Py_ssize_t line = frame_row(&self.source), line_out = frame_row(&self.target), pixels
        cdef Py_ssize_t blocks = (depth + panel - 1) // panel, panels = (breadth + panel - 1) // panel
        cdef float* gradient = scratch + whole_lines((self.unit_rows * self.m + 2) * line)
        load_rows(c, &self.source, x, image, scratch, first * self.m, last * self.m + 2)
        load_rows(c, &self.target, dy, image, gradient, first * self.m, last * self.m)
        if bias is not NULL:
            # The frame is zero beyond the image, which adds nothing.
            memset(bias, 0, breadth * sizeof(float))
            pixels = (last - first) * self.m * self.target.columns
            c.column_sum_f32(pixels, breadth, gradient, breadth, bias)
        for row in range(last - first):
            for block in range(blocks):
                c.winograd_input_f32(
                    self.m, self.tile_columns, min(panel, depth - block * panel),
                    scratch + row * self.m * line + block * panel, line, depth,
                    source + block * space + (tile + row * self.tile_columns) * panel, blocks * space, panel)
            for block in range(panels):
                c.winograd_output_grad_f32(
                    self.m, self.tile_columns, min(panel, breadth - block * panel),
                    gradient + row * self.m * line_out + block * panel, line_out, breadth,
                    target + block * space + (tile + row * self.tile_columns) * panel, panels * space, panel)
