"""Globs: the files that a pattern matches, on local disks and in buckets."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Final

from labelbeam.transforms.errors import RunError
from labelbeam.transforms.files import file_errors_as, is_local
from labelbeam.transforms.inputs.objects import list_objects
from labelbeam.transforms.inputs.patterns import ObjectGlob, compile_glob, root_of
from labelbeam.transforms.notes import LEFT_OUT, Notes

# Name, in the notes, of folders that are left out because they were listed under another name.
LINKED_TWICE: Final = "(linked folder)"

# Entries of a local folder that are sorted together, so that small folders are listed by name.
_SORTED_AT_ONCE = 10_000


def list_paths(pattern: str, notes: Notes) -> Iterator[str]:
    """List the files that a pattern matches, in any order.

    Args:
      pattern: A glob, local or `gs://`.
      notes: Where linked folders that are not entered are counted.

    Raises:
      RunError: A local folder cannot be listed.
      OSError: A bucket cannot be listed.
    """
    if is_local(pattern):
        yield from _walk(*root_of(pattern), compile_glob(pattern).match, notes)
    else:
        glob = ObjectGlob(pattern)
        yield from (glob.root + one.name for one in list_objects(glob))


def _walk(root: str, levels: int | None, matches: Callable[[str], object], notes: Notes) -> Iterator[str]:
    """List the matching files below a folder, those of linked folders included, each folder's files once.

    Links to folders are followed last, so that a folder is listed under its own name where that matches.
    A pattern can match under a link's name alone, as `**/train/*.jpg` does where `train` is a link. Each
    link is followed once, because links can lead in a circle.

    Beam's own listing is not used for local folders, because it drops broken links, enters no linked
    folder, and passes over folders that it may not read, all without a word.
    """
    if not os.path.isdir(root):
        yield from [root] if os.path.lexists(root) and matches(root) else []
        return
    listed: set[tuple[int, int]] = set()
    followed: set[tuple[int, int]] = set()
    folders, links = [(root, levels)], deque[tuple[str, int | None]]()
    # A stack of folders, because recursion would end at 1,000 levels.
    while folders or links:
        folder, levels = folders.pop() if folders else links.popleft()
        # By device and inode, because one folder can be reached under several names.
        if (identity := _identity(folder)) in listed:
            notes.add(LEFT_OUT, LINKED_TWICE)
            continue
        below = []
        for entry in _entries(folder):
            if not _is_folder(entry):
                if matches(entry.path):
                    listed.add(identity)
                    yield entry.path
            elif levels != 0:
                inner = entry.path, None if levels is None else levels - 1
                if not entry.is_symlink():
                    below.append(inner)
                elif (link := _identity(entry.path, is_link=True)) not in followed:
                    followed.add(link)
                    links.append(inner)
        folders += reversed(below)  # reversed, because the stack is emptied from its end


def _identity(path: str, is_link: bool = False) -> tuple[int, int]:
    with _list_errors_explained(path):
        status = os.stat(path, follow_symlinks=not is_link)
    return status.st_dev, status.st_ino


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    # Some at a time, because all entries of a folder of millions of files would take gigabytes.
    with _list_errors_explained(folder), os.scandir(folder) as entries:
        while some := list(itertools.islice(entries, _SORTED_AT_ONCE)):
            yield from sorted(some, key=lambda entry: entry.name)


def _list_errors_explained(folder: str) -> AbstractContextManager[None]:
    return file_errors_as(RunError, f"{folder!r} cannot be listed", "Check its rights.")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, which cannot be fetched either
        return False
