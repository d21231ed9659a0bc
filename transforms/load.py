"""Loading: from a reference to pixels of the model's input size, in processes beside the model."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import NamedTuple

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.utils.shared import Shared

from labelbeam.transforms.elements import (
    AnyImage,
    BoxedImage,
    DecodedImage,
    Failure,
    InlineImage,
    PackedImage,
    Unchanged,
    parts_of,
)
from labelbeam.transforms.images.memory import tune_malloc
from labelbeam.transforms.images.resize import ResizeRule
from labelbeam.transforms.loaders.crew import Loaders
from labelbeam.transforms.loaders.image import Loaded, Loading, Outcome
from labelbeam.transforms.loaders.loaders import start_loaders
from labelbeam.transforms.outcomes import par_do
from labelbeam.transforms.sources import Limits
from labelbeam.transforms.window import OverlappedFn, Window

# Most bytes in flight in one bundle, of pixels and of images inside files: 1,700 images of 224 px, 240 of
# 600 px.
_MAX_WINDOW_BYTES = 256 << 20


class LoadOutcomes(NamedTuple):
    """The outputs of `LoadImages`."""

    ok: beam.PCollection
    failures: beam.PCollection
    unchanged: beam.PCollection


@dataclass
class LoadImages(beam.PTransform):
    """The step that loads images to `[size, size, 3] uint8`, with many requests at once.

    Input: `ImageRef`, `InlineImage` or `BoxedImage`. Output, one for an image or for each of its boxes:
    `DecodedImage`, `PackedImage` if they are to be packed, or `Unchanged` for an image that keeps its labels.
    Failures: `fetch`, `decode`.
    Metrics: `fetch_usec`, `decode_usec`, `image_bytes`.
    Guarantees: an image that crashes its decoder, or holds it too long, costs itself only.

    Attributes:
      limits: Limits of one image, whose time limit holds for fetching and decoding together;
        `limits.connections` images of a worker process are loaded at once.
      rule: Crop and size of the result.
      max_pixels: Largest image in pixels; larger images fail before they are decoded.
      loaders: Loader processes of a worker process, as in `start_loaders`.
      threads: Cores that a worker process uses; by default all.
      packed: Whether pixels are packed for a shuffle.
      has_boxes: Whether images have boxes.
    """

    limits: Limits
    rule: ResizeRule
    max_pixels: int
    loaders: int | None = None
    threads: int | None = None
    packed: bool = False
    has_boxes: bool = False

    def expand(self, images: beam.PCollection[AnyImage]) -> LoadOutcomes:
        if self.has_boxes:
            most = _most_boxes(self.rule)
            images = images | "Part" >> beam.FlatMap(part_boxes, most).with_output_types(BoxedImage)
        ok = PackedImage if self.packed else DecodedImage
        return LoadOutcomes(**par_do("Load", images, _LoadImagesFn(self), ok, Failure, Unchanged))


def _most_boxes(rule: ResizeRule) -> int:
    return max(1, _MAX_WINDOW_BYTES // (3 * rule.size_px**2))


def part_boxes(image: BoxedImage, most: int) -> Iterator[BoxedImage]:
    """Part an image with very many boxes, because the pixels of all its boxes are in memory at once."""
    for start in range(0, len(image.boxes), most):
        yield BoxedImage(image.image, image.boxes[start : start + most])


class _LoadImagesFn(OverlappedFn[AnyImage, Loaded]):
    def __init__(self, step: LoadImages) -> None:
        self._window_items = 4 * step.limits.connections
        self._pixel_bytes = 3 * step.rule.size_px**2
        loading = Loading(
            step.limits,
            step.rule,
            step.max_pixels,
            step.packed,
            _most_boxes(step.rule) if step.has_boxes else 1,
        )
        self._start = functools.partial(start_loaders, loading, step.loaders, step.threads)
        # `Shared`, because the loaders then end with the last DoFn of the process.
        self._shared = Shared()
        self._fetch_usec = Metrics.distribution(LoadImages, "fetch_usec")
        self._decode_usec = Metrics.distribution(LoadImages, "decode_usec")
        self._image_bytes = Metrics.distribution(LoadImages, "image_bytes")

    def setup(self) -> None:
        # Here, too, because this process receives the pixels and makes batches of them.
        tune_malloc()

    def open_window(self) -> Window[Loaded]:
        self._loaders: Loaders = self._shared.acquire(self._start)
        # Four times the images that are loaded at once, because a slow image would otherwise leave loaders
        # idle: images behind it wait in the window, too.
        window = Window[Loaded](self._window_items, _MAX_WINDOW_BYTES)
        self._loaders.watch(window)
        return window

    def submit(self, image: AnyImage) -> tuple[Future[Loaded], int]:
        source, boxes = parts_of(image)
        inline_bytes = len(source.data) if isinstance(source, InlineImage) else 0
        return self._loaders.submit(image), max(1, len(boxes)) * self._pixel_bytes + inline_bytes

    def is_hungry(self) -> bool:
        return self._loaders.is_hungry()

    def take(self, loaded: Loaded) -> Iterable[Outcome]:
        self._loaders.taken()
        self._fetch_usec.update(loaded.fetch_usec)
        if loaded.size_bytes:
            self._image_bytes.update(loaded.size_bytes)
            self._decode_usec.update(loaded.decode_usec)
        return loaded.values
