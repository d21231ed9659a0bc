"""Line breaks within quotes: lines of a CSV that are one row together."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator

from labelbeam.transforms.inputs.files import MAX_LINE_BYTES, Line, LongLine


def join_quoted(lines: Iterator[Line], delimiter: str, fields: int) -> Iterator[Line]:
    """Join lines that are one row, because a quote of one ends in another.

    A quote that is never closed takes no further rows with it: unless lines of up to `MAX_LINE_BYTES` are a
    row of the right number of fields together, each of them stays a line of its own.

    Args:
      lines: The lines of a file, without its header.
      delimiter: Delimiter of the fields.
      fields: Number of fields of a row.
    """
    waiting = deque[Line]()
    while (line := waiting.popleft() if waiting else next(lines, None)) is not None:
        if isinstance(line, LongLine) or b'"' not in line:
            yield line
            continue
        taken: list[Line] = []
        reader = csv.reader(_texts(line, waiting, lines, taken), delimiter=delimiter, strict=True)
        try:
            is_row = len(next(reader)) == fields
        except (csv.Error, StopIteration):
            is_row = False
        parts = [part for part in taken if isinstance(part, bytes)]
        if is_row and len(parts) == len(taken):
            yield b"\n".join(parts)
        else:
            yield line
            waiting.extendleft(reversed(taken[1:]))


def _texts(line: bytes, waiting: deque[Line], lines: Iterator[Line], taken: list[Line]) -> Iterator[str]:
    """Yield a line and those behind it as far as one row may reach, and add them to `taken`."""
    part: Line | None = line
    size_bytes = 0
    while part is not None:
        taken.append(part)
        if isinstance(part, LongLine):
            return
        size_bytes += len(part) + 1
        if size_bytes > MAX_LINE_BYTES:
            return
        yield part.decode("utf-8", "surrogateescape") + "\n"
        part = waiting.popleft() if waiting else next(lines, None)
