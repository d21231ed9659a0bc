"""Corpora to measure on: the sample photos as JPEGs of one size."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, ImageOps

from labelbeam.transforms.photos import photo_paths


def make_corpus(folder: Path, images: int, width_px: int, height_px: int) -> Path:
    """Write `images` JPEG files (quality 85, 4:2:0), made of the photos in turn."""
    folder.mkdir(parents=True)
    encoded = [_encode(path, width_px, height_px) for path in photo_paths()]
    for n in range(images):
        (folder / f"{n:06d}.jpg").write_bytes(encoded[n % len(encoded)])
    return folder


def _encode(path: Path, width_px: int, height_px: int) -> bytes:
    with Image.open(path) as image:
        fitted = ImageOps.fit(image.convert("RGB"), (width_px, height_px), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    fitted.save(buffer, "JPEG", quality=85, subsampling="4:2:0")
    return buffer.getvalue()
