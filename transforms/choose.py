"""Choosing: a share of the images, or a number of them, by a hash of their ids.

Each id has a draw, a number that looks random. A sample holds the ids whose draws are below a bound, so that
it is the same in each run, whatever the order, format and machine, and a smaller sample lies within a larger
one. A limit of N images is the sample whose bound N ids are below.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import apache_beam as beam
import numpy as np

from labelbeam.transforms.elements import image_id_of

# Below 64, because Beam's coder of whole numbers has a sign. Of a million chosen ids, two have one draw in
# one list of ten million; a limit then chooses one image too many.
_DRAW_BITS = 62
# Above all draws.
ALL: Final = 1 << _DRAW_BITS
_PERSON = b"labelbeam choose"
# Draws that are gathered before the smallest are looked for.
_GATHERED = 1 << 16


def draw_of(image_id: str) -> int:
    """Return the draw of an id, from 0 to 2**62 - 1."""
    # Not the CRC-32 of `hash_of`, because buckets and partition folders are its remainders: a sample by the
    # same number could fill some of them and leave others empty.
    data = image_id.encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(data, digest_size=8, person=_PERSON).digest()
    return int.from_bytes(digest, "big") >> 64 - _DRAW_BITS


def bound_of(share: float) -> int:
    """Return the bound below which the draws of a share of all ids are."""
    return int(share * ALL)


@dataclass(frozen=True, slots=True)
class Choice:
    """The images of an input to label.

    Attributes:
      share: Share of the images.
      limit: Largest number of images, chosen from this share; None for all.
      by_image: Whether rows are boxes, which are chosen with all boxes of their image.
    """

    share: float = 1.0
    limit: int | None = None
    by_image: bool = False

    @property
    def is_all(self) -> bool:
        """Whether all images are chosen."""
        return self.share >= 1 and self.limit is None

    def image_id_of(self, row_id: str) -> str:
        """Return the id by which a row is chosen."""
        return image_id_of(row_id) if self.by_image else row_id

    def draw_of(self, row_id: str) -> int:
        """Return the draw of a row."""
        return draw_of(self.image_id_of(row_id))


class SmallestDraws:
    """The smallest different draws of ids, as many as a limit needs; memory is bounded by the limit."""

    def __init__(self, choice: Choice) -> None:
        self._most = choice.limit or 0
        self._bound = bound_of(choice.share)
        self._draw_of = choice.draw_of
        self._smallest = np.empty(0, np.int64)
        self._gathered: list[int] = []

    def add(self, image_id: str) -> None:
        """Take the draw of an id."""
        draw = self._draw_of(image_id)
        if draw < self._bound:
            self._gathered.append(draw)
            if len(self._gathered) >= max(_GATHERED, self._most):
                self.settle()

    def update(self, other: SmallestDraws) -> None:
        """Take the draws of another object."""
        self._smallest = np.concatenate([self._smallest, other.settle()._smallest])
        self.settle()

    def settle(self) -> SmallestDraws:
        """Leave out all draws but the smallest, and return this object."""
        # Different ones, because rows of one id are one image.
        self._smallest = np.unique(np.append(self._smallest, np.array(self._gathered, np.int64)))[
            : self._most
        ]
        self._gathered = []
        # Later draws that are larger need not be kept.
        if self._most and len(self._smallest) == self._most:
            self._bound = int(self._smallest[-1]) + 1
        return self

    @property
    def bound(self) -> int:
        """Bound below which the draws of the chosen ids are."""
        self.settle()
        return self._bound


def find_bound(image_ids: Iterable[str], choice: Choice) -> int:
    """Return the bound below which the draws of chosen ids are; without a limit, no id is looked at."""
    if choice.limit is None:
        return bound_of(choice.share)
    draws = SmallestDraws(choice)
    for image_id in image_ids:
        draws.add(image_id)
    return draws.bound


@dataclass
class FindBound(beam.PTransform):
    """The step that finds the bound of a limit. Input: ids. Output: the bound, as of `find_bound`.

    Attributes:
      choice: Images to label.
    """

    choice: Choice

    def expand(self, ids: beam.PCollection[str]) -> beam.PCollection[int]:
        return ids | "Smallest" >> beam.CombineGlobally(_SmallestFn(self.choice))


class _SmallestFn(beam.CombineFn):
    def __init__(self, choice: Choice) -> None:
        self._choice = choice

    def create_accumulator(self) -> SmallestDraws:
        return SmallestDraws(self._choice)

    def add_input(self, draws: SmallestDraws, image_id: str) -> SmallestDraws:
        draws.add(image_id)
        return draws

    def merge_accumulators(self, many: Iterable[SmallestDraws]) -> SmallestDraws:
        merged = SmallestDraws(self._choice)
        for draws in many:
            merged.update(draws)
        return merged

    def compact(self, draws: SmallestDraws) -> SmallestDraws:
        return draws.settle()

    def extract_output(self, draws: SmallestDraws) -> int:
        return draws.bound
