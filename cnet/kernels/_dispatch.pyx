"""The C kernels of the instruction set in use, chosen once when cnet is imported.

``CNET_ISA`` forces a lower instruction set than the machine's best; one that this machine cannot run is refused.
"""

import os

cdef extern from "cnet.h":
    const cn_table* cn_table_named(const char* isa) noexcept nogil
    const cn_table* cn_table_at(int i) noexcept nogil

cdef extern from "openmp.h":
    void cn_release_threads() noexcept nogil
    int cn_has_openmp() noexcept nogil

cdef const cn_table* in_use = cn_table_at(0)


cdef const cn_table* table() noexcept nogil:
    return in_use


cdef int team(Py_ssize_t items, Py_ssize_t work, int threads) noexcept nogil:
    # All or one: OpenMP libraries end the threads that a smaller team leaves over and start them anew for the next one.
    return threads if min(items, work // GRAIN) > 1 else 1


def isas():
    """The instruction sets that this build and this machine share, best first."""
    names = []
    cdef int i = 0
    while cn_table_at(i) is not NULL:
        names.append(cn_table_at(i).isa.decode())
        i += 1
    return tuple(names)


def isa():
    """The instruction set in use."""
    return in_use.isa.decode()


def set_isa(str name not None):
    """Use another instruction set from now on; for tests and benchmarks, between steps and never during one."""
    global in_use
    cdef const cn_table* found = cn_table_named(name.encode())
    if found is NULL:
        raise ValueError(f"CNET_ISA: {name!r} is not available, expected one of {', '.join(isas())}.")
    in_use = found


def tile():
    """``(lanes, rows, columns)`` of the register tile in use, in floats."""
    return in_use.lanes, in_use.tile_rows, in_use.tile_columns


def has_openmp():
    """Whether this build can use more than one thread."""
    return bool(cn_has_openmp())


def release_threads():
    """End the waiting worker threads; the next parallel call starts new ones. Called before each fork."""
    cn_release_threads()


if os.environ.get("CNET_ISA"):
    set_isa(os.environ["CNET_ISA"])
