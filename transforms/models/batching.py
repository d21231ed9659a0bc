"""Full batches from single items."""

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
    """Return the sizes that batches are padded to: powers of two, and the largest.

    Few sizes, because TensorFlow, cuDNN and XLA prepare kernels and memory for each shape they meet.
    """
    powers = [1 << n for n in range(largest.bit_length()) if 1 << n < largest]
    return (*powers, largest)


class Batcher(Generic[E, T]):
    """A queue that merges the items of all threads and bundles of a process into full batches.

    A full batch runs as soon as the executor has a thread for it, on the first free caller. A thread that has
    nothing more to submit calls `flush` before it waits, because a part of a batch would wait forever.
    """

    def __init__(
        self,
        callers: Sequence[Callable[[Sequence[E]], Sequence[T]]],
        batch_size: int,
        executor: Executor | None = None,
    ) -> None:
        """Make a batcher.

        Args:
          callers: Functions that run a batch, such as the model on one device. Each takes 1 to `batch_size`
            items and returns one result per item, in order. A caller runs one batch at a time; if it is in
            the list twice, two.
          batch_size: Items in a full batch.
          executor: Executor that runs the callers; by default one thread per caller.
        """
        self._batch_size = batch_size
        # Callers are taken and put back, because a caller runs one batch at a time, and whichever is free may
        # run the next batch: a fast device thereby takes more batches than a slow one.
        self._free: queue.SimpleQueue[Callable[[Sequence[E]], Sequence[T]]] = queue.SimpleQueue()
        for caller in callers:
            self._free.put(caller)
        self._executor = executor or ThreadPoolExecutor(len(callers), "predict")
        self._lock = threading.Lock()
        self._waiting: list[tuple[E, Future[T]]] = []
        self._opened: float | None = None
        self._under_way = 0

    def submit(self, item: E) -> Future[T]:
        """Queue an item; its batch starts when it is full."""
        future: Future[T] = Future()
        with self._lock:
            # Set at the first item only, because the time counts from there to the next `open_sec`.
            self._opened = self._opened or time.perf_counter()
            self._under_way += 1
            self._waiting.append((item, future))
            if len(self._waiting) >= self._batch_size:
                self._start()
        return future

    def flush(self) -> None:
        """Start a batch of the waiting items, full or not."""
        with self._lock:
            if self._waiting:
                self._start()

    def open_sec(self) -> float:
        """Return the time since the last call in which there was work, s; 0 if there was none."""
        now = time.perf_counter()
        with self._lock:
            # The next interval starts now if items are under way, because the model has work without a pause.
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
                # Put back before the results are set, because callbacks of the futures take time, and the
                # next batch can run meanwhile.
                self._free.put(run)
                with self._lock:
                    self._under_way -= len(batch)
            for (_, future), result in zip(batch, results, strict=True):
                future.set_result(result)
        except BaseException as e:  # raised again on the bundles' threads, which take the futures
            for _, future in batch:
                if not future.done():
                    future.set_exception(e)
