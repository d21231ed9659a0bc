"""Formats by properties: every file shows the plain picture, or is refused as unsupported."""

import functools
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tests import image_files as files
from tests.synthetic import encoded, gradient
from transforms.errors import ImageError, Reason
from transforms.images.decode import Decoded, decode_image
from transforms.images.resize import ResizeRule

SIZE = 32
RULE = ResizeRule(SIZE, "stretch")  # an image of this size keeps every pixel
PICTURE = np.asarray(gradient(SIZE, SIZE))
GREY = PICTURE[..., 0]
GREYS = np.dstack([GREY] * 3)
SQUARE = np.zeros((SIZE, SIZE), bool)
SQUARE[8:24, 8:24] = True
CUT_OUT = np.where(SQUARE[..., None], PICTURE, 255)
ALPHA = np.where(SQUARE, 255, 0).astype(np.uint8)
LOSSLESS = {"WEBP": {"lossless": True, "exact": True}, "JPEG": {"quality": 98, "subsampling": 0}}
LOSSLESS["MPO"] = LOSSLESS["JPEG"]
LOSSLESS["AVIF"] = {"quality": 100, "subsampling": "4:4:4"}
UNSUPPORTED = None


def decode(data: bytes) -> Decoded:
    return decode_image(data, RULE, 10**6)


def write(image: Image.Image, format: str, **options) -> bytes:
    return encoded(image, format, **LOSSLESS.get(format, {}), **options)


def deep(values: np.ndarray) -> np.ndarray:
    return values.astype(np.uint16) * 257


def over(alpha: np.ndarray) -> np.ndarray:
    return np.dstack([PICTURE, alpha])


