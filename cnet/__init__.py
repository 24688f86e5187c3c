"""cnet."""

from cnet import initializers, layers, metrics, schedulers
from cnet._threads import get_num_threads, set_num_threads
from cnet.layout import empty_cache, memory_stats, reset_peak_memory
from cnet.parameter import Parameter
from cnet.random import manual_seed

__all__ = ["Parameter", "empty_cache", "get_num_threads", "initializers", "layers", "manual_seed", "memory_stats", "metrics", "reset_peak_memory", "schedulers", "set_num_threads"]
