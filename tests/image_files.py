"""Image files that Pillow doesn't write, built from their parts."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from tests.synthetic import encoded

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
IDENTITY_CURVE = (0, 1, 255, 1, 128, 1, 255, 1, 128, 1, 255, 1)  # of YCbCr, as fractions


def exif_of(orientation: int, order: str = "<") -> bytes:
    """Return an EXIF block with an orientation and nothing else, without the name before it."""
    head = struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 8)
    return head + struct.pack(order + "HHHIHHI", 1, 0x0112, 3, 1, orientation, 0, 0)


def xmp_of(orientation: int) -> bytes:
    """Return an XMP packet with an orientation."""
    return f'<x:xmpmeta><rdf:Description tiff:Orientation="{orientation}"/></x:xmpmeta>'.encode()


def chunk(kind: bytes, data: bytes = b"", spoil: int = 0) -> bytes:
    """Return a PNG chunk whose checksum is XORed with `spoil`."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) ^ spoil)


def png(rows: list[bytes], width: int, bits: int, colour: int, extra: bytes = b"") -> bytes:
    """Return a PNG of packed rows."""
    header = struct.pack(">IIBBBBB", width, len(rows), bits, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    return PNG_SIGNATURE + chunk(b"IHDR", header) + extra + chunk(b"IDAT", pixels) + chunk(b"IEND")


def with_chunk(data: bytes, extra: bytes, before: bytes = b"IDAT") -> bytes:
    """Return a PNG with one more chunk."""
    at = data.index(before) - 4
    return data[:at] + extra + data[at:]


def packed(values: np.ndarray, bits: int, order: str = ">") -> list[bytes]:
    """Return rows of packed values, each with a number of bits, the first value in the highest bits."""
    if bits in (8, 16, 32):
        return [row.astype(f"{order}u{bits // 8}").tobytes() for row in values]
    planes = (values[..., None] >> np.arange(bits)[::-1] & 1).astype(np.uint8)
    return [np.packbits(row).tobytes() for row in planes.reshape(len(values), -1)]


def with_segment(jpeg: bytes, marker: int, payload: bytes) -> bytes:
    """Return a JPEG with one more segment behind its first one."""
    at = 4 + int.from_bytes(jpeg[4:6])
    return jpeg[:at] + bytes((0xFF, marker)) + struct.pack(">H", len(payload) + 2) + payload + jpeg[at:]


def without_segment(jpeg: bytes, marker: int) -> bytes:
    """Return a JPEG without the first segment of a kind."""
    at = jpeg.index(bytes((0xFF, marker)))
    return jpeg[:at] + jpeg[at + 2 + int.from_bytes(jpeg[at + 2 : at + 4]) :]


def bmp(
    rows: list[bytes],
    width: int,
    bits: int,
    palette: bytes = b"",
    header: int = 40,
    compression: int = 0,
    masks: tuple[int, ...] = (),
    top_down: bool = False,
    runs: bytes = b"",
) -> bytes:
    """Return a BMP; `rows` are from the top, `runs` replace them."""
    height = len(rows)
    lines = rows if top_down else rows[::-1]
    body = runs or b"".join(row + bytes(-len(row) % 4) for row in lines)
    if header == 12:
        head = struct.pack("<IHHHH", header, width, height, 1, bits)
    else:
        colours = len(palette) // 4
        fields = (header, width, -height if top_down else height, 1, bits, compression, len(body), 0, 0)
        head = struct.pack("<IiiHHIIiiII", *fields, colours, 0)
    head += struct.pack(f"<{len(masks)}I", *masks)
    head = head.ljust(header, b"\0") + palette
    return struct.pack("<2sIII", b"BM", 14 + len(head) + len(body), 0, 14 + len(head)) + head + body


def adam7(values: np.ndarray, bits: int) -> bytes:
    """Return the seven passes of a PNG's values, `[H, W, C]` or `[H, W]`, each row without a filter."""
    passes = (8, 8, 0, 0), (8, 8, 0, 4), (8, 4, 4, 0), (4, 4, 0, 2), (4, 2, 2, 0), (2, 2, 0, 1), (2, 1, 1, 0)
    parts = (values[top::down, left::right] for down, right, top, left in passes)
    return b"".join(b"\0" + row for part in parts for row in packed(part, bits))


def tiff_of(samples: np.ndarray, bits: int, photometric: int, order: str = "<", **options: Any) -> bytes:
    """Return a TIFF of one strip, or of one strip per plane, from its tags.

    Args:
      samples: `[H, W, S]`, each of a number of bits.
      bits: Bits per sample.
      photometric: Number of the colour space.
      order: Byte order, as `struct` writes it.
      **options: `planar`, `deflate`, `reverse_bits`: booleans; `tags`: numbers of more tags' values.
    """
    planes = np.moveaxis(samples, -1, 0) if options.get("planar") else [samples]
    rows = [b"".join(packed(plane, bits, order)) for plane in planes]
    strips = [zlib.compress(row) for row in rows] if options.get("deflate") else rows
    if options.get("reverse_bits"):
        strips = [bytes(int(f"{byte:08b}"[::-1], 2) for byte in strip) for strip in strips]
    height, width, number = samples.shape
    starts = [8 + sum(map(len, strips[:n])) for n in range(len(strips))]
    tags = {256: [width], 257: [height], 258: [bits] * number, 259: [8 if options.get("deflate") else 1]}
    tags |= {262: [photometric], 266: [2 if options.get("reverse_bits") else 1], 273: starts, 277: [number]}
    tags |= {278: [height], 279: list(map(len, strips)), 284: [2 if options.get("planar") else 1]}
    return _directory(tags | options.get("tags", {}), b"".join(strips), order)


def _directory(tags: dict[int, list[int]], body: bytes, order: str) -> bytes:
    at = 8 + len(body)
    behind, entries = at + 6 + 12 * len(tags), b""
    values = b""
    for tag, numbers in sorted(tags.items()):
        kind, letter = (4, "I") if tag in (273, 279) else (3, "H")
        value = struct.pack(f"{order}{len(numbers)}{letter}", *numbers)
        place = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack(order + "I", behind + len(values))
        values += value if len(value) > 4 else b""
        entries += struct.pack(order + "HHI", tag, kind, len(numbers)) + place
    head = struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, at)
    return head + body + struct.pack(order + "H", len(tags)) + entries + bytes(4) + values


