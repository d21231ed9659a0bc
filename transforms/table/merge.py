"""Merging: staged and published files become the files of the next generation.

Rows never meet in a shuffle or in one process's memory: ids alone are looked
at to find the rows that another row supersedes, and each new file is written
from a few old ones, those rows left out.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from labelbeam.transforms.table.folder import Source
from labelbeam.transforms.table.integrity import check_source, read_batches
from labelbeam.transforms.table.manifest import TABLES
from labelbeam.transforms.table.rows import FAILURES, PREDICTIONS, RowMetadata, parquet_options, schema_of

# Ids that are compared at once, by 8 bytes each.
IDS_PER_PART = 16_000_000
# DuckDB, Spark and BigQuery read row groups of this size in parallel, and skip them by their statistics.
_ROWS_PER_GROUP = 1 << 17
_ROWS_PER_BATCH = 1 << 14
# Rows with a model's outputs are long: a group of them is written when it has this many bytes.
_BYTES_PER_GROUP = 128 << 20
# Hosts that a manifest may name.
_MAX_HOSTS = 1000

# Two names of this length, `by_` and `=` stay below the 255 bytes that file systems allow a folder's name.
_MAX_PARTITION_NAME = 120

# The columns that a manifest counts.
_COUNTED_COLUMNS = {PREDICTIONS: ("label", "labels"), FAILURES: ("reason", "host", "uri", "message")}

# The rank of a row, packed into one integer so that 16 million ranks are one array: the order of its run,
# whether it is a prediction, and its place, which is the number of its file and the row in it. A later run
# beats an earlier one, because it labelled the id again for a reason, such as another URI; published rows are
# the earliest. Within a run a prediction beats a failure, because bundles are tried again. The place decides
# between equals, so that every process chooses the same row.
_RUN_SHIFT, _PREDICTION, _FILE_SHIFT = 54, 1 << 53, 32
# Of more unfinished runs, the earliest count as one.
_MAX_RUNS = 1 << 9


@dataclass(frozen=True, slots=True)
class Partitioning:
    """How a table's files are laid out in folders, as Hive does it: `by_COLUMN=VALUE/`.

    The column itself stays in the files; with another name for the folders, readers that
    make a column of these find no two of one name.

    Attributes:
      column: A column of the user's whose values name the folders,
      buckets: or into how many folders rows are dealt by the hash of their id.
      max_folders: More are refused.
    """

    column: str | None = None
    buckets: int = 0
    max_folders: int = 1000

    @property
    def folder_column(self) -> str:
        """The name that readers see in the folders' names; an empty text without a column."""
        return f"by_{_fitting(self.column)}" if self.column else ""

    def folders(self, batch: pa.RecordBatch) -> pa.Array:
        """Return the folder of each row; "" where tables are not partitioned."""
        if self.buckets:
            width = len(str(self.buckets - 1))
            names = [f"by_hash={hash_of(i) % self.buckets:0{width}d}/" for i in batch["id"].to_pylist()]
            return pa.array(names, pa.string())
        if self.column is None:
            return pa.repeat("", len(batch))
        values = batch[self.column].dictionary_encode()
        prefix = f"{self.folder_column}="
        names = [f"{prefix}{_fitting(str(value))}/" for value in values.dictionary.to_pylist()]
        folders = pa.array(names, pa.string()).take(values.indices)
        # Empty texts too, because Hive and Spark know no folder without a value.
        default = f"{prefix}__HIVE_DEFAULT_PARTITION__/"
        folders = pc.fill_null(folders, default)
        return pc.if_else(pc.equal(folders, f"{prefix}/"), default, folders)


NOT_PARTITIONED = Partitioning()


