"""Small encoded images, generated in memory."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image


def gradient(width_px: int, height_px: int) -> Image.Image:
    """Return an image whose red grows to the right and green downwards, so that all pixels differ."""
    x, y = np.meshgrid(np.linspace(0, 255, width_px), np.linspace(0, 255, height_px))
    return Image.fromarray(np.stack([x, y, np.full_like(x, 90)], -1).astype(np.uint8), "RGB")


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    """Return the image in a format, as Pillow writes it."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def jpeg_bytes(width_px: int = 64, height_px: int = 48, **options: Any) -> bytes:
    """Return a JPEG of the gradient."""
    return encoded(gradient(width_px, height_px), "JPEG", quality=90, **options)


def png_bytes(width_px: int = 64, height_px: int = 48) -> bytes:
    """Return a PNG of the gradient."""
    return encoded(gradient(width_px, height_px))


def oriented_jpeg(image: Image.Image, orientation: int) -> bytes:
    """Return a JPEG with an orientation in its EXIF block."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, "JPEG", quality=95, subsampling=0, exif=exif)


def png_header(width_px: int, height_px: int) -> bytes:
    """Return a PNG that claims a size and has no pixels."""
    header = struct.pack(">IIBBBBB", width_px, height_px, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", b"") + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


HEIC = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(100)
HTML = b"\n <!DOCTYPE html><html><body>Not found</body></html>"
SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>'

# Bytes that cannot be labelled, and the reason of their failure.
BAD_IMAGES = {
    "empty": (b"", "empty"),
    "text": (b"hello, world", "not_an_image"),
    "zeros": (bytes(1000), "not_an_image"),
    "page": (HTML, "not_an_image"),
    "heic": (HEIC, "unsupported"),
    "svg": (SVG, "unsupported"),
    "pdf": (b"%PDF-1.7\n", "unsupported"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "unsupported"),
    "photoshop": (b"8BPS" + bytes(30), "unsupported"),
    "jpeg_start": (b"\xff\xd8\xff\xe0", "decode_error"),
    "jpeg_cut": (jpeg_bytes(200, 200)[:2000], "truncated"),
    "png_cut": (png_bytes(200, 200)[:-300], "truncated"),
    "webp_cut": (encoded(gradient(200, 200), "WEBP")[:-100], "decode_error"),
    "bomb": (png_header(50_000, 50_000), "too_large_pixels"),
    "float": (encoded(Image.new("F", (10, 10)), "TIFF"), "unsupported"),
}
