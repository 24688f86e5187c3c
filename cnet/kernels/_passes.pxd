"""What the ways to compute a convolution have in common."""

from libc.stdint cimport uint8_t

from cnet.kernels._dispatch cimport cn_epilogue

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
