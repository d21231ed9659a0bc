"""pycurl, bound to the libcurl and the OpenSSL of its own wheel.

TensorFlow exports the symbols of another libcurl and of BoringSSL to the whole process. After TensorFlow,
a plain `import pycurl` would call those.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from pathlib import Path


def _load_apart() -> None:
    """Load pycurl's library with its own dependencies before the process's symbols.

    By ctypes, because `sys.setdlopenflags` would also change what other threads import meanwhile.
    """
    spec = importlib.util.find_spec("pycurl")
    if not spec or not spec.origin or not hasattr(os, "RTLD_DEEPBIND"):  # macOS binds apart anyway
        return
    origin = Path(spec.origin)
    for path in [origin] if origin.suffix == ".so" else origin.parent.glob("*.so"):
        ctypes.CDLL(str(path), mode=os.RTLD_NOW | os.RTLD_DEEPBIND)


_load_apart()

import pycurl  # noqa: E402 - not before its library

__all__ = ["pycurl"]
