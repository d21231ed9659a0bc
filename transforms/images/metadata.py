"""Metadata: its removal from files that Pillow can't open.

Pillow refuses an image over a comment with a wrong checksum, while libpng, libjpeg, TensorFlow and browsers
show the pixels. Metadata is removed only after a failure, because nearly all files decode with it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

from labelbeam.transforms.images.containers import (
    JP2_SIGNATURE,
    PNG_SIGNATURE,
    Chunk,
    boxes,
    jpeg_segments,
    png_chunk_is_intact,
    png_chunks,
    tiff_header,
    webp_chunks,
)
from labelbeam.transforms.images.png import is_valid_transparency

# Tags that the pixels depend on: TIFF 6.0, Supplement 2 (JPEG), and the fax tags.
_PIXEL_TAGS = frozenset(
    {
        *(254, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323),
        *(324, 325, 332, 338, 339, 347, *range(512, 522), 529, 530, 531, 532),
    }
)
# Sizes of whole segments by which libjpeg recognises the colour space and the polarity of CMYK.
_APP_OR_COMMENT = (*range(0xE0, 0xF0), 0xFE)  # markers of application data and of comments
_COLOUR_SEGMENTS = {b"JFIF\0": 14, b"Adobe": 12}
_WEBP_METADATA = {b"ICCP": 0x20, b"EXIF": 0x08, b"XMP ": 0x04}  # with their flags in VP8X
_PIXEL_BOXES = (b"ihdr", b"bpcc", b"colr", b"pclr", b"cmap", b"cdef")  # of a JPEG 2000 header
# An entry of AVIF's item list, version 2 or 3, up to the item's type.
_AVIF_EXIF_ITEM = re.compile(rb"(infe(?:\x02.{7}|\x03.{9}))Exif", re.DOTALL)


def without_metadata(data: bytes) -> bytes:
    """Return an image without its metadata; the same bytes if it has none."""
    clean = next((clean for signature, clean in _CLEANERS.items() if signature.match(data)), None)
    return clean(data) if clean else data


def _clean_jpeg(data: bytes) -> bytes:
    segments = list(jpeg_segments(data))
    if not segments:
        return data
    kept = (s for s in segments if s.kind[0] not in _APP_OR_COMMENT or _sets_colours(data, s))
    return data[:2] + b"".join(data[s.start : s.end] for s in kept) + data[segments[-1].end :]


def _sets_colours(data: bytes, segment: Chunk) -> bool:
    size = _COLOUR_SEGMENTS.get(data[segment.body : segment.body + 5])
    return size is not None and segment.end - segment.body >= size


def _clean_png(data: bytes) -> bytes:
    chunks = list(png_chunks(data))
    kept = b"".join(data[c.start : c.end] for c in chunks if _makes_pixels(data, c))
    rest = data[chunks[-1].end :] if chunks else b""
    # A cut-off chunk of pixels stays, because the error must be that the image is truncated.
    return PNG_SIGNATURE + kept + (rest if rest[4:8] == b"IDAT" else b"")


def _makes_pixels(data: bytes, chunk: Chunk) -> bool:
    if chunk.kind == b"tRNS":
        return is_valid_transparency(data, chunk) and png_chunk_is_intact(data, chunk)
    return not chunk.kind[0] & 0x20  # a capital letter marks a critical chunk


def _clean_webp(data: bytes) -> bytes:
    body = bytearray()
    for chunk in webp_chunks(data):
        if chunk.kind not in _WEBP_METADATA:
            body += data[chunk.start : chunk.end] + bytes((chunk.end - chunk.start) % 2)
    if body.startswith(b"VP8X") and len(body) > 8:
        body[8] &= ~sum(_WEBP_METADATA.values())
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + bytes(body)


def _clean_tiff(data: bytes) -> bytes:
    header = tiff_header(data)
    if header is None:
        return data
    try:
        entries = [entry for entry in header.entries(data, header.first) if entry.tag in _PIXEL_TAGS]
    except struct.error:  # the directory leaves the file
        return data
    # The first directory is overwritten with a shorter one, because no offset may change.
    directory = struct.pack(header.order + header.length, len(entries))
    directory += b"".join(data[entry.start : entry.end] for entry in entries)
    directory += struct.pack(header.order + header.offset, 0)
    return data[: header.first] + directory + data[header.first + len(directory) :]


def _clean_jpeg2000(data: bytes) -> bytes:
    header = next((box for box in boxes(data, 0, len(data)) if box.kind == b"jp2h"), None)
    if header is None:
        return data
    inner = boxes(data, header.body, header.end)
    return _renamed(data, [box.start + 4 for box in inner if box.kind not in _PIXEL_BOXES])


def _clean_avif(data: bytes) -> bytes:
    # By a search, because the item list lies several boxes deep.
    return _renamed(data, [match.end() - 4 for match in _AVIF_EXIF_ITEM.finditer(data)])


def _renamed(data: bytes, offsets: list[int]) -> bytes:
    """Rename the boxes or items at some offsets, because decoders skip unknown names."""
    renamed = bytearray(data)
    for offset in offsets:
        renamed[offset : offset + 4] = b"skip"
    return bytes(renamed)


# GIF and BMP are missing, because Pillow decodes both whatever is in their extensions.
_CLEANERS: dict[re.Pattern[bytes], Callable[[bytes], bytes]] = {
    re.compile(pattern, re.DOTALL): clean
    for pattern, clean in (
        (rb"\xff\xd8\xff", _clean_jpeg),
        (re.escape(PNG_SIGNATURE), _clean_png),
        (rb"RIFF.{4}WEBP", _clean_webp),
        (rb"II[*+]\0|MM\0[*+]", _clean_tiff),
        (re.escape(JP2_SIGNATURE), _clean_jpeg2000),
        (rb".{4}ftypavi[fs]", _clean_avif),
    )
}
