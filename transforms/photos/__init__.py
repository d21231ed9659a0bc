"""57 real photos: the sample corpus, and the images that models are probed and compared on."""

from __future__ import annotations

import csv
import functools
from pathlib import Path

_FOLDER = Path(__file__).parent
PHOTOS = _FOLDER / "images"


def photo_paths() -> list[Path]:
    """Return the photos, always in the same order."""
    return sorted(PHOTOS.iterdir())


@functools.cache
def right_classes() -> dict[str, frozenset[int]]:
    """Return the right ImageNet classes of the 27 photos of known class, by file name."""
    with (_FOLDER / "labels.csv").open(encoding="utf-8", newline="") as f:
        return {
            row["file"]: frozenset(int(n) for n in row["label_ids"].split("|"))
            for row in csv.DictReader(f)
            if row["label_ids"]
        }
