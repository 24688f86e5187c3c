"""How many threads kernels use: by default as many as this process may really run at once.

The default is the number of cores that the process is bound to, capped by the container's CPU quota and by
``CNET_NUM_THREADS`` and ``OMP_NUM_THREADS``. The number changes how fast results come, never a bit of them.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from cnet import _check
from cnet.kernels import _dispatch

__all__ = ["explain", "get_num_threads", "set_num_threads"]

_CGROUP = Path("/sys/fs/cgroup")


def get_num_threads() -> int:
    """Return the number of threads that kernels may use.

    Returns
    -------
    int
        At least 1.

    Notes
    -----
    Small work runs on fewer threads, because waking one costs more than it would save.

    Examples
    --------
    >>> import cnet
    >>> cnet.get_num_threads() >= 1
    True
    """
    return _count


def set_num_threads(count: int) -> None:
    """Set the number of threads that kernels may use.

    Parameters
    ----------
    count : int
        ``>= 1``. More than the machine has cores is allowed, and slower.

    Raises
    ------
    TypeError
        If ``count`` is not an integer.
    ValueError
        If ``count`` is below 1.

    Notes
    -----
    Results do not depend on it: the same seed gives the same bits with any number of threads. A build without OpenMP
    accepts any number and uses one.

    Examples
    --------
    >>> import cnet
    >>> before = cnet.get_num_threads()
    >>> cnet.set_num_threads(1)
    >>> cnet.get_num_threads()
    1
    >>> cnet.set_num_threads(before)
    """
    global _count
    _count = _check.integer("set_num_threads", "count", count, 1)


def explain() -> dict[str, int | None]:
    """The limits that the default number of threads is the least of; None where there is no such limit."""
    return {
        "affinity": _affinity(),
        "cgroup quota": _cgroup_quota(),
        "CNET_NUM_THREADS": _environment("CNET_NUM_THREADS"),
        "OMP_NUM_THREADS": _environment("OMP_NUM_THREADS"),
        "OpenMP": None if _dispatch.has_openmp() else 1,
    }


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _environment(name: str) -> int | None:
    # OMP_NUM_THREADS may list a number per nesting level; only the first concerns us. Nonsense is no limit: an
    # unrelated program's variable must not keep cnet from being imported.
    text = os.environ.get(name, "").split(",")[0].strip()
    return int(text) if text.isdecimal() and int(text) >= 1 else None


def _cgroup_quota() -> int | None:
    """Cores granted by the tightest CPU quota of this process's control groups, rounded up."""
    quotas = [quota for folder in _cgroup_folders() if (quota := _quota(folder)) is not None]
    return max(1, math.ceil(min(quotas))) if quotas else None


def _cgroup_folders() -> list[Path]:
    """The folder of each CPU control group of this process and of all groups above it (versions 1 and 2)."""
    folders = [_CGROUP, _CGROUP / "cpu"]
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return folders
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers == "" or "cpu" in controllers.split(","):
            root = _CGROUP if controllers == "" else _CGROUP / "cpu"
            parts = [part for part in path.split("/") if part not in ("", "..")]
            folders += [root.joinpath(*parts[:depth]) for depth in range(1, len(parts) + 1)]
    return folders


def _quota(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        # "max", or -1 in version 1, is no limit; whatever else makes no sense is none either.
        return int(quota) / int(period) if quota != "max" and int(quota) > 0 and int(period) > 0 else None
    except (OSError, ValueError):
        return None


_count: int = min(limit for limit in explain().values() if limit is not None)

# A forked child inherits the idea of a thread pool but not its threads, and would wait for them for ever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_dispatch.release_threads)
