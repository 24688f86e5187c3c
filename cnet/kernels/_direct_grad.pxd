from cnet.kernels._dispatch cimport cn_table
from cnet.kernels._frame cimport Frame
from cnet.kernels._gather cimport Gather
from cnet.kernels._passes cimport GradPass, Source

cdef double outer_cost(
    const cn_table* c, Py_ssize_t rows, Py_ssize_t width, Py_ssize_t lines, Py_ssize_t points
) noexcept nogil


cdef class DirectGrad(GradPass):
    cdef Gather gather
    cdef Py_ssize_t weights
    # Fewest that a group of images has, of outputs.
    cdef Py_ssize_t part_pixels
    cdef Frame target

    cdef Py_ssize_t panels(self, Py_ssize_t panel) noexcept nogil
    cdef Py_ssize_t units(self, const cn_table* c) noexcept nogil
    cdef Py_ssize_t part_size(self) noexcept nogil
    cdef Py_ssize_t parts(self, Py_ssize_t samples) noexcept nogil
    cdef Py_ssize_t lines(self) noexcept nogil
    cdef Py_ssize_t scratch_size(self, bint through) noexcept nogil
    cdef double cost(self, const cn_table* c, Py_ssize_t samples) noexcept nogil
    cdef void part_grad(
        self, const cn_table* c, Gather g, const Source* x, const Source* dy, float* partial, bint with_bias,
        float* scratch, Py_ssize_t first_image, Py_ssize_t last_image, Py_ssize_t first_panel, Py_ssize_t last_panel
    ) noexcept nogil
    cdef void lines_grad(
        self, const cn_table* c, Gather g, const float* source, const float* gradient, float* partial,
        Py_ssize_t lines, Py_ssize_t first_panel, Py_ssize_t last_panel, bint accumulate
    ) noexcept nogil
