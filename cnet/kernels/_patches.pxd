from cnet.kernels._direct_grad cimport DirectGrad
from cnet.kernels._dispatch cimport cn_epilogue, cn_table
from cnet.kernels._gather cimport Gather, Phase
from cnet.kernels._passes cimport Sink, Source

# A stretch of the sum under every window: some segments, or a part of one.
cdef struct Stretch:
    Py_ssize_t segment, segments    # the first, and how many
    Py_ssize_t offset, run          # of each: where the part begins, its size
    Py_ssize_t first, size          # of the whole sum


cdef class Patches(Gather):
    cdef double cost_of(self, const cn_table* c, Py_ssize_t samples) noexcept nogil
    cdef void phase_patches(
        self, const cn_table* c, Phase* phase, const float* source, Py_ssize_t image_size, const float* packed,
        const float* bias, const Sink* sink, float* block, Py_ssize_t first_image, Py_ssize_t last_image,
        Py_ssize_t first_row, Py_ssize_t last_row
    ) noexcept nogil
    cdef Py_ssize_t most_pixels(self, const cn_epilogue* epilogue) noexcept nogil


cdef class PatchesGrad(DirectGrad):
    cdef Py_ssize_t images(self) noexcept nogil
    cdef void products(
        self, const cn_table* c, Gather g, const float* source, Py_ssize_t image_size, Py_ssize_t images,
        Py_ssize_t rows, const float* gradient, float* patches, float* panel, float* partial, Py_ssize_t first_unit,
        Py_ssize_t last_unit, bint accumulate
    ) noexcept nogil
