"""An image inside a frame of zeros, as a window sees it that reaches over the edge."""

from libc.string cimport memcpy, memset

from cnet.kernels._dispatch cimport cn_table
from cnet.kernels._passes cimport Source

cdef struct Frame:
    Py_ssize_t height, width, channels  # of the image
    Py_ssize_t top, left                # where it begins in the frame
    Py_ssize_t rows, columns            # of the frame


cdef inline Py_ssize_t frame_row(const Frame* f) noexcept nogil:
    """Floats of a row of the frame."""
    return f.columns * f.channels


cdef inline Py_ssize_t image_floats(const Frame* f) noexcept nogil:
    return f.height * f.width * f.channels


cdef inline void load_rows(
    const cn_table* c, const Frame* f, const Source* source, Py_ssize_t image, float* scratch, Py_ssize_t first,
    Py_ssize_t last
) noexcept nogil:
    """Rows ``first`` to ``last`` of the frame of an image into ``scratch``, by way of the source's epilogue."""
    cdef Py_ssize_t inner = f.width * f.channels, outer = f.columns * f.channels, left = f.left * f.channels, row
    cdef Py_ssize_t begin = min(max(first, f.top), last), end = max(min(last, f.top + f.height), begin)
    cdef const float* pixels = source.x + image * image_floats(f)
    memset(scratch, 0, (begin - first) * outer * sizeof(float))
    memset(scratch + (end - first) * outer, 0, (last - end) * outer * sizeof(float))
    for row in range(begin, end):
        memset(scratch + (row - first) * outer, 0, left * sizeof(float))
        if source.epilogue is NULL:
            memcpy(scratch + (row - first) * outer + left, pixels + (row - f.top) * inner, inner * sizeof(float))
        memset(scratch + (row - first) * outer + left + inner, 0, (outer - left - inner) * sizeof(float))
    if source.epilogue is not NULL and begin < end:
        load_windows(c, f, source, image, scratch + (f.top - first) * outer + left, begin - f.top, end - f.top)


cdef inline void load_windows(
    const cn_table* c, const Frame* f, const Source* s, Py_ssize_t image, float* to, Py_ssize_t begin, Py_ssize_t end
) noexcept nogil:
    """Rows ``begin`` to ``end`` of the gradient that comes through the epilogue; row 0 would lie at ``to``."""
    cdef Py_ssize_t pool = s.epilogue.pool_rows, windows = f.width // s.epilogue.pool_columns, window, place, row
    for window in range(begin // pool, (end + pool - 1) // pool):
        row = window * pool
        place = (image * (f.height // pool) + window) * windows * f.channels
        c.epilogue_grad_f32(
            s.epilogue, windows, f.channels, max(<Py_ssize_t>0, begin - row), min(pool, end - row), s.x + place,
            s.value + place if s.value is not NULL else NULL, s.index + place if s.index is not NULL else NULL,
            s.raw + image * image_floats(f) + row * f.width * f.channels if s.raw is not NULL else NULL,
            f.width * f.channels, s.factor, s.offset, to + row * frame_row(f), frame_row(f))
