"""Reading table files: a file's bytes are compared with its digest before its rows are used.

A flipped bit can leave a Parquet file readable, with other values or other ids. The whole file is digested,
because page checksums leave out the footer, which holds the schema and the offsets of all pages.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Sequence

import pyarrow as pa

from labelbeam.transforms.errors import RunError
from labelbeam.transforms.files import MEND, delete_files, digest_file, exists, open_parquet, read_file
from labelbeam.transforms.table.folder import StoredFile


def damage_of(stored: StoredFile) -> str:
    """Return the damage of a file in words; an empty text for a file as listed."""
    file = stored.file
    if not exists(file.path):
        return "the file is missing"
    try:
        actual = digest_file(file.path)
    except IsADirectoryError:
        return "the path is a folder"
    if actual.size_bytes != file.size_bytes:
        return f"{actual.size_bytes:,} bytes instead of {file.size_bytes:,}"
    if actual.sha256 != file.sha256:
        return f"SHA-256 {actual.sha256[:16]}… instead of {str(file.sha256)[:16]}…"
    return ""


def check_stored(stored: StoredFile) -> None:
    """Check that a file's bytes are as listed.

    Raises:
      RunError: The file is damaged or missing.
    """
    if damage := damage_of(stored):
        raise RunError(f"{stored.file.path} is damaged: {damage}. {_remedy(stored)}")


def _remedy(stored: StoredFile) -> str:
    return MEND if stored.published else "The next run deletes it: its rows are labelled again."


def read_batches(
    stored: StoredFile, rows: int, columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Read a file's rows in batches.

    Args:
      stored: The file.
      rows: Largest number of rows in a batch.
      columns: Names of the columns to read; None for all.

    Raises:
      RunError: The file is damaged in a way that Arrow notices; `check_stored` notices the others.
    """
    with open_parquet(stored.file.path, _remedy(stored)) as parquet:
        for batch in parquet.iter_batches(rows, columns=columns):
            # Checked, because Arrow leaves out columns that a file does not have.
            if columns and batch.num_columns < len(columns):
                raise pa.ArrowInvalid(f"one of the columns {', '.join(columns)} is missing")
            # Validated here, because invalid UTF-8 would otherwise raise later, without the file's name.
            batch.validate(full=True)
            yield batch


def keep_whole(stored: StoredFile) -> bool:
    """Delete a damaged staged file, because its rows can be labelled again; return whether the file stays.

    An error while the file is read deletes nothing, because the bytes on the disk may be whole.

    Raises:
      RunError: The file is published and damaged.
    """
    if stored.published:
        check_stored(stored)
        return True
    file = stored.file
    if not exists(file.path):  # because an earlier attempt of this bundle deleted it
        return False
    for _ in range(2):  # because one read of an undamaged file can go wrong
        data = read_file(file.path)
        if len(data) != file.size_bytes:
            raise RunError(
                f"{file.path}: {len(data):,} bytes of {file.size_bytes:,} could be read. "
                "Run the same command again."
            )
        if hashlib.sha256(data).hexdigest() == file.sha256:
            return True
    delete_files([file.path])
    # Printed, because a run without --verbose shows no logs.
    rows = "its row is" if file.rows == 1 else f"its {file.rows:,} rows are"
    print(f"{file.path} was damaged and is deleted: {rows} labelled again.", file=sys.stderr, flush=True)
    return False
