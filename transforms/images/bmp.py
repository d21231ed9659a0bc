"""BMP: palettes, runs and masks that Pillow reads wrong."""

from __future__ import annotations

import struct

from PIL import Image

from transforms.errors import ImageError, Reason

_CORE_HEADER, _INFO_HEADER = 12, 40
_RLE8, _RLE4, _BITFIELDS = 1, 2, 3
_ALPHA_MASK_AT = 66  # in headers of 56 bytes and more
# A colour that is no grey at its place, whatever the palette's length is.
_NO_GREY = b"\x00\x01\x02\x00"


def prepare_bmp(data: bytes) -> bytes:
    """Return the bytes of a BMP with a palette that Pillow recognises.

    Pillow takes a palette that is a ramp of greys for none, and then reads whole bytes or bits, whatever the
    pixels' depth is: an 8-bit image of black and white comes out black. One more colour avoids that.

    Raises:
      ImageError: 16 bits with alpha, which Pillow leaves out.
    """
    if not data.startswith(b"BM") or len(data) < 14 + _INFO_HEADER:
        return data
    pixels, header = struct.unpack_from("<II", data, 10)
    core = header == _CORE_HEADER
    fields = struct.unpack_from("<HHHH" if core else "<iiHHIIiiII", data, 18)
    fields += (0,) * (10 - len(fields))
    _refuse_alpha_of_16_bits(data, header, fields)
    colours = fields[8] or 1 << min(fields[3], 16)
    if fields[3] not in (1, 4, 8) or colours >= 256:
        return data
    size = 3 if core else 4
    palette = data[14 + header : min(14 + header + size * colours, pixels or len(data))]
    entries = [palette[at : at + size].ljust(4, b"\0") for at in range(0, len(palette), size)]
    entries += [bytes(4)] * (colours - len(entries)) + [_NO_GREY]
    head = struct.pack("<IiiHHIIiiII", _INFO_HEADER, *fields[:8], len(entries), 0)
    body = data[pixels or 14 + header + len(palette) :]
    start = 14 + len(head) + 4 * len(entries)
    return struct.pack("<2sIII", b"BM", start + len(body), 0, start) + head + b"".join(entries) + body


def _refuse_alpha_of_16_bits(data: bytes, header: int, fields: tuple[int, ...]) -> None:
    masked = fields[3] == 16 and fields[4] == _BITFIELDS and header >= 56
    if masked and struct.unpack_from("<I", data, _ALPHA_MASK_AT)[0]:
        raise ImageError(
            Reason.UNSUPPORTED, "BMP: 16 bits with alpha are not read; convert the image to PNG or JPEG"
        )


def expand_runs(data: bytes, image: Image.Image) -> Image.Image:
    """Return a run-length encoded BMP's pixels, because Pillow misreads runs of an odd length.

    Args:
      data: The encoded image.
      image: The same image, opened by Pillow and not loaded.
    """
    if image.format != "BMP" or image.info.get("compression") not in (_RLE8, _RLE4):
        return image
    start = struct.unpack_from("<I", data, 10)[0]
    indices = _indices(data[start:], *image.size, image.info["compression"] == _RLE4)
    expanded = Image.frombytes("L", image.size, indices).transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    if image.palette:
        rawmode, colours = image.palette.getdata()
        expanded.putpalette(colours, rawmode)
    return expanded


def _indices(runs: bytes, width: int, height: int, four_bits: bool) -> bytes:
    """Return one byte a pixel, the lowest row first; pixels that no run covers are 0."""
    indices = bytearray(width * height)
    at = x = y = 0
    while y < height:
        if at + 2 > len(runs):
            raise ImageError(Reason.TRUNCATED, f"BMP: the runs end in row {y} of {height}")
        count, value = runs[at], runs[at + 1]
        at += 2
        if count:
            pixels = _nibbles(bytes((value,)) * 128)[:count] if four_bits else bytes((value,)) * count
        elif value > 2:
            size = (value + 1) // 2 if four_bits else value
            pixels = (_nibbles(runs[at : at + size]) if four_bits else runs[at : at + size])[:value]
            at += size + size % 2
        elif value == 2:  # move on
            x, y, at = x + sum(runs[at : at + 1]), y + sum(runs[at + 1 : at + 2]), at + 2
            continue
        elif value == 1:  # the end
            break
        else:  # the next row
            x, y = 0, y + 1
            continue
        pixels = pixels[: max(0, width - x)]
        indices[y * width + x : y * width + x + len(pixels)] = pixels
        x += len(pixels)
    return bytes(indices)


def _nibbles(data: bytes) -> bytes:
    return bytes(nibble for byte in data for nibble in (byte >> 4, byte & 15))
