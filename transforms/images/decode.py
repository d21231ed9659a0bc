"""Decoding: encoded bytes become the pixels that a model sees."""

from __future__ import annotations

import functools
import io
import logging
import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, TypeVar

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
)
from labelbeam.transforms.images.png import prepare_png
from labelbeam.transforms.images.regions import Region
from labelbeam.transforms.images.resize import Box, ResizeRule, resize_image
from labelbeam.transforms.images.tiff import explain_tiff, prepare_tiff

# All decoders are loaded here, because threads would race to load them.
Image.init()
# Pillow's limit is off, because `_decode` checks the configured one before pixels are decoded.
Image.MAX_IMAGE_PIXELS = None
# Pillow's warnings and logs are off, because they are about harmless metadata, or errors that become failure
# rows.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)

# Most scans of a progressive JPEG. Programs write 10, and each costs a pass over all pixels: 200 of them take
# 12 s of a core in a file of 341 KB.
_MAX_SCANS = 100

# Reasons that damaged metadata can't cause.
_PIXELS_TO_BLAME = (Reason.TOO_LARGE_PIXELS, Reason.EMPTY, Reason.DECODE_MEMORY)


T = TypeVar("T")

# Waits until there is memory for a number of pixels, and holds it.
Room = Callable[[int], AbstractContextManager[None]]


def no_wait(pixels: int) -> AbstractContextManager[None]:
    """Return room at once, because nothing else is decoded."""
    return nullcontext()


class Decoded(NamedTuple):
    """Pixels, `[size, size, 3] uint8`, RGB, 0-255, and the fields of `ImageMetadata` that decoding gives."""

    pixels: np.ndarray
    width_px: int
    height_px: int
    format: str
    orientation: int
    frames: int | None


class _Opened(NamedTuple):
    """An image whose pixels are not decoded yet.

    Attributes:
      stored: Width and height as stored, px.
      to_turn: Orientation that is still to be applied to decoded pixels.
      displayed: Width and height as displayed, px.
    """

    image: ImageFile.ImageFile
    data: bytes
    stored: tuple[int, int]
    to_turn: int
    displayed: tuple[int, int]
    orientation: int
    frames: int | None

    def decoded(self, small: Image.Image, size: tuple[int, int]) -> Decoded:
        """Return the resized pixels of the image, or of a box, of a size in px."""
        return Decoded(np.asarray(small), *size, _format_of(self.image), self.orientation, self.frames)


# Decodes the part of an image that is needed.
_View = Callable[[_Opened], T]


def decode_image(data: bytes, rule: ResizeRule, max_pixels: int, room: Room = no_wait) -> Decoded:
    """Decode an image and resize it to the model's input size.

    The orientation is applied, transparency is composed over white, 16-bit values are scaled to 8 bits, and
    colour profiles are ignored. An animation is decoded to its first frame. docs/images.md has the rules of
    each format.

    Args:
      data: The encoded image.
      rule: Part of the image that the model sees, and its size.
      max_pixels: Largest number of pixels that are decoded.
      room: Waits until there is memory for the pixels.

    Raises:
      ImageError: The bytes are not an image that can be read, or the image is too large.
    """
    return _decode_intact(data, functools.partial(_decode_whole, rule=rule, room=room), max_pixels)


def decode_boxes(
    data: bytes, regions: Sequence[Region], rule: ResizeRule, max_pixels: int, room: Room = no_wait
) -> list[Decoded | ImageError]:
    """Decode an image once, and crop and resize each of its boxes as if the box were an image of its own.

    Args:
      data: The encoded image.
      regions: Regions of the boxes in the image as displayed.
      rule: Part of a box that the model sees, and its size.
      max_pixels: Largest number of pixels that are decoded.
      room: Waits until there is memory for the pixels.

    Returns:
      A result for each region: an error if the region lies outside of the image.

    Raises:
      ImageError: As of `decode_image`.
    """
    cut = functools.partial(_decode_regions, regions=regions, rule=rule, room=room)
    return _decode_intact(data, cut, max_pixels)


def _decode_intact(data: bytes, view: _View[T], max_pixels: int) -> T:
    if not data:
        raise ImageError(Reason.EMPTY, "0 bytes")
    try:
        return _decode_bytes(data, data, view, max_pixels)
    except ImageError as e:
        # A second attempt without metadata, because damaged metadata must not cost an image.
        plain = data if e.reason in _PIXELS_TO_BLAME else without_metadata(data)
        if plain == data:
            raise
        return _decode_bytes(plain, data, view, max_pixels)


def _decode_bytes(data: bytes, original: bytes, view: _View[T], max_pixels: int) -> T:
    try:
        data = prepare_bmp(data)
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            image.decodermaxblock = len(data)  # one block, because Pillow takes the GIL between blocks
            return view(_open(image, data, original, max_pixels))
    except UnidentifiedImageError as e:
        raise explain_unidentified(data) from e
    except ImageError:
        raise
    except MemoryError as e:
        raise too_little_memory() from e
    except Exception as e:  # because Pillow's decoders raise errors of any type on hostile bytes
        raise _broken(data, e) from e


