"""Reading a corpus: from lists, tables and folders to references."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.metrics import Metrics

from labelbeam.transforms.elements import Failure, ImageRef
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.inputs.formats import format_of
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


def list_rows(corpus: Corpus) -> Iterator[ImageRef | Failure]:
    """List a corpus in one process, as `ReadImageRefs` does on many workers.

    Raises:
      RunError: A file is not the one that was planned, or is cut or damaged.
    """
    form, notes = format_of(corpus), Notes()
    for piece in form.split(corpus):
        yield from form.read(piece, corpus, notes)


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
        pieces = (
            pipeline
            # Without a reshuffle, because one element can't be spread, and "Spread" follows.
            | "Once" >> beam.Create([None], reshuffle=False)
            | "Split" >> beam.ParDo(_SplitFn(self.corpus)).with_output_types(Any)
            # A reshuffle, because Beam would fuse both steps otherwise, and one worker would read every file.
            | "Spread" >> beam.Reshuffle()
        )
        return ReadOutcomes(**par_do("Read", pieces, _ReadFn(self.corpus), ImageRef, Failure, Notes))


class _SplitFn(beam.DoFn):
    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus

    def process(self, _: None) -> Iterator[Any]:
        yield from format_of(self._corpus).split(self._corpus)


class _ReadFn(beam.DoFn):
    """A DoFn that yields rows, and one `Notes` for a bundle."""

    def __init__(self, corpus: Corpus) -> None:
        # Without the files, because a job's size is limited and `_SplitFn` carries them already.
        self._corpus = dataclasses.replace(corpus, files=())
        self._rows_in = Metrics.counter(ReadImageRefs, "rows_in")

    def start_bundle(self) -> None:
        # One value a bundle, because a note for each file that is left out would be as many elements as rows.
        self._notes = Notes()

    def process(self, piece: Any) -> Iterator:
        for row in format_of(self._corpus).read(piece, self._corpus, self._notes):
            self._rows_in.inc()
            yield to_output(row)

    def finish_bundle(self) -> Iterator:
        if self._notes:
            yield to_output(self._notes, is_last=True)
