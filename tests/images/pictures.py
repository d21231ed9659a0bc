"""The pictures that test files show, and functions that write and decode them."""

import numpy as np
from PIL import Image

from labelbeam.transforms.images.decode import Decoded, decode_image
from labelbeam.transforms.images.resize import ResizeRule
from tests.synthetic import encoded, gradient

SIZE = 32
RULE = ResizeRule(SIZE, "stretch")  # an image of this size keeps every pixel
PICTURE = np.asarray(gradient(SIZE, SIZE))
GREY = PICTURE[..., 0]
GREYS = np.dstack([GREY] * 3)
SQUARE = np.zeros((SIZE, SIZE), bool)
SQUARE[8:24, 8:24] = True
CUT_OUT = np.where(SQUARE[..., None], PICTURE, 255)
ALPHA = np.where(SQUARE, 255, 0).astype(np.uint8)
INKS = np.dstack([255 - PICTURE, np.full_like(GREY, 40)])
INKED = PICTURE.astype(int) * (255 - 40) // 255
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
    """Return indices, a palette and the picture of both."""
    indices = np.add.outer(np.arange(SIZE), np.arange(SIZE) // 3) % colours
    palette = np.random.default_rng(colours).integers(0, 256, (colours, 3), np.uint8)
    return indices.astype(np.uint8), palette, palette[indices]


def ramp(bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Return values of a number of bits, and the grey picture of them."""
    values = (GREY.astype(int) >> 8 - min(bits, 8)).astype(np.uint16)
    return values, np.dstack([(values.astype(int) * 255 // ((1 << min(bits, 8)) - 1)).astype(np.uint8)] * 3)
