"""Freed memory stays with a process that aligns photographs: pages that are given back and asked for anew cost time.

They cost a third of a crop of 1024 px, and more than half in a worker of Dask, whose environment has the allocator give
back all it can. Not here: how much memory a photograph takes, which `decode.max_pixels` bounds.
"""

from __future__ import annotations

import ctypes
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
KEPT_BYTES = 128 * 2**20
"""The most freed memory that a process keeps."""
_LARGE_BYTES = 64 * 2**20
"""A single piece from this size on is given back at once."""


@cache
def keep_freed_memory() -> bool:
    """Tell the allocator of this process; False where it is not glibc's, which changes no result."""
    try:
        tell = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(tell(_MMAP_THRESHOLD, _LARGE_BYTES) and tell(_TRIM_THRESHOLD, KEPT_BYTES))
