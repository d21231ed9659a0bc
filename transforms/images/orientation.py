"""EXIF orientation: how a stored image is turned to be looked at."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image

from transforms.images.resize import Box

_TAG = 0x0112  # Exif 2.32, "Orientation"
_Turn = Image.Transpose

# For each orientation: how the stored image is turned, and where a box of the
# displayed image, W by H, lies in the stored one.
_TURNS: dict[int, tuple[_Turn, Callable[[Box, int, int], Box]]] = {
    2: (_Turn.FLIP_LEFT_RIGHT, lambda b, w, h: (w - b[2], b[1], w - b[0], b[3])),
    3: (_Turn.ROTATE_180, lambda b, w, h: (w - b[2], h - b[3], w - b[0], h - b[1])),
    4: (_Turn.FLIP_TOP_BOTTOM, lambda b, w, h: (b[0], h - b[3], b[2], h - b[1])),
    5: (_Turn.TRANSPOSE, lambda b, w, h: (b[1], b[0], b[3], b[2])),
    6: (_Turn.ROTATE_270, lambda b, w, h: (b[1], w - b[2], b[3], w - b[0])),
    7: (_Turn.TRANSVERSE, lambda b, w, h: (h - b[3], w - b[2], h - b[1], w - b[0])),
    8: (_Turn.ROTATE_90, lambda b, w, h: (h - b[3], b[0], h - b[1], b[2])),
}


def read_orientation(image: Image.Image) -> int:
    """The orientation an image's EXIF block gives, 1 to 8; 1 if it gives none that is valid."""
    orientation = image.getexif().get(_TAG, 1)
    return orientation if orientation in _TURNS else 1


def displayed_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Width and height after turning, px."""
    return size[::-1] if orientation >= 5 else size


def stored_box(box: Box, displayed: tuple[int, int], orientation: int) -> Box:
    """Where a box of the displayed image lies in the stored image."""
    return _TURNS[orientation][1](box, *displayed) if orientation in _TURNS else box


def turn(image: Image.Image, orientation: int) -> Image.Image:
    """Turns a stored image to how it is displayed."""
    return image.transpose(_TURNS[orientation][0]) if orientation in _TURNS else image
