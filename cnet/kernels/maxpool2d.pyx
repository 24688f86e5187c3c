"""2-D max pooling of physical images ``x[n, h, w, c]``, for any kernel, stride, padding and dilation.

Windows are clipped to the image once, when the geometry is bound; after that no kernel knows of padding. The forward
pass writes which tap won, and the backward pass adds the gradient there. Only windows of one image overlap, so a work
item of the backward pass is an image, or a block of its channels where images are few: no two items write one cell.
"""

from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cython.parallel cimport prange
from libc.stdint cimport uint16_t
from libc.string cimport memset

from cnet.kernels._dispatch cimport cn_table, table, team

cdef enum:
    # Work items that a forward pass is cut into at least, where there are so many rows of windows.
    ITEMS = 64
    # Below this many images the channels of the backward pass are cut into blocks, of whole vectors on every ISA.
    FEW_IMAGES = 16
    CHANNEL_BLOCK = 64
    # What a tap of an output element costs in multiply-adds: a comparison and two selections, or a read and a write.
    COST = 4


# For each window along one axis: the first cell that a tap of it meets inside the image, the number of that tap, and
# how many taps from it on are inside. Three arrays in one allocation, which begins at `start`.
cdef struct Windows:
    Py_ssize_t* start
    Py_ssize_t* tap
    Py_ssize_t* taps


