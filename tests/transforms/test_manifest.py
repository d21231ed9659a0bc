"""Manifests: formats of newer versions, and damaged documents."""

import dataclasses
import json

import pytest

from labelbeam.transforms.count import COUNTERS
from labelbeam.transforms.elements import TableFile
from labelbeam.transforms.errors import UserError
from labelbeam.transforms.table.documents import write_document
from labelbeam.transforms.table.manifest import (
    FORMAT,
    TABLES,
    Announcement,
    FailureExample,
    Manifest,
    TopLabel,
    parse,
)
from tests.results import LABELLED_WITH

WHOLE = Manifest(
    format=FORMAT,
    labelbeam="0",
    run_id="r",
    publication="r-1",
    generation=1,
    labelled_with=LABELLED_WITH,
    model={},
    preprocessing={},
    partitioned_by=None,
    config={},
    balanced=False,
    counts={**dict.fromkeys(COUNTERS, 0), "listed": 5},
    rows={"predictions": 3, "failures": 2},
    failures_by_reason={"timeout": 1, "empty": 1},
    failures_by_host={},
    top_labels=(TopLabel(1, "cat", 2),),
    files=(
        TableFile("predictions", "predictions/by_a=1/a.parquet", 2, 10, "s"),
        TableFile("predictions", "predictions/b..c.parquet", 1, 10, "s"),
        TableFile("failures", "failures/a.parquet", 2, 10, "s"),
    ),
    merged_runs=("r",),
    failure_examples={"empty": FailureExample("a", "m")},
)


@pytest.mark.parametrize("outputs", [{}, {"logits": 3}])
def test_parse__manifest__is_read_as_it_was_written(outputs):
    settings = dataclasses.replace(LABELLED_WITH, outputs=outputs)
    manifest = dataclasses.replace(WHOLE, labelled_with=settings)
    again = parse(Manifest, write_document(manifest), "m.json", "Remedy.")
    assert again == manifest
    assert [len(again.files_of(table)) for table in TABLES] == [2, 1]
    assert again.labelled_with.outputs_column == next(iter(outputs.items()), None)


@pytest.mark.parametrize("kind", [Manifest, Announcement])
@pytest.mark.parametrize("newer", [{}, {"rows": "other"}, {"labelled_with": None}])
def test_parse__format_of_a_newer_version__is_named_before_its_checksum(kind, newer):
    data = json.dumps({"format": FORMAT + 1, "checksum": "other", **newer}).encode()
    with pytest.raises(UserError, match="^m.json has format 2, and .* up to 1. Install a newer labelbeam"):
        parse(kind, data, "m.json", "Remedy.")


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"format": true}', b'{"format": 1}', b'{"format": "2"}']
)
@pytest.mark.parametrize("kind", [Manifest, Announcement])
def test_parse__damaged__is_named_with_the_remedy(kind, data):
    with pytest.raises(UserError, match=r"^m.json is damaged: .*\. Remedy\.$"):
        parse(kind, data, "m.json", "Remedy.")
