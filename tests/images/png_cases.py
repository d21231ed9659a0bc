"""PNG files by property, and the pictures that they show."""

import struct
import zlib

import numpy as np

from tests import image_files as files
from tests.images.pictures import (
    ALPHA,
    CUT_OUT,
    GREY,
    GREYS,
    PICTURE,
    SIZE,
    SQUARE,
    UNSUPPORTED,
    deep,
    indexed,
    over,
    ramp,
)


def png_cases():
    yield from interlaced_cases()
    yield "of Apple", apples_png(), UNSUPPORTED
    gamma = files.chunk(b"gAMA", struct.pack(">I", 100_000))
    yield "gamma", files.png(files.packed(PICTURE, 8), SIZE, 8, 2, gamma), PICTURE
    for bits in (1, 2, 4, 8):
        values, picture = ramp(bits)
        yield f"grey {bits}", files.png(files.packed(values, bits), SIZE, bits, 0), picture
        key = int(values[0, -1])
        keyed = np.where((values == key)[..., None], 255, picture)
        trns = files.chunk(b"tRNS", struct.pack(">H", key))
        yield f"grey {bits} key", files.png(files.packed(values, bits), SIZE, bits, 0, trns), keyed
        indices, palette, picture = indexed(1 << min(bits, 4))
        plte = files.chunk(b"PLTE", palette.tobytes())
        rows = files.packed(indices, bits)
        yield f"palette {bits}", files.png(rows, SIZE, bits, 3, plte), picture
        for name, alphas in {"entry": b"\xff\0", "entries": b"\0\xff"}.items():
            gone = np.isin(indices, [n for n, alpha in enumerate(alphas) if alpha == 0])
            data = files.png(rows, SIZE, bits, 3, plte + files.chunk(b"tRNS", alphas))
            yield f"palette {bits} {name}", data, np.where(gone[..., None], 255, picture)
        data = files.png(rows, SIZE, bits, 3, plte + files.chunk(b"tRNS", bytes(len(palette))))
        yield f"palette {bits} all 0", data, picture
    near = deep(GREY)
    near[0, :2] = 0x1234, 0x1235  # one is the key, the other differs in the low byte
    shown = np.dstack([(near >> 8).astype(np.uint8)] * 3)
    rows = files.packed(near, 16)
    yield "grey 16", files.png(rows, SIZE, 16, 0), shown
    shown[0, 0] = 255
    yield "grey 16 key", files.png(rows, SIZE, 16, 0, files.chunk(b"tRNS", b"\x12\x34")), shown
    rows = files.packed(PICTURE, 8)
    key = files.chunk(b"tRNS", struct.pack(">3H", *PICTURE[4, 5]))
    keyed = PICTURE.copy()
    keyed[4, 5] = 255
    yield "rgb 8 key", files.png(rows, SIZE, 8, 2, key), keyed
    near = deep(PICTURE)
    near[4, 5] = 0x1234, 0x5678, 0x9ABC
    near[4, 6] = 0x1234, 0x5678, 0x9ABD
    shown = (near >> 8).astype(np.uint8)
    yield "rgb 16", files.png(files.packed(near, 16), SIZE, 16, 2), shown
    key = files.chunk(b"tRNS", struct.pack(">3H", *near[4, 5]))
    shown = shown.copy()
    shown[4, 5] = 255
    yield "rgb 16 key", files.png(files.packed(near, 16), SIZE, 16, 2, key), shown
    grey_alpha = np.dstack([GREY, ALPHA])
    cut_out = np.where(SQUARE[..., None], GREYS, 255)
    yield "grey alpha 8", files.png(files.packed(grey_alpha, 8), SIZE, 8, 4), cut_out
    yield "grey alpha 16", files.png(files.packed(deep(grey_alpha), 16), SIZE, 16, 4), cut_out
    yield "rgba 16", files.png(files.packed(deep(over(ALPHA)), 16), SIZE, 16, 6), CUT_OUT
    yield "rgba 16 all 0", files.png(files.packed(deep(over(ALPHA * 0)), 16), SIZE, 16, 6), PICTURE


def interlaced_cases():
    for bits in (1, 2, 4, 8, 16):
        values, picture = (deep(GREY), GREYS) if bits == 16 else ramp(bits)
        yield f"interlaced grey {bits}", interlaced(values, bits, 0), picture
        if bits < 16:
            indices, palette, picture = indexed(1 << min(bits, 4))
            plte = files.chunk(b"PLTE", palette.tobytes())
            yield f"interlaced palette {bits}", interlaced(indices, bits, 3, plte), picture
    for bits, values in ((8, PICTURE), (16, deep(PICTURE))):
        key = files.chunk(b"tRNS", struct.pack(">3H", *values[4, 5]))
        shown = np.where((PICTURE[4, 5] == PICTURE).all(-1)[..., None], 255, PICTURE)
        yield f"interlaced rgb {bits} key", interlaced(values, bits, 2, key), shown
        wide = over(ALPHA) if bits == 8 else deep(over(ALPHA))
        yield f"interlaced rgba {bits}", interlaced(wide, bits, 6), CUT_OUT


def interlaced(values: np.ndarray, bits: int, colour: int, extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", SIZE, SIZE, bits, colour, 0, 0, 1)
    pixels = files.chunk(b"IDAT", zlib.compress(files.adam7(values, bits)))
    return files.PNG_SIGNATURE + files.chunk(b"IHDR", header) + extra + pixels + files.chunk(b"IEND")


def apples_png() -> bytes:
    """Return a PNG as Xcode writes it into apps: BGRA, and Deflate without zlib's header."""
    deflate = zlib.compressobj(wbits=-15)
    rows = b"".join(b"\0" + row for row in files.packed(over(ALPHA)[..., [2, 1, 0, 3]], 8))
    header = files.chunk(b"IHDR", struct.pack(">IIBBBBB", SIZE, SIZE, 8, 6, 0, 0, 0))
    pixels = files.chunk(b"IDAT", deflate.compress(rows) + deflate.flush())
    mark = files.chunk(b"CgBI", b"\x50\0\x20\2")
    return files.PNG_SIGNATURE + mark + header + pixels + files.chunk(b"IEND")
