"""The cache folder."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """Return the folder of models and measurements: `$LABELBEAM_CACHE_DIR`, or the user's cache folder."""
    return Path(os.environ.get("LABELBEAM_CACHE_DIR") or platformdirs.user_cache_dir("labelbeam"))


def write_cached(file: Path, data: bytes) -> None:
    """Write a file of the cache, which other processes see whole or not at all.

    Raises:
      OSError: The cache can't be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=file.parent) as folder:
        new = Path(folder) / file.name
        new.write_bytes(data)
        new.replace(file)
