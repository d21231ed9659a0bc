"""Selecting what is to be labelled: each id once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import apache_beam as beam

from transforms.elements import Failure, ImageRef
from transforms.errors import ImageError, Reason
from transforms.overlap import Outputs, failure_of

_DUPLICATES, _FAILURES = "duplicates", "failures"


class Selected(NamedTuple):
    """The outputs of `SelectImages`.

    Attributes:
      ok: `ImageRef`, each id once.
      duplicates: `int`, how many more rows an id had.
      failures: `Failure`, ids that stand for several URIs.
    """

    ok: beam.PCollection
    duplicates: beam.PCollection
    failures: beam.PCollection


def merge_refs(refs: Iterable[ImageRef]) -> tuple[ImageRef | Failure, int]:
    """Merges the rows of one id; the choice does not depend on their order.

    Returns:
      The row that stands for all, and how many there were.
    """
    refs = iter(refs)
    first = last = next(refs)
    rows = 1
    for ref in refs:
        first, last = min(first, ref, key=_rank), max(last, ref, key=_rank)
        rows += 1
    if first.uri == last.uri:
        return first, rows
    message = f"id {first.id!r} stands for several URIs, such as {first.uri!r} and {last.uri!r}"
    return failure_of(first, "select", ImageError(Reason.AMBIGUOUS_ID, message)), rows


def merge_failures(failures: Iterable[Failure]) -> tuple[Failure, int]:
    """Merges the failures of one unreadable row that stands several times in the input."""
    rows = list(failures)
    return rows[0], len(rows)


def _rank(ref: ImageRef) -> tuple[str, str]:
    return ref.uri, repr(ref.columns)


@dataclass
class SelectImages(beam.PTransform):
    """Merges rows of the same id, in the pipeline's one shuffle of references.

    Input: `Outputs` of `ReadImageRefs`. Output: `ImageRef`. Failures: `select`,
    and those of the input, each once.
    Guarantees: an id leaves once, from one of the outputs; fusion is broken here.
    """

    def expand(self, rows: Outputs) -> Selected:
        """Applies the step."""
        ok = rows.ok | "Refs" >> _MergeById(tuple[str, ImageRef], merge_refs)
        bad = rows.failures | "Failures" >> _MergeById(tuple[str, Failure], merge_failures)
        return Selected(
            ok=ok.ok,
            duplicates=(ok.duplicates, bad.duplicates) | "Duplicates" >> beam.Flatten(),
            failures=(ok.failures, bad.failures) | "Failed" >> beam.Flatten(),
        )


@dataclass
class _MergeById(beam.PTransform):
    keyed: Any  # type of the keyed rows
    merge: Callable[[Iterable], tuple[ImageRef | Failure, int]]

    def expand(self, rows: beam.PCollection) -> Selected:
        outputs = (
            rows
            | "KeyById" >> beam.Map(_key_by_id).with_output_types(self.keyed)
            | "GroupById" >> beam.GroupByKey()
            | "Merge" >> beam.ParDo(_MergeFn(self.merge)).with_outputs(_DUPLICATES, _FAILURES, main="ok")
        )
        outputs.ok.element_type = ImageRef
        outputs[_DUPLICATES].element_type = int
        outputs[_FAILURES].element_type = Failure
        return Selected(outputs.ok, outputs[_DUPLICATES], outputs[_FAILURES])


def _key_by_id(row: ImageRef | Failure) -> tuple[str, ImageRef | Failure]:
    return (row.ref.id if isinstance(row, Failure) else row.id), row


class _MergeFn(beam.DoFn):
    def __init__(self, merge: Callable[[Iterable], tuple[ImageRef | Failure, int]]) -> None:
        self._merge = merge

    def process(self, keyed: tuple[str, Iterable]) -> Iterator:
        merged, rows = self._merge(keyed[1])
        failed = isinstance(merged, Failure)
        yield beam.pvalue.TaggedOutput(_FAILURES, merged) if failed else merged
        if rows > 1:
            yield beam.pvalue.TaggedOutput(_DUPLICATES, rows - 1)
