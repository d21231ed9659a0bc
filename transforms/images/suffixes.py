"""Endings of image files' names.

A folder's images are recognised by their names, because opening every file of a bucket would cost a
request each. Names only select: the decoder judges the bytes.
"""

from __future__ import annotations

from typing import Final

# Formats that the decoder reads. MPO is JPEG, APNG is PNG, DIB is BMP without its first header.
READ: Final = (
    *(".jpg", ".jpeg", ".jpe", ".jif", ".jfif", ".jfi", ".pjpeg", ".pjp", ".mpo"),
    *(".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
    *(".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".jpg2", ".avif", ".avifs"),
)

# Camera raw formats. Many are TIFF files whose first picture is a small preview.
RAW: Final = (
    *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mrw"),
    *(".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
)

# Formats of photos and web pictures that the decoder does not read. They count as images of a folder,
# because a photo without a label must show up as a failure. Formats of textures, icons of other
# systems, documents and science (TGA, ICNS, PDF, DICOM, ...) are no photos: such files are left out
# and counted.
UNREAD: Final = (*(".heic", ".heif", ".hif", ".heics", ".jxl", ".psd", ".svg", ".ico"), *RAW)

IMAGES: Final = READ + UNREAD


def is_raw(name: str) -> bool:
    """Return whether a file's name is that of a camera raw photo."""
    return name.lower().endswith(RAW)