def _broken(data: bytes, e: Exception) -> ImageError:
    message = f"{type(e).__name__}: {e}"[:300]
    if "Unsupported BMP" in message:
        return ImageError(Reason.UNSUPPORTED, f"{e}; convert the image to PNG or JPEG")
    # A KeyError, because Pillow looks up a compression without a name in a dictionary.
    if isinstance(e, KeyError) and (error := explain_tiff(data)):
        return error
    if "out of memory" in message:  # Pillow's decoders
        return too_little_memory()
    truncated = isinstance(e, EOFError) or "truncated" in message.lower()
    return ImageError(Reason.TRUNCATED if truncated else Reason.DECODE_ERROR, message)


def too_little_memory() -> ImageError:
    """Return the error for an image that needs too much memory."""
    return ImageError(Reason.DECODE_MEMORY, "needs more memory than a loader has (max_megapixels sets it)")


def _open(image: ImageFile.ImageFile, data: bytes, original: bytes, max_pixels: int) -> _Opened:
    stored = image.size
    # Before any pixel is decoded, because a file of some kB can declare gigabytes of them.
    if stored[0] * stored[1] > max_pixels:
        raise ImageError(
            Reason.TOO_LARGE_PIXELS,
            f"{stored[0]} x {stored[1]} pixels, more than max_megapixels={max_pixels / 1e6:g} allows",
        )
    _prepare(image, data)
    # From the original, because the second attempt decodes bytes without metadata.
    orientation = read_orientation(original, image)
    frames = count_frames(original, image)
    # TIFFs have turn 1, because Pillow turns them while it loads them.
    to_turn = 1 if image.format == "TIFF" else orientation
    return _Opened(image, data, stored, to_turn, displayed_size(stored, to_turn), orientation, frames)


def _decode_whole(opened: _Opened, rule: ResizeRule, room: Room) -> Decoded:
    image, stored = opened.image, opened.stored
    # The crop is computed as displayed, and cut from the stored image, because turning few pixels is cheaper.
    box = stored_box(rule.box(*opened.displayed), opened.displayed, opened.to_turn)
    drafted = _draft(image, box, rule)
    # Of a progressive JPEG libjpeg keeps all coefficients, however small it is decoded.
    size = stored if image.info.get("progressive") else drafted.size
    with room(size[0] * size[1]):
        rgb = to_rgb(opened.data, drafted)
        small = resize_image(rgb, _scale(box, stored, rgb.size), rule.size_px)
    return opened.decoded(turn(small, opened.to_turn), opened.displayed)


def _decode_regions(
    opened: _Opened, regions: Sequence[Region], rule: ResizeRule, room: Room
) -> list[Decoded | ImageError]:
    # At full size, because the pixels of a box must not depend on which other boxes are labelled with it.
    with room(opened.stored[0] * opened.stored[1]):
        rgb = to_rgb(opened.data, opened.image)
        return [_decode_region(opened, rgb, region, rule) for region in regions]


def _decode_region(
    opened: _Opened, rgb: Image.Image, region: Region, rule: ResizeRule
) -> Decoded | ImageError:
    try:
        box = region.pixels(*opened.displayed)
    except ImageError as e:
        return e
    # Cut before it is resized, because resizing would mix in pixels around the box.
    left, top, right, bottom = map(round, stored_box(box, opened.displayed, opened.to_turn))
    crop = turn(rgb.crop((left, top, right, bottom)), opened.to_turn)
    small = resize_image(crop, rule.box(*crop.size), rule.size_px)
    return opened.decoded(small, crop.size)


def _prepare(image: ImageFile.ImageFile, data: bytes) -> None:
    if image.format == "PNG":
        prepare_png(data, image)
    elif image.format == "TIFF":
        prepare_tiff(image)
    elif image.format == "JPEG2000":
        prepare_jpeg2000(data, image)
    elif image.info.get("progressive"):
        _check_scans(data)


def _check_scans(data: bytes) -> None:
    """Refuse a progressive JPEG of more scans than any camera or program writes.

    Raises:
      ImageError: It has too many.
    """
    # Markers are counted, not parsed, because none of these bytes occurs in compressed pixels.
    if (scans := data.count(b"\xff\xda")) > _MAX_SCANS:
        raise ImageError(
            Reason.UNSUPPORTED,
            f"a progressive JPEG of {scans:,} scans, more than {_MAX_SCANS}; save the image again",
        )


def _draft(image: ImageFile.ImageFile, box: Box, rule: ResizeRule) -> ImageFile.ImageFile:
    """Let libjpeg decode a large JPEG at a smaller size, because full decoding takes 4 times as long."""
    shrink = min(box[2] - box[0], box[3] - box[1]) / (rule.oversampling * rule.size_px)
    if image.format in ("JPEG", "MPO") and shrink >= 2:
        image.draft(None, (math.ceil(image.width / shrink), math.ceil(image.height / shrink)))
    return image


def _scale(box: Box, size: tuple[int, int], drafted: tuple[int, int]) -> Box:
    x, y = drafted[0] / size[0], drafted[1] / size[1]
    # Clipped, because a product can exceed the image by a rounding error, which Pillow refuses.
    return box[0] * x, box[1] * y, min(box[2] * x, drafted[0]), min(box[3] * y, drafted[1])


def _format_of(image: Image.Image) -> str:
    # An MPO is a JPEG with more pictures behind it, and often has the name of a JPEG.
    return "JPEG" if image.format == "MPO" else image.format or ""
