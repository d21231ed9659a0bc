"""Staging: finished rows become small immutable Parquet files."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import GlobalWindows

import transforms.coders  # noqa: F401  (registers the coders)
from transforms.elements import StagedFile
from transforms.files import write_file
from transforms.rows import DICTIONARY_COLUMNS, RowFacts, to_record_batch

# Rows that become columns together; while they wait they are Python objects.
_ROWS_PER_BATCH = 4096
# DuckDB's and Arrow's readers like row groups of 100,000 rows and more.
_ROWS_PER_FILE = 64 * _ROWS_PER_BATCH


def encode_parquet(batches: list[pa.RecordBatch], schema: pa.Schema) -> pa.Buffer:
    """Encodes rows as one Parquet file with one row group: zstd, few-valued columns as dictionaries."""
    sink = pa.BufferOutputStream()
    dictionary = [name for name in DICTIONARY_COLUMNS if name.partition(".")[0] in schema.names]
    table = pa.Table.from_batches(batches, schema)
    pq.write_table(
        table, sink, compression="zstd", use_dictionary=dictionary, row_group_size=max(1, len(table))
    )
    return sink.getvalue()


def write_rows(table: str, batches: list[pa.RecordBatch], schema: pa.Schema, folder: str) -> StagedFile:
    """Writes rows as one file of a table, under a name of its own."""
    data = encode_parquet(batches, schema)
    path = FileSystems.join(folder, table, f"{uuid.uuid4().hex}.parquet")
    write_file(path, data)
    rows = sum(len(batch) for batch in batches)
    return StagedFile(table, path, rows, data.size, hashlib.sha256(data).hexdigest())


@dataclass
class StageRows(beam.PTransform):
    """Writes rows to files that nobody reads until they are published.

    Input: elements. Output: `StagedFile`. Metrics: `TABLE_rows`, `TABLE_file_bytes`.
    Guarantees: a `StagedFile` leaves when its file is whole. A bundle that ran
    twice leaves two files, one of which no `StagedFile` names.

    Attributes:
      table: `predictions` or `failures`.
      schema: Of the files.
      to_row: Makes the values of a row from an element.
      facts: What every row carries.
      folder: Where the files go; their names are unique.
    """

    table: str
    schema: pa.Schema
    to_row: Callable[[Any, RowFacts], tuple]
    facts: RowFacts
    folder: str

    def expand(self, elements: beam.PCollection) -> beam.PCollection[StagedFile]:
        """Applies the step."""
        return elements | "Write" >> beam.ParDo(_StageRowsFn(self)).with_output_types(StagedFile)


class _StageRowsFn(beam.DoFn):
    def __init__(self, step: StageRows) -> None:
        self._table = step.table
        self._schema = step.schema
        self._to_row = step.to_row
        self._facts = step.facts
        self._folder = step.folder
        self._rows_out = Metrics.counter(StageRows, f"{step.table}_rows")
        self._file_bytes = Metrics.distribution(StageRows, f"{step.table}_file_bytes")

    def start_bundle(self) -> None:
        self._rows: list[tuple] = []
        self._batches: list[pa.RecordBatch] = []

    def process(self, element: Any) -> Iterator[StagedFile]:
        self._rows.append(self._to_row(element, self._facts))
        if len(self._rows) == _ROWS_PER_BATCH:
            self._close_batch()
            if len(self._batches) * _ROWS_PER_BATCH >= _ROWS_PER_FILE:
                yield self._close_file()

    def finish_bundle(self) -> Iterator:
        if self._rows:
            self._close_batch()
        if self._batches:
            yield GlobalWindows.windowed_value(self._close_file())

    def _close_batch(self) -> None:
        self._batches.append(to_record_batch(self._rows, self._schema))
        self._rows = []

    def _close_file(self) -> StagedFile:
        staged = write_rows(self._table, self._batches, self._schema, self._folder)
        self._batches = []
        self._rows_out.inc(staged.rows)
        self._file_bytes.update(staged.size_bytes)
        return staged
