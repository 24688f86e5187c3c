"""What the ways to compute a convolution have in common."""

from libc.stdint cimport uint8_t

from cnet.kernels._dispatch cimport cn_epilogue, cn_table

# What a pass reads: images, or behind an epilogue the gradients that come back through it (see Epilogue.bind_gradient).
cdef struct Source:
    const float* x
    const cn_epilogue* epilogue
    const float* value
    const uint8_t* index
    const float* raw
    const float* factor
    const float* offset


# Where rows of output go: into y as they are, or through an epilogue, which writes the other two unless they are NULL.
cdef struct Sink:
    float* y
    const cn_epilogue* epilogue
    uint8_t* index
    float* before


cdef inline void put_windows(
    const cn_table* c, const Sink* sink, Py_ssize_t row, Py_ssize_t windows, Py_ssize_t channels, Py_ssize_t channel,
    Py_ssize_t width, const float* x, Py_ssize_t x_row, Py_ssize_t x_pixel
) noexcept nogil:
    """Row ``row`` of windows, counted over all images, through the epilogue: ``width`` channels from ``channel`` on."""
    cdef Py_ssize_t place = row * windows * channels + channel
    c.epilogue_f32(
        sink.epilogue, windows, width, channel, x, x_row, x_pixel, sink.y + place,
        sink.index + place if sink.index is not NULL else NULL,
        sink.before + place if sink.before is not NULL else NULL, channels)


cdef class Pass:
    """A forward pass or an input gradient."""

    cdef Py_ssize_t workspace_size(
        self, Py_ssize_t samples, bint through, const cn_epilogue* epilogue, int threads
    ) noexcept nogil
    cdef void run(
        self, const Source* x, const float* weight, bint transposed, const float* bias, Sink sink, Py_ssize_t samples,
        float* workspace, int threads
    )


cdef class GradPass:
    """A weight gradient."""

    cdef Py_ssize_t workspace_size(self, Py_ssize_t samples, bint through, int threads) noexcept nogil
    cdef void run(
        self, const float* x, const Source* dy, float* dweight, float* dbias, Py_ssize_t samples, float* workspace,
        int threads
    )