def indexed(colours: int = 16) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices, the palette and the picture that they make."""
    indices = np.add.outer(np.arange(SIZE), np.arange(SIZE) // 3) % colours
    palette = np.random.default_rng(colours).integers(0, 256, (colours, 3), np.uint8)
    return indices.astype(np.uint8), palette, palette[indices]


def ramp(bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Values of a number of bits, and the grey picture that they make."""
    values = (GREY.astype(int) >> 8 - min(bits, 8)).astype(np.uint16)
    return values, np.dstack([(values.astype(int) * 255 // ((1 << min(bits, 8)) - 1)).astype(np.uint8)] * 3)


def png_cases():
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


def alpha_cases():
    for format in ("PNG", "WEBP", "TIFF", "AVIF", "JPEG2000"):
        yield f"{format} alpha", write(Image.fromarray(over(ALPHA)), format), CUT_OUT
        if format != "AVIF":  # its encoder drops the colours that alpha hides
            yield f"{format} alpha all 0", write(Image.fromarray(over(ALPHA * 0)), format), PICTURE
        yield f"{format} blank", write(Image.new("RGBA", (SIZE, SIZE)), format), np.full_like(PICTURE, 255)


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
        yield f"16 bits, {masks}", files.bmp(rows, SIZE, 16, b"", 124, 3, masks), UNSUPPORTED
    whole = b"".join(colour + b"\0" for colour in bgr)
    for bits, compression in ((8, 1), (4, 2)):
        for step in (1, 3, 5):
            runs = b"".join(rle(row, step, bits) for row in indices[::-1]) + b"\0\1"
            data = files.bmp([b""] * SIZE, SIZE, bits, whole, 40, compression, runs=runs)
            yield f"rle {bits}, runs of {step}", data, picture
    yield "jpeg inside", files.bmp([b""] * SIZE, SIZE, 24, b"", 40, 4, runs=b"\xff\xd8"), UNSUPPORTED


def rle(row: np.ndarray, step: int, bits: int) -> bytes:
    """A row as absolute runs of a length; shorter ones are repeated pixels."""
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
            yield f"grey 8 {name}", one(GREY, photometric="minisblack"), GREYS
            yield f"grey 16 {name}", one(deep(GREY), photometric="minisblack"), GREYS
            yield f"white is zero 8 {name}", one(255 - GREY, photometric="miniswhite"), GREYS
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
    strange = files.tiff(PICTURE, photometric="rgb")
    yield "compression", patched(strange, {259: 34712}), UNSUPPORTED
    yield "big", files.tiff(PICTURE, photometric="rgb", bigtiff=True), PICTURE
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
    """A little-endian TIFF with other numbers in its first directory."""
    data = bytearray(tiff)
    at = struct.unpack_from("<I", data, 4)[0]
    for place in range(at + 2, at + 2 + 12 * struct.unpack_from("<H", data, at)[0], 12):
        tag, kind = struct.unpack_from("<HH", data, place)
        if tag in tags:
            struct.pack_into("<H" if tags[tag] < 2**16 and kind == 3 else "<I", data, place + 8, tags[tag])
            struct.pack_into("<H", data, place + 2, 3 if kind == 3 and tags[tag] < 2**16 else 4)
    return bytes(data)


def jpeg_cases():
    cmyk = Image.fromarray(np.dstack([255 - PICTURE, np.zeros_like(GREY)]), "CMYK")
    adobe = write(cmyk, "JPEG")
    yield "grey", write(Image.fromarray(GREY), "JPEG"), GREYS
    yield "progressive", write(Image.fromarray(PICTURE), "JPEG", progressive=True), PICTURE
    yield "rgb", write(Image.fromarray(PICTURE), "JPEG", keep_rgb=True), PICTURE
    yield "cmyk of Adobe", adobe, PICTURE
    plain = Image.fromarray(255 - np.asarray(cmyk), "CMYK")
    yield "cmyk", files.without_segment(write(plain, "JPEG"), 0xEE), PICTURE
    ycc = np.asarray(Image.fromarray(255 - PICTURE).convert("YCbCr"))
    ycck = Image.fromarray(np.dstack([255 - ycc, np.zeros_like(GREY)]), "CMYK")  # Pillow stores the inverse
    data = write(ycck, "JPEG")
    at = data.index(b"Adobe")
    yield "ycck", data[: at + 11] + b"\2" + data[at + 12 :], PICTURE
    frame = write(Image.fromarray(PICTURE), "JPEG")
    at = frame.index(b"\xff\xc0")
    yield "12 bits", frame[: at + 4] + b"\x0c" + frame[at + 5 :], UNSUPPORTED
    yield "2 components", frame[: at + 9] + b"\2" + frame[at + 10 :], UNSUPPORTED


def jpeg2000_cases():
    grey = write(Image.fromarray(GREY), "JPEG2000")
    yield "grey", grey, GREYS
    yield "grey 16", write(Image.fromarray(deep(GREY)), "JPEG2000"), GREYS
    yield "codestream", write(Image.fromarray(PICTURE), "JPEG2000", no_jp2=True), PICTURE
    rgb = write(Image.fromarray(PICTURE), "JPEG2000")
    swapped = files.box(b"cdef", struct.pack(">10H", 3, 0, 0, 3, 1, 0, 2, 2, 0, 1))
    yield "channels swapped", files.jp2_with(rgb, swapped), UNSUPPORTED
    for number in (1, 14, 24):
        colour = files.box(b"colr", struct.pack(">BBBI", 1, 0, 0, number))
        yield f"colour space {number}", files.jp2_with(rgb, colour, keep=(b"ihdr",)), UNSUPPORTED
    indices, palette, _ = indexed(16)
    palette = palette.copy()
    palette[3] = palette[1]  # twice the same colour
    colours = files.box(b"colr", struct.pack(">BBBI", 1, 0, 0, 16))
    pclr = files.box(b"pclr", struct.pack(">HB3B", 16, 3, 7, 7, 7) + palette.tobytes())
    cmap = files.box(b"cmap", b"".join(struct.pack(">HBB", 0, 1, n) for n in range(3)))
    data = write(Image.fromarray(indices), "JPEG2000")
    data = files.jp2_with(data, colours, pclr, cmap, keep=(b"ihdr",))
    yield "palette", data, palette[indices]
    wide = files.box(b"pclr", struct.pack(">HB3B", 16, 3, 15, 15, 15) + deep(palette).astype(">u2").tobytes())
    data = write(Image.fromarray(indices), "JPEG2000")
    yield "palette 16", files.jp2_with(data, colours, wide, cmap, keep=(b"ihdr",)), UNSUPPORTED


def other_cases():
    yield "GIF grey", write(Image.fromarray(GREY), "GIF"), GREYS
    indices, palette, picture = indexed(16)
    image = Image.fromarray(indices, "P")
    image.putpalette(palette.tobytes())
    for interlace in (0, 1):
        yield f"GIF {interlace}", encoded(image, "GIF", interlace=interlace), picture
    data = encoded(image, "GIF", transparency=3)
    yield "GIF transparent colour", data, np.where((indices == 3)[..., None], 255, picture)
    part = image.crop((8, 8, 24, 24))
    on_white = np.where(SQUARE[..., None], picture, 255)
    small = encoded(part, "GIF", optimize=False)
    yield "GIF part of the canvas", files.gif_on_canvas((SIZE, SIZE), (8, 8), small), on_white
    part = Image.fromarray(PICTURE).crop((8, 8, 24, 24))
    yield "WEBP part of the canvas", files.animated_webp((SIZE, SIZE), (8, 8), part), CUT_OUT
    data = files.animated_webp((SIZE, SIZE), (8, 8), part, frames=1)
    yield "WEBP part of the canvas, one frame", data, CUT_OUT
    yield "WEBP lossless", write(Image.fromarray(PICTURE), "WEBP"), PICTURE
    yield "AVIF grey", write(Image.fromarray(GREY), "AVIF"), GREYS
    yield "PNG interlaced", INTERLACED, np.asarray(Image.new("RGB", (SIZE, SIZE), (200, 30, 90)))


# One colour in the seven passes of Adam7; the passes' sizes for 32 x 32 pixels.
_PASSES = ((4, 4), (4, 4), (8, 4), (8, 8), (16, 8), (16, 16), (32, 16))
_ROWS = b"".join((b"\0" + bytes((200, 30, 90)) * width) * height for width, height in _PASSES)
INTERLACED = b"".join(
    (
        files.PNG_SIGNATURE,
        files.chunk(b"IHDR", struct.pack(">IIBBBBB", SIZE, SIZE, 8, 2, 0, 0, 1)),
        files.chunk(b"IDAT", zlib.compress(_ROWS)),
        files.chunk(b"IEND"),
    )
)

GROUPS = {
    "PNG": png_cases,
    "alpha": alpha_cases,
    "BMP": bmp_cases,
    "TIFF": tiff_cases,
    "JPEG": jpeg_cases,
    "JPEG2000": jpeg2000_cases,
    "other": other_cases,
}


@pytest.mark.parametrize("group", GROUPS)
def test_decode_image__every_property__shows_the_plain_picture_or_is_refused(group):
    faults = {name: fault_of(name, data, shown, group) for name, data, shown in GROUPS[group]()}
    assert not {name: fault for name, fault in faults.items() if fault}


def fault_of(name: str, data: bytes, shown: np.ndarray | None, group: str) -> str:
    """What is wrong with how a file is decoded; nothing if it is right."""
    try:
        pixels = decode(data).pixels
    except ImageError as e:
        return "" if shown is UNSUPPORTED and e.reason is Reason.UNSUPPORTED else f"{e.reason}: {e}"
    if shown is UNSUPPORTED:
        return "not refused"
    off = np.abs(pixels.astype(int) - shown)
    lossy = group == "JPEG" or name.startswith(("AVIF", "jpeg", "ycbcr"))
    return "" if off.max() <= (8 if lossy else 1) else f"off by {off.max()}"


@pytest.mark.parametrize("group", GROUPS)
def test_decode_image__mutations_of_every_kind__are_decoded_or_fail_as_images(group):
    chance = random.Random(group)
    originals = [data for _, data, _ in GROUPS[group]()]
    for _ in range(400):
        data = bytearray(chance.choice(originals))
        for _ in range(chance.randint(1, 6)):
            data[chance.randrange(min(len(data), chance.choice((200, 10**6))))] = chance.randrange(256)
        try:
            decoded = decode(bytes(data[: chance.choice((len(data), chance.randint(1, len(data))))]))
        except ImageError as e:
            assert str(e)
        else:
            assert decoded.orientation in range(1, 9) and (decoded.frames is None or decoded.frames >= 1)
