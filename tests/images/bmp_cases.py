"""BMP files by property, and the pictures that they show."""

import numpy as np

from tests import image_files as files
from tests.images.pictures import ALPHA, CUT_OUT, PICTURE, SIZE, SQUARE, UNSUPPORTED, indexed


def bmp_cases():
    indices, palette, picture = indexed(16)
    bgr = [bytes(colour[::-1]) for colour in palette]
    black_white = SQUARE.astype(np.uint8)
    two = np.dstack([black_white * 255] * 3)
    for header in (12, 40, 52, 56, 64, 108, 124):
        pad = b"" if header == 12 else b"\0"
        whole = b"".join(colour + pad for colour in bgr)
        yield f"{header} 4 bits", files.bmp(files.packed(indices, 4), SIZE, 4, whole, header), picture
        whole = whole.ljust((3 + len(pad)) * 256, b"\0")
        yield f"{header} 8 bits", files.bmp(files.packed(indices, 8), SIZE, 8, whole, header), picture
        whole = b"\0\0\0" + pad + b"\xff\xff\xff" + pad
        yield f"{header} 1 bit", files.bmp(files.packed(black_white, 1), SIZE, 1, whole, header), two
        inverse = b"\xff\xff\xff" + pad + b"\0\0\0" + pad
        data = files.bmp(files.packed(1 - black_white, 1), SIZE, 1, inverse, header)
        yield f"{header} 1 bit inverse", data, two
        rows = files.packed(PICTURE[..., ::-1], 8)
        yield f"{header} 24 bits", files.bmp(rows, SIZE, 24, header=header), PICTURE
        bgrx = files.packed(np.dstack([PICTURE[..., ::-1], ALPHA * 0]), 8)
        yield f"{header} 32 bits", files.bmp(bgrx, SIZE, 32, header=header), PICTURE
    for bits in (1, 4, 8):
        for top_down in (False, True):
            rows = files.packed(black_white, bits)
            data = files.bmp(rows, SIZE, bits, b"\0\0\0\0\xff\xff\xff\0", top_down=top_down)
            yield f"{bits} bits of two colours, top down {top_down}", data, two
    steps = b"".join(bytes((n, n, n, 0)) for n in range(16))
    yield "4 bits, dark ramp", files.bmp(files.packed(indices, 4), SIZE, 4, steps), np.dstack([indices] * 3)
    masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    for header in (56, 108, 124):
        for name, alpha, shown in (("alpha", ALPHA, CUT_OUT), ("alpha all 0", ALPHA * 0, PICTURE)):
            rows = files.packed(np.dstack([PICTURE[..., ::-1], alpha]), 8)
            yield f"{header} {name}", files.bmp(rows, SIZE, 32, b"", header, 3, masks), shown
    shades = PICTURE >> 3
    packed = shades[..., 0].astype(np.uint16) << 10 | shades[..., 1].astype(np.uint16) << 5 | shades[..., 2]
    rows = [row.astype("<u2").tobytes() for row in packed]
    shown = (shades.astype(int) * 255 // 31).astype(np.uint8)
    yield "16 bits", files.bmp(rows, SIZE, 16), shown
    data = files.bmp(rows, SIZE, 16, b"", 124, 3, (0x7C00, 0x3E0, 0x1F, 0))
    yield "16 bits, masks", data, shown
    for masks in ((0x7C00, 0x3E0, 0x1F, 0x8000), (0xF00, 0xF0, 0xF, 0xF000)):
        for header in (56, 108, 124):
            yield f"{header} 16 bits, {masks}", files.bmp(rows, SIZE, 16, b"", header, 3, masks), UNSUPPORTED
    whole = b"".join(colour + b"\0" for colour in bgr)
    for bits, compression in ((8, 1), (4, 2)):
        for step in (1, 3, 5):
            runs = b"".join(rle(row, step, bits) for row in indices[::-1]) + b"\0\1"
            data = files.bmp([b""] * SIZE, SIZE, bits, whole, 40, compression, runs=runs)
            yield f"rle {bits}, runs of {step}", data, picture
            runs = runs[: -len(b"\0\0\0\1")]
            data = files.bmp([b""] * SIZE, SIZE, bits, whole, 40, compression, runs=runs)
            yield f"rle {bits}, runs of {step}, no marks at the end", data, picture
    for name, compression in (("jpeg", 4), ("png", 5)):
        data = files.bmp([b""] * SIZE, SIZE, 24, b"", 40, compression, runs=b"\xff\xd8")
        yield f"{name} inside", data, UNSUPPORTED
    for bits in (1, 4, 8):  # OS/2 has a header of 16 bytes, too
        data = files.bmp(files.packed(black_white, bits), SIZE, bits, bytes(1024), 16)
        yield f"16, {bits} bits", data, UNSUPPORTED
    yield "2 bits", files.bmp(files.packed(black_white, 2), SIZE, 2, bytes(16)), UNSUPPORTED


def rle(row: np.ndarray, step: int, bits: int) -> bytes:
    """Return a row as absolute runs of a length; parts of less than 3 pixels are runs of one pixel."""
    out = b""
    for at in range(0, SIZE, step):
        part = row[at : at + step]
        if len(part) < 3:
            out += b"".join(bytes((1, value << 4 if bits == 4 else value)) for value in part)
            continue
        body = files.packed(np.append(part, [0] * (len(part) % 2))[None] if bits == 4 else part[None], bits)[
            0
        ]
        out += bytes((0, len(part))) + body + bytes(len(body) % 2)
    return out + b"\0\0"
