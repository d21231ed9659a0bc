import io
import random
import struct

import numpy as np
import pytest
from PIL import Image, ImageOps

from labelbeam.transforms.errors import ImageError, Reason
from labelbeam.transforms.images.decode import _draft, decode_image
from labelbeam.transforms.images.resize import ResizeRule
from labelbeam.transforms.photos import PHOTOS
from tests import image_files as files
from tests.synthetic import BAD_IMAGES, encoded, gradient, jpeg_bytes, oriented_jpeg, png_bytes

RULE = ResizeRule(32)
STRETCH = ResizeRule(32, "stretch")
MAX_PIXELS = 10_000_000


def pixels_of(data: bytes, rule: ResizeRule = RULE) -> np.ndarray:
    return decode_image(data, rule, MAX_PIXELS).pixels


def plain_way(image: Image.Image, rule: ResizeRule) -> np.ndarray:
    """Decode in full, turn, crop and resize; the fast way must come close to this."""
    turned = ImageOps.exif_transpose(image).convert("RGB")
    cropped = turned.crop(tuple(map(int, rule.box(*turned.size))))
    return np.asarray(cropped.resize((rule.size_px, rule.size_px), Image.Resampling.BICUBIC))


def psnr_db(a: np.ndarray, b: np.ndarray) -> float:
    error = np.mean((a.astype(float) - b.astype(float)) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "AVIF"])
def test_decode_image__every_format__gives_the_gradient(format):
    image = gradient(120, 80)
    decoded = decode_image(encoded(image, format), RULE, MAX_PIXELS)
    assert decoded.pixels.shape == (32, 32, 3) and decoded.pixels.dtype == np.uint8
    assert (decoded.width_px, decoded.height_px, decoded.format) == (120, 80, format)
    assert psnr_db(decoded.pixels, plain_way(image, RULE)) > 25


