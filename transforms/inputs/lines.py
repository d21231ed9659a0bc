"""Lines: one URI a line."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import Final

from labelbeam.transforms.elements import ImageRef, id_of_uri
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.inputs.files import Line
from labelbeam.transforms.inputs.first_bytes import (
    DELIMITERS,
    URI_NAMES,
    explain_binary,
    explain_markup,
    first_line,
)
from labelbeam.transforms.inputs.formats import InputFormat
from labelbeam.transforms.inputs.lists import ListFormat, list_suffixes
from labelbeam.transforms.notes import Notes


class _Lines(ListFormat):
    name = "lines"
    suffixes = list_suffixes(".txt", ".lst", ".list")

    def explain(self, start: bytes, is_declared: bool = False) -> str | None:
        why = explain_binary(start) or explain_markup(start)
        return why or (None if is_declared else _explain_first_line(first_line(start)))

    def check_start(self, lines: Iterator[Line], path: str, corpus: Corpus) -> Iterator[Line]:
        """Take the byte order mark off the first line of a file."""
        first = next(lines, b"")
        yield first.removeprefix(codecs.BOM_UTF8) if isinstance(first, bytes) else first
        yield from lines

    def parse(self, line: str, corpus: Corpus, notes: Notes) -> ImageRef:
        uri = line.strip("\ufeff \t\r\n")  # lists that were joined have byte order marks in between
        return ImageRef(id_of_uri(uri), uri)


def _explain_first_line(line: str) -> str | None:
    names = {name.strip().strip('"').lower() for name in re.split(r"[\t,;|]", line)}
    # Tabs are enough, because hardly any URI has one; other delimiters need a column's name beside them.
    if "\t" not in line and names.isdisjoint(URI_NAMES):
        return None
    for delimiter, name in DELIMITERS.items():
        if delimiter in line:
            return f"has columns separated by {name}. Add --input_format=csv to read it"
    return f"begins with the header {line.strip()!r}. Add --input_format=csv, or delete the line"


FORMAT: Final[InputFormat] = _Lines()
