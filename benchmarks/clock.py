"""Clocks around a model: the time of each call, and processor time of the process with the model."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_TICKS = os.sysconf("SC_CLK_TCK")


class Feed(NamedTuple):
    """The rate at which images reached a model.

    Attributes:
      images_per_sec: Images after the first call, for each second after it.
      waiting: Share of the time between the first call and the last in which no call ran.
      model_ms: Processor time of an image in the process with the model, ms.
      loader_ms: Processor time of an image in the processes that it started, ms.
    """

    images_per_sec: float
    waiting: float
    model_ms: float
    loader_ms: float


class Clock:
    """Times calls of a model, from any number of threads, and writes what it has measured to a file."""

    def __init__(self, images: int, file: Path) -> None:
        """Make a clock.

        Args:
          images: Number of images; the file is written when the model has had as many.
          file: The file.
        """
        self._images, self._file = images, file
        self._lock = threading.Lock()
        self._under_way = self._done = self._first = 0
        self._busy_sec = self._since = self._opened = 0.0
        self._start: _Reading | None = None

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        """Time a call."""
        with self._lock:
            now = time.perf_counter()
            self._opened = self._opened or now
            # Time with at least one call, because calls of several threads overlap.
            if not self._under_way:
                self._since = now
            self._under_way += 1
        try:
            yield
        finally:
            with self._lock:
                self._under_way -= 1
                if not self._under_way:
                    self._busy_sec += time.perf_counter() - self._since

    def count(self, images: int) -> None:
        """Count images that the model has had."""
        with self._lock:
            self._done += images
            if self._start is None:
                self._start, self._first = _read(), images
            if self._done >= self._images:
                self._write(self._start, _read())

    def _write(self, start: _Reading, end: _Reading) -> None:
        images = self._done - self._first
        wall_sec = end.wall_sec - start.wall_sec
        feed = Feed(
            images / wall_sec,
            1 - self._busy_sec / (end.wall_sec - self._opened),
            1000 * (end.own_sec - start.own_sec) / images,
            1000 * (end.children_sec - start.children_sec) / images,
        )
        self._file.write_text(json.dumps(feed), "utf-8")


def read_feed(file: Path) -> Feed:
    """Return what a clock has measured."""
    return Feed(*json.loads(file.read_text("utf-8")))


class _Reading(NamedTuple):
    wall_sec: float
    own_sec: float
    children_sec: float


def _read() -> _Reading:
    return _Reading(time.perf_counter(), time.process_time(), _children_sec())


def _children_sec() -> float:
    """Return user and system time of the processes that descend from this one, s."""
    parents, ticks = {}, {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # the process has ended
            fields = file.read_text().rpartition(")")[2].split()
            pid = int(file.parent.name)
            parents[pid], ticks[pid] = int(fields[1]), int(fields[11]) + int(fields[12])
    family = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return sum(ticks.get(pid, 0) for pid in family - {os.getpid()}) / _TICKS
