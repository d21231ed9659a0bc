"""Resize rules: the part of an image that a model sees, and its size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image

Box = tuple[float, float, float, float]

# Part of the fingerprint: raise its number when the same rule gives other pixels.
_ALGORITHM = "pillow-bicubic-antialiased-draft{oversampling}x-1"
# JPEGs are decoded at no less than this many times the target's size. Against a full decode, 1600 x 1200 to
# 224 px (docs/performance.md): twice is 54.5 dB at 0.24 of the time, once is faster and further off.
OVERSAMPLING = {"good": 2, "fast": 1}


@dataclass(frozen=True, slots=True)
class ResizeRule:
    """A way of bringing an image to the model's input size.

    Attributes:
      size_px: Width and height of the result.
      mode: `center_crop` takes the central square, `stretch` the whole image.
      crop_padding_px: The central square is `size / (size + padding)` of the shorter
        side; 32 in EfficientNet's own evaluation (its `preprocessing.py`).
      decoding: `good`, or `fast`, where JPEGs may be decoded at the target's own size.
    """

    size_px: int
    mode: Literal["center_crop", "stretch"] = "center_crop"
    crop_padding_px: int = 32
    decoding: Literal["good", "fast"] = "good"

    @property
    def oversampling(self) -> int:
        """Least size at which a JPEG is decoded, in multiples of the target's size."""
        return OVERSAMPLING[self.decoding]

    def describe(self) -> dict[str, Any]:
        """Return the rule as plain data, which differs wherever the pixels would."""
        padding = {"crop_padding_px": self.crop_padding_px} if self.mode == "center_crop" else {}
        algorithm = _ALGORITHM.format(oversampling=self.oversampling)
        return {"size_px": self.size_px, "mode": self.mode, **padding, "algorithm": algorithm}

    def box(self, width_px: int, height_px: int) -> Box:
        """Return the part of an image that the model sees: left, top, right, bottom, px."""
        if self.mode == "stretch":
            return 0, 0, width_px, height_px
        share = self.size_px / (self.size_px + self.crop_padding_px)
        side = max(1, int(share * min(width_px, height_px)))
        left, top = (width_px - side + 1) // 2, (height_px - side + 1) // 2
        return left, top, left + side, top + side


def resize_image(image: Image.Image, box: Box, size_px: int) -> Image.Image:
    """Resize a part of an image to `size_px` squared, bicubic and antialiased."""
    return image.resize((size_px, size_px), Image.Resampling.BICUBIC, box=box)


def to_pixels(image: Image.Image) -> np.ndarray:
    """Return the pixels of an RGB image, `[H, W, 3] uint8`."""
    return np.asarray(image)
