"""2-D convolution, forward and backward, for any kernel, stride, padding, dilation and groups.

Arrays are physical: ``x[n, h, w, c]``, ``weight[kh, kw, in / groups, out]``. The work is done by passes (``_passes``),
of which there are several: direct summation for everything (``_gather``, ``_direct_grad``), Winograd's filtering where
it needs less arithmetic (``_winograd``, ``_winograd_grad``), overlapping products for the input gradient of few
channels (``_overlap``), blocks of pixels for few output channels (``_blocked``), dot products for those of long sums
(``_dots``), copies of what lies under the windows where rows of pixels are short (``_patches``), channels spread out
for small groups (``_spread``), and for the weight gradient behind a max-pooling, the winners of its windows alone
(``_winners``). What each would cost for the shapes chooses.
"""

from libc.stdint cimport uint8_t

from cnet.kernels._blocked cimport Blocked, BlockedGrad, best_pixels
from cnet.kernels._direct_grad cimport DirectGrad
from cnet.kernels._dispatch cimport cn_epilogue, cn_table, table
from cnet.kernels._dots cimport Dots, DotsGrad
from cnet.kernels._filtering cimport Filtering, cheapest
from cnet.kernels._gather cimport Gather
from cnet.kernels._overlap cimport Overlap
from cnet.kernels._passes cimport GradPass, Pass, Sink, Source
from cnet.kernels._patches cimport Patches, PatchesGrad
from cnet.kernels._spread cimport Spread, SpreadGrad
from cnet.kernels._winners cimport WinnersGrad
from cnet.kernels.epilogue cimport Epilogue

cdef enum:
    # Rows of fewer pixels than this fill a register tile badly.
    NARROW = 14

# Sizes of Winograd's tiles under the names of those who force them.
TILES = {"auto": ((2, 2), (4, 2)), "winograd2": ((2, 2),), "winograd4x2": ((4, 2),), "winograd4": ((4, 4),)}
ALGORITHMS = (*TILES, "direct", "overlap", "blocks", "dots", "patches", "spread", "winners")


cdef class Choice:
    """The passes of a convolution for a number of images and an instruction set."""

    cdef Py_ssize_t samples
    cdef const cn_table* table
    cdef Pass forward, input_grad
    cdef GradPass weight_grad
    cdef double weight_grad_cost


