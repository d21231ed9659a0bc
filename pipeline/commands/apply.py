"""The command `apply`: published predictions with the columns of a calibration, without new labels."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from labelbeam.pipeline.calibration import basis_of_table, read_fitting
from labelbeam.pipeline.manifest import (
    new_run_id,
    published_manifest,
    published_row_metadata,
    recorded_config,
)
from labelbeam.pipeline.output import folder_of, locked, look_into, refuse_losses
from labelbeam.transforms.calibration import Calibration
from labelbeam.transforms.elements import TableFile
from labelbeam.transforms.errors import RunError, UserError
from labelbeam.transforms.files import delete_folder, file_errors_as, is_local
from labelbeam.transforms.table.folder import StoredFile, TableFolder, published_files, switch, tidy
from labelbeam.transforms.table.integrity import check_stored, read_batches
from labelbeam.transforms.table.manifest import Manifest
from labelbeam.transforms.table.merge import ROWS_PER_BATCH, TableWriter
from labelbeam.transforms.table.rows import (
    CALIBRATION_COLUMNS,
    FAILURES,
    PREDICTIONS,
    RowMetadata,
    decisions_of,
    predictions_schema,
    with_decisions,
)


class ApplyResult(NamedTuple):
    """Result of the command.

    Attributes:
      manifest: The published manifest.
      decided: Number of rows with a decision; None if the tables had this calibration already.
    """

    manifest: Manifest
    decided: int | None


def apply_calibration(output: str, path: str) -> ApplyResult:
    """Publish a generation whose predictions have the columns of a calibration.

    Rows are the same otherwise, files of failures too. Readers see the old generation or the new one, and a
    command that is killed changes nothing for them.

    Args:
      output: The table folder.
      path: The calibration file.

    Raises:
      UserError: Nothing was published, a run is unfinished, or the calibration does not fit.
      RunError: A published file is damaged, or the folder can't be written.
    """
    folder = folder_of(output)
    # Before the lock, because the lock is a file below the folder, which would be made for a wrong name.
    published_manifest(folder)
    with locked(folder):
        manifest = _manifest_to_change(folder)
        calibration = read_fitting(path, basis_of_table(manifest, folder), folder)
        if manifest.labelled_with.calibration == calibration.fingerprint:
            return ApplyResult(manifest, None)
        with file_errors_as(RunError, f"output={folder!r} cannot be written", "Check its rights."):
            return _publish(folder, manifest, calibration, path)


def describe_applied(output: str, applied: ApplyResult) -> str:
    """Describe the result."""
    manifest, decided = applied.manifest, applied.decided
    if decided is None:
        return f"{output}: the rows have this calibration already, and nothing was changed."
    rows = manifest.rows[PREDICTIONS]
    return (
        f"{output}: generation {manifest.generation} has the columns {' and '.join(CALIBRATION_COLUMNS)}; "
        f"{decided:,} of {rows:,} rows are decided."
    )


def _manifest_to_change(folder: str) -> Manifest:
    contents = look_into(folder)
    manifest = contents.manifest or published_manifest(folder)
    if contents.unfinished:
        # Refused also without staged rows, because a run that has just started has none yet. Its rows will
        # lack the columns, so that it could not publish them after a change of the calibration.
        run_id, *others = contents.unfinished
        more = f" (and {len(others):,} more)" if others else ""
        staged = sum(contents.staged_rows.values())
        rows = f"with {staged:,} row{'' if staged == 1 else 's'}"
        raise UserError(
            f"{folder!r} holds the run {run_id}{more}, {rows}, which is unfinished or still at work. Run its "
            "command again to finish it, then apply the calibration. If it will never be finished, delete "
            f"{TableFolder(folder).run(run_id)}."
        )
    refuse_losses(folder, manifest)
    for column in manifest.labelled_with.columns:
        if column.casefold() in CALIBRATION_COLUMNS:
            raise UserError(
                f"{folder!r} has a column {column!r} of the input, and the calibration adds one of that "
                "name. Label into another --output, where the input's column gets another name."
            )
    return manifest


def _publish(folder: str, manifest: Manifest, calibration: Calibration, path: str) -> ApplyResult:
    keep = recorded_config(manifest, {}).write.keep_generations
    # Before anything is written, because an earlier command that was killed has left files.
    tidy(folder, keep)
    rows = dataclasses.replace(
        published_row_metadata(manifest), run_id=new_run_id(), decisions=decisions_of(calibration)
    )
    rewriting = _Rewriting(TableFolder(folder), rows, calibration)
    moves, files = {}, manifest.files_of(FAILURES)
    predictions = [one for one in published_files(folder, manifest) if one.file.table == PREDICTIONS]
    for number, stored in enumerate(predictions):
        file = rewriting.rewrite(stored, number)
        moves[file.path] = file.path.removeprefix(rewriting.merged).strip("/")
        files.append(dataclasses.replace(file, path=moves[file.path]))
    changed = dataclasses.replace(
        manifest,
        run_id=rows.run_id,
        publication=rewriting.name,
        generation=manifest.generation + 1,
        labelled_with=dataclasses.replace(manifest.labelled_with, calibration=calibration.fingerprint),
        # Absolute, because a rerun reads the file again, perhaps from another folder.
        config={**manifest.config, "calibration": os.path.abspath(path) if is_local(path) else path},
        files=tuple(sorted(files, key=lambda file: file.path)),
        merged_runs=(rows.run_id,),
        labelled_by=manifest.labelling_run,
    )
    switch(folder, changed, moves, (manifest.run_id,), keep)
    delete_folder(rewriting.folder.run(rows.run_id))
    return ApplyResult(changed, rewriting.decided)


class _Rewriting:
    """New files in place of published ones.

    Attributes:
      folder: The table folder.
      name: Prefix of the new files' names.
      merged: Folder of the new files.
      decided: Number of rows with a decision so far.
    """

    def __init__(self, folder: TableFolder, rows: RowMetadata, calibration: Calibration) -> None:
        self.folder = folder
        self.name = f"{rows.run_id}-0000"
        self.merged = folder.merged(rows.run_id)
        self.decided = 0
        self._calibration = calibration
        self._schema = predictions_schema(rows)

    def rewrite(self, stored: StoredFile, number: int) -> TableFile:
        """Write the new form of a file, in a folder of the same name."""
        check_stored(stored)
        below = os.path.dirname(self.folder.below(stored.file.path))
        writer = TableWriter(f"{self.merged}/{below}/{self.name}-{number:05d}.parquet", self._schema)
        for batch in self._batches(stored):
            writer.write(batch)
        return writer.close(PREDICTIONS)

    def _batches(self, stored: StoredFile) -> Iterator[pa.RecordBatch]:
        for batch in read_batches(stored, ROWS_PER_BATCH):
            batch = with_decisions(batch, self._calibration, self._schema)
            self.decided += _count_decided(batch["decision"])
            yield batch


def _count_decided(decisions: pa.Array) -> int:
    if pa.types.is_list(decisions.type):
        return pc.sum(pc.greater(pc.list_value_length(decisions), 0)).as_py() or 0
    return len(decisions) - decisions.null_count
