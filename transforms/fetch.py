"""Fetching: from a reference to the encoded bytes."""

from __future__ import annotations

import functools
import hashlib
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import apache_beam as beam
from apache_beam.metrics import Metrics

from transforms.elements import EncodedImage, Failure, ImageRef
from transforms.overlap import Outputs, OverlappedFn, Timed, Window, attempt, once_per_process, par_do
from transforms.stores import Limits, Stores

# A guess at an image's length until some have been seen.
_FIRST_GUESS_BYTES = 1 << 20


def fetch_image(ref: ImageRef, stores: Stores) -> EncodedImage:
    """Fetches the bytes of one image.

    Raises:
      ImageError: The store refuses, fails, is too slow, or the image is too large.
    """
    data, version = stores.fetch(ref.uri)
    return EncodedImage(ref, data, hashlib.sha256(data).hexdigest(), version)


@dataclass
class FetchImages(beam.PTransform):
    """Fetches each image with many requests at once.

    Input: `ImageRef`. Output: `EncodedImage`. Failures: `fetch`.
    Metrics: `images_in`, `fetch_msec`, `image_bytes`.

    Attributes:
      limits: Time limits and byte cap of one request; `limits.connections` requests run at once.
      max_window_bytes: Most bytes in flight in one bundle, by the mean length seen so far.
    """

    limits: Limits
    max_window_bytes: int = 256 << 20

    def expand(self, refs: beam.PCollection[ImageRef]) -> Outputs:
        """Applies the step."""
        return par_do("Fetch", refs, _FetchImagesFn(self), EncodedImage)


@once_per_process
def _stores(limits: Limits) -> Stores:
    return Stores(limits)


@once_per_process
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "fetch")


class _FetchImagesFn(OverlappedFn[ImageRef, EncodedImage]):
    def __init__(self, step: FetchImages) -> None:
        self._limits = step.limits
        self._max_window_bytes = step.max_window_bytes
        self._mean_bytes = _FIRST_GUESS_BYTES
        self._images_in = Metrics.counter(FetchImages, "images_in")
        self._fetch_msec = Metrics.distribution(FetchImages, "fetch_msec")
        self._image_bytes = Metrics.distribution(FetchImages, "image_bytes")

    def setup(self) -> None:
        self._stores = _stores(self._limits)
        self._pool = _pool(self._limits.connections)

    def open_window(self) -> Window[Timed[EncodedImage | Failure]]:
        return Window(4 * self._limits.connections, self._max_window_bytes)

    def submit(self, ref: ImageRef) -> tuple[Future[Timed[EncodedImage | Failure]], int]:
        self._images_in.inc()
        task = functools.partial(fetch_image, ref, self._stores)
        return self._pool.submit(attempt, "fetch", ref, task), self._mean_bytes

    def observe(self, timed: Timed[EncodedImage | Failure]) -> None:
        self._fetch_msec.update(timed.msec)
        if isinstance(timed.value, EncodedImage):
            size_bytes = len(timed.value.data)
            self._image_bytes.update(size_bytes)
            self._mean_bytes += (size_bytes - self._mean_bytes) // 8
