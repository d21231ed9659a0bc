"""TIFF files by property, and the pictures that they show."""

import functools
import struct

import numpy as np
from PIL import Image

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
)
from tests.synthetic import encoded


def arranged(values: np.ndarray, wide, planarconfig: str, **options) -> bytes:
    planes = values if planarconfig == "contig" else values.transpose(2, 0, 1)
    return files.tiff(wide(planes), planarconfig=planarconfig, **options)


def tiff_cases():
    cmyk = np.dstack([255 - PICTURE, np.zeros_like(GREY)])
    for order in "<>":
        for planar in ("contig", "separate"):
            for depth, wide in ((8, lambda values: values), (16, deep)):
                for options in ({}, {"tile": (16, 16)}, {"compression": "zlib", "predictor": True}):
                    build = functools.partial(
                        arranged, wide=wide, planarconfig=planar, byteorder=order, **options
                    )
                    name = f"{order} {planar} {depth} {''.join(options)}"
                    yield f"rgb {name}", build(PICTURE, photometric="rgb"), PICTURE
                    yield f"cmyk {name}", build(cmyk, photometric="separated"), PICTURE
                    for kind, shown in ((0, PICTURE), (2, CUT_OUT)):
                        data = build(over(ALPHA), photometric="rgb", extrasamples=[kind])
                        yield f"rgb, extra {kind} {name}", data, shown
                    data = build(over(ALPHA * 0), photometric="rgb", extrasamples=[2])
                    yield f"rgb, alpha 0 {name}", data, PICTURE
                    multiplied = np.where(SQUARE[..., None], over(ALPHA), 0)
                    data = build(multiplied, photometric="rgb", extrasamples=[1])
                    yield f"rgb, associated alpha {name}", data, CUT_OUT
        for compression in (None, "zlib"):
            one = functools.partial(files.tiff, byteorder=order, compression=compression)
            name = f"{order} {compression}"
            white = one(65535 - deep(GREY), photometric="miniswhite")
            yield f"white is zero 16 {name}", white, GREYS if order == "<" else UNSUPPORTED
            for dtype in ("i1", "i2", "i4", "u4", "f2", "f4", "f8"):
                yield f"{dtype} {name}", one(GREY.astype(dtype), photometric="minisblack"), UNSUPPORTED
                data = one(PICTURE.astype(dtype), photometric="rgb")
                yield f"rgb {dtype} {name}", data, UNSUPPORTED
            indices, palette, picture = indexed(256)
            colours = deep(palette.T)
            yield f"palette {name}", one(indices, photometric="palette", colormap=colours), picture
            data = one(indices, photometric="palette", colormap=palette.T.astype(np.uint16))
            yield f"palette of 8 bits {name}", data, picture
            data = one(np.dstack([cmyk, ALPHA]), photometric="separated", extrasamples=[2])
            yield f"cmyk alpha {name}", data, UNSUPPORTED
            inks = [(332, 3, 1, 2, True)]
            yield f"inks {name}", one(cmyk, photometric="separated", extratags=inks), UNSUPPORTED
            lab = np.asarray(Image.new("LAB", (SIZE, SIZE)))
            yield f"lab {name}", one(lab, photometric="cielab"), UNSUPPORTED
        ycc = np.asarray(Image.fromarray(PICTURE).convert("YCbCr"))
        curve = [(532, 5, 6, files.IDENTITY_CURVE, True)]
        for compression in (None, "zlib"):
            data = files.tiff(
                ycc,
                photometric="ycbcr",
                subsampling=(1, 1),
                byteorder=order,
                compression=compression,
                extratags=curve,
            )
            yield f"ycbcr {order} {compression}", data, PICTURE
    plain = files.tiff(PICTURE, photometric="rgb")
    for number in (32771, 32809, 34676, 34677, 34712, 34887, 50001, 50002):
        yield f"compression {number}", patched(plain, {259: number}), UNSUPPORTED
    for number in (3, 4, 9, 10, 32803, 34892):
        yield f"colour space {number}", patched(plain, {262: number}), UNSUPPORTED
    yield "big", files.tiff(PICTURE, photometric="rgb", bigtiff=True), PICTURE
    data = files.tiff(PICTURE, photometric="rgb", bigtiff=True, byteorder=">")
    yield "big, big-endian", data, UNSUPPORTED
    for kind in (0, 1, 2):
        data = files.tiff(deep(np.dstack([GREY, ALPHA])), photometric="minisblack", extrasamples=[kind])
        yield f"grey alpha 16, extra {kind}", data, UNSUPPORTED
    for compression in ("tiff_lzw", "packbits", "tiff_adobe_deflate", "jpeg", "zstd", "lzma"):
        yield compression, encoded(Image.fromarray(PICTURE), "TIFF", compression=compression), PICTURE
    for compression in ("group3", "group4", "tiff_ccitt"):
        data = encoded(Image.fromarray(SQUARE), "TIFF", compression=compression)
        yield compression, data, np.dstack([SQUARE * np.uint8(255)] * 3)
    twelve = deep(GREY) >> 4
    rows = np.packbits((twelve[..., None] >> np.arange(12)[::-1] & 1).astype(np.uint8)).tobytes()
    data = files.tiff(np.frombuffer(rows, np.uint8).reshape(SIZE, -1), photometric="minisblack")
    data = patched(data, {256: SIZE, 258: 12})
    yield "grey 12", data, GREYS
    mirrored = np.unpackbits(np.packbits(SQUARE, axis=-1), axis=-1, bitorder="little").astype(bool)
    for compression in (None, "packbits", "tiff_lzw"):
        data = encoded(Image.fromarray(mirrored), "TIFF", compression=compression, tiffinfo={266: 2})
        yield f"lowest bit first {compression}", data, np.dstack([SQUARE * np.uint8(255)] * 3)


def patched(tiff: bytes, tags: dict[int, int]) -> bytes:
    """Return a little-endian TIFF with other numbers in its first directory."""
    data = bytearray(tiff)
    at = struct.unpack_from("<I", data, 4)[0]
    for place in range(at + 2, at + 2 + 12 * struct.unpack_from("<H", data, at)[0], 12):
        tag, kind = struct.unpack_from("<HH", data, place)
        if tag in tags:
            struct.pack_into("<H" if tags[tag] < 2**16 and kind == 3 else "<I", data, place + 8, tags[tag])
            struct.pack_into("<H", data, place + 2, 3 if kind == 3 and tags[tag] < 2**16 else 4)
    return bytes(data)
