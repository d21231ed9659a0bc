"""Images: the files of a folder or a glob, by their names."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import quote_from_bytes

from apache_beam.io.filesystem import FileSystem
from apache_beam.io.filesystems import FileSystems

from labelbeam.transforms.elements import ImageRef, id_of_uri
from labelbeam.transforms.errors import RunError
from labelbeam.transforms.files import is_local
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.notes import LEFT_OUT, OTHER, Notes

# Names, in the notes, of files that are left out for another reason than their suffix.
NO_SUFFIX: Final = "(none)"
HIDDEN: Final = "(hidden)"
LINKED_TWICE: Final = "(linked folder)"

_MOST_SUFFIX_CHARS = 16
# `escape_glob` writes a character that is meant literally as a set of one.
_ESCAPED = re.compile(r"\[([*?[])\]")
_PLAIN = re.compile(r"(?:\[[*?[]\]|[^*?[])*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def list_paths(corpus: Corpus, notes: Notes, most_files: int | None = None) -> Iterator[str]:
    """List the files that a corpus's pattern matches.

    Args:
      corpus: A corpus of `images`.
      notes: Where linked folders that are not entered are counted.
      most_files: Largest number of objects to list in a bucket. Local folders are listed lazily.

    Raises:
      RunError: A folder cannot be listed.
    """
    matches = _compile(corpus.pattern).match
    if is_local(corpus.pattern):
        yield from _walk(*_root_of(corpus.pattern), matches, notes)
        return
    # Beam's `**/` is at least one folder, and `**` matches all that ours does.
    pattern = corpus.pattern.replace("/**/", "/**")
    (match,) = FileSystems.match([pattern], limits=None if most_files is None else [most_files])
    # Consoles make empty objects with a slash at the end to show folders.
    paths = (file.path for file in match.metadata_list if not file.path.endswith("/"))
    yield from filter(matches, paths)


def _compile(pattern: str) -> re.Pattern[str]:
    """Translate a glob, in which `**/` stands for any number of folders, none included, as in shells."""
    parts = [FileSystem.translate_pattern(part) for part in pattern.split("/**/")]
    flags, end = "(?ms)", r"\Z"
    joined = "/(?:.*/)?".join(part.removeprefix(flags).removesuffix(end) for part in parts)
    # Beam's `*` excludes backslashes, which are part of names on Linux: such files would vanish.
    return re.compile(flags + joined.replace(r"[^/\\]*", "[^/]*") + end)


def _root_of(pattern: str) -> tuple[str, int | None]:
    """Return the deepest folder that holds all matches of a pattern, and how far below it they can lie.

    The root of a pattern without wildcards is the file itself.
    """
    plain = _PLAIN.match(pattern)
    assert plain
    literal = _ESCAPED.sub(r"\1", plain.group())
    if plain.group() == pattern:
        return literal, 0
    root = os.path.dirname(literal)
    return root, None if "**" in pattern else pattern.count("/", len(plain.group()))


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
    while folders or links:
        folder, levels = folders.pop() if folders else links.popleft()
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
        folders += reversed(below)


def _identity(path: str, is_link: bool = False) -> tuple[int, int]:
    with _list_errors_explained(path):
        status = os.stat(path, follow_symlinks=not is_link)
    return status.st_dev, status.st_ino


def _entries(folder: str) -> list[os.DirEntry[str]]:
    with _list_errors_explained(folder), os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


@contextmanager
def _list_errors_explained(folder: str) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise RunError(f"{folder!r} cannot be listed: {e.strerror}. Check its rights.") from e


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, which cannot be fetched either
        return False


def name_file(path: str, corpus: Corpus, notes: Notes) -> Iterator[ImageRef]:
    """Make a row of an image file, or count it as left out.

    Yields:
      One row; none for a file that is hidden in a folder or has no suffix of the corpus.
    """
    left_out = _why_left_out(path.rpartition("/")[2], corpus.suffixes) if corpus.suffixes else None
    if left_out:
        notes.add(LEFT_OUT, left_out)
        return
    uri = uri_of_path(path)
    yield ImageRef(id_of_uri(uri), uri)


def _why_left_out(name: str, suffixes: tuple[str, ...]) -> str | None:
    if name.startswith("."):
        return HIDDEN
    suffix = os.path.splitext(name)[1].lower()
    if suffix in suffixes:
        return None
    if len(suffix) <= 1:
        return NO_SUFFIX
    return suffix if suffix.isprintable() and len(suffix) <= _MOST_SUFFIX_CHARS else OTHER


def uri_of_path(path: str) -> str:
    """Return the URI of a file: its path, or a percent-encoded `file://` URI.

    A local name that is not UTF-8 or has control characters is encoded, because columns of text hold
    UTF-8 only and a URI with control characters is refused. The stores decode it to the same file.
    """
    if not is_local(path):
        return path
    path = "/" + path.lstrip("/") if path.startswith("//") else path  # //host/x is no local file
    is_text = path.encode("utf-8", "replace").decode("utf-8") == path
    return path if is_text and not _CONTROL.search(path) else f"file://{quote_from_bytes(os.fsencode(path))}"
