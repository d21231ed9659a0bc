import dataclasses

import apache_beam as beam
import pytest

from labelbeam.pipeline.report.progress import Tally
from labelbeam.transforms import count
from labelbeam.transforms.buckets import hash_of
from labelbeam.transforms.count import COUNTERS, CountRows, SumCounts, count_as_is, count_listed, count_result
from labelbeam.transforms.elements import ImageRef, Unchanged
from tests.eager import RUNNERS, eagerly
from tests.results import failure, prediction

REUSED = dataclasses.replace(prediction(1), reused=True)
UNCHANGED = Unchanged(ImageRef("1", "a", (), "v"))


@pytest.mark.parametrize(
    ("element", "count_of", "counts"),
    [
        (ImageRef("1", "a"), count_listed, {"listed": 1}),
        (failure(1, "bad_row"), count_listed, {"listed": 1}),
        (prediction(1), count_result, {"labelled": 1}),
        (REUSED, count_result, {"labelled": 1, "reused": 1}),
        (failure(1), count_result, {"failed": 1}),
        (UNCHANGED, count_result, {"kept": 1}),
        (("duplicate", 7), count_as_is, {"duplicate": 7}),
    ],
)
def test_count_of__any_element__counts_its_outcome(element, count_of, counts):
    assert dict(count_of(element)) == counts and counts.keys() <= set(COUNTERS)


@dataclasses.dataclass
class CountAll(beam.PTransform):
    """The counts of the graph: results in two collections, and counts of an earlier step."""

    listener: Tally

    def expand(self, results):
        halves = tuple(results | f"Half{n}" >> beam.Filter(_is_in_half, n) for n in range(2))
        counts = results | beam.Map(_as_duplicates)
        return (
            halves | "CountResults" >> CountRows(count_result, self.listener),
            (counts,) | "CountSelection" >> CountRows(count_as_is, self.listener),
        ) | SumCounts()


def _is_in_half(result, half: int) -> bool:
    return hash_of(result.ref.id) % 2 == half


def _as_duplicates(_result) -> tuple[str, int]:
    return "duplicate", 3


@pytest.mark.parametrize("runner", RUNNERS)
def test_count_rows__several_collections__sum_by_kind_and_the_listener_gets_it(tmp_path, runner):
    results = [*map(prediction, range(20)), *map(failure, range(30, 37)), REUSED, REUSED, UNCHANGED]
    counts = eagerly(CountAll(tally := Tally(tmp_path)), results, runner)
    expected = {"labelled": 22, "reused": 2, "failed": 7, "kept": 1, "duplicate": 90}
    assert dict(counts) == expected and len(counts) == len(expected)
    assert {kind: n for kind, n in tally.read().items() if n} == expected


def test_count_rows__while_a_bundle_goes__the_listener_gets_each_count_once(monkeypatch):
    monkeypatch.setattr(count, "_REPORT_SEC", 0.0)
    reports = []
    fn = count._CountFn(CountRows(count_result, lambda *report: reports.append(report)))
    fn.start_bundle()
    for element in (prediction(1), prediction(2), failure(3)):
        fn.process(element)
    assert reports == [("labelled", 1), ("labelled", 1), ("failed", 1)]
    assert [count.value for count in fn.finish_bundle()] == [("labelled", 2), ("failed", 1)]
    assert len(reports) == 3
