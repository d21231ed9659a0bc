"""Files that commands over results write; each appears as a whole."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from labelbeam.transforms.errors import UserError
from labelbeam.transforms.files import FileSink, exists, file_errors_as, is_folder, is_local, make_folder
from labelbeam.transforms.table.manifest import TABLES

_OF_THE_TABLES = (*TABLES, "manifest.json", "_staging", "_generations", "runs")
_CHUNK_BYTES = 4 << 20


def check_target(option: str, path: str, output: str) -> None:
    """Refuse a path among the files of a table folder.

    Args:
      option: Name of the option with the path, for the message.
      path: Path of a file to write.
      output: The table folder.

    Raises:
      UserError: Files of the tables lie there.
    """
    # Without links, because the tables' own files may be named through one.
    target, folder = ((os.path.realpath(p) if is_local(p) else p.rstrip("/")) for p in (path, output))
    # Readers of the tables would read the file, and a run might delete it.
    if target == folder or target.removeprefix(f"{folder}/").split("/")[0] in _OF_THE_TABLES:
        raise UserError(f"{option}={path!r} is a place of the tables' own files. Give another one.")


def require_target(path: str) -> None:
    """Refuse the lack of a path, and a file that is there.

    Raises:
      UserError: The path is empty, or a file has this name.
    """
    if not path:
        raise UserError("No place for the result is given. Name it with --to.")
    with file_errors_as(UserError, f"--to={path!r} cannot be written", "Check its folder and rights."):
        is_file = exists(path) and not is_folder(path)
    # Whatever the file is, because a list and a table have no mark of their maker.
    if is_file:
        raise UserError(f"--to={path!r} is there already. Delete it, or give another name.")


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
        if os.path.isdir(path):
            raise IsADirectoryError("there is a folder of this name")
        part = f"{path}.{secrets.token_hex(4)}.tmp"
        make_folder(os.path.dirname(path) or ".")
        # Tried here, because errors of DuckDB do not distinguish this file from those that it reads.
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
