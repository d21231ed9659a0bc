import itertools

import pytest

from tests.eager import RUNNERS, eagerly
from transforms.elements import Failure, ImageRef
from transforms.overlap import Outputs
from transforms.select import SelectImages, merge_refs


def test_merge_refs__same_uri_other_columns__does_not_depend_on_order():
    refs = [ImageRef("1", "a", (2,)), ImageRef("1", "a", (1,)), ImageRef("1", "a", (None,))]
    merged = {merge_refs(order) for order in itertools.permutations(refs)}
    assert len(merged) == 1 and merged.pop()[1] == 3


def test_merge_refs__several_uris__is_one_failure_that_names_two():
    merged, rows = merge_refs([ImageRef("7", "b"), ImageRef("7", "a"), ImageRef("7", "b")])
    assert isinstance(merged, Failure) and rows == 3
    assert (merged.reason, merged.ref.uri) == ("ambiguous_id", "a")
    assert "'a' and 'b'" in merged.message


class SelectFrom(SelectImages):
    """Takes rows and failures from one list."""

    def expand(self, rows):
        import apache_beam as beam

        ok = rows | beam.Filter(lambda row: isinstance(row, ImageRef)).with_output_types(ImageRef)
        bad = rows | "Bad" >> beam.Filter(lambda row: isinstance(row, Failure)).with_output_types(Failure)
        return super().expand(Outputs(ok, bad))


@pytest.mark.parametrize("runner", RUNNERS)
def test_select_images__duplicates__leave_once_and_are_counted(runner):
    bad = Failure(ImageRef("bad", "line"), "read", "bad_row", "m", 1, "")
    rows = [ImageRef(str(n % 10), f"u{n % 10}") for n in range(30)] + [bad, bad, ImageRef("3", "other")]
    selected = eagerly(SelectFrom(), rows, runner)
    assert sorted(ref.id for ref in selected.ok) == [str(n) for n in range(10) if n != 3]
    assert sorted(f.reason for f in selected.failures) == ["ambiguous_id", "bad_row"]
    assert len(selected.ok) + len(selected.failures) + sum(selected.duplicates) == len(rows)
