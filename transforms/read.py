"""Reading a corpus: from lists, tables and folders to references."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.metrics import Metrics

from labelbeam.transforms.attempts import failure_of
from labelbeam.transforms.boxes import box_alone, expand_boxes
from labelbeam.transforms.elements import AnyImage, Failure, ImageRef, host_of_uri, id_of_uri
from labelbeam.transforms.errors import ImageError, Reason
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.inputs.formats import format_of, table_format_of
from labelbeam.transforms.notes import Notes
from labelbeam.transforms.outcomes import NotingFn, par_do, to_output
from labelbeam.transforms.shards import list_members, read_members
from labelbeam.transforms.sources.secrets import hide_in_message, hide_secrets, lacks_secrets, public_uri


class ReadOutcomes(NamedTuple):
    """The outputs of `ReadImageRefs`.

    Attributes:
      ok: `ImageRef`, one per readable row.
      failures: `Failure`, one per row that cannot be read.
      notes: `Notes` about the input.
    """

    ok: beam.PCollection
    failures: beam.PCollection
    notes: beam.PCollection


def list_images(corpus: Corpus, max_bytes: int) -> Iterator[AnyImage | Failure]:
    """List the images of a corpus, with the bytes of images inside files, `max_bytes` at most.

    Of images with boxes, each row is an image by itself.
    """
    if corpus.holds_images:
        yield from read_members(corpus, max_bytes)
        return
    for row in list_rows(corpus):
        yield box_alone(row) if corpus.boxes and isinstance(row, ImageRef) else row


def list_rows(corpus: Corpus) -> Iterator[ImageRef | Failure]:
    """List a corpus in one process, as `ReadImageRefs` does on many workers.

    Raises:
      RunError: A file is not the one that was planned, or is cut or damaged.
    """
    if corpus.holds_images:
        yield from list_members(corpus)
        return
    notes = Notes()
    for piece in format_of(corpus).split(corpus):
        yield from read_rows(piece, corpus, notes)


def read_rows(piece: Any, corpus: Corpus, notes: Notes) -> Iterator[ImageRef | Failure]:
    """Read the rows of a piece, as `CorpusFormat.read` does, with secrets hidden and a row for each box.

    Here and not in the formats, because no format can then forget it.
    """
    for row in format_of(corpus).read(piece, corpus, notes):
        yield from expand_boxes(hide_in_row(row, corpus), corpus, notes)


def hide_in_row(row: ImageRef | Failure, corpus: Corpus) -> ImageRef | Failure:
    """Return a row of a format with the public form of its URI, and the id of this form."""
    names = corpus.secret_params
    if isinstance(row, Failure):
        # The URI of such a row is its line.
        line = hide_secrets(row.ref.uri, names)
        message = hide_in_message(row.message, row.ref.uri, line)
        ref = dataclasses.replace(row.ref, uri=line)
        return dataclasses.replace(row, ref=ref, message=message, host=host_of_uri(line))
    if lacks_secrets(row.uri, names):
        return failure_of(row, "read", _lacks_secrets(row.uri))
    uri = public_uri(row.uri, names)
    if uri == row.uri:
        return row
    # Ids of failures stay, because their rows are replaced under these ids.
    is_own = corpus.id_column is not None or corpus.only_failed
    return dataclasses.replace(row, id=row.id if is_own else id_of_uri(uri, names), uri=uri, signed=row.uri)


def _lacks_secrets(uri: str) -> ImageError:
    return ImageError(
        Reason.BAD_URI, f"{uri!r:.300} lacks its secrets, which are in no table: list it as it was signed"
    )


@dataclass
class ReadImageRefs(beam.PTransform):
    """The step that lists a corpus.

    Input: the pipeline. Output: `ImageRef`, one per row or box. Failures: `read` (rows that cannot be read).
    Notes: files of a folder that are left out, values that are not of their column's type.
    Metrics: `rows_in`.
    Guarantees: each file of a list is whole and unchanged since the plan, or the run ends.

    Attributes:
      corpus: The corpus.
    """

    corpus: Corpus

    def expand(self, pipeline: beam.Pipeline) -> ReadOutcomes:
        pieces = _pieces(pipeline, self.corpus)
        return ReadOutcomes(**par_do("Read", pieces, _ReadFn(self.corpus), ImageRef, Failure, Notes))


def _pieces(pipeline: beam.Pipeline, corpus: Corpus) -> beam.PCollection:
    """Return the pieces of a corpus: those of lists by our own steps, rows of tables by Beam's."""
    if table := table_format_of(corpus):
        return pipeline | "ReadTable" >> table.source(corpus)
    # A list without files in place of a table, because pieces have the numbers of their inputs.
    tables = {n: table for n, part in enumerate(corpus.parts) if (table := table_format_of(part))}
    parts = tuple(Corpus("", "lines") if n in tables else part for n, part in enumerate(corpus.parts))
    pieces = (
        pipeline
        # Without a reshuffle, because one element can't be spread, and "Spread" follows.
        | "Once" >> beam.Create([None], reshuffle=False)
        | "Split" >> beam.ParDo(_SplitFn(dataclasses.replace(corpus, parts=parts))).with_output_types(Any)
        # A reshuffle, because Beam would fuse both steps otherwise, and one worker would read every file.
        | "Spread" >> beam.Reshuffle()
    )
    if not tables:
        return pieces
    rows = [
        pipeline
        | f"ReadTable{n}" >> table.source(corpus.parts[n])
        | f"Number{n}" >> beam.Map(_numbered, n).with_output_types(Any)
        for n, table in tables.items()
    ]
    return [pieces, *rows] | "AllPieces" >> beam.Flatten()


def _numbered(piece: Any, n: int) -> tuple[int, Any]:
    return n, piece


class _SplitFn(beam.DoFn):
    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus

    def process(self, _: None) -> Iterator[Any]:
        yield from format_of(self._corpus).split(self._corpus)


class _ReadFn(NotingFn):
    def __init__(self, corpus: Corpus) -> None:
        # Without the files, because `_SplitFn` carries them already.
        self._corpus = corpus.without_files()
        self._rows_in = Metrics.counter(ReadImageRefs, "rows_in")

    def process(self, piece: Any) -> Iterator:
        for row in read_rows(piece, self._corpus, self.notes):
            self._rows_in.inc()
            yield to_output(row)
