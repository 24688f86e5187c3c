"""2-D convolution, forward and backward, for any kernel, stride, padding, dilation and groups.

Arrays are physical: ``x[n, h, w, c]``, ``weight[kh, kw, in / groups, out]``. The forward pass and the input gradient
are gathers (see ``_gather``). The weight gradient multiplies, for every tap, the pixels under it with the output
gradient; it is summed over fixed groups of images, and the groups' sums are added in order, so that no bit depends on
the threads.
"""

from cython.parallel cimport prange, threadid
from libc.string cimport memset

from cnet.kernels._dispatch cimport cn_table, table, team
from cnet.kernels._gather cimport Gather, Phase

cdef enum:
    # Work items of a weight gradient, and the floats that all partial sums may take together: more groups of images
    # would be more parallel, but their partial sums must be written and read again.
    ITEMS = 16
    PARTIAL_FLOATS = 1572864
    # Output pixels that a register tile sums over before it moves on: enough to pay for loading and storing the tile,
    # few enough that the pixels of x and dy stay in the nearest caches until every tile has met them.
    POINTS = 128
    # Rows of fewer pixels than this fill a register tile badly.
    NARROW = 14


cdef class Conv2d:
    """A convolution of images of one size, its geometry bound once.

    ``kernel``, ``stride`` and ``dilation`` are ``(vertical, horizontal)``, and ``padding`` is
    ``(top, bottom, left, right)``.
    """

    cdef readonly Py_ssize_t in_channels, out_channels, height, width, out_height, out_width, groups
    cdef readonly Py_ssize_t kernel_height, kernel_width
    cdef Gather gather, scatter

    def __init__(
        self, Py_ssize_t in_channels, Py_ssize_t out_channels, Py_ssize_t height, Py_ssize_t width, kernel,
        stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), Py_ssize_t groups=1,
    ):
        assert min(*kernel, *stride, *dilation, groups) > 0 and min(padding) >= 0
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.height, self.width = height, width
        self.kernel_height, self.kernel_width = kernel
        top, bottom, left, right = padding
        self.out_height = (height + top + bottom - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1
        self.out_width = (width + left + right - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1
        assert self.out_height > 0 and self.out_width > 0 and in_channels % groups == 0 and out_channels % groups == 0
        source, target = (height, width, in_channels), (self.out_height, self.out_width, out_channels)
        if tuple(kernel) == (1, 1) and tuple(stride) == (1, 1) and not any(padding) and width < NARROW:
            # Without a window there are no rows either: one long row makes better tiles than short ones.
            source, target = (1, height * width, in_channels), (1, height * width, out_channels)
        self.gather = Gather(
            source, target, stride, (1, 1), groups, kernel[1],
            [(0, 0, _forward_taps(kernel[0], dilation[0], top), _forward_taps(kernel[1], dilation[1], left))],
        )
        self.scatter = Gather(
            target, source, (1, 1), stride, groups, kernel[1],
            [
                (row, column, _phase_taps(row, kernel[0], stride[0], dilation[0], top),
                 _phase_taps(column, kernel[1], stride[1], dilation[1], left))
                for row in range(stride[0]) for column in range(stride[1])
            ],
        )

    def forward_workspace(self, Py_ssize_t samples, int threads):
        """Floats of workspace that ``forward`` needs."""
        return self.gather.workspace_size(samples, threads)

    def forward(
        self, const float[:, :, :, ::1] x not None, const float[:, :, :, ::1] weight not None, const float[::1] bias,
        float[:, :, :, ::1] y not None, float[::1] workspace not None, int threads,
    ):
        """``y = x * weight + bias`` over a batch; ``bias`` may be None."""
        cdef Py_ssize_t samples = x.shape[0]
        self.check_input(x)
        self.check_output(y, samples)
        self.check_weight(weight)
        assert bias is None or bias.shape[0] == self.out_channels
        assert threads > 0 and workspace.shape[0] >= self.gather.workspace_size(samples, threads)
        if samples:
            self.gather.run(
                &x[0, 0, 0, 0], &weight[0, 0, 0, 0], False, &bias[0] if bias is not None else NULL, &y[0, 0, 0, 0],
                samples, &workspace[0] if workspace.shape[0] else NULL, threads)

    def input_grad_workspace(self, Py_ssize_t samples, int threads):
        """Floats of workspace that ``input_grad`` needs."""
        return self.scatter.workspace_size(samples, threads)

    def input_grad(
        self, const float[:, :, :, ::1] dy not None, const float[:, :, :, ::1] weight not None,
        float[:, :, :, ::1] dx not None, float[::1] workspace not None, int threads,
    ):
        """The gradient with respect to ``x``, written over ``dx``."""
        cdef Py_ssize_t samples = dy.shape[0]
        self.check_output(dy, samples)
        self.check_input(dx)
        self.check_weight(weight)
        assert dx.shape[0] == samples and threads > 0
        assert workspace.shape[0] >= self.scatter.workspace_size(samples, threads)
        if samples:
            self.scatter.run(
                &dy[0, 0, 0, 0], &weight[0, 0, 0, 0], True, NULL, &dx[0, 0, 0, 0], samples,
                &workspace[0] if workspace.shape[0] else NULL, threads)

    def weight_grad_workspace(self, Py_ssize_t samples, int threads):
        """Floats of workspace that ``weight_grad`` needs."""
        cdef Py_ssize_t parts = self.parts(samples)
        return threads * self.gather.image_size() + parts * self.part_size()

    def weight_grad(
        self, const float[:, :, :, ::1] x not None, const float[:, :, :, ::1] dy not None,
        float[:, :, :, ::1] dweight not None, float[::1] dbias, float[::1] workspace not None, int threads,
    ):
        """Add the gradients with respect to ``weight`` and ``bias``; ``dbias`` may be None."""
        cdef const cn_table* c = table()
        cdef Py_ssize_t samples = x.shape[0], parts = self.parts(samples), size = self.part_size()
        cdef Py_ssize_t weights = self.weight_size(), panels = self.groups * self.panels(c.tile_columns)
        cdef Py_ssize_t splits = 1 if self.gather.depthwise else min(panels, (ITEMS + parts - 1) // max(1, parts))
        cdef Py_ssize_t scratch_size = self.gather.image_size(), item, part, split, first, last
        cdef Py_ssize_t chunk = 4096, chunks = (weights + chunk - 1) // chunk
        self.check_input(x)
        self.check_output(dy, samples)
        self.check_weight(dweight)
        assert dy.shape[0] == samples and (dbias is None or dbias.shape[0] == self.out_channels)
        assert threads > 0 and workspace.shape[0] >= self.weight_grad_workspace(samples, threads)
        if samples == 0:
            return
        cdef float* partial = &workspace[0]
        cdef float* scratch = partial + parts * size
        cdef float* to = &dweight[0, 0, 0, 0]
        cdef float* to_bias = &dbias[0] if dbias is not None else NULL
        cdef Py_ssize_t work = samples * self.out_height * self.out_width * weights
        cdef int count = team(parts * splits, work, threads)
        for item in prange(parts * splits, nogil=True, schedule="static", num_threads=count):
            part = item // splits
            split = item % splits
            self.part_grad(
                c, self.gather, &x[0, 0, 0, 0], &dy[0, 0, 0, 0], partial + part * size,
                to_bias is not NULL and split == 0, scratch + threadid() * scratch_size, samples * part // parts,
                samples * (part + 1) // parts, panels * split // splits, panels * (split + 1) // splits)
        count = team(chunks, parts * weights // 4, threads)
        for item in prange(chunks, nogil=True, schedule="static", num_threads=count):
            first = item * chunk
            last = min(weights, first + chunk)
            c.add_parts_f32(parts, last - first, partial + first, size, to + first)
        if to_bias is not NULL:
            c.add_parts_f32(parts, self.out_channels, partial + weights, size, to_bias)

    cdef void part_grad(
        self, const cn_table* c, Gather g, const float* x, const float* dy, float* partial, bint with_bias,
        float* scratch, Py_ssize_t first_image, Py_ssize_t last_image, Py_ssize_t first_panel,
        Py_ssize_t last_panel
    ) noexcept nogil:
        """The sums of a group of images for some panels of output channels, written over ``partial``."""
        cdef Py_ssize_t source_size = self.height * self.width * self.in_channels
        cdef Py_ssize_t pixels = g.out_height * g.out_width, target_size = pixels * self.out_channels, image, line
        cdef Py_ssize_t lines = max(<Py_ssize_t>1, POINTS // g.out_width), row = g.padded_width * g.channels
        cdef float* bias = partial + self.weight_size()
        cdef const float* source
        cdef const float* gradient
        if with_bias:
            memset(bias, 0, self.out_channels * sizeof(float))
        if g.depthwise:
            memset(partial, 0, self.weight_size() * sizeof(float))
        for image in range(first_image, last_image):
            source, gradient = x + image * source_size, dy + image * target_size
            if with_bias:
                c.column_sum_f32(pixels, self.out_channels, gradient, self.out_channels, bias)
            if g.padded:
                g.pad(source, scratch, 0, g.padded_height)
                source = scratch
            line = 0
            while line < g.out_height:
                self.lines_grad(
                    c, g, source + line * g.row_step * row, gradient + line * g.out_width * self.out_channels, partial,
                    min(lines, g.out_height - line), first_panel, last_panel, image > first_image or line > 0)
                line = line + lines

    cdef void lines_grad(
        self, const cn_table* c, Gather g, const float* source, const float* gradient, float* partial,
        Py_ssize_t lines, Py_ssize_t first_panel, Py_ssize_t last_panel, bint accumulate
    ) noexcept nogil:
        """Add (or write) the products of a few lines of output pixels."""
        cdef Phase* phase = &g.phases[0]
        cdef Py_ssize_t panel = c.tile_columns, panels = self.panels(panel), pixel = g.column_step * g.channels
        cdef Py_ssize_t line = g.row_step * g.padded_width * g.channels, out_line = g.out_width * self.out_channels
        cdef Py_ssize_t segment, index, channel, column
        cdef float* to
        if g.depthwise:
            c.depthwise_weight_grad_f32(
                lines, g.out_width, g.channels, phase.taps, source, line, pixel, phase.segments, gradient, out_line,
                partial)
            return
        for segment in range(phase.segment_count):
            for index in range(first_panel, last_panel):
                column = index % panels * panel
                channel = index // panels * g.breadth + column
                to = partial + segment * phase.run * self.out_channels + channel
                c.outer_f32(
                    phase.run, min(panel, g.breadth - column), lines, g.out_width,
                    source + phase.segments[segment] + index // panels * g.depth, line, pixel, gradient + channel,
                    out_line, self.out_channels, to if accumulate else NULL, to, self.out_channels)

    cdef Py_ssize_t panels(self, Py_ssize_t panel) noexcept nogil:
        return (self.gather.breadth + panel - 1) // panel

    cdef Py_ssize_t weight_size(self) noexcept nogil:
        return self.kernel_height * self.kernel_width * self.gather.depth * self.out_channels

    cdef Py_ssize_t part_size(self) noexcept nogil:
        return (self.weight_size() + self.out_channels + 15) // 16 * 16

    cdef Py_ssize_t parts(self, Py_ssize_t samples) noexcept nogil:
        """Groups of images whose sums are formed apart."""
        return max(1, min(min(samples, <Py_ssize_t>ITEMS), PARTIAL_FLOATS // self.part_size()))

    cdef check_input(self, const float[:, :, :, ::1] x):
        assert x.shape[1] == self.height and x.shape[2] == self.width and x.shape[3] == self.in_channels

    cdef check_output(self, const float[:, :, :, ::1] y, Py_ssize_t samples):
        assert y.shape[0] == samples
        assert y.shape[1] == self.out_height and y.shape[2] == self.out_width and y.shape[3] == self.out_channels

    cdef check_weight(self, const float[:, :, :, ::1] weight):
        assert weight.shape[0] == self.kernel_height and weight.shape[1] == self.kernel_width
        assert weight.shape[2] == self.gather.depth and weight.shape[3] == self.out_channels


def _forward_taps(kernel, dilation, padding):
    """``(source offset, kernel index)`` along one axis."""
    return [(k * dilation - padding, k) for k in range(kernel)]


def _phase_taps(phase, kernel, stride, dilation, padding):
    """The taps that reach input pixels ``phase + stride * i``, as offsets into the output from ``i``, ascending."""
    reach = [(phase + padding - k * dilation, k) for k in range(kernel)]
    return sorted((distance // stride, k) for distance, k in reach if distance % stride == 0)
