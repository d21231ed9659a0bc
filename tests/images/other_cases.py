"""JPEG, JPEG 2000, GIF, WebP and AVIF files by property, and the pictures that they show."""

import struct

import numpy as np
from PIL import Image, ImageCms

from tests import image_files as files
from tests.images.pictures import (
    ALPHA,
    CUT_OUT,
    GREY,
    GREYS,
    INKED,
    INKS,
    PICTURE,
    SIZE,
    SQUARE,
    UNSUPPORTED,
    deep,
    indexed,
    over,
    write,
)
from tests.synthetic import encoded


def alpha_cases():
    for format in ("PNG", "WEBP", "TIFF", "AVIF", "JPEG2000"):
        yield f"{format} alpha", write(Image.fromarray(over(ALPHA)), format), CUT_OUT
        if format != "AVIF":  # its encoder drops the colours that alpha hides
            yield f"{format} alpha all 0", write(Image.fromarray(over(ALPHA * 0)), format), PICTURE
        yield f"{format} blank", write(Image.new("RGBA", (SIZE, SIZE)), format), np.full_like(PICTURE, 255)


def jpeg_cases():
    cmyk = Image.fromarray(np.dstack([255 - PICTURE, np.zeros_like(GREY)]), "CMYK")
    adobe = write(cmyk, "JPEG")
    yield "cmyk with black", write(Image.fromarray(INKS, "CMYK"), "JPEG"), INKED
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
    yield "grey 12", files.GREY_12_JPEG2000, GREYS
    yield "codestream", write(Image.fromarray(PICTURE), "JPEG2000", no_jp2=True), PICTURE
    rgb = write(Image.fromarray(PICTURE), "JPEG2000")
    yield "sycc", write(Image.fromarray(PICTURE).convert("YCbCr"), "JPEG2000"), PICTURE
    inks = files.box(b"colr", struct.pack(">BBBI", 1, 0, 0, 12))
    data = write(Image.fromarray(INKS), "JPEG2000")
    yield "cmyk", files.jp2_with(data, inks, keep=(b"ihdr",)), INKED
    yield "rgb 16", files.DEEP_JPEG2000, UNSUPPORTED
    for name, data in {"grey": grey, "rgb": rgb}.items():
        at = data.index(b"\xff\x4f\xff\x51") + 42  # the first component's bits, less 1
        yield f"{name} 4", data[:at] + b"\3" + data[at + 1 :], UNSUPPORTED
    at = rgb.index(b"\xff\x4f\xff\x51")
    length, number = struct.pack(">H", 38 + 3 * 5), struct.pack(">H", 5)
    five = length + rgb[at + 6 : at + 40] + number + rgb[at + 42 : at + 51] + b"\7\1\1" * 2 + rgb[at + 51 :]
    yield "five components", rgb[at : at + 4] + five, UNSUPPORTED
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
    blank = Image.new("P", (SIZE, SIZE), 3)
    blank.putpalette(palette.tobytes())
    yield "GIF blank", encoded(blank, "GIF", transparency=3, optimize=False), np.full_like(picture, 255)
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
    yield "WEBP lossy", encoded(Image.fromarray(PICTURE), "WEBP", quality=100), PICTURE
    yield "WEBP lossless", write(Image.fromarray(PICTURE), "WEBP"), PICTURE
    yield "AVIF grey", write(Image.fromarray(GREY), "AVIF"), GREYS
    for bits, data in files.DEEP_AVIF.items():
        yield f"AVIF {bits} bits", data, PICTURE
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for format in ("PNG", "JPEG", "WEBP", "TIFF", "AVIF"):
        data = write(Image.fromarray(PICTURE), format, icc_profile=profile)
        yield f"{format} profile, ignored", data, PICTURE
