"""Decoding: from encoded bytes to pixels of the model's input size."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass

import apache_beam as beam
from apache_beam.metrics import Metrics

from labelbeam.transforms.attempts import Timed, attempt
from labelbeam.transforms.elements import DecodedImage, EncodedImage, Failure
from labelbeam.transforms.images.resize import ResizeRule
from labelbeam.transforms.loaders.image import decode
from labelbeam.transforms.outcomes import Outcomes, par_do
from labelbeam.transforms.window import PixelsFn

# Most bytes in flight in one bundle: some hundred photos, more than all threads decode at once.
_MAX_WINDOW_BYTES = 256 << 20


@dataclass
class DecodeImages(beam.PTransform):
    """The step that decodes images to `[size, size, 3] uint8`, on a few threads.

    Input: `EncodedImage`. Output: `DecodedImage`. Failures: `decode`.
    Metrics: `decode_usec`.

    Attributes:
      rule: Crop and size of the result.
      max_pixels: Largest image in pixels; larger images fail before they are decoded.
      threads: Threads that compute in a process, for this and other steps; by default one per core.
    """

    rule: ResizeRule
    max_pixels: int
    threads: int | None = None

    def expand(self, images: beam.PCollection[EncodedImage]) -> Outcomes:
        return Outcomes(**par_do("Decode", images, _DecodeImagesFn(self), DecodedImage))


class _DecodeImagesFn(PixelsFn[EncodedImage, DecodedImage]):
    def __init__(self, step: DecodeImages) -> None:
        super().__init__(step.threads, _MAX_WINDOW_BYTES)
        self._rule = step.rule
        self._max_pixels = step.max_pixels
        self._pixel_bytes = 3 * step.rule.size_px**2
        self._decode_usec = Metrics.distribution(DecodeImages, "decode_usec")

    def submit(self, image: EncodedImage) -> tuple[Future[Timed[DecodedImage | Failure]], int]:
        # Both sizes, because a task holds the encoded bytes until it has run, and then the pixels.
        task = functools.partial(decode, image, self._rule, self._max_pixels)
        future = self._pool.submit(attempt, "decode", image.ref, task)
        return future, len(image.data) + self._pixel_bytes

    def take(self, timed: Timed[DecodedImage | Failure]) -> Iterable[DecodedImage | Failure]:
        self._decode_usec.update(timed.usec)
        return (timed.value,)
