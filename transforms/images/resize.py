"""Resize rules: the part of an image that a model sees, and its size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image

Box = tuple[float, float, float, float]

# Part of the fingerprint of rows. Raise the number when a rule gives other pixels than before, because rows
# of both would otherwise be mixed in one table.
_ALGORITHM = "pillow-bicubic-antialiased-draft{oversampling}x-1"
# Least size at which a JPEG is decoded, in multiples of the target's size. Twice, because it gives 54.5 dB
# against a full decode, in 0.24 of the time (1600 x 1200 to 224 px, docs/performance.md). Once is faster and
# less exact.
OVERSAMPLING = {"good": 2, "fast": 1}


@dataclass(frozen=True, slots=True)
class ResizeRule:
    """A way of resizing an image to the model's input size.

    Attributes:
      size_px: Width and height of the result.
      mode: `center_crop` takes the central square, `stretch` the whole image.
      crop_padding_px: The central square is `size / (size + padding)` of the shorter
        side; 32 in EfficientNet's own evaluation (its `preprocessing.py`).
      decoding: `good`, or `fast` for JPEGs that are decoded near the target's size.
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
        """Return the rule as plain data; rules that give different pixels have different data."""
        padding = {"crop_padding_px": self.crop_padding_px} if self.mode == "center_crop" else {}
        algorithm = _ALGORITHM.format(oversampling=self.oversampling)
        return {"size_px": self.size_px, "mode": self.mode, **padding, "algorithm": algorithm}

    def box(self, width_px: int, height_px: int) -> Box:
        """Return the part of an image that the model sees: left, top, right, bottom, px."""
        if self.mode == "stretch":
            return 0, 0, width_px, height_px
        # Rounded as in EfficientNet's preprocessing, because a model's accuracy was measured with that crop.
        share = self.size_px / (self.size_px + self.crop_padding_px)
        side = max(1, int(share * min(width_px, height_px)))
        left, top = (width_px - side + 1) // 2, (height_px - side + 1) // 2
        return left, top, left + side, top + side


def resize_image(image: Image.Image, box: Box, size_px: int) -> Image.Image:
    """Resize a part of an image to `size_px` squared, bicubic and antialiased."""
    return image.resize((size_px, size_px), Image.Resampling.BICUBIC, box=box)
