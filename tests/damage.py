"""Deaths and damage: processes that end before a change of the disk, and bits that flip."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Death(BaseException):
    """The process ends here."""


class Disk:
    """The changes that this process makes below a folder.

    Python announces each change to audit hooks before it is made, and a hook that raises prevents
    it. So no function that changes the disk can be forgotten here.
    """

    def __init__(self) -> None:
        self._folder = ""
        self._left = self.changes = 0
        sys.addaudithook(self._on_event)

    @contextmanager
    def dying_before(self, change: int, folder: Path) -> Iterator[None]:
        """Let the process die before its n-th change below a folder, and change nothing afterwards."""
        self._folder, self._left, self.changes = str(folder), change, 0
        try:
            yield
        finally:
            self._folder = ""

    def _on_event(self, event: str, args: tuple) -> None:
        if self._folder and any(path.startswith(self._folder) for path in _changed_paths(event, args)):
            if self.changes >= self._left:
                raise Death
            self.changes += 1


DISK = Disk()

_CHANGES = frozenset(("os.mkdir", "os.rename", "os.link", "os.symlink", "os.truncate"))


def _changed_paths(event: str, args: tuple) -> list[str]:
    if event in ("os.remove", "os.rmdir"):
        path, folder = args
        return [path if folder < 0 else os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)]
    writes = event == "open" and bool(args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    return [path for path in args[:2] if isinstance(path, str)] if writes or event in _CHANGES else []


def flip(path: Path, bit: int) -> None:
    """Flip one bit of a file."""
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def files_below(folder: Path) -> list[Path]:
    """Return the files below a folder, sorted."""
    return sorted(path for path in folder.rglob("*") if path.is_file())
