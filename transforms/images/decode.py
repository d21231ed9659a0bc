"""Decoding: from encoded bytes to the pixels a model sees."""

from __future__ import annotations

import io
import logging
import math
import warnings
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from labelbeam.transforms.errors import ImageError, Reason
from labelbeam.transforms.images.bmp import prepare_bmp
from labelbeam.transforms.images.colours import to_rgb
from labelbeam.transforms.images.formats import FORMATS, explain_unidentified
from labelbeam.transforms.images.frames import count_frames
from labelbeam.transforms.images.jpeg2000 import prepare_jpeg2000
from labelbeam.transforms.images.metadata import without_metadata
from labelbeam.transforms.images.orientation import (
    displayed_size,
    read_orientation,
    stored_box,
    turn,
    turns_itself,
)
from labelbeam.transforms.images.png import prepare_png
from labelbeam.transforms.images.resize import Box, ResizeRule, resize_image, to_pixels
from labelbeam.transforms.images.tiff import explain_tiff, prepare_tiff

# All decoders are loaded here, before threads ask for them.
Image.init()
# The limit is ours, checked before pixels are decoded; Pillow's would warn or raise on its own.
Image.MAX_IMAGE_PIXELS = None
# Pillow warns of odd metadata and logs errors that it raises as well; a row of failures has them.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)

# Reasons for which metadata can't be the cause.
_PIXELS_TO_BLAME = (Reason.TOO_LARGE_PIXELS, Reason.EMPTY)


class Decoded(NamedTuple):
    """A decoded image.

    Attributes:
      pixels: `[size, size, 3] uint8`, RGB, 0-255.
      width_px: Width as displayed, after orientation.
      height_px: Height as displayed.
      format: The encoding's name, such as `JPEG`.
      orientation: How the stored image was turned, 1 to 8, as EXIF numbers it.
      frames: Frames or pages of the file; None if there are too many to count.
    """

    pixels: np.ndarray
    width_px: int
    height_px: int
    format: str
    orientation: int
    frames: int | None


def decode_image(data: bytes, rule: ResizeRule, max_pixels: int) -> Decoded:
    """Decode an image and bring it to the model's input size.

    The orientation is applied. Transparency is composed over white, 16-bit
    values are scaled to 8 bits, of an animation the first frame is taken, and
    embedded colour profiles are ignored. docs/images.md has the rules of each format.

    Args:
      data: The encoded image.
      rule: Which part is seen, at what size.
      max_pixels: Larger images are refused before they are decoded.

    Raises:
      ImageError: The bytes are no image that can be read, or too large a one.
    """
    if not data:
        raise ImageError(Reason.EMPTY, "0 bytes")
    try:
        return _decode_bytes(data, data, rule, max_pixels)
    except ImageError as e:
        # Damaged metadata costs no pixels: the second attempt decodes the image without metadata.
        plain = data if e.reason in _PIXELS_TO_BLAME else without_metadata(data)
        if plain == data:
            raise
        return _decode_bytes(plain, data, rule, max_pixels)


def _decode_bytes(data: bytes, original: bytes, rule: ResizeRule, max_pixels: int) -> Decoded:
    try:
        data = prepare_bmp(data)
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            image.decodermaxblock = len(data)  # all at once: each block is a turn at the GIL
            return _decode(image, data, original, rule, max_pixels)
    except UnidentifiedImageError as e:
        raise explain_unidentified(data) from e
    except ImageError:
        raise
    except Exception as e:  # Pillow's decoders raise anything on hostile bytes
        raise _broken(data, e) from e


def _broken(data: bytes, e: Exception) -> ImageError:
    message = f"{type(e).__name__}: {e}"[:300]
    if "Unsupported BMP" in message:
        return ImageError(Reason.UNSUPPORTED, f"{e}; convert the image to PNG or JPEG")
    # Pillow looks a compression that it has no name for up in a dictionary.
    if isinstance(e, KeyError) and (special := explain_tiff(data)):
        return special
    truncated = isinstance(e, EOFError) or "truncated" in message.lower()
    return ImageError(Reason.TRUNCATED if truncated else Reason.DECODE_ERROR, message)


def _decode(
    image: ImageFile.ImageFile, data: bytes, original: bytes, rule: ResizeRule, max_pixels: int
) -> Decoded:
    stored = image.size
    if stored[0] * stored[1] > max_pixels:
        raise ImageError(
            Reason.TOO_LARGE_PIXELS,
            f"{stored[0]} x {stored[1]} pixels, more than max_megapixels={max_pixels / 1e6:g} allows",
        )
    _prepare(image, data)
    orientation = read_orientation(original, image)
    frames = count_frames(original, image)
    to_turn = 1 if turns_itself(image) else orientation
    displayed = displayed_size(stored, to_turn)
    box = stored_box(rule.box(*displayed), displayed, to_turn)
    rgb = to_rgb(data, _draft(image, box, rule))
    small = resize_image(rgb, _scale(box, stored, rgb.size), rule.size_px)
    return Decoded(to_pixels(turn(small, to_turn)), *displayed, _format_of(image), orientation, frames)


def _prepare(image: ImageFile.ImageFile, data: bytes) -> None:
    if image.format == "PNG":
        prepare_png(data, image)
    elif image.format == "TIFF":
        prepare_tiff(image)
    elif image.format == "JPEG2000":
        prepare_jpeg2000(data, image)


def _draft(image: ImageFile.ImageFile, box: Box, rule: ResizeRule) -> ImageFile.ImageFile:
    """Have a JPEG decoded smaller where the box keeps enough pixels; return the image itself."""
    shrink = min(box[2] - box[0], box[3] - box[1]) / (rule.oversampling * rule.size_px)
    if image.format in ("JPEG", "MPO") and shrink >= 2:
        image.draft(None, (math.ceil(image.width / shrink), math.ceil(image.height / shrink)))
    return image


def _scale(box: Box, size: tuple[int, int], drafted: tuple[int, int]) -> Box:
    x, y = drafted[0] / size[0], drafted[1] / size[1]
    return box[0] * x, box[1] * y, min(box[2] * x, drafted[0]), min(box[3] * y, drafted[1])


def _format_of(image: Image.Image) -> str:
    return "JPEG" if image.format == "MPO" else image.format or ""
