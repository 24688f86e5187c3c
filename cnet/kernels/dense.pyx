"""Dense layer: ``y = x w + bias`` and its gradients, split into rectangles of the output.

Every element of an output is summed by one thread, in one order, so the number of threads cannot change a bit. Which
thread does what matters for speed: in the sum over inputs, in the gradient of the weight and in the optimizer's step a
thread gets the same rows of the weight, which are then in its cache.
"""

from cython.parallel cimport parallel, prange

from cnet.kernels._dispatch cimport cn_epilogue, cn_table, table, team
from cnet.kernels._passes cimport Source
from cnet.kernels.epilogue cimport Epilogue

cdef enum:
    # Columns and rows of a rectangle: four cache lines, and one or two register tiles of them. Operands are read where
    # they lie, so that small rectangles cost no more than large ones.
    COLUMNS = 64
    ROWS = 12
    # So many rectangles that eight threads find about as much to do each, where the output has them.
    ITEMS = 32
    # A rectangle of the input gradient transposes the weights of its columns: rows share them, up to the point where
    # threads would be left without work. Half as many columns still fill a register tile.
    SHARED_ROWS = 32
    NARROW = 32
    FEW = 8
    # Rows of the weight gradient in a rectangle. There are multiples of eight: half and a quarter of them have as many
    # inputs as the parts of the sum in the forward pass.
    INPUTS = 48
    EIGHT = 8
    # Parts of the sum over inputs, which are added up afterwards, and elements of a work item where they are.
    MOST_PARTS = 4
    LEAST_INPUTS = 64
    CHUNK = 1024
    # What a second thread gains is lost again below 500,000 multiply-adds, four times as many as elsewhere: operands
    # have to come from the other's cache.
    SHYNESS = 4
    LEAST_WORK = 524288


cdef struct Call:
    const cn_table* c
    Py_ssize_t samples, inputs, outputs
    # The forward pass: parts of the sum, rectangles of each, groups of rows within a panel of columns.
    Py_ssize_t depths, rectangles
    # Groups of rows of y or dx; panels of columns, and columns of one, of dx; stripes and panels of dweight.
    Py_ssize_t groups, columns, stripes, panels
    # Rows of y or dy in a chunk of what precedes or follows the products.
    Py_ssize_t rows
    const float* x
    const float* w
    const float* bias
    const float* dy
    float* y
    float* sums
    float* dx
    float* dw
    float* dbias
    # What follows the layer in the forward pass, or NULL; and its input, where that is wanted.
    const cn_epilogue* epilogue
    float* before
    # What the gradient is formed from behind an epilogue, and where to.
    const Source* above
    float* gradient
    # Whether gradients of parameters are written, not added to.
    bint anew


cdef inline Py_ssize_t parts(Py_ssize_t size, Py_ssize_t part) noexcept nogil:
    return (size + part - 1) // part


