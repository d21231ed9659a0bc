"""Formats by properties: every file shows the plain picture, or is refused as unsupported."""

import random

import numpy as np
import pytest

from labelbeam.transforms.errors import ImageError, Reason
from tests.images.bmp_cases import bmp_cases
from tests.images.other_cases import alpha_cases, jpeg2000_cases, jpeg_cases, other_cases
from tests.images.pictures import UNSUPPORTED, decode
from tests.images.png_cases import png_cases
from tests.images.tiff_cases import tiff_cases
from tests.images.tiff_table import table_cases

GROUPS = {
    "PNG": png_cases,
    "alpha": alpha_cases,
    "BMP": bmp_cases,
    "TIFF": tiff_cases,
    "TIFF table": table_cases,
    "JPEG": jpeg_cases,
    "JPEG2000": jpeg2000_cases,
    "other": other_cases,
}


@pytest.mark.parametrize("group", GROUPS)
def test_decode_image__every_property__shows_the_plain_picture_or_is_refused(group):
    faults = {name: fault_of(name, data, shown, group) for name, data, shown in GROUPS[group]()}
    assert not {name: fault for name, fault in faults.items() if fault}


def fault_of(name: str, data: bytes, shown: np.ndarray | None, group: str) -> str:
    """Return the fault of a decoded file; an empty text if there is none."""
    try:
        pixels = decode(data).pixels
    except ImageError as e:
        return "" if shown is UNSUPPORTED and e.reason is Reason.UNSUPPORTED else f"{e.reason}: {e}"
    if shown is UNSUPPORTED:
        return "not refused"
    off = np.abs(pixels.astype(int) - shown)
    lossy = group == "JPEG" or name.startswith(("AVIF", "JPEG", "WEBP lossy", "jpeg", "sycc", "ycbcr"))
    return "" if off.max() <= (8 if lossy else 1) else f"off by {off.max()}"


@pytest.mark.parametrize("group", GROUPS)
def test_decode_image__mutations_of_every_kind__are_decoded_or_fail_as_images(group, capfd, caplog):
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
    assert (capfd.readouterr().err, caplog.text) == ("", "")
