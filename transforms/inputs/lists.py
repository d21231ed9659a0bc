"""Lists: lines of URIs, and CSV with a header."""

from __future__ import annotations

import codecs
import csv
import hashlib
import math
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from labelbeam.transforms.elements import Failure, ImageRef, id_of_uri
from labelbeam.transforms.errors import ImageError, Reason, RunError
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.inputs.files import MAX_LINE_BYTES, LongLine
from labelbeam.transforms.inputs.first_bytes import parse_header
from labelbeam.transforms.notes import UNPARSED, Notes
from labelbeam.transforms.outcomes import failure_of

Line = bytes | LongLine

# The reader's own limit of a field is 128 KiB, and its error would not name the line's length.
csv.field_size_limit(MAX_LINE_BYTES)


def parse_row(line: str, corpus: Corpus, notes: Notes) -> ImageRef:
    """Parse one line of a CSV.

    A value that is not of its column's declared type becomes null and is noted, because the image can be
    labelled all the same.

    Raises:
      ImageError: `bad_row`: fields are missing or too many, or the URI or id is empty.
    """
    try:
        fields = next(csv.reader([line], strict=True))
    except (csv.Error, StopIteration) as e:
        raise _bad_row(line, f"is not CSV ({e}); quoted line breaks can't be read") from e
    if len(fields) != len(corpus.header):
        raise _bad_row(line, f"has {len(fields)} fields where the header has {len(corpus.header)}")
    row = dict(zip(corpus.header, fields, strict=True))
    uri = row[corpus.uri_column].strip()
    image_id = row[corpus.id_column].strip() if corpus.id_column else id_of_uri(uri)
    if not uri or not image_id:
        raise _bad_row(line, f"has no {corpus.id_column if uri else corpus.uri_column}")
    values = tuple(_value(row[name], name, kind, notes) for name, kind in corpus.columns)
    return ImageRef(image_id, uri, values)


def _value(text: str, column: str, kind: pa.DataType, notes: Notes) -> Any:
    if pa.types.is_string(kind):
        return text
    text = text.strip()
    if text == "":
        return None
    try:
        value = pa.scalar(text).cast(kind).as_py()
        if isinstance(value, float) and math.isinf(value) and "inf" not in text.lower():
            raise OverflowError  # Arrow makes 1e400 infinite
    except (pa.ArrowInvalid, ValueError, OverflowError):
        notes.add(UNPARSED, column, text)
        return None
    return value


def _bad_row(line: str, what: str) -> ImageError:
    return ImageError(Reason.BAD_ROW, f"The line {line[:200]!r} {what}")


def check_start(lines: Iterator[Line], path: str, corpus: Corpus) -> Iterator[Line]:
    """Take the byte order mark off the first line of a file, and check and leave out a CSV's header.

    Raises:
      RunError: The header is not the one that the run was planned with.
    """
    first = next(lines, b"")
    start = first if isinstance(first, bytes) else first.head
    if corpus.kind == "csv":
        if (header := parse_header(start)) != corpus.header:
            its, planned = ", ".join(header), ", ".join(corpus.header)
            raise RunError(
                f"{path} has the columns {its}, and the first list has {planned}. Give all lists one header."
            )
    else:
        yield start.removeprefix(codecs.BOM_UTF8) if isinstance(first, bytes) else first
    yield from lines


def parse_line(line: Line, corpus: Corpus, notes: Notes) -> Iterator[ImageRef | Failure]:
    """Parse a line of a list; one that cannot be read fails under an id and URI made from the line.

    Yields:
      One row; none for an empty line.
    """
    if isinstance(line, LongLine):
        yield failure_of(_ref_of_long_line(line, corpus), "read", _too_long(line))
        return
    if not line.strip():
        return
    try:
        text = line.decode("utf-8")
        yield parse_row(text, corpus, notes) if corpus.kind == "csv" else _ref_of_uri(text)
    except UnicodeDecodeError as e:
        yield failure_of(_unreadable(line, corpus), "read", _bad_row(repr(line), f"is not UTF-8: {e}"))
    except ImageError as e:
        yield failure_of(_unreadable(line, corpus), "read", e)


def _ref_of_uri(uri: str) -> ImageRef:
    uri = uri.strip("\ufeff \t\r\n")  # lists that were joined have byte order marks in between
    return ImageRef(id_of_uri(uri), uri)


def _ref_of_long_line(line: LongLine, corpus: Corpus) -> ImageRef:
    return _unreadable(line.head, corpus, f"line {line.sha256}".encode())


def _too_long(line: LongLine) -> ImageError:
    return _bad_row(repr(line.head), f"has {line.size_bytes:,} bytes; the most are {MAX_LINE_BYTES:,}")


def _readable_id(line: bytes, corpus: Corpus) -> str | None:
    """Return the id of a line of which something else cannot be read.

    A row under its own id is the one that a corrected line replaces, and that a table's reader looks for.
    With fields missing or too many, only the first is surely where the header puts it.
    """
    if corpus.id_column is None:
        return None
    position = corpus.header.index(corpus.id_column)
    try:
        fields = next(csv.reader([line.decode("utf-8", "surrogateescape")], strict=True))
    except csv.Error:
        return None
    if len(fields) != len(corpus.header) and (position or len(fields) < 2):
        return None
    image_id = fields[position].strip()
    return image_id if image_id.encode("utf-8", "replace").decode("utf-8") == image_id else None


def _unreadable(line: bytes, corpus: Corpus, identity: bytes | None = None) -> ImageRef:
    line_id = _readable_id(line, corpus) or hashlib.sha256(identity or b"line " + line).hexdigest()[:32]
    nothing = (None,) * len(corpus.columns)
    return ImageRef(line_id, line[:1000].decode("utf-8", "backslashreplace"), nothing)
