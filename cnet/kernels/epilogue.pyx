"""What follows a convolution in one pass: normalisation, activation, max-pooling; and the way back.

The convolution hands each block of rows to ``csrc/kernels/epilogue.c`` while it is in the nearest cache, so that its
own output need not be written. Where it has to be (the statistics of a batch normalisation need all of it first), the
pass here reads it again. On the way back the convolution asks for rows of its output's gradient when it needs them, so
that this is not written either; only the sums that biases, slopes and normalisation take are formed here before, for
fixed ranges of rows and added in order, in float64.
"""

from cython.parallel cimport prange
from libc.stdint cimport uint8_t

from cnet.kernels._dispatch cimport CN_IDENTITY, CN_RELU, CN_SLOPE, cn_table, table, team
from cnet.kernels._passes cimport Source

cdef enum:
    # Ranges of rows: enough for many threads, few enough that adding up their sums is nothing.
    PARTS = 32
    # An element costs its memory traffic, which is that of so many multiply-adds in registers.
    COST = 16


cdef class Epilogue:
    """Geometry and kind, bound once: ``activation`` is "identity", "relu" or "slope", ``pool`` divides the image."""

    def __init__(self, Py_ssize_t height, Py_ssize_t width, Py_ssize_t channels, str activation not None, pool=(1, 1)):
        self.height, self.width, self.channels = height, width, channels
        self.c.pool_rows, self.c.pool_columns = pool
        assert height > 0 and width > 0 and channels > 0 and 0 < self.c.pool_rows * self.c.pool_columns <= 256
        self.out_height, self.out_width = height // self.c.pool_rows, width // self.c.pool_columns
        assert self.out_height * self.c.pool_rows == height and self.out_width * self.c.pool_columns == width
        self.c.activation = {"identity": CN_IDENTITY, "relu": CN_RELU, "slope": CN_SLOPE}[activation]

    def bind(
        self, const float[::1] slope, const float[::1] mean=None, const float[::1] scale=None,
        const float[::1] shift=None,
    ):
        """Set the channels' parameters for the calls that follow: those of the normalisation all, or none."""
        assert (slope is not None) == (self.c.activation == CN_SLOPE)
        assert slope is None or slope.shape[0] == self.channels
        assert (mean is None) == (scale is None) == (shift is None)
        self.c.slope = &slope[0] if slope is not None else NULL
        self.c.mean = self.c.scale = self.c.shift = NULL
        if mean is not None:
            assert mean.shape[0] == scale.shape[0] == shift.shape[0] == self.channels
            self.c.mean, self.c.scale, self.c.shift = &mean[0], &scale[0], &shift[0]
        self.bound = (slope, mean, scale, shift)

    def forward(
        self, const float[:, :, :, ::1] x not None, float[:, :, :, ::1] y not None, uint8_t[:, :, :, ::1] index,
        float[:, :, :, ::1] before, int threads,
    ):
        """``y`` from the convolution's output ``x``; ``index`` says which tap won, ``before`` what it was in ``x``."""
        cdef const cn_table* c = table()
        cdef Py_ssize_t samples = x.shape[0], rows = samples * self.out_height, item
        cdef Py_ssize_t x_row = self.width * self.channels, y_row = self.out_width * self.channels
        self.check_in(x, samples)
        self.check_out(y, samples)
        self.check_index(index, samples)
        if before is not None:
            self.check_out(before, samples)
        if samples == 0:
            return
        cdef const float* source = &x[0, 0, 0, 0]
        cdef float* target = &y[0, 0, 0, 0]
        cdef uint8_t* winner = &index[0, 0, 0, 0] if index is not None else NULL
        cdef float* won = &before[0, 0, 0, 0] if before is not None else NULL
        cdef int count = team(rows, samples * self.height * x_row * COST, threads)
        for item in prange(rows, nogil=True, schedule="static", num_threads=count):
            c.epilogue_f32(
                &self.c, self.out_width, self.channels, 0, source + item * self.c.pool_rows * x_row, x_row,
                self.channels, target + item * y_row, winner + item * y_row if winner is not NULL else NULL,
                won + item * y_row if won is not NULL else NULL, self.channels)

    def workspace(self, Py_ssize_t samples):
        """Floats of workspace that ``sums`` needs."""
        return 3 * self.channels * self.parts(samples)

    def sums(
        self, const float[:, :, :, ::1] dy not None, const float[:, :, :, ::1] x, double[:, ::1] sums not None,
        float[::1] workspace not None, int threads,
    ):
        """Sums over pixels: ``sums[0]`` of the gradient behind the activation, ``sums[1]`` of its product with
        ``x - mean``, ``sums[2]`` of what the slope gets. ``x`` is the forward pass's ``before``, or else ``y``.
        """
        cdef const cn_table* c = table()
        cdef Py_ssize_t samples = dy.shape[0], rows = samples * self.out_height, parts = self.parts(samples)
        cdef Py_ssize_t item, first, channel, row = self.out_width * self.channels
        cdef double total
        cdef int kind
        self.check_out(dy, samples)
        if x is not None:
            self.check_out(x, samples)
        assert (x is not None) == (self.c.activation != CN_IDENTITY or self.c.mean is not NULL)
        assert sums.shape[0] == 3 and sums.shape[1] == self.channels and workspace.shape[0] >= self.workspace(samples)
        sums[:, :] = 0
        if samples == 0:
            return
        cdef const float* above = &dy[0, 0, 0, 0]
        cdef const float* value = &x[0, 0, 0, 0] if x is not None else NULL
        cdef float* partial = &workspace[0]
        cdef int count = team(parts, rows * row * COST, threads)
        for item in prange(parts, nogil=True, schedule="static", num_threads=count):
            first = rows * item // parts
            c.epilogue_sums_f32(
                &self.c, (rows * (item + 1) // parts - first) * self.out_width, self.channels, above + first * row,
                value + first * row if value is not NULL else NULL, partial + 3 * item * self.channels,
                partial + (3 * item + 1) * self.channels, partial + (3 * item + 2) * self.channels)
        for kind in range(3):
            if kind == 1 and self.c.mean is NULL or kind == 2 and self.c.slope is NULL:
                continue
            for channel in range(self.channels):
                total = 0
                for item in range(parts):
                    total += partial[(3 * item + kind) * self.channels + channel]
                sums[kind, channel] = total

    def bind_gradient(
        self, const float[:, :, :, ::1] dy not None, const float[:, :, :, ::1] value,
        const uint8_t[:, :, :, ::1] index, const float[:, :, :, ::1] raw=None, const float[::1] factor=None,
        const float[::1] offset=None,
    ):
        """Set what the convolution's gradient is formed from: ``Conv2d.input_grad`` and ``weight_grad`` read it.

        ``dy`` is the gradient of the output, ``index`` as in ``forward`` and ``value`` as ``x`` in ``sums``. With a
        normalisation ``raw`` is the convolution's output, and ``(raw - mean) * factor + offset`` what the statistics
        take back from the gradient.
        """
        cdef Py_ssize_t samples = dy.shape[0]
        self.check_out(dy, samples)
        self.check_index(index, samples)
        if value is not None:
            self.check_out(value, samples)
        assert (value is not None) == (self.c.activation != CN_IDENTITY or self.c.mean is not NULL)
        assert (index is not None) == (self.c.pool_rows * self.c.pool_columns > 1)
        assert (raw is None) == (factor is None) == (offset is None) == (self.c.mean is NULL)
        if raw is not None:
            self.check_in(raw, samples)
            assert factor.shape[0] == offset.shape[0] == self.channels
        self.source = Source(NULL, &self.c, NULL, NULL, NULL, NULL, NULL)
        if samples:
            self.source.x = &dy[0, 0, 0, 0]
            self.source.value = &value[0, 0, 0, 0] if value is not None else NULL
            self.source.index = &index[0, 0, 0, 0] if index is not None else NULL
            self.source.raw = &raw[0, 0, 0, 0] if raw is not None else NULL
            self.source.factor = &factor[0] if factor is not None else NULL
            self.source.offset = &offset[0] if offset is not None else NULL
        self.samples, self.bound_gradient = samples, (dy, value, index, raw, factor, offset)

    def release(self):
        """Let go of the arrays that were bound."""
        self.bound = self.bound_gradient = None
        self.samples = 0

    cdef Py_ssize_t parts(self, Py_ssize_t samples):
        return max(<Py_ssize_t>1, min(<Py_ssize_t>PARTS, samples * self.out_height))

    cdef check_in(self, const float[:, :, :, ::1] x, Py_ssize_t samples):
        assert x.shape[0] == samples and x.shape[1] == self.height and x.shape[2] == self.width
        assert x.shape[3] == self.channels

    cdef check_out(self, const float[:, :, :, ::1] y, Py_ssize_t samples):
        assert y.shape[0] == samples and y.shape[1] == self.out_height and y.shape[2] == self.out_width
        assert y.shape[3] == self.channels

    cdef check_index(self, const uint8_t[:, :, :, ::1] index, Py_ssize_t samples):
        if index is not None:
            assert index.shape[0] == samples and index.shape[1] == self.out_height
            assert index.shape[2] == self.out_width and index.shape[3] == self.channels
