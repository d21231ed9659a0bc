"""Reading a corpus: from what the user has to references."""

from __future__ import annotations

import csv
import functools
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import apache_beam as beam
import pyarrow as pa
from apache_beam.io.fileio import EmptyMatchTreatment, MatchFiles
from apache_beam.io.filesystem import FileMetadata
from apache_beam.metrics import Metrics

from transforms.elements import ImageRef, id_of_uri
from transforms.errors import ImageError, Reason
from transforms.overlap import Outputs, failure_of, par_do, to_failures

# What a folder's images are known by; a glob takes whatever it matches.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".jp2", ".avif"),
)

CorpusKind = Literal["lines", "csv", "images"]


@dataclass(frozen=True, slots=True)
class Corpus:
    """Where the images of a run are listed.

    Attributes:
      pattern: A file or a glob, as Beam's filesystems take it.
      kind: `lines` (one URI a line), `csv` (with a header) or `images` (the files themselves).
      header: The CSV's column names.
      uri_column: Which of them holds the URI.
      id_column: Which of them holds the id; by default ids are made from URIs.
      columns: The columns that pass through, with their types.
      suffixes: Endings of file names to take, lower case; all if empty.
    """

    pattern: str
    kind: CorpusKind
    header: tuple[str, ...] = ()
    uri_column: str = ""
    id_column: str | None = None
    columns: tuple[tuple[str, pa.DataType], ...] = ()
    suffixes: tuple[str, ...] = ()


def parse_row(line: str, corpus: Corpus) -> ImageRef:
    """Parses one line of a CSV.

    Raises:
      ImageError: `bad_row`: fields are missing or too many, the URI or id is
        empty, or a value does not fit its column's type.
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
    return ImageRef(image_id, uri, tuple(_value(row[name], name, kind) for name, kind in corpus.columns))


def _value(text: str, column: str, kind: pa.DataType) -> Any:
    if pa.types.is_string(kind):
        return text
    if text == "":
        return None
    try:
        return pa.scalar(text).cast(kind).as_py()
    except pa.ArrowInvalid as e:
        raise ImageError(
            Reason.BAD_ROW,
            f"{column}={text!r} is no {kind}, which the first rows are; declare the column with "
            f"--column_types {column}=string",
        ) from e


def _bad_row(line: str, what: str) -> ImageError:
    return ImageError(Reason.BAD_ROW, f"The line {line[:200]!r} {what}")


@dataclass
class ReadImageRefs(beam.PTransform):
    """Lists a corpus.

    Input: the pipeline. Output: `ImageRef`. Failures: `read` (rows of a CSV
    that cannot be read). Metrics: `rows_in`.

    Attributes:
      corpus: What to list.
    """

    corpus: Corpus

    def expand(self, pipeline: beam.Pipeline) -> Outputs:
        """Applies the step."""
        if self.corpus.kind == "images":
            files = pipeline | MatchFiles(self.corpus.pattern, EmptyMatchTreatment.DISALLOW)
            return par_do("NameFiles", files, _NameFilesFn(self.corpus), ImageRef)
        header_lines = 1 if self.corpus.kind == "csv" else 0
        lines = pipeline | "ReadLines" >> beam.io.ReadFromText(
            self.corpus.pattern, skip_header_lines=header_lines, coder=beam.coders.BytesCoder()
        )
        return par_do("ParseLines", lines, _ParseLinesFn(self.corpus), ImageRef)


class _NameFilesFn(beam.DoFn):
    def __init__(self, corpus: Corpus) -> None:
        self._suffixes = corpus.suffixes
        self._rows_in = Metrics.counter(ReadImageRefs, "rows_in")

    def process(self, file: FileMetadata) -> Iterator:
        if self._suffixes and not file.path.lower().endswith(self._suffixes):
            return
        self._rows_in.inc()
        yield from _ok_or_failure(file.path.encode("utf-8", "surrogateescape"), _ref_of_uri)


class _ParseLinesFn(beam.DoFn):
    def __init__(self, corpus: Corpus) -> None:
        self._columns = len(corpus.columns)
        is_csv = corpus.kind == "csv"
        self._parse = functools.partial(parse_row, corpus=corpus) if is_csv else _ref_of_uri
        self._rows_in = Metrics.counter(ReadImageRefs, "rows_in")

    def process(self, line: bytes) -> Iterator:
        if line.strip():
            self._rows_in.inc()
            yield from _ok_or_failure(line, self._parse, self._columns)


def _ref_of_uri(uri: str) -> ImageRef:
    uri = uri.strip()
    return ImageRef(id_of_uri(uri), uri)


def _ok_or_failure(line: bytes, parse: Callable[[str], ImageRef], columns: int = 0) -> Iterator:
    """Parses a line; one that cannot be read fails under an id and URI made from the line."""
    try:
        yield parse(line.decode("utf-8"))
    except UnicodeDecodeError as e:
        error = _bad_row(repr(line), f"is not UTF-8: {e}")
        yield to_failures(failure_of(_unreadable(line, columns), "read", error))
    except ImageError as e:
        yield to_failures(failure_of(_unreadable(line, columns), "read", e))


def _unreadable(line: bytes, columns: int) -> ImageRef:
    line_id = hashlib.sha256(b"line " + line).hexdigest()[:32]
    return ImageRef(line_id, line[:1000].decode("utf-8", "backslashreplace"), (None,) * columns)
