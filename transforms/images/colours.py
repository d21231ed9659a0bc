"""Colours: conversion of every mode that Pillow decodes to opaque 8-bit RGB."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageChops, ImageFile

from labelbeam.transforms.errors import ImageError, Reason
from labelbeam.transforms.images.bmp import expand_runs
from labelbeam.transforms.images.frames import PixelBox, first_frame_box
from labelbeam.transforms.images.tiff import values_of_tiff

_WITH_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_PNG_BITS_AT = 24


def to_rgb(data: bytes, image: ImageFile.ImageFile) -> Image.Image:
    """Decode an image, which Pillow has opened and not loaded, to mode RGB.

    Transparency is composed over white, and 16-bit values lose their low byte, as in libpng and TensorFlow.

    Raises:
      ImageError: The range of the pixels is unknown.
    """
    # Before the image is loaded, because Pillow forgets the tiles of an image that is loaded.
    box = first_frame_box(data, image)
    key = image.info.get("transparency")
    if image.format == "PNG" and key is not None and image.mode != "P":
        return _without_key(data, image, key)
    decoded = expand_runs(data, image)
    decoded.load()
    return _on_white_canvas(_flat(decoded), box)


def _flat(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode in _SIXTEEN_BIT:
        values = np.asarray(image).astype(np.uint16)
        return _from_16_bit(values_of_tiff(image, values) if image.format == "TIFF" else values)
    if image.mode in ("I", "F"):
        raise ImageError(Reason.UNSUPPORTED, "32-bit pixels have no known range; convert the image")
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        return _over_white(image.convert("RGBA"))
    if image.mode == "CMYK" and image.format in ("JPEG", "MPO") and "adobe" not in image.info:
        # Inverted again, because Pillow inverts every CMYK JPEG, and only Adobe's are stored inverted, as
        # TensorFlow reads them.
        image = ImageChops.invert(image)
    return image.convert("RGB")


def _from_16_bit(values: np.ndarray) -> Image.Image:
    # Shifted, not divided by 257, because libpng and TensorFlow drop the low byte.
    return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    """Compose an RGBA image over white, unless its alpha is unused.

    Alpha that is 0 everywhere is ignored, because writers of 32-bit pixels often leave the fourth byte 0. An
    image of one colour whose alpha is 0 is blank.
    """
    (*colours, alpha) = (band.getextrema() for band in image.split())
    if alpha == (255, 255) or (alpha == (0, 0) and any(low != high for low, high in colours)):
        return image.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _on_white_canvas(image: Image.Image, box: PixelBox | None) -> Image.Image:
    if box is None:
        return image
    canvas = Image.new("RGB", image.size, "white")
    canvas.paste(image.crop(box), box[:2])
    return canvas


def _without_key(data: bytes, image: Image.Image, key: int | tuple[int, ...]) -> Image.Image:
    """Decode a PNG with a colour key to RGB, with white for the key.

    Not by Pillow, because it compares the key, which has the file's depth, with pixels of 8 bits.
    """
    bits = data[_PNG_BITS_AT]
    values, rgb = _stored_values(data, image, bits)
    stored_key = np.atleast_1d(np.asarray(key, np.int64)) & (1 << bits) - 1
    pixels = np.array(rgb)
    pixels[(values == stored_key).all(-1)] = 255
    return Image.fromarray(pixels)


def _stored_values(data: bytes, image: Image.Image, bits: int) -> tuple[np.ndarray, Image.Image]:
    """Return a PNG's values at the file's depth, `[H, W, C]`, and its RGB pixels."""
    if image.mode == "RGB" and bits == 16:
        low = _low_bytes(data)
        image.load()
        return np.asarray(image).astype(np.uint16) << 8 | low, image
    image.load()
    values = np.atleast_3d(np.asarray(image))
    if image.mode == "L":
        values = values // (255 // ((1 << bits) - 1))
    return values, _from_16_bit(values[..., 0]) if bits == 16 else image.convert("RGB")


def _low_bytes(data: bytes) -> np.ndarray:
    """Return the low bytes of a PNG's 16-bit colours, because Pillow keeps only the high ones.

    The pixels are read as little-endian, so that Pillow takes the low bytes for the high ones.
    """
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        image.tile = [tile._replace(args="RGB;16L") for tile in image.tile]
        return np.array(image)
