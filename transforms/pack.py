"""Handing over: packed images cross a shuffle, from workers that load to workers that infer."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

import apache_beam as beam

from labelbeam.transforms.attempts import Timed, attempt
from labelbeam.transforms.buckets import hash_of
from labelbeam.transforms.elements import DecodedImage, Failure, PackedImage
from labelbeam.transforms.images.packing import unpack_pixels
from labelbeam.transforms.window import PixelsFn


def unpack_image(packed: PackedImage) -> DecodedImage:
    """Restore a packed image."""
    return DecodedImage(packed.ref, unpack_pixels(packed.data), packed.metadata)


@dataclass
class HandOverImages(beam.PTransform):
    """The step that hands packed images over to other workers, and unpacks them there.

    Input: `PackedImage`. Output: `DecodedImage`.
    Guarantees: images cross exactly one shuffle.

    Attributes:
      size_px: Width and height of the images.
      threads: Threads that compute in a process, for this and other steps; by default one per core.
      hints: Beam's resource hints of the steps behind the shuffle.
      max_window_bytes: Most bytes in flight in one bundle.
    """

    size_px: int
    threads: int | None = None
    hints: Mapping[str, str] = field(default_factory=dict)
    max_window_bytes: int = 256 << 20

    def expand(self, images: beam.PCollection[PackedImage]) -> beam.PCollection[DecodedImage]:
        # A GroupByKey with hints on its consumers, not `beam.Reshuffle`, because Beam fuses only steps whose
        # hints are equal, and a Reshuffle has steps on both sides of its shuffle: with hints its first step
        # would be cut off from loading, without hints its last one from "Unpack", and images would be written
        # to disk once more.
        take = beam.FlatMap(_images_of).with_output_types(PackedImage)
        unpack = beam.ParDo(_UnpackImagesFn(self)).with_output_types(DecodedImage)
        return (
            images
            | "Deal" >> beam.Map(_keyed).with_output_types(tuple[int, PackedImage])
            | "GroupByKey" >> beam.GroupByKey()
            | "Take" >> take.with_resource_hints(**self.hints)
            | "Unpack" >> unpack.with_resource_hints(**self.hints)
        )


def _keyed(packed: PackedImage) -> tuple[int, PackedImage]:
    # Not a random key, because a bundle that runs twice must send an image to the same place.
    return hash_of(packed.ref.id), packed


def _images_of(group: tuple[int, Iterable[PackedImage]]) -> Iterable[PackedImage]:
    return group[1]


class _UnpackImagesFn(PixelsFn[PackedImage, DecodedImage]):
    def __init__(self, step: HandOverImages) -> None:
        super().__init__(step.threads, step.max_window_bytes)
        self._pixel_bytes = 3 * step.size_px**2

    def submit(self, packed: PackedImage) -> tuple[Future[Timed[DecodedImage | Failure]], int]:
        task = functools.partial(unpack_image, packed)
        return self._pool.submit(attempt, "predict", packed.ref, task), len(packed.data) + self._pixel_bytes
