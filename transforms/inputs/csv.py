"""CSV: one image a row, with a header of column names, and columns separated by any character."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Final

import pyarrow as pa

from labelbeam.transforms.elements import ImageRef
from labelbeam.transforms.errors import RunError, UserError
from labelbeam.transforms.inputs.columns import add_columns, make_ref
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.inputs.delimiters import find_delimiter, split_line
from labelbeam.transforms.inputs.files import MAX_LINE_BYTES, Line, Piece
from labelbeam.transforms.inputs.first_bytes import (
    START_BYTES,
    explain_binary,
    explain_markup,
    first_line,
    without_mark,
)
from labelbeam.transforms.inputs.formats import InputFormat, ReadOptions
from labelbeam.transforms.inputs.inventories import is_left_out
from labelbeam.transforms.inputs.lists import ListFormat, bad_row, list_suffixes
from labelbeam.transforms.inputs.quotes import Shape, find_row_start, join_quoted
from labelbeam.transforms.inputs.templates import RowFault
from labelbeam.transforms.notes import Notes
from labelbeam.transforms.table.column_types import fit_text

# The reader's own limit of a field is 128 KiB, and its error would not name the line's length.
csv.field_size_limit(MAX_LINE_BYTES)

_LINE_BREAKS = (
    "line breaks in quotes are read in rows of up to 1 MiB without an inner line that is a row by itself"
)


class _Csv(ListFormat):
    name = "csv"
    suffixes = list_suffixes(".csv", ".tsv", ".tab", ".psv")
    has_columns = True

    def explain(self, start: bytes) -> str | None:
        return explain_binary(start) or explain_markup(start)

    def describe(
        self,
        corpus: Corpus,
        starts: Mapping[str, bytes],
        options: ReadOptions,
        known_types: Mapping[str, pa.DataType],
    ) -> Corpus:
        """Return the corpus with the columns of the header, which must be the same in all files."""
        path, start = next(iter(starts.items()))
        corpus = dataclasses.replace(corpus, delimiter=find_delimiter(first_line(start), path, options))
        if options.header:
            _check_first_lines(starts, options.header, corpus.delimiter)
            corpus = dataclasses.replace(corpus, header=options.header, has_header_line=False)
            return add_columns(corpus, options.header, path, options, known_types)
        headers = {path: _checked_header(path, start, corpus.delimiter) for path, start in starts.items()}
        path, header = next(iter(headers.items()))
        for other, its_header in headers.items():
            if its_header != header:
                its, first = ", ".join(its_header), ", ".join(header)
                raise UserError(
                    f"{other} has the columns {its}, and {path} has {first}: they must be the same. Give "
                    "lists with other columns to a run with an --output of its own."
                )
        corpus = dataclasses.replace(corpus, header=header)
        return add_columns(corpus, header, path, options, known_types)

    def lines_of(self, piece: Piece, corpus: Corpus) -> Iterator[Line]:
        place = None if corpus.uri_template else corpus.header.index(corpus.uri_column)
        shape = Shape(corpus.delimiter, len(corpus.header), place)
        # Of a split file, whole rows, because a piece may begin or end within quotes.
        start, end = (find_row_start(piece.file, edge, shape) for edge in (piece.start, piece.end))
        return join_quoted(super().lines_of(Piece(piece.file, start, end), corpus), shape)

    def check_start(self, lines: Iterator[Line], path: str, corpus: Corpus) -> Iterator[Line]:
        """Check the header of a file, and leave it out."""
        if not corpus.has_header_line:
            yield from super().check_start(lines, path, corpus)
            return
        first = next(lines, b"")
        start = first if isinstance(first, bytes) else first.head
        if (header := _parse_header(start, corpus.delimiter)) != corpus.header:
            its, planned = ", ".join(header), ", ".join(corpus.header)
            raise RunError(
                f"{path} has the columns {its}, and the first list has {planned}. Give all lists one header."
            )
        yield from lines

    def parse(self, line: str, corpus: Corpus, notes: Notes) -> ImageRef | None:
        """Parse one line.

        A value that is not of its column's declared type becomes null and is noted, because the image can be
        labelled all the same.

        Raises:
          ImageError: `bad_row`: fields are missing or too many, or there is no URI or id.
        """
        try:
            fields = next(csv.reader([line], delimiter=corpus.delimiter, strict=True))
        except (csv.Error, StopIteration) as e:
            raise bad_row(line, f"is not CSV ({e}); {_LINE_BREAKS}") from e
        if len(fields) != len(corpus.header):
            raise bad_row(line, f"has {len(fields)} fields where the header has {len(corpus.header)}")
        row = dict(zip(corpus.header, fields, strict=True))
        if is_left_out(row, corpus.known, notes):
            return None
        values = tuple(fit_text(row[name], name, kind, notes) for name, kind in corpus.columns)
        try:
            return make_ref(row, values, corpus)
        except RowFault as e:
            raise bad_row(line, str(e)) from e

    def readable_id(self, line: bytes, corpus: Corpus) -> str | None:
        if corpus.id_column is None:
            return None
        position = corpus.header.index(corpus.id_column)
        fields = split_line(line.decode("utf-8", "surrogateescape"), corpus.delimiter)
        if not fields:
            return None
        # With fields missing or too many, only the first is surely where the header puts it.
        if len(fields) != len(corpus.header) and (position or len(fields) < 2):
            return None
        image_id = fields[position].strip()
        return image_id if image_id.encode("utf-8", "replace").decode("utf-8") == image_id else None


def _parse_header(start: bytes, delimiter: str) -> tuple[str, ...]:
    return tuple(split_line(first_line(start), delimiter))


def _check_first_lines(starts: Mapping[str, bytes], header: tuple[str, ...], delimiter: str) -> None:
    """Check that the files fit the names of `--header`."""
    for path, start in starts.items():
        first = _parse_header(start, delimiter)
        shown = f"--header={','.join(header)!r}"
        if first == header:
            raise UserError(f"{path} begins with a line of the names in {shown}. Remove --header.")
        if first and len(first) != len(header):
            raise UserError(
                f"{path} has {len(first)} columns in its first line, and {shown} has {len(header)} names. "
                "Name each column."
            )


def _checked_header(path: str, start: bytes, delimiter: str) -> tuple[str, ...]:
    if len(start) >= START_BYTES and b"\n" not in start:
        raise UserError(f"{path} has a header of more than {START_BYTES:,} bytes. Remove columns.")
    if not without_mark(start).strip():
        raise UserError(
            f"{path} is empty. Put a line with the columns' names first, and a line for each image."
        )
    header = _parse_header(start, delimiter)
    # Distinct without case, because DuckDB and other readers of the table ignore the case of columns.
    names = [name.casefold() for name in header]
    repeated = next((f" ({name!r} occurs twice)" for name in names if names.count(name) > 1), "")
    are_names = names and all(name and "://" not in name and not name.startswith("/") for name in names)
    if repeated or not are_names:
        raise UserError(
            f"{path} begins with {first_line(start)[:200]!r}, which is no header of distinct column names"
            f"{repeated}. "
            "Put a line with the columns' names first, give the names with --header, or add "
            "--input_format=lines if each line is one URI."
        )
    return header


FORMAT: Final[InputFormat] = _Csv()
