"""57 real photos: the sample corpus, and the images that models are probed and compared on."""

from __future__ import annotations

import csv
import functools
from pathlib import Path

PHOTOS = Path(__file__).parent
_SUFFIXES = {".jpg", ".png", ".webp"}


def photo_paths() -> list[Path]:
    """Return the photos, always in the same order."""
    return sorted(path for path in PHOTOS.iterdir() if path.suffix in _SUFFIXES)


@functools.cache
def right_classes() -> dict[str, frozenset[int]]:
    """Return the right ImageNet classes of the 27 photos of known class, by file name."""
    with (PHOTOS / "labels.csv").open(encoding="utf-8", newline="") as f:
        return {
            row["file"]: frozenset(int(n) for n in row["label_ids"].split("|"))
            for row in csv.DictReader(f)
            if row["label_ids"]
        }
