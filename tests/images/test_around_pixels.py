"""Orientation, metadata and frames: the contents of files around their pixels."""

import io
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from labelbeam.transforms.errors import ImageError
from labelbeam.transforms.images import frames
from labelbeam.transforms.images.containers import MOST_PIECES
from labelbeam.transforms.images.frames import count_frames
from labelbeam.transforms.images.metadata import without_metadata
from labelbeam.transforms.images.orientation import orientation_of_exif
from tests import image_files as files
from tests.images.pictures import GREY, GREYS, PICTURE, SIZE, decode, write
from tests.images.tiff_cases import patched
from tests.synthetic import encoded, gradient

WIDE = gradient(48, 32)  # as displayed
_TURN = Image.Transpose
# Transposition from the displayed to the stored picture, by orientation: the inverse of the decoder's.
STORED = {2: _TURN.FLIP_LEFT_RIGHT, 3: _TURN.ROTATE_180, 4: _TURN.FLIP_TOP_BOTTOM, 5: _TURN.TRANSPOSE}
STORED |= {6: _TURN.ROTATE_90, 7: _TURN.TRANSVERSE, 8: _TURN.ROTATE_270}
TIFF_XMP = 700


def jp2_with_exif(image, o):
    return write(image, "JPEG2000") + files.box(b"uuid", b"JpgTiffExif->JP2" + files.exif_of(o))


def avif_with_tag(image):
    """Return an AVIF whose EXIF has another tag, because Pillow writes an orientation into irot and imir."""
    return write(image, "AVIF", exif=b"Exif\0\0" + files.exif_of(1).replace(b"\x12\1\3", b"\x11\1\3"))


def with_gif_xmp(gif, o):
    at = gif.index(b",", 13 + 3 * 2 ** ((gif[10] & 7) + 1))
    packet = files.xmp_of(o)
    return gif[:at] + b"!\xff\x0bXMP DataXMP" + bytes((len(packet),)) + packet + b"\0" + gif[at:]


def exif_chunk(o, **spoil):
    return files.chunk(b"eXIf", files.exif_of(o, ">"), **spoil)


CARRIERS = {
    "JPEG": lambda image, o: write(image, "JPEG", exif=b"Exif\0\0" + files.exif_of(o)),
    "JPEG big-endian": lambda image, o: write(image, "JPEG", exif=b"Exif\0\0" + files.exif_of(o, ">")),
    "JPEG second EXIF": lambda image, o: files.with_segment(
        CARRIERS["JPEG"](image, o % 8 + 1), 0xE1, b"Exif\0\0" + files.exif_of(o)
    ),
    "MPO": lambda image, o: write(
        image, "MPO", exif=b"Exif\0\0" + files.exif_of(o), save_all=True, append_images=[image.copy()]
    ),
    "PNG": lambda image, o: files.with_chunk(write(image, "PNG"), exif_chunk(o)),
    "PNG at the end": lambda image, o: files.with_chunk(write(image, "PNG"), exif_chunk(o), b"IEND"),
    "WEBP": lambda image, o: write(image, "WEBP", exif=files.exif_of(o)),
    "WEBP named": lambda image, o: write(image, "WEBP", exif=b"Exif\0\0" + files.exif_of(o)),
    "TIFF": lambda image, o: write(image, "TIFF", tiffinfo={0x0112: o}),
    "TIFF compressed": lambda image, o: write(image, "TIFF", tiffinfo={0x0112: o}, compression="tiff_lzw"),
    "TIFF and XMP": lambda image, o: write(
        image, "TIFF", tiffinfo={0x0112: o, TIFF_XMP: files.xmp_of(o % 8 + 1)}
    ),
    "JPEG2000": jp2_with_exif,
    "AVIF": lambda image, o: write(image, "AVIF", exif=b"Exif\0\0" + files.exif_of(o)),
}
# EXIF of another tag, which has the number of an orientation.
OTHER_TAG = files.exif_of(6).replace(b"\x12\1\3", b"\x11\1\3")
NO_CARRIERS = {
    "JPEG other tag": lambda image: write(image, "JPEG", exif=b"Exif\0\0" + OTHER_TAG),
    "PNG other tag": lambda image: files.with_chunk(write(image, "PNG"), files.chunk(b"eXIf", OTHER_TAG)),
    "WEBP other tag": lambda image: write(image, "WEBP", exif=OTHER_TAG),
    "JPEG2000 other UUID": lambda image: (
        write(image, "JPEG2000") + files.box(b"uuid", b"JpgTiffExif->JPX" + files.exif_of(6))
    ),
    "JPEG2000 other box": lambda image: (
        write(image, "JPEG2000") + files.box(b"xml ", b"JpgTiffExif->JP2" + files.exif_of(6))
    ),
    "JPEG XMP": lambda image: write(image, "JPEG", xmp=files.xmp_of(6)),
    "PNG text": lambda image: files.with_chunk(
        write(image, "PNG"), files.chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + files.xmp_of(6))
    ),
    "PNG bad checksum": lambda image: files.with_chunk(write(image, "PNG"), exif_chunk(6, spoil=1)),
    "WEBP XMP": lambda image: write(image, "WEBP", xmp=files.xmp_of(6)),
    "TIFF XMP": lambda image: write(image, "TIFF", tiffinfo={TIFF_XMP: files.xmp_of(6)}),
    "AVIF EXIF alone": lambda image: avif_with_tag(image).replace(
        b"\x11\1\3\0\1\0\0\0\1", b"\x12\1\3\0\1\0\0\0\6"
    ),
    "GIF XMP": lambda image: with_gif_xmp(write(image, "GIF"), 6),
    "JPEG 0": lambda image: write(image, "JPEG", exif=b"Exif\0\0" + files.exif_of(0)),
    "JPEG 9": lambda image: write(image, "JPEG", exif=b"Exif\0\0" + files.exif_of(9)),
    "WEBP garbage": lambda image: write(image, "WEBP", exif=b"Exif\0\0garbage and more garbage"),
}


