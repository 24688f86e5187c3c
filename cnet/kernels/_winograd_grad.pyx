"""The weight gradient of 3 x 3 convolutions of stride 1 by Winograd's minimal filtering, see csrc/kernels/winograd.c.

The work goes in rounds of so many tiles that their transforms stay in a second-level cache: the pixels of ``x`` and
``dy`` are transformed, unit by unit, and the products added to the sums. Where channels are few, a thread does whole
rounds by itself, for parts of the batch whose sums are added up at the end: what one core has transformed, another
would have to wait for. Where they are many, the sums are too large to have several of them, and the threads share each
round: first the units, and then the elements of the sums. Either way the order of summation follows from the shape.

Transforms lie as ``[element][panel of channels][tile][channel]``, so that a register tile reads what lies together.
"""

from cython.parallel cimport prange, threadid
from libc.string cimport memset

from cnet.kernels._ahead cimport Ahead, ahead, ask
from cnet.kernels._dispatch cimport cn_table, table, team, whole_lines
from cnet.kernels._frame cimport Frame, frame_row, image_floats, load_rows
from cnet.kernels._passes cimport GradPass, Source
from cnet.kernels._winograd cimport plane

cdef enum:
    # Tiles that are transformed by one thread at a time.
    UNIT_TILES = 16
    # Floats of the transforms of a round, with the sums of a part: half of a 2 MB second-level cache. 128 K to 512 K
    # measured alike, 1 M slower.
    ROUND_FLOATS = 262144
    # The sums are read and written once a round: at least so many tiles make that worth while. With half as many,
    # layers of 128 channels took 10 to 20 % longer.
    LEAST_TILES = 64
    # More in one sum would lose digits.
    MOST_TILES = 128
    # Weights of an item of what follows.
    CHUNK = 2048
    # Parts that are summed up apart, no fewer than the first and no more than the second number of them, each of so
    # many tiles that adding them up takes a twentieth of the time.
    FEWEST_PARTS = 4
    MOST_PARTS = 8
    PART_TILES = 384


