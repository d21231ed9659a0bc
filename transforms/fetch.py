"""Fetching: from a reference to the encoded bytes."""

from __future__ import annotations

import functools
import hashlib
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import apache_beam as beam
from apache_beam.metrics import Metrics

from labelbeam.transforms.elements import DIGEST, EncodedImage, Failure, ImageRef, Unchanged
from labelbeam.transforms.errors import ImageError
from labelbeam.transforms.outcomes import Timed, attempt, par_do
from labelbeam.transforms.process import once_per_process
from labelbeam.transforms.sources import Limits, Stores
from labelbeam.transforms.window import OverlappedFn, Window

# A guess at an image's length until some have been seen.
_FIRST_GUESS_BYTES = 1 << 20


class FetchOutcomes(NamedTuple):
    """The outputs of `FetchImages`."""

    ok: beam.PCollection
    failures: beam.PCollection
    unchanged: beam.PCollection


def fetch_image(ref: ImageRef, stores: Stores) -> EncodedImage | Unchanged:
    """Fetches the bytes of one image, unless it is still of its known version.

    An image that has labels keeps them if it cannot be fetched, because a disk may not be mounted, and a
    label would be lost to a failure.

    Raises:
      ImageError: The store refuses, fails, is too slow, or the image is too large.
    """
    known = ref.known_version or ""
    try:
        fetched = stores.fetch(ref.uri, None if known.startswith(DIGEST) else ref.known_version)
    except ImageError:
        if ref.known_version is not None:
            return Unchanged(ref, checked=False)
        raise
    if fetched is None:
        return Unchanged(ref)
    sha256 = hashlib.sha256(fetched.data).hexdigest()
    return (
        Unchanged(ref)
        if known == DIGEST + sha256
        else EncodedImage(ref, fetched.data, sha256, fetched.version)
    )


@dataclass
class FetchImages(beam.PTransform):
    """Fetches each image with many requests at once.

    Input: `ImageRef`. Output: `EncodedImage`; `Unchanged` where the known version
    is still the present one. Failures: `fetch`.
    Metrics: `fetch_usec`, `image_bytes`.

    Attributes:
      limits: Time limits and byte cap of one request; `limits.connections` requests run at once.
      max_window_bytes: Most bytes in flight in one bundle, by the mean length seen so far.
    """

    limits: Limits
    max_window_bytes: int = 256 << 20

    def expand(self, refs: beam.PCollection[ImageRef]) -> FetchOutcomes:
        """Applies the step."""
        return FetchOutcomes(**par_do("Fetch", refs, _FetchImagesFn(self), EncodedImage, Failure, Unchanged))


@once_per_process
def _stores(limits: Limits) -> Stores:
    return Stores(limits)


@once_per_process
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "fetch")


class _FetchImagesFn(OverlappedFn[ImageRef, Timed[EncodedImage | Unchanged | Failure]]):
    def __init__(self, step: FetchImages) -> None:
        self._limits = step.limits
        self._max_window_bytes = step.max_window_bytes
        self._mean_bytes = _FIRST_GUESS_BYTES
        self._fetch_usec = Metrics.distribution(FetchImages, "fetch_usec")
        self._image_bytes = Metrics.distribution(FetchImages, "image_bytes")

    def setup(self) -> None:
        self._stores = _stores(self._limits)
        self._pool = _pool(self._limits.connections)

    def open_window(self) -> Window[Timed[EncodedImage | Unchanged | Failure]]:
        return Window(4 * self._limits.connections, self._max_window_bytes)

    def submit(self, ref: ImageRef) -> tuple[Future[Timed[EncodedImage | Unchanged | Failure]], int]:
        task = functools.partial(fetch_image, ref, self._stores)
        return self._pool.submit(attempt, "fetch", ref, task), self._mean_bytes

    def take(self, timed: Timed[EncodedImage | Unchanged | Failure]) -> EncodedImage | Unchanged | Failure:
        self._fetch_usec.update(timed.usec)
        if isinstance(timed.value, EncodedImage):
            size_bytes = len(timed.value.data)
            self._image_bytes.update(size_bytes)
            self._mean_bytes += (size_bytes - self._mean_bytes) // 8
        return timed.value
