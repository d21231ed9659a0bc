"""Reading a corpus: from what the user has to references."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from apache_beam.io.fileio import EmptyMatchTreatment, MatchFiles
from apache_beam.io.filesystem import FileMetadata
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics

from transforms.elements import Failure, ImageRef, id_of_uri
from transforms.errors import ImageError, Reason
from transforms.files import open_file
from transforms.layout import published_sources, read_manifest
from transforms.overlap import Outputs, failure_of, par_do, to_output
from transforms.rows import FAILURES

# What a folder's images are known by; a glob takes whatever it matches.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".jp2", ".avif"),
)

CorpusKind = Literal["lines", "csv", "images", "failures"]


@dataclass(frozen=True, slots=True)
class Corpus:
    """Where the images of a run are listed.

    Attributes:
      pattern: A file or a glob, as Beam's filesystems take it; of `failures`, an output folder.
      kind: `lines` (one URI a line), `csv` (with a header), `images` (the files themselves)
        or `failures` (images that failed).
      header: The CSV's column names.
      uri_column: Which of them holds the URI.
      id_column: Which of them holds the id; by default ids are made from URIs.
      columns: The columns that pass through, with their types.
      suffixes: Endings of file names to take, lower case; all if empty.
      reasons: Of `failures`, those to take.
    """

    pattern: str
    kind: CorpusKind
    header: tuple[str, ...] = ()
    uri_column: str = ""
    id_column: str | None = None
    columns: tuple[tuple[str, pa.DataType], ...] = ()
    suffixes: tuple[str, ...] = ()
    reasons: frozenset[str] = frozenset()


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
    text = text.strip()
    if text == "":
        return None
    try:
        return pa.scalar(text).cast(kind).as_py()
    except (pa.ArrowInvalid, ValueError, OverflowError) as e:
        raise ImageError(
            Reason.BAD_ROW,
            f"{column}={text!r} is no {kind}, which the column is. Mend the line and run again, or label "
            f"into another output with --column_types {column}=string",
        ) from e


def _bad_row(line: str, what: str) -> ImageError:
    return ImageError(Reason.BAD_ROW, f"The line {line[:200]!r} {what}")


def read_failures(path: str, corpus: Corpus) -> Iterator[ImageRef]:
    """Reads which images failed from a published file, for the reasons that the corpus names."""
    names = ["id", "uri", *(name for name, _ in corpus.columns)]
    reasons = pa.array(corpus.reasons, pa.string())
    with open_file(path) as f:
        for batch in pq.ParquetFile(f).iter_batches(columns=[*names, "reason"]):
            wanted = batch.filter(pc.is_in(batch["reason"], reasons))
            for image_id, uri, *values in zip(*(wanted[name].to_pylist() for name in names), strict=True):
                yield ImageRef(image_id, uri, tuple(values))


def parse_line(line: bytes, corpus: Corpus) -> Iterator[ImageRef | Failure]:
    """Parses a line of a list; one that cannot be read fails under an id and URI made from the line.

    Yields:
      One row; none for an empty line.
    """
    if not line.strip():
        return
    try:
        text = line.decode("utf-8")
        yield parse_row(text, corpus) if corpus.kind == "csv" else _ref_of_uri(text)
    except UnicodeDecodeError as e:
        yield failure_of(_unreadable(line, corpus), "read", _bad_row(repr(line), f"is not UTF-8: {e}"))
    except ImageError as e:
        yield failure_of(_unreadable(line, corpus), "read", e)


def name_file(path: str, corpus: Corpus) -> Iterator[ImageRef | Failure]:
    """Makes a row of an image file; none if its name does not end as it should, or is hidden in a folder."""
    hidden = bool(corpus.suffixes) and path.rpartition("/")[2].startswith(".")
    if not hidden and path.lower().endswith(corpus.suffixes or ("",)):
        yield from parse_line(path.encode("utf-8", "surrogateescape"), corpus)


def _ref_of_uri(uri: str) -> ImageRef:
    uri = uri.strip("\ufeff \t\r\n")  # a list may begin with a byte order mark
    return ImageRef(id_of_uri(uri), uri)


def _unreadable(line: bytes, corpus: Corpus) -> ImageRef:
    line_id = hashlib.sha256(b"line " + line).hexdigest()[:32]
    nothing = (None,) * len(corpus.columns)
    return ImageRef(line_id, line[:1000].decode("utf-8", "backslashreplace"), nothing)


def list_rows(corpus: Corpus, most_files: int | None = None) -> Iterator[ImageRef | Failure]:
    """Lists a corpus of `lines`, `csv` or `images` in one process: what `ReadImageRefs` does on many.

    Args:
      corpus: What to list.
      most_files: How many files to look for; by default all.

    Yields:
      Its rows, file by file in the order of their names.
    """
    (match,) = FileSystems.match([corpus.pattern], limits=None if most_files is None else [most_files])
    for file in sorted(match.metadata_list, key=lambda file: file.path):
        if corpus.kind == "images":
            yield from name_file(file.path, corpus)
            continue
        with FileSystems.open(file.path) as f:
            if corpus.kind == "csv":
                f.readline()
            for line in iter(f.readline, b""):
                yield from parse_line(line.removesuffix(b"\n").removesuffix(b"\r"), corpus)


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
            return Outputs(**par_do("NameFiles", files, _NameFilesFn(self.corpus), ImageRef))
        if self.corpus.kind == "failures":
            files = (
                pipeline
                | "Once" >> beam.Create([None], reshuffle=False)
                | "ListFailures" >> beam.ParDo(_ListFailuresFn(self.corpus)).with_output_types(str)
                | "Spread" >> beam.Reshuffle()
            )
            return Outputs(**par_do("ReadFailures", files, _ReadFailuresFn(self.corpus), ImageRef))
        header_lines = 1 if self.corpus.kind == "csv" else 0
        lines = pipeline | "ReadLines" >> beam.io.ReadFromText(
            self.corpus.pattern, skip_header_lines=header_lines, coder=beam.coders.BytesCoder()
        )
        return Outputs(**par_do("ParseLines", lines, _ParseLinesFn(self.corpus), ImageRef))


class _NameFilesFn(beam.DoFn):
    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._rows_in = Metrics.counter(ReadImageRefs, "rows_in")

    def process(self, file: FileMetadata) -> Iterator:
        for row in name_file(file.path, self._corpus):
            self._rows_in.inc()
            yield to_output(row)


class _ListFailuresFn(beam.DoFn):
    def __init__(self, corpus: Corpus) -> None:
        self._output = corpus.pattern

    def process(self, _: None) -> Iterator[str]:
        sources = published_sources(self._output, read_manifest(self._output))
        yield from (file.path for file, _ in sources if file.table == FAILURES)


class _ReadFailuresFn(beam.DoFn):
    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._rows_in = Metrics.counter(ReadImageRefs, "rows_in")

    def process(self, path: str) -> Iterator[ImageRef]:
        for ref in read_failures(path, self._corpus):
            self._rows_in.inc()
            yield ref


class _ParseLinesFn(beam.DoFn):
    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._rows_in = Metrics.counter(ReadImageRefs, "rows_in")

    def process(self, line: bytes) -> Iterator:
        for row in parse_line(line, self._corpus):
            self._rows_in.inc()
            yield to_output(row)
