"""The summary at the end of a run, from manifests made by hand."""

import dataclasses

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labelbeam.pipeline.report.summary import next_steps, summarise, verdict
from labelbeam.transforms.budget import FailureBudget
from labelbeam.transforms.count import KINDS
from labelbeam.transforms.elements import TableFile
from labelbeam.transforms.table.manifest import FORMAT, FailureExample, Manifest, TopLabel
from tests.results import LABELLED_WITH


def manifest_of(
    reasons=None, examples=None, rows=None, labelled_with=LABELLED_WITH, label="cat", **counts
) -> Manifest:
    rows = rows or {"predictions": counts.get("labelled", 0), "failures": counts.get("failed", 0)}
    return Manifest(
        format=FORMAT,
        labelbeam="0",
        run_id="r",
        publication="r-1",
        generation=1,
        labelled_with=labelled_with,
        model={},
        preprocessing={},
        partitioned_by=None,
        config={},
        balanced=True,
        counts={**dict.fromkeys(KINDS, 0), **counts},
        rows=rows,
        failures_by_reason=reasons or {},
        failures_by_host={},
        top_labels=(TopLabel(1, label, 2),),
        files=tuple(TableFile(table, f"{table}/a.parquet", n, 10_000, "s") for table, n in rows.items()),
        merged_runs=("r",),
        failure_examples=examples,
    )


@pytest.mark.parametrize(
    ("counts", "first_line"),
    [
        ({"listed": 1, "labelled": 1}, "Labelled 1 of 1 image in 2.0 s (0.5 images/s, start-up included)"),
        (
            {"listed": 10, "labelled": 7, "failed": 3},
            "Labelled 7 of 10 images in 2.0 s (5.0 images/s, start-up included); 3 failed",
        ),
        ({"listed": 10, "failed": 10}, "Labelled 0 of 10 images in 2.0 s; 10 failed, 0 listed twice."),
        (
            {"listed": 5, "kept": 5},
            "Labelled 0 of 5 images in 2.0 s; 0 failed, 0 listed twice; 5 were done before.",
        ),
        ({"listed": 0}, "Labelled 0 of 0 images in 2.0 s; 0 failed"),
    ],
)
def test_summarise__counts__are_in_plain_words(counts, first_line):
    assert summarise(manifest_of(**counts), "out", 2.0).split("\n")[0].startswith(first_line)


def test_summarise__files__are_counted_correctly():
    text = summarise(manifest_of(listed=3, labelled=1, failed=2), "out", 1.0)
    assert "out/predictions  1 row in 1 Parquet file, 0.01 MB" in text
    assert "out/failures  2 rows in 1 Parquet file, 0.01 MB" in text


def test_summarise__failures__have_an_example_for_each_reason():
    examples = {
        "timeout": FailureExample("http://h/a.jpg", "took longer than 60 s"),
        "not_found": FailureExample("gs://b/0.jpg", "gs://b/0.jpg: no such object"),
        "bad_row": FailureExample("x" * 250, "has no uri"),
    }
    reasons = {"timeout": 2, "not_found": 1, "bad_row": 1, "unsupported": 1}
    lines = summarise(manifest_of(reasons, examples, listed=5, failed=5), "out", 1.0).split("\n")
    start = lines.index("Failures by reason") + 1
    assert lines[start : start + 4] == [
        "          2  timeout      http://h/a.jpg: took longer than 60 s",
        "          1  not_found    gs://b/0.jpg: no such object",
        f"          1  bad_row      {'x' * 187}...",
        "          1  unsupported",
    ]


def test_next_steps__failures__can_be_looked_at_and_tried_again():
    steps = next_steps(manifest_of({"timeout": 2, "not_found": 1}, listed=3, failed=3), "out")
    assert "SELECT reason, uri, message FROM 'out/failures/**/*.parquet'" in steps
    assert "labelbeam rerun out --only timeout" in steps
    assert "failures" not in next_steps(manifest_of(listed=1, labelled=1), "out")


def test_next_steps__embeddings__a_query_finds_similar_images(tmp_path):
    vectors = {"a": [1.0, 0.0], "b": [-1.0, 0.1], "c": [2.0, 0.1]}
    column = pa.array(list(vectors.values()), pa.list_(pa.float32(), 2))
    (tmp_path / "predictions").mkdir()
    pq.write_table(pa.table({"uri": list(vectors), "embedding": column}), tmp_path / "predictions/1.parquet")
    settings = dataclasses.replace(LABELLED_WITH, outputs={"embedding": 2})
    manifest = manifest_of(labelled_with=settings, listed=3, labelled=3)
    steps = next_steps(manifest, str(tmp_path)).split("\n")
    assert f"  import pandas; pandas.read_parquet('{tmp_path}/predictions')" in steps
    rows = duckdb.sql(steps[steps.index("or with DuckDB:") + 1]).fetchall()
    assert [uri for uri, _ in rows] == ["a", "c", "b"]
    assert "an embedding of length 2 in the column 'embedding'" in summarise(manifest, "out", 1.0)


def test_summarise__labels_that_are_numbers__gives_the_remedies():
    manifest = manifest_of(label="class 1", listed=2, labelled=2)
    names, features = "no label map. Run again with --replace and --labels FILE.", "--outputs embedding."
    text = summarise(dataclasses.replace(manifest, model={"outputs": "logits"}), "out", 1.0)
    assert names in text and features in text
    text = summarise(dataclasses.replace(manifest, model={"outputs": "probabilities"}), "out", 1.0)
    assert names in text and features not in text
    assert "label map" not in summarise(manifest_of(listed=2, labelled=2), "out", 1.0)


@pytest.mark.parametrize(("other", "expected"), [(0, None), (1, "1 row of the tables is"), (2, "2 rows of")])
def test_verdict__failures_over_budget__name_rows_of_other_inputs_and_the_remedy(other, expected):
    rows = {"predictions": 6, "failures": 3}
    manifest = manifest_of({"not_found": 3}, rows=rows, listed=6, labelled=3, other=other)
    text = verdict(manifest, FailureBudget(max_rate=0.1))
    assert "3 of 9 images failed" in text
    assert ("--replace" in text) == bool(expected) and (expected or "") in text
    assert verdict(manifest, FailureBudget(max_rate=0.5)) is None
