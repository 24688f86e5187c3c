"""cnet."""

from cnet import layers
from cnet._threads import get_num_threads, set_num_threads
from cnet.layout import empty_cache, memory_stats, reset_peak_memory
