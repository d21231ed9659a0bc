"""57 real photos: the sample corpus, and what an optimised model is compared on."""

from __future__ import annotations

from pathlib import Path

PHOTOS = Path(__file__).parent
_SUFFIXES = {".jpg", ".png", ".webp"}


def photo_paths() -> list[Path]:
    """The photos, always in the same order."""
    return sorted(path for path in PHOTOS.iterdir() if path.suffix in _SUFFIXES)
