import dataclasses
from urllib.parse import unquote

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from labelbeam.transforms.elements import TableFile
from labelbeam.transforms.errors import RunError
from labelbeam.transforms.table import merge
from labelbeam.transforms.table.folder import Source
from labelbeam.transforms.table.merge import (
    NOT_PARTITIONED,
    Partitioning,
    find_superseded,
    merge_files,
    plan_merge,
)
from labelbeam.transforms.table.rows import (
    FAILURES,
    PREDICTIONS,
    schema_of,
)
from tests.results import failure, prediction, row_metadata_of, write_table_file

METADATA = row_metadata_of("run")


def write(folder, results, published=False) -> Source:
    return write_table_file(folder, results, METADATA, published)


def superseded_ids(sources, parts=1) -> list[tuple[str, str]]:
    """Return the table and id of each superseded row, of all parts."""
    superseded = []
    for part in range(parts):
        for path, rows in find_superseded(sources, part, parts).items():
            (table,) = {s.file.table for s in sources if s.file.path == path}
            ids = pq.read_table(path)["id"].to_pylist()
            superseded += [(table, ids[n]) for n in rows]
    return sorted(superseded)


def test_find_superseded__ids_are_unique__nothing(tmp_path):
    sources = [
        write(tmp_path, map(prediction, range(5))),
        write(tmp_path, [failure(7)]),
    ]
    assert superseded_ids(sources) == [] == superseded_ids([])


@pytest.mark.parametrize("parts", [1, 3])
def test_find_superseded__every_kind_of_conflict__the_better_row_stays(tmp_path, parts):
    old = write(tmp_path, map(prediction, range(10)), published=True)
    old_failures = write(tmp_path, map(failure, range(10, 20)), published=True)
    new = write(tmp_path, [prediction(n) for n in (3, 12, 30, 31)])
    again = write(tmp_path, [prediction(31)])
    new_failures = write(tmp_path, [failure(n) for n in (5, 13, 30)])
    superseded = superseded_ids([old, old_failures, new, again, new_failures], parts)
    assert superseded == sorted(
        [
            (PREDICTIONS, "id3"),  # published, labelled again
            (FAILURES, "id12"),  # published failure, now labelled
            (PREDICTIONS, "id5"),  # published, now failed
            (FAILURES, "id13"),  # failed again
            (FAILURES, "id30"),  # staged twice: the prediction stays
            (PREDICTIONS, "id31"),  # staged twice
        ]
    )
    assert find_superseded([old, new], 0, 1) == {old.file.path: np.array([3])}


@pytest.mark.parametrize(("most_runs", "winner"), [(512, FAILURES), (5, FAILURES), (4, PREDICTIONS)])
def test_find_superseded__staged_by_several_runs__the_last_run_beats_a_better_row(
    tmp_path, monkeypatch, most_runs, winner
):
    monkeypatch.setattr(merge, "_MAX_RUNS", most_runs)
    folders = [tmp_path / "_staging" / f"20260101T00000{n}-00000000" for n in range(4)]
    sources = [
        write(folders[0], [prediction(1)]),
        write(folders[1], [failure(1)]),
        write(folders[2], [prediction(2)]),
        write(folders[3], [failure(2), failure(3)]),
        write(folders[3], [prediction(3)]),
    ]
    # Of more runs than ranks can tell apart, the first two count as one, in which the prediction stays.
    loser = ({PREDICTIONS, FAILURES} - {winner}).pop()
    expected = sorted([(loser, "id1"), (PREDICTIONS, "id2"), (FAILURES, "id3")])
    assert superseded_ids(sources) == superseded_ids(sources[::-1]) == expected


def test_find_superseded__hashes_meet__ids_decide(tmp_path, monkeypatch):
    monkeypatch.setattr(merge, "_hashes", lambda ids: np.zeros(len(ids), np.int64))
    sources = [write(tmp_path, map(prediction, range(5)))]
    assert superseded_ids(sources) == []
    sources.append(write(tmp_path, [failure(4)]))
    assert superseded_ids(sources) == [(FAILURES, "id4")]


def tasks_of(sources, target_bytes=1000, **kwargs):
    return plan_merge(sources, {}, "RUN", target_bytes, **kwargs)


