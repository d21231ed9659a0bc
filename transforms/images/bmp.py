"""BMP: workarounds for palettes, runs and masks that Pillow reads wrong."""

from __future__ import annotations

import struct

from PIL import Image

from labelbeam.transforms.errors import ImageError, Reason

_CORE_HEADER, _INFO_HEADER = 12, 40
_HEADERS = (_CORE_HEADER, _INFO_HEADER, 52, 56, 64, 108, 124)  # sizes of headers; Pillow refuses others
_RLE8, _RLE4, _BITFIELDS = 1, 2, 3
_ALPHA_MASK_AT = 66  # in headers of 56 bytes and more
_END_OF_ROW, _END_OF_IMAGE, _MOVE = 0, 1, 2  # after a count of 0
# A colour that is not part of a grey ramp, for every length of the palette.
_NO_GREY = b"\x00\x01\x02\x00"


def prepare_bmp(data: bytes) -> bytes:
    """Return the bytes of a BMP with a palette that Pillow recognises; other bytes as they are.

    A colour is appended to the palette, because Pillow ignores a palette that is a ramp of greys, and then
    reads bytes or bits of a wrong depth: an 8-bit image of black and white comes out black.

    Raises:
      ImageError: The pixels have 16 bits with alpha, and Pillow would ignore the alpha.
      struct.error: The header is cut off.
    """
    if not data.startswith(b"BM") or len(data) < 14 + _INFO_HEADER:
        return data
    header = struct.unpack_from("<I", data, 14)[0]
    if header not in _HEADERS:
        return data
    fields = struct.unpack_from("<HHHH" if header == _CORE_HEADER else "<iiHHIIiiII", data, 18)
    fields += (0,) * (10 - len(fields))
    _refuse_alpha_of_16_bits(data, header, fields)
    bits, used = fields[3], fields[8]
    if bits not in (1, 4, 8) or (bits == 8 and not 0 < used < 256):
        return data
    return _with_one_more_colour(data, header, fields, min(used or 1 << bits, 1 << bits))


def _with_one_more_colour(data: bytes, header: int, fields: tuple[int, ...], colours: int) -> bytes:
    pixels = struct.unpack_from("<I", data, 10)[0]
    size = 3 if header == _CORE_HEADER else 4
    stored = data[14 + header : min(14 + header + size * colours, pixels or len(data))]
    palette = [stored[at : at + size].ljust(4, b"\0") for at in range(0, len(stored), size)]
    palette += [bytes(4)] * (colours - len(palette)) + [_NO_GREY]
    head = struct.pack("<IiiHHIIiiII", _INFO_HEADER, *fields[:8], len(palette), 0)
    body = data[pixels or 14 + header + len(stored) :]
    start = 14 + len(head) + 4 * len(palette)
    return struct.pack("<2sIII", b"BM", start + len(body), 0, start) + head + b"".join(palette) + body


def _refuse_alpha_of_16_bits(data: bytes, header: int, fields: tuple[int, ...]) -> None:
    masked = fields[3] == 16 and fields[4] == _BITFIELDS and header >= 56
    if masked and struct.unpack_from("<I", data, _ALPHA_MASK_AT)[0]:
        raise ImageError(
            Reason.UNSUPPORTED, "BMP: 16 bits with alpha are not read; convert the image to PNG or JPEG"
        )


def expand_runs(data: bytes, image: Image.Image) -> Image.Image:
    """Return a run-length encoded BMP's pixels, because Pillow misreads runs of an odd length."""
    if image.format != "BMP" or image.info.get("compression") not in (_RLE8, _RLE4):
        return image
    start, _, _, height = struct.unpack_from("<IIii", data, 10)
    if height < 0:
        raise ImageError(Reason.DECODE_ERROR, "BMP: runs from the top, which the format doesn't allow")
    indices = _indices(data[start:], *image.size, image.info["compression"] == _RLE4)
    expanded = Image.frombytes("L", image.size, indices).transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    if image.palette:
        rawmode, colours = image.palette.getdata()
        expanded.putpalette(colours, rawmode)
    return expanded


def _indices(runs: bytes, width: int, height: int, four_bits: bool) -> bytes:
    """Return one byte per pixel, the lowest row first; pixels outside all runs are 0."""
    indices = bytearray(width * height)
    at = x = y = 0
    # Not until the end mark, because a file may lack the marks behind its last pixel.
    while (y, x) < (height - 1, width):
        if at + 2 > len(runs):
            raise ImageError(Reason.TRUNCATED, f"BMP: the runs end in row {y} of {height}")
        count, value = runs[at], runs[at + 1]
        at += 2
        if count == 0 and value == _END_OF_ROW:
            x, y = 0, y + 1
        elif count == 0 and value == _END_OF_IMAGE:
            break
        elif count == 0 and value == _MOVE:
            x, y, at = x + sum(runs[at : at + 1]), y + sum(runs[at + 1 : at + 2]), at + 2
        else:
            pixels, at = _run(runs, at, count, value, four_bits)
            pixels = pixels[: max(0, width - x)]
            indices[y * width + x : y * width + x + len(pixels)] = pixels
            x += len(pixels)
    return bytes(indices)


def _run(runs: bytes, at: int, count: int, value: int, four_bits: bool) -> tuple[bytes, int]:
    """Return the pixels of a run, and the offset of the next one."""
    if count:
        return (_nibbles(bytes((value,)) * 128)[:count] if four_bits else bytes((value,)) * count), at
    size = (value + 1) // 2 if four_bits else value
    # `size % 2`, because literal runs are padded to an even length.
    stored = runs[at : at + size]
    return (_nibbles(stored)[:value] if four_bits else stored), at + size + size % 2


def _nibbles(data: bytes) -> bytes:
    return bytes(nibble for byte in data for nibble in (byte >> 4, byte & 15))
