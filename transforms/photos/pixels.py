"""The sample photos as a model's input."""

from __future__ import annotations

import functools

import numpy as np

from labelbeam.transforms.images.decode import decode_image
from labelbeam.transforms.images.resize import ResizeRule
from labelbeam.transforms.photos import photo_paths, right_classes


@functools.lru_cache(maxsize=1)
def photo_pixels(rule: ResizeRule) -> np.ndarray:
    """Return the sample photos, those of known class first: `[57, size, size, 3] uint8`, RGB, 0-255."""
    paths = {path.name: path for path in photo_paths()}
    names = [*right_classes(), *sorted(paths.keys() - right_classes())]
    return np.stack([decode_image(paths[name].read_bytes(), rule, 10**9).pixels for name in names])
