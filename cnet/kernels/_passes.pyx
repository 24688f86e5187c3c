"""What the ways to compute a convolution have in common: direct summation, Winograd's filtering, overlapping rows.

Each is bound to the geometry of one direction of a convolution. ``workspace_size`` says how many floats of workspace
``run`` needs, where the source comes ``through`` an epilogue or not; ``run`` takes pointers to arrays that the caller
has checked. ``weight`` is always that of the forward pass, ``[tap][in][out]``; ``transposed`` says that the source is
the gradient of the forward pass's output.
"""


cdef class Pass:
    cdef Py_ssize_t workspace_size(
        self, Py_ssize_t samples, bint through, const cn_epilogue* epilogue, int threads
    ) noexcept nogil:
        return 0

    cdef void run(
        self, const Source* x, const float* weight, bint transposed, const float* bias, Sink sink, Py_ssize_t samples,
        float* workspace, int threads
    ):
        """Compute ``sink.y``, or what its epilogue makes of it; ``bias`` may be NULL."""


cdef class GradPass:
    cdef Py_ssize_t workspace_size(self, Py_ssize_t samples, bint through, int threads) noexcept nogil:
        return 0

    cdef void run(
        self, const float* x, const Source* dy, float* dweight, float* dbias, Py_ssize_t samples, float* workspace,
        int threads
    ):
        """Add the gradients to ``dweight[tap][in][out]`` and ``dbias``, which may be NULL.

        Behind an epilogue ``dbias`` is NULL: its sums are cheaper before (see Epilogue.sums).
        """
