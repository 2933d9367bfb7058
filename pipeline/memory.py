"""Memory: what a batch has taken is given back to the system once it is done.

Allocators keep what was freed for the next time. After a file that took a lot, that may be more
than all files to come need, and it adds to what the next one takes.
"""

from __future__ import annotations

import ctypes
import gc
import os
from contextlib import suppress

import pyarrow as pa

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # as in glibc's malloc.h
_HEAPS = 2
_LARGE = 4 * 2**20  # bytes; with less, more time is spent on asking the system
_SPARE = 16 * 2**20  # bytes, for the same reason


def choose_allocators() -> None:
    """Have free memory kept in few places, so that little of it is kept.

    By default every thread has heaps of its own, in which what others need finds no room. It is for
    the whole process, so the programs do it, when they start; no module does it to its importers.
    """
    jemalloc = "jemalloc" in pa.supported_memory_backends()
    if jemalloc and "ARROW_DEFAULT_MEMORY_POOL" not in os.environ:
        pa.set_memory_pool(pa.jemalloc_memory_pool())
    with suppress(OSError, AttributeError):  # another C library than glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_ARENA_MAX, _HEAPS)
        # Large arrays stay out of the heaps: they go back to the system as soon as they are free.
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE)
        libc.mallopt(_M_TRIM_THRESHOLD, _SPARE)


def give_back() -> None:
    """Give free memory back to the system, where it can be asked to take it (glibc)."""
    gc.collect()
    pa.default_memory_pool().release_unused()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
