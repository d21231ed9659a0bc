"""Copies of inputs that can be read only once, or not in parts: standard input, and lists on the web."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

from labelbeam.pipeline.input_names import STDIN, is_on_web, public_input
from labelbeam.transforms.errors import ImageError, Reason, UserError
from labelbeam.transforms.sources.limits import Limits
from labelbeam.transforms.sources.secrets import hide_in_message

_CHUNK_BYTES = 1 << 20
_NAME = re.compile(r"[^\w.+-]+", re.ASCII)
_MOST_NAME_CHARS = 100
_REMEDIES = {
    Reason.FORBIDDEN_ADDRESS: "",  # the message has it
    Reason.FORBIDDEN: " Give a login in the address, or a header with --http_header.",
}


class _Folder:
    """The folder of this process's copies, made for the first one."""

    def __init__(self) -> None:
        self.path = ""
        self.copies = 0
        # Standard input by its copy, because it can't be read a second time.
        self.stdin = ""
        # Names of inputs by the paths of their copies, for messages.
        self.names: dict[str, str] = {}
        self._owner = os.getpid()

    def new_path(self, name: str, source: str) -> str:
        """Return a path for a copy, whose last part is the name, because names show formats."""
        if not self.path:
            self.path, self._owner = tempfile.mkdtemp(prefix="labelbeam-input-"), os.getpid()
            atexit.register(self.delete)
        self.copies += 1
        folder = os.path.join(self.path, str(self.copies))
        os.mkdir(folder)
        path = os.path.join(folder, name)
        self.names[path] = source
        return path

    def delete(self) -> None:
        """Delete the folder, but not in a child of the process, which has a copy of this object."""
        if self.path and self._owner == os.getpid():
            shutil.rmtree(self.path, ignore_errors=True)
            self.path = self.stdin = ""
            self.names.clear()


_FOLDER = _Folder()


def copy_input(name: str, limits: Callable[[], Limits]) -> str:
    """Copy an input to a file of this machine, which `delete_copies` deletes, and return its path.

    Args:
      name: `-`, or an address of `http://` or `https://`.
      limits: Returns the limits of requests.

    Raises:
      UserError: There is nothing to copy, or it can't be fetched or written.
    """
    if is_on_web(name):
        return _copy_web(name, limits())
    if not _FOLDER.stdin:
        _FOLDER.stdin = _write("stdin", "standard input", _copy_stdin)
    return _FOLDER.stdin


def is_copy(path: str) -> bool:
    """Return whether a file is a copy that this process has made."""
    return bool(_FOLDER.path) and path.startswith(_FOLDER.path + os.sep)


def add_name_of_copy(path: str, copy: str) -> None:
    """Let messages name the input of a copy in place of another path to which the copy is moved."""
    _FOLDER.names[path] = _FOLDER.names[copy]


def name_copies(message: str) -> str:
    """Return a message with the names of inputs in place of their copies, which users have never seen."""
    # Longest first, because one path may be the beginning of another.
    for path in sorted(_FOLDER.names, key=len, reverse=True):
        message = message.replace(path, _FOLDER.names[path])
    return message


def delete_copies() -> None:
    """Delete the copies that this process has made."""
    _FOLDER.delete()


def _write(name: str, source: str, fill: Callable[[BinaryIO], Any]) -> str:
    path = _FOLDER.new_path(name, source)
    try:
        with open(path, "wb") as file:
            fill(file)
    except OSError as e:
        os.remove(path)
        raise UserError(
            f"{_FOLDER.path} cannot be written: {e.strerror or e}. Free space there, or set TMPDIR to another"
            " folder."
        ) from e
    return path


def _copy_stdin(file: BinaryIO) -> None:
    source = sys.stdin and sys.stdin.buffer
    if source is None or source.isatty():
        raise UserError(
            f"input={STDIN!r} is standard input, and nothing is piped into it. Pipe a list, such as: "
            f"cat list.txt | labelbeam run --input {STDIN} …"
        )
    shutil.copyfileobj(source, file, _CHUNK_BYTES)
    if not file.tell():
        raise UserError(f"input={STDIN!r}: standard input is empty. Pipe a list of images into the command.")


def _copy_web(address: str, limits: Limits) -> str:
    # Imported here, because libcurl takes time to load, and most inputs are files.
    from labelbeam.transforms.sources.download import download

    public = public_input(address)
    last = unquote(urlsplit(public).path).rpartition("/")[2]
    name = _NAME.sub("_", last)[-_MOST_NAME_CHARS:].lstrip(".") or "list"
    try:
        return _write(name, public, lambda file: download(address, file, limits))
    except ImageError as e:
        message = hide_in_message(str(e), address, public)
        remedy = _REMEDIES.get(e.reason, " Check the address.")
        raise UserError(f"input={public!r} cannot be downloaded ({e.reason}): {message}.{remedy}") from e
