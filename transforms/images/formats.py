"""Formats: decoders, suffixes of file names, and errors for bytes that no decoder reads."""

from __future__ import annotations

from typing import Final

from labelbeam.transforms.errors import ImageError, Reason
from labelbeam.transforms.images.containers import jpeg_segments
from labelbeam.transforms.images.jpeg2000 import explain_jpeg2000
from labelbeam.transforms.images.tiff import explain_tiff

# Formats by Pillow's names; JPEG includes MPO. The list is closed, because hostile bytes must reach no other
# decoder.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "AVIF")

# A folder's images are recognised by their suffixes, because opening every file of a bucket would cost a
# request each. Suffixes only select files: the decoder judges the bytes.
# Suffixes of FORMATS. MPO is JPEG, APNG is PNG, DIB is BMP without its first header.
READ_SUFFIXES: Final = (
    *(".jpg", ".jpeg", ".jpe", ".jif", ".jfif", ".jfi", ".pjpeg", ".pjp", ".mpo"),
    *(".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
    *(".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".jpg2", ".avif", ".avifs"),
)
# Camera raw formats. Many are TIFF files whose first picture is a small preview.
RAW_SUFFIXES: Final = (
    *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mrw"),
    *(".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
)
# Photos and web pictures in formats without a decoder count as images of a folder, because a photo without a
# label must show up as a failure. Textures, system icons, documents and scientific images (TGA, ICNS, PDF,
# DICOM, ...) are not photos: files of these formats are left out and counted.
UNREAD_SUFFIXES: Final = (
    *(".heic", ".heif", ".hif", ".heics", ".jxl", ".psd", ".svg", ".ico"),
    *RAW_SUFFIXES,
)
IMAGE_SUFFIXES: Final = READ_SUFFIXES + UNREAD_SUFFIXES

# First bytes of images and documents that are not read.
_SIGNATURES = (
    (0, b"8BPS", "Photoshop"),
    (0, b"%PDF", "PDF"),
    (0, b"%!PS", "PostScript"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (0, b"\xff\xd8\xff\xf7", "JPEG-LS"),
    (0, b"II\xbc", "JPEG XR"),
    (0, b"\x00\x00\x01\x00", "ICO"),
    (0, b"DDS ", "DDS"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"),
    (0, b"\x00\x00\x02\x00", "CUR"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftyphev", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (4, b"ftypmsf1", "HEIF"),
    (4, b"ftypcrx", "Canon's raw format"),
    (0, b"FUJIFILMCCD-RAW", "Fujifilm's raw format"),
    *((0, start, "Olympus' raw format") for start in (b"IIRO", b"IIRS", b"MMOR")),
    (0, b"IIU\0", "Panasonic's raw format"),
    (0, b"FOVb", "Sigma's raw format"),
    (0, b"\0MRM", "Minolta's raw format"),
)
# First bytes of FORMATS: a file that begins so, and that Pillow doesn't open, is damaged.
_READ_STARTS = (
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
# Markers of a JPEG's frame header (ITU-T T.81, table B.1): SOF0 to SOF15 without DHT, JPG and DAC.
_JPEG_FRAMES = (0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)


def explain_unidentified(data: bytes) -> ImageError:
    """Return an error for bytes that no decoder accepts, with the format's name or the first bytes."""
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
    if error := explain_tiff(data) or _explain_jpeg(data) or explain_jpeg2000(data):
        return error
    if start.startswith(_READ_STARTS) or start[8:12] == b"WEBP" or start[4:12] in (b"ftypavif", b"ftypavis"):
        return ImageError(Reason.DECODE_ERROR, f"a damaged header: {start[:16]!r}")
    return ImageError(Reason.NOT_AN_IMAGE, f"begins with {start[:16]!r}")


def _explain_jpeg(data: bytes) -> ImageError | None:
    """Return an error for a JPEG that is unsupported; None if its header is damaged."""
    if not data.startswith(b"\xff\xd8\xff"):
        return None
    frame = next((s for s in jpeg_segments(data) if s.kind[0] in _JPEG_FRAMES), None)
    if frame is None or len(data) < frame.body + 6:
        return None
    bits, components = data[frame.body], data[frame.body + 5]
    if bits == 8 and components in (1, 3, 4):
        return None
    return ImageError(
        Reason.UNSUPPORTED,
        f"JPEG: {components} components of {bits} bits are not read; convert the image to PNG",
    )
