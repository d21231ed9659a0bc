"""The progress of a run: counts that worker processes share, and lines for a person."""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import shutil
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from labelbeam.transforms.count import COUNTERS, DUPLICATE, FAILED, KEPT, LABELLED, LISTED, NOT_CHOSEN
from labelbeam.transforms.process import once_per_process
from labelbeam.transforms.within import start_call

# One signed 64-bit number per kind of count.
_NUMBERS = struct.Struct(f"<{len(COUNTERS)}q")
# The folder of a tally, and the file in it that its run has locked.
_PREFIX, _LOCK = "labelbeam-", "lock"
_TERMINAL_EVERY_SEC, _PLAIN_EVERY_SEC = 0.5, 10.0
# Silence after which a line is printed without new counts. The next tick after it comes within 30 s.
_SILENCE_SEC = 15.0
# Longest wait for a reading at one tick. A slower reading goes on, and is shown at a later tick.
_READ_SEC = 1.0

Counts = dict[str, int]


@dataclass(frozen=True)
class Tally:
    """Counts that local worker processes share with the process that shows progress.

    Each process keeps its own numbers in a small mapped file, so that counting
    costs a memory write and a reader sees new numbers at once.

    Attributes:
      folder: Folder of these files.
    """

    folder: Path

    def __call__(self, kind: str, count: int) -> None:
        """Add to the numbers of this process."""
        board = _board(self.folder, os.getpid())
        with board.lock:
            # Added in Python and stored as a whole, because the mapped bytes have no atomic addition.
            board.numbers[COUNTERS.index(kind)] += count
            _NUMBERS.pack_into(board.memory, 0, *board.numbers)

    def read(self) -> Counts:
        """Return the sums over all processes."""
        boards = [_NUMBERS.unpack(path.read_bytes()) for path in self.folder.glob("*.tally")]
        return dict(zip(COUNTERS, map(sum, zip(*boards, strict=True)), strict=True)) if boards else {}


