"""One TIFF for each row of Pillow's table of TIFFs, and for each layout of its samples."""

import itertools

import numpy as np
from PIL import TiffImagePlugin

from tests import image_files as files
from tests.images.pictures import ALPHA, GREY, INKED, INKS, PICTURE, SQUARE, UNSUPPORTED, indexed

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR, _LAB = 0, 1, 2, 3, 5, 6, 8
_NO_MEANING, _ASSOCIATED, _UNASSOCIATED = 0, 1, 2
_ORDERS = {b"II": "<", b"MM": ">"}


def table_cases():
    for row in TiffImagePlugin.OPEN_INFO:
        order, photometric, formats, fill_order, depths, extra = row
        if photometric == _YCBCR:  # has tags of its own
            continue
        bits = depths[0]
        samples, shown, tags = _colours(photometric, bits)
        samples, shown = _with_extra(samples, shown, _kinds(extra, len(depths) - samples.shape[-1]), bits)
        tags |= {338: list(extra)} if extra else {}
        tags |= {339: list(formats) * len(depths)} if formats != (1,) else {}
        options = {"reverse_bits": fill_order == 2, "tags": tags}
        for planar, deflate in itertools.product((False, True)[: len(depths)], (False, True)):
            refused = formats != (1,) or bits > 16 or photometric == _LAB or (planar and _misplaced(row))
            data = files.tiff_of(
                samples, bits, photometric, _ORDERS[order], planar=planar, deflate=deflate, **options
            )
            yield f"{row} planar {planar} deflate {deflate}", data, UNSUPPORTED if refused else shown


def _misplaced(row) -> bool:
    """Return whether Pillow would put the planes in the wrong places."""
    _, photometric, _, _, _, extra = row
    alpha = extra[:1] not in ((), (_NO_MEANING,))
    return alpha and (len(extra) > 1 or photometric in (_BLACK_IS_ZERO, _PALETTE))


def _kinds(extra, missing: int) -> tuple[int, ...]:
    return extra or (_UNASSOCIATED,) * missing


def _colours(photometric: int, bits: int):
    """Return stored colours, the picture that they show, and the tags that they need."""
    if photometric == _PALETTE:
        indices, palette, picture = indexed(1 << min(bits, 4))
        colours = np.zeros((1 << bits, 3), np.uint16)
        colours[: len(palette)] = palette
        return indices[..., None].astype(int), picture, {320: list((colours.T * 257).ravel())}
    values = {_RGB: PICTURE, _LAB: PICTURE, _CMYK: INKS}.get(photometric, GREY[..., None])
    most = (1 << bits) - 1
    samples = values.astype(int) >> 8 - bits if bits < 8 else values.astype(int) * most // 255
    grey = (samples[..., 0] * 255 // most).astype(np.uint8)
    shown = {_RGB: PICTURE, _LAB: PICTURE, _CMYK: INKED}.get(photometric, np.dstack([grey] * 3))
    return most - samples if photometric == _WHITE_IS_ZERO else samples, shown, {}


def _with_extra(samples: np.ndarray, shown: np.ndarray, kinds: tuple[int, ...], bits: int):
    most = (1 << bits) - 1
    for kind in kinds:
        if kind == _NO_MEANING:
            samples = np.dstack([samples, most - samples[..., 0]])
            continue
        shown = np.where(SQUARE[..., None], shown, 255)
        if kind == _ASSOCIATED:
            samples = np.where(SQUARE[..., None], samples, 0)
        samples = np.dstack([samples, ALPHA.astype(int) * most // 255])
    return samples, shown
