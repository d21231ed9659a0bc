"""Staging: finished rows become small immutable Parquet files while the run goes."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import GlobalWindows

import labelbeam.transforms.coders  # noqa: F401  (registers the coders)
from labelbeam.transforms.budget import BudgetWatch, FailureBudget
from labelbeam.transforms.elements import DecodedImage, Failure, Prediction, TableFile
from labelbeam.transforms.errors import RunError
from labelbeam.transforms.files import write_file
from labelbeam.transforms.outcomes import usec_since
from labelbeam.transforms.process import once_per_process
from labelbeam.transforms.table.folder import staged_name
from labelbeam.transforms.table.rows import (
    FAILURES,
    PREDICTIONS,
    RowFacts,
    failure_row,
    parquet_options,
    prediction_row,
    schema_of,
    to_record_batch,
)
from labelbeam.transforms.window import images_in_flight

# Most bytes of the model's outputs that gather before they are staged.
_MAX_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Staging:
    """Where finished rows go, and how often.

    Attributes:
      folder: Of this run alone; its files' names are unique.
      facts: What every row carries.
      every_rows: A file is closed with this many rows,
      every_sec: or when its first row is this old and another row comes.
      budget: How many images may fail.
      side: Of the split layout; each has a stager, and is held to the budget, by itself.
    """

    folder: str
    facts: RowFacts
    every_rows: int
    every_sec: float
    budget: FailureBudget
    side: str = ""


def write_staged(table: str, batch: pa.RecordBatch, folder: str) -> TableFile:
    """Write rows as one file of a table, under a name that holds its digest and their number.

    Two attempts that write the same bytes write the same file.
    """
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_batches([batch]), sink, **parquet_options(batch.schema))
    data = sink.getvalue()
    sha256 = hashlib.sha256(data).hexdigest()
    path = FileSystems.join(folder, table, staged_name(sha256, len(batch)))
    write_file(path, data)
    return TableFile(table, path, len(batch), data.size, sha256)


class Stager:
    """Gathers the finished rows of all threads and bundles of a process into files.

    A row stays true whatever becomes of the bundle it came from, so that
    rows of several bundles may share a file; a bundle that ends has them all
    written. Safe to call from several threads.
    """

    def __init__(self, staging: Staging) -> None:
        self._staging = staging
        self._watch = BudgetWatch(staging.budget, images_in_flight)
        self._lock = threading.Lock()
        self._rows: dict[str, list[tuple]] = {PREDICTIONS: [], FAILURES: []}
        self._oldest: float | None = None

    def add(self, result: Prediction | Failure) -> list[TableFile]:
        """Add a row, and return the files that were written.

        Raises:
          RunError: Too many images have failed; all rows are written.
        """
        with self._lock:
            facts = self._staging.facts
            if isinstance(result, Prediction):
                self._rows[PREDICTIONS].append(prediction_row(result, facts))
            else:
                self._rows[FAILURES].append(failure_row(result, facts))
            written = self._write() if self._is_due() else []
        try:
            self._watch.count(result)
        except RunError:
            self.flush()
            raise
        return written

    def pass_on(self, image: DecodedImage) -> None:
        """Count an image that has not failed and goes on to other workers."""
        self._watch.count(image)

    def flush(self) -> list[TableFile]:
        """Write the rows that have gathered."""
        with self._lock:
            return self._write()

    def _is_due(self) -> bool:
        now = time.monotonic()
        self._oldest = now if self._oldest is None else self._oldest
        rows = max(map(len, self._rows.values()))
        most = min(self._staging.every_rows, _MAX_BYTES // max(1, self._staging.facts.outputs_bytes))
        return rows >= most or now - self._oldest >= self._staging.every_sec

    def _write(self) -> list[TableFile]:
        written = []
        for table, rows in self._rows.items():
            if rows:
                batch = to_record_batch(rows, schema_of(table, self._staging.facts))
                written.append(write_staged(table, batch, self._staging.folder))
                rows.clear()
        self._oldest = None
        return written


@once_per_process
def stager_of(staging: Staging) -> Stager:
    """Return the process's stager; code that stops a process flushes it."""
    return Stager(staging)


@dataclass
class StageResults(beam.PTransform):
    """Writes finished rows to files that nobody reads until they are published.

    Input: one or several collections of `Prediction` or `Failure`, and of `DecodedImage` where
    images go on to other workers: they have no rows, and count as such that did not fail.
    Output: `TableFile`.
    Metrics: `TABLE_rows`, `TABLE_file_bytes`, `write_usec`.
    Guarantees: when a bundle ends its rows are in files, and at most `every_rows` or
    `every_sec` of work is not while it goes. A bundle that ran twice has its rows twice.

    Attributes:
      staging: Where rows go, and how often.
    """

    staging: Staging

    def expand(self, collections: tuple[beam.PCollection, ...]) -> beam.PCollection[TableFile]:
        """Apply the step."""
        # Each collection by itself: a flatten before the write would end the stage on some
        # runners, and failures would wait for it.
        return [
            results | f"Write{n}" >> beam.ParDo(_StageFn(self.staging)).with_output_types(TableFile)
            for n, results in enumerate(collections)
        ] | beam.Flatten()


class _StageFn(beam.DoFn):
    def __init__(self, staging: Staging) -> None:
        self._staging = staging
        tables = (PREDICTIONS, FAILURES)
        self._rows = {table: Metrics.counter(StageResults, f"{table}_rows") for table in tables}
        self._bytes = {table: Metrics.distribution(StageResults, f"{table}_file_bytes") for table in tables}
        self._write_usec = Metrics.distribution(StageResults, "write_usec")

    def setup(self) -> None:
        self._stager = stager_of(self._staging)

    def process(self, result: Prediction | Failure | DecodedImage) -> Iterator[TableFile]:
        if isinstance(result, DecodedImage):
            self._stager.pass_on(result)
            return
        start = time.perf_counter()
        if files := self._stager.add(result):
            self._write_usec.update(usec_since(start))
        for file in files:
            yield self._seen(file)

    def finish_bundle(self) -> Iterator:
        start = time.perf_counter()
        files = self._stager.flush()
        self._write_usec.update(usec_since(start))
        for file in files:
            yield GlobalWindows.windowed_value(self._seen(file))

    def _seen(self, file: TableFile) -> TableFile:
        self._rows[file.table].inc(file.rows)
        self._bytes[file.table].update(file.size_bytes)
        return file
