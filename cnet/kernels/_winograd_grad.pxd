from cnet.kernels._ahead cimport Ahead
from cnet.kernels._dispatch cimport cn_table
from cnet.kernels._frame cimport Frame
from cnet.kernels._passes cimport GradPass, Source

cdef class WinogradGrad(GradPass):
    cdef Frame source, target
    cdef Py_ssize_t m, n, elements, tile_rows, tile_columns
    # A unit is so many rows of tiles of one image.
    cdef Py_ssize_t unit_rows, units

    cdef Py_ssize_t parts(self, Py_ssize_t samples) noexcept nogil
    cdef Py_ssize_t round_units(self, Py_ssize_t samples) noexcept nogil
    cdef Py_ssize_t transform_size(self, Py_ssize_t samples, Py_ssize_t channels, Py_ssize_t panel) noexcept nogil
    cdef Py_ssize_t round_size(self, Py_ssize_t samples, Py_ssize_t panel) noexcept nogil
    cdef Py_ssize_t sum_size(self) noexcept nogil
    cdef Py_ssize_t scratch_size(self) noexcept nogil
    cdef Py_ssize_t first_tile(self, Py_ssize_t unit) noexcept nogil
    cdef void part(
        self, const cn_table* c, const Source* x, const Source* dy, Py_ssize_t samples, Py_ssize_t begin,
        Py_ssize_t end, float* transforms, float* sums, float* biases, float* scratch
    ) noexcept nogil
    cdef void shared(
        self, const cn_table* c, const Source* x, const Source* dy, Py_ssize_t samples, float* transforms, float* sums,
        float* biases, float* scratch, int threads
    )
    cdef Py_ssize_t products(self, Py_ssize_t panel) noexcept nogil
    cdef void add_product(
        self, const cn_table* c, Py_ssize_t item, Py_ssize_t tiles, const float* source, const float* target,
        float* sums, bint further
    ) noexcept nogil
    cdef void finish(
        self, const cn_table* c, Py_ssize_t parts, Py_ssize_t size, float* sums, float* dweight
    ) noexcept nogil
    cdef Ahead pixels(
        self, const Frame* f, const float* images, Py_ssize_t first, Py_ssize_t last, Py_ssize_t samples,
        Py_ssize_t times
    ) noexcept nogil
    cdef void transform(
        self, const cn_table* c, const Source* x, const Source* dy, Py_ssize_t unit, Py_ssize_t first_unit,
        Py_ssize_t tiles, float* source, float* target, float* biases, float* scratch
    ) noexcept nogil
