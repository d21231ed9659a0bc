"""One image, from its reference to the pixels that a model sees."""

from __future__ import annotations

import functools
import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from labelbeam.transforms.attempts import failure_of
from labelbeam.transforms.elements import (
    DIGEST,
    AnyImage,
    DecodedImage,
    EncodedImage,
    Failure,
    ImageMetadata,
    ImageRef,
    InlineImage,
    PackedImage,
    Unchanged,
    parts_of,
    ref_of,
)
from labelbeam.transforms.errors import ImageError, Reason
from labelbeam.transforms.images.decode import (
    Decoded,
    Room,
    decode_boxes,
    decode_image,
    no_wait,
    too_little_memory,
)
from labelbeam.transforms.images.formats import RAW_SUFFIXES
from labelbeam.transforms.images.packing import pack_pixels
from labelbeam.transforms.images.regions import region_of
from labelbeam.transforms.images.resize import ResizeRule
from labelbeam.transforms.loaders.board import Stage
from labelbeam.transforms.sources import Limits, Sources

# Most encoded bytes that wait for decoding, before further requests of a process start. 128 MB are a few
# hundred photos, more than any number of requests needs in reserve.
MAX_ENCODED_BYTES = 128_000_000
# Pixels from which an image is decoded alone among all loaders of a worker process: with the copies that
# decoders make, some 20 bytes a pixel.
LARGE_PIXELS = 16_000_000
# Time from which the end of a request is announced, because the next one would otherwise wait until the image
# is decoded. Not of quicker requests, because news cost 0.1 ms.
_ANNOUNCED_NS = 20_000_000


@dataclass(frozen=True, slots=True)
class Loading:
    """What becomes of every image.

    Attributes:
      limits: Limits of one request; `limits.connections` images are loaded at once.
      rule: Crop and size of the result.
      max_pixels: Largest image in pixels; larger images fail before they are decoded.
      packed: Whether pixels are packed for a shuffle.
      most_boxes: Largest number of boxes that are cut from an image.
    """

    limits: Limits
    rule: ResizeRule
    max_pixels: int
    packed: bool = False
    most_boxes: int = 1


# The outcome of an image, or of a box.
Outcome = DecodedImage | PackedImage | Unchanged | Failure


class Loaded(NamedTuple):
    """The outcome of one image.

    Attributes:
      value: The image, or the reason why there is none; of an image with boxes, one outcome for each box.
      fetch_usec: Time of the request.
      decode_usec: Time of decoding; 0 if it was not decoded.
      size_bytes: Length of the encoded image; 0 if it was not fetched.
      retry_after_sec: As in `ImageError`.
    """

    value: Outcome | tuple[Outcome, ...]
    fetch_usec: int
    decode_usec: int = 0
    size_bytes: int = 0
    retry_after_sec: float | None = None

    @property
    def values(self) -> tuple[Outcome, ...]:
        """Outcomes of the boxes, or the one of the image."""
        return self.value if isinstance(self.value, tuple) else (self.value,)


def fetch_image(ref: ImageRef, sources: Sources) -> EncodedImage | Unchanged:
    """Fetch the bytes of one image, unless its version is unchanged.

    Raises:
      ImageError: The image is too large, or cannot be fetched.
    """
    try:
        return _fetch_image(ref, sources)
    except ImageError as e:
        if not keeps_labels(ref, e.reason):
            raise
        return unchecked(ref)


def keeps_labels(ref: ImageRef, reason: str) -> bool:
    """Return whether an image that can't be fetched keeps the labels that it has, if it has any.

    An opt-out counts for labels that were made before it, too.
    """
    return ref.known_version is not None and reason != Reason.OPTED_OUT


def unchecked(ref: ImageRef) -> Unchanged:
    """Return the outcome of an image that has labels and can't be fetched.

    Its labels are kept, because a disk that is not mounted or a host that is down for a day doesn't make them
    wrong, and a failure would replace them.
    """
    return Unchanged(ref, checked=False)


def _fetch_image(ref: ImageRef, sources: Sources) -> EncodedImage | Unchanged:
    version = ref.known_version or ""
    # A digest is compared below, because no source has such versions.
    response = sources.fetch(ref.address, None if version.startswith(DIGEST) else ref.known_version)
    if response is None:
        return Unchanged(ref)
    return _digest(ref, response.data, response.version)


