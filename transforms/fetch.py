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
from labelbeam.transforms.sources import Limits, Sources
from labelbeam.transforms.window import OverlappedFn, Window

# Assumed length of an image until the mean is known.
_FIRST_GUESS_BYTES = 1 << 20
# Most bytes in flight in one bundle, by the mean length of the images so far.
_MAX_WINDOW_BYTES = 256 << 20


class FetchOutcomes(NamedTuple):
    """The outputs of `FetchImages`."""

    ok: beam.PCollection
    failures: beam.PCollection
    unchanged: beam.PCollection


def fetch_image(ref: ImageRef, sources: Sources) -> EncodedImage | Unchanged:
    """Fetch the bytes of one image, unless its version is unchanged.

    Raises:
      ImageError: The image is too large, or cannot be fetched.
    """
    version = ref.known_version or ""
    # A digest is compared below, because no source has such versions.
    try:
        response = sources.fetch(ref.uri, None if version.startswith(DIGEST) else ref.known_version)
    except ImageError:
        # Labels are kept, because a disk that is not mounted or a host that is down for a day doesn't make
        # them wrong, and a failure would replace them.
        if ref.known_version is not None:
            return Unchanged(ref, checked=False)
        raise
    if response is None:
        return Unchanged(ref)
    sha256 = hashlib.sha256(response.data).hexdigest()
    if version == DIGEST + sha256:
        return Unchanged(ref)
    return EncodedImage(ref, response.data, sha256, response.version)


@dataclass
class FetchImages(beam.PTransform):
    """The step that fetches images, with many requests at once.

    Input: `ImageRef`. Output: `EncodedImage`, or `Unchanged` for an image that keeps its labels.
    Failures: `fetch`.
    Metrics: `fetch_usec`, `image_bytes`.

    Attributes:
      limits: Time limits and byte cap of one request; `limits.connections` requests run at once.
    """

    limits: Limits

    def expand(self, refs: beam.PCollection[ImageRef]) -> FetchOutcomes:
        return FetchOutcomes(**par_do("Fetch", refs, _FetchImagesFn(self), EncodedImage, Failure, Unchanged))


@once_per_process
def _sources(limits: Limits) -> Sources:
    return Sources(limits)


@once_per_process
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "fetch")


class _FetchImagesFn(OverlappedFn[ImageRef, Timed[EncodedImage | Unchanged | Failure]]):
    def __init__(self, step: FetchImages) -> None:
        self._limits = step.limits
        self._mean_bytes = _FIRST_GUESS_BYTES
        self._fetch_usec = Metrics.distribution(FetchImages, "fetch_usec")
        self._image_bytes = Metrics.distribution(FetchImages, "image_bytes")

    def setup(self) -> None:
        # Shared by all bundles of the process, because each source has a pool of connections.
        self._sources = _sources(self._limits)
        self._pool = _pool(self._limits.connections)

    def open_window(self) -> Window[Timed[EncodedImage | Unchanged | Failure]]:
        # Four times the requests that run at once, because a slow image would otherwise leave threads idle:
        # responses behind it wait in the window, too.
        return Window(4 * self._limits.connections, _MAX_WINDOW_BYTES)

    def submit(self, ref: ImageRef) -> tuple[Future[Timed[EncodedImage | Unchanged | Failure]], int]:
        task = functools.partial(fetch_image, ref, self._sources)
        return self._pool.submit(attempt, "fetch", ref, task), self._mean_bytes

    def take(self, timed: Timed[EncodedImage | Unchanged | Failure]) -> EncodedImage | Unchanged | Failure:
        self._fetch_usec.update(timed.usec)
        if isinstance(timed.value, EncodedImage):
            size_bytes = len(timed.value.data)
            self._image_bytes.update(size_bytes)
            # A moving mean, because the length must be estimated before the response comes, and varies along
            # the corpus.
            self._mean_bytes += (size_bytes - self._mean_bytes) // 8
        return timed.value
