"""The cache folder, and folders that are either complete or absent."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """Return the folder of models and measurements: `$LABELBEAM_CACHE_DIR`, or the user's cache folder."""
    return Path(os.environ.get("LABELBEAM_CACHE_DIR") or platformdirs.user_cache_dir("labelbeam"))


def make_folder_once(folder: Path, fill: Callable[[Path], object]) -> Path:
    """Make a folder and fill it, unless it exists.

    Args:
      folder: The folder to make.
      fill: Writes the content into an empty folder.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Filled under another name and renamed, because a process may be killed meanwhile, and no other process
    # may see a part. If two processes race, the second rename fails and the first folder stays.
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        fill(temporary)
        temporary.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder
