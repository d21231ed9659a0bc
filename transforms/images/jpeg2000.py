"""JPEG 2000: workarounds for header boxes that Pillow ignores or reads wrong."""

from __future__ import annotations

import struct

from PIL import Image, ImagePalette

from labelbeam.transforms.errors import ImageError, Reason
from labelbeam.transforms.images.containers import JP2_SIGNATURE, Chunk, boxes

_SIZ = b"\xff\x4f\xff\x51"  # start of a codestream, and its first segment
# Colour spaces by number (ISO 15444-1 and -2) that Pillow reads: CMYK, sRGB, grey, sYCC.
_COLOUR_SPACES = (12, 16, 17, 18)
_WHOLE_IMAGE = 0  # association of an alpha channel (ISO 15444-1, I.5.3.6)


def prepare_jpeg2000(data: bytes, image: Image.Image) -> None:
    """Make an opened JPEG 2000 ready to be loaded.

    Raises:
      ImageError: Pillow would read the pixels wrong.
    """
    bits = _bits(data)
    if min(bits, default=8) < 8:
        raise _unsupported("fewer than 8 bits")
    if max(bits, default=8) > 8 and len(bits) > 1:
        # Refused, because Pillow rounds to 8 bits and lets the highest values overflow: white becomes black.
        raise _unsupported(f"{max(bits)} bits in several components")
    if not data.startswith(JP2_SIGNATURE):
        return
    parts = _header_boxes(data)
    _check_colour_space(data, parts)
    if b"cdef" in parts:
        _check_channels(data, parts[b"cdef"], len(image.getbands()))
    if b"pclr" in parts:
        image.palette = _palette(data, parts[b"pclr"], image)


def explain_jpeg2000(data: bytes) -> ImageError | None:
    """Return an error for a JPEG 2000 that is unsupported; None if its header is damaged."""
    codestream = data.startswith((JP2_SIGNATURE, _SIZ))
    components = len(_bits(data)) if codestream else 0
    return _unsupported(f"{components} components") if components > 4 else None


def _bits(data: bytes) -> list[int]:
    at = data.find(_SIZ)
    if at < 0 or at + 42 > len(data):
        return []
    components = struct.unpack_from(">H", data, at + 40)[0]
    return [(depth & 0x7F) + 1 for depth in data[at + 42 : at + 42 + 3 * components : 3]]


def _header_boxes(data: bytes) -> dict[bytes, Chunk]:
    header = next((box for box in boxes(data, 0, len(data)) if box.kind == b"jp2h"), None)
    first: dict[bytes, Chunk] = {}  # of each kind, because decoders ignore repeated boxes
    for box in boxes(data, header.body, header.end) if header else ():
        first.setdefault(box.kind, box)
    return first


def _check_colour_space(data: bytes, parts: dict[bytes, Chunk]) -> None:
    colour = parts.get(b"colr")
    if colour is None or colour.end - colour.body < 7 or data[colour.body] != 1:  # a profile: ignored
        return
    number = struct.unpack_from(">I", data, colour.body + 3)[0]
    if number not in _COLOUR_SPACES:
        raise _unsupported(f"colour space {number}")


def _check_channels(data: bytes, box: Chunk, bands: int) -> None:
    (number,) = struct.unpack_from(">H", data, box.body)
    channels = sorted(struct.iter_unpack(">HHH", data[box.body + 2 : box.body + 2 + 6 * number]))
    colours = [(channel, of) for channel, kind, of in channels if kind == 0]
    if any(of != channel + 1 for channel, of in colours):
        raise _unsupported("channels in another order")
    others = [(channel, kind, of) for channel, kind, of in channels if kind != 0]
    if any(kind != 1 or of != _WHOLE_IMAGE or channel != bands - 1 for channel, kind, of in others):
        raise _unsupported("channels that are neither colour nor alpha of the whole image")


def _palette(data: bytes, box: Chunk, image: Image.Image) -> ImagePalette.ImagePalette:
    """Return the palette as stored, because Pillow drops colours that occur twice and so moves the rest."""
    entries, columns = struct.unpack_from(">HB", data, box.body)
    depths = data[box.body + 3 : box.body + 3 + columns]
    start = box.body + 3 + columns
    colours = data[start : start + entries * columns]
    if image.mode != "P" or columns != 3 or set(depths) != {7} or len(colours) != entries * columns:
        raise _unsupported("a palette other than 8-bit RGB")
    return ImagePalette.raw("RGB", colours)


def _unsupported(feature: str) -> ImageError:
    message = f"JPEG 2000: {feature} is not read; convert the image to PNG or JPEG"
    return ImageError(Reason.UNSUPPORTED, message)
