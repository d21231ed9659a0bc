"""Memory: fewer page faults for large pixel buffers."""

from __future__ import annotations

import ctypes
import functools
import platform

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


@functools.cache
def tune_malloc() -> bool:
    """Keep freed pixel buffers in the process, because each new one would be faulted in page by page.

    Measured on 1600x1200 JPEGs, decoded in full and resized to 224 px: 23 to 14 ms (docs/performance.md).
    The settings are made once per process, and only where the C library is glibc.

    Returns:
      Whether glibc accepted the settings.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((_M_MMAP_THRESHOLD, 32 << 20), (_M_TRIM_THRESHOLD, 512 << 20), (_M_TOP_PAD, 64 << 20))
    taken = [mallopt(name, size) for name, size in settings]
    return all(taken)
