import numpy as np
import pytest

from labelbeam.transforms.images.packing import pack_pixels, unpack_pixels
from tests.synthetic import gradient

NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)


@pytest.mark.parametrize(
    "pixels",
    [
        NOISE,
        NOISE[:1, :1],
        NOISE[:7, ::2],
        np.zeros((16, 16, 3), np.uint8),
        np.full((16, 16, 3), 255, np.uint8),
        np.asarray(gradient(224, 224)),
        (NOISE > 127).astype(np.uint8) * 255,
    ],
    ids=["noise", "one pixel", "not contiguous", "black", "white", "gradient", "few colours"],
)
def test_unpack_pixels__packed__come_back_exactly(pixels):
    again = unpack_pixels(pack_pixels(pixels))
    assert (again.dtype, again.shape) == (np.uint8, pixels.shape)
    assert np.array_equal(again, pixels)


def test_pack_pixels__smooth_picture__is_a_fraction():
    pixels = np.asarray(gradient(224, 224))
    assert len(pack_pixels(pixels)) < pixels.nbytes / 10
