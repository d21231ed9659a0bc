"""Results that are used again for the same content."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """The latest results of a process by key, those under way included; safe to call from several threads."""

    def __init__(self, max_items: int, hurry: Callable[[], None]) -> None:
        """Makes an empty one.

        Args:
          max_items: Beyond these the least recently used result is forgotten.
          hurry: Called when somebody waits for work under way, which must not wait for more itself.
        """
        self._max_items = max_items
        self._hurry = hurry
        self._lock = threading.RLock()
        self._futures: OrderedDict[str, Future[T]] = OrderedDict()

    def submit(self, key: str, submit: Callable[[], Future[T]], adapt: Callable[[T], T]) -> Future[T]:
        """Submits work unless that of the same key is known.

        Args:
          key: What the result depends on.
          submit: Hands the work out.
          adapt: Makes of another's result one's own.
        """
        with self._lock:
            known = self._futures.get(key)
            if known is None:
                future = self._futures[key] = submit()
                if len(self._futures) > self._max_items:
                    self._futures.popitem(last=False)
                future.add_done_callback(lambda done: self._forget_error(key, done))
                return future
            self._futures.move_to_end(key)
        if not known.done():
            self._hurry()
        return _adapted(known, adapt)

    def _forget_error(self, key: str, done: Future[T]) -> None:
        with self._lock:
            if done.exception() and self._futures.get(key) is done:
                del self._futures[key]


def _adapted(known: Future[T], adapt: Callable[[T], T]) -> Future[T]:
    adapted: Future[T] = Future()

    def settle(done: Future[T]) -> None:
        try:
            adapted.set_result(adapt(done.result()))
        except BaseException as e:  # handed to whoever waits, who raises it
            adapted.set_exception(e)

    known.add_done_callback(settle)
    return adapted
