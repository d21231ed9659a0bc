"""A Delta log over published files: version n of the Delta table is generation n of the output."""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Schema
from deltalake.exceptions import DeltaError
from deltalake.transaction import AddAction, RemoveAction, create_table_with_add_actions

from labelbeam.transforms.errors import UserError
from labelbeam.transforms.files import (
    file_errors_as,
    join_path,
    list_files,
    open_parquet,
    read_file,
    write_file,
)
from labelbeam.transforms.table.folder import DELTA_LOG, TableFolder, read_generation
from labelbeam.transforms.table.manifest import Manifest

_COMMIT = re.compile(r"\d{20}\.json")
# Without checkpoints, because these are Parquet files, and readers of `predictions/**/*.parquet` would read
# them.
_NO_CHECKPOINTS = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)
# Key of labelbeam's own commits: the publication whose files they list.
_PUBLICATION = "labelbeam.publication"
# Listed for a generation whose manifest is gone, because readers of its version must fail, and not take it
# for one without rows.
_LOST = "generation-{:06d}-was-never-exported.parquet"
# Its bytes, because readers skip empty files, and no rows.
_LOST_SIZE = (1024, 0)


def write_delta_log(output: str, manifest: Manifest, table: str) -> str:
    """Add commits to the Delta log of a table, up to the current generation, and return a line about them.

    Version 0 has no rows, and version n the files of generation n. No file is copied.

    Args:
      output: The table folder.
      manifest: Manifest of the current generation.
      table: `predictions` or `failures`.

    Raises:
      UserError: The log is not of these files, or can't be written.
      RunError: A file of the table is gone or damaged.
    """
    folder = TableFolder(output).join(table)
    log, current = join_path(folder, DELTA_LOG), manifest.generation
    schema = _schema_of(join_path(output, manifest.files_of(table)[0].path))
    with (
        # In a copy, because deltalake's own clients of buckets have other credentials.
        tempfile.TemporaryDirectory(prefix="labelbeam-delta-") as copy,
        file_errors_as(UserError, f"{log!r} cannot be written", "Check its folder and rights."),
    ):
        before = _copy_log(log, Path(copy, DELTA_LOG))
        try:
            _check_log(copy, before, manifest, table)
            for version in range(before + 1, current + 1):
                older = manifest if version == current else read_generation(output, version)
                _commit(copy, version, table, schema, older)
        except DeltaError as e:
            raise _foreign(log, str(e)) from e
        for version in range(before + 1, current + 1):
            write_file(join_path(log, _name(version)), Path(copy, DELTA_LOG, _name(version)).read_bytes())
    return f"{folder} is {'already ' if before == current else ''}a Delta table at version {current}."


def _schema_of(path: str) -> Schema:
    with open_parquet(path) as parquet:
        try:
            return Schema.from_arrow(parquet.schema_arrow)
        except Exception as e:  # deltalake raises no narrower one
            # Without the lines behind the first, which are a stack of calls.
            reason = str(e).partition("\n")[0].rpartition("Invalid data type for Delta Lake: ")[2]
            raise UserError(
                f"{path} has a column of a type that Delta tables can't have: {reason}. Export it as jsonl."
            ) from e


def _name(version: int) -> str:
    return f"{version:020d}.json"


def _copy_log(log: str, copy: Path) -> int:
    """Copy a log, and return its version; -1 without a log."""
    copy.mkdir()
    names = [os.path.basename(file.path) for file in list_files(log)]
    for name in names:
        (copy / name).write_bytes(read_file(join_path(log, name)))
    return max((int(name[:20]) for name in names if _COMMIT.fullmatch(name)), default=-1)


def _check_log(copy: str, version: int, manifest: Manifest, table: str) -> None:
    """Refuse a log that another program has written to, or that is of another output."""
    if version < 0:
        return
    log, current = join_path(table, DELTA_LOG), manifest.generation
    delta = DeltaTable(copy)
    if version > current:
        raise _foreign(log, f"it is at version {version}, and the tables are at generation {current}")
    if _PUBLICATION not in delta.history(1)[0]:
        raise _foreign(log, f"another program wrote version {version}")
    if version == current and _paths_in(delta) != _rows_by_path(manifest, table).keys():
        raise _foreign(log, f"version {version} lists other files than generation {current}")


def _foreign(log: str, why: str) -> UserError:
    return UserError(f"{log!r} is not the log of these tables: {why}. Delete it, and export again.")


def _paths_in(delta: DeltaTable) -> set[str]:
    return set(map(unquote, pa.table(delta.get_add_actions())["path"].to_pylist()))


def _rows_by_path(manifest: Manifest, table: str) -> dict[str, tuple[int, int]]:
    """Return the size and the number of rows of each file, by its path below the table's folder."""
    files = manifest.files_of(table)
    return {file.path.removeprefix(f"{table}/"): (file.size_bytes, file.rows) for file in files}


def _commit(copy: str, version: int, table: str, schema: Schema, manifest: Manifest | None) -> None:
    """Add a commit to the copy of a log.

    Args:
      copy: Folder of the Delta table.
      version: Number of the commit.
      table: Name of the table.
      schema: Columns of the current generation.
      manifest: Manifest of the generation; None if there is none.
    """
    properties = CommitProperties({_PUBLICATION: manifest.publication if manifest else "none"})
    if version == 0:
        create_table_with_add_actions(
            copy,
            schema,
            [],
            name=table,
            commit_properties=properties,
            post_commithook_properties=_NO_CHECKPOINTS,
        )
        return
    delta, now = DeltaTable(copy), int(time.time() * 1000)
    old = _paths_in(delta)
    new = _rows_by_path(manifest, table) if manifest else {_LOST.format(version): _LOST_SIZE}
    # Files with other columns are all new, and deltalake changes a schema only if it removes all old files.
    is_other = delta.schema() != schema
    adds = [
        AddAction(path, size, {}, now, True, json.dumps({"numRecords": rows}) if manifest else "{}")
        for path, (size, rows) in new.items()
        if is_other or path not in old
    ]
    removes = [] if is_other else [RemoveAction(path, True, now) for path in sorted(old - new.keys())]
    delta.create_write_transaction(
        [*adds, *removes],
        "overwrite" if is_other else "append",
        schema,
        commit_properties=properties,
        post_commithook_properties=_NO_CHECKPOINTS,
    )
