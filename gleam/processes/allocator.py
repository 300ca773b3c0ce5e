"""Keep the memory that a training step has freed."""

from __future__ import annotations

import ctypes
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt, from malloc.h
_NEVER, _LARGEST = -1, 32 << 20  # 32 MiB is the most that glibc takes for the second


@cache
def keep_freed_memory() -> bool:
    """Ask the C library to keep freed memory for the next step instead of returning it to the system.

    Returns
    -------
    bool
        Whether the C library accepts the setting; glibc does. Elsewhere nothing changes, nor on a GPU, where torch
        keeps memory itself.

    Notes
    -----
    Each step on a CPU frees and allocates the same feature maps. Whenever glibc returns the top of its heap, the system
    has to clear these pages again: tens of thousands of page faults per step, most of them in greedy training, which
    frees memory after every module. With the setting, the process keeps the memory of its largest step.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST)) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))