@pytest.mark.parametrize("rule", [RULE, STRETCH], ids=["crop", "stretch"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_decode_image__exif_orientation__is_as_displayed(orientation, rule):
    data = oriented_jpeg(gradient(101, 67), orientation)
    decoded = decode_image(data, rule, MAX_PIXELS)
    with Image.open(io.BytesIO(data)) as image:
        assert psnr_db(decoded.pixels, plain_way(image, rule)) > 45
    assert (decoded.width_px, decoded.height_px) == ((101, 67) if orientation < 5 else (67, 101))


@pytest.mark.parametrize(
    ("name", "size_px", "decoding", "at_least_db"),
    [
        ("european-honey-bee.jpg", 224, "good", 45),
        ("european-honey-bee.jpg", 600, "good", 45),
        ("citrus-fruits.jpg", 224, "good", 45),
        ("citrus-fruits.jpg", 100, "fast", 25),
    ],
)
def test_decode_image__large_photo__drafted_is_close_to_a_full_decode(name, size_px, decoding, at_least_db):
    rule = ResizeRule(size_px, decoding=decoding)
    with Image.open(PHOTOS / name) as image:
        exact = plain_way(image, rule)
    assert psnr_db(pixels_of((PHOTOS / name).read_bytes(), rule), exact) > at_least_db


def test_decode_image__fast__decodes_less_of_a_jpeg_and_is_another_rule():
    good, fast = ResizeRule(100), ResizeRule(100, decoding="fast")
    data = (PHOTOS / "citrus-fruits.jpg").read_bytes()
    assert (pixels_of(data, good) != pixels_of(data, fast)).any()
    assert (
        good.describe() != fast.describe() == {**good.describe(), "algorithm": fast.describe()["algorithm"]}
    )


def test_decode_image__transparency__is_white():
    clear = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    assert (pixels_of(encoded(clear)) == 255).all()
    half = Image.new("RGBA", (40, 40), (200, 0, 0, 128))
    assert np.abs(pixels_of(encoded(half)).mean((0, 1)) - (227, 127, 127)).max() < 2


def test_decode_image__palette_with_transparent_colour__is_white():
    image = Image.new("P", (40, 40), 0)
    image.putpalette([10, 20, 30] + [0] * 765)
    assert (pixels_of(encoded(image, "PNG", transparency=0)) == 255).all()
    assert (pixels_of(encoded(image, "PNG")) == (10, 20, 30)).all()


# Only the high byte counts, as in libpng and TensorFlow.
SIXTEEN_BITS = [
    (0x0000, 0x00),
    (0x00FF, 0x00),
    (0x0100, 0x01),
    (0x7FFF, 0x7F),
    (0x8000, 0x80),
    (0xFEFF, 0xFE),
    (0xFF00, 0xFF),
    (0xFFFF, 0xFF),
]


@pytest.mark.parametrize(("value", "expected"), SIXTEEN_BITS)
def test_decode_image__sixteen_bits_at_the_edges__keep_the_high_byte(value, expected):
    grey = np.full((32, 32), value, np.uint16)
    rgb = np.dstack([grey] * 3)
    # With a colour key that no pixel has, Pillow's reading is replaced by ours.
    other = struct.pack(">H", value ^ 1)
    encodings = {
        "grey PNG": files.png(files.packed(grey, 16), 32, 16, 0),
        "grey PNG with a key": files.png(files.packed(grey, 16), 32, 16, 0, files.chunk(b"tRNS", other)),
        "RGB PNG": files.png(files.packed(rgb, 16), 32, 16, 2),
        "RGB PNG with a key": files.png(files.packed(rgb, 16), 32, 16, 2, files.chunk(b"tRNS", other * 3)),
        "grey TIFF": files.tiff(grey, photometric="minisblack"),
        "inverse grey TIFF": files.tiff(~grey, photometric="miniswhite"),
        "RGB TIFF": files.tiff(rgb, photometric="rgb"),
    }
    faults = {name: np.unique(pixels_of(data)).tolist() for name, data in encodings.items()}
    assert {name: values for name, values in faults.items() if values != [expected]} == {}


@pytest.mark.parametrize(("most", "expected"), [(255, 255), (256, 1), (65535, 255)])
def test_decode_image__tiff_palette_at_the_edge_of_8_bits__is_one_of_16_bits(most, expected):
    pixels = pixels_of(files.tiff_of(np.zeros((32, 32, 1), int), 8, 3, tags={320: [most] * 768}))
    assert np.unique(pixels).tolist() == [expected]


@pytest.mark.parametrize(
    ("bits", "message"),
    [(7, "fewer than 8 bits"), (8, None), (9, "9 bits in several"), (16, "16 bits in several")],
)
def test_decode_image__jpeg_2000_of_other_depths__is_refused(bits, message):
    data = bytearray(encoded(gradient(32, 32), "JPEG2000"))
    depths = data.index(b"\xff\x4f\xff\x51") + 42
    data[depths : depths + 9 : 3] = bytes((bits - 1,)) * 3
    if message is None:
        assert pixels_of(bytes(data)).shape == (32, 32, 3)
    else:
        with pytest.raises(ImageError, match=message) as e:
            pixels_of(bytes(data))
        assert e.value.reason is Reason.UNSUPPORTED


@pytest.mark.parametrize("value", [value for value, _ in SIXTEEN_BITS])
def test_decode_image__sixteen_bits_that_are_the_key__are_white(value):
    grey = np.full((32, 32), value, np.uint16)
    key = struct.pack(">H", value)
    for colour, pixels in ((0, grey), (2, np.dstack([grey] * 3))):
        trns = files.chunk(b"tRNS", key * pixels[0, 0].size)
        assert (pixels_of(files.png(files.packed(pixels, 16), 32, 16, colour, trns)) == 255).all()


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [("L", 77, (77, 77, 77)), ("1", 1, (255, 255, 255)), ("CMYK", (0, 255, 255, 0), (255, 0, 0))],
)
def test_decode_image__other_modes__become_rgb(mode, colour, expected):
    data = encoded(Image.new(mode, (40, 40), colour), "JPEG" if mode == "CMYK" else "PNG")
    assert np.abs(pixels_of(data).astype(int) - expected).max() <= 2


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (3, 2)])
def test_decode_image__extreme_sizes__are_decoded(size):
    for rule in (RULE, STRETCH):
        assert pixels_of(png_bytes(*size), rule).shape == (32, 32, 3)


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_decode_image__bad_bytes__have_their_reason(name):
    data, reason = BAD_IMAGES[name]
    with pytest.raises(ImageError) as e:
        decode_image(data, RULE, MAX_PIXELS)
    assert e.value.reason.value == reason, str(e.value)


