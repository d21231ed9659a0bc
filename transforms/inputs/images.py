"""Images: the files of a folder or a glob, by their names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import quote_from_bytes

from labelbeam.transforms.elements import ImageRef, id_of_uri
from labelbeam.transforms.files import is_local
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.notes import LEFT_OUT, OTHER, Notes

# Names, in the notes, of files that are left out for another reason than their suffix.
NO_SUFFIX: Final = "(none)"
HIDDEN: Final = "(hidden)"

_MOST_SUFFIX_CHARS = 16
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


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
