"""Orders: images that bundles wait for, and further requests of those that failed."""

from __future__ import annotations

import weakref
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, Protocol

from labelbeam.transforms.attempts import failure_of
from labelbeam.transforms.elements import AnyImage, Failure, ImageRef, Unchanged, host_of_uri, parts_of
from labelbeam.transforms.errors import ImageError, Reason, may_heal
from labelbeam.transforms.loaders.image import Loaded, Loading, keeps_labels, unchecked
from labelbeam.transforms.loaders.schedule import DOWN_AFTER, DOWN_SEC, Order, Schedule, Verdict
from labelbeam.transforms.sources.addresses import is_gcs
from labelbeam.transforms.sources.urls import server_of

# Reasons for which a host counts as not at work, if it has no success meanwhile.
_BROKEN = frozenset((Reason.TIMEOUT, Reason.UNREACHABLE, Reason.HTTP_5XX))
# Time of a request from which a host counts as slow: few hosts need as long for an image.
_SLOW_USEC = 2_000_000
# Most bytes of pixels that bundles have not taken yet, before no further request starts: images that waited
# for a host may all come at once when it recovers.
_MAX_FINISHED_BYTES = 512 << 20


class Finished(Protocol):
    """A window of a bundle."""

    @property
    def finished_bytes(self) -> int:
        """Bytes of finished images that the bundle has not taken."""


class Orders:
    """The orders of a worker process. Not safe to call from several threads at once.

    Attributes:
      is_full: Whether no request starts because bundles have not taken what is finished.
    """

    def __init__(self, loading: Loading, threads: int) -> None:
        self._schedule = Schedule(loading.limits.manners, threads)
        # Weak, because a bundle that fails does not close its window.
        self._windows: weakref.WeakSet[Finished] = weakref.WeakSet()
        self.is_full = False

    def __len__(self) -> int:
        """Return the number of images that wait for a request."""
        return len(self._schedule)

    def add(self, image: AnyImage) -> Future[Loaded]:
        """Order an image, for as long as somebody holds its future."""
        future: Future[Loaded] = Future()
        # Running from now on, because a future that somebody cancels takes no outcome.
        future.set_running_or_notify_cancel()
        source, _ = parts_of(image)
        # Images with bytes are requested from no host.
        host = _host_of(source.address) if isinstance(source, ImageRef) else ("", False)
        self._schedule.add(Order(image, *host, weakref.ref(future)))
        return future

    def take(self, most: int, in_reserve: bool = False) -> list[Order]:
        """Return images as `Schedule.take` does; those that are not requested any more fail."""
        for order in self._schedule.take_hopeless():
            order.finish(_final(order.last or _host_down(order), order))
        self.is_full = sum(window.finished_bytes for window in self._windows) >= _MAX_FINISHED_BYTES
        return [] if self.is_full else self._schedule.take(most, in_reserve)

    def watch(self, window: Finished) -> None:
        """Count a window's finished images from now on."""
        self._windows.add(window)

    def release(self, order: Order) -> None:
        """Take note that an image is fetched, and no more a request of its host."""
        self._schedule.release(order)

    def settle(self, order: Order, loaded: Loaded | Exception) -> None:
        """Take an outcome, which becomes the image's own unless another request may give a better one."""
        is_last = self._schedule.settle(order, _verdict_of(loaded, order))
        if isinstance(loaded, Exception):
            order.finish(loaded)
        elif is_last:
            order.finish(_final(loaded, order))
        else:
            order.last = loaded

    def give_back(self, order: Order, was_sent: bool) -> None:
        """Take an image back whose loader died of another one."""
        self._schedule.give_back(order, was_sent)

    def wait_sec(self) -> float | None:
        """Return the time until an image may start; None if none waits for a time."""
        return self._schedule.wait_sec()

    def has_ready(self) -> bool:
        """Return whether an image may start now."""
        return self._schedule.has_ready()

    def take_all(self) -> list[Order]:
        """Return all images that wait."""
        return self._schedule.take_all()


def _host_of(uri: str) -> tuple[str, bool]:
    """Return the host or bucket of a URI, and whether requests of it are bounded."""
    if is_gcs(uri):
        return f"gs://{host_of_uri(uri)}", False
    server = server_of(uri)
    return server, bool(server)


def _host_down(order: Order) -> Loaded:
    message = (
        f"not requested, because {DOWN_AFTER} requests in a row of the host {order.host!r} failed; "
        f"it is tried again after {DOWN_SEC:g} s"
    )
    return Loaded(failure_of(order.ref, "fetch", ImageError(Reason.HOST_DOWN, message)), 0)


def _verdict_of(loaded: Loaded | Exception, order: Order) -> Verdict:
    # Nothing of a file heals, because a disk fails for longer than any pause.
    if isinstance(loaded, Exception) or not order.host:
        return Verdict()
    is_slow = loaded.fetch_usec > _SLOW_USEC
    if not isinstance(loaded.value, Failure) or loaded.value.stage != "fetch":
        return Verdict(is_slow=is_slow)
    reason = Reason(loaded.value.reason)
    return Verdict(
        # Memory is short for the moment, because other requests have brought more bytes than expected.
        heals=may_heal(reason) or reason is Reason.DECODE_MEMORY,
        is_refused=loaded.retry_after_sec is not None,
        is_broken=reason in _BROKEN,
        is_slow=is_slow,
        pause_sec=loaded.retry_after_sec or 0.0,
    )


def _final(loaded: Loaded, order: Order) -> Loaded:
    """Return the outcome of an image's last request, with the image's own reference, or one for each box."""
    value, boxes = loaded.value, parts_of(order.image)[1]
    if not boxes:
        return loaded._replace(value=_outcome_of(order.ref, value, order.attempts))
    # An outcome of the image is that of each box.
    values = value if isinstance(value, tuple) else (value,) * len(boxes)
    each = [_outcome_of(ref, one, order.attempts) for ref, one in zip(boxes, values, strict=True)]
    return loaded._replace(value=tuple(each))


def _outcome_of(ref: ImageRef, value: Any, attempts: int) -> Any:
    if isinstance(value, Unchanged):
        return replace(value, ref=ref)
    if not isinstance(value, Failure):
        return value
    if value.stage == "fetch" and keeps_labels(ref, value.reason):
        return unchecked(ref)
    return replace(value, ref=ref, attempts=attempts)
