"""The cache folder."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """Return the folder of models and measurements: `$LABELBEAM_CACHE_DIR`, or the user's cache folder."""
    return Path(os.environ.get("LABELBEAM_CACHE_DIR") or platformdirs.user_cache_dir("labelbeam"))
