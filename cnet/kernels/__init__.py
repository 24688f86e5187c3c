"""Division of work: which thread computes which part of an output.

::

    layers/conv.py            shapes, errors, memory             Python, checks everything
        |  physical arrays, workspace, number of threads
    kernels/conv2d.pyx        items of work, prange              Cython, no GIL inside
        |  pointers and strides
    csrc/kernels/gemm.c       one register tile                  C, compiled once per instruction set

A module here holds the kernels of one operation. Its functions take typed memoryviews of physical arrays (channels
last, weights input-major; see ``cnet.layout``) and a number of threads. They check no more than what would crash, with
``assert``, because the layer above has checked all; they allocate nothing, because the layer brings every buffer.

**Why results do not depend on the number of threads.** A call is cut into *items* by the shapes alone: panels of
columns, groups of rows, groups of images. Any thread may do any item, and an item is always computed in the same order.
Where items add into the same numbers (gradients of weights) each has a buffer of its own, and the buffers are added up
in order afterwards. ``_dispatch.team`` decides how many threads a call deserves, so that small work is not slowed down
by waking threads for it; that too cannot change a bit.

**Where to look.** ``conv2d`` chooses between passes (``_passes`` says what one is) by what each would cost:
``_gather`` sums products directly, ``_direct_grad`` for the weights; ``_winograd`` and ``_winograd_grad`` save
multiplications, with tiles that ``_filtering`` chooses; ``_overlap``, ``_blocked``, ``_dots``, ``_spread`` and
``_patches`` fill the lanes where channels or pixels are few; ``_winners`` leaves out the zeros that a max-pooling
makes. ``epilogue`` is what may follow a convolution or a linear layer before its result leaves the cache. Nearly all
of them end in the register tiles of csrc/kernels/gemm.c; ``dense`` has one of its own. ``_dispatch`` holds the table
of C functions for the instruction set in use, ``_pool`` the memory.
"""

import os

# How long a waiting thread spins before it sleeps, for GCC's and LLVM's OpenMP libraries, which read these variables
# when they are loaded. Their defaults (many milliseconds) suit a machine of one's own. Where other processes want the
# same cores, a spinning thread keeps its own partner from running: a training step measured 15 ms here with 2,000
# rounds and 520 ms with the default, on two cores shared with three such jobs. 6,000 rounds (about 0.3 ms) outlast the
# pauses within a step: those of a small dense net take 20 % less time than with 2,000, and no more on shared cores.
_PATIENCE = {"GOMP_SPINCOUNT": "6000", "KMP_BLOCKTIME": "1"}


def _load_openmp() -> None:
    """Load the OpenMP library with our patience, unless the user has chosen; leave the environment as it was."""
    chosen = "OMP_WAIT_POLICY" in os.environ
    added = {name: value for name, value in _PATIENCE.items() if not chosen and name not in os.environ}
    os.environ.update(added)
    try:
        from cnet.kernels import _dispatch  # noqa: F401
    except ImportError as error:
        if any(name.startswith("_dispatch.") and name.endswith((".so", ".pyd")) for name in os.listdir(__path__[0])):
            raise
        remedy = "Python found cnet's source tree before the installed package: run it in another folder, or install it"
        raise ImportError(f"cnet: the compiled kernels are missing. {remedy} with 'pip install -e .'.") from error
    finally:
        for name in added:
            del os.environ[name]


_load_openmp()
