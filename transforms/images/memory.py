"""Memory: fewer page faults for large pixel buffers."""

from __future__ import annotations

import ctypes
import functools
import platform

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


@functools.cache
def tune_malloc() -> bool:
    """Make glibc keep freed pixel buffers, because the pages of a new buffer are faulted in one by one.

    Measured on 1600x1200 JPEGs, decoded in full and resized to 224 px: 23 to 14 ms (docs/performance.md).
    The settings are made once per process.

    Returns:
      Whether the C library is glibc and accepted the settings.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((_M_MMAP_THRESHOLD, 32 << 20), (_M_TRIM_THRESHOLD, 512 << 20), (_M_TOP_PAD, 64 << 20))
    accepted = [mallopt(name, size) for name, size in settings]  # a list, because all settings must be made
    return all(accepted)
