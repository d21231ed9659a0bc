"""Full batches from single requests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

E = TypeVar("E")
T = TypeVar("T")


def batch_sizes(largest: int) -> tuple[int, ...]:
    """The few sizes batches are padded to: powers of two, and the largest."""
    powers = [1 << n for n in range(largest.bit_length()) if 1 << n < largest]
    return (*powers, largest)


class Batcher(Generic[E, T]):
    """Merges the requests of all threads and bundles of a process into full batches.

    A batch is run as soon as it is full, on one of `callers` threads. Whoever
    has nothing more to submit calls `flush` before waiting.
    """

    def __init__(self, run: Callable[[Sequence[E]], Sequence[T]], batch_size: int, callers: int) -> None:
        """Makes a batcher.

        Args:
          run: Called with 1 to `batch_size` items; gives one result per item, in order.
          batch_size: Items in a full batch.
          callers: Batches run at once.
        """
        self._run = run
        self._batch_size = batch_size
        self._executor = ThreadPoolExecutor(callers, "predict")
        self._lock = threading.Lock()
        self._waiting: list[tuple[E, Future[T]]] = []

    def submit(self, item: E) -> Future[T]:
        """Queues an item; the batch starts when it is full."""
        future: Future[T] = Future()
        with self._lock:
            self._waiting.append((item, future))
            if len(self._waiting) >= self._batch_size:
                self._start()
        return future

    def flush(self) -> None:
        """Starts a batch of what is waiting, full or not."""
        with self._lock:
            if self._waiting:
                self._start()

    def _start(self) -> None:
        batch, self._waiting = self._waiting, []
        self._executor.submit(self._settle, batch)

    def _settle(self, batch: list[tuple[E, Future[T]]]) -> None:
        try:
            results = self._run([item for item, _ in batch])
            for (_, future), result in zip(batch, results, strict=True):
                future.set_result(result)
        except BaseException as e:  # handed to whoever waits, who raises it
            for _, future in batch:
                if not future.done():
                    future.set_exception(e)
