"""Reading table files: their bytes are compared with their digest before their rows are believed.

A flipped bit can leave a Parquet file readable, with other values or other ids. Page checksums
would not find a flip in the footer, which holds the schema and the places of all pages, and so
the whole file is digested.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Sequence

import pyarrow as pa

from labelbeam.transforms.errors import RunError
from labelbeam.transforms.files import MEND, delete_files, digest_file, exists, open_parquet, read_file
from labelbeam.transforms.table.folder import Source


def damage_of(source: Source) -> str:
    """Return what is wrong with a file's bytes; an empty text if they are as listed."""
    file = source.file
    if not exists(file.path):
        return "it is gone"
    try:
        actual = digest_file(file.path)
    except IsADirectoryError:
        return "a folder is in its place"
    if actual.size_bytes != file.size_bytes:
        return f"{actual.size_bytes:,} bytes, and {file.size_bytes:,} are listed"
    # Files that version 0.1.0 staged have no digest.
    if file.sha256 not in (None, actual.sha256):
        return f"its SHA-256 is {actual.sha256[:16]}…, and {str(file.sha256)[:16]}… is listed"
    return ""


def check_source(source: Source) -> None:
    """Make sure that a file's bytes are as listed.

    Raises:
      RunError: They are not.
    """
    if damage := damage_of(source):
        raise RunError(f"{source.file.path} is damaged: {damage}. {_remedy(source)}")


def _remedy(source: Source) -> str:
    if source.published:
        return MEND
    # The next run can't find damage of a file without a digest.
    who = "The next run deletes it" if source.file.sha256 else f"Delete {source.file.path}"
    return f"{who}: its rows are labelled again."


def read_batches(source: Source, rows: int, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Read a file's rows, or some columns of them.

    Args:
      source: The file.
      rows: Largest number of rows in a batch.
      columns: The columns; by default all.

    Raises:
      RunError: The file is damaged in a way that Arrow notices; `check_source` notices the others.
    """
    with open_parquet(source.file.path, _remedy(source)) as parquet:
        for batch in parquet.iter_batches(rows, columns=columns):
            if columns and batch.num_columns < len(columns):
                raise pa.ArrowInvalid(f"one of the columns {', '.join(columns)} is missing")
            # Texts that are no UTF-8 would raise only where they become Python's.
            batch.validate(full=True)
            yield batch


def keep_whole(source: Source) -> bool:
    """Delete a staged file that is damaged, because its rows are only saved work; return whether it stays.

    An error while the file is read deletes nothing, because the bytes on the disk may be whole.

    Raises:
      RunError: The file is published and damaged.
    """
    if source.published:
        check_source(source)
        return True
    file = source.file
    if not exists(file.path):  # deleted by an earlier attempt of this bundle
        return False
    for _ in range(2):  # because one read of whole bytes can go wrong, too
        data = read_file(file.path)
        if len(data) != file.size_bytes:
            raise RunError(
                f"{file.path}: {len(data):,} bytes of {file.size_bytes:,} could be read. "
                "Run the same command again."
            )
        if file.sha256 in (None, hashlib.sha256(data).hexdigest()):
            return True
    delete_files([file.path])
    # On standard error, because a run without --verbose turns logs off.
    rows = "its row is" if file.rows == 1 else f"its {file.rows:,} rows are"
    print(f"{file.path} was damaged and is deleted: {rows} labelled again.", file=sys.stderr, flush=True)
    return False
