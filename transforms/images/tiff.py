"""TIFF: workarounds for files whose pixels Pillow reads wrong, and silence for libtiff."""

from __future__ import annotations

import ctypes
import struct

import numpy as np
from PIL import Image, ImagePalette, TiffImagePlugin

from labelbeam.transforms.errors import ImageError, Reason
from labelbeam.transforms.images.containers import tiff_header

# libtiff reads uncompressed TIFFs, too, because Pillow's own reader garbles 16-bit planes and YCbCr.
TiffImagePlugin.READ_LIBTIFF = True


def _silence_libtiff() -> None:
    """Remove libtiff's error handler, because it prints errors to stderr that Pillow raises as well.

    The symbol is looked up through Pillow's extension, because libtiff is one of its linked libraries.
    Without a shared libtiff, errors stay printed.
    """
    set_handler = getattr(ctypes.CDLL(Image.core.__file__), "TIFFSetErrorHandler", None)
    if set_handler:
        set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
        set_handler(None)


_silence_libtiff()

_BITS, _COMPRESSION, _PHOTOMETRIC, _COLOUR_MAP, _INK_SET, _SAMPLE_FORMAT = 258, 259, 262, 320, 332, 339
_WIDTH, _SAMPLES, _PLANES, _EXTRA_SAMPLES = 256, 277, 284, 338
_LAYOUT = (_COMPRESSION, _PHOTOMETRIC, _SAMPLES, _EXTRA_SAMPLES)
# None, CCITT, LZW, JPEG (old and new), Deflate, PackBits, Deflate (old), LZMA, Zstandard. Pillow has names
# for more, but its libtiff is built without WebP and gives the others in forms that Pillow doesn't take.
_COMPRESSIONS = (1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 34925, 50000)
_TILE_WIDTH, _TILE_LENGTH = 322, 323
# Allowed in any image, because writers pad small images to whole tiles.
_TILE_PIXELS = 4096**2
_WHITE_IS_ZERO = 0
_FORMATS = {2: "signed integers", 3: "floating-point numbers", 5: "complex integers", 6: "complex numbers"}


def prepare_tiff(image: Image.Image) -> None:
    """Prepare an opened TIFF for loading.

    Raises:
      ImageError: Pillow would read the pixels wrong, or their range is unknown.
    """
    # Without XMP, because Pillow would turn the image by XMP's orientation.
    image.info.pop("xmp", None)
    tags = image.tag_v2  # type: ignore[attr-defined]
    formats = {_FORMATS.get(n, "") for n in _whole_numbers(tags.get(_SAMPLE_FORMAT))} - {""}
    bits = max(_whole_numbers(tags.get(_BITS)) or (1,))
    if formats:
        raise _unsupported(f"pixels of {bits}-bit {formats.pop()} have no known range")
    if bits > 16:
        raise _unsupported(f"{bits}-bit pixels have no known range")
    if (compression := tags.get(_COMPRESSION, 1)) not in _COMPRESSIONS:
        raise _unsupported(f"compression {compression} is not read")
    _check_tile(image, tags.get(_TILE_WIDTH), tags.get(_TILE_LENGTH))
    if image.mode == "LAB":
        raise _unsupported("the colour space CIE L*a*b* is not read")
    if image.mode == "CMYK" and tags.get(_INK_SET, 1) != 1:
        raise _unsupported("inks other than cyan, magenta, yellow and black are not read")
    if tags.get(_PLANES) == 2:
        _check_planes(image, len(_whole_numbers(tags.get(_EXTRA_SAMPLES))))
    if image.mode in ("P", "PA"):
        _correct_palette(image, _whole_numbers(tags.get(_COLOUR_MAP)), bits)


def _check_planes(image: Image.Image, extra_samples: int) -> None:
    """Refuse planes of alpha that Pillow confuses, because its second band of LA is the fourth of RGBA."""
    if image.mode in ("LA", "PA"):
        raise _unsupported("planes of grey or of a palette with alpha are not read")
    if image.mode == "RGBA" and extra_samples > 1:
        raise _unsupported("planes of alpha and of other extra samples are not read")


def _check_tile(image: Image.Image, width: object, height: object) -> None:
    """Refuse tiles far larger than the image, because libtiff would allocate them."""
    if not isinstance(width, int) or not isinstance(height, int):
        return
    if width * height > max(_TILE_PIXELS, 4 * image.width * image.height):
        size = f"{image.width} x {image.height}"
        raise ImageError(
            Reason.DECODE_ERROR, f"TIFF: tiles of {width} x {height} pixels in an image of {size}"
        )


def _whole_numbers(value: object) -> tuple[int, ...]:
    items = value if isinstance(value, tuple) else (value,)
    return tuple(item for item in items if isinstance(item, int))


def _correct_palette(image: Image.Image, colours: tuple[int, ...], bits: int) -> None:
    """Accept a palette of 8-bit values, as libtiff does, although TIFF's palettes have 16-bit values."""
    if len(colours) != 3 << bits:
        raise ImageError(Reason.DECODE_ERROR, f"TIFF: a palette of {len(colours)} values for {bits} bits")
    if max(colours) < 256:
        image.palette = ImagePalette.raw("RGB;L", bytes(colours))


def values_of_tiff(image: Image.Image, values: np.ndarray) -> np.ndarray:
    """Convert stored values to 16 bits with black as 0, `[H, W] uint16`."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    # Shifted to the top, because black and white must be 0 and 65535 at every depth.
    if _whole_numbers(tags.get(_BITS)) == (12,):
        values = values << 4
    return ~values if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else values


def explain_tiff(data: bytes) -> ImageError | None:
    """Return an error for a TIFF that is unsupported; None if its header is damaged."""
    header = tiff_header(data)
    try:
        tags = {e.tag: header.number(data, e) for e in header.entries(data, header.first)} if header else {}
    except struct.error:
        return None
    if not tags.get(_WIDTH) or _PHOTOMETRIC not in tags:
        return None
    numbers = ", ".join(f"{tag}={tags[tag]}" for tag in _LAYOUT if tag in tags)
    return _unsupported(f"this combination of tags is not read: {numbers}")


def _unsupported(feature: str) -> ImageError:
    return ImageError(Reason.UNSUPPORTED, f"TIFF: {feature}; convert the image to PNG or JPEG")
