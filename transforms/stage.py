"""Staging: finished rows become small immutable Parquet files during the run."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import GlobalWindows

from labelbeam.transforms.attempts import usec_since
from labelbeam.transforms.budget import BudgetWatch, FailureBudget
from labelbeam.transforms.calibration import Calibration
from labelbeam.transforms.elements import Failure, PackedImage, Prediction, TableFile
from labelbeam.transforms.errors import RunError
from labelbeam.transforms.files import join_path, write_file
from labelbeam.transforms.outcomes import par_do_each
from labelbeam.transforms.process import once_per_process
from labelbeam.transforms.table.folder import staged_name
from labelbeam.transforms.table.rows import (
    FAILURES,
    PREDICTIONS,
    RowMetadata,
    failure_row,
    failures_schema,
    parquet_options,
    prediction_row,
    to_predictions,
    to_record_batch,
)
from labelbeam.transforms.window import images_in_flight

# Most bytes of model outputs in a staged file. Bounded beside the rows, because a row with outputs can be
# many times as long as one without.
_MAX_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Staging:
    """Destination and size of staged files.

    Attributes:
      folder: Folder of this run alone.
      row_metadata: Columns that are equal in every row.
      every_rows: Largest number of rows in a file.
      every_sec: Largest age of a file's first row when another row comes.
      budget: Largest share of images that may fail.
      side: Side of the split layout. Each side has its own stager and budget watch, because a process may run
        both.
    """

    folder: str
    row_metadata: RowMetadata
    every_rows: int
    every_sec: float
    budget: FailureBudget
    side: str = ""
    calibration: Calibration | None = None


def write_staged(table: str, batch: pa.RecordBatch, folder: str) -> TableFile:
    """Write rows as one file of a table."""
    # Named by digest and number of rows, because two attempts that write the same bytes then write one file,
    # and because readers of the folder need both for every file.
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_batches([batch]), sink, **parquet_options(batch.schema))
    data = sink.getvalue()
    sha256 = hashlib.sha256(data).hexdigest()
    path = join_path(folder, table, staged_name(sha256, len(batch)))
    write_file(path, data)
    return TableFile(table, path, len(batch), data.size, sha256)


class Stager:
    """A buffer of finished rows, shared by all threads and bundles of a process.

    Rows of several bundles may share a file, because a row stays true even if its bundle fails. Safe to call
    from several threads.
    """

    def __init__(self, staging: Staging) -> None:
        self._staging = staging
        self._watch = BudgetWatch(staging.budget, images_in_flight)
        self._lock = threading.Lock()
        self._rows: dict[str, list[tuple]] = {PREDICTIONS: [], FAILURES: []}
        self._oldest: float | None = None

    def add(self, result: Prediction | Failure) -> list[TableFile]:
        """Add a row, and return files that were written.

        Raises:
          RunError: Too many images have failed; all rows are written.
        """
        with self._lock:
            metadata = self._staging.row_metadata
            if isinstance(result, Prediction):
                self._rows[PREDICTIONS].append(prediction_row(result, metadata))
            else:
                self._rows[FAILURES].append(failure_row(result, metadata))
            written = self._write() if self._is_due() else []
        # After the row was added, because rows of a run that stops must reach staging: the next run keeps
        # them.
        try:
            self._watch.count(result)
        except RunError:
            self.flush()
            raise
        return written

    def pass_on(self, image: PackedImage) -> None:
        """Count an image that has not failed and goes to other workers."""
        self._watch.count(image)

    def flush(self) -> list[TableFile]:
        """Write the rows of the buffer."""
        with self._lock:
            return self._write()

    def _is_due(self) -> bool:
        # Checked when a row comes, not by a timer, because rows may be written on a bundle's thread alone:
        # the files' elements must leave through a bundle. A bundle that ends flushes the rest.
        now = time.monotonic()
        self._oldest = now if self._oldest is None else self._oldest
        rows = max(map(len, self._rows.values()))
        most = min(self._staging.every_rows, _MAX_BYTES // max(1, self._staging.row_metadata.outputs_bytes))
        return rows >= most or now - self._oldest >= self._staging.every_sec

    def _write(self) -> list[TableFile]:
        written = []
        for table, rows in self._rows.items():
            if rows:
                written.append(write_staged(table, self._to_batch(table, rows), self._staging.folder))
                rows.clear()
        self._oldest = None
        return written

    def _to_batch(self, table: str, rows: list[tuple]) -> pa.RecordBatch:
        metadata = self._staging.row_metadata
        if table == FAILURES:
            return to_record_batch(rows, failures_schema(metadata))
        return to_predictions(rows, metadata, self._staging.calibration)


@once_per_process
def stager_of(staging: Staging) -> Stager:
    """Return the process's stager, which code that ends a process must flush."""
    return Stager(staging)


@dataclass
class StageResults(beam.PTransform):
    """The step that writes finished rows to files, which no reader sees until they are published.

    Input: one or several collections of `Prediction` or `Failure`, and of `PackedImage` that go to other
    workers: such an image has no row, and counts as one that has not failed.
    Output: `TableFile`.
    Metrics: `write_usec`.
    Guarantees: rows of a finished bundle are in files. A crash within a bundle loses images in flight, and
    rows in no file yet: at most `every_rows` a table, written when a row comes after `every_sec`. They are
    labelled again. A bundle that ran twice leaves its rows twice.

    Attributes:
      staging: Destination and size of the files.
    """

    staging: Staging

    def expand(self, collections: tuple[beam.PCollection, ...]) -> beam.PCollection[TableFile]:
        return par_do_each("Write", collections, _StageFn(self.staging), TableFile)


class _StageFn(beam.DoFn):
    def __init__(self, staging: Staging) -> None:
        self._staging = staging
        self._write_usec = Metrics.distribution(StageResults, "write_usec")

    def setup(self) -> None:
        self._stager = stager_of(self._staging)

    def process(self, result: Prediction | Failure | PackedImage) -> list[TableFile]:
        if isinstance(result, PackedImage):
            self._stager.pass_on(result)
            return []
        start = time.perf_counter()
        if files := self._stager.add(result):
            self._write_usec.update(usec_since(start))
        return files

    def finish_bundle(self) -> Iterator:
        # Flushed with each bundle, because the runner drops the input of a bundle that has ended: rows that
        # are only in memory would be lost with the process.
        start = time.perf_counter()
        files = self._stager.flush()
        self._write_usec.update(usec_since(start))
        return map(GlobalWindows.windowed_value, files)
