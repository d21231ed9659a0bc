"""The board: what each thread of a loader is at, in memory that its parent can read.

The parent reads it when the loader is dead or hangs, and messages could not come any more.
"""

from __future__ import annotations

import mmap
import os
import sys
import tempfile
import time
from typing import Literal, NamedTuple

Stage = Literal["fetch", "decode"]

_STAGES: tuple[Stage, ...] = ("fetch", "decode")
# A row is three words: number of the image, index of the stage, start on the monotonic clock in ns. A
# number of -1 is a free row.
_ROW_WORDS, _WORD_BYTES = 3, 8


def nameless_file() -> int:
    """Return the descriptor of a new file that the system frees with the last process that has it."""
    # In memory where the system can, because /dev/shm may be small in a container.
    if sys.platform == "linux":
        return os.memfd_create("labelbeam")
    with tempfile.TemporaryFile() as f:
        return os.dup(f.fileno())


class Row(NamedTuple):
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
        self._memory = mmap.mmap(fd, rows * _ROW_WORDS * _WORD_BYTES)
        # Words, because the system stores an aligned word at once; a packed row could be read half written.
        self._words = memoryview(self._memory).cast("q")
        self._rows = rows

    @classmethod
    def create(cls, rows: int) -> tuple[Board, int]:
        """Return a new board with free rows, and the descriptor of its file."""
        fd = nameless_file()
        os.ftruncate(fd, rows * _ROW_WORDS * _WORD_BYTES)
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
        first = _ROW_WORDS * row
        # The row is free until it is whole, because the parent would take an old start for the image's own.
        self._words[first] = -1
        self._words[first + 1] = _STAGES.index(stage)
        self._words[first + 2] = time.monotonic_ns() - spent_ns
        self._words[first] = number

    def clear(self, row: int) -> None:
        """Enter that a thread is at no image, or waits for others."""
        self._words[_ROW_WORDS * row] = -1

    def read(self) -> list[Row]:
        """Return the images that threads are at."""
        now = time.monotonic_ns()
        rows_at_work = []
        for first in range(0, _ROW_WORDS * self._rows, _ROW_WORDS):
            number, stage, start = self._words[first : first + _ROW_WORDS]
            # Compared once more, because the loader may have gone on to another image meanwhile.
            if number >= 0 and self._words[first] == number:
                rows_at_work.append(Row(number, _STAGES[stage], (now - start) // 1000))
        return rows_at_work

    def close(self) -> None:
        """Unmap the board."""
        self._words.release()
        self._memory.close()
