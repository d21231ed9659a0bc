"""Formats: decoders, suffixes of file names, and errors for bytes that no decoder reads."""

from __future__ import annotations

import re
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

# Patterns of the first bytes of images and documents that are not read, by the format's name.
_UNREAD = {
    "Photoshop": rb"8BPS",
    "PDF": rb"%PDF",
    "PostScript": rb"%!PS",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "JPEG-LS": rb"\xff\xd8\xff\xf7",
    "JPEG XR": rb"II\xbc",
    "ICO": rb"\0\0\x01\0",
    "CUR": rb"\0\0\x02\0",
    "DDS": rb"DDS ",
    "OpenEXR": rb"\x76\x2f\x31\x01",
    "HEIC": rb".{4}ftyphe[iv]",
    "HEIF": rb".{4}ftypm[is]f1",
    "Canon's raw format": rb".{4}ftypcrx",
    "Fujifilm's raw format": rb"FUJIFILMCCD-RAW",
    "Olympus' raw format": rb"IIR[OS]|MMOR",
    "Panasonic's raw format": rb"IIU\0",
    "Sigma's raw format": rb"FOVb",
    "Minolta's raw format": rb"\0MRM",
}
# First bytes of FORMATS: a file that begins so, and that Pillow doesn't open, is damaged.
_READ = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|BM|II\*\0|MM\0\*|.{8}WEBP|.{4}ftypavi[fs]"
    rb"|\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    re.DOTALL,
)
# Markers of a JPEG's frame header (ITU-T T.81, table B.1): SOF0 to SOF15 without DHT, JPG and DAC.
_JPEG_FRAMES = (0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)


def explain_unidentified(data: bytes) -> ImageError:
    """Return an error for bytes that no decoder accepts, with the format's name or the first bytes."""
    start = data[:512]
    for name, pattern in _UNREAD.items():
        if re.match(pattern, start, re.DOTALL):
            return ImageError(
                Reason.UNSUPPORTED, f"{name} is not read; convert it to JPEG, PNG, WebP or AVIF"
            )
    # Behind white space and a byte order mark, which servers put before a page.
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"<svg") or (text.startswith(b"<?xml") and b"<svg" in text):
        return ImageError(Reason.UNSUPPORTED, "SVG is not read; render it to PNG")
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        return ImageError(Reason.NOT_AN_IMAGE, "a web page, not an image: check the address")
    if error := explain_tiff(data) or _explain_jpeg(data) or explain_jpeg2000(data):
        return error
    if _READ.match(start):
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