UNREAD = {
    "Photoshop": b"8BPS",
    "PDF": b"%PDF-1.7",
    "PostScript": b"%!PS-Adobe",
    "JPEG XL": b"\xff\x0a",
    "JPEG-LS": b"\xff\xd8\xff\xf7",
    "JPEG XR": b"II\xbc\1",
    "ICO": b"\0\0\1\0",
    "CUR": b"\0\0\2\0",
    "DDS": b"DDS ",
    "OpenEXR": b"\x76\x2f\x31\1",
    "HEIC": b"\0\0\0\x18ftypheic",
    "HEIF": b"\0\0\0\x18ftypmif1",
    "SVG": b"<svg",
}


@pytest.mark.parametrize("name", UNREAD)
def test_decode_image__formats_that_are_not_read__are_unsupported_by_name(name):
    with pytest.raises(ImageError, match=f"^{name} is not read") as e:
        decode_image(UNREAD[name].ljust(200, b"\0"), RULE, MAX_PIXELS)
    assert e.value.reason is Reason.UNSUPPORTED


INDICES = np.zeros((4, 4, 1), int)
BROKEN = {
    "PNG: indices without a palette": files.png(files.packed(INDICES, 8), 4, 8, 3),
    "TIFF: a palette of 48 values for 8 bits": files.tiff_of(INDICES, 8, 3, tags={320: [0] * 48}),
    "BMP: runs from the top": files.bmp([b""] * 4, 4, 8, bytes(1024), 40, 1, top_down=True, runs=b"\4\0\0\1"),
}


@pytest.mark.parametrize("message", BROKEN)
def test_decode_image__palettes_and_runs_that_contradict_their_header__are_errors(message):
    with pytest.raises(ImageError, match=message) as e:
        decode_image(BROKEN[message], RULE, MAX_PIXELS)
    assert e.value.reason is Reason.DECODE_ERROR


@pytest.mark.parametrize(
    ("max_pixels", "decoded"), [(64 * 48 + 1, True), (64 * 48, True), (64 * 48 - 1, False)]
)
def test_decode_image__pixels_at_the_limit__are_decoded(max_pixels, decoded):
    data = png_bytes(64, 48)
    if decoded:
        assert decode_image(data, RULE, max_pixels).width_px == 64
    else:
        with pytest.raises(ImageError, match="64 x 48 pixels, more than max_megapixels=0.003071 allows") as e:
            decode_image(data, RULE, max_pixels)
        assert e.value.reason is Reason.TOO_LARGE_PIXELS


@pytest.mark.parametrize(
    ("side_px", "decoding", "decoded_px"),
    [(127, "good", 127), (128, "good", 64), (255, "good", 128), (63, "fast", 63), (64, "fast", 32)],
)
def test_draft__sides_at_twice_the_least_size__are_halved_from_there(side_px, decoding, decoded_px):
    rule = ResizeRule(32, "stretch", decoding=decoding)
    with Image.open(io.BytesIO(jpeg_bytes(side_px, side_px))) as image:
        drafted = _draft(image, rule.box(side_px, side_px), rule)
    assert drafted.size == (decoded_px, decoded_px)


def test_decode_image__thousands_of_mutations__are_decoded_or_fail_as_images():
    chance = random.Random(7)
    formats = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "AVIF"]
    originals = [encoded(gradient(40, 30), f) for f in formats]
    originals += [oriented_jpeg(gradient(40, 30), 6), jpeg_bytes(40, 30, progressive=True)]
    for n in range(2000):
        data = bytearray(originals[n % len(originals)])
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        cut = len(data) if chance.random() < 0.8 else chance.randint(1, len(data))
        try:
            assert pixels_of(bytes(data[:cut])).shape == (32, 32, 3)
        except ImageError as e:
            assert str(e)


@pytest.mark.parametrize(("scans", "is_read"), [(100, True), (101, False)])
def test_decode_image__progressive_scans__are_bounded(scans, is_read):
    data = encoded(Image.new("L", (64, 64), 128), "JPEG", progressive=True)
    last, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    data = data[:end] + data[last:end] * (scans - data.count(b"\xff\xda")) + data[end:]
    if is_read:
        assert decode_image(data, RULE, 10**6).format == "JPEG"
    else:
        with pytest.raises(ImageError, match="progressive JPEG of 101 scans, more than 100") as error:
            decode_image(data, RULE, 10**6)
        assert error.value.reason == Reason.UNSUPPORTED
