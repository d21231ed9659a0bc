"""Merging: staged and published files become the files of the next generation.

Rows never cross a shuffle and never lie in one process's memory, because a table may be larger than both
allow. Ids alone are compared to find superseded rows. Each new file is then written from a few old files,
without their superseded rows.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from labelbeam.transforms.buckets import hash_of
from labelbeam.transforms.elements import TableFile
from labelbeam.transforms.errors import RunError
from labelbeam.transforms.files import FileSink
from labelbeam.transforms.table.folder import StoredFile
from labelbeam.transforms.table.integrity import check_stored, read_batches
from labelbeam.transforms.table.manifest import TABLES
from labelbeam.transforms.table.rows import FAILURES, PREDICTIONS, RowMetadata, parquet_options, schema_of

# Number of ids that are compared at once; each takes some 24 bytes of memory, sorted copy included.
IDS_PER_PART = 16_000_000
# Number of rows that are read at once.
ROWS_PER_BATCH = 1 << 14
# DuckDB, Spark and BigQuery read row groups of this size in parallel, and skip them by their statistics.
_ROWS_PER_GROUP = 1 << 17
# Largest memory of an unwritten row group, because rows with a model's outputs are long.
_BYTES_PER_GROUP = 128 << 20
# Most hosts in a manifest, because a crawl may fail at millions of hosts.
_MAX_HOSTS = 1000
# A column and a value of this length, with `by_` and `=`, make a folder's name of at most 244 bytes, because
# file systems allow 255.
_MAX_PARTITION_NAME = 120
# Columns whose values a manifest counts.
_COUNTED_COLUMNS = {PREDICTIONS: ("label", "labels"), FAILURES: ("reason", "host", "uri", "message")}

# The rank of a row is packed into one integer, because 16 million ranks then fit one array of 128 MB:
#     bits 54-62  order of the run. A later run beats an earlier one, because it labelled the id again for a
#                 reason, such as another URI. Published rows have order 0, the lowest.
#     bit  53     whether it is a prediction. Predictions beat failures of their run, because Beam repeats
#                 bundles, and the prediction then comes from the attempt that worked.
#     bits 0-52   place of the row among all rows of all files. It decides between equals, because a task that
#                 is tried again must choose the same row.
_RUN_SHIFT, _PREDICTION = 54, 1 << 53
# The order has 9 bits: of more unfinished runs, the earliest count as one.
_MAX_RUNS = 1 << 9
_RANKED_IDS = pa.schema([("id", pa.string()), ("rank", pa.int64())])


@dataclass(frozen=True, slots=True)
class Partitioning:
    """The rule that distributes a table's rows over folders, in Hive's notation: `by_COLUMN=VALUE/`.

    The column stays in the files. The folders' names begin with `by_`, because readers make a column of each
    folder name, and two columns of one name are an error.

    Attributes:
      column: Input column whose values name the folders; None for one folder or for `buckets`.
      buckets: Number of folders for rows that are distributed by the hash of their id; 0 for none.
      max_folders: Largest number of folders.
    """

    column: str | None = None
    buckets: int = 0
    max_folders: int = 1000

    @property
    def folder_column(self) -> str:
        """Column name that readers derive from the folders' names; empty without a column."""
        return f"by_{_folder_name(self.column)}" if self.column else ""

    def folders(self, batch: pa.RecordBatch) -> pa.Array:
        """Return the folder of each row; "" for tables without partitions."""
        if self.buckets:
            width = len(str(self.buckets - 1))
            names = [f"by_hash={hash_of(i) % self.buckets:0{width}d}/" for i in batch["id"].to_pylist()]
            return pa.array(names, pa.string())
        if self.column is None:
            return pa.repeat("", len(batch))
        values = batch[self.column].dictionary_encode()
        prefix = f"{self.folder_column}="
        names = [f"{prefix}{_folder_name(str(value))}/" for value in values.dictionary.to_pylist()]
        folders = pa.array(names, pa.string()).take(values.indices)
        # Empty texts count as null, because Hive and Spark allow no folder without a value.
        default = f"{prefix}__HIVE_DEFAULT_PARTITION__/"
        folders = pc.fill_null(folders, default)
        return pc.if_else(pc.equal(folders, f"{prefix}/"), default, folders)