def _fitting(value: str) -> str:
    """Percent-encode a value, and shorten it where no file system would take a folder of that name."""
    name = quote(value, safe=" ")
    if len(name) <= _MAX_PARTITION_NAME:
        return name
    # Cut between characters, because readers refuse folders whose name is no UTF-8. The digest keeps
    # values apart that begin alike.
    lengths = itertools.accumulate(len(quote(character, safe=" ")) for character in value)
    start = value[: sum(length <= _MAX_PARTITION_NAME - 17 for length in lengths)]
    return f"{quote(start, safe=' ')}~{hashlib.sha256(value.encode()).hexdigest()[:16]}"


@dataclass(frozen=True, slots=True)
class MergeTask:
    """One new file, or one that stays as it is.

    Attributes:
      name: Of the new file, without its suffix; "" if the file stays.
      sources: The files that it is made from, all of one table.
      dropped: For each of them the rows that are left out: little-endian `int64`, ascending.
    """

    name: str
    sources: tuple[Source, ...]
    dropped: tuple[bytes, ...]


@dataclass
class Merged:
    """Results of merging.

    Attributes:
      files: The next generation's files, at their paths now.
      paths: Of each, its path below the output folder; "" if it stays where it is.
      labels: Rows by class id and label.
      reasons: Failures by reason.
      hosts: Failures by host; those that failed most.
      examples: URI and message of one failure for each reason.
    """

    files: list[TableFile] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
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
        self.paths += other.paths
        self.labels += other.labels
        self.reasons += other.reasons
        self.hosts = Counter(dict((self.hosts + other.hosts).most_common(_MAX_HOSTS)))
        for reason, example in other.examples.items():
            self.add_example(reason, example)


def parts_of(sources: Sequence[Source]) -> int:
    """Return the number of parts that ids are dealt into, so that those of one part fit into memory."""
    return 1 + sum(source.file.rows for source in sources) // IDS_PER_PART


def find_superseded(sources: Sequence[Source], part: int, parts: int) -> dict[str, np.ndarray]:
    """Find the rows whose id has a better row.

    Args:
      sources: All files.
      part: Which of the parts to look at,
      parts: into which ids are dealt by their hash.

    Returns:
      Rows by the path of their file: `int64`, ascending.
    """
    hashes = [_hashes(ids) for source in sources for ids, _ in ids_of_part(source, part, parts)]
    seen = np.sort(np.concatenate(hashes)) if hashes else np.empty(0, np.int64)
    doubled = np.unique(seen[1:][seen[1:] == seen[:-1]])
    if not len(doubled):
        return {}
    runs = ["", *sorted({_run_of(source) for source in sources if not source.published})]
    suspects = [
        pa.record_batch({"id": list(itertools.compress(ids, met)), "rank": ranks[met]})
        for number, source in enumerate(sources)
        for ids, ranks in ids_of_part(source, part, parts, _rank_of(source, number, runs))
        if (met := np.isin(_hashes(ids), doubled)).any()
    ]
    table = pa.Table.from_batches(suspects)
    best = table.group_by("id").aggregate([("rank", "max")])["rank_max"].to_numpy()
    beaten = np.setdiff1d(table["rank"].to_numpy(), best, assume_unique=True)
    return _by_path(beaten, sources) if len(beaten) else {}


