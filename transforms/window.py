"""Windows: work in flight within a bundle, bounded by count and by bytes.

Beam's harness calls a DoFn one element at a time. A step that waits for the network, or whose work releases
the GIL, submits each element to a pool and keeps a window of futures in flight. Results leave on the bundle's
thread alone, because Beam's outputs are not thread-safe: finished ones from `process`, the rest from
`finish_bundle`.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import apache_beam as beam

from labelbeam.transforms.attempts import Timed
from labelbeam.transforms.elements import Failure
from labelbeam.transforms.images.memory import tune_malloc
from labelbeam.transforms.outcomes import to_output
from labelbeam.transforms.process import available_cores, compute_pool

E = TypeVar("E")
T = TypeVar("T")


class Alarm:
    """An error that ends every wait of the process, set when a call never returns.

    A thread inside such a call can't be stopped, and a bundle may wait for that thread in another step,
    because steps share threads. So all windows check the alarm. The error is never cleared, because the
    thread stays lost: later bundles of the process fail at once.
    """

    def __init__(self) -> None:
        self._error: Exception | None = None

    def ring(self, error: Exception) -> None:
        """Make every wait of the process raise an error from now on."""
        self._error = error

    def check(self) -> None:
        """Raise the error if there is one."""
        if self._error:
            raise self._error


alarm = Alarm()
# Most futures in a window whose workers are idle: 50 MB of references.
MOST_WAITING = 50_000
# Time between two checks of the alarm while a window waits.
_ALARM_SEC = 1.0


class FinishedQueue(Generic[T]):
    """A queue of finished futures and their sizes, which counts the bytes that it holds."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[tuple[Future[T], int]] = queue.SimpleQueue()
        # A lock, because futures finish on several threads.
        self._lock = threading.Lock()
        self.bytes = 0

    def put(self, future: Future[T], size_bytes: int) -> None:
        """Add a future."""
        with self._lock:
            self.bytes += size_bytes
        self._queue.put((future, size_bytes))

    def get(self, timeout_sec: float) -> tuple[Future[T], int]:
        """Wait for the next future.

        Raises:
          queue.Empty: The time is over.
        """
        future, size_bytes = self._queue.get(timeout=timeout_sec)
        with self._lock:
            self.bytes -= size_bytes
        return future, size_bytes

    def empty(self) -> bool:
        """Return whether no future waits."""
        return self._queue.empty()


@dataclass(eq=False)
class Window(Generic[T]):
    """Futures in flight; results come in the order in which the futures finish.

    Attributes:
      max_items: Most futures in flight, finished futures that were not yet taken included.
      max_bytes: Most bytes in flight; a single future may exceed the bound.
    """

    max_items: int
    max_bytes: int
    # Filled by done callbacks on the threads that finish, because that costs O(1) for each result;
    # `concurrent.futures.wait` would look at every future of the window again and again.
    _finished: FinishedQueue[T] = field(default_factory=FinishedQueue)
    # Held here, because loaders need not load an image whose future nobody holds: that of a failed bundle.
    _futures: set[Future[T]] = field(default_factory=set)
    _bytes: int = 0

    def __len__(self) -> int:
        """Return the number of futures in flight."""
        return len(self._futures)

    @property
    def finished_bytes(self) -> int:
        """Bytes of finished results that were not yet taken."""
        return self._finished.bytes

    def add(
        self, future: Future[T], size_bytes: int = 0, is_hungry: Callable[[], bool] = lambda: False
    ) -> Iterator[T]:
        """Add a future, and block only while the window is over one of its bounds.

        Args:
          future: The future.
          size_bytes: Bytes of its result.
          is_hungry: Whether workers are idle because all that was submitted waits for something else. Then
            the window may grow to `MOST_WAITING` futures.

        Yields:
          Finished results.
        """
        alarm.check()
        self._futures.add(future)
        self._bytes += size_bytes
        # Bound to the queue and not to the window, because the loaders count what windows hold, and a window
        # of a bundle that has failed must go.
        put = self._finished.put
        future.add_done_callback(lambda done: put(done, size_bytes))
        yield from self._take_ready()
        # More than one, because a single element larger than `max_bytes` would otherwise be waited for alone.
        while len(self) > 1 and (len(self) > self.max_items or self._bytes > self.max_bytes):
            if len(self) < MOST_WAITING and is_hungry():
                return
            yield self._take()

    def drain(self) -> Iterator[T]:
        """Wait for everything in flight, and yield the results."""
        while self._futures:
            yield self._take()

    def _take_ready(self) -> Iterator[T]:
        while not self._finished.empty():
            yield self._take()

    def _take(self) -> T:
        future, size_bytes = self._next_finished()
        self._futures.remove(future)
        self._bytes -= size_bytes
        return future.result()

    def _next_finished(self) -> tuple[Future[T], int]:
        # In short waits, because a future that depends on a call that never returns never finishes.
        while True:
            try:
                return self._finished.get(_ALARM_SEC)
            except queue.Empty:
                alarm.check()


