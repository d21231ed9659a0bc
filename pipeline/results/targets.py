"""Files that commands over results write; each appears as a whole."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from labelbeam.transforms.errors import UserError
from labelbeam.transforms.files import FileSink, file_errors_as, is_local, make_folder
from labelbeam.transforms.table.manifest import TABLES

_OF_THE_TABLES = (*TABLES, "manifest.json", "_staging", "_generations", "runs")
_CHUNK_BYTES = 4 << 20


def check_target(path: str, output: str) -> None:
    """Refuse a path that is missing, or among the files of a table folder.

    Raises:
      UserError: There is no path, or files of the tables lie there.
    """
    if not path:
        raise UserError("No place for the result is given. Name it with --to.")
    target, folder = ((os.path.abspath(p) if is_local(p) else p.rstrip("/")) for p in (path, output))
    # Readers of the tables would read the file, and a run might delete it.
    if target == folder or target.removeprefix(f"{folder}/").split("/")[0] in _OF_THE_TABLES:
        raise UserError(f"to={path!r} is a place of the tables' own files. Give another one.")


@contextmanager
def new_file(path: str) -> Iterator[str]:
    """Yield the local path of a file that becomes `path`, local or `gs://`, when the body has ended.

    Raises:
      UserError: The file can't be written.
    """
    with file_errors_as(UserError, f"{path!r} cannot be written", "Check its folder and rights."):
        if not is_local(path):
            with tempfile.TemporaryDirectory(prefix="labelbeam-") as folder:
                yield (part := os.path.join(folder, "part"))
                _upload(part, path)
            return
        # Beside the file, because renaming works within a disk alone.
        part = f"{path}.{secrets.token_hex(4)}.tmp"
        make_folder(os.path.dirname(path) or ".")
        # Tried here, because an error of DuckDB would not tell this file from those that it reads.
        open(part, "wb").close()
        try:
            yield part
            os.replace(part, path)
        finally:
            with suppress(FileNotFoundError):
                os.remove(part)


def _upload(source: str, path: str) -> None:
    sink = FileSink(path)
    with open(source, "rb") as f:
        while data := f.read(_CHUNK_BYTES):
            sink.write(data)
    sink.close()
