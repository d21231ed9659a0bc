"""57 real photos: the sample corpus, and the images on which models are probed and compared."""

from __future__ import annotations

import csv
import functools
from pathlib import Path

import numpy as np

from labelbeam.transforms.images.decode import decode_image
from labelbeam.transforms.images.resize import ResizeRule

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


# Only the latest rule is kept, because a process has one model, and the photos at 600 px take 62 MB.
@functools.lru_cache(maxsize=1)
def photo_pixels(rule: ResizeRule) -> np.ndarray:
    """Return the photos as a model's input, those of known class first: `[57, size, size, 3] uint8`, RGB."""
    paths = {path.name: path for path in photo_paths()}
    names = [*right_classes(), *sorted(paths.keys() - right_classes())]
    return np.stack([decode_image(paths[name].read_bytes(), rule, 10**9).pixels for name in names])