def file(n, size_bytes, table=PREDICTIONS, published=False) -> Source:
    return Source(TableFile(table, f"{table}/{n:03d}", 10, size_bytes, "x"), published)


def test_plan_merge__small_files__are_grouped_to_the_target_by_table():
    sources = [file(n, 300) for n in range(7)] + [file(n, 10, FAILURES) for n in range(3)]
    tasks = tasks_of(sources)
    assert [len(t.sources) for t in tasks] == [3, 3, 1, 3]
    assert [t.name for t in tasks] == [f"RUN-{n:05d}" for n in range(4)]
    assert all(len({s.file.table for s in t.sources}) == 1 for t in tasks)
    assert sorted(s.file.path for t in tasks for s in t.sources) == sorted(s.file.path for s in sources)


def test_plan_merge__published__stays_if_whole_and_large_or_alone():
    large, small = file(1, 600, published=True), file(2, 400, published=True)
    assert [t.name for t in tasks_of([large, file(3, 10)])] == ["", "RUN-00001"]
    assert [t.name for t in tasks_of([small])] == [""]
    assert [(t.name, len(t.sources)) for t in tasks_of([small, file(3, 10)])] == [("RUN-00000", 2)]
    assert tasks_of([large], keep_published=False)[0].name
    (task,) = plan_merge([large], {large.file.path: [np.array([4, 7]), np.array([5])]}, "RUN", 1000)
    assert task.name and np.frombuffer(task.dropped[0], "<i8").tolist() == [4, 5, 7]


def merged_rows(merged) -> list[dict]:
    return [row for f in merged.files for row in pq.read_table(f.path, partitioning=None).to_pylist()]


def test_merge_files__some_rows_dropped__the_others_are_there_counted_and_digested(tmp_path, monkeypatch):
    monkeypatch.setattr(merge, "_ROWS_PER_BATCH", 16)
    monkeypatch.setattr(merge, "_ROWS_PER_GROUP", 30)
    sources = [write(tmp_path, map(prediction, range(n, n + 40))) for n in (0, 100)]
    (task,) = plan_merge(sources, {sources[0].file.path: [np.array([0, 15, 16, 39])]}, "RUN", 10**9)
    merged = merge_files(task, METADATA, str(tmp_path / "merged"), NOT_PARTITIONED)
    kept = [n for n in [*range(40), *range(100, 140)] if n not in (0, 15, 16, 39)]
    assert sorted(row["id"] for row in merged_rows(merged)) == sorted(f"id{n}" for n in kept)
    assert merged.labels == {(c, "abc"[c]): sum(n % 3 == c for n in kept) for c in range(3)}
    (written,) = merged.files
    assert written.rows == len(kept) and merged.paths == ["predictions/RUN-00000.parquet"]
    parquet = pq.ParquetFile(written.path)
    groups = [parquet.metadata.row_group(n).num_rows for n in range(parquet.num_row_groups)]
    assert sum(groups) == len(kept) and all(rows >= 30 for rows in groups[:-1])
    assert parquet.schema_arrow.equals(schema_of(PREDICTIONS, METADATA))
    assert parquet.schema_arrow.metadata[b"labelbeam.model_fingerprint"] == b"model-1"


def test_merge_files__one_that_stays__is_only_counted(tmp_path):
    source = write(tmp_path, map(failure, range(5)), published=True)
    (task,) = plan_merge([source], {}, "RUN", 1)
    merged = merge_files(task, METADATA, str(tmp_path / "merged"), NOT_PARTITIONED)
    assert merged.files == [source.file] and not (tmp_path / "merged").exists()
    assert merged.reasons == {"timeout": 5} and merged.hosts == {"h0": 3, "h1": 2}


def test_merge_files__all_rows_dropped__writes_no_file(tmp_path):
    source = write(tmp_path, map(failure, range(2)))
    (task,) = plan_merge([source], {source.file.path: [np.array([0, 1])]}, "RUN", 1)
    assert merge_files(task, METADATA, str(tmp_path / "merged"), NOT_PARTITIONED).files == []


def one_task(tmp_path, results):
    (task,) = plan_merge([write(tmp_path, results)], {}, "RUN", 10**9)
    return task


