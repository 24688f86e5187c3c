"""Convolutions with few output channels, written as convolutions with many.

With channels last, the channels of neighbouring output pixels lie side by side: a block of p pixels of c channels is
one pixel of p c channels. It sees a window that is wider by p - 1 steps, with weights that are zero where a tap is
beyond the window of the pixel a channel belongs to. So a convolution becomes one of stride p s with p times the output
channels, computed by the same passes; vectors are full, and there are fewer products with zeros than lanes gained. (A
pixel that is not a number may so reach a whole block.)
"""

from libc.string cimport memcpy, memset

from cnet.kernels._direct_grad cimport DirectGrad
from cnet.kernels._dispatch cimport cn_epilogue, table, whole_lines
from cnet.kernels._gather cimport Gather
from cnet.kernels._passes cimport GradPass, Pass, Sink, Source


cdef inline Py_ssize_t wide_kernel(const Blocking* b) noexcept nogil:
    return b.kernel_width + (b.pixels - 1) * b.step


cdef inline Py_ssize_t wide_channels(const Blocking* b) noexcept nogil:
    return b.pixels * b.breadth


cdef inline Py_ssize_t wide_weights(const Blocking* b) noexcept nogil:
    return b.kernel_height * wide_kernel(b) * b.depth * wide_channels(b)


cdef Py_ssize_t best_pixels(
    Py_ssize_t lanes, Py_ssize_t width, Py_ssize_t kernel_width, Py_ssize_t step, Py_ssize_t channels, bint forward,
    bint forced
):
    """The pixels in a block that needs the least time a pixel; 1 where none pays, or if forced, none is possible."""
    cdef Py_ssize_t pixels, vectors, best = 1
    cdef double operations, least = 0
    for pixels in range(1, max(<Py_ssize_t>1, min(width, 2 * lanes // channels)) + 1):
        if width % pixels == 0:
            vectors = (pixels * channels + lanes - 1) // lanes
            operations = <double>(kernel_width + (pixels - 1) * step) * vectors / pixels
            if forward:
                # A row of blocks is a register tile, and eight sums must be in flight.
                operations /= min(1.0, width // pixels * vectors / 8.0)
            # Reading and writing wide weights costs too: a fifth of the operations must be saved at least.
            if pixels == 1:
                least = 0.8 * operations
            elif operations < least or (forced and best == 1):
                best, least = pixels, operations
    return best


cdef Gather widen(Blocking* b, source, target, kernel, step, Py_ssize_t top, Py_ssize_t left, Py_ssize_t pixels):
    """The convolution in blocks of so many pixels."""
    b.pixels, b.step = pixels, step[1]
    b.kernel_height, b.kernel_width = kernel
    b.depth, b.breadth = source[2], target[2]
    rows = [(tap - top, tap) for tap in range(kernel[0])]
    columns = [(tap - left, tap) for tap in range(wide_kernel(b))]
    cdef Gather gather = Gather(
        source, (target[0], target[1] // pixels, target[2] * pixels), (step[0], step[1] * pixels), (1, 1), 1,
        wide_kernel(b), [(0, 0, rows, columns)])
    gather.pixels = pixels
    return gather


cdef class Blocked(Pass):
    """A forward pass without groups and dilation; arguments as for ``widen``."""

    def __cinit__(self, source, target, kernel, step, Py_ssize_t top, Py_ssize_t left, Py_ssize_t pixels):
        self.gather = widen(&self.blocking, source, target, kernel, step, top, left, pixels)

    cdef bint fits(self):
        """Whether a block is one panel, as its epilogue needs; another instruction set may have come into use."""
        return wide_channels(&self.blocking) <= table().tile_columns

    cdef Py_ssize_t workspace_size(
        self, Py_ssize_t samples, bint through, const cn_epilogue* epilogue, int threads
    ) noexcept nogil:
        """The wide weights and bias, and what the gather needs."""
        cdef Py_ssize_t inner = self.gather.workspace_size(samples, through, epilogue, threads)
        return whole_lines(wide_weights(&self.blocking)) + whole_lines(wide_channels(&self.blocking)) + inner

    cdef void run(
        self, const Source* x, const float* weight, bint transposed, const float* bias, Sink sink, Py_ssize_t samples,
        float* workspace, int threads
    ):
        cdef const Blocking* b = &self.blocking
        cdef Py_ssize_t row, tap, pixel, channel, breadth = b.breadth, channels = wide_channels(b)
        cdef float* wide_bias = workspace + whole_lines(wide_weights(b))
        cdef float* to
        memset(workspace, 0, wide_weights(b) * sizeof(float))
        for pixel in range(b.pixels):
            for row in range(b.kernel_height):
                for tap in range(b.kernel_width):
                    to = workspace + (row * wide_kernel(b) + tap + pixel * b.step) * b.depth * channels
                    to += pixel * breadth
                    for channel in range(b.depth):
                        memcpy(to + channel * channels, weight + channel * breadth, breadth * sizeof(float))
                    weight += b.depth * breadth
            weight -= b.kernel_height * b.kernel_width * b.depth * breadth
            if bias is not NULL:
                memcpy(wide_bias + pixel * breadth, bias, breadth * sizeof(float))
        self.gather.run(
            x, workspace, False, wide_bias if bias is not NULL else NULL, sink, samples,
            wide_bias + whole_lines(channels), threads)


cdef class BlockedGrad(GradPass):
    """A weight gradient without groups and dilation; arguments as for ``widen``."""

    def __cinit__(self, source, target, kernel, step, Py_ssize_t top, Py_ssize_t left, Py_ssize_t pixels):
        self.direct = DirectGrad(widen(&self.blocking, source, target, kernel, step, top, left, pixels))
        # The gradient's rows are the same floats in blocks and in pixels; an epilogue knows the pixels.
        self.direct.target.width = self.direct.target.columns = target[1]
        self.direct.target.channels = target[2]

    cdef Py_ssize_t workspace_size(self, Py_ssize_t samples, bint through, int threads) noexcept nogil:
        """The wide gradients, and what the direct pass needs."""
        cdef Py_ssize_t inner = self.direct.workspace_size(samples, through, threads)
        return whole_lines(wide_weights(&self.blocking)) + whole_lines(wide_channels(&self.blocking)) + inner

    cdef void run(
        self, const float* x, const Source* dy, float* dweight, float* dbias, Py_ssize_t samples, float* workspace,
        int threads
    ):
        cdef const Blocking* b = &self.blocking
        cdef Py_ssize_t row, tap, pixel, channel, out, breadth = b.breadth, channels = wide_channels(b)
        cdef float* wide_bias = workspace + whole_lines(wide_weights(b))
        cdef const float* part
        memset(workspace, 0, wide_weights(b) * sizeof(float))
        memset(wide_bias, 0, channels * sizeof(float))
        self.direct.run(
            x, dy, workspace, wide_bias if dbias is not NULL else NULL, samples, wide_bias + whole_lines(channels),
            threads)
        for pixel in range(b.pixels):
            for row in range(b.kernel_height):
                for tap in range(b.kernel_width):
                    part = workspace + (row * wide_kernel(b) + tap + pixel * b.step) * b.depth * channels
                    part += pixel * breadth
                    for channel in range(b.depth):
                        for out in range(breadth):
                            dweight[channel * breadth + out] += part[channel * channels + out]
                    dweight += b.depth * breadth
            dweight -= b.kernel_height * b.kernel_width * b.depth * breadth
            if dbias is not NULL:
                for out in range(breadth):
                    dbias[out] += wide_bias[pixel * breadth + out]