def shows(data: bytes, picture: Image.Image, orientation: int) -> None:
    decoded = decode(data)
    fitted = np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    assert (decoded.width_px, decoded.height_px) == picture.size
    assert decoded.orientation == orientation
    assert np.abs(decoded.pixels.astype(int) - fitted).max() <= 16  # a GIF's palette is the furthest off


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_decode_image__orientation__is_applied_once_and_reported(carrier, orientation):
    stored = WIDE.transpose(STORED[orientation]) if orientation in STORED else WIDE
    shows(CARRIERS[carrier](stored, orientation), WIDE, orientation)


@pytest.mark.parametrize("carrier", NO_CARRIERS)
def test_decode_image__orientation_elsewhere_or_invalid__does_not_count(carrier):
    shows(NO_CARRIERS[carrier](WIDE), WIDE, 1)


def text(size: int) -> bytes:
    return b"x\0\0" + zlib.compress(bytes(size))


IMAGE = Image.fromarray(PICTURE)
PNG, JPEG, GIF = write(IMAGE, "PNG"), write(IMAGE, "JPEG"), write(Image.fromarray(GREY), "GIF")


def tiff_with_long_tag(count: int) -> bytes:
    """Return a TIFF whose description has a number of bytes that the file lacks."""
    data = bytearray(write(IMAGE, "TIFF", tiffinfo={270: "x" * 40}))
    struct.pack_into("<I", data, data.index(struct.pack("<HH", 270, 2)) + 4, count)
    return bytes(data)


