"""Damage: runs without a model, processes that die before a change of the disk, and flipped bits."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from labelbeam.transforms.done import read_done_ids
from labelbeam.transforms.table.folder import published_files, read_manifest, staged_files
from tests.results import add_staged, failure, plan_publication, prediction, publish

OLD = [*map(prediction, range(6)), *map(failure, range(6, 9))]
NEW = [*map(prediction, range(9, 14)), *map(failure, range(14, 16))]


def run_number(n: int) -> str:
    return f"20260101T{n:06d}-00000000"


def label(output: Path | str, run_id: str, results: list, **settings: Any) -> int:
    """Change the disk as a run does that labels images; return the number of newly labelled images."""
    publication = plan_publication(output, run_id, **settings)
    sources = [
        *published_files(str(output), read_manifest(str(output))),
        *staged_files(str(output), publication.resumes),
    ]
    done = {i for source in sources for part in read_done_ids(source, frozenset(), False) for i in part.ids}
    left = [result for result in results if result.ref.id not in done]
    add_staged(output, run_id, left, every_rows=3)
    worked = {"labelled": len(left), "kept": len(results) - len(left)}
    publish(publication, {"listed": len(results), **worked})
    return len(left)


class Death(BaseException):
    """The death of this process, no `Exception`, because code under test catches those."""


class Disk:
    """The changes that this process makes below a folder.

    They are counted by an audit hook, because Python calls it before every change, whichever function makes
    the change, and a hook that raises an error prevents the change.
    """

    def __init__(self) -> None:
        self._folder = ""
        self._left = self.changes = 0
        sys.addaudithook(self._on_event)

    @contextmanager
    def dying_before(self, change: int, folder: Path) -> Iterator[None]:
        """Raise `Death` before the n-th change below a folder and before all later ones."""
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
