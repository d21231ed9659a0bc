import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labelbeam.transforms import stage
from labelbeam.transforms.budget import FailureBudget
from labelbeam.transforms.elements import Failure, ImageMetadata, ImageRef, PackedImage, Prediction
from labelbeam.transforms.errors import RunError
from labelbeam.transforms.stage import Stager, StageResults, Staging, stager_of, write_staged
from labelbeam.transforms.table.folder import TableFolder, staged_files
from labelbeam.transforms.table.rows import (
    FAILURES,
    PREDICTIONS,
    RESERVED_COLUMNS,
    RowMetadata,
    failure_row,
    prediction_row,
    schema_of,
    to_record_batch,
)
from tests.eager import RUNNERS, eagerly
from tests.results import failure, prediction, row_metadata_of

METADATA = row_metadata_of("run")
UNLIMITED = FailureBudget()


def staging(output, every_rows=1000, every_sec=1e9, budget=UNLIMITED) -> Staging:
    return Staging(TableFolder(str(output)).run("run"), METADATA, every_rows, every_sec, budget)


def ids_of(files, table: str) -> list[str]:
    """Return the ids in files of a table, after a check of the files' rows and sizes."""
    ids = []
    for file in files:
        if file.table == table:
            ids += (rows := pq.read_table(file.path)["id"].to_pylist())
            assert (len(rows), Path(file.path).stat().st_size) == (file.rows, file.size_bytes)
    return sorted(ids)


def staged(output) -> list:
    """Return the files of the run's folder."""
    return [source.file for source in staged_files(str(output), ["run"])]


def test_row__prediction__fits_the_schema():
    schema = schema_of(PREDICTIONS, METADATA)
    batch = to_record_batch([prediction_row(prediction(n), METADATA) for n in range(3)], schema)
    batch.validate(full=True)
    assert batch.to_pylist()[1] == {
        **{"id": "id1", "uri": "gs://b/1.jpg", "label": "b", "score": 0.5},
        "labels": [
            {"class_id": 1, "label": "b", "score": 0.5},
            {"class_id": 9, "label": "z", "score": 0.25},
        ],
        **{"width_px": 640, "height_px": 480, "format": "JPEG", "orientation": 1, "frames": 1},
        **{"size_bytes": 1234, "sha256": "f" * 64, "version": "v1"},
        **{"model_fingerprint": "model-1", "preprocessing_fingerprint": "pre-1", "run_id": "run"},
        "price": 0.5,
    }


def test_row__failure__fits_the_schema():
    batch = to_record_batch([failure_row(failure(1), METADATA)], schema_of(FAILURES, METADATA))
    batch.validate(full=True)
    assert batch.to_pylist() == [
        {
            **{"id": "id1", "uri": "http://h1/1", "stage": "fetch", "reason": "timeout", "message": "m"},
            **{"attempts": 1, "host": "h1"},
            **{"model_fingerprint": "model-1", "preprocessing_fingerprint": "pre-1", "run_id": "run"},
            "price": None,
        }
    ]


def test_schemas__own_columns__are_the_only_names_not_reserved():
    for table in (PREDICTIONS, FAILURES):
        assert set(schema_of(table, METADATA).names) - RESERVED_COLUMNS == {"price"}
        assert schema_of(table, METADATA).field("price").type == pa.float64()
        assert set(schema_of(table, RowMetadata("", "", "")).names) <= RESERVED_COLUMNS


@pytest.mark.parametrize(
    ("table", "to_row", "results", "dictionaries", "plain"),
    [
        (
            PREDICTIONS,
            prediction_row,
            [prediction(n) for n in range(1000)],
            ["label", "labels.list.element.label", "format", "model_fingerprint", "run_id"],
            ["id", "uri", "labels.list.element.score"],
        ),
        (
            FAILURES,
            failure_row,
            [failure(n) for n in range(1000)],
            ["stage", "reason", "host", "preprocessing_fingerprint"],
            ["id", "message"],
        ),
    ],
)
def test_write_staged__rows__zstd_dictionaries_and_metadata(
    tmp_path, table, to_row, results, dictionaries, plain
):
    schema = schema_of(table, METADATA)
    batch = to_record_batch([to_row(result, METADATA) for result in results], schema)
    file = write_staged(table, batch, str(tmp_path))
    parquet = pq.ParquetFile(file.path)
    columns = {c["path_in_schema"]: c for c in parquet.metadata.row_group(0).to_dict()["columns"]}
    assert {c["compression"] for c in columns.values()} == {"ZSTD"}
    assert [p for p in dictionaries if "RLE_DICTIONARY" not in columns[p]["encodings"]] == []
    assert [p for p in plain if "RLE_DICTIONARY" in columns[p]["encodings"]] == []
    assert parquet.schema_arrow.equals(schema)
    assert parquet.schema_arrow.metadata == {
        k.encode(): v.encode() for k, v in METADATA.file_metadata.items()
    }
    assert parquet.read().equals(pa.Table.from_batches([batch]))


@pytest.mark.parametrize("result", [prediction, failure])
def test_stager__every_rows__closes_a_file_of_one_table(tmp_path, result):
    stager = Stager(staging(tmp_path, every_rows=3))
    written = [stager.add(result(n)) for n in range(7)]
    assert [[file.rows for file in files] for files in written] == [[], [], [3], [], [], [3], []]
    assert [file.rows for file in stager.flush()] == [1] and stager.flush() == []


