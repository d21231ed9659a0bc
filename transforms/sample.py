"""Sampling: the rows of the input whose images are chosen."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import apache_beam as beam

from labelbeam.transforms.choose import Choice, FindBound, bound_of, find_bound
from labelbeam.transforms.count import NOT_CHOSEN
from labelbeam.transforms.elements import AnyImage, Failure, ImageRef, ref_of
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.outcomes import Outcomes, par_do, to_output
from labelbeam.transforms.read import list_images, list_rows
from labelbeam.transforms.select import SelectOutcomes, id_of

Row = TypeVar("Row", bound=AnyImage | Failure)


def list_chosen(corpus: Corpus, choice: Choice) -> Iterator[ImageRef | Failure]:
    """List the chosen rows of a corpus in one process, which reads it twice if there is a limit.

    Raises:
      RunError: A file is not the one that was planned, or is cut or damaged.
    """
    return _chosen(list_rows(corpus), corpus, choice)


def first_chosen(
    corpus: Corpus, choice: Choice, images: int, max_bytes: int, most: int | None = None
) -> list[AnyImage | Failure]:
    """Return the first chosen images of a corpus, each once, and with one of its boxes.

    Args:
      corpus: The corpus.
      choice: Images to choose.
      images: Number of images to return.
      max_bytes: Largest image inside a file.
      most: Number of rows after which no more are read; the images are then chosen among these.

    Raises:
      RunError: A file is not the one that was planned, or is cut or damaged.
    """
    first: dict[str, AnyImage | Failure] = {}
    for row in _chosen(list_images(corpus, max_bytes), corpus, choice, most):
        first.setdefault(choice.image_id_of(ref_of(row).id), row)
        if len(first) == images:
            break
    return list(first.values())


def _chosen(rows: Iterator[Row], corpus: Corpus, choice: Choice, most: int | None = None) -> Iterator[Row]:
    rows = itertools.islice(rows, most)
    if choice.is_all:
        return rows
    bound = find_bound(map(id_of, itertools.islice(list_rows(corpus), most)), choice)
    return (row for row in rows if choice.draw_of(ref_of(row).id) < bound)


@dataclass
class ChooseRows(beam.PTransform):
    """The step that chooses rows by their ids.

    Input: `Outcomes` of `ReadImageRefs`. Output: those of chosen ids, and `(not_chosen, rows)`.
    Guarantees: an id is chosen with all of its rows or with none, and by itself alone, unless there is a
    limit. With a limit, all ids are read before the first one is passed on.

    Attributes:
      choice: Images to label.
    """

    choice: Choice

    def expand(self, rows: Outcomes) -> SelectOutcomes:
        bound: int | beam.pvalue.AsSingleton = bound_of(self.choice.share)
        if self.choice.limit is not None:
            ids = [
                rows | f"IdsOf{name}" >> beam.Map(id_of).with_output_types(str)
                for name, rows in (("Refs", rows.ok), ("BadRows", rows.failures))
            ] | beam.Flatten()
            bound = beam.pvalue.AsSingleton(ids | "FindBound" >> FindBound(self.choice))
        refs = par_do(
            "ChooseRefs", rows.ok, _ChooseFn(self.choice), ImageRef, tuple[str, int], side_input=bound
        )
        bad = par_do(
            "ChooseBadRows", rows.failures, _ChooseFn(self.choice), Failure, tuple[str, int], side_input=bound
        )
        counts = (refs["counts"], bad["counts"]) | "Counts" >> beam.Flatten()
        return SelectOutcomes(refs["ok"], bad["ok"], counts)


class _ChooseFn(beam.DoFn):
    def __init__(self, choice: Choice) -> None:
        self._choice = choice

    def start_bundle(self) -> None:
        self._left_out = 0

    def process(self, row: ImageRef | Failure, bound: int) -> Iterator:
        if self._choice.draw_of(id_of(row)) < bound:
            yield row
        else:
            self._left_out += 1

    def finish_bundle(self) -> Iterator:
        if self._left_out:
            yield to_output((NOT_CHOSEN, self._left_out), is_last=True)
