"""Rows, staging, counting and publishing."""

import json
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from tests.eager import RUNNERS, eagerly
from transforms import count, stage
from transforms.elements import Failure, ImageRef, Label, Prediction, StagedFile
from transforms.files import move_files, write_file
from transforms.publish import PublishResults, make_manifest
from transforms.rows import (
    FAILURES,
    PREDICTIONS,
    RowFacts,
    failure_row,
    failures_schema,
    prediction_row,
    predictions_schema,
    to_record_batch,
)
from transforms.stage import StageRows, encode_parquet

FACTS = RowFacts("run-1", "model-1", "pre-1", (("price", pa.float64()),))


def prediction(n: int) -> Prediction:
    ref = ImageRef(f"id{n}", f"gs://b/{n}.jpg", (n / 2,))
    labels = (Label(n % 3, "abc"[n % 3], 0.5), Label(9, "z", 0.25))
    return Prediction(ref, labels, 640, 480, "JPEG", 1234, "f" * 64, None)


def failure(n: int) -> Failure:
    ref = ImageRef(f"bad{n}", f"http://h/{n}", (None,))
    return Failure(ref, "fetch", "timeout", "too slow", 1, "h")


def test_prediction_row__any__fits_the_schema():
    schema = predictions_schema(FACTS)
    batch = to_record_batch([prediction_row(prediction(n), FACTS) for n in range(3)], schema)
    batch.validate(full=True)
    row = batch.to_pylist()[1]
    assert row["labels"][0] == {"class_id": 1, "label": "b", "score": 0.5}
    assert (row["label"], row["score"], row["price"], row["run_id"]) == ("b", 0.5, 0.5, "run-1")


def test_encode_parquet__predictions__zstd_dictionaries_and_metadata():
    schema = predictions_schema(FACTS)
    rows = [prediction_row(prediction(n), FACTS) for n in range(1000)]
    file = pq.ParquetFile(pa.BufferReader(encode_parquet([to_record_batch(rows, schema)], schema)))
    columns = file.metadata.row_group(0).to_dict()["columns"]
    by_path = {c["path_in_schema"]: c for c in columns}
    assert {c["compression"] for c in columns} == {"ZSTD"}
    for path in ("label", "labels.list.element.label", "model_fingerprint"):
        assert "RLE_DICTIONARY" in by_path[path]["encodings"], path
    assert "RLE_DICTIONARY" not in by_path["id"]["encodings"]
    assert file.schema_arrow.metadata[b"labelbeam.model_fingerprint"] == b"model-1"


def test_encode_parquet__no_rows__is_a_readable_file():
    schema = failures_schema(FACTS)
    table = pq.read_table(pa.BufferReader(encode_parquet([], schema)))
    assert len(table) == 0 and table.schema.equals(schema)


@pytest.mark.parametrize("runner", RUNNERS)
def test_stage_rows__more_than_a_file__writes_whole_files(tmp_path, monkeypatch, runner):
    monkeypatch.setattr(stage, "_ROWS_PER_BATCH", 10)
    monkeypatch.setattr(stage, "_ROWS_PER_FILE", 30)
    step = StageRows(FAILURES, failures_schema(FACTS), failure_row, FACTS, str(tmp_path))
    staged = eagerly(step, [failure(n) for n in range(95)], runner)
    assert sum(f.rows for f in staged) == 95 and max(f.rows for f in staged) == 30
    assert all(f.size_bytes == Path(f.path).stat().st_size for f in staged)
    assert len(ds.dataset(f"{tmp_path}/failures").to_table()) == 95


@pytest.mark.parametrize("runner", RUNNERS)
def test_count_outcomes__any__sums_by_outcome(runner):
    seen = eagerly(count.CountOutcomes(count.labelled), [prediction(n) for n in range(9)], runner)
    totals: dict = {}
    for outcome, n in seen:
        totals[outcome] = totals.get(outcome, 0) + n
    assert totals == {("labelled", str(n), "abc"[n]): 3 for n in range(3)}


def manifest_of(listed: int, files: list[StagedFile]) -> dict:
    outcomes = {
        ("listed",): listed,
        ("duplicate",): 1,
        ("labelled", "1", "b"): 2,
        ("labelled", "2", "c"): 3,
        ("failed", "timeout"): 1,
    }
    return make_manifest({"run_id": "r"}, files, outcomes)


FILES = [StagedFile(PREDICTIONS, "p", 5, 1, "x"), StagedFile(FAILURES, "f", 1, 1, "y")]


def test_make_manifest__all_accounted__balances():
    manifest = manifest_of(7, FILES)
    assert manifest["balanced"] is True
    assert manifest["counts"] == {"listed": 7, "labelled": 5, "failed": 1, "duplicate": 1}
    assert manifest["top_labels"][0] == {"class_id": 2, "label": "c", "images": 3}
    assert manifest["failures_by_reason"] == {"timeout": 1}
    json.dumps(manifest)


@pytest.mark.parametrize(
    ("listed", "files"), [(8, FILES), (6, FILES), (7, FILES[:1]), (7, [*FILES, FILES[0]])]
)
def test_make_manifest__a_row_lost_or_twice__does_not_balance(listed, files):
    assert manifest_of(listed, files)["balanced"] is False


class StageAndPublish(PublishResults):
    """The end of the graph, from predictions alone."""

    def expand(self, predictions):
        schema = self.schemas[PREDICTIONS]
        staged = predictions | StageRows(PREDICTIONS, schema, prediction_row, FACTS, self.staging)
        outcomes = (
            predictions | "L" >> count.CountOutcomes(count.labelled),
            predictions | "A" >> count.CountOutcomes(_as_listed),
        ) | count.SumOutcomes()
        return super().expand((staged, outcomes))


def _as_listed(_):
    return ("listed",), 1


@pytest.mark.parametrize("runner", RUNNERS)
def test_publish_results__predictions_alone__both_tables_are_readable(tmp_path, runner):
    output, staging = str(tmp_path / "out"), str(tmp_path / "out" / "_staging" / "r")
    schemas = {PREDICTIONS: predictions_schema(FACTS), FAILURES: failures_schema(FACTS)}
    step = StageAndPublish(output, staging, {"run_id": "r"}, schemas)
    (manifest,) = eagerly(step, [prediction(n) for n in range(20)], runner)
    assert json.loads(manifest) == json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert json.loads(manifest)["balanced"]
    assert {p.suffix for p in (tmp_path / "out" / "predictions").iterdir()} == {".parquet"}
    assert not (tmp_path / "out" / "_staging" / "r").exists()
    assert len(ds.dataset(f"{output}/predictions").to_table()) == 20
    assert len(ds.dataset(f"{output}/failures").to_table()) == 0
    query = f"SELECT count(DISTINCT id), any_value(labels[1].label) FROM '{output}/predictions/*.parquet'"
    assert duckdb.sql(query).fetchall()[0][0] == 20


def test_move_files__second_try__leaves_what_the_first_moved(tmp_path):
    for name in "ab":
        write_file(str(tmp_path / name), name.encode())
    sources = [str(tmp_path / n) for n in "ab"]
    targets = [str(tmp_path / f"{n}.done") for n in "ab"]
    move_files(sources[:1], targets[:1])
    move_files(sources, targets)
    assert [(tmp_path / f"{n}.done").read_text() for n in "ab"] == ["a", "b"]
