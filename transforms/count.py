"""Counting: every row of the input by its outcome, in the graph.

Totals are counted in the graph, not by Beam's metrics, because a runner may count a bundle that ran twice in
its metrics twice, or lose them; elements of a collection are exact. Metrics and the listener are for people.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import GlobalWindows

from labelbeam.transforms.elements import Failure, ImageRef, Prediction, Unchanged
from labelbeam.transforms.outcomes import par_do_each

Listener = Callable[[str, int], None]

# Rows of the input; of these, further rows of an id; ids that are done; ids with a new prediction or failure.
LISTED, DUPLICATE, KEPT, LABELLED, FAILED = "listed", "duplicate", "kept", "labelled", "failed"
# Labelled ids that took the labels of another image of the same bytes.
REUSED = "reused"
# Kept ids whose images could not be checked for a newer version.
UNCHECKED = "unchecked"
# Rows of the tables whose ids are not in the input.
OTHER = "other"
# Ids that are labelled again, because the tables have them under another URI.
OTHER_URI = "other_uri"
# Rows of ids that `--sample` and `--limit` leave out.
NOT_CHOSEN = "not_chosen"
COUNTERS = (LISTED, DUPLICATE, KEPT, LABELLED, FAILED, REUSED, UNCHECKED, OTHER, OTHER_URI, NOT_CHOSEN)

# Time between two reports to metrics and the listener, because a report for each element would take 20 us.
_REPORT_SEC = 0.1

# Pairs of kind and number.
Counts = tuple[tuple[str, int], ...]


def count_listed(_row: ImageRef | Failure) -> Counts:
    """Count a row of the input."""
    return ((LISTED, 1),)


def count_result(result: Prediction | Failure | Unchanged) -> Counts:
    """Count an image by its outcome."""
    if isinstance(result, Prediction):
        return ((LABELLED, 1), (REUSED, 1)) if result.reused else ((LABELLED, 1),)
    if isinstance(result, Unchanged):
        return ((KEPT, 1),) if result.checked else ((KEPT, 1), (UNCHECKED, 1))
    return ((FAILED, 1),)


def count_as_is(count: tuple[str, int]) -> Counts:
    """Pass on a count of an earlier step."""
    return (count,)


@dataclass
class CountRows(beam.PTransform):
    """The step that counts elements by kind, within each bundle.

    Input: one or several collections. Output: `(kind, count)`. Metrics: one counter for each kind.

    Attributes:
      count: Returns the kinds of an element; one of this module's functions.
      listener: Called with a kind and a count within a tenth of a second, on the worker.
    """

    count: Callable[[Any], Counts]
    listener: Listener | None = None

    def expand(self, collections: tuple[beam.PCollection, ...]) -> beam.PCollection[tuple[str, int]]:
        return par_do_each("Count", collections, _CountFn(self), tuple[str, int])


@dataclass
class SumCounts(beam.PTransform):
    """The step that adds up the counts of bundles. Input: several `(kind, count)`. Output: one per kind."""

    def expand(self, counts: tuple[beam.PCollection, ...]) -> beam.PCollection[tuple[str, int]]:
        return counts | beam.Flatten() | beam.CombinePerKey(sum)


class _CountFn(beam.DoFn):
    def __init__(self, step: CountRows) -> None:
        self._count = step.count
        self._listener = step.listener
        self._metrics = {kind: Metrics.counter(CountRows, kind) for kind in COUNTERS}

    def start_bundle(self) -> None:
        self._counts: Counter[str] = Counter()
        self._unreported: Counter[str] = Counter()
        self._due_sec = 0.0

    def process(self, element: Any) -> None:
        for kind, count in self._count(element):
            self._unreported[kind] += count
        if time.monotonic() >= self._due_sec:
            self._report()

    def finish_bundle(self) -> Iterator:
        self._report()
        # One element per kind and bundle, because an element per row would cost as much as the row.
        for kind_and_count in self._counts.items():
            yield GlobalWindows.windowed_value(kind_and_count)

    def _report(self) -> None:
        for kind, count in self._unreported.items():
            self._metrics[kind].inc(count)
            if self._listener:
                self._listener(kind, count)
        self._counts.update(self._unreported)
        self._unreported.clear()
        self._due_sec = time.monotonic() + _REPORT_SEC
