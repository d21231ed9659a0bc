"""Line breaks within quotes: lines of a CSV that are one row together."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator

from labelbeam.transforms.inputs.delimiters import split_line
from labelbeam.transforms.inputs.files import MAX_LINE_BYTES, Line, ListFile, LongLine, Piece, read_lines


def join_quoted(lines: Iterator[Line], delimiter: str, fields: int) -> Iterator[Line]:
    """Join lines that are one row, because a quote of one ends in another.

    Args:
      lines: The lines of a file, without its header.
      delimiter: Delimiter of the fields.
      fields: Number of fields of a row.
    """
    for group in _group_lines(lines, delimiter, fields):
        # A long line is alone in its group, because nothing is joined beyond it.
        parts = [line for line in group if isinstance(line, bytes)]
        yield b"\n".join(parts) if parts else group[0]


def find_row_start(file: ListFile, position: int, delimiter: str, fields: int) -> int:
    """Return where the first row begins at or behind a position in a file that is not compressed.

    The position may lie within a row of several lines. The result depends on the position alone, so that of
    two pieces that meet there one ends where the other begins, and each line is in exactly one of them.
    """
    if position in (0, file.size_bytes):
        return position
    starts: list[int] = []

    def lines() -> Iterator[Line]:
        # From further ahead, because a row begins there whose quotes may reach beyond the position.
        for start, line in read_lines(Piece(file, max(position - MAX_LINE_BYTES, 0), file.size_bytes)):
            starts.append(start)
            yield line

    number = 0
    for group in _group_lines(lines(), delimiter, fields):
        if starts[number] >= position:
            return starts[number]
        number += len(group)
    return file.size_bytes


def _group_lines(lines: Iterator[Line], delimiter: str, fields: int) -> Iterator[list[Line]]:
    """Yield the lines of each row.

    A quote that is never closed takes no further rows with it: unless lines of up to `MAX_LINE_BYTES` are a
    row of the right number of fields together, and no line between the first and the last is such a row by
    itself, each of them stays a line of its own. Many lists have quotes that mean nothing.
    """
    waiting = deque[Line]()
    while (line := waiting.popleft() if waiting else next(lines, None)) is not None:
        if isinstance(line, LongLine) or b'"' not in line:
            yield [line]
            continue
        group: list[Line] = []
        reader = csv.reader(
            _texts(line, waiting, lines, group, delimiter, fields), delimiter=delimiter, strict=True
        )
        try:
            is_row = len(next(reader)) == fields
        except (csv.Error, StopIteration):
            is_row = False
        if is_row and _may_be_joined(group, delimiter, fields):
            yield group
        else:
            yield [line]
            waiting.extendleft(reversed(group[1:]))


def _may_be_joined(group: list[Line], delimiter: str, fields: int) -> bool:
    if len(group) == 1 or delimiter != "\t":
        return True
    # Tables with tabs are often written without quoting, so that a quote in front of a text means nothing.
    # A value with a line break hardly has tabs, too, and rows of an unquoted table have more tabs together.
    return sum(line.count(b"\t") for line in group if isinstance(line, bytes)) == fields - 1


def _texts(
    line: bytes, waiting: deque[Line], lines: Iterator[Line], group: list[Line], delimiter: str, fields: int
) -> Iterator[str]:
    """Yield a line and those behind it as far as one row may reach, and add them to `group`."""
    part: Line | None = line
    size_bytes = 0
    while part is not None:
        group.append(part)
        if isinstance(part, LongLine):
            return
        size_bytes += len(part) + 1
        if size_bytes > MAX_LINE_BYTES:
            return
        text = part.decode("utf-8", "surrogateescape")
        yield text + "\n"
        # Here, because a line is between others only once the reader needs one more.
        if part is not line and _is_row(text, delimiter, fields):
            return
        part = waiting.popleft() if waiting else next(lines, None)


def _is_row(text: str, delimiter: str, fields: int) -> bool:
    """Return whether a line is a row by itself; a quote within a value shows that it is a part of one."""
    values = split_line(text, delimiter)
    return len(values) == fields and not any('"' in value for value in values)