def ids_of_part(
    source: Source, part: int, parts: int, first: int = 0
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Yield the ids of a part, some at a time, and their row numbers counted from `first`."""
    for batch in read_batches(source, _ROWS_PER_BATCH, ["id"]):
        ids = batch["id"].to_pylist()
        numbers = np.arange(first, first + len(ids))
        first += len(ids)
        if parts > 1:
            mine = np.fromiter((hash_of(i) % parts == part for i in ids), bool, len(ids))
            ids, numbers = list(itertools.compress(ids, mine)), numbers[mine]
        yield ids, numbers


def _hashes(ids: list[str]) -> np.ndarray:
    return np.fromiter(map(hash, ids), np.int64, len(ids))


def _run_of(source: Source) -> str:
    """Return the run that staged a file, whose id begins with its time; an empty text if it is published."""
    return "" if source.published else source.file.path.rsplit("/", 3)[-3]


def _rank_of(source: Source, number: int, runs: Sequence[str]) -> int:
    """Return the rank of a file's first row, where `runs` are in their order, behind an empty text."""
    # At least 1 if staged, because staged rows beat what is published.
    order = max(not source.published, runs.index(_run_of(source)) + min(0, _MAX_RUNS - len(runs)))
    return order << _RUN_SHIFT | (source.file.table == PREDICTIONS) * _PREDICTION | number << _FILE_SHIFT


def _by_path(ranks: np.ndarray, sources: Sequence[Source]) -> dict[str, np.ndarray]:
    places = np.sort(ranks & (_PREDICTION - 1))
    numbers, starts = np.unique(places >> _FILE_SHIFT, return_index=True)
    rows = np.split(places & ((1 << _FILE_SHIFT) - 1), starts[1:])
    return {sources[n].file.path: dropped for n, dropped in zip(numbers.tolist(), rows, strict=True)}


def plan_merge(
    sources: Iterable[Source],
    superseded: Mapping[str, Sequence[np.ndarray]],
    name: str,
    target_bytes: int,
    keep_published: bool = True,
) -> list[MergeTask]:
    """Deal files out to tasks, each of which makes one file.

    A published file stays as it is if all its rows stay, and it is at least half
    as large as it should be or nothing is new in its table.

    Args:
      sources: All files.
      superseded: What `find_superseded` found, by path, from all parts.
      name: What the new files' names begin with.
      target_bytes: What a new file is to be made from.
      keep_published: Whether published files may stay.
    """
    sources = sorted(sources, key=lambda source: source.file.path)
    whole = {s.file.path for s in sources if keep_published and s.published and s.file.path not in superseded}
    tasks: list[MergeTask] = []
    for table in TABLES:
        its = [source for source in sources if source.file.table == table]
        settled = all(source.file.path in whole for source in its)
        small = target_bytes // 2
        stays = [s.file.path in whole and (settled or s.file.size_bytes >= small) for s in its]
        tasks += [MergeTask("", (source,), (b"",)) for source in itertools.compress(its, stays)]
        moving = [source for source, stay in zip(its, stays, strict=True) if not stay]
        for group in _group_by_size(moving, target_bytes):
            dropped = tuple(_pack_rows(superseded.get(source.file.path, ())) for source in group)
            tasks.append(MergeTask(f"{name}-{len(tasks):05d}", tuple(group), dropped))
    return tasks


def _group_by_size(sources: Sequence[Source], target_bytes: int) -> list[list[Source]]:
    groups: list[list[Source]] = []
    size_bytes = target_bytes
    for source in sources:
        size_bytes += source.file.size_bytes
        if not groups or size_bytes > target_bytes:
            groups.append([])
            size_bytes = source.file.size_bytes
        groups[-1].append(source)
    return groups


def _pack_rows(rows: Sequence[np.ndarray]) -> bytes:
    return np.sort(np.concatenate(rows)).astype("<i8").tobytes() if rows else b""


def merge_files(task: MergeTask, metadata: RowMetadata, folder: str, partitioning: Partitioning) -> Merged:
    """Carry a task out.

    Args:
      task: Which files become one.
      metadata: The new file's metadata.
      folder: Where it goes.
      partitioning: How rows are dealt to folders.

    Raises:
      RunError: A file is damaged, or more folders would be needed than are allowed.
    """
    table = task.sources[0].file.table
    for source in task.sources:
        check_source(source)
    if not task.name:
        return count_rows(task.sources[0], metadata)
    merged = Merged()
    writers: dict[str, _Writer] = {}
    for source, dropped in zip(task.sources, task.dropped, strict=True):
        for batch in _read_rows(source, np.frombuffer(dropped, "<i8")):
            _count(table, batch, merged)
            for name, rows in _by_folder(partitioning.folders(batch), batch):
                if name not in writers:
                    check_fan_out({*writers, name}, partitioning)
                    path = f"{folder}/{table}/{name}{task.name}.parquet"
                    writers[name] = _Writer(path, schema_of(table, metadata))
                writers[name].write(rows)
    for name, writer in writers.items():
        merged.files.append(writer.close(table))
        merged.paths.append(f"{table}/{name}{task.name}.parquet")
    return merged


def count_rows(source: Source, metadata: RowMetadata) -> Merged:
    """Count the rows of a file that stays as it is."""
    table = source.file.table
    merged = Merged(files=[source.file], paths=[""])
    columns = [name for name in _COUNTED_COLUMNS[table] if name in schema_of(table, metadata).names]
    for batch in read_batches(source, _ROWS_PER_BATCH, columns):
        _count(table, batch, merged)
    return merged


def write_empty(table: str, name: str, metadata: RowMetadata, folder: str) -> Merged:
    """Write a file without rows: a table that readers can open."""
    writer = _Writer(f"{folder}/{table}/{name}.parquet", schema_of(table, metadata))
    return Merged(files=[writer.close(table)], paths=[f"{table}/{name}.parquet"])


def check_fan_out(folders: set[str], partitioning: Partitioning) -> None:
    """Refuse to scatter a table.

    Raises:
      RunError: There are more folders than allowed.
    """
    if len(folders) > partitioning.max_folders:
        raise RunError(
            f"partition_by={partitioning.column} would make more than max_partitions="
            f"{partitioning.max_folders:,} folders. Run the same command with --partition_by=hash:64, with "
            "a column of fewer values, or with a larger --max_partitions; what was labelled is kept."
        )


def _read_rows(source: Source, dropped: np.ndarray) -> Iterator[pa.RecordBatch]:
    start = 0
    for batch in read_batches(source, _ROWS_PER_BATCH):
        end = start + len(batch)
        here = dropped[np.searchsorted(dropped, start) : np.searchsorted(dropped, end)]
        keep = np.ones(len(batch), bool)
        keep[here - start] = False
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
    elif len(batch) and "labels" in batch.schema.names:  # not of a model that names no classes
        labelled = batch.filter(pc.is_valid(batch["label"]))  # a multi-label model may find no class
        class_ids = pc.struct_field(pc.list_element(labelled["labels"], 0), "class_id")
        best = pa.table({"class_id": class_ids, "label": labelled["label"]})
        counts = best.group_by(best.column_names).aggregate([([], "count_all")])
        for class_id, label, rows in zip(*(column.to_pylist() for column in counts.columns), strict=True):
            merged.labels[class_id, label] += rows


def _value_counts(values: pa.Array) -> dict[str, int]:
    return {pair["values"]: pair["counts"] for pair in values.value_counts().to_pylist()}


class _Writer:
    """Writes rows to a file, in row groups of one size; it is opened when the first of these is full."""

    def __init__(self, path: str, schema: pa.Schema) -> None:
        self._path = path
        self._schema = schema
        self._batches: list[pa.RecordBatch] = []
        self._waiting = self._waiting_bytes = self._rows = 0
        self._sink: FileSink | None = None

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows."""
        self._batches.append(batch.replace_schema_metadata(self._schema.metadata))
        self._waiting += len(batch)
        self._waiting_bytes += batch.nbytes
        if self._waiting >= _ROWS_PER_GROUP or self._waiting_bytes >= _BYTES_PER_GROUP:
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
        self._batches, self._waiting, self._waiting_bytes = [], 0, 0

    def close(self, table: str) -> TableFile:
        """Complete the file."""
        sink = self._open()
        if self._waiting:
            self._write_group()
        self._writer.close()
        sink.close()
        return TableFile(table, sink.path, self._rows, sink.size_bytes, sink.sha256)