def test_merge_files__by_column__one_folder_a_value_and_one_for_null(tmp_path):
    results = [prediction(n, price=n % 2) for n in range(10)]
    nothing = dataclasses.replace(
        prediction(10), ref=dataclasses.replace(prediction(10).ref, columns=(None,))
    )
    merged = merge_files(
        one_task(tmp_path, [*results, nothing]), METADATA, str(tmp_path / "m"), Partitioning("price")
    )
    folders = ("by_price=0.0", "by_price=1.0", "by_price=__HIVE_DEFAULT_PARTITION__")
    assert sorted(merged.paths) == [f"predictions/{folder}/RUN-00000.parquet" for folder in folders]
    assert sorted(f.rows for f in merged.files) == [1, 5, 5]
    assert sorted(row["id"] for row in merged_rows(merged)) == sorted(f"id{n}" for n in range(11))


def test_partitioning__empty_texts__are_in_the_folder_of_nulls():
    folders = Partitioning("c").folders(pa.record_batch({"c": ["", None, "x"]})).to_pylist()
    assert folders == ["by_c=__HIVE_DEFAULT_PARTITION__/"] * 2 + ["by_c=x/"]


def test_merge_files__by_hash__deals_every_id_to_the_same_folder(tmp_path):
    by_hash, dealt = Partitioning(buckets=16), []
    for name in "ab":
        merged = merge_files(
            one_task(tmp_path, map(prediction, range(100))), METADATA, str(tmp_path / name), by_hash
        )
        dealt.append({p: ids_of(f.path) for p, f in zip(merged.paths, merged.files, strict=True)})
    assert len(dealt[0]) == 16 and "predictions/by_hash=07/RUN-00000.parquet" in dealt[0]
    assert dealt[0] == dealt[1]


def ids_of(path: str) -> list[str]:
    return pq.read_table(path, partitioning=None)["id"].to_pylist()


def test_merge_files__too_many_folders__is_refused_with_a_remedy(tmp_path):
    task = one_task(tmp_path, map(prediction, range(10)))
    with pytest.raises(RunError, match=r"partition_by=price would make more than max_partitions=3 .*hash:64"):
        merge_files(task, METADATA, str(tmp_path / "m"), Partitioning("price", max_folders=3))


@pytest.mark.parametrize("length", [0, 1, 50, 300])
@pytest.mark.parametrize("part", ["x", "ä", "%", ".", "/", "\0", "😀", "x😀"])
def test_partitioning__any_value__is_a_folder_that_file_systems_take(tmp_path, part, length):
    value, column = part * length, part * max(1, length)
    (name,) = Partitioning(column).folders(pa.record_batch({column: [value]})).to_pylist()
    assert name.startswith("by_") and name.endswith("/") and name.count("/") == 1
    (tmp_path / name).mkdir()
    unquote(name, errors="strict")  # not cut within a character


def test_partitioning__long_values_of_one_beginning__have_folders_of_their_own():
    values = ["x" * 300, "x" * 301, "x" * 120, "x" * 119 + "%"]
    assert len(set(Partitioning("c").folders(pa.record_batch({"c": values})).to_pylist())) == 4


@pytest.mark.parametrize("prices", [[None, 1.0], [None]])
def test_merge_files__empty_cells_in_the_column__are_read_as_the_document_says(tmp_path, prices):
    refs = [dataclasses.replace(prediction(n).ref, columns=(price,)) for n, price in enumerate(prices)]
    results = [dataclasses.replace(prediction(n), ref=ref) for n, ref in enumerate(refs)]
    merge_files(one_task(tmp_path, results), METADATA, str(tmp_path / "m"), Partitioning("price"))
    folder = str(tmp_path / "m" / PREDICTIONS)
    reads = [
        pq.read_table(folder, partitioning=None)["price"].to_pylist(),
        ds.dataset(folder).to_table()["price"].to_pylist(),
        [row[0] for row in duckdb.sql(f"SELECT price FROM '{folder}/**/*.parquet'").fetchall()],
    ]
    assert [sorted(read, key=str) for read in reads] == [sorted(prices, key=str)] * 3