def test_stager__every_rows__counts_each_table_by_itself_and_writes_both(tmp_path):
    stager = Stager(staging(tmp_path, every_rows=3))
    results = [prediction(0), failure(1), prediction(2), failure(3), prediction(4)]
    written = [stager.add(result) for result in results]
    assert written[:4] == [[]] * 4
    assert [(file.table, file.rows) for file in written[4]] == [(PREDICTIONS, 3), (FAILURES, 2)]
    assert ids_of(written[4], PREDICTIONS) == ["id0", "id2", "id4"]
    assert ids_of(written[4], FAILURES) == ["id1", "id3"]


def test_stager__every_sec__closes_a_file_when_its_first_row_is_that_old(tmp_path, monkeypatch):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(stage, "time", SimpleNamespace(monotonic=lambda: clock.now))
    stager = Stager(staging(tmp_path, every_sec=30))
    rows = {}
    for n, clock.now in enumerate([100, 129.9, 130, 200, 229, 230, 1000]):
        rows[clock.now] = [file.rows for file in stager.add(prediction(n))]
    assert rows == {100: [], 129.9: [], 130: [3], 200: [], 229: [], 230: [3], 1000: []}
    clock.now = 2000
    assert [file.rows for file in stager.flush()] == [1]
    assert stager.add(prediction(9)) == []


def test_stager__file_names__tell_their_rows(tmp_path):
    stager = Stager(staging(tmp_path, every_rows=4))
    results = [*map(prediction, range(9)), *map(failure, range(20, 22))]
    written = [file for result in results for file in stager.add(result)] + stager.flush()
    assert sorted(file.rows for file in written) == [1, 2, 4, 4]
    assert sorted(staged(tmp_path), key=repr) == sorted(written, key=repr)


def test_stager__a_table_cannot_be_written__keeps_its_rows_for_the_next_flush(tmp_path):
    where = staging(tmp_path, every_rows=2)
    blocked = Path(where.folder) / FAILURES
    blocked.parent.mkdir(parents=True)
    blocked.touch()
    stager = Stager(where)
    stager.add(prediction(0))
    stager.add(failure(1))
    for n in (2, 3):
        with pytest.raises(OSError):
            stager.add(failure(n))
    blocked.unlink()
    assert [(file.table, file.rows) for file in stager.flush()] == [(FAILURES, 3)]
    assert ids_of(staged(tmp_path), PREDICTIONS) == ["id0"]
    assert ids_of(staged(tmp_path), FAILURES) == ["id1", "id2", "id3"]


def test_stager__over_budget__writes_all_rows_and_raises(tmp_path):
    stager = Stager(staging(tmp_path, budget=FailureBudget(0.0, floor=4)))
    for result in (prediction(0), failure(1), failure(2)):
        stager.add(result)
    with pytest.raises(RunError, match="Stopped early: 3 of 4 images failed"):
        stager.add(failure(3))
    assert ids_of(staged(tmp_path), PREDICTIONS) == ["id0"]
    assert ids_of(staged(tmp_path), FAILURES) == ["id1", "id2", "id3"]


def test_stager__images_passed_on__have_no_rows_and_count_as_not_failed(tmp_path):
    stager = Stager(staging(tmp_path, budget=FailureBudget(0.5, floor=1)))
    passed_on = PackedImage(ImageRef("1", "a"), b"", ImageMetadata(1, 1, "PNG", 1, 1, 1, ""))
    for n in range(200):
        stager.pass_on(passed_on)
        stager.add(failure(n))
    assert [(file.table, file.rows) for file in stager.flush()] == [(FAILURES, 200)]
    with pytest.raises(RunError, match="Stopped early"):
        for n in range(200):
            stager.add(failure(n))


def test_stager__many_threads__lose_nothing_and_write_nothing_twice(tmp_path):
    stager = Stager(staging(tmp_path, every_rows=50))
    results = [failure(n) if n % 5 == 0 else prediction(n) for n in range(2000)]
    with ThreadPoolExecutor(8) as pool:
        written = [file for files in pool.map(stager.add, results) for file in files]
    written += stager.flush()
    assert ids_of(written, PREDICTIONS) == sorted(r.ref.id for r in results if isinstance(r, Prediction))
    assert ids_of(written, FAILURES) == sorted(r.ref.id for r in results if isinstance(r, Failure))
    assert max(file.rows for file in written) == 50


def test_stager_of__the_same_staging__is_one_stager(tmp_path):
    where = staging(tmp_path)
    assert stager_of(dataclasses.replace(where)) is stager_of(where)
    assert stager_of(staging(tmp_path / "other")) is not stager_of(where)


class StageFrom(StageResults):
    """The step, with predictions and failures from one list."""

    def expand(self, results):
        return super().expand(
            tuple(results | k.__name__ >> beam.Filter(isinstance, k) for k in (Prediction, Failure))
        )


@pytest.mark.parametrize("runner", RUNNERS)
def test_stage_results__any_bundles__every_row_is_in_a_file_once(tmp_path, runner):
    results = [failure(n) if n % 3 == 0 else prediction(n) for n in range(95)]
    files = eagerly(StageFrom(staging(tmp_path, every_rows=30)), results, runner)
    assert ids_of(files, PREDICTIONS) == sorted(f"id{n}" for n in range(95) if n % 3)
    assert ids_of(files, FAILURES) == sorted(f"id{n}" for n in range(95) if n % 3 == 0)
    assert max(file.rows for file in files) <= 30
    assert sorted(staged(tmp_path), key=repr) == sorted(files, key=repr)
