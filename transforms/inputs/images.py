"""Images: the files of a folder or a glob, by their names."""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Final, NamedTuple
from urllib.parse import quote_from_bytes

import pyarrow as pa

from labelbeam.transforms.elements import ImageRef, id_of_uri
from labelbeam.transforms.errors import RunError, UserError
from labelbeam.transforms.files import file_errors_as, is_local
from labelbeam.transforms.images.formats import IMAGE_SUFFIXES, READ_SUFFIXES
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.inputs.formats import (
    INPUT_FORMATS,
    InputFormat,
    Location,
    ReadOptions,
    input_format,
)
from labelbeam.transforms.inputs.globs import list_paths
from labelbeam.transforms.inputs.lists import matches_nothing
from labelbeam.transforms.inputs.objects import list_objects, split_objects
from labelbeam.transforms.inputs.patterns import ObjectGlob
from labelbeam.transforms.inputs.ranges import NameRange
from labelbeam.transforms.notes import LEFT_OUT, OTHER, Notes

# Names, in the notes, of files that are left out for another reason than their suffix.
NO_SUFFIX: Final = "(none)"
HIDDEN: Final = "(hidden)"

# Files of a folder that are looked at before the folder is refused for lack of images.
_FILES_LOOKED_AT = 10_000
_MOST_SUFFIX_CHARS = 16
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class _Images:
    name = "images"
    suffixes = IMAGE_SUFFIXES
    has_columns = False

    def recognises(self, start: bytes) -> bool:
        """Return False, because the files of a folder or glob may be of any content."""
        return False

    def find(
        self, location: Location, options: ReadOptions, known_types: Mapping[str, pa.DataType]
    ) -> Corpus:
        """Describe the images of a folder, or of a glob, whose files are all taken."""
        paths = list_paths(location.pattern, Notes())
        if not location.is_folder:
            if next(paths, None) is None:
                raise matches_nothing(location)
            return Corpus(location.pattern, "images")
        first = list(itertools.islice(paths, _FILES_LOOKED_AT))
        if len(first) < _FILES_LOOKED_AT and not any(path.lower().endswith(IMAGE_SUFFIXES) for path in first):
            raise _no_images(location.path, first)
        return Corpus(location.pattern, "images", suffixes=IMAGE_SUFFIXES)

    def split(self, corpus: Corpus) -> Iterator[Names]:
        """Split a bucket into pieces; a local folder is one piece.

        Raises:
          RunError: The bucket can't be listed, or no object matches.
        """
        pattern = corpus.pattern
        # A part of a bucket is one piece, too, because more of it would be listed otherwise.
        if is_local(pattern) or corpus.most_files is not None:
            yield Names(pattern)
            return
        is_empty = True
        glob = ObjectGlob(pattern)
        with _list_errors_explained(pattern):
            for part in split_objects(glob):
                is_empty = False
                if isinstance(part, tuple):
                    yield Names(pattern, part)
                else:
                    yield Names(pattern, files=tuple((glob.root + one.name, one.generation) for one in part))
        if is_empty:
            raise _matches_nothing(pattern)

    def read(self, piece: Names, corpus: Corpus, notes: Notes) -> Iterator[ImageRef]:
        """List files as rows."""
        is_empty = True
        most = None if is_local(piece.pattern) else corpus.most_files
        for path, version in itertools.islice(_list_files(piece, notes), most):
            is_empty = False
            yield from name_file(path, corpus, notes, version)
        # One of many pieces may be empty.
        if is_empty and not piece.ranges:
            raise _matches_nothing(piece.pattern)


