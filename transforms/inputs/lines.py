"""Lines: one URI a line."""

from __future__ import annotations

from typing import Final

from labelbeam.transforms.elements import ImageRef, id_of_uri
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.inputs.first_bytes import (
    DELIMITERS,
    explain_binary,
    explain_markup,
    first_line,
    has_uri_column,
    strip_text,
)
from labelbeam.transforms.inputs.formats import InputFormat
from labelbeam.transforms.inputs.lists import ListFormat, list_suffixes
from labelbeam.transforms.notes import Notes


class _Lines(ListFormat):
    name = "lines"
    suffixes = list_suffixes(".txt", ".lst", ".list")

    def explain(self, start: bytes) -> str | None:
        return explain_binary(start) or explain_markup(start)

    def doubt(self, start: bytes) -> str | None:
        """Explain a header."""
        line = first_line(start)
        # Tabs are enough, because hardly any URI has one; other delimiters need a column's name beside them.
        if "\t" not in line and not has_uri_column(start):
            return None
        for delimiter, name in DELIMITERS.items():
            if delimiter in line:
                return f"has columns separated by {name}. Add --input_format=csv to read it"
        return f"begins with the header {line.strip()!r}. Add --input_format=csv, or delete the line"

    def parse(self, line: str, corpus: Corpus, notes: Notes) -> ImageRef:
        uri = strip_text(line)
        return ImageRef(id_of_uri(uri), uri)


FORMAT: Final[InputFormat] = _Lines()
