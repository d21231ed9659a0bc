"""Orientation: the turn from the stored to the displayed image, and its number in files of each format."""

from __future__ import annotations

import struct
from collections.abc import Callable

from PIL import Image

from labelbeam.transforms.images.containers import (
    JP2_SIGNATURE,
    boxes,
    jpeg_segments,
    png_chunk_is_intact,
    png_chunks,
    tiff_header,
    webp_chunks,
)
from labelbeam.transforms.images.resize import Box

_TAG = 0x0112  # Exif 2.32, "Orientation"
_EXIF = b"Exif\0"
_JP2_EXIF = b"JpgTiffExif->JP2"  # the UUID under which Adobe and Exiv2 put EXIF into JPEG 2000
_Turn = Image.Transpose

# For each orientation: the turn of the stored image, and the function from a box of the displayed image, of
# size W by H, to the box in the stored image.
_TURNS: dict[int, tuple[_Turn, Callable[[Box, int, int], Box]]] = {
    2: (_Turn.FLIP_LEFT_RIGHT, lambda b, w, h: (w - b[2], b[1], w - b[0], b[3])),
    3: (_Turn.ROTATE_180, lambda b, w, h: (w - b[2], h - b[3], w - b[0], h - b[1])),
    4: (_Turn.FLIP_TOP_BOTTOM, lambda b, w, h: (b[0], h - b[3], b[2], h - b[1])),
    5: (_Turn.TRANSPOSE, lambda b, w, h: (b[1], b[0], b[3], b[2])),
    6: (_Turn.ROTATE_270, lambda b, w, h: (b[1], w - b[2], b[3], w - b[0])),
    7: (_Turn.TRANSVERSE, lambda b, w, h: (h - b[3], w - b[2], h - b[1], w - b[0])),
    8: (_Turn.ROTATE_90, lambda b, w, h: (h - b[3], b[0], h - b[1], b[2])),
}


def read_orientation(data: bytes, image: Image.Image) -> int:
    """Return an image's orientation, 1 to 8; 1 if the file has no valid one.

    XMP and text chunks are ignored, because browsers ignore them.
    """
    if image.format == "TIFF":
        # As Pillow reads the tag, because Pillow turns a TIFF while it loads it.
        return _valid(image.getexif().get(_TAG, 1))
    if image.format == "AVIF":
        # From the EXIF block, because Pillow writes the boxes irot and imir into it; only they count in AVIF.
        return orientation_of_exif(image.info.get("exif", b""))
    find = _FINDERS.get(image.format or "")
    return orientation_of_exif(find(data)) if find else 1


def orientation_of_exif(block: bytes) -> int:
    """Return the orientation in an EXIF block; 1 if the block is damaged or has no valid one."""
    block = block[6:] if block.startswith(_EXIF) else block  # JPEG's prefix, which some writers put into WebP
    header = tiff_header(block)
    if header is None:
        return 1
    try:
        entries = header.entries(block, header.first)
        return _valid(next((header.number(block, entry) for entry in entries if entry.tag == _TAG), 1))
    except struct.error:  # the directory leaves the block
        return 1


def _valid(orientation: object) -> int:
    return orientation if isinstance(orientation, int) and orientation in _TURNS else 1


def _exif_of_jpeg(data: bytes) -> bytes:
    segments = (s for s in jpeg_segments(data) if s.kind == b"\xe1" and data.startswith(_EXIF, s.body))
    return next((data[s.body : s.end] for s in segments), b"")


def _exif_of_png(data: bytes) -> bytes:
    chunks = (c for c in png_chunks(data) if c.kind == b"eXIf" and png_chunk_is_intact(data, c))
    return next((data[c.body : c.end - 4] for c in chunks), b"")


def _exif_of_webp(data: bytes) -> bytes:
    return next((data[c.body : c.end] for c in webp_chunks(data) if c.kind == b"EXIF"), b"")


def _exif_of_jpeg2000(data: bytes) -> bytes:
    if not data.startswith(JP2_SIGNATURE):
        return b""
    exif = (b for b in boxes(data, 0, len(data)) if b.kind == b"uuid" and data.startswith(_JP2_EXIF, b.body))
    return next((data[b.body + 16 : b.end] for b in exif), b"")


_FINDERS: dict[str, Callable[[bytes], bytes]] = {
    "JPEG": _exif_of_jpeg,
    "MPO": _exif_of_jpeg,
    "PNG": _exif_of_png,
    "WEBP": _exif_of_webp,
    "JPEG2000": _exif_of_jpeg2000,
}


def displayed_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Return width and height after turning, px."""
    return size[::-1] if orientation >= 5 else size


def stored_box(box: Box, displayed: tuple[int, int], orientation: int) -> Box:
    """Return the box of the stored image that shows a box of the displayed image."""
    return _TURNS[orientation][1](box, *displayed) if orientation in _TURNS else box


def turn(image: Image.Image, orientation: int) -> Image.Image:
    """Turn a stored image as it is displayed."""
    return image.transpose(_TURNS[orientation][0]) if orientation in _TURNS else image