cdef class Conv2d:
    """A convolution of images of one size, its geometry bound once.

    ``kernel``, ``stride`` and ``dilation`` are ``(vertical, horizontal)``, and ``padding`` is
    ``(top, bottom, left, right)``. ``algorithm`` "auto" takes F(2x2, 3x3) or F(4x2, 3x3) where one pays; "winograd2",
    "winograd4x2" and "winograd4" (F(4x4, 3x3), which is less accurate) take theirs for every 3x3 convolution of stride
    1, without groups and with padding up to 2; "overlap" takes overlapping products for every input gradient without
    groups and dilation; "blocks" takes blocks of pixels for every forward pass and weight gradient without groups and
    dilation that has any; "dots" and "patches" take dot products and patches for every pass but depthwise, "spread"
    spreads channels for every pass with groups but depthwise; "winners" takes the winners for every weight gradient
    behind a max-pooling without normalisation but depthwise; "direct" takes none of these.
    """

    cdef readonly Py_ssize_t in_channels, out_channels, height, width, out_height, out_width, groups
    cdef readonly Py_ssize_t kernel_height, kernel_width
    cdef Py_ssize_t row_stride, column_stride
    # Whether an image's pixels are taken as one row.
    cdef readonly bint flat
    cdef bint forced
    cdef Gather gather, scatter
    cdef DirectGrad direct_grad
    # Winograd's, with each size of tile that may be taken.
    cdef list filterings
    # None where they do not apply, or never pay.
    cdef Dots dots, dots_scatter
    cdef DotsGrad dots_grad
    cdef Patches patches, patches_scatter
    cdef PatchesGrad patches_grad
    cdef Spread spread, spread_scatter
    cdef SpreadGrad spread_grad
    cdef WinnersGrad winners_grad
    cdef Overlap overlap
    cdef Blocked blocked
    cdef BlockedGrad blocked_grad
    cdef Choice choice

    def __init__(
        self, Py_ssize_t in_channels, Py_ssize_t out_channels, Py_ssize_t height, Py_ssize_t width, kernel,
        stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), Py_ssize_t groups=1, str algorithm not None="auto",
    ):
        assert min(*kernel, *stride, *dilation, groups) > 0 and min(padding) >= 0 and algorithm in ALGORITHMS
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.height, self.width = height, width
        self.kernel_height, self.kernel_width = kernel
        self.row_stride, self.column_stride = stride
        top, bottom, left, right = padding
        self.out_height = (height + top + bottom - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1
        self.out_width = (width + left + right - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1
        assert self.out_height > 0 and self.out_width > 0 and in_channels % groups == 0 and out_channels % groups == 0
        source, target = (height, width, in_channels), (self.out_height, self.out_width, out_channels)
        self.flat = tuple(kernel) == (1, 1) and tuple(stride) == (1, 1) and not any(padding) and width < NARROW
        if self.flat:
            # Without a window there are no rows either: one long row makes better tiles than short ones.
            source, target = (1, height * width, in_channels), (1, height * width, out_channels)
        window = (
            source, target, stride, (1, 1), groups, kernel[1],
            [(0, 0, _forward_taps(kernel[0], dilation[0], top), _forward_taps(kernel[1], dilation[1], left))],
        )
        residues = (
            target, source, (1, 1), stride, groups, kernel[1],
            [
                (row, column, _phase_taps(row, kernel[0], stride[0], dilation[0], top),
                 _phase_taps(column, kernel[1], stride[1], dilation[1], left))
                for row in range(stride[0]) for column in range(stride[1])
            ],
        )
        self.gather, self.scatter = Gather(*window), Gather(*residues)
        self.scatter.skips = True

        self.direct_grad = DirectGrad(self.gather)
        self.forced = algorithm != "auto"
        cdef bint plain = groups == 1 and tuple(dilation) == (1, 1)
        if plain and algorithm in ("auto", "overlap"):
            self.overlap = Overlap(target, source, kernel, stride, top, left)
        if plain and algorithm in ("auto", "blocks") and not self.flat:
            pixels = best_pixels(
                table().lanes, self.out_width, kernel[1], stride[1], out_channels, True, self.forced)
            if pixels > 1:
                self.blocked = Blocked(source, target, kernel, stride, top, left, pixels)
            pixels = best_pixels(
                table().lanes, self.out_width, kernel[1], stride[1], out_channels, False, self.forced)
            if pixels > 1:
                self.blocked_grad = BlockedGrad(source, target, kernel, stride, top, left, pixels)
        if not self.gather.depthwise and algorithm in ("auto", "dots"):
            self.dots, self.dots_scatter = Dots(*window), Dots(*residues)
            self.dots_grad = DotsGrad(self.gather)
            self.dots_scatter.skips = True
        if not self.gather.depthwise and algorithm in ("auto", "patches"):
            self.patches, self.patches_scatter = Patches(*window), Patches(*residues)
            self.patches_grad = PatchesGrad(self.patches)
        if groups > 1 and not self.gather.depthwise and algorithm in ("auto", "spread"):
            self.spread, self.spread_scatter = Spread(*window), Spread(*residues)
            self.spread_grad = SpreadGrad(self.spread)
        if not self.gather.depthwise and not self.flat and algorithm in ("auto", "winners"):
            self.winners_grad = WinnersGrad(self.gather)
        plain = plain and tuple(kernel) == (3, 3) and tuple(stride) == (1, 1) and max(padding) <= 2
        tiles = TILES.get(algorithm, ()) if plain else ()
        self.filterings = [Filtering(source, target, top, left, tile) for tile in tiles]

    cdef Pass forward_pass(self, Py_ssize_t samples):
        cdef Filtering filtering = cheapest(self.filterings, True, samples, self.forced)
        if filtering is not None:
            return filtering.forward
        cdef const cn_table* c = table()
        cdef double least = self.gather.cost(c)
        cdef Pass best = self.gather
        if self.blocked is not None and self.blocked.fits():
            best, least = self.blocked, min(least, self.blocked.gather.cost(c))
        if self.dots is not None and (self.forced or self.dots.cost(c) < least):
            best, least = self.dots, self.dots.cost(c)
        if self.spread is not None and (self.forced or self.spread.cost(c) < least):
            best, least = self.spread, self.spread.cost(c)
        if self.patches is not None and (self.forced or self.patches.cost_of(c, samples) < least):
            best = self.patches
        return best

    cdef Pass input_grad_pass(self, Py_ssize_t samples):
        cdef Filtering filtering = cheapest(self.filterings, False, samples, self.forced)
        if filtering is not None:
            return filtering.input_grad
        cdef const cn_table* c = table()
        cdef double least = self.scatter.cost(c)
        cdef Pass best = self.scatter
        # Products of many channels do not stay in the cache until they are added up.
        cdef bint few = self.in_channels < 2 * c.lanes
        if self.overlap is not None and (self.forced or few and self.overlap.cost(c) < least):
            best, least = self.overlap, self.overlap.cost(c)
        if self.dots_scatter is not None and (self.forced or self.dots_scatter.cost(c) < least):
            best, least = self.dots_scatter, self.dots_scatter.cost(c)
        if self.spread_scatter is not None and (self.forced or self.spread_scatter.cost(c) < least):
            best, least = self.spread_scatter, self.spread_scatter.cost(c)
        if self.patches_scatter is not None and (self.forced or self.patches_scatter.cost_of(c, samples) < least):
            best = self.patches_scatter
        return best

    cdef choose_weight_grad(self, Choice choice):
        cdef const cn_table* c = choice.table
        cdef Py_ssize_t samples = choice.samples
        cdef Filtering filtering = cheapest(self.filterings, True, samples, self.forced)
        if filtering is not None:
            choice.weight_grad = filtering.weight_grad
            choice.weight_grad_cost = filtering.share() * self.direct_grad.cost(c, samples)
            return
        cdef DirectGrad best = self.direct_grad
        if self.blocked_grad is not None:
            best = self.blocked_grad.direct
        cdef double least = best.cost(c, samples)
        for other in (self.dots_grad, self.spread_grad, self.patches_grad):
            if other is not None and (self.forced or (<DirectGrad>other).cost(c, samples) < least):
                best, least = other, (<DirectGrad>other).cost(c, samples)
        choice.weight_grad, choice.weight_grad_cost = best, least
        if self.blocked_grad is not None and best is self.blocked_grad.direct:
            choice.weight_grad = self.blocked_grad

    cdef Choice chosen(self, Py_ssize_t samples):
        """The passes for so many images, which are chosen anew where the images or the instruction set are others."""
        cdef Choice choice = self.choice
        if choice is None or choice.samples != samples or choice.table != table():
            choice = Choice()
            choice.samples, choice.table = samples, table()
            choice.forward = self.forward_pass(samples)
            choice.input_grad = self.input_grad_pass(samples)
            self.choose_weight_grad(choice)
            self.choice = choice
        return choice

    def forward_workspace(self, Py_ssize_t samples, int threads, Epilogue epilogue=None):
        """Floats of workspace that ``forward`` needs."""
        if samples == 0:
            return 0
        return self.chosen(samples).forward.workspace_size(
            samples, False, &epilogue.c if epilogue is not None else NULL, threads)

    def forward(
        self, const float[:, :, :, ::1] x not None, const float[:, :, :, ::1] weight not None, const float[::1] bias,
        float[:, :, :, ::1] y not None, float[::1] workspace not None, int threads, Epilogue epilogue=None,
        uint8_t[:, :, :, ::1] index=None, float[:, :, :, ::1] before=None,
    ):
        """``y = x * weight + bias`` over a batch, or what the epilogue makes of it; ``bias`` may be None.

        ``index`` and ``before`` are what ``Epilogue.forward`` writes; either may be None.
        """
        cdef Py_ssize_t samples = x.shape[0]
        cdef Source source
        cdef Sink sink
        self.check_input(x)
        self.check_weight(weight)
        assert bias is None or bias.shape[0] == self.out_channels
        if epilogue is None:
            self.check_output(y, samples)
            assert index is None and before is None
        else:
            self.check_epilogue(epilogue)
            epilogue.check_out(y, samples)
            epilogue.check_index(index, samples)
            if before is not None:
                epilogue.check_out(before, samples)
        assert threads > 0 and workspace.shape[0] >= self.forward_workspace(samples, threads, epilogue)
        if samples:
            source = Source(&x[0, 0, 0, 0], NULL, NULL, NULL, NULL, NULL, NULL)
            sink.y = &y[0, 0, 0, 0]
            sink.epilogue = &epilogue.c if epilogue is not None else NULL
            sink.index = &index[0, 0, 0, 0] if index is not None else NULL
            sink.before = &before[0, 0, 0, 0] if before is not None else NULL
            self.chosen(samples).forward.run(
                &source, &weight[0, 0, 0, 0], False, &bias[0] if bias is not None else NULL, sink, samples,
                &workspace[0] if workspace.shape[0] else NULL, threads)

    def input_grad_workspace(self, Py_ssize_t samples, int threads, Epilogue epilogue=None):
        """Floats of workspace that ``input_grad`` needs."""
        if samples == 0:
            return 0
        return self.chosen(samples).input_grad.workspace_size(samples, epilogue is not None, NULL, threads)

    def input_grad(
        self, const float[:, :, :, ::1] dy, const float[:, :, :, ::1] weight not None,
        float[:, :, :, ::1] dx not None, float[::1] workspace not None, int threads, Epilogue epilogue=None,
    ):
        """The gradient with respect to ``x``, written over ``dx``; ``dy`` or the gradient bound to ``epilogue``."""
        cdef Py_ssize_t samples = dx.shape[0]
        cdef Source source
        self.check_input(dx)
        self.check_weight(weight)
        self.check_gradient(dy, epilogue, samples)
        assert threads > 0 and workspace.shape[0] >= self.input_grad_workspace(samples, threads, epilogue)
        if samples:
            source = self.gradient(dy, epilogue)
            self.chosen(samples).input_grad.run(
                &source, &weight[0, 0, 0, 0], True, NULL, Sink(&dx[0, 0, 0, 0], NULL, NULL, NULL), samples,
                &workspace[0] if workspace.shape[0] else NULL, threads)

    cdef GradPass grad_pass(self, Py_ssize_t samples, Epilogue epilogue):
        """The pass of a weight gradient, which knows of the winners of a pooling."""
        cdef Choice choice = self.chosen(samples)
        # A normalisation between the two takes its part of every pixel's gradient.
        if self.winners_grad is None or epilogue is None or epilogue.c.mean is not NULL:
            return choice.weight_grad
        cdef cn_epilogue* e = &epilogue.c
        cdef bint pools = e.pool_rows * e.pool_columns > 1
        if pools and (self.forced or self.winners_grad.cost_behind(choice.table, e) < choice.weight_grad_cost):
            return self.winners_grad
        return choice.weight_grad

    def weight_grad_workspace(self, Py_ssize_t samples, int threads, Epilogue epilogue=None):
        """Floats of workspace that ``weight_grad`` needs."""
        if samples == 0:
            return 0
        return self.grad_pass(samples, epilogue).workspace_size(samples, epilogue is not None, threads)

    def weight_grad(
        self, const float[:, :, :, ::1] x not None, const float[:, :, :, ::1] dy, float[:, :, :, ::1] dweight not None,
        float[::1] dbias, float[::1] workspace not None, int threads, Epilogue epilogue=None,
    ):
        """Add the gradients with respect to ``weight`` and ``bias``, from ``dy`` or the gradient bound to ``epilogue``.

        ``dbias`` may be None, and is so behind an epilogue, whose sums give it.
        """
        cdef Py_ssize_t samples = x.shape[0]
        cdef Source source
        self.check_input(x)
        self.check_weight(dweight)
        self.check_gradient(dy, epilogue, samples)
        assert dbias is None or (dbias.shape[0] == self.out_channels and epilogue is None)
        assert threads > 0 and workspace.shape[0] >= self.weight_grad_workspace(samples, threads, epilogue)
        if samples:
            source = self.gradient(dy, epilogue)
            self.grad_pass(samples, epilogue).run(
                &x[0, 0, 0, 0], &source, &dweight[0, 0, 0, 0], &dbias[0] if dbias is not None else NULL, samples,
                &workspace[0], threads)

    cdef Source gradient(self, const float[:, :, :, ::1] dy, Epilogue epilogue):
        if epilogue is not None:
            return epilogue.source
        return Source(&dy[0, 0, 0, 0], NULL, NULL, NULL, NULL, NULL, NULL)

    cdef check_gradient(self, const float[:, :, :, ::1] dy, Epilogue epilogue, Py_ssize_t samples):
        assert (dy is None) == (epilogue is not None)
        if epilogue is None:
            self.check_output(dy, samples)
        else:
            self.check_epilogue(epilogue)
            assert epilogue.samples == samples

    cdef check_epilogue(self, Epilogue epilogue):
        assert epilogue.height == self.out_height and epilogue.width == self.out_width
        assert epilogue.channels == self.out_channels and (epilogue.c.pool_rows == 1 or not self.flat)

    cdef check_input(self, const float[:, :, :, ::1] x):
        assert x.shape[1] == self.height and x.shape[2] == self.width and x.shape[3] == self.in_channels

    cdef check_output(self, const float[:, :, :, ::1] y, Py_ssize_t samples):
        assert y.shape[0] == samples
        assert y.shape[1] == self.out_height and y.shape[2] == self.out_width and y.shape[3] == self.out_channels

    cdef check_weight(self, const float[:, :, :, ::1] weight):
        assert weight.shape[0] == self.kernel_height and weight.shape[1] == self.kernel_width
        assert weight.shape[2] == self.gather.depth and weight.shape[3] == self.out_channels


def _forward_taps(kernel, dilation, padding):
    """``(source offset, kernel index)`` along one axis."""
    return [(k * dilation - padding, k) for k in range(kernel)]


def _phase_taps(phase, kernel, stride, dilation, padding):
    """The taps that reach input pixels ``phase + stride * i``, as offsets into the output from ``i``, ascending."""
    reach = [(phase + padding - k * dilation, k) for k in range(kernel)]
    return sorted((distance // stride, k) for distance, k in reach if distance % stride == 0)
