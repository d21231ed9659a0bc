"""Regions: the part of an image that a box names, as the fragment of a URI and in pixels.

The fragments are those of W3C's Media Fragments URI 1.0, section 4.2.2: `#xywh=pixel:160,120,320,240`, or
`#xywh=percent:25,25,50,50`, with fractions of pixels and percents.
"""

from __future__ import annotations

import math
import re
from typing import Final, Literal, NamedTuple

from labelbeam.transforms.errors import ImageError, Reason

Unit = Literal["pixel", "percent"]

# Beginning of the fragment that names a region.
MARK: Final = "#xywh="
_NUMBER = r"(-?[0-9]{1,12}(?:\.[0-9]{1,6})?)"
_FRAGMENT = re.compile(rf"{MARK}(pixel|percent):{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}")
# Decimals of a fragment. Four, because they are a hundredth of a pixel even in percents of 10,000 pixels.
_DECIMALS = 4
# Least share of a region that lies in its image. A box may leave its image by some pixels, because people and
# detectors draw beyond the edge; one that lies mostly outside has another unit, or is of another image.
_LEAST_INSIDE = 0.5


class Region(NamedTuple):
    """A part of an image as displayed, in pixels or in percents of its width and height."""

    unit: Unit
    left: float
    top: float
    width: float
    height: float

    @property
    def fragment(self) -> str:
        """The fragment of a URI that names the region."""
        return f"{MARK}{self.unit}:{','.join(map(_text_of, self[1:]))}"

    def pixels(self, width_px: int, height_px: int) -> tuple[int, int, int, int]:
        """Return left, top, right and bottom in an image of a size, in whole pixels, one pixel at least.

        Raises:
          ImageError: Less than half of the region lies in the image.
        """
        scales = (width_px / 100, height_px / 100) if self.unit == "percent" else (1.0, 1.0)
        left, right = _whole(self.left * scales[0], self.width * scales[0])
        top, bottom = _whole(self.top * scales[1], self.height * scales[1])
        cut = max(left, 0), max(top, 0), min(right, width_px), min(bottom, height_px)
        inside = max(cut[2] - cut[0], 0) * max(cut[3] - cut[1], 0)
        if inside < _LEAST_INSIDE * (right - left) * (bottom - top):
            raise ImageError(
                Reason.OUTSIDE_IMAGE,
                f"the box {left},{top},{right},{bottom} (left, top, right, bottom) lies outside of the image "
                f"of {width_px} x {height_px} pixels, or most of it does; check the box and --box_unit",
            )
        return cut


def _whole(start: float, length: float) -> tuple[int, int]:
    # Without the errors of floating point, because an edge in the middle of a pixel would else be rounded
    # either way.
    start, end = round(start, 6), round(start + length, 6)
    # Before the end, because a box of less than a pixel at the right edge would else be outside.
    first = min(math.floor(start + 0.5), math.ceil(end) - 1)
    return first, max(first + 1, math.floor(end + 0.5))


def _text_of(value: float) -> str:
    return f"{value:.{_DECIMALS}f}".rstrip("0").rstrip(".")


def make_region(unit: Unit, left: float, top: float, right: float, bottom: float) -> Region:
    """Return the region between edges, rounded as its fragment is."""
    # Rounded here, because a row's URI must name exactly the pixels that were labelled. Zero is added,
    # because it makes -0.0 positive.
    edges = [round(edge, _DECIMALS) + 0.0 for edge in (left, top, right, bottom)]
    sides = [round(high - low, _DECIMALS) for low, high in zip(edges[:2], edges[2:], strict=True)]
    return Region(unit, *edges[:2], *sides)


def region_of(uri: str) -> Region | None:
    """Return the region that a URI names; None if it names none."""
    found = _FRAGMENT.fullmatch(uri, max(uri.rfind(MARK), 0))
    if not found:
        return None
    unit: Unit = "percent" if found[1] == "percent" else "pixel"
    left, top, width, height = map(float, found.groups()[1:])
    return Region(unit, left, top, width, height)
