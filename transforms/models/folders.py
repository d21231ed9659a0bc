"""Folders on the local disk: the cache, and folders that are there when complete, or not there."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """Return where models are kept: `$LABELBEAM_CACHE_DIR`, or the user's cache folder."""
    return Path(os.environ.get("LABELBEAM_CACHE_DIR") or platformdirs.user_cache_dir("labelbeam"))


def make_folder_once(folder: Path, fill: Callable[[Path], object]) -> Path:
    """Makes a folder with what `fill` writes into it, unless it is there.

    It is filled under another name and renamed, so that nobody sees part of
    it. Of two processes that race, the second keeps what the first made.

    Args:
      folder: The folder to make.
      fill: Called with an empty folder beside it.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
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
