"""Memory: fewer page faults for large pixel buffers."""

from __future__ import annotations

import ctypes
import functools
import platform

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


@functools.cache
def tune_malloc() -> None:
    """Make glibc keep freed pixel buffers, because the pages of a new buffer are faulted in one by one.

    Measured on 1600x1200 JPEGs, decoded in full and resized to 224 px: 23 to 14 ms (docs/performance.md).
    Other C libraries are left alone.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    # 32 MiB is the largest threshold that glibc takes. The others keep a few large photos' worth of pages.
    for name, size in ((_M_MMAP_THRESHOLD, 32 << 20), (_M_TRIM_THRESHOLD, 512 << 20), (_M_TOP_PAD, 64 << 20)):
        ctypes.CDLL(None).mallopt(name, size)