cdef class WinogradGrad(GradPass):
    """Geometry of a weight gradient, bound once; arguments as for ``Winograd`` of the forward pass."""

    def __cinit__(self, source, target, Py_ssize_t top, Py_ssize_t left, tile):
        assert tile in ((2, 2), (4, 2), (4, 4)) and top >= 0 and left >= 0
        self.source.height, self.source.width, self.source.channels = source
        self.target.height, self.target.width, self.target.channels = target
        self.m, self.n = m, n = tile
        self.elements = (m + 2) * (n + 2)
        self.tile_rows = (self.target.height + m - 1) // m
        self.tile_columns = (self.target.width + n - 1) // n
        self.source.top, self.source.left = top, left
        self.target.rows, self.target.columns = self.tile_rows * m, self.tile_columns * n
        self.source.rows, self.source.columns = self.target.rows + 2, self.target.columns + 2
        self.unit_rows = max(<Py_ssize_t>1, min(self.tile_rows, UNIT_TILES // self.tile_columns))
        self.units = (self.tile_rows + self.unit_rows - 1) // self.unit_rows

    cdef Py_ssize_t parts(self, Py_ssize_t samples) noexcept nogil:
        """Parts of the batch that are summed up apart; 1 where threads share each round."""
        cdef Py_ssize_t parts = min(samples * self.tile_rows * self.tile_columns // PART_TILES, <Py_ssize_t>MOST_PARTS)
        if parts < FEWEST_PARTS or self.elements * self.source.channels * self.target.channels > ROUND_FLOATS:
            return 1
        return min(parts, samples * self.units)

    cdef Py_ssize_t round_units(self, Py_ssize_t samples) noexcept nogil:
        cdef Py_ssize_t channels = self.source.channels + self.target.channels, space = ROUND_FLOATS
        if self.parts(samples) > 1:
            space -= self.elements * self.source.channels * self.target.channels
        cdef Py_ssize_t tiles = space // (self.elements * channels)
        tiles = max(<Py_ssize_t>LEAST_TILES, min(<Py_ssize_t>MOST_TILES, tiles))
        return min(samples * self.units, max(<Py_ssize_t>1, tiles // (self.unit_rows * self.tile_columns)))

    cdef Py_ssize_t transform_size(self, Py_ssize_t samples, Py_ssize_t channels, Py_ssize_t panel) noexcept nogil:
        """Floats of the transforms of a round, of so many channels."""
        cdef Py_ssize_t tiles = self.round_units(samples) * self.unit_rows * self.tile_columns
        return self.elements * ((channels + panel - 1) // panel) * plane(tiles * panel)

    cdef Py_ssize_t round_size(self, Py_ssize_t samples, Py_ssize_t panel) noexcept nogil:
        """Floats of all transforms of a round."""
        return (self.transform_size(samples, self.source.channels, panel)
                + self.transform_size(samples, self.target.channels, panel))

    cdef Py_ssize_t sum_size(self) noexcept nogil:
        """Floats of the sums of a part."""
        return self.elements * plane(self.source.channels * self.target.channels)

    cdef Py_ssize_t scratch_size(self) noexcept nogil:
        cdef Py_ssize_t rows = self.unit_rows * self.m
        return whole_lines((rows + 2) * frame_row(&self.source)) + whole_lines(rows * frame_row(&self.target))

    cdef Py_ssize_t workspace_size(self, Py_ssize_t samples, bint through, int threads) noexcept nogil:
        """Sums of each part, a bias gradient for each unit, transforms, a scratch for each thread."""
        cdef Py_ssize_t parts = self.parts(samples), rounds = threads if parts > 1 else 1
        return (parts * self.sum_size() + whole_lines(samples * self.units * self.target.channels)
                + rounds * self.round_size(samples, table().tile_columns) + threads * self.scratch_size())

    cdef Py_ssize_t first_tile(self, Py_ssize_t unit) noexcept nogil:
        """The number of a unit's first tile, counted over all images."""
        return (unit // self.units * self.tile_rows + unit % self.units * self.unit_rows) * self.tile_columns

    cdef void run(
        self, const float* x, const Source* dy, float* dweight, float* dbias, Py_ssize_t samples, float* workspace,
        int threads
    ):
        cdef const cn_table* c = table()
        cdef Py_ssize_t panel = c.tile_columns, weights = self.source.channels * self.target.channels
        cdef Py_ssize_t units = samples * self.units, parts = self.parts(samples), size = self.sum_size()
        cdef Py_ssize_t round_size = self.round_size(samples, panel), scratch_size = self.scratch_size(), item, chunk
        cdef float* biases = workspace + parts * size
        cdef float* transforms = biases + whole_lines(units * self.target.channels)
        cdef float* scratch = transforms + (threads if parts > 1 else 1) * round_size
        cdef Source images = Source(x, NULL, NULL, NULL, NULL, NULL, NULL)
        cdef Py_ssize_t chunks = (weights + CHUNK - 1) // CHUNK
        cdef int count
        if parts > 1:
            count = team(parts, samples * self.tile_rows * self.tile_columns * self.elements * weights, threads)
            for item in prange(parts, nogil=True, schedule="static", num_threads=count):
                self.part(
                    c, &images, dy, samples, units * item // parts, units * (item + 1) // parts,
                    transforms + threadid() * round_size, workspace + item * size,
                    biases if dbias is not NULL else NULL, scratch + threadid() * scratch_size)
        else:
            self.shared(
                c, &images, dy, samples, transforms, workspace, biases if dbias is not NULL else NULL, scratch, threads)
        count = team(chunks, 4 * (parts + 3) * weights, threads)
        for item in prange(chunks, nogil=True, schedule="static", num_threads=count):
            chunk = min(<Py_ssize_t>CHUNK, weights - item * CHUNK)
            self.finish(c, parts, chunk, workspace + item * CHUNK, dweight + item * CHUNK)
        if dbias is not NULL:
            c.column_sum_f32(units, self.target.channels, biases, self.target.channels, dbias)

    cdef void part(
        self, const cn_table* c, const Source* x, const Source* dy, Py_ssize_t samples, Py_ssize_t begin,
        Py_ssize_t end, float* transforms, float* sums, float* biases, float* scratch
    ) noexcept nogil:
        """The sums of some units, by one thread."""
        cdef Py_ssize_t first = begin, last, following, tiles, unit, item, step = self.round_units(samples)
        cdef Py_ssize_t products = self.products(c.tile_columns)
        cdef float* target = transforms + self.transform_size(samples, self.source.channels, c.tile_columns)
        # The gradient is asked for only where it is read pixel by pixel.
        cdef bint whole = dy.epilogue is NULL or dy.raw is not NULL
        cdef Ahead image, gradient
        while first < end:
            last = min(end, first + step)
            tiles = self.first_tile(last) - self.first_tile(first)
            for unit in range(first, last):
                self.transform(c, x, dy, unit, first, tiles, transforms, target, biases, scratch)
            # What the next round transforms.
            following = min(end, last + step)
            image = self.pixels(&self.source, x.x, last, following, samples, products)
            gradient = self.pixels(
                &self.target, dy.raw if dy.raw is not NULL else dy.x, last, following if whole else last, samples,
                products)
            for item in range(products):
                ask(&image)
                ask(&gradient)
                self.add_product(c, item, tiles, transforms, target, sums, first > begin)
            first = last

    cdef void shared(
        self, const cn_table* c, const Source* x, const Source* dy, Py_ssize_t samples, float* transforms, float* sums,
        float* biases, float* scratch, int threads
    ):
        """The sums of all units, round by round."""
        cdef Py_ssize_t units = samples * self.units, step = self.round_units(samples), first, last, tiles, item
        cdef Py_ssize_t products = self.products(c.tile_columns), scratch_size = self.scratch_size()
        cdef Py_ssize_t channels = self.source.channels + self.target.channels
        cdef float* target = transforms + self.transform_size(samples, self.source.channels, c.tile_columns)
        cdef int count
        for first in range(0, units, step):
            last = min(units, first + step)
            tiles = self.first_tile(last) - self.first_tile(first)
            # Transforming a float costs about as much as eight multiply-adds.
            count = team(last - first, 8 * tiles * self.elements * channels, threads)
            for item in prange(first, last, nogil=True, schedule="static", num_threads=count):
                self.transform(
                    c, x, dy, item, first, tiles, transforms, target, biases, scratch + threadid() * scratch_size)
            count = team(products, tiles * self.elements * self.source.channels * self.target.channels, threads)
            for item in prange(products, nogil=True, schedule="static", num_threads=count):
                self.add_product(c, item, tiles, transforms, target, sums, first > 0)

    cdef Py_ssize_t products(self, Py_ssize_t panel) noexcept nogil:
        """Blocks of the sums: an element, a panel of input channels, a panel of output channels."""
        cdef Py_ssize_t blocks = (self.source.channels + panel - 1) // panel
        return self.elements * blocks * ((self.target.channels + panel - 1) // panel)

    cdef void add_product(
        self, const cn_table* c, Py_ssize_t item, Py_ssize_t tiles, const float* source, const float* target,
        float* sums, bint further
    ) noexcept nogil:
        """Form one block of the products of a round, or add it to the sums of those before."""
        cdef Py_ssize_t panel = c.tile_columns, depth = self.source.channels, breadth = self.target.channels
        cdef Py_ssize_t blocks = (depth + panel - 1) // panel, panels = (breadth + panel - 1) // panel
        cdef Py_ssize_t element = item // (blocks * panels), block = item // panels % blocks
        cdef Py_ssize_t column = item % panels * panel, space = plane(tiles * panel)
        cdef float* to = sums + element * plane(depth * breadth) + block * panel * breadth + column
        c.outer_f32(
            min(panel, depth - block * panel), min(panel, breadth - column), 1, tiles,
            source + (element * blocks + block) * space, 0, panel,
            target + (element * panels + item % panels) * space, 0, panel, to if further else NULL, to, breadth)

    cdef void finish(
        self, const cn_table* c, Py_ssize_t parts, Py_ssize_t size, float* sums, float* dweight
    ) noexcept nogil:
        """Add up the sums of all parts for some weights, and transform them back."""
        cdef Py_ssize_t weights = self.source.channels * self.target.channels, space = plane(weights), element
        if parts > 1:
            for element in range(self.elements):
                c.add_parts_f32(
                    parts - 1, size, sums + self.sum_size() + element * space, self.sum_size(), sums + element * space)
        c.winograd_weight_grad_f32(self.m, self.n, size, sums, space, dweight, weights)

    cdef Ahead pixels(
        self, const Frame* f, const float* images, Py_ssize_t first, Py_ssize_t last, Py_ssize_t samples,
        Py_ssize_t times
    ) noexcept nogil:
        """The pixels of some units."""
        cdef Py_ssize_t row = min(f.height, first % self.units * self.unit_rows * self.m), line = f.width * f.channels
        cdef Py_ssize_t start = (first // self.units * f.height + row) * line
        cdef Py_ssize_t floats = (last - first) * self.unit_rows * self.m * line
        return ahead(images + start, min(floats, samples * image_floats(f) - start), times, False)

    cdef void transform(
        self, const cn_table* c, const Source* x, const Source* dy, Py_ssize_t unit, Py_ssize_t first_unit,
        Py_ssize_t tiles, float* source, float* target, float* biases, float* scratch
    ) noexcept nogil:
        """Transform a unit of a round, which begins with ``first_unit`` and has so many tiles."""
        cdef Py_ssize_t panel = c.tile_columns, image = unit // self.units, row, block
        cdef Py_ssize_t first = unit % self.units * self.unit_rows, last = min(self.tile_rows, first + self.unit_rows)
        cdef Py_ssize_t depth = self.source.channels, breadth = self.target.channels, space = plane(tiles * panel)
        cdef Py_ssize_t line = frame_row(&self.source), line_out = frame_row(&self.target), pixels
        cdef Py_ssize_t blocks = (depth + panel - 1) // panel, panels = (breadth + panel - 1) // panel
        cdef Py_ssize_t tile = self.first_tile(unit) - self.first_tile(first_unit)
        cdef float* gradient = scratch + whole_lines((self.unit_rows * self.m + 2) * line)
        cdef float* bias = biases + unit * breadth if biases is not NULL else NULL
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
                    self.m, self.n, self.tile_columns, min(panel, depth - block * panel),
                    scratch + row * self.m * line + block * panel, line, depth,
                    source + block * space + (tile + row * self.tile_columns) * panel, blocks * space, panel)
            for block in range(panels):
                c.winograd_output_grad_f32(
                    self.m, self.n, self.tile_columns, min(panel, breadth - block * panel),
                    gradient + row * self.m * line_out + block * panel, line_out, breadth,
                    target + block * space + (tile + row * self.tile_columns) * panel, panels * space, panel)
