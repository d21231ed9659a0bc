"""Results that images of the same content share."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """Latest results of a process by key, finished or not; safe to call from several threads."""

    def __init__(self, max_items: int, flush: Callable[[], None]) -> None:
        """Make an empty collection.

        Args:
          max_items: Largest number of results; beyond it, the least recently used one is dropped.
          flush: Starts the work that was submitted, without waiting for more.
        """
        self._max_items = max_items
        self._flush = flush
        # Reentrant, because a future that is done calls `_forget_error` at once, under the lock of `submit`.
        self._lock = threading.RLock()
        self._futures: OrderedDict[str, Future[T]] = OrderedDict()

    def submit(self, key: str, submit: Callable[[], Future[T]], adapt: Callable[[T], T]) -> Future[T]:
        """Submit work, or share the result of earlier work with the same key.

        Args:
          key: Everything that the result depends on.
          submit: Submits the work.
          adapt: Makes a result for this caller from one for another caller.
        """
        with self._lock:
            earlier = self._futures.get(key)
            if earlier is None:
                future = self._futures[key] = submit()
                if len(self._futures) > self._max_items:
                    self._futures.popitem(last=False)
                future.add_done_callback(lambda done: self._forget_error(key, done))
                return future
            self._futures.move_to_end(key)
        if not earlier.done():
            # Flushed, because the earlier image may wait in a part of a batch, which duplicates don't fill.
            self._flush()
        return _adapted(earlier, adapt)

    def _forget_error(self, key: str, done: Future[T]) -> None:
        # A failed result is removed, because a later attempt may succeed. The identity is compared, because
        # the key may belong to a successor already.
        with self._lock:
            if done.exception() and self._futures.get(key) is done:
                del self._futures[key]


def _adapted(earlier: Future[T], adapt: Callable[[T], T]) -> Future[T]:
    adapted: Future[T] = Future()

    def settle(done: Future[T]) -> None:
        try:
            adapted.set_result(adapt(done.result()))
        except BaseException as e:  # raised again by the caller that waits for the future
            adapted.set_exception(e)

    earlier.add_done_callback(settle)
    return adapted