def tiff(values: np.ndarray, **options: Any) -> bytes:
    """Return a TIFF as tifffile writes it."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, metadata=None, **options)
    return buffer.getvalue()


def box(kind: bytes, payload: bytes) -> bytes:
    """Return a box of JPEG 2000 or AVIF."""
    return struct.pack(">I4s", len(payload) + 8, kind) + payload


def jp2_with(data: bytes, *parts: bytes, keep: tuple[bytes, ...] = (b"ihdr", b"colr")) -> bytes:
    """Return a JPEG 2000 whose header has only the boxes to keep, followed by others."""
    at = data.index(b"jp2h") - 4
    size = int.from_bytes(data[at : at + 4])
    inner, place = b"", at + 8
    while place < at + size:
        length = int.from_bytes(data[place : place + 4])
        inner += data[place : place + length] if data[place + 4 : place + 8] in keep else b""
        place += length
    return data[:at] + box(b"jp2h", inner + b"".join(parts)) + data[at + size :]


def animated_webp(canvas: tuple[int, int], at: tuple[int, int], frame: Image.Image, frames: int = 2) -> bytes:
    """Return a WebP without alpha whose frames cover a part of the canvas."""
    still = encoded(frame, "WEBP", lossless=True)[12:]
    place = tuple(value // 2 for value in at)
    sizes = b"".join(
        value.to_bytes(3, "little") for value in (*place, frame.width - 1, frame.height - 1, 100)
    )
    body = sizes + b"\0" + still
    whole = b"".join(
        (
            b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0",
            *(side.to_bytes(3, "little") for side in (canvas[0] - 1, canvas[1] - 1)),
            b"ANIM" + struct.pack("<IIH", 6, 0, 0),
            *[b"ANMF" + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)] * frames,
        )
    )
    return b"RIFF" + struct.pack("<I", len(whole) + 4) + b"WEBP" + whole


def gif_on_canvas(canvas: tuple[int, int], at: tuple[int, int], frame: bytes) -> bytes:
    """Return a GIF of one frame, moved to a place on a larger canvas."""
    start = frame.index(b",", 13 + 3 * 2 ** ((frame[10] & 7) + 1))
    moved = frame[: start + 1] + struct.pack("<HH", *at) + frame[start + 5 :]
    return moved[:6] + struct.pack("<HH", *canvas) + moved[10:]


# `gradient(32, 32)` with 10 and 12 bits, as written by imagecodecs 2026.3.6:
# `avif_encode(values, level=90, pixelformat="444", bitspersample=bits)`.
DEEP_AVIF = {
    10: base64.b64decode(
        b"AAAAIGZ0eXBhdmlmAAAAAGF2aWZtaWYxbWlhZk1BMUEAAADrbWV0YQAAAAAAAAAhaGRscgAAAAAAAAAAcGljdAAAAAAAAAAAAAAA"
        b"AAAAAAAOcGl0bQAAAAAAAQAAAB5pbG9jAAAAAEQAAAEAAQAAAAEAAAETAAAAWQAAAChpaW5mAAAAAAABAAAAGmluZmUCAAAAAAEA"
        b"AGF2MDFDb2xvcgAAAABqaXBycAAAAEtpcGNvAAAAFGlzcGUAAAAAAAAAIAAAACAAAAAQcGl4aQAAAAADCgoKAAAADGF2MUOBIEAA"
        b"AAAAE2NvbHJuY2x4AAIAAgAGgAAAABdpcG1hAAAAAAAAAAEAAQQBAoMEAAAAYW1kYXQSAAoIOBE/9vAgIGkySxICQ0qAAPIABhj4"
        b"n4ROInjoWfZYCAvASxFJmBWEPbmGpK7/4NtK1tK6+c8lB3Jeef20hDzQEkUWrV2O/No8JNjBmF9kWKmSX7bfNA=="
    ),
    12: base64.b64decode(
        b"AAAAHGZ0eXBhdmlmAAAAAGF2aWZtaWYxbWlhZgAAAOttZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAA"
        b"AA5waXRtAAAAAAABAAAAHmlsb2MAAAAARAAAAQABAAAAAQAAAQ8AAABYAAAAKGlpbmYAAAAAAAEAAAAaaW5mZQIAAAAAAQAAYXYw"
        b"MUNvbG9yAAAAAGppcHJwAAAAS2lwY28AAAAUaXNwZQAAAAAAAAAgAAAAIAAAABBwaXhpAAAAAAMMDAwAAAAMYXYxQ4FAYAAAAAAT"
        b"Y29scm5jbHgAAgACAAaAAAAAF2lwbWEAAAAAAAAAAQABBAECgwQAAABgbWRhdBIACglYET/2tAgIGiAySRICQ0qAAPIAAIsya+U0"
        b"oIno4oheDO/Pd+2m4RnvkNtDpC5lPBc5goodjeqoMoonyPr70SnSgFMfL2lpslDeuwswlO4iBXkEhkA="
    ),
}
# 8 x 8 pixels of 16-bit RGB, half black and half white, as written by imagecodecs 2026.3.6:
# `jpeg2k_encode(values, level=0, reversible=True, codecformat="jp2")`.
DEEP_JPEG2000 = base64.b64decode(
    b"AAAADGpQICANCocKAAAAFGZ0eXBqcDIgAAAAAGpwMiAAAAAtanAyaAAAABZpaGRyAAAACAAAAAgAAw8HAAAAAAAPY29scgEAAAAA"
    b"ABAAAAEGanAyY/9P/1EALwAAAAAACAAAAAgAAAAAAAAAAAAAAAgAAAAIAAAAAAAAAAAAAw8BAQ8BAQ8BAf9SAAwAAAABAQAEBAAB"
    b"/1wABECA/2QAJQABQ3JlYXRlZCBieSBPcGVuSlBFRyB2ZXJzaW9uIDIuNS40/5AACgAAAAAAjgAB/5Pf+JPQEVBCdsLDp0c4BhIE"
    b"/WAAAvxOXVG1afsRzYfmw/Nh+bD82H5sPzYfmw/Nh+bD82H5sPzYfmw/Nh+bD82H5sPzYfmw/Nh+bD82H5sPzYfmw/Nh+bD82H5s"
    b"PzYfmw/Nh+bD82H5sPzYfmw/Nh+bD82H5sPzYfmw/Nh+bD+AgP/Z"
)
# The red of `gradient(32, 32)` with 12 bits, as written by imagecodecs 2026.3.6:
# `jpeg2k_encode(values, level=0, reversible=True, codecformat="j2k", bitspersample=12)`.
GREY_12_JPEG2000 = base64.b64decode(
    b"/0//UQApAAAAAAAgAAAAIAAAAAAAAAAAAAAAIAAAACAAAAAAAAAAAAABCwEB/1IADAAAAAEAAgQEAAH/XAAKQGBoaHBoaHD/ZAAl"
    b"AAFDcmVhdGVkIGJ5IE9wZW5KUEVHIHZlcnNpb24gMi41LjT/kAAKAAAAAACkAAH/k9/hWBFqopciE/TwdhG4x2trdoiw7qFqgqKx"
    b"D3uOk3NsP3PmUFYFj+ybhOdYBtgdY7sl6Xxt/WRNcg2wNXXaFlNZTVxF5dDjgdORXFk3BiKgoGzQnO1hn4HPwfmQADahma5jo0RH"
    b"QFFtA04QYLQGAANhiCxnOVnalyijJEsfwPwFQF+nx4igDbB5Bj/x0bSsllaA/3//f//Z"
)
