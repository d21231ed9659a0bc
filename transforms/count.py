"""Counting: what became of every row, counted in the graph."""

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

Listener = Callable[[str, int], None]

# What a row of the input can become: a row of a table, one more row of an id, or one that was done.
LISTED, DUPLICATE, KEPT, LABELLED, FAILED = "listed", "duplicate", "kept", "labelled", "failed"
# Of those labelled, how many took the labels of another image of the same bytes.
REUSED = "reused"
# Of those kept, how many could not be checked for a newer version.
UNCHECKED = "unchecked"
# Rows of the tables that no row of the input stands for.
OTHER = "other"
# Ids that were done under another URI than the input has now, and are therefore labelled again.
OTHER_URI = "other_uri"
KINDS = (LISTED, DUPLICATE, KEPT, LABELLED, FAILED, REUSED, UNCHECKED, OTHER, OTHER_URI)

_TELL_SEC = 0.1

Counted = tuple[tuple[str, int], ...]


def count_listed(_row: ImageRef | Failure) -> Counted:
    """A row of the input."""
    return ((LISTED, 1),)


def count_result(result: Prediction | Failure | Unchanged) -> Counted:
    """What became of an image."""
    if isinstance(result, Prediction):
        return ((LABELLED, 1), (REUSED, 1)) if result.reused else ((LABELLED, 1),)
    if isinstance(result, Unchanged):
        return ((KEPT, 1),) if result.checked else ((KEPT, 1), (UNCHECKED, 1))
    return ((FAILED, 1),)


def as_counted(count: tuple[str, int]) -> Counted:
    """What a step has counted itself."""
    return (count,)


@dataclass
class CountRows(beam.PTransform):
    """Counts what elements stand for, within each bundle.

    Input: one or several collections. Output: `(kind, count)`. Metrics: one counter for each kind.

    Attributes:
      counted_as: What an element counts as; one of this module's functions.
      listener: Called with a kind and a count within a tenth of a second, on the worker.
    """

    counted_as: Callable[[Any], Counted]
    listener: Listener | None = None

    def expand(self, collections: tuple[beam.PCollection, ...]) -> beam.PCollection[tuple[str, int]]:
        """Applies the step."""
        # Each collection by itself: a flatten before the count would end the stage on some runners.
        return [
            elements | f"Count{n}" >> beam.ParDo(_CountFn(self)).with_output_types(tuple[str, int])
            for n, elements in enumerate(collections)
        ] | beam.Flatten()


@dataclass
class SumCounts(beam.PTransform):
    """Adds up what bundles counted. Input: several `(kind, count)`. Output: one per kind."""

    def expand(self, counts: tuple[beam.PCollection, ...]) -> beam.PCollection[tuple[str, int]]:
        """Applies the step."""
        return counts | beam.Flatten() | beam.CombinePerKey(sum)


class _CountFn(beam.DoFn):
    def __init__(self, step: CountRows) -> None:
        self._counted_as = step.counted_as
        self._listener = step.listener
        self._metrics = {kind: Metrics.counter(CountRows, kind) for kind in KINDS}

    def start_bundle(self) -> None:
        self._counts: Counter[str] = Counter()
        self._untold: Counter[str] = Counter()
        self._due_sec = 0.0

    def process(self, element: Any) -> None:
        for kind, count in self._counted_as(element):
            self._untold[kind] += count
        if time.monotonic() >= self._due_sec:
            self._tell()

    def finish_bundle(self) -> Iterator:
        self._tell()
        for kind_and_count in self._counts.items():
            yield GlobalWindows.windowed_value(kind_and_count)

    def _tell(self) -> None:
        """Passes on what was counted since the last time; for each element, that would take 20 us more."""
        for kind, count in self._untold.items():
            self._metrics[kind].inc(count)
            if self._listener:
                self._listener(kind, count)
        self._counts.update(self._untold)
        self._untold.clear()
        self._due_sec = time.monotonic() + _TELL_SEC
