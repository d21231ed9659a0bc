import dataclasses
import itertools
from collections import Counter
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
from labelbeam.transforms.table.folder import StoredFile
from labelbeam.transforms.table.integrity import read_batches
from labelbeam.transforms.table.merge import (
    NOT_PARTITIONED,
    Merged,
    Partitioning,
    check_fan_out,
    find_superseded,
    merge_files,
    parts_of,
    plan_merge,
)
from labelbeam.transforms.table.rows import (
    FAILURES,
    PREDICTIONS,
    schema_of,
)
from tests.results import failure, prediction, row_metadata_of, write_table_file

METADATA = row_metadata_of("run")


def write(folder, results, published=False) -> StoredFile:
    return write_table_file(folder, results, METADATA, published)


def superseded_ids(sources, parts=1, *stale) -> list[tuple[str, str]]:
    """Return the table and id of each superseded row, of all parts."""
    superseded = []
    for part in range(parts):
        for path, rows in find_superseded(sources, part, parts, *stale).items():
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
    # With more runs than ranks, the first two share a rank; within a rank the prediction stays.
    loser = ({PREDICTIONS, FAILURES} - {winner}).pop()
    expected = sorted([(loser, "id1"), (PREDICTIONS, "id2"), (FAILURES, "id3")])
    assert superseded_ids(sources) == superseded_ids(sources[::-1]) == expected


@pytest.mark.parametrize("parts", [1, 3])
def test_find_superseded__stale_ids__rows_of_earlier_runs_are_dropped(tmp_path, parts):
    earlier, run_id = "20260101T000001-00000000", "20260101T000002-00000000"
    old = [
        write(tmp_path, map(failure, range(6)), published=True),
        write(tmp_path / "_staging" / earlier, [failure(1), failure(7)]),
    ]
    folder = tmp_path / "_staging" / run_id
    new = [write(folder, [failure(2), failure(8)]), write(folder, [prediction(3)])]
    stale = {"id0", "id1", "id2", "id3", "id7", "id8", "id9"}
    expected = sorted((FAILURES, f"id{n}") for n in (0, 1, 1, 2, 3, 7))
    assert superseded_ids(old + new, parts, stale, run_id) == expected
    # Also where this run has staged no row.
    assert superseded_ids(old, parts, stale, run_id) == expected
    assert superseded_ids([], parts, stale, run_id) == []


def test_find_superseded__hashes_meet__ids_decide(tmp_path, monkeypatch):
    monkeypatch.setattr(merge, "_hashes", lambda ids: np.zeros(len(ids), np.int64))
    sources = [write(tmp_path, map(prediction, range(5)))]
    assert superseded_ids(sources) == []
    sources.append(write(tmp_path, [failure(4)]))
    assert superseded_ids(sources) == [(FAILURES, "id4")]


def tasks_of(sources, target_bytes=1000, **kwargs):
    return plan_merge(sources, {}, "RUN", target_bytes, **kwargs)


def file(n, size_bytes, table=PREDICTIONS, published=False) -> StoredFile:
    return StoredFile(TableFile(table, f"{table}/{n:03d}", 10, size_bytes, "x"), published)


def test_plan_merge__small_files__are_grouped_to_the_target_by_table():
    sources = [file(n, 300) for n in range(7)] + [file(n, 10, FAILURES) for n in range(3)]
    tasks = tasks_of(sources)
    assert [len(t.stored_files) for t in tasks] == [3, 3, 1, 3]
    assert [t.name for t in tasks] == [f"RUN-{n:05d}" for n in range(4)]
    assert all(len({s.file.table for s in t.stored_files}) == 1 for t in tasks)
    assert sorted(s.file.path for t in tasks for s in t.stored_files) == sorted(s.file.path for s in sources)


def test_plan_merge__published__stays_if_whole_and_large_or_alone():
    large, small = file(1, 600, published=True), file(2, 400, published=True)
    assert [t.name for t in tasks_of([large, file(3, 10)])] == ["", "RUN-00001"]
    assert [t.name for t in tasks_of([small])] == [""]
    assert [(t.name, len(t.stored_files)) for t in tasks_of([small, file(3, 10)])] == [("RUN-00000", 2)]
    assert tasks_of([large], keep_published=False)[0].name
    (task,) = plan_merge([large], {large.file.path: [np.array([4, 7]), np.array([5])]}, "RUN", 1000)
    assert task.name and np.frombuffer(task.dropped[0], "<i8").tolist() == [4, 5, 7]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([500, 500], [2]),
        ([500, 501], [1, 1]),
        ([999, 1, 1], [2, 1]),
        ([1000, 1], [1, 1]),
        ([1001, 1], [1, 1]),
        ([1, 1001], [1, 1]),
        ([0, 0, 1000], [3]),
    ],
)
def test_plan_merge__sizes_at_the_target__are_grouped_up_to_it(sizes, expected):
    tasks = tasks_of([file(n, size) for n, size in enumerate(sizes)], target_bytes=1000)
    assert [len(task.stored_files) for task in tasks] == expected