def _digest(ref: ImageRef, data: bytes, version: str | None) -> EncodedImage | Unchanged:
    """Return an image with the digest of its bytes, unless it is the known one."""
    sha256 = hashlib.sha256(data).hexdigest()
    if ref.known_version == DIGEST + sha256:
        return Unchanged(ref)
    return EncodedImage(ref, data, sha256, version)


def decode(encoded: EncodedImage, rule: ResizeRule, max_pixels: int, room: Room = no_wait) -> DecodedImage:
    """Decode and resize one image.

    Args:
      encoded: The image.
      rule: Crop and size of the result.
      max_pixels: Largest image in pixels.
      room: Waits until there is memory for the pixels.

    Raises:
      ImageError: The bytes are no image that can be read, or too large a one.
    """
    return _decoded_image(encoded.ref, decode_image(encoded.data, rule, max_pixels, room), encoded)


def decode_each_box(
    encoded: EncodedImage,
    boxes: Sequence[ImageRef],
    rule: ResizeRule,
    max_pixels: int,
    room: Room = no_wait,
) -> Iterator[DecodedImage | Failure]:
    """Decode one image, and yield the outcome of each of its boxes; arguments as of `decode`.

    Raises:
      ImageError: The bytes are no image that can be read, or too large a one.
    """
    regions = [region for ref in boxes if (region := region_of(ref.uri))]
    results = decode_boxes(encoded.data, regions, rule, max_pixels, room)
    for ref, decoded in zip(boxes, results, strict=True):
        if isinstance(decoded, ImageError):
            yield failure_of(ref, "decode", decoded)
        else:
            yield _decoded_image(ref, decoded, encoded)


def _decoded_image(ref: ImageRef, decoded: Decoded, encoded: EncodedImage) -> DecodedImage:
    if decoded.format == "TIFF" and encoded.ref.uri.lower().endswith(RAW_SUFFIXES):
        # An error, because the first picture of such a file is a preview of some hundred pixels, not the
        # photo.
        raise ImageError(Reason.UNSUPPORTED, "a camera raw photo is not read; export it to JPEG or PNG")
    metadata = ImageMetadata(
        width_px=decoded.width_px,
        height_px=decoded.height_px,
        format=decoded.format,
        size_bytes=len(encoded.data),
        sha256=encoded.sha256,
        version=encoded.version,
        orientation=decoded.orientation,
        frames=decoded.frames,
    )
    return DecodedImage(ref, decoded.pixels, metadata)


def pack_image(image: DecodedImage) -> PackedImage:
    """Compress the pixels of an image, without loss."""
    return PackedImage(image.ref, pack_pixels(image.pixels), image.metadata)


# Notes what is done to an image from now on, None while it waits for others, and the nanoseconds that were
# spent on it before.
Report = Callable[[Stage | None, int], None]
# Receives the outcome of an image, or the error of a defect.
Done = Callable[[Loaded | Exception], None]


def _no_report(stage: Stage | None, spent_ns: int) -> None:
    pass


class _Fetched(NamedTuple):
    """An image that waits for decoding, and the nanoseconds that its request took."""

    image: EncodedImage
    boxes: tuple[ImageRef, ...]
    spent_ns: int
    report: Report
    done: Done