def _no_images(folder: str, paths: Sequence[str]) -> UserError:
    """Return the error for a folder without images, with a pattern if it has files of other formats."""
    suffixes = tuple(suffix for name in INPUT_FORMATS for suffix in input_format(name).suffixes)
    # The longest ending, such as .tar.gz, as it is written.
    endings = Counter(
        path[-max(len(suffix) for suffix in suffixes if path.lower().endswith(suffix)) :]
        for path in paths
        if path.lower().endswith(suffixes)
    )
    if not endings:
        return UserError(
            f"input={folder!r} holds no images: no file ends in {', '.join(READ_SUFFIXES)}. Check the name, "
            "or list the images' URIs in a text file."
        )
    ((suffix, number),) = endings.most_common(1)
    files = "1 file that ends" if number == 1 else f"{number:,} files that end"
    is_flat = all(os.path.dirname(path) == folder.rstrip("/") for path in paths if path.endswith(suffix))
    pattern = os.path.join(folder, f"*{suffix}" if is_flat else f"**/*{suffix}")
    return UserError(
        f"input={folder!r} holds no images, but {files} in {suffix}. Give a pattern: --input {pattern!r}."
    )


class Names(NamedTuple):
    """Names of files: all that a pattern matches, those in ranges, or listed ones.

    Attributes:
      pattern: The pattern.
      ranges: Ranges of names in a bucket.
      files: Path and version of each file.
    """

    pattern: str
    ranges: tuple[NameRange, ...] = ()
    files: tuple[tuple[str, str | None], ...] = ()


def _list_files(piece: Names, notes: Notes) -> Iterator[tuple[str, str | None]]:
    """Yield the path of each file, and its version if the listing has one."""
    if piece.files:
        yield from piece.files
    elif is_local(piece.pattern):
        for path in list_paths(piece.pattern, notes):
            yield path, None
    else:
        glob = ObjectGlob(piece.pattern)
        with _list_errors_explained(piece.pattern):
            for one in list_objects(glob, piece.ranges):
                yield glob.root + one.name, one.generation


def _matches_nothing(pattern: str) -> RunError:
    return RunError(f"{pattern!r} matches no file any more. Check the name.")


def _list_errors_explained(pattern: str) -> AbstractContextManager[None]:
    return file_errors_as(RunError, f"{pattern!r} cannot be listed", "Check its name and rights.")


def name_file(path: str, corpus: Corpus, notes: Notes, version: str | None = None) -> Iterator[ImageRef]:
    """Make a row of an image file, or count it as left out.

    Args:
      path: The file.
      corpus: The corpus.
      notes: Where files that are left out are counted.
      version: Version of the file, if its listing has one.

    Yields:
      One row; none for a file that is hidden in a folder or has no suffix of the corpus.
    """
    left_out = why_left_out(path.rpartition("/")[2], corpus.suffixes) if corpus.suffixes else None
    if left_out:
        notes.add(LEFT_OUT, left_out)
        return
    uri = uri_of_path(path)
    yield ImageRef(id_of_uri(uri), uri, listed_version=version)


def why_left_out(name: str, suffixes: tuple[str, ...]) -> str | None:
    """Return the name, in the notes, of files that are left out as this one; None for an image."""
    if name.startswith("."):
        return HIDDEN
    suffix = os.path.splitext(name)[1].lower()
    if suffix in suffixes:
        return None
    return NO_SUFFIX if len(suffix) <= 1 else note_of_suffix(suffix)


def note_of_suffix(suffix: str) -> str:
    """Return the name, in the notes, of files with a suffix."""
    return suffix if suffix.isprintable() and len(suffix) <= _MOST_SUFFIX_CHARS else OTHER


def uri_of_path(path: str) -> str:
    """Return the URI of a file: its path, or a percent-encoded `file://` URI.

    A local name that is not UTF-8 or has control characters is encoded, because columns of text hold
    UTF-8 only and a URI with control characters is refused. Sources decode the URI to the same file.
    """
    if not is_local(path):
        return path
    path = "/" + path.lstrip("/") if path.startswith("//") else path  # //host/x is no local file
    is_text = path.encode("utf-8", "replace").decode("utf-8") == path
    return path if is_text and not _CONTROL.search(path) else f"file://{quote_from_bytes(os.fsencode(path))}"


FORMAT: Final[InputFormat] = _Images()
