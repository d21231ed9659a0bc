"""Line breaks within quotes: lines of a CSV that are one row together."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from labelbeam.transforms.images.formats import IMAGE_SUFFIXES
from labelbeam.transforms.inputs.delimiters import split_line
from labelbeam.transforms.inputs.files import MAX_LINE_BYTES, Line, ListFile, LongLine, Piece, read_lines


class Shape(NamedTuple):
    """The shape of rows.

    Attributes:
      delimiter: Delimiter of the fields.
      fields: Number of fields of a row.
      uri: Place of the URI among the fields; None if several fields make it.
    """

    delimiter: str
    fields: int
    uri: int | None


def join_quoted(lines: Iterator[Line], shape: Shape) -> Iterator[Line]:
    """Join lines of a file, without its header, that are one row, because a quote of one ends in another."""
    for group in _group_lines(lines, shape):
        # A long line is alone in its group, because nothing is joined beyond it.
        parts = [line for line in group if isinstance(line, bytes)]
        yield b"\n".join(parts) if parts else group[0]


def find_row_start(file: ListFile, position: int, shape: Shape) -> int:
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
    for group in _group_lines(lines(), shape):
        if starts[number] >= position:
            return starts[number]
        number += len(group)
    return file.size_bytes


def _group_lines(lines: Iterator[Line], shape: Shape) -> Iterator[list[Line]]:
    """Yield the lines of each row.

    A quote that is never closed takes no further rows with it: unless lines of up to `MAX_LINE_BYTES` are a
    row of the right number of fields together, and no line between the first and the last is a row with an
    address by itself, each of them stays a line of its own. Many lists have quotes that mean nothing.
    """
    waiting = deque[Line]()
    while (line := waiting.popleft() if waiting else next(lines, None)) is not None:
        if isinstance(line, LongLine) or b'"' not in line:
            yield [line]
            continue
        group: list[Line] = []
        texts = _texts(line, waiting, lines, group, shape)
        reader = csv.reader(texts, delimiter=shape.delimiter, strict=True)
        try:
            is_row = len(next(reader)) == shape.fields
        except (csv.Error, StopIteration):
            is_row = False
        if is_row and _may_be_joined(group, shape):
            yield group
        else:
            yield [line]
            waiting.extendleft(reversed(group[1:]))


def _may_be_joined(group: list[Line], shape: Shape) -> bool:
    if len(group) == 1 or shape.delimiter != "\t":
        return True
    # Tables with tabs are often written without quoting, so that a quote in front of a text means nothing.
    # A value with a line break hardly has tabs, too, and rows of an unquoted table have more tabs together.
    return sum(line.count(b"\t") for line in group if isinstance(line, bytes)) == shape.fields - 1


def _texts(
    line: bytes, waiting: deque[Line], lines: Iterator[Line], group: list[Line], shape: Shape
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
        if part is not line and _is_row(text, shape):
            return
        part = waiting.popleft() if waiting else next(lines, None)


def _is_row(text: str, shape: Shape) -> bool:
    """Return whether a line is a row by itself; a quote within a value shows that it is a part of one.

    Its URI must look like an address, because a line of a caption may well have a comma.
    """
    values = split_line(text, shape.delimiter)
    if shape.uri is None or len(values) != shape.fields or any('"' in value for value in values):
        return False
    uri = values[shape.uri].strip().lower()
    return "://" in uri or uri.startswith("/") or uri.endswith(IMAGE_SUFFIXES)