# Slots of open windows by the id of the DoFn that holds the window.
_slots: dict[int, int] = {}


def images_in_flight() -> int:
    """Return how many images the process can have in flight now, in all bundles and steps."""
    # A copy, because bundles on other threads may open and close windows meanwhile.
    return sum(list(_slots.values()))


class OverlappedFn(beam.DoFn, Generic[E, T]):
    """A DoFn whose work runs elsewhere: elements go in, results come out when they are ready.

    A subclass opens a window in `open_window`, submits work in `submit`, and turns results into elements in
    `take`, which runs on the bundle's thread.
    """

    _window: Window[T] | None = None

    def open_window(self) -> Window[T]:
        """Return a new window, for one bundle that has elements."""
        raise NotImplementedError

    def submit(self, element: E) -> tuple[Future[T], int]:
        """Submit the work on an element; return the future and its size in bytes."""
        raise NotImplementedError

    def is_hungry(self) -> bool:
        """Return whether more elements should be submitted, although the window is full."""
        return False

    def flush(self) -> None:
        """Start work that waits for more elements, because the bundle has none; by default nothing waits."""

    def take(self, result: T) -> Iterable[Any]:
        """Return the elements that go to the outputs for a result; called once for each."""
        return (result,)

    def start_bundle(self) -> None:
        # Here, too, because a bundle that failed closed nothing: Beam skips its `finish_bundle`, and uses the
        # DoFn for another bundle or tears it down.
        self._close()

    def teardown(self) -> None:
        self._close()

    def _close(self) -> None:
        _slots.pop(id(self), None)
        self._window = None

    def process(self, element: E) -> Iterator:
        if self._window is None:
            # With the first element, because a bundle without elements, as of images that are all done,
            # should start no loaders and load no model.
            self._window = self.open_window()
            _slots[id(self)] = self._window.max_items
        for result in self._window.add(*self.submit(element), self.is_hungry):
            yield from map(to_output, self.take(result))

    def finish_bundle(self) -> Iterator:
        if self._window is not None:
            self.flush()
            for result in self._window.drain():
                for element in self.take(result):
                    yield to_output(element, is_last=True)
        self._close()


class PixelsFn(OverlappedFn[E, Timed[T | Failure]], Generic[E, T]):
    """An `OverlappedFn` that computes on the threads of `compute_pool`, by default one per core."""

    def __init__(self, threads: int | None, max_window_bytes: int) -> None:
        self._threads = threads or 0
        self._max_window_bytes = max_window_bytes

    def setup(self) -> None:
        tune_malloc()
        self._threads = self._threads or available_cores()
        self._pool = compute_pool(self._threads)

    def open_window(self) -> Window[Timed[T | Failure]]:
        # Eight tasks for each thread, because threads would otherwise idle while the bundle's thread waits
        # for the next element.
        return Window(8 * self._threads, self._max_window_bytes)

    def take(self, timed: Timed[T | Failure]) -> Iterable[T | Failure]:
        return (timed.value,)
