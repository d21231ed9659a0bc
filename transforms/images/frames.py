"""Frames: their number, and the part of the canvas that the first frame covers."""

from __future__ import annotations

import struct
from collections.abc import Callable

from PIL import Image, ImageFile

from labelbeam.transforms.images.containers import (
    GIF_IMAGE,
    MOST_PIECES,
    gif_blocks,
    png_chunks,
    tiff_header,
    webp_chunks,
)

_MOST_FRAMES = 2**31 - 1  # because the column `frames` is int32

PixelBox = tuple[int, int, int, int]


def count_frames(data: bytes, image: Image.Image) -> int | None:
    """Return the number of frames or pages that a file has or declares, without decoding them.

    Returns:
      At least 1; None for a file with more than `MOST_PIECES` pieces.
    """
    # Not by Pillow in these formats, because its counts have no bound.
    count = _COUNTERS.get(image.format or "")
    frames = count(data) if count else getattr(image, "n_frames", 1)
    if not isinstance(frames, int) or frames > _MOST_FRAMES:
        return None
    return max(1, frames)


def _frames_of_png(data: bytes) -> int:
    declared = 0
    for chunk in png_chunks(data):
        if chunk.kind == b"acTL" and chunk.end - chunk.start >= 20:
            declared = int.from_bytes(data[chunk.body : chunk.body + 4])
        elif chunk.kind == b"fcTL":  # the still image is the first frame
            return declared
        elif chunk.kind == b"IDAT":  # the still image is none of the animation's frames
            return declared + 1
    return declared


def _frames_of_gif(data: bytes) -> int | None:
    # None without an end, because `gif_blocks` has then stopped at its bound.
    kinds = [block.kind for block in gif_blocks(data)]
    return kinds.count(bytes((GIF_IMAGE,))) if kinds[-1:] == [b";"] else None


def _pages_of_tiff(data: bytes) -> int | None:
    header = tiff_header(data)
    if header is None:
        return 1
    # Offsets of directories are kept, because the chain of a hostile file may be a circle.
    offsets: set[int] = set()
    at = header.first
    while at and at not in offsets:
        if len(offsets) >= MOST_PIECES:
            return None
        try:
            following = header.following(data, at)
        except struct.error:  # a chain that leaves the file ends there
            break
        offsets.add(at)
        at = following
    return len(offsets)


_COUNTERS: dict[str, Callable[[bytes], int | None]] = {
    "PNG": _frames_of_png,
    "GIF": _frames_of_gif,
    "TIFF": _pages_of_tiff,
}


def first_frame_box(data: bytes, image: ImageFile.ImageFile) -> PixelBox | None:
    """Return the part of the canvas that the first frame covers; None for the whole canvas.

    The rest must become white, because browsers show it as transparent, while Pillow fills it with the first
    colour of a GIF's palette, and with black in a WebP without alpha. The image must not be loaded yet.
    """
    box = None
    if image.format == "GIF" and image.tile:
        box = image.tile[0].extents
    elif image.format == "WEBP" and image.mode == "RGB":
        box = _first_box_of_webp(data)
    if box is None or box == (0, 0, *image.size):
        return None
    right, bottom = min(box[2], image.width), min(box[3], image.height)  # hostile files have huge frames
    return min(box[0], right), min(box[1], bottom), right, bottom


def _first_box_of_webp(data: bytes) -> PixelBox | None:
    frame = next((chunk for chunk in webp_chunks(data) if chunk.kind == b"ANMF"), None)
    if frame is None or frame.end - frame.body < 12:
        return None
    x, y, width, height = (
        int.from_bytes(data[at : at + 3], "little") for at in range(frame.body, frame.body + 12, 3)
    )
    return 2 * x, 2 * y, 2 * x + width + 1, 2 * y + height + 1
