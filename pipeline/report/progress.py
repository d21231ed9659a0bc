"""Progress: what a person sees while a run goes."""

from __future__ import annotations

import logging
import mmap
import os
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from labelbeam.transforms.count import DUPLICATE, FAILED, KEPT, KINDS, LABELLED, LISTED
from labelbeam.transforms.process import once_per_process

_LAYOUT = struct.Struct(f"<{len(KINDS)}q")
_TERMINAL_EVERY_SEC, _PLAIN_EVERY_SEC = 0.5, 10.0

Counts = dict[str, int]


@dataclass(frozen=True)
class Tally:
    """Counts that the local worker processes share with whoever watches.

    Each process keeps its own numbers in a small mapped file, so that counting
    costs a memory write and a reader sees them at once.

    Attributes:
      folder: Where those files are.
    """

    folder: Path

    def __call__(self, kind: str, count: int) -> None:
        """Adds to this process's numbers."""
        board = _board(self.folder, os.getpid())
        with board.lock:
            board.numbers[KINDS.index(kind)] += count
            _LAYOUT.pack_into(board.memory, 0, *board.numbers)

    def read(self) -> Counts:
        """Adds up the numbers of all processes."""
        boards = [_LAYOUT.unpack(path.read_bytes()) for path in self.folder.glob("*.tally")]
        return dict(zip(KINDS, map(sum, zip(*boards, strict=True)), strict=True)) if boards else {}


class _Board:
    def __init__(self, path: Path) -> None:
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(bytes(_LAYOUT.size))
        temporary.rename(path)
        with path.open("r+b") as f:
            self.memory = mmap.mmap(f.fileno(), _LAYOUT.size)
        self.numbers = [0] * len(KINDS)
        self.lock = threading.Lock()


@once_per_process
def _board(folder: Path, pid: int) -> _Board:
    return _Board(folder / f"{pid}.tally")


@dataclass
class Pace:
    """How fast images are done, from when the first one was.

    Attributes:
      started: When the first image was seen to be done, seconds of a steady clock.
      before: How many were done then.
    """

    started: float | None = None
    before: int = 0

    def images_per_sec(self, done: int, now: float) -> float:
        """The mean rate; 0 until it is known."""
        if not done:
            return 0.0
        if self.started is None:
            self.started, self.before = now, done
        return (done - self.before) / (now - self.started) if now > self.started else 0.0


def describe(counts: Counts, images_per_sec: float) -> str:
    """One line on how far a run is; an input is listed as a whole before its images are labelled."""
    if not counts:
        return "nothing counted yet"
    done, total = done_of(counts), counts.get(LISTED, 0)
    parts = [f"{done:,} of {total:,} images", _share(done, total)] if total else [f"{done:,} images"]
    if images_per_sec:
        parts.append(f"{images_per_sec:,.1f} images/s")
    parts.append(f"{counts.get(FAILED, 0):,} failed")
    if images_per_sec and total > done:
        parts.append(f"ETA {_duration((total - done) / images_per_sec)}")
    return ", ".join(parts)


def _share(done: int, total: int) -> str:
    """Rounded down: all is done at 100%, and not before."""
    return f"{1000 * done // total / 10}%"


def done_of(counts: Counts) -> int:
    """The rows that need nothing more."""
    return worked_of(counts) + counts.get(DUPLICATE, 0) + counts.get(KEPT, 0)


def worked_of(counts: Counts) -> int:
    """The images that this run itself has finished."""
    return counts.get(LABELLED, 0) + counts.get(FAILED, 0)


def _duration(seconds: float) -> str:
    minutes, sec = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{sec:02d}" if hours else f"{minutes}:{sec:02d}"


@contextmanager
def quiet_beam() -> Iterator[None]:
    """Keeps away what Beam and its threads say, but with --verbose: what matters Beam raises."""
    if logging.getLogger().isEnabledFor(logging.INFO):
        yield
        return
    logging.disable(logging.CRITICAL)
    hook, threading.excepthook = threading.excepthook, lambda _: None
    try:
        yield
    finally:
        threading.excepthook = hook
        logging.disable(logging.NOTSET)


@contextmanager
def shown(
    read: Callable[[], Counts], out: TextIO | None = None, least_sec: float = 0.0
) -> Iterator[Callable[[str], None]]:
    """Shows progress while the body runs: one moving line on a terminal, else a line now and then.

    Args:
      read: Tells how far it is.
      out: Where it is shown; by default on standard error.
      least_sec: Shortest time from one reading to the next, where reading is dear.

    Yields:
      What shows a line that stays.
    """
    out = out or sys.stderr
    stop = threading.Event()
    thread = threading.Thread(target=_show, args=(read, out, stop, least_sec), daemon=True)
    thread.start()

    def say(line: str) -> None:
        out.write(f"\r\x1b[K{line}\n" if out.isatty() else f"{line}\n")
        out.flush()

    try:
        yield say
    finally:
        stop.set()
        thread.join(timeout=5)
        if out.isatty():
            out.write("\r\x1b[K")
            out.flush()


def _show(read: Callable[[], Counts], out: TextIO, stop: threading.Event, least_sec: float) -> None:
    moving, pace = out.isatty(), Pace()
    line, due_sec = "", 0.0
    while not stop.wait(_TERMINAL_EVERY_SEC if moving else _PLAIN_EVERY_SEC):
        now_sec = time.monotonic()
        if now_sec >= due_sec:
            due_sec = now_sec + least_sec
            try:
                counts = read()
            except Exception:  # what a runner can't tell now it may tell the next time
                continue
            line = describe(counts, pace.images_per_sec(worked_of(counts), time.monotonic()))
            if not counts and not moving:
                continue
        elif not line or not moving:  # a moving line comes back after one that stays
            continue
        out.write(f"\r\x1b[K{line}" if moving else f"{line}\n")
        out.flush()
