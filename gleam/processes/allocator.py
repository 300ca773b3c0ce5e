"""How this process keeps the memory that a training step has freed."""

import ctypes
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt, from malloc.h
_NEVER, _LARGEST = -1, 32 << 20


@cache
def keep_freed_memory():
    """Ask the C library to keep freed memory for the next step instead of giving it back to the system.

    A step on a CPU frees and asks again for the same feature maps, and each time glibc gives the top of its heap back
    the system has to clear those pages anew: tens of thousands of page faults a step, most of them in greedy training,
    which frees after every module. The process then keeps the size of its largest step. Returns whether the C library
    takes the setting (glibc does); nothing changes elsewhere, nor on a GPU, where torch keeps memory itself.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST)) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))
