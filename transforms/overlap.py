"""The bounded window: work in flight within a bundle.

The harness calls a DoFn one element at a time. A step that waits for the
network, or whose work releases the GIL, hands it to a pool and keeps a window
of it in flight. Results leave on the calling thread alone: those that are
ready from `process`, the rest from `finish_bundle`.
"""

from __future__ import annotations

import functools
import os
import queue
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindows

import labelbeam.transforms.coders  # noqa: F401  (registers the coders)
from labelbeam.transforms.elements import Failure, ImageRef, Unchanged, host_of_uri
from labelbeam.transforms.errors import ImageError
from labelbeam.transforms.images.memory import tune_malloc

E = TypeVar("E")
T = TypeVar("T")


class Outputs(NamedTuple):
    """The two outputs of a step that can fail."""

    ok: beam.PCollection
    failures: beam.PCollection


class Timed(NamedTuple, Generic[T]):
    """What a task gave, and how long it took."""

    value: T
    usec: int


def once_per_process(make: Callable[..., T]) -> Callable[..., T]:
    """Memoises a factory by its arguments; concurrent callers wait for the first."""
    lock = threading.Lock()
    made = functools.cache(make)

    @functools.wraps(make)
    def get(*args: Hashable) -> T:
        with lock:
            return made(*args)

    return get


def available_cores() -> int:
    """The cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def failure_of(ref: ImageRef, stage: str, error: ImageError) -> Failure:
    """The row that tells why `ref` has no labels."""
    return Failure(ref, stage, error.reason.value, str(error), error.attempts, host_of_uri(ref.uri))


def usec_since(start: float) -> int:
    """Microseconds since a reading of `time.perf_counter`."""
    return round(1e6 * (time.perf_counter() - start))


def attempt(stage: str, ref: ImageRef, task: Callable[[], T]) -> Timed[T | Failure]:
    """Runs a task; an `ImageError` becomes a `Failure`, anything else is raised."""
    start = time.perf_counter()
    try:
        value: T | Failure = task()
    except ImageError as e:
        value = failure_of(ref, stage, e)
    return Timed(value, usec_since(start))


class Alarm:
    """An error that ends every wait of the process, raised where a call never returns.

    A thread inside such a call can't be stopped, and a bundle may wait for it in another step, because steps
    share threads. So all windows check the error, and it stays: later bundles of the process fail at once.
    """

    def __init__(self) -> None:
        self._error: Exception | None = None

    def ring(self, error: Exception) -> None:
        """Have every wait of the process raise an error from now on."""
        self._error = error

    def check(self) -> None:
        """Raise the error if there is one."""
        if self._error:
            raise self._error


alarm = Alarm()
# Time between two checks of the alarm while a window waits.
_ALARM_SEC = 1.0


@dataclass
class Window(Generic[T]):
    """Futures in flight, bounded by count and by bytes; results come in the order they finish.

    Attributes:
      max_items: Most futures in flight, those finished but not yet taken included.
      max_bytes: Most bytes that these may stand for; a single one may exceed it.
    """

    max_items: int
    max_bytes: int
    _finished: queue.SimpleQueue[tuple[Future[T], int]] = field(default_factory=queue.SimpleQueue)
    _items: int = 0
    _bytes: int = 0

    def add(self, future: Future[T], size_bytes: int = 0) -> Iterator[T]:
        """Puts a future into the window and takes out what is ready.

        Blocks only while the window is over one of its bounds.

        Yields:
          Results, in the order they finished.
        """
        alarm.check()
        self._items += 1
        self._bytes += size_bytes
        future.add_done_callback(lambda done: self._finished.put((done, size_bytes)))
        yield from self._take_ready()
        while self._items > 1 and (self._items > self.max_items or self._bytes > self.max_bytes):
            yield self._take()

    def drain(self) -> Iterator[T]:
        """Waits for everything in flight and yields it."""
        while self._items:
            yield self._take()

    def _take_ready(self) -> Iterator[T]:
        while not self._finished.empty():
            yield self._take()

    def _take(self) -> T:
        future, size_bytes = self._next_finished()
        self._items -= 1
        self._bytes -= size_bytes
        return future.result()

    def _next_finished(self) -> tuple[Future[T], int]:
        while True:
            try:
                return self._finished.get(timeout=_ALARM_SEC)
            except queue.Empty:
                alarm.check()


class _Places:
    """The images that a process's windows have room for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.open = 0

    def add(self, places: int) -> None:
        """Counts places that were opened, or closed where negative."""
        with self._lock:
            self.open += places