NOT_PARTITIONED = Partitioning()


def _folder_name(value: str) -> str:
    """Percent-encode a value, and shorten a name that is too long for file systems."""
    name = quote(value, safe=" ")
    if len(name) <= _MAX_PARTITION_NAME:
        return name
    # The cut lies between characters, because readers refuse names that are not UTF-8. The digest follows,
    # because two long values may begin alike.
    lengths = itertools.accumulate(len(quote(character, safe=" ")) for character in value)
    start = value[: sum(length <= _MAX_PARTITION_NAME - 17 for length in lengths)]
    return f"{quote(start, safe=' ')}~{hashlib.sha256(value.encode()).hexdigest()[:16]}"


@dataclass(frozen=True, slots=True)
class MergeTask:
    """The plan of one new file, or of a file that stays as it is.

    Attributes:
      name: Name of the new file, without its suffix; "" for a file that stays.
      stored_files: Files whose rows go into the new file, all of one table.
      dropped: Superseded rows of each file, as the bytes of little-endian `int64`, ascending, because
        tasks cross a shuffle.
    """

    name: str
    stored_files: tuple[StoredFile, ...]
    dropped: tuple[bytes, ...]


@dataclass
class Merged:
    """Results of merging.

    Attributes:
      files: Files of the next generation, at their present paths.
      labels: Number of rows by class id and label.
      reasons: Number of failures by reason.
      hosts: Number of failures by host, for the hosts with most failures.
      examples: URI and message of one failure for each reason.
    """

    files: list[TableFile] = field(default_factory=list)
    labels: Counter[tuple[int, str]] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    hosts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, tuple[str, str]] = field(default_factory=dict)

    def add_example(self, reason: str, example: tuple[str, str]) -> None:
        """Keep the example of the smallest URI, because files are merged in any order."""
        self.examples[reason] = min(example, self.examples.get(reason, example))

    def add(self, other: Merged) -> None:
        """Add the results of another task."""
        self.files += other.files
        self.labels += other.labels
        self.reasons += other.reasons
        self.hosts = Counter(dict((self.hosts + other.hosts).most_common(_MAX_HOSTS)))
        for reason, example in other.examples.items():
            self.add_example(reason, example)


def parts_of(stored_files: Sequence[StoredFile]) -> int:
    """Return the number of parts that ids are split into, because only a part of them fits into memory."""
    return 1 + sum(stored.file.rows for stored in stored_files) // IDS_PER_PART


