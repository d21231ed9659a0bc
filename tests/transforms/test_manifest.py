"""Manifests: each contradiction between their parts is named, and what is consistent is taken."""

import dataclasses
import json
from typing import Any

import pytest

from labelbeam.transforms.count import KINDS
from labelbeam.transforms.elements import TableFile
from labelbeam.transforms.errors import UserError
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
    counts={**dict.fromkeys(KINDS, 0), "listed": 5},
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


def edited(**changes: Any) -> bytes:
    """Return the whole manifest as JSON with other values; `A__B` is the key B of the object A."""
    document = json.loads(json.dumps(dataclasses.asdict(WHOLE)))
    for name, value in changes.items():
        *above, last = name.split("__")
        place = document
        for key in above:
            place = place[int(key) if isinstance(place, list) else key]
        place[int(last) if isinstance(place, list) else last] = value
    return json.dumps(document).encode()


def parse_manifest(data: bytes) -> Manifest:
    return parse(Manifest, data, "m.json", "Remedy.")


def message_of(data: bytes) -> str:
    with pytest.raises(UserError) as e:
        parse_manifest(data)
    return str(e.value)


def test_parse_manifest__consistent__is_taken():
    assert parse_manifest(edited()) == WHOLE
    assert [len(WHOLE.files_of(table)) for table in TABLES] == [2, 1]
    changes = {
        "failures_by_reason": {"timeout": 2},
        "top_labels": [],
        "labelled_with__outputs": {"logits": 1},
    }
    assert parse_manifest(edited(**changes)).labelled_with.outputs_column == ("logits", 1)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"format": 0}, "the key 'format' holds 0; it must be 1"),
        ({"format": True}, "the key 'format' holds true; it must be a whole number from 0"),
        ({"run_id": ""}, "the key 'run_id' is empty"),
        ({"generation": 0}, "the key 'generation' is empty"),
        ({"merged_runs": []}, "the key 'merged_runs' is empty"),
        (
            {"labelled_with__columns": {"c": "text?"}},
            "'labelled_with.columns.c' holds 'text?', which is not a",
        ),
        ({"labelled_with__outputs": {"scores": 1}}, "holds ['scores']; it must be one of logits"),
        ({"labelled_with__outputs": {"logits": 1, "embedding": 1}}, "holds ['embedding', 'logits']; it must"),
        ({"counts": {"listed": 5}}, f"the key 'counts.{min(set(KINDS) - {'listed'})}' is missing"),
        ({"rows": {"predictions": 3}}, "the key 'rows.failures' is missing"),
        ({"rows__predictions": 4}, "the key 'rows.predictions' holds 4; its files have 3 rows"),
        ({"rows__predictions": 2}, "the key 'rows.predictions' holds 2; its files have 3 rows"),
        ({"files__2__rows": 1}, "the key 'rows.failures' holds 2; its files have 1 rows"),
        ({"failures_by_reason": {"timeout": 1}}, "the key 'failures_by_reason' counts 1 of 2 failures"),
        ({"failures_by_reason": {"timeout": 3}}, "the key 'failures_by_reason' counts 3 of 2 failures"),
        ({"files__1__path": "predictions/by_a=1/a.parquet"}, "lists 'predictions/by_a=1/a.parquet' twice"),
        (
            {"files__0__path": "failures/x"},
            "'files[0].path' holds 'failures/x', which is not a file of 'pred",
        ),
        ({"files__0__path": "predictions/../x"}, "'files[0].path' holds 'predictions/../x', which is not"),
        ({"files__0__path": "predictions"}, "'files[0].path' holds 'predictions', which is not"),
        ({"files__2__table": "x", "files__2__path": "x/a"}, "'files[2].path' holds 'x/a', which is not"),
        ({"files__2__sha256": ""}, "the key 'files[2].sha256' is empty"),
    ],
)
def test_parse_manifest__parts_that_contradict_each_other__are_named_with_the_remedy(changes, fault):
    message = message_of(edited(**changes))
    assert message.startswith("m.json is damaged: ") and message.endswith(". Remedy.") and fault in message


def test_parse_manifest__table_without_files__is_named_although_it_has_no_rows():
    changes = {"rows__failures": 0, "failures_by_reason": {}, "files__2__rows": 0}
    assert parse_manifest(edited(**changes)).rows["failures"] == 0
    files = [dataclasses.asdict(file) for file in WHOLE.files[:2]]
    assert "'rows.failures' holds 0; its files" in message_of(edited(**changes | {"files": files}))


@pytest.mark.parametrize("kind", [Manifest, Announcement])
@pytest.mark.parametrize("newer", [{}, {"rows": "other"}, {"labelled_with": None}])
def test_parse__format_of_a_newer_version__is_named_before_its_other_keys(kind, newer):
    with pytest.raises(UserError, match="^m.json has format 2, and .* up to 1. Install a newer labelbeam"):
        parse(kind, edited(format=FORMAT + 1, **newer), "m.json", "Remedy.")