@pytest.mark.parametrize(
    ("size_bytes", "target_bytes", "stays"),
    [(500, 1000, True), (499, 1000, False), (500, 1001, True), (500, 1002, False)],
)
def test_plan_merge__published_at_half_the_target__stays_from_there(size_bytes, target_bytes, stays):
    first, *_ = tasks_of([file(1, size_bytes, published=True), file(2, 1)], target_bytes)
    assert (first.name == "") == stays


@pytest.mark.parametrize(("rows", "parts"), [(0, 1), (9, 1), (10, 2), (19, 2), (20, 3)])
def test_parts_of__rows_at_the_limit__begin_another_part(monkeypatch, rows, parts):
    monkeypatch.setattr(merge, "IDS_PER_PART", 10)
    assert parts_of([StoredFile(TableFile(PREDICTIONS, "p", rows, 1, "x"), False)]) == parts


def test_rank_of__kinds_of_rows_and_the_largest_numbers__are_ordered():
    published = [file(1, 1, table, published=True) for table in (FAILURES, PREDICTIONS)]
    runs = ["", *(f"run-{n}" for n in range(merge._MAX_RUNS - 1))]
    staged = [
        StoredFile(TableFile(table, f"/o/_staging/{run}/{table}/f", 1, 1, "x"), False)
        for run in (runs[1], runs[2], runs[-1])
        for table in (FAILURES, PREDICTIONS)
    ]
    # The last row's number must not reach the bits of the kind, nor the last run's the sign bit.
    ranks = [
        merge._rank_of(source, place, runs)
        for source in published + staged
        for place in (0, 1, (1 << 53) - 1)
    ]
    assert ranks == sorted(set(ranks)) and ranks[0] >= 0 and ranks[-1] < 1 << 63


def test_by_path__rows_of_many_files__are_rows_of_their_own_file():
    sources = [file(n, 1) for n in range(300)]
    # Every fourth file is empty, as a table without rows has one.
    lengths = [0 if n % 4 == 0 else n for n in range(300)]
    starts = np.cumsum([0, *lengths])
    ends = {f"/o/{n}": [0, rows - 1] for n, rows in enumerate(lengths) if rows > 1}
    places = np.array(
        [starts[n] + row for n, rows in enumerate(lengths) if rows > 1 for row in (0, rows - 1)]
    )
    rows = merge._by_path(places[::-1] | merge._PREDICTION, sources, starts)
    numbers = {s.file.path: n for n, s in enumerate(sources)}
    assert {f"/o/{numbers[path]}": dropped.tolist() for path, dropped in rows.items()} == ends


def merged_rows(merged) -> list[dict]:
    return [row for f in merged.files for row in pq.read_table(f.path, partitioning=None).to_pylist()]


def test_merge_files__some_rows_dropped__the_others_are_there_counted_and_digested(tmp_path, monkeypatch):
    monkeypatch.setattr(merge, "ROWS_PER_BATCH", 16)
    monkeypatch.setattr(merge, "_ROWS_PER_GROUP", 30)
    sources = [write(tmp_path, map(prediction, range(n, n + 40))) for n in (0, 100)]
    (task,) = plan_merge(sources, {sources[0].file.path: [np.array([0, 15, 16, 39])]}, "RUN", 10**9)
    merged = merge_files(task, METADATA, str(tmp_path / "merged"), NOT_PARTITIONED)
    kept = [n for n in [*range(40), *range(100, 140)] if n not in (0, 15, 16, 39)]
    assert sorted(row["id"] for row in merged_rows(merged)) == sorted(f"id{n}" for n in kept)
    assert merged.labels == {(c, "abc"[c]): sum(n % 3 == c for n in kept) for c in range(3)}
    (written,) = merged.files
    assert written.rows == len(kept)
    assert written.path == str(tmp_path / "merged" / "predictions" / "RUN-00000.parquet")
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
    paths = [f"{tmp_path}/m/predictions/{folder}/RUN-00000.parquet" for folder in folders]
    assert sorted(f.path for f in merged.files) == paths
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
        dealt.append({f.path.removeprefix(f"{tmp_path}/{name}/"): ids_of(f.path) for f in merged.files})
    assert len(dealt[0]) == 16 and "predictions/by_hash=07/RUN-00000.parquet" in dealt[0]
    assert dealt[0] == dealt[1]


def ids_of(path: str) -> list[str]:
    return pq.read_table(path, partitioning=None)["id"].to_pylist()