cdef inline Py_ssize_t row_groups(
    Py_ssize_t rows, Py_ssize_t least, Py_ssize_t panels, Py_ssize_t items
) noexcept nogil:
    # Groups of at least so many rows, no more of them than the number of items asks for.
    return max(1, min(rows // least, parts(items, panels)))


cdef inline Py_ssize_t depth_parts(Py_ssize_t samples, Py_ssize_t inputs, Py_ssize_t outputs) noexcept nogil:
    # Where the weight is much larger than what would be added up. With parts, a step of a layer of 784 x 128 took 125
    # us on two threads; where threads took columns or samples, and most weights from another's cache, it took 153.
    if samples * inputs * outputs < LEAST_WORK:
        return 1
    return max(1, min(<Py_ssize_t>MOST_PARTS, inputs // max(2 * samples, <Py_ssize_t>LEAST_INPUTS)))


cdef inline void forward_rectangle(const Call* k, Py_ssize_t item) noexcept nogil:
    cdef Py_ssize_t depth = item // k.rectangles, column = item % k.rectangles // k.groups * COLUMNS
    cdef Py_ssize_t start = k.inputs * depth // k.depths, end = k.inputs * (depth + 1) // k.depths
    cdef Py_ssize_t first = k.samples * (item % k.groups) // k.groups
    cdef Py_ssize_t last = k.samples * (item % k.groups + 1) // k.groups
    cdef float* target = k.y if depth == 0 else k.sums + (depth - 1) * k.samples * k.outputs
    k.c.product_f32(
        last - first, min(<Py_ssize_t>COLUMNS, k.outputs - column), end - start, k.x + first * k.inputs + start,
        k.inputs, 1, k.w + start * k.outputs + column, k.outputs,
        k.bias + column if depth == 0 and k.bias is not NULL else NULL, 0, target + first * k.outputs + column,
        k.outputs,
    )
    if k.depths == 1:
        follow(k, first, last, column, min(<Py_ssize_t>COLUMNS, k.outputs - column))


cdef inline void forward_chunk(const Call* k, Py_ssize_t item) noexcept nogil:
    cdef Py_ssize_t first = item * k.rows, last = min(k.samples, first + k.rows), start = first * k.outputs
    k.c.add_parts_f32(
        k.depths - 1, (last - first) * k.outputs, k.sums + start, k.samples * k.outputs, k.y + start)
    follow(k, first, last, 0, k.outputs)


cdef inline void follow(
    const Call* k, Py_ssize_t first, Py_ssize_t last, Py_ssize_t column, Py_ssize_t width
) noexcept nogil:
    cdef Py_ssize_t place = first * k.outputs + column
    if k.epilogue is not NULL:
        k.c.epilogue_f32(
            k.epilogue, last - first, width, column, k.y + place, 0, k.outputs, k.y + place, NULL,
            k.before + place if k.before is not NULL else NULL, k.outputs)


cdef inline void gradient_chunk(const Call* k, Py_ssize_t item) noexcept nogil:
    cdef Py_ssize_t first = item * k.rows, last = min(k.samples, first + k.rows), start = first * k.outputs
    cdef const Source* above = k.above
    k.c.epilogue_grad_f32(
        above.epilogue, last - first, k.outputs, 0, 1, above.x + start,
        above.value + start if above.value is not NULL else NULL, NULL,
        above.raw + start if above.raw is not NULL else NULL, 0, above.factor, above.offset, k.gradient + start, 0)


cdef inline void weight_rectangle(const Call* k, Py_ssize_t item) noexcept nogil:
    cdef Py_ssize_t stripe = item // k.panels, column = item % k.panels * COLUMNS
    cdef Py_ssize_t first = k.inputs * stripe // k.stripes, last = k.inputs * (stripe + 1) // k.stripes
    cdef Py_ssize_t width = min(<Py_ssize_t>COLUMNS, k.outputs - column), place = first * k.outputs + column
    cdef float one = 1
    k.c.product_f32(
        last - first, width, k.samples, k.x + first, 1, k.inputs, k.dy + column, k.outputs,
        NULL if k.anew else k.dw + place, k.outputs, k.dw + place, k.outputs,
    )
    if stripe == 0 and k.dbias is not NULL:
        # The sum over samples is a product too: with an input that is always one.
        k.c.product_f32(
            1, width, k.samples, &one, 0, 0, k.dy + column, k.outputs, NULL if k.anew else k.dbias + column, k.outputs,
            k.dbias + column, k.outputs,
        )


cdef inline void input_rectangle(const Call* k, Py_ssize_t item) noexcept nogil:
    cdef Py_ssize_t column = item // k.groups * k.columns
    cdef Py_ssize_t first = k.samples * (item % k.groups) // k.groups
    cdef Py_ssize_t last = k.samples * (item % k.groups + 1) // k.groups
    k.c.dense_input_grad_f32(
        last - first, min(k.columns, k.inputs - column), k.outputs, k.dy + first * k.outputs, k.outputs,
        k.w + column * k.outputs, k.outputs, k.dx + first * k.inputs + column, k.inputs,
    )


cdef class Dense:
    """The products of a layer, bound to its parameters, because each array that is passed costs a call a quarter of a
    microsecond.

    ``weight[in, out]`` and ``bias[out]`` are read by the forward pass; backward adds to ``dweight`` and ``dbias``, or
    writes them. Bias and its gradient may be None.
    """

    cdef readonly object weight, bias
    cdef const float[:, ::1] w
    cdef const float[::1] b
    cdef float[:, ::1] dw
    cdef float[::1] db

    def __init__(self, weight not None, bias, dweight not None, dbias):
        self.weight, self.bias = weight, bias
        self.w, self.b, self.dw, self.db = weight, bias, dweight, dbias
        assert self.dw.shape[0] == self.w.shape[0] and self.dw.shape[1] == self.w.shape[1]
        assert bias is None or self.b.shape[0] == self.w.shape[1]
        assert dbias is None or self.db.shape[0] == self.w.shape[1]

    def forward_workspace(self, Py_ssize_t samples):
        """Floats of workspace that ``forward`` needs."""
        return (depth_parts(samples, self.w.shape[0], self.w.shape[1]) - 1) * samples * self.w.shape[1]

    def forward(
        self, const float[:, ::1] x not None, float[:, ::1] y not None, float[::1] workspace, int threads,
        Epilogue epilogue=None, float[:, ::1] before=None,
    ):
        """``y[n, o] = bias[o] + sum_i x[n, i] weight[i, o]``, or what the epilogue makes of it.

        ``before``, which may be None, takes what the epilogue is applied to. ``workspace`` may be None where none is
        needed.
        """
        cdef Call k
        cdef Py_ssize_t items, chunks = 0, item
        k.c = table()
        k.samples, k.inputs, k.outputs = x.shape[0], x.shape[1], self.w.shape[1]
        assert self.w.shape[0] == k.inputs and y.shape[0] == k.samples and y.shape[1] == k.outputs
        self.check_epilogue(epilogue)
        assert before is None or (before.shape[0] == k.samples and before.shape[1] == k.outputs)
        if k.samples * k.outputs == 0:
            return
        k.x = &x[0, 0] if k.inputs else NULL
        k.w = &self.w[0, 0] if k.inputs else NULL
        k.bias = &self.b[0] if self.b is not None else NULL
        k.y = &y[0, 0]
        k.epilogue = &epilogue.c if epilogue is not None else NULL
        k.before = &before[0, 0] if before is not None else NULL
        k.depths = depth_parts(k.samples, k.inputs, k.outputs)
        k.panels = parts(k.outputs, COLUMNS)
        k.groups = row_groups(k.samples, ROWS, k.panels * k.depths, ITEMS)
        k.rectangles = k.panels * k.groups
        k.rows = parts(CHUNK, k.outputs)
        items = k.depths * k.rectangles
        if k.depths > 1:
            assert workspace.shape[0] >= (k.depths - 1) * k.samples * k.outputs
            k.sums = &workspace[0]
            chunks = parts(k.samples, k.rows)
        cdef int count = team(items, k.samples * k.inputs * k.outputs // SHYNESS, threads)
        with nogil:
            if count == 1:
                # A parallel region costs a third of a microsecond even so.
                for item in range(items):
                    forward_rectangle(&k, item)
                for item in range(chunks):
                    forward_chunk(&k, item)
            else:
                with parallel(num_threads=count):
                    for item in prange(items, schedule="static"):
                        forward_rectangle(&k, item)
                    for item in prange(chunks, schedule="static"):
                        forward_chunk(&k, item)

    def backward_workspace(self, Py_ssize_t samples, Epilogue epilogue=None):
        """Floats of workspace that ``backward`` needs."""
        return samples * self.w.shape[1] if epilogue is not None else 0

    def backward(
        self, const float[:, ::1] x not None, const float[:, ::1] dy, float[:, ::1] dx, float[::1] workspace,
        int threads, Epilogue epilogue=None, bint anew=False,
    ):
        """``dweight[i, o] += sum_n x[n, i] dy[n, o]``, ``dbias[o] += sum_n dy[n, o]`` and, unless ``dx`` is None,
        ``dx[n, i] = sum_o dy[n, o] weight[i, o]``; with ``dy`` or the gradient bound to ``epilogue``.

        ``anew`` writes ``dweight`` and ``dbias``, whatever they hold. ``workspace`` may be None where none is needed.
        """
        cdef Call k
        cdef Py_ssize_t weights, gradients = 0, chunks = 0, item
        k.c = table()
        k.samples, k.inputs, k.outputs = x.shape[0], x.shape[1], self.w.shape[1]
        assert self.w.shape[0] == k.inputs and (dy is None) == (epilogue is not None)
        assert dx is None or (dx.shape[0] == k.samples and dx.shape[1] == k.inputs)
        self.check_epilogue(epilogue)
        if epilogue is None:
            assert dy.shape[0] == k.samples and dy.shape[1] == k.outputs
        else:
            assert epilogue.samples == k.samples
        cdef bint normalised = epilogue is not None and epilogue.c.mean is not NULL
        if anew and self.db is not None and (normalised or k.samples == 0):
            self.db[:] = 0
        if k.samples == 0:
            if anew:
                self.dw[:, :] = 0
            return
        k.anew = anew
        k.x = &x[0, 0] if k.inputs else NULL
        k.w = &self.w[0, 0] if k.inputs and k.outputs else NULL
        k.dw = &self.dw[0, 0] if k.inputs and k.outputs else NULL
        # A normalisation takes a constant away.
        k.dbias = &self.db[0] if self.db is not None and k.outputs and not normalised else NULL
        if epilogue is None:
            k.dy = &dy[0, 0] if k.outputs else NULL
        else:
            assert workspace.shape[0] >= k.samples * k.outputs
            k.above, k.dy, k.gradient = &epilogue.source, &workspace[0], &workspace[0]
            k.rows = parts(CHUNK, k.outputs)
            chunks = parts(k.samples, k.rows)
        # Rectangles of a stripe are neighbours, so that a thread gets whole rows. Without inputs there is still a bias.
        k.stripes = max(1, min(EIGHT * parts(k.inputs, EIGHT * INPUTS), k.inputs // ROWS))
        k.panels = parts(k.outputs, COLUMNS)
        weights = k.stripes * k.panels
        if dx is not None and k.inputs:
            k.dx = &dx[0, 0]
            k.columns = COLUMNS if k.inputs >= FEW * COLUMNS else NARROW
            k.groups = row_groups(k.samples, SHARED_ROWS, parts(k.inputs, k.columns), FEW)
            gradients = parts(k.inputs, k.columns) * k.groups
        cdef Py_ssize_t work = k.samples * k.inputs * k.outputs * (2 if gradients else 1)
        cdef int count = team(weights + gradients, work // SHYNESS, threads)
        with nogil:
            if count == 1:
                for item in range(chunks):
                    gradient_chunk(&k, item)
                for item in range(weights):
                    weight_rectangle(&k, item)
                for item in range(gradients):
                    input_rectangle(&k, item)
            else:
                with parallel(num_threads=count):
                    for item in prange(chunks, schedule="static"):
                        gradient_chunk(&k, item)
                    for item in prange(weights, schedule="static"):
                        weight_rectangle(&k, item)
                    for item in prange(gradients, schedule="static"):
                        input_rectangle(&k, item)

    cdef check_epilogue(self, Epilogue epilogue):
        if epilogue is not None:
            assert epilogue.height == epilogue.width == 1 and epilogue.channels == self.w.shape[1]
