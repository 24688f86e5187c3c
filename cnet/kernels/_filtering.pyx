"""Winograd's minimal filtering with tiles of one size in all three passes, and the choice of a size.

Larger tiles need fewer multiplications and lose more digits. Those of 4 x 2 pixels err little more than direct
summation, and are taken where they pay; those of 4 x 4 are for who asks for them.
"""

from libc.math cimport INFINITY

from cnet.kernels._winograd cimport Winograd
from cnet.kernels._winograd_grad cimport WinogradGrad

# What the transforms of a tile cost for each of its elements and channels, and those of the weights for each element
# and pair of channels, in multiply-adds: fitted to the times of layers of 8 to 256 channels.
cdef double ELEMENT_COST = 12.5
cdef double WEIGHT_COST = 16
# What the products and transforms of a weight gradient take of as many multiply-adds in direct summation: layers of 32
# to 256 channels.
cdef double GRAD_COST = 1.7


cdef class Filtering:
    """The passes of a 3 x 3 convolution of stride 1; arguments as for ``Winograd`` of the forward pass."""

    def __cinit__(self, source, target, Py_ssize_t top, Py_ssize_t left, tile):
        self.forward = Winograd(source, target, top, left, tile)
        self.input_grad = Winograd(target, source, 2 - top, 2 - left, tile)
        self.weight_grad = WinogradGrad(source, target, top, left, tile)

    cdef double share(self) noexcept:
        """What a weight gradient takes of what direct summation would."""
        cdef Winograd w = self.forward
        cdef double pixels = <double>w.out_height * w.out_width
        return GRAD_COST * w.elements * w.tile_rows * w.tile_columns / (9 * pixels)


cdef double filtering_cost(Winograd direction, Py_ssize_t samples) noexcept:
    """What a direction takes, in multiply-adds."""
    cdef double elements = <double>direction.elements * direction.tile_rows * direction.tile_columns
    cdef double pairs = <double>direction.frame.channels * direction.out_channels
    cdef double channels = direction.frame.channels + direction.out_channels
    return samples * elements * (pairs + ELEMENT_COST * channels) + direction.elements * WEIGHT_COST * pairs


cdef double direct_cost(Winograd direction, Py_ssize_t samples) noexcept:
    """What direct summation takes of the same."""
    cdef double pixels = <double>direction.out_height * direction.out_width
    return 9 * samples * pixels * direction.frame.channels * direction.out_channels


cdef Filtering cheapest(list filterings, bint forward, Py_ssize_t samples, bint forced):
    """The one of a direction that takes least; None if direct summation does, and none is forced."""
    cdef Filtering filtering, best = None
    cdef Winograd direction
    cdef double least = INFINITY, cost
    for filtering in filterings:
        direction = filtering.forward if forward else filtering.input_grad
        cost = filtering_cost(direction, samples)
        if cost < least and (forced or cost < direct_cost(direction, samples)):
            best, least = filtering, cost
    return best