def test_merge_files__too_many_folders__is_refused_with_a_remedy(tmp_path):
    task = one_task(tmp_path, map(prediction, range(10)))
    with pytest.raises(RunError, match=r"partition_by=price would make more than max_partitions=3 .*hash:64"):
        merge_files(task, METADATA, str(tmp_path / "m"), Partitioning("price", max_folders=3))


@pytest.mark.parametrize(("folders", "most"), [(0, 1), (1, 1), (2, 1), (3, 3), (4, 3)])
def test_check_fan_out__folders_at_the_limit__are_allowed(folders, most):
    names, partitioning = {str(n) for n in range(folders)}, Partitioning("c", max_folders=most)
    if folders <= most:
        check_fan_out(names, partitioning)
    else:
        with pytest.raises(RunError, match=f"max_partitions={most} folders"):
            check_fan_out(names, partitioning)


@pytest.mark.parametrize("most", [10, 9])
def test_merge_files__folders_at_the_limit__are_written(tmp_path, most):
    task, partitioning = (
        one_task(tmp_path, map(prediction, range(10))),
        Partitioning("price", max_folders=most),
    )
    if most == 10:
        assert len(merge_files(task, METADATA, str(tmp_path / "m"), partitioning).files) == 10
    else:
        with pytest.raises(RunError, match="max_partitions=9"):
            merge_files(task, METADATA, str(tmp_path / "m"), partitioning)


@pytest.mark.parametrize(
    ("rows_per_group", "bytes_per_group", "groups"),
    [
        (16, 1 << 30, [16, 16, 8]),  # a full batch is a full group
        (17, 1 << 30, [32, 8]),
        (32, 1 << 30, [32, 8]),
        (33, 1 << 30, [40]),
        (1 << 30, 1, [16, 16, 8]),
        (1 << 30, 1 << 30, [40]),
    ],
)
def test_merge_files__rows_and_bytes_at_the_limits__close_a_row_group(
    tmp_path, monkeypatch, rows_per_group, bytes_per_group, groups
):
    monkeypatch.setattr(merge, "ROWS_PER_BATCH", 16)
    monkeypatch.setattr(merge, "_ROWS_PER_GROUP", rows_per_group)
    monkeypatch.setattr(merge, "_BYTES_PER_GROUP", bytes_per_group)
    task = one_task(tmp_path, map(prediction, range(40)))
    (written,) = merge_files(task, METADATA, str(tmp_path / "m"), NOT_PARTITIONED).files
    metadata = pq.read_metadata(written.path)
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == groups


@pytest.mark.parametrize("batches", [1.5, 2])  # 2: two batches are exactly as large as a group
def test_merge_files__bytes_of_a_written_group__do_not_count_again(tmp_path, monkeypatch, batches):
    monkeypatch.setattr(merge, "ROWS_PER_BATCH", 16)
    task = one_task(tmp_path, map(prediction, range(100, 164)))  # batches of one size
    (first, *_) = read_batches(task.stored_files[0], 16)
    monkeypatch.setattr(merge, "_BYTES_PER_GROUP", int(first.nbytes * batches))
    (written,) = merge_files(task, METADATA, str(tmp_path / "m"), NOT_PARTITIONED).files
    metadata = pq.read_metadata(written.path)
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [32, 32]


def test_merged__examples_in_any_order__the_smallest_uri_stays():
    examples = [("b", "2"), ("a", "1"), ("c", "3")]
    for order in itertools.permutations(examples):
        merged = Merged()
        for example in order:
            merged.add(Merged(examples={"timeout": example}))
        assert merged.examples == {"timeout": ("a", "1")}


def test_merged__more_hosts_than_a_manifest_has__keeps_those_with_most_failures(monkeypatch):
    monkeypatch.setattr(merge, "_MAX_HOSTS", 2)
    merged = Merged(hosts=Counter(a=1, b=2))
    merged.add(Merged(hosts=Counter(c=3)))
    assert merged.hosts == {"b": 2, "c": 3}


@pytest.mark.parametrize(
    ("value", "folder"),
    [
        ("x" * 120, "x" * 120),
        ("x" * 121, "x" * 103 + "~"),
        ("%" * 40, "%25" * 40),
        ("%" * 41, "%25" * 34 + "~"),  # 102 characters, because a third of "%25" is no text
    ],
)
def test_partitioning__values_at_the_longest_name__are_shortened_beyond_it(value, folder):
    (name,) = Partitioning("c").folders(pa.record_batch({"c": [value]})).to_pylist()
    name = name.removeprefix("by_c=").removesuffix("/")
    assert name.startswith(folder) and len(name) <= 120
    assert len(name) - len(folder) == (16 if folder.endswith("~") else 0)


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
def test_merge_files__empty_cells_in_the_column__are_read_as_the_document_declares(tmp_path, prices):
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