class Loader:
    """Loads images: called by many threads, of which a few decode at a time.

    A thread that decodes goes on with what others have fetched, because a lock for which threads wait would
    cost each image two switches of threads: 0.1 ms.
    """

    def __init__(self, loading: Loading, decoders: int, large: AbstractContextManager[Any]) -> None:
        """Make a loader.

        Args:
          loading: What becomes of every image.
          decoders: Largest number of threads that decode at once.
          large: Lock that is held while a large image is decoded.
        """
        self._loading = loading
        self._sources = Sources(loading.limits)
        self._decoders = decoders
        self._large = large
        self._changed = threading.Condition()
        self._fetched: deque[_Fetched] = deque()
        # Encoded bytes of images that wait or are decoded now.
        self._encoded_bytes = 0

    def load(
        self,
        image: AnyImage,
        done: Done,
        report: Report = _no_report,
        fetched: Callable[[], None] | None = None,
    ) -> None:
        """Load one image; then decode those that others have fetched meanwhile, unless others decode.

        Whatever is wrong with an image becomes a `Failure`.

        Args:
          image: The image, to fetch unless it has its bytes.
          done: Receives the outcome, perhaps on another thread.
          report: Notes what is done to the image.
          fetched: Called if the image was fetched by a request that took long.
        """
        with self._changed:
            # Compared before the request, because its length is unknown: the bound may be passed by what
            # requests under way bring.
            self._changed.wait_for(lambda: self._encoded_bytes < MAX_ENCODED_BYTES)
        start = time.monotonic_ns()
        report("fetch", 0)
        source, boxes = parts_of(image)
        encoded = _try_to_fetch(source, self._sources)
        spent_ns = time.monotonic_ns() - start
        if not isinstance(encoded, EncodedImage):
            done(_not_fetched(ref_of(source), encoded, spent_ns // 1000))
            report(None, spent_ns)
            return
        report(None, spent_ns)
        if fetched and spent_ns > _ANNOUNCED_NS:
            fetched()
        with self._changed:
            self._encoded_bytes += len(encoded.data)
            self._fetched.append(_Fetched(encoded, boxes, spent_ns, report, done))
            if self._decoders == 0:
                return
            self._decoders -= 1
        self._decode_fetched()

    def is_behind(self) -> bool:
        """Return whether fetched images wait for a decoder, or are decoded now."""
        return self._encoded_bytes > 0

    def _decode_fetched(self) -> None:
        while True:
            with self._changed:
                if not self._fetched:
                    self._decoders += 1
                    return
                fetched = self._fetched.popleft()
            loaded: Loaded | Exception | None = None
            try:
                loaded = self._decode(*fetched[:4])
            except MemoryError:
                pass
            except Exception as e:
                loaded = e
            # Made here, because the frames of a `MemoryError` hold what the decoder has allocated.
            loaded = loaded or Loaded(failure_of(fetched.image.ref, "decode", too_little_memory()), 0)
            with self._changed:
                self._encoded_bytes -= len(fetched.image.data)
                self._changed.notify_all()
            fetched.done(loaded)
            # Behind the outcome, because an image whose outcome can't be sent must be found on the board.
            fetched.report(None, fetched.spent_ns)

    def _decode(
        self, encoded: EncodedImage, boxes: tuple[ImageRef, ...], spent_ns: int, report: Report
    ) -> Loaded:
        start = time.monotonic_ns()
        report("decode", spent_ns)
        rule, most = self._loading.rule, self._loading.max_pixels
        room = functools.partial(self._room, report=report, spent_ns=spent_ns)
        value: Outcome | tuple[Outcome, ...]
        try:
            if boxes:
                value = tuple(map(self._packed, decode_each_box(encoded, boxes, rule, most, room)))
            else:
                value = self._packed(decode(encoded, rule, most, room))
        except ImageError as e:
            value = failure_of(encoded.ref, "decode", e)
        return Loaded(value, spent_ns // 1000, _usec(start), len(encoded.data))

    def _packed(self, image: DecodedImage | Failure) -> Outcome:
        if self._loading.packed and isinstance(image, DecodedImage):
            return pack_image(image)
        return image

    @contextmanager
    def _room(self, pixels: int, report: Report, spent_ns: int) -> Iterator[None]:
        """Wait until there is memory for an image: one large image at a time."""
        if pixels <= LARGE_PIXELS:
            yield
            return
        report(None, spent_ns)
        with self._large:
            report("decode", spent_ns)
            yield


def _try_to_fetch(image: ImageRef | InlineImage, sources: Sources) -> EncodedImage | Unchanged | Exception:
    try:
        if isinstance(image, InlineImage):
            return _digest(image.ref, image.data, image.version)
        return _fetch_image(image, sources)
    except MemoryError as e:
        # Without its frames, because these hold memory.
        return e.with_traceback(None)
    except Exception as e:
        return e


def _not_fetched(ref: ImageRef, image: Unchanged | Exception, usec: int) -> Loaded | Exception:
    """Return the outcome of an image of which no bytes came."""
    if isinstance(image, Unchanged):
        return Loaded(image, usec)
    if not isinstance(image, (ImageError, MemoryError)):
        return image
    error = _image_error(image)
    return Loaded(failure_of(ref, "fetch", error), usec, retry_after_sec=error.retry_after_sec)


def _image_error(error: ImageError | MemoryError) -> ImageError:
    return error if isinstance(error, ImageError) else too_little_memory()


def _usec(start_ns: int) -> int:
    return (time.monotonic_ns() - start_ns) // 1000
