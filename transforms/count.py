"""Counting: what became of every row, counted in the graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import GlobalWindows

from transforms.elements import Failure, ImageRef, Prediction

# An outcome: its kind, and what tells it from others of the kind.
Outcome = tuple[str, ...]
Listener = Callable[[str, int], None]

LISTED, DUPLICATE, LABELLED, FAILED = KINDS = ("listed", "duplicate", "labelled", "failed")


def listed(_row: ImageRef | Failure) -> tuple[Outcome, int]:
    """A row of the corpus."""
    return (LISTED,), 1


def duplicate(rows: int) -> tuple[Outcome, int]:
    """Rows whose id another row has."""
    return (DUPLICATE,), rows


def labelled(prediction: Prediction) -> tuple[Outcome, int]:
    """A prediction, by its best class."""
    best = prediction.labels[0]
    return (LABELLED, str(best.class_id), best.label), 1


def failed(failure: Failure) -> tuple[Outcome, int]:
    """A failure, by its reason."""
    return (FAILED, failure.reason), 1


@dataclass
class CountOutcomes(beam.PTransform):
    """Counts a collection's outcomes, within each bundle.

    Input: elements. Output: `(outcome, count)`. Metrics: one counter for each kind.

    Attributes:
      outcome_of: What an element counts as; one of this module's functions.
      listener: Called with a kind and a count as they come, on the worker.
    """

    outcome_of: Callable[[Any], tuple[Outcome, int]]
    listener: Listener | None = None

    def expand(self, elements: beam.PCollection) -> beam.PCollection[tuple[Outcome, int]]:
        """Applies the step."""
        fn = _CountFn(self.outcome_of, self.listener)
        return elements | "Count" >> beam.ParDo(fn).with_output_types(tuple[tuple[str, ...], int])


@dataclass
class SumOutcomes(beam.PTransform):
    """Adds up what bundles counted. Input: several `(outcome, count)`. Output: one per outcome."""

    def expand(self, counts: tuple[beam.PCollection, ...]) -> beam.PCollection[tuple[Outcome, int]]:
        """Applies the step."""
        return counts | beam.Flatten() | beam.CombinePerKey(sum)


class _CountFn(beam.DoFn):
    def __init__(self, outcome_of: Callable, listener: Listener | None) -> None:
        self._outcome_of = outcome_of
        self._listener = listener
        self._metrics = {kind: Metrics.counter(CountOutcomes, kind) for kind in KINDS}

    def start_bundle(self) -> None:
        self._counts: Counter[Outcome] = Counter()

    def process(self, element: Any) -> None:
        outcome, count = self._outcome_of(element)
        self._counts[outcome] += count
        self._metrics[outcome[0]].inc(count)
        if self._listener:
            self._listener(outcome[0], count)

    def finish_bundle(self) -> Iterator:
        for outcome_and_count in self._counts.items():
            yield GlobalWindows.windowed_value(outcome_and_count)
