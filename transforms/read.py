"""Reading a corpus: from lists, tables and folders to references."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.metrics import Metrics

from labelbeam.transforms.elements import Failure, ImageRef
from labelbeam.transforms.errors import RunError
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.inputs.failures import list_failure_files, read_failures
from labelbeam.transforms.inputs.files import Piece, read_piece, split_files
from labelbeam.transforms.inputs.globs import list_paths
from labelbeam.transforms.inputs.images import name_file
from labelbeam.transforms.inputs.lists import check_start, parse_line
from labelbeam.transforms.notes import Notes
from labelbeam.transforms.outcomes import par_do, to_output


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


def list_rows(corpus: Corpus, most_files: int | None = None) -> Iterator[ImageRef | Failure]:
    """List a corpus of `lines`, `csv` or `images` in one process, as `ReadImageRefs` does on many workers.

    Args:
      corpus: The corpus.
      most_files: Largest number of objects to list in a bucket; by default all.

    Yields:
      Rows, file by file.

    Raises:
      RunError: A file is not the one that was planned, or is cut or damaged.
    """
    notes = Notes()
    if corpus.kind == "images":
        for path in list_paths(corpus.pattern, notes, most_files):
            yield from name_file(path, corpus, notes)
        return
    for file in corpus.files:
        yield from _rows_of(Piece(file, 0, file.size_bytes), corpus, notes)


def _rows_of(piece: Piece, corpus: Corpus, notes: Notes) -> Iterator[ImageRef | Failure]:
    lines = read_piece(piece)
    if piece.start == 0:
        lines = check_start(lines, piece.file.path, corpus)
    for line in lines:
        yield from parse_line(line, corpus, notes)


@dataclass
class ReadImageRefs(beam.PTransform):
    """The step that lists a corpus.

    Input: the pipeline. Output: `ImageRef`. Failures: `read` (lines that cannot be read).
    Notes: files of a folder that are left out, values that are not of their column's type.
    Metrics: `rows_in`.
    Guarantees: each file of a list is whole and unchanged since the plan, or the run ends.

    Attributes:
      corpus: The corpus.
    """

    corpus: Corpus

    def expand(self, pipeline: beam.Pipeline) -> ReadOutcomes:
        # Each "Spread" is a reshuffle, because Beam would fuse listing with reading otherwise, and one worker
        # would read every file. A folder needs none: its listing gives the rows themselves.
        once = beam.Create([None], reshuffle=False)
        if self.corpus.kind == "images":
            return _read_rows(pipeline | "Once" >> once, "ListImages", _ListImagesFn(self.corpus))
        if self.corpus.kind == "failures":
            files = (
                pipeline
                | "Once" >> once
                | "ListFailures" >> beam.ParDo(_ListFailuresFn(self.corpus)).with_output_types(str)
                | "Spread" >> beam.Reshuffle()
            )
            return _read_rows(files, "ReadFailures", _ReadFailuresFn(self.corpus))
        pieces = (
            pipeline
            | "Once" >> once
            | "SplitFiles" >> beam.ParDo(_SplitFilesFn(self.corpus)).with_output_types(Piece)
            | "Spread" >> beam.Reshuffle()
        )
        return _read_rows(pieces, "ReadLines", _ReadLinesFn(self.corpus))


def _read_rows(elements: beam.PCollection, label: str, fn: _RowsFn) -> ReadOutcomes:
    return ReadOutcomes(**par_do(label, elements, fn, ImageRef, Failure, Notes))


class _RowsFn(beam.DoFn):
    """A DoFn that yields rows, and one `Notes` for a bundle."""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._rows_in = Metrics.counter(ReadImageRefs, "rows_in")

    def start_bundle(self) -> None:
        self._notes = Notes()

    def rows(self, element: Any) -> Iterator[ImageRef | Failure]:
        """Yield the rows of an element."""
        raise NotImplementedError

    def process(self, element: Any) -> Iterator:
        for row in self.rows(element):
            self._rows_in.inc()
            yield to_output(row)

    def finish_bundle(self) -> Iterator:
        if self._notes:
            yield to_output(self._notes, is_last=True)


class _ListImagesFn(_RowsFn):
    def rows(self, _: None) -> Iterator[ImageRef | Failure]:
        is_empty = True
        for path in list_paths(self._corpus.pattern, self._notes):
            is_empty = False
            yield from name_file(path, self._corpus, self._notes)
        if is_empty:
            raise RunError(f"{self._corpus.pattern!r} matches no file any more. Check the name.")


class _ListFailuresFn(beam.DoFn):
    def __init__(self, corpus: Corpus) -> None:
        self._output = corpus.pattern

    def process(self, _: None) -> Iterator[str]:
        yield from list_failure_files(self._output)


class _ReadFailuresFn(_RowsFn):
    def rows(self, path: str) -> Iterator[ImageRef | Failure]:
        yield from read_failures(path, self._corpus)


class _SplitFilesFn(beam.DoFn):
    def __init__(self, corpus: Corpus) -> None:
        self._files = corpus.files

    def process(self, _: None) -> Iterator[Piece]:
        yield from split_files(self._files)


class _ReadLinesFn(_RowsFn):
    def __init__(self, corpus: Corpus) -> None:
        # Without the files, because a job's size is limited and each step would carry them.
        super().__init__(dataclasses.replace(corpus, files=()))

    def rows(self, piece: Piece) -> Iterator[ImageRef | Failure]:
        yield from _rows_of(piece, self._corpus, self._notes)