def find_superseded(
    stored_files: Sequence[StoredFile],
    part: int,
    parts: int,
    stale_ids: Collection[str] = (),
    run_id: str = "",
) -> dict[str, np.ndarray]:
    """Find the rows whose id has a better row, and old rows of stale ids.

    Args:
      stored_files: All files.
      part: Number of the part to search.
      parts: Number of parts into which ids are split by their hash.
      stale_ids: Ids whose rows of earlier runs are superseded, with or without a row of this run.
      run_id: Id of this run; needed for stale ids.

    Returns:
      Superseded rows by the path of their file: `int64`, ascending.
    """
    # Two passes, because nearly all ids have one row: the first compares 8 bytes of each id, the second only
    # ids whose hashes occur twice. Python's seeded `hash` suffices, because hashes stay in this process.
    hashes = [_hashes(ids) for stored in stored_files for ids, _ in ids_of_part(stored, part, parts)]
    ascending = np.sort(np.concatenate(hashes)) if hashes else np.empty(0, np.int64)
    repeated = np.unique(ascending[1:][ascending[1:] == ascending[:-1]])
    suspected = np.union1d(repeated, _hashes(stale_ids))
    if not len(suspected):
        return {}
    runs = sorted({"", run_id, *map(_run_of, stored_files)})
    starts = np.cumsum([0, *(stored.file.rows for stored in stored_files)])
    suspects = [
        pa.record_batch({"id": list(itertools.compress(ids, mask)), "rank": ranks[mask]})
        for stored, start in zip(stored_files, starts.tolist(), strict=False)
        for ids, ranks in ids_of_part(stored, part, parts, _rank_of(stored, start, runs))
        if (mask := np.isin(_hashes(ids), suspected)).any()
    ]
    table = pa.Table.from_batches(suspects, _RANKED_IDS)
    # A stale id competes as a row between all rows of earlier runs and those of this run.
    between = (_order_of(run_id, runs) << _RUN_SHIFT) - 1
    stale = pa.table([list(stale_ids), np.full(len(stale_ids), between)], schema=_RANKED_IDS)
    ranked = pa.concat_tables([table, stale])
    best = ranked.group_by("id").aggregate([("rank", "max")])["rank_max"].to_numpy()
    superseded = np.setdiff1d(table["rank"].to_numpy(), best)
    return _by_path(superseded, stored_files, starts) if len(superseded) else {}