@contextmanager
def new_tally() -> Iterator[Tally]:
    """Yield the tally of a run, in a folder that ends with the run, and remove folders of killed runs."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        # Another user's folder, or one that another run removes, too.
        with suppress(OSError), (folder / _LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as new, open(Path(new, "new"), "wb") as lock:
        # A lock and not the process's number, because a container sees other numbers in the same folder.
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Named last, because a run that starts now would otherwise lock it first.
        os.rename(lock.name, Path(new, _LOCK))
        yield Tally(Path(new))


class _Board:
    def __init__(self, path: Path) -> None:
        # Renamed when it has its full size, because a reader fails on a shorter file.
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(bytes(_NUMBERS.size))
        temporary.rename(path)
        with path.open("r+b") as f:
            self.memory = mmap.mmap(f.fileno(), _NUMBERS.size)
        self.numbers = [0] * len(COUNTERS)
        # Held while counting, because threads of a process share these numbers.
        self.lock = threading.Lock()


@once_per_process
def _board(folder: Path, pid: int) -> _Board:
    return _Board(folder / f"{pid}.tally")


@dataclass
class Pace:
    """The rate of a run, from its first finished image on, because start-up takes no part in it.

    Attributes:
      started: Time of the first reading with finished images, seconds of a steady clock.
      before: Number of finished images at that time.
    """

    started: float | None = None
    before: int = 0

    def images_per_sec(self, done: int, now: float) -> float:
        """Return the mean rate; 0 before the second reading."""
        if not done:
            return 0.0
        # The first reading only sets the start: its images may have taken any time.
        if self.started is None:
            self.started, self.before = now, done
        return (done - self.before) / (now - self.started) if now > self.started else 0.0


@dataclass
class Status:
    """The state of a run, and the time since its start.

    Attributes:
      state: The state, in words. Another thread may change it.
      start_sec: Time of the start, seconds of a steady clock.
    """

    state: str
    start_sec: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        """Describe the state, such as `running, 1:30`."""
        return f"{self.state}, {_format_duration(time.monotonic() - self.start_sec)}"


def describe(counts: Counts, images_per_sec: float) -> str:
    """Describe the progress of a run in one line."""
    if not counts:
        return "nothing counted yet"
    # The total is final, because an input is listed as a whole before its images are labelled.
    done, total = done_of(counts), counts.get(LISTED, 0)
    images = "image" if (total or done) == 1 else "images"
    parts = [f"{done:,} of {total:,} {images}", _share(done, total)] if total else [f"{done:,} {images}"]
    if images_per_sec:
        parts.append(f"{images_per_sec:,.1f} images/s")
    parts.append(f"{counts.get(FAILED, 0):,} failed")
    if images_per_sec and total > done:
        parts.append(f"ETA {_format_duration((total - done) / images_per_sec)}")
    return ", ".join(parts)


def _share(done: int, total: int) -> str:
    # Rounded down, because 100% must mean that all is done.
    return f"{1000 * done // total / 10}%"


def done_of(counts: Counts) -> int:
    """Return the number of rows that need no more work."""
    return worked_of(counts) + sum(counts.get(kind, 0) for kind in (DUPLICATE, KEPT, NOT_CHOSEN))


def worked_of(counts: Counts) -> int:
    """Return the number of images that this run has finished itself."""
    return counts.get(LABELLED, 0) + counts.get(FAILED, 0)


def _format_duration(seconds: float) -> str:
    minutes, sec = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{sec:02d}" if hours else f"{minutes}:{sec:02d}"


@contextmanager
def quiet_beam() -> Iterator[None]:
    """Suppress logs of Beam and its threads without --verbose, because Beam raises errors that matter."""
    if logging.getLogger().isEnabledFor(logging.INFO):
        yield
        return
    logging.disable(logging.CRITICAL)
    # Beam's threads raise when a job ends before them, and Python would print each traceback.
    hook, threading.excepthook = threading.excepthook, lambda _: None
    try:
        yield
    finally:
        threading.excepthook = hook
        logging.disable(logging.NOTSET)


@contextmanager
def shown(
    read: Callable[[], Counts],
    out: TextIO | None = None,
    least_sec: float = 0.0,
    status: Status | None = None,
) -> Iterator[Callable[[str], None]]:
    """Show progress while the body runs: one moving line on a terminal, else lines from time to time.

    Args:
      read: Reads the counts. It may block or raise.
      out: Text stream for the lines; by default standard error.
      least_sec: Shortest time between two readings.
      status: First words of each line. With it, lines come at least every 30 s, even without counts.

    Yields:
      A function that prints a line that stays.
    """
    out = out or sys.stderr
    stop = threading.Event()
    # A daemon, because a reading that hangs must not keep the process alive.
    thread = threading.Thread(target=_show, args=(read, out, stop, least_sec, status), daemon=True)
    thread.start()

    def print_line(line: str) -> None:
        out.write(f"\r\x1b[K{line}\n" if out.isatty() else f"{line}\n")
        out.flush()

    try:
        yield print_line
    finally:
        stop.set()
        thread.join(timeout=5)
        if out.isatty():
            out.write("\r\x1b[K")
            out.flush()


def _show(
    read: Callable[[], Counts],
    out: TextIO,
    stop: threading.Event,
    least_sec: float,
    status: Status | None,
) -> None:
    moving, readings = out.isatty(), _Readings(read, least_sec)
    printed_sec = time.monotonic()
    while not stop.wait(_TERMINAL_EVERY_SEC if moving else _PLAIN_EVERY_SEC):
        is_new = readings.update()
        is_silent = status and time.monotonic() - printed_sec >= _SILENCE_SEC
        # A moving line is written at each tick, because a line that stays may have taken its place.
        if moving or (is_new and readings.counts) or is_silent:
            line = describe(readings.counts, readings.images_per_sec)
            line = f"{status}: {line}" if status else line
            out.write(f"\r\x1b[K{line}" if moving else f"{line}\n")
            out.flush()
            printed_sec = time.monotonic()


class _Readings:
    """The last counts that could be read, and their rate."""

    def __init__(self, read: Callable[[], Counts], least_sec: float) -> None:
        self.counts: Counts = {}
        self.images_per_sec = 0.0
        self._read, self._least_sec, self._due_sec = read, least_sec, 0.0
        self._pace = Pace()
        self._reading: Future[Counts] | None = None

    def update(self) -> bool:
        """Start a reading that is due, and return whether new counts have come."""
        now_sec = time.monotonic()
        if self._reading is None and now_sec >= self._due_sec:
            # In a thread of its own, because a job service that does not respond must not stop the lines.
            self._due_sec, self._reading = now_sec + self._least_sec, start_call(self._read)
        if self._reading is None or not wait([self._reading], _READ_SEC).done:
            return False
        reading, self._reading = self._reading, None
        if reading.exception():  # a runner that cannot read its counts now may succeed at the next time
            return False
        self.counts = reading.result()
        self.images_per_sec = self._pace.images_per_sec(worked_of(self.counts), time.monotonic())
        return True
