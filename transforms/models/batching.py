"""Full batches from single requests."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Generic, TypeVar

E = TypeVar("E")
T = TypeVar("T")


def batch_sizes(largest: int) -> tuple[int, ...]:
    """The few sizes batches are padded to: powers of two, and the largest."""
    powers = [1 << n for n in range(largest.bit_length()) if 1 << n < largest]
    return (*powers, largest)


class Batcher(Generic[E, T]):
    """Merges the requests of all threads and bundles of a process into full batches.

    A full batch is run as soon as the executor has a thread for it, by the first caller
    that is free. Whoever has nothing more to submit calls `flush` before waiting.
    """

    def __init__(
        self,
        callers: Sequence[Callable[[Sequence[E]], Sequence[T]]],
        batch_size: int,
        executor: Executor | None = None,
    ) -> None:
        """Makes a batcher.

        Args:
          callers: Each is called with 1 to `batch_size` items, such as by the model of one device, and gives
            one result per item, in order. It runs one batch at a time; one that is named twice runs two.
          batch_size: Items in a full batch.
          executor: Whose threads they are called on; by default each has one.
        """
        self._batch_size = batch_size
        self._free: queue.SimpleQueue[Callable[[Sequence[E]], Sequence[T]]] = queue.SimpleQueue()
        for caller in callers:
            self._free.put(caller)
        self._executor = executor or ThreadPoolExecutor(len(callers), "predict")
        self._lock = threading.Lock()
        self._waiting: list[tuple[E, Future[T]]] = []
        self._opened: float | None = None
        self._under_way = 0

    def submit(self, item: E) -> Future[T]:
        """Queues an item; the batch starts when it is full."""
        future: Future[T] = Future()
        with self._lock:
            self._opened = self._opened or time.perf_counter()
            self._under_way += 1
            self._waiting.append((item, future))
            if len(self._waiting) >= self._batch_size:
                self._start()
        return future

    def flush(self) -> None:
        """Starts a batch of what is waiting, full or not."""
        with self._lock:
            if self._waiting:
                self._start()

    def open_sec(self) -> float:
        """The seconds since this was last asked in which there was work; 0 if there was none."""
        now = time.perf_counter()
        with self._lock:
            opened, self._opened = self._opened, now if self._under_way else None
        return now - opened if opened else 0.0

    def _start(self) -> None:
        batch, self._waiting = self._waiting, []
        self._executor.submit(self._settle, batch)

    def _settle(self, batch: list[tuple[E, Future[T]]]) -> None:
        try:
            run = self._free.get()
            try:
                results = run([item for item, _ in batch])
            finally:
                self._free.put(run)
                with self._lock:
                    self._under_way -= len(batch)
            for (_, future), result in zip(batch, results, strict=True):
                future.set_result(result)
        except BaseException as e:  # handed to whoever waits, who raises it
            for _, future in batch:
                if not future.done():
                    future.set_exception(e)