_places = _Places()


def images_in_flight() -> int:
    """How many images this process may have under way now, in all its bundles and steps."""
    return _places.open


# The outputs of a DoFn under `par_do` by what goes there; all else goes to `ok`.
_TAGS: dict[type, str] = {Failure: "failures", Unchanged: "unchanged"}


def to_output(element: Any, yielded: Any = None) -> Any:
    """What a DoFn under `par_do` yields for an element.

    Args:
      element: What it is about.
      yielded: What carries it in `finish_bundle`, its windowed value; by default itself.
    """
    yielded = element if yielded is None else yielded
    tag = _TAGS.get(type(element))
    return beam.pvalue.TaggedOutput(tag, yielded) if tag else yielded


class OverlappedFn(beam.DoFn, Generic[E, T]):
    """A DoFn whose work runs elsewhere: elements go in, results come out when they are ready.

    A subclass opens its window in `open_window`, hands work out in `submit`
    and takes results in with `take`, which runs on the bundle's thread.
    """

    def open_window(self) -> Window[T]:
        """A new window, for one bundle."""
        raise NotImplementedError

    def submit(self, element: E) -> tuple[Future[T], int]:
        """Hands out the work on an element; gives its future and the bytes it stands for."""
        raise NotImplementedError

    def flush(self) -> None:
        """Called when no more elements come, before the rest is waited for."""

    def take(self, result: T) -> Any:
        """What goes to an output for a result; called once for each."""
        return result

    _held = 0

    def start_bundle(self) -> None:
        """Opens the window."""
        self._window = self.open_window()
        self._hold(self._window.max_items)

    def _hold(self, places: int) -> None:
        _places.add(places - self._held)
        self._held = places

    def teardown(self) -> None:
        """Gives up the window of a bundle that failed."""
        self._hold(0)

    def process(self, element: E) -> Iterator:
        """Takes an element in, and gives out what is ready."""
        for result in self._window.add(*self.submit(element)):
            yield to_output(self.take(result))

    def finish_bundle(self) -> Iterator:
        """Waits for the rest."""
        self.flush()
        for result in self._window.drain():
            taken = self.take(result)
            yield to_output(taken, GlobalWindows.windowed_value(taken))
        self._hold(0)


@once_per_process
def compute_pool(threads: int) -> ThreadPoolExecutor:
    """The threads of a process that compute, one a core: what decodes, and what infers on a CPU.

    With threads of their own for each, more of them than cores would interrupt each other,
    and find their data gone from the caches: up to 1.15 times the time on two cores.
    """
    return ThreadPoolExecutor(threads, "compute")


class PixelsFn(OverlappedFn[E, Timed[T | Failure]], Generic[E, T]):
    """An `OverlappedFn` that works on pixels, in memory that is kept from page faults."""

    def __init__(self, threads: int | None, max_window_bytes: int) -> None:
        """Makes one.

        Args:
          threads: How many compute in a process; by default one per core.
          max_window_bytes: Most bytes in flight in one bundle.
        """
        self._threads = threads or 0
        self._max_window_bytes = max_window_bytes

    def setup(self) -> None:
        """Starts the threads."""
        tune_malloc()
        self._threads = self._threads or available_cores()
        self._pool = compute_pool(self._threads)

    def open_window(self) -> Window[Timed[T | Failure]]:
        """A new window, for one bundle."""
        return Window(8 * self._threads, self._max_window_bytes)


def par_do(
    label: str, elements: beam.PCollection, fn: beam.DoFn, ok: type, *others: type
) -> dict[str, beam.PCollection]:
    """Applies a DoFn with several outputs.

    Args:
      label: Of the stage.
      elements: Its input.
      fn: Yields what `to_output` makes of its results.
      ok: What the first output holds.
      others: What else it may give; by default `Failure`.

    Returns:
      The outputs by name, `ok` first.
    """
    types = {"ok": ok} | {_TAGS[other]: other for other in others or (Failure,)}
    _, *tags = types
    outputs = elements | label >> beam.ParDo(fn).with_outputs(*tags, main="ok")
    for name, element_type in types.items():
        outputs[name].element_type = element_type
    return {name: outputs[name] for name in types}
