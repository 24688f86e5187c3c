"""Aligned memory that is used again: a freed block waits here for the next request of its size.

First touch of fresh pages costs more than most kernels: the system clears each page, at about 2.5 GB/s. A training step
asks for the same sizes every time, so from the second step on it gets the same warm blocks and no page fault.

A block is freed when the last array over it dies, so an array may be kept as long as anyone likes. Like malloc, the
pool is shared by the whole process; it is guarded by the interpreter lock.
"""

from cpython.buffer cimport PyBuffer_FillInfo
from libc.stdlib cimport free

cdef extern from "aligned.h":
    void* cn_allocate(size_t size) noexcept nogil

cdef enum:
    # Blocks come in eight sizes per doubling, so at most an eighth of one is wasted, from 512 bytes up.
    STEPS = 8
    SMALLEST = 512
    CLASSES = 320

# A free block's first word points to the next free block of its class.
cdef void* waiting[CLASSES]
cdef Py_ssize_t bytes_held = 0
cdef Py_ssize_t bytes_used = 0
cdef Py_ssize_t peak_used = 0


cdef int size_class(Py_ssize_t size, Py_ssize_t* rounded) noexcept nogil:
    cdef Py_ssize_t step = SMALLEST // STEPS
    cdef int number = 0
    size = max(size, <Py_ssize_t>SMALLEST)
    while step * 2 * STEPS < size:
        step *= 2
        number += STEPS
    cdef Py_ssize_t steps = (size + step - 1) // step
    rounded[0] = steps * step
    return number + <int>(steps - STEPS)


cdef class Block:
    """Writable memory, aligned to 64 bytes, through the buffer protocol."""

    cdef void* data
    cdef Py_ssize_t size
    cdef int number

    def __cinit__(self, Py_ssize_t size):
        global bytes_held, bytes_used, peak_used
        if size < 0 or size > (<Py_ssize_t>1 << 46):
            raise MemoryError(f"cnet: cannot allocate {size:,} bytes.")
        self.number = size_class(size, &self.size)
        self.data = waiting[self.number]
        if self.data is not NULL:
            waiting[self.number] = (<void**>self.data)[0]
        else:
            self.data = cn_allocate(self.size)
            if self.data is NULL:
                raise MemoryError(f"cnet: cannot allocate {size:,} bytes.")
            bytes_held += self.size
        bytes_used += self.size
        peak_used = max(peak_used, bytes_used)

    def __dealloc__(self):
        global bytes_used
        if self.data is not NULL:
            (<void**>self.data)[0] = waiting[self.number]
            waiting[self.number] = self.data
            bytes_used -= self.size

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.data, self.size, 0, flags)


def release():
    """Give all waiting blocks back to the system."""
    global bytes_held
    cdef void* block
    cdef int number
    for number in range(CLASSES):
        while waiting[number] is not NULL:
            block = waiting[number]
            waiting[number] = (<void**>block)[0]
            free(block)
    bytes_held = bytes_used


def stats():
    """``(held, used, peak)`` in bytes: taken from the system, in arrays that live, and the most that lived at once."""
    return bytes_held, bytes_used, peak_used


def reset_peak():
    """Count the peak from now on."""
    global peak_used
    peak_used = bytes_used
