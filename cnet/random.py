"""The default source of randomness: one seed for a whole run.

Whatever draws numbers in cnet (initial weights, dropout masks, the order of batches) takes a
:class:`numpy.random.Generator`. Whoever is given none falls back on this module, so that

    a run is a function of the seed passed to :func:`manual_seed`.

There is one default generator per process, not one per thread. A lock guards its creation, replacement and spawning,
and NumPy locks the generator for each draw, so any thread may use it at any time. Which thread draws *first* is then up
to the scheduler: threads that must be reproducible each take a generator of their own from :func:`spawn`, in a fixed
order, before they start. A forked process starts with a copy of its parent's generator and would repeat its numbers:
hand each worker a spawned generator too.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from cnet import _check

__all__ = ["default_generator", "get_rng_state", "manual_seed", "set_rng_state", "spawn"]

_guard = threading.Lock()
# Made at the first use: importing cnet must neither read OS entropy nor load numpy.random.
_generator: np.random.Generator | None = None


def manual_seed(seed: int) -> None:
    r"""Restart the default generator from a seed.

    The 128-bit state of the generator is NumPy's hash of the seed, :math:`s_0 = \mathrm{SeedSequence}(seed)`, so
    neighbouring seeds give unrelated sequences.

    Parameters
    ----------
    seed : int
        Any integer ``>= 0``, of any size.

    Raises
    ------
    TypeError
        If ``seed`` is not an integer.
    ValueError
        If ``seed`` is negative.

    Notes
    -----
    Seed first, then create layers and loaders: a generator handed out earlier, by :func:`default_generator` or
    :func:`spawn`, keeps the sequence it had. PyTorch's function of this name returns its generator; this one returns
    ``None``, because :func:`default_generator` is there to be asked.

    The bits of the generator (PCG64) are the same on every platform and in every NumPy release; how NumPy turns them
    into normal variates may change between releases of NumPy.

    References
    ----------
    M. E. O'Neill, "PCG: A Family of Simple Fast Space-Efficient Statistically Good Algorithms for Random Number
    Generation", HMC-CS-2014-0905, 2014. NumPy Enhancement Proposal 19, "Random number generator policy".

    Examples
    --------
    >>> from cnet.random import default_generator, manual_seed
    >>> manual_seed(7)
    >>> first = default_generator().integers(100, size=3)
    >>> manual_seed(7)
    >>> bool((default_generator().integers(100, size=3) == first).all())
    True
    """
    global _generator
    number = _check.integer("manual_seed", "seed", seed, 0)
    with _guard:
        _generator = np.random.Generator(np.random.PCG64(number))


def default_generator() -> np.random.Generator:
    r"""Return the generator that everything without a generator of its own draws from.

    Every draw advances it: :math:`s_{t+1} = f(s_t)`. Unless :func:`manual_seed` was called before, it starts from fresh
    entropy of the operating system.

    Returns
    -------
    numpy.random.Generator
        The process-wide generator itself, not a copy.

    Notes
    -----
    Ask again each time rather than keep the result: :func:`manual_seed` and :func:`set_rng_state` put a new generator
    in its place.

    References
    ----------
    NumPy Enhancement Proposal 19, "Random number generator policy".

    Examples
    --------
    >>> from cnet.random import default_generator
    >>> default_generator() is default_generator()
    True
    """
    with _guard:
        return _current()


def spawn() -> np.random.Generator:
    r"""Return a new generator, statistically independent of the default one and of all others spawned.

    The :math:`k`-th generator spawned after ``manual_seed(seed)`` starts from
    :math:`\mathrm{SeedSequence}(seed, key=(k,))`, :math:`k = 0, 1, \dots`

    Returns
    -------
    numpy.random.Generator
        A generator for one owner, such as a dropout layer, a loader or a worker.

    Notes
    -----
    Spawning does not advance the default generator: a dropout layer more or less leaves the initial weights as they
    are. Which generator comes out depends only on the seed and on how many were spawned since.

    References
    ----------
    NumPy documentation, "Parallel random number generation", section ``SeedSequence`` spawning.

    Examples
    --------
    >>> from cnet.random import manual_seed, spawn
    >>> manual_seed(7)
    >>> dropout, loader = spawn().random(), spawn().random()
    >>> manual_seed(7)
    >>> spawn().random() == dropout, spawn().random() == loader, dropout == loader
    (True, True, False)
    """
    with _guard:
        return _current().spawn(1)[0]


def get_rng_state() -> dict[str, Any]:
    r"""Return the state of the default generator, for a checkpoint.

    Returns
    -------
    dict
        ``"seed"`` (int), ``"spawned"`` (int, how many generators were spawned) and ``"stream"`` (the state
        :math:`s_t` of the bit generator): plain integers and strings, which JSON can hold.

    Notes
    -----
    Generators spawned earlier have states of their own, ``generator.bit_generator.state``, which their owners save.

    References
    ----------
    NumPy documentation, ``numpy.random.PCG64.state``.

    Examples
    --------
    >>> from cnet.random import default_generator, get_rng_state, set_rng_state
    >>> state = get_rng_state()
    >>> first = default_generator().random()
    >>> set_rng_state(state)
    >>> default_generator().random() == first
    True
    """
    with _guard:
        bits = _current().bit_generator
        sequence = _seed_sequence(bits)
        return {"seed": sequence.entropy, "spawned": sequence.n_children_spawned, "stream": dict(bits.state)}


def set_rng_state(state: Mapping[str, Any]) -> None:
    r"""Continue the default generator from a state that :func:`get_rng_state` returned.

    Parameters
    ----------
    state : mapping
        The seed, the number of generators spawned and the state :math:`s_t` of the stream.

    Raises
    ------
    TypeError
        If ``state`` is not a mapping.
    ValueError
        If ``state`` is not one that :func:`get_rng_state` returns.

    Notes
    -----
    Both the draws and the generators spawned afterwards are those that would have followed. A generator handed out
    earlier is not affected.

    References
    ----------
    NumPy documentation, ``numpy.random.PCG64.state``.

    Examples
    --------
    >>> from cnet.random import get_rng_state, manual_seed, set_rng_state, spawn
    >>> manual_seed(7)
    >>> state = get_rng_state()
    >>> first = spawn().random()
    >>> set_rng_state(state)
    >>> spawn().random() == first
    True
    """
    global _generator
    remedy = "Pass what get_rng_state() returned."
    if not isinstance(state, Mapping):
        raise TypeError(_check.message("set_rng_state", f"state is a {type(state).__name__}", "a mapping", remedy))
    try:
        sequence = np.random.SeedSequence(state["seed"], n_children_spawned=state["spawned"])
        bits = np.random.PCG64(sequence)
        bits.state = state["stream"]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            _check.message("set_rng_state", f"state is malformed ({error!r})", "a seed, a count and a stream", remedy)
        ) from None
    with _guard:
        _generator = np.random.Generator(bits)


def _current() -> np.random.Generator:
    """Return the default generator, made if need be. The caller holds ``_guard``."""
    global _generator
    if _generator is None:
        _generator = np.random.Generator(np.random.PCG64())
    return _generator


def _seed_sequence(bits: np.random.BitGenerator) -> np.random.SeedSequence:
    # NumPy types the attribute as an interface; both ways a generator is made here give the class itself.
    sequence = bits.seed_seq
    assert isinstance(sequence, np.random.SeedSequence)
    return sequence


def _renew_guard() -> None:
    """Replace the lock: in a forked child the thread that may have held it no longer exists."""
    global _guard
    _guard = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_guard)
