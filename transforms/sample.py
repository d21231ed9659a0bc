"""Sampling: the rows of the input whose images are chosen."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import apache_beam as beam

from labelbeam.transforms.choose import Choice, SmallestDraws, bound_of, draw_of, find_bound
from labelbeam.transforms.count import NOT_CHOSEN
from labelbeam.transforms.elements import Failure, ImageRef, InlineImage, ref_of
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.outcomes import Outcomes, par_do, to_output
from labelbeam.transforms.read import list_rows
from labelbeam.transforms.select import SelectOutcomes, id_of
from labelbeam.transforms.shards import Bound, ListMembers, read_members


def list_chosen(corpus: Corpus, choice: Choice, most: int | None = None) -> Iterator[ImageRef | Failure]:
    """List the chosen rows of a corpus in one process, which reads it twice if there is a limit.

    Args:
      corpus: The corpus.
      choice: Images to list.
      most: Number of rows after which no more are read; the images are then chosen among these.

    Raises:
      RunError: A file is not the one that was planned, or is cut or damaged.
    """
    bound = _find_bound(corpus, choice, most)
    return (row for row in itertools.islice(list_rows(corpus), most) if draw_of(id_of(row)) < bound)


def _find_bound(corpus: Corpus, choice: Choice, most: int | None) -> int:
    return find_bound(map(id_of, itertools.islice(list_rows(corpus), most)), choice)


def first_chosen(
    corpus: Corpus, choice: Choice, images: int, most: int | None, max_bytes: int
) -> list[ImageRef | InlineImage | Failure]:
    """Return the first chosen rows of different ids, with the bytes of images inside files.

    Args:
      corpus: The corpus.
      choice: Images to list.
      images: Number of rows.
      most: As in `list_chosen`.
      max_bytes: Largest image inside a file.
    """
    first: dict[str, ImageRef | InlineImage | Failure] = {}
    rows: Iterator[ImageRef | InlineImage | Failure]
    if corpus.holds_images:
        rows = read_members(corpus, max_bytes, _find_bound(corpus, choice, most))
    else:
        rows = list_chosen(corpus, choice, most)
    for row in rows:
        first.setdefault(ref_of(row).id, row)
        if len(first) == images:
            break
    return list(first.values())


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
        bound: Bound = bound_of(self.choice.share)
        if self.choice.limit is not None:
            ids = [
                rows | f"IdsOf{name}" >> beam.Map(id_of).with_output_types(str)
                for name, rows in (("Refs", rows.ok), ("BadRows", rows.failures))
            ]
            smallest = ids | beam.Flatten() | "Smallest" >> beam.CombineGlobally(_SmallestFn(self.choice))
            bound = beam.pvalue.AsSingleton(smallest)
        refs = par_do("ChooseRefs", rows.ok, _ChooseFn(), ImageRef, tuple[str, int], side_input=bound)
        bad = par_do("ChooseBadRows", rows.failures, _ChooseFn(), Failure, tuple[str, int], side_input=bound)
        counts = (refs["counts"], bad["counts"]) | "Counts" >> beam.Flatten()
        return SelectOutcomes(refs["ok"], bad["ok"], counts)


def bound_of_members(pipeline: beam.Pipeline, corpus: Corpus, choice: Choice) -> Bound:
    """Return the bound of the chosen images inside files, which are listed first if there is a limit."""
    if choice.limit is None:
        return bound_of(choice.share)
    ids = pipeline | "ListMembers" >> ListMembers(corpus)
    return beam.pvalue.AsSingleton(ids | "Smallest" >> beam.CombineGlobally(_SmallestFn(choice)))


class _SmallestFn(beam.CombineFn):
    def __init__(self, choice: Choice) -> None:
        self._choice = choice

    def create_accumulator(self) -> SmallestDraws:
        return SmallestDraws(self._choice)

    def add_input(self, draws: SmallestDraws, image_id: str) -> SmallestDraws:
        draws.add(image_id)
        return draws

    def merge_accumulators(self, many: Iterable[SmallestDraws]) -> SmallestDraws:
        merged = SmallestDraws(self._choice)
        for draws in many:
            merged.update(draws)
        return merged

    def compact(self, draws: SmallestDraws) -> SmallestDraws:
        return draws.settle()

    def extract_output(self, draws: SmallestDraws) -> int:
        return draws.bound


class _ChooseFn(beam.DoFn):
    def start_bundle(self) -> None:
        self._left_out = 0

    def process(self, row: ImageRef | Failure, bound: int) -> Iterator:
        if draw_of(id_of(row)) < bound:
            yield row
        else:
            self._left_out += 1

    def finish_bundle(self) -> Iterator:
        if self._left_out:
            yield to_output((NOT_CHOSEN, self._left_out), is_last=True)