# Files that Pillow doesn't decode because of their metadata.
_SIZES = {
    b"pHYs": (0, 1, 3),
    b"sRGB": (0,),
    b"gAMA": (0, 3),
    b"cHRM": (3, 26),
    b"acTL": (0, 3),
    b"fcTL": (0, 3),
}
_SIZES[b"tRNS"] = (0, 1, 3)
DAMAGED = {
    **{
        f"PNG {name} {place.decode()}": files.with_chunk(PNG, extra, place)
        for place in (b"IDAT", b"IEND")
        for name, extra in {
            "large text": files.chunk(b"zTXt", text(3 << 20)),
            "much text": files.chunk(b"zTXt", text(1 << 20)) * 70,
            "large profile": files.chunk(b"iCCP", text(3 << 20)),
            "profile of another kind": files.chunk(b"iCCP", b"x\0\7"),
            **{
                f"{size} bytes of {kind.decode()}": files.chunk(kind, bytes(size))
                for kind, sizes in _SIZES.items()
                for size in sizes
            },
        }.items()
    },
    "PNG bad checksum": files.with_chunk(PNG, files.chunk(b"tEXt", b"k\0v", spoil=1)),
    "PNG cut off behind its pixels": PNG[: PNG.index(b"IEND") - 4] + struct.pack(">I4s", 10**6, b"tEXt"),
    "JPEG short JFIF": files.with_segment(JPEG, 0xE0, b"JFIF"),
    "JPEG short Adobe": files.with_segment(JPEG, 0xEE, b"Adobe"),
    "WEBP overlong": write(IMAGE, "WEBP", exif=b"12345678").replace(b"EXIF\x08", b"EXIF\xff"),
    "AVIF garbage": avif_with_tag(IMAGE).replace(b"II*\0\x08", b"garba"),
    "TIFF overlong": tiff_with_long_tag(2**31),
    "JPEG2000 empty box": files.jp2_with(write(IMAGE, "JPEG2000"), files.box(b"res ", b"")),
}
# Files whose odd metadata Pillow skips.
ODD = {
    **{
        f"PNG {size} bytes of {kind.decode()} {place.decode()}": files.with_chunk(
            PNG, files.chunk(kind, bytes(size)), place
        )
        for place in (b"IDAT", b"IEND")
        for kind in (b"pHYs", b"gAMA", b"tRNS", b"acTL", b"fcTL", b"tIME", b"iTXt", b"eXIf")
        for size in ((0, 3, 26) if kind in (b"tIME", b"iTXt", b"eXIf") else (26,))
    },
    **{
        f"JPEG {marker:x} {payload!r}": files.with_segment(JPEG, marker, payload)
        for marker in (0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xFE)
        for payload in (b"", b"Exif\0\0garbage", b"MPF\0II*\0", b"Photoshop 3.0\0" + b"8BIM")
    },
    "WEBP garbage": write(IMAGE, "WEBP", exif=b"garbage", xmp=b"<", icc_profile=b"?"),
    "TIFF tag beyond the file": tiff_with_long_tag(10**6),
    "GIF control": GIF[:781] + b"!\xf9\1\0\0!\xf9\0" + GIF[781:],  # behind a palette of 256 colours
}


@pytest.mark.parametrize("name", [*DAMAGED, *ODD])
def test_decode_image__damaged_metadata__costs_no_pixels(name):
    shown = GREYS if name.startswith("GIF") else PICTURE
    assert np.abs(decode((DAMAGED | ODD)[name]).pixels.astype(int) - shown).max() <= 8


@pytest.mark.parametrize("name", DAMAGED)
def test_pillow__damaged_metadata__raises(name):
    with pytest.raises((OSError, SyntaxError, ValueError, struct.error)):
        Image.open(io.BytesIO(DAMAGED[name])).load()


def test_decode_image__colour_key_of_the_wrong_length__does_not_count():
    black = Image.new("RGB", (SIZE, SIZE))
    for image in (black, black.convert("L")):
        data = files.with_chunk(write(image, "PNG"), files.chunk(b"tRNS", bytes(26)))
        assert (decode(data).pixels == 0).all()


def several(format: str, frames: int, **options) -> bytes:
    colours = [Image.new("RGB", (SIZE, SIZE), (n * 20, 255 - n * 20, 99)) for n in range(frames)]
    return encoded(colours[0], format, save_all=True, append_images=colours[1:], **options)


FRAMES = {
    **{name: several(name, 3) for name in ("PNG", "GIF", "WEBP", "TIFF", "AVIF")},
    "TIFF big": several("TIFF", 3, big_tiff=True),
    "MPO": several("MPO", 3),
    "WEBP lossless": several("WEBP", 3, lossless=True),
}


@pytest.mark.parametrize("name", FRAMES)
def test_decode_image__several_frames__are_counted_and_the_first_is_shown(name):
    decoded = decode(FRAMES[name])
    assert decoded.frames == 3
    assert np.abs(decoded.pixels.astype(int) - (0, 255, 99)).max() <= 8


@pytest.mark.parametrize("format", ["PNG", "GIF", "WEBP", "TIFF", "AVIF", "JPEG", "BMP", "JPEG2000"])
def test_decode_image__one_frame__is_one(format):
    assert decode(encoded(IMAGE, format)).frames == 1


def test_decode_image__still_image_beside_an_animation__counts_and_is_the_first():
    data = several("PNG", 3, default_image=True)
    assert decode(data).frames == 3
    assert (decode(data).pixels == (0, 255, 99)).all()


def test_decode_image__frames_beyond_count__are_unknown():
    blocks = (b"!\xfe" + b"\1x\0") * MOST_PIECES
    assert decode(GIF[:-1] + blocks + b";").frames is None
    declared = files.chunk(b"acTL", struct.pack(">II", 2**32 - 1, 0))
    assert decode(files.with_chunk(PNG, declared)).frames is None


