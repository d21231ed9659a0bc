"""Decoding: from encoded bytes to the pixels a model sees."""

from __future__ import annotations

import io
import math
import warnings
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from transforms.errors import ImageError, Reason
from transforms.images.formats import FORMATS, explain_unidentified
from transforms.images.orientation import displayed_size, read_orientation, stored_box, turn
from transforms.images.resize import Box, ResizeRule, resize_image, to_pixels

# All decoders are loaded here, before threads ask for them.
Image.init()
# The limit is ours, checked before pixels are decoded; Pillow's would warn or raise on its own.
Image.MAX_IMAGE_PIXELS = None
# Pillow warns of odd metadata; an image that can be decoded is no news.
warnings.filterwarnings("ignore", module=r"PIL\.")

_WITH_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")


class Decoded(NamedTuple):
    """A decoded image.

    Attributes:
      pixels: `[size, size, 3] uint8`, RGB, 0-255.
      width_px: Width as displayed, after EXIF orientation.
      height_px: Height as displayed.
      format: The encoding's name, such as `JPEG`.
    """

    pixels: np.ndarray
    width_px: int
    height_px: int
    format: str


def decode_image(data: bytes, rule: ResizeRule, max_pixels: int) -> Decoded:
    """Decodes an image and brings it to the model's input size.

    EXIF orientation is applied. Transparency is composed over white, 16-bit
    values are scaled to 8 bits, of an animation the first frame is taken, and
    embedded colour profiles are ignored.

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
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            image.decodermaxblock = len(data)  # all at once: each block is a turn at the GIL
            return _decode(image, rule, max_pixels)
    except UnidentifiedImageError as e:
        raise explain_unidentified(data) from e
    except ImageError:
        raise
    except Exception as e:  # Pillow's decoders raise anything on hostile bytes
        raise _broken(e) from e


def _broken(e: Exception) -> ImageError:
    message = f"{type(e).__name__}: {e}"[:300]
    truncated = isinstance(e, EOFError) or "truncated" in message.lower()
    return ImageError(Reason.TRUNCATED if truncated else Reason.DECODE_ERROR, message)


def _decode(image: Image.Image, rule: ResizeRule, max_pixels: int) -> Decoded:
    stored = image.size
    if stored[0] * stored[1] > max_pixels:
        raise ImageError(
            Reason.TOO_LARGE_PIXELS,
            f"{stored[0]} x {stored[1]} pixels, more than max_megapixels={max_pixels / 1e6:g} allows",
        )
    orientation = read_orientation(image)
    displayed = displayed_size(stored, orientation)
    box = stored_box(rule.box(*displayed), displayed, orientation)
    small = resize_image(_to_rgb(_draft(image, box, rule)), _scale(box, stored, image.size), rule.size_px)
    return Decoded(to_pixels(turn(small, orientation)), *displayed, _format_of(image))


def _draft(image: Image.Image, box: Box, rule: ResizeRule) -> Image.Image:
    """Has a JPEG decoded smaller where the box keeps enough pixels; gives the image itself."""
    shrink = min(box[2] - box[0], box[3] - box[1]) / (rule.oversampling * rule.size_px)
    if image.format in ("JPEG", "MPO") and shrink >= 2:
        image.draft(None, (math.ceil(image.width / shrink), math.ceil(image.height / shrink)))
    return image


def _scale(box: Box, size: tuple[int, int], drafted: tuple[int, int]) -> Box:
    x, y = drafted[0] / size[0], drafted[1] / size[1]
    return box[0] * x, box[1] * y, min(box[2] * x, drafted[0]), min(box[3] * y, drafted[1])


def _to_rgb(image: Image.Image) -> Image.Image:
    image.load()
    if image.mode == "RGB":
        return image
    if image.mode in _SIXTEEN_BIT:
        return _from_16_bit(image)
    if image.mode == "F":
        raise ImageError(Reason.UNSUPPORTED, "floating-point pixels have no known range; convert the image")
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        with_alpha = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, with_alpha).convert("RGB")
    return image.convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise ImageError(Reason.UNSUPPORTED, "32-bit pixels have no known range; convert the image")
    return Image.fromarray((values >> 8).astype(np.uint8), "L").convert("RGB")


def _format_of(image: Image.Image) -> str:
    return "JPEG" if image.format == "MPO" else image.format or ""
