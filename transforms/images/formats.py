"""Formats: what is read, and what to say of what is not."""

from __future__ import annotations

from transforms.errors import ImageError, Reason

# Pillow's names; JPEG includes MPO. A closed list, so that hostile bytes reach no other decoder.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "AVIF")

# The first bytes of images (and the like) we don't read.
_SIGNATURES = (
    (0, b"8BPS", "Photoshop"),
    (0, b"%PDF", "PDF"),
    (0, b"%!PS", "PostScript"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (0, b"\x00\x00\x01\x00", "ICO"),
    (0, b"DDS ", "DDS"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftyphev", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (4, b"ftypmsf1", "HEIF"),
    (4, b"ftypcrx", "Canon's raw format"),
    (0, b"FUJIFILMCCD-RAW", "Fujifilm's raw format"),
    (0, b"IIRO", "Olympus' raw format"),
    (0, b"IIRS", "Olympus' raw format"),
    (0, b"MMOR", "Olympus' raw format"),
    (0, b"IIU\0", "Panasonic's raw format"),
    (0, b"FOVb", "Sigma's raw format"),
    (0, b"\0MRM", "Minolta's raw format"),
)
# The first bytes of what we do read: here, such a file is damaged.
_OURS = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF87a",
    b"GIF89a",
    b"BM",
    b"II*\0",
    b"MM\0*",
    b"\x00\x00\x00\x0cjP  ",
    b"\xff\x4f\xff\x51",
)


def explain_unidentified(data: bytes) -> ImageError:
    """Says what bytes are that none of our formats takes."""
    start = data[:512]
    for offset, signature, name in _SIGNATURES:
        if start[offset:].startswith(signature):
            return ImageError(
                Reason.UNSUPPORTED, f"{name} is not read; convert it to JPEG, PNG, WebP or AVIF"
            )
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"<svg") or (text.startswith(b"<?xml") and b"<svg" in text):
        return ImageError(Reason.UNSUPPORTED, "SVG is not read; render it to PNG")
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        return ImageError(Reason.NOT_AN_IMAGE, "a web page, not an image: check the address")
    if start.startswith(_OURS) or (start.startswith(b"RIFF") and start[8:12] == b"WEBP"):
        return ImageError(Reason.DECODE_ERROR, f"a damaged header: {start[:16]!r}")
    return ImageError(Reason.NOT_AN_IMAGE, f"begins with {start[:16]!r}")