cdef Windows clip(
    Py_ssize_t windows, Py_ssize_t size, Py_ssize_t kernel, Py_ssize_t stride, Py_ssize_t padding, Py_ssize_t dilation
) except *:
    cdef Windows w
    cdef Py_ssize_t i, first, last, origin
    w.start = <Py_ssize_t*>PyMem_Malloc(3 * windows * sizeof(Py_ssize_t))
    if w.start is NULL:
        raise MemoryError
    w.tap = w.start + windows
    w.taps = w.tap + windows
    for i in range(windows):
        origin = i * stride - padding
        first = 0 if origin >= 0 else (dilation - 1 - origin) // dilation
        last = min(kernel, (size - 1 - origin) // dilation + 1) if origin < size else 0
        w.tap[i] = first if first < last else 0
        w.taps[i] = max(<Py_ssize_t>0, last - first)
        w.start[i] = origin + first * dilation if first < last else 0
    return w


cdef class MaxPool2d:
    """Max pooling of images of one size, its geometry bound once; pairs are ``(vertical, horizontal)``.

    The output size is the caller's: windows may begin or end outside the padded image, and a window that meets no cell
    of the image gives -inf and no gradient.
    """

    cdef readonly Py_ssize_t height, width, out_height, out_width
    cdef Py_ssize_t kernel_height, kernel_width, dilation_height, dilation_width
    cdef Windows rows, columns
    # Pixels from tap 0 to each tap.
    cdef Py_ssize_t* offsets

    def __cinit__(
        self, Py_ssize_t height, Py_ssize_t width, kernel, stride, padding, dilation, Py_ssize_t out_height,
        Py_ssize_t out_width,
    ):
        cdef Py_ssize_t i, j
        self.height, self.width, self.out_height, self.out_width = height, width, out_height, out_width
        self.kernel_height, self.kernel_width = kernel
        self.dilation_height, self.dilation_width = dilation
        assert height > 0 and width > 0 and out_height > 0 and out_width > 0
        assert min(*kernel, *stride, *dilation) > 0 and min(padding) >= 0
        assert self.kernel_height * self.kernel_width <= 65536
        self.rows = clip(out_height, height, kernel[0], stride[0], padding[0], dilation[0])
        self.columns = clip(out_width, width, kernel[1], stride[1], padding[1], dilation[1])
        self.offsets = <Py_ssize_t*>PyMem_Malloc(self.kernel_height * self.kernel_width * sizeof(Py_ssize_t))
        if self.offsets is NULL:
            raise MemoryError
        for i in range(self.kernel_height):
            for j in range(self.kernel_width):
                self.offsets[i * self.kernel_width + j] = i * self.dilation_height * width + j * self.dilation_width

    def __dealloc__(self):
        PyMem_Free(self.rows.start)
        PyMem_Free(self.columns.start)
        PyMem_Free(self.offsets)

    def forward(
        self, const float[:, :, :, ::1] x not None, float[:, :, :, ::1] y not None, uint16_t[:, :, :, ::1] index,
        int threads,
    ):
        """``y`` = maximum of each window, ``index`` = number of the tap it came from; ``index`` may be None.

        The first maximum in row-major order wins, padded cells never do, and NaN wins over all.
        """
        cdef const cn_table* c = table()
        cdef Py_ssize_t images = x.shape[0], channels = x.shape[3], item, blocks
        assert x.shape[1] == self.height and x.shape[2] == self.width
        assert y.shape[0] == images and y.shape[3] == channels
        assert y.shape[1] == self.out_height and y.shape[2] == self.out_width
        assert index is None or (index.shape[0] == images and index.shape[3] == channels)
        assert index is None or (index.shape[1] == self.out_height and index.shape[2] == self.out_width)
        if images == 0 or channels == 0:
            return
        blocks = min(self.out_height, max(<Py_ssize_t>1, ITEMS // images))
        cdef const float* source = &x[0, 0, 0, 0]
        cdef float* target = &y[0, 0, 0, 0]
        cdef uint16_t* winner = &index[0, 0, 0, 0] if index is not None else NULL
        cdef int count = team(images * blocks, self.work(images * channels), threads)
        for item in prange(images * blocks, nogil=True, schedule="static", num_threads=count):
            self.forward_rows(
                c, item // blocks, images, self.out_height * (item % blocks) // blocks,
                self.out_height * (item % blocks + 1) // blocks, channels, source, target, winner,
            )

    cdef void forward_rows(
        self, const cn_table* c, Py_ssize_t image, Py_ssize_t images, Py_ssize_t first, Py_ssize_t last,
        Py_ssize_t channels, const float* x, float* y, uint16_t* index,
    ) noexcept nogil:
        cdef Py_ssize_t row, start, row_size = self.width * channels, size = images * self.height * row_size, to
        for row in range(first, last):
            start = (image * self.height + self.rows.start[row]) * row_size
            to = (image * self.out_height + row) * self.out_width * channels
            c.maxpool_row_f32(
                self.out_width, channels, self.columns.start, self.columns.tap, self.columns.taps,
                self.dilation_width * channels, self.kernel_width, self.rows.taps[row], self.rows.tap[row],
                self.dilation_height * row_size, x + start, size - start, y + to,
                index + to if index is not NULL else NULL,
            )

    def backward(
        self, const float[:, :, :, ::1] dy not None, const uint16_t[:, :, :, ::1] index not None,
        float[:, :, :, ::1] dx not None, int threads,
    ):
        """``dx`` = the sum of ``dy`` over the windows that each cell won, by the ``index`` of the forward pass."""
        cdef const cn_table* c = table()
        cdef Py_ssize_t images = dx.shape[0], channels = dx.shape[3], item, blocks
        assert dx.shape[1] == self.height and dx.shape[2] == self.width
        assert dy.shape[0] == images and dy.shape[3] == channels
        assert dy.shape[1] == self.out_height and dy.shape[2] == self.out_width
        assert index.shape[0] == images and index.shape[3] == channels
        assert index.shape[1] == self.out_height and index.shape[2] == self.out_width
        if images == 0 or channels == 0:
            return
        blocks = 1 if images >= FEW_IMAGES else (channels + CHANNEL_BLOCK - 1) // CHANNEL_BLOCK
        cdef const float* above = &dy[0, 0, 0, 0]
        cdef const uint16_t* winner = &index[0, 0, 0, 0]
        cdef float* below = &dx[0, 0, 0, 0]
        cdef int count = team(images * blocks, self.work(images * channels), threads)
        for item in prange(images * blocks, nogil=True, schedule="static", num_threads=count):
            self.backward_channels(
                c, item // blocks, 0 if blocks == 1 else item % blocks * CHANNEL_BLOCK,
                channels if blocks == 1 else CHANNEL_BLOCK, channels, above, winner, below,
            )

    cdef void backward_channels(
        self, const cn_table* c, Py_ssize_t image, Py_ssize_t first, Py_ssize_t most, Py_ssize_t channels,
        const float* dy, const uint16_t* index, float* dx,
    ) noexcept nogil:
        cdef Py_ssize_t width = min(most, channels - first), row_size = self.width * channels, cleared = 0, end
        cdef Py_ssize_t row, at
        dx += image * self.height * row_size + first
        for row in range(self.out_height):
            # Cells are cleared just before the first window that can reach them, and are in the nearest cache then.
            end = self.rows.start[row] + (self.rows.taps[row] - 1) * self.dilation_height + 1
            clear(dx, cleared, end, self.width, channels, width)
            cleared = max(cleared, end)
            at = (image * self.out_height + row) * self.out_width * channels + first
            c.maxpool_grad_row_f32(
                self.out_width, channels, width, self.columns.start, self.columns.tap, self.columns.taps,
                self.dilation_width * channels, self.kernel_width, self.rows.taps[row], self.rows.tap[row],
                self.dilation_height * row_size, self.offsets, dy + at, index + at,
                dx + self.rows.start[row] * row_size,
            )
        clear(dx, cleared, self.height, self.width, channels, width)

    cdef Py_ssize_t work(self, Py_ssize_t planes) noexcept nogil:
        cdef Py_ssize_t taps = self.out_height * self.out_width * self.kernel_height * self.kernel_width
        return planes * (taps * COST + self.height * self.width)


cdef void clear(
    float* x, Py_ssize_t first, Py_ssize_t last, Py_ssize_t row_pixels, Py_ssize_t channels, Py_ssize_t width
) noexcept nogil:
    # Zero the first `width` channels of whole rows of pixels.
    cdef Py_ssize_t pixel
    if first >= last:
        return
    if width == channels:
        memset(x + first * row_pixels * channels, 0, (last - first) * row_pixels * channels * sizeof(float))
        return
    for pixel in range(first * row_pixels, last * row_pixels):
        memset(x + pixel * channels, 0, width * sizeof(float))
