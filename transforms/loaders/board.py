"""The board: what each thread of a loader is at, in memory that its parent can read.

The parent reads it when the loader is dead or hangs, and messages could not come any more.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
import tempfile
import time
from typing import Literal, NamedTuple

Stage = Literal["fetch", "decode"]

_STAGES: tuple[Stage, ...] = ("fetch", "decode")
# Number of the image, index of the stage, start on the system's monotonic clock in ns. A number of -1 is a
# free row.
_ROW = struct.Struct("<qqq")


def nameless_file() -> int:
    """Return the descriptor of a new file that the system frees with the last process that has it."""
    # In memory where the system can, because /dev/shm may be small in a container.
    if sys.platform == "linux":
        return os.memfd_create("labelbeam")
    with tempfile.TemporaryFile() as f:
        return os.dup(f.fileno())


class Entry(NamedTuple):
    """The image that a thread is at.

    Attributes:
      number: Number of the image.
      stage: What is done to it.
      usec: Time since its start, without waiting for other images.
    """

    number: int
    stage: Stage
    usec: int


class Board:
    """Rows of a file without a name, one a thread."""

    def __init__(self, fd: int, rows: int) -> None:
        """Map a board.

        Args:
          fd: Descriptor of the file, which stays open.
          rows: Number of rows.
        """
        self._memory = mmap.mmap(fd, rows * _ROW.size)
        self._rows = rows

    @classmethod
    def create(cls, rows: int) -> tuple[Board, int]:
        """Return a new board with free rows, and the descriptor of its file."""
        fd = nameless_file()
        os.ftruncate(fd, rows * _ROW.size)
        board = cls(fd, rows)
        for row in range(rows):
            board.clear(row)
        return board, fd

    def write(self, row: int, number: int, stage: Stage, spent_ns: int) -> None:
        """Enter an image.

        Args:
          row: Row of the thread.
          number: Number of the image.
          stage: What is done to it from now on.
          spent_ns: Time that was spent on it before.
        """
        start = time.monotonic_ns() - spent_ns
        _ROW.pack_into(self._memory, row * _ROW.size, number, _STAGES.index(stage), start)

    def clear(self, row: int) -> None:
        """Enter that a thread is at no image, or waits for others."""
        _ROW.pack_into(self._memory, row * _ROW.size, -1, 0, 0)

    def read(self) -> list[Entry]:
        """Return the images that threads are at."""
        now = time.monotonic_ns()
        rows = [self._whole(row) for row in range(self._rows)]
        return [Entry(n, _STAGES[stage], (now - start) // 1000) for n, stage, start in rows if n >= 0]

    def _whole(self, row: int) -> tuple[int, int, int]:
        # Read twice, because the loader may be writing: a row that changes meanwhile is read again.
        while True:
            first, second = (_ROW.unpack_from(self._memory, row * _ROW.size) for _ in range(2))
            if first == second:
                return first

    def close(self) -> None:
        """Unmap the board."""
        self._memory.close()