def ids_of_part(
    stored: StoredFile, part: int, parts: int, first: int = 0
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Yield batches of a part's ids, and the ids' row numbers, counted from `first`."""
    for batch in read_batches(stored, ROWS_PER_BATCH, ["id"]):
        ids = batch["id"].to_pylist()
        numbers = np.arange(first, first + len(ids))
        first += len(ids)
        if parts > 1:
            mask = np.fromiter((hash_of(i) % parts == part for i in ids), bool, len(ids))
            ids, numbers = list(itertools.compress(ids, mask)), numbers[mask]
        yield ids, numbers


def _hashes(ids: Collection[str]) -> np.ndarray:
    return np.fromiter(map(hash, ids), np.int64, len(ids))


def _run_of(stored: StoredFile) -> str:
    """Return the id of the run that staged a file; an empty text for a published file."""
    # Run ids begin with the time of the run, so that their order is the order of the runs.
    return "" if stored.published else stored.file.path.rsplit("/", 3)[-3]


def _rank_of(stored: StoredFile, start: int, runs: Sequence[str]) -> int:
    """Return the rank of a file's first row, whose place is `start`.

    `runs` is an empty text, then the ids of the runs in order.
    """
    order = _order_of(_run_of(stored), runs)
    return order << _RUN_SHIFT | (stored.file.table == PREDICTIONS) * _PREDICTION | start


def _order_of(run_id: str, runs: Sequence[str]) -> int:
    # The order of staged rows is at least 1, because they beat published rows, also where runs count as one.
    return max(run_id != "", runs.index(run_id) + min(0, _MAX_RUNS - len(runs)))


def _by_path(
    ranks: np.ndarray, stored_files: Sequence[StoredFile], starts: np.ndarray
) -> dict[str, np.ndarray]:
    places = np.sort(ranks & (_PREDICTION - 1))
    numbers, firsts = np.unique(np.searchsorted(starts, places, side="right") - 1, return_index=True)
    dropped = np.split(places, firsts[1:])
    return {stored_files[n].file.path: rows - starts[n] for n, rows in zip(numbers, dropped, strict=True)}


def plan_merge(
    stored_files: Iterable[StoredFile],
    superseded: Mapping[str, Sequence[np.ndarray]],
    name: str,
    target_bytes: int,
    keep_published: bool = True,
) -> list[MergeTask]:
    """Distribute files over tasks, each of which makes one file.

    A published file stays as it is if no row of the file is superseded, and the file has at least half the
    target size, or its table has no new rows.

    Args:
      stored_files: All files.
      superseded: Results of `find_superseded` for all parts, by path.
      name: Prefix of the new files' names.
      target_bytes: Largest total size of the files that one new file is made from.
      keep_published: Whether published files may stay.
    """
    # Sorted, because a repeated bundle must make the same tasks.
    stored_files = sorted(stored_files, key=lambda stored: stored.file.path)
    intact = {
        s.file.path for s in stored_files if keep_published and s.published and s.file.path not in superseded
    }
    tasks: list[MergeTask] = []
    for table in TABLES:
        candidates = [stored for stored in stored_files if stored.file.table == table]
        unchanged = all(stored.file.path in intact for stored in candidates)
        # Half the target, because a file near the target would otherwise be rewritten by every run.
        stays = [
            s.file.path in intact and (unchanged or s.file.size_bytes >= target_bytes // 2)
            for s in candidates
        ]
        tasks += [MergeTask("", (stored,), (b"",)) for stored in itertools.compress(candidates, stays)]
        moving = [stored for stored, stay in zip(candidates, stays, strict=True) if not stay]
        for group in _group_by_size(moving, target_bytes):
            dropped = tuple(_pack_rows(superseded.get(stored.file.path, ())) for stored in group)
            tasks.append(MergeTask(f"{name}-{len(tasks):05d}", tuple(group), dropped))
    return tasks


def _group_by_size(stored_files: Sequence[StoredFile], target_bytes: int) -> list[list[StoredFile]]:
    groups: list[list[StoredFile]] = []
    size_bytes = target_bytes
    for stored in stored_files:
        size_bytes += stored.file.size_bytes
        if not groups or size_bytes > target_bytes:
            groups.append([])
            size_bytes = stored.file.size_bytes
        groups[-1].append(stored)
    return groups


def _pack_rows(rows: Sequence[np.ndarray]) -> bytes:
    return np.sort(np.concatenate(rows)).astype("<i8").tobytes() if rows else b""


def merge_files(task: MergeTask, metadata: RowMetadata, folder: str, partitioning: Partitioning) -> Merged:
    """Execute a task, which writes below `folder`.

    Raises:
      RunError: A file is damaged, or the rows need more folders than are allowed.
    """
    table = task.stored_files[0].file.table
    for stored in task.stored_files:
        check_stored(stored)
    if not task.name:
        return count_rows(task.stored_files[0], metadata)
    merged = Merged()
    writers: dict[str, TableWriter] = {}
    for stored, dropped in zip(task.stored_files, task.dropped, strict=True):
        for batch in _read_rows(stored, np.frombuffer(dropped, "<i8")):
            _count(table, batch, merged)
            for name, rows in _by_folder(partitioning.folders(batch), batch):
                if name not in writers:
                    check_fan_out({*writers, name}, partitioning)
                    path = f"{folder}/{table}/{name}{task.name}.parquet"
                    writers[name] = TableWriter(path, schema_of(table, metadata))
                writers[name].write(rows)
    merged.files = [writer.close(table) for writer in writers.values()]
    return merged


def count_rows(stored: StoredFile, metadata: RowMetadata) -> Merged:
    """Count the rows of a file that stays as it is."""
    table = stored.file.table
    merged = Merged([stored.file])
    columns = [name for name in _COUNTED_COLUMNS[table] if name in schema_of(table, metadata).names]
    for batch in read_batches(stored, ROWS_PER_BATCH, columns):
        _count(table, batch, merged)
    return merged


def write_empty(table: str, name: str, metadata: RowMetadata, folder: str) -> TableFile:
    """Write a file without rows, because readers find the schema in a file."""
    return TableWriter(f"{folder}/{table}/{name}.parquet", schema_of(table, metadata)).close(table)


def check_fan_out(folders: set[str], partitioning: Partitioning) -> None:
    """Check the number of folders of a table.

    Raises:
      RunError: There are more folders than allowed.
    """
    if len(folders) > partitioning.max_folders:
        raise RunError(
            f"partition_by={partitioning.column} would make more than max_partitions="
            f"{partitioning.max_folders:,} folders. Run the same command with --partition_by=hash:64, with "
            "a column of fewer values, or with a larger --max_partitions; labelled rows are kept."
        )


def _read_rows(stored: StoredFile, dropped: np.ndarray) -> Iterator[pa.RecordBatch]:
    start = 0
    for batch in read_batches(stored, ROWS_PER_BATCH):
        end = start + len(batch)
        in_batch = dropped[np.searchsorted(dropped, start) : np.searchsorted(dropped, end)]
        keep = np.ones(len(batch), bool)
        keep[in_batch - start] = False
        start = end
        yield batch if keep.all() else batch.filter(pa.array(keep))


def _by_folder(folders: pa.Array, batch: pa.RecordBatch) -> Iterator[tuple[str, pa.RecordBatch]]:
    names = pc.unique(folders)
    for name in names:
        yield name.as_py(), batch if len(names) == 1 else batch.filter(pc.equal(folders, name))


def _count(table: str, batch: pa.RecordBatch, merged: Merged) -> None:
    if table == FAILURES:
        merged.reasons.update(_value_counts(batch["reason"]))
        merged.hosts.update(_value_counts(batch["host"]))
        for reason in pc.unique(batch["reason"]):
            failures = batch.filter(pc.equal(batch["reason"], reason))
            uri = pc.min(failures["uri"])
            message = failures["message"][pc.index(failures["uri"], uri).as_py()]
            merged.add_example(reason.as_py(), (uri.as_py(), message.as_py()))
    elif len(batch) and "labels" in batch.schema.names:  # models that name no classes have none
        labelled = batch.filter(pc.is_valid(batch["label"]))  # a multi-label model may find no class
        class_ids = pc.struct_field(pc.list_element(labelled["labels"], 0), "class_id")
        best = pa.table({"class_id": class_ids, "label": labelled["label"]})
        counts = best.group_by(best.column_names).aggregate([([], "count_all")])
        for class_id, label, rows in zip(*(column.to_pylist() for column in counts.columns), strict=True):
            merged.labels[class_id, label] += rows


def _value_counts(values: pa.Array) -> dict[str, int]:
    return {pair["values"]: pair["counts"] for pair in values.value_counts().to_pylist()}


class TableWriter:
    """A Parquet file in writing, with row groups of one size.

    The file is opened for the first full row group, because a task may write to many partitions at once,
    and an open file takes memory.
    """

    def __init__(self, path: str, schema: pa.Schema) -> None:
        self._path = path
        self._schema = schema
        self._batches: list[pa.RecordBatch] = []
        self._pending = self._pending_bytes = self._rows = 0
        self._sink: FileSink | None = None

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows."""
        # With this run's metadata, because batches of one table must have equal schemas, and those of other
        # runs have other run ids.
        self._batches.append(batch.replace_schema_metadata(self._schema.metadata))
        self._pending += len(batch)
        self._pending_bytes += batch.nbytes
        if self._pending >= _ROWS_PER_GROUP or self._pending_bytes >= _BYTES_PER_GROUP:
            self._write_group()

    def _open(self) -> FileSink:
        if self._sink is None:
            self._sink = FileSink(self._path)
            self._writer = pq.ParquetWriter(self._sink, self._schema, **parquet_options(self._schema))
        return self._sink

    def _write_group(self) -> None:
        self._open()
        table = pa.Table.from_batches(self._batches, self._schema)
        self._writer.write_table(table, row_group_size=max(1, len(table)))
        self._rows += len(table)
        self._batches, self._pending, self._pending_bytes = [], 0, 0

    def close(self, table: str) -> TableFile:
        """Complete the file."""
        sink = self._open()
        if self._pending:
            self._write_group()
        self._writer.close()
        sink.close()
        return TableFile(table, sink.path, self._rows, sink.size_bytes, sink.sha256)