@pytest.mark.parametrize(
    ("declared", "frames"), [(0, 1), (1, 1), (2, 2), (2**31 - 1, 2**31 - 1), (2**31, None), (2**32 - 1, None)]
)
def test_decode_image__declared_frames_at_the_edges_of_the_column__are_counted(declared, frames):
    still = write(Image.fromarray(PICTURE), "PNG")
    # The control chunk of the first frame lies before the pixels: the still image is that frame.
    control = files.chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, SIZE, SIZE, 0, 0, 1, 1, 0, 0))
    chunks = files.chunk(b"acTL", struct.pack(">II", declared, 0)) + control
    with Image.open(io.BytesIO(still)) as image:
        assert count_frames(files.with_chunk(still, chunks), image) == frames


def test_decode_image__pages_beyond_count__are_unknown(monkeypatch):
    monkeypatch.setattr(frames, "MOST_PIECES", 2)
    assert decode(FRAMES["TIFF"]).frames is None


def test_decode_image__pages_in_a_circle__are_counted_once():
    data = bytearray(FRAMES["TIFF"])
    at = struct.unpack_from("<I", data, 4)[0]
    struct.pack_into("<I", data, at + 2 + 12 * struct.unpack_from("<H", data, at)[0], at)
    assert decode(bytes(data)).frames == 1


def test_decode_image__first_frame_smaller_than_a_png__is_the_whole_still_image():
    frame = files.chunk(b"fcTL", struct.pack(">5I2H2B", 0, 8, 8, 4, 4, 1, 1, 0, 0))
    data = files.with_chunk(PNG, files.chunk(b"acTL", struct.pack(">II", 1, 0)) + frame)
    assert (decode(data).pixels == PICTURE).all()


@pytest.mark.parametrize("offset", [0, 8, 2**31, 2**63 - 1, 2**64 - 1])
@pytest.mark.parametrize("big", [False, True])
def test_tiff_header__offsets_beyond_the_file__are_struct_errors_or_images(offset, big):
    head = struct.pack("<2sHHHQ", b"II", 43, 8, 0, offset)
    block = (head if big else struct.pack("<2sHI", b"II", 42, offset % 2**32)) + b"\xff" * 40
    assert orientation_of_exif(block) == 1
    assert without_metadata(block)
    assert (count_frames(block, Image.open(io.BytesIO(FRAMES["TIFF"]))) or 1) >= 1
    with pytest.raises(ImageError):
        decode(block)


@pytest.mark.parametrize(
    ("width", "height", "refused"), [(4096, 4096, False), (4096, 4112, True), (4112, 4096, True)]
)
def test_decode_image__tile_at_the_limit__is_allowed(width, height, refused):
    data = patched(files.tiff(PICTURE, photometric="rgb", tile=(16, 16)), {322: width, 323: height})
    with pytest.raises(ImageError) as e:  # its pixels are cut off in any case
        decode(data)
    assert ("tiles of" in str(e.value)) == refused


def test_decode_image__tile_far_larger_than_its_image__is_refused_before_it_is_allocated():
    data = files.tiff(PICTURE, photometric="rgb", tile=(16, 16))
    with pytest.raises(ImageError, match="tiles of 16 x 16777216 pixels in an image of 32 x 32"):
        decode(patched(data, {323: 2**24}))


HEADS = [*FRAMES.values(), *(write(IMAGE, name) for name in ("JPEG", "BMP", "JPEG2000", "TIFF"))]
HEADS += [files.PNG_SIGNATURE + files.chunk(b"tRNS"), b"RIFF\0\0\0\0WEBPVP8X\0\0\0\0"]


@pytest.mark.parametrize("data", HEADS, ids=range(len(HEADS)))
def test_decode_image__any_cut_head_or_byte__fails_as_an_image_or_is_decoded(data):
    chance = random.Random(len(data))
    cut = [data[:size] for size in range(1, min(len(data), 60))]
    spoilt = [
        data[:at] + bytes((chance.choice((0, 1, 255)),)) + data[at + 1 :] for at in range(min(len(data), 100))
    ]
    for one in (*cut, *spoilt, data[:40] + b"\0" * 8):
        try:
            assert decode(one).frames != 0
        except ImageError as e:
            assert str(e)
