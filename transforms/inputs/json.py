"""JSON: an array of objects, whose keys are columns, read in bounded memory.

The array is split here and not by a streaming parser, because such a parser ends at the first fault, holds an
object of any size, and takes the last of equal keys without a word. Its objects are parsed as lines of JSON
are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from labelbeam.transforms.errors import RunError
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.inputs.files import Line, OpenLine, Piece, read_chunks
from labelbeam.transforms.inputs.first_bytes import is_json_array, is_json_object, without_mark
from labelbeam.transforms.inputs.formats import InputFormat
from labelbeam.transforms.inputs.json_rows import JsonFormat
from labelbeam.transforms.inputs.lists import list_suffixes

# The next byte within a text that ends it or begins an escape, within an element that changes its depth, and
# between elements. Texts without escapes are passed over, because each byte that is found costs as much as
# fifty that are not.
_IN_TEXT = re.compile(rb'[^"\\]*+(["\\])')
_IN_ELEMENT = re.compile(rb'(?:[^"\[\]{}]++|"[^"\\]*+")*+(["\[\]{}])')
_BETWEEN = re.compile(rb'(?:[^"\[\]{},]++|"[^"\\]*+")*+(["\[\]{},])')


class _Json(JsonFormat):
    name = "json"
    suffixes = list_suffixes(".json")

    def recognises(self, start: bytes) -> bool:
        return is_json_array(start)

    def explain(self, start: bytes) -> str | None:
        if is_json_object(start):
            return (
                "is no array in JSON. Add --input_format=jsonl if each line is an object; extract a list "
                "within an object: jq -c '.images[]' FILE > NEW_FILE"
            )
        if not without_mark(start).strip():
            return "is empty. Put an array of objects into it"
        if not is_json_array(start) and not super().explain(start):
            return f"begins with {start[:80]!r}, which is no array of objects in JSON. Set --input_format"
        return super().explain(start)

    def rows_at_start(self, start: bytes, path: str, is_whole: bool) -> list[Line]:
        rows: list[Line] = []
        try:
            rows.extend(split_array([start], path))
        except RunError:
            if is_whole:
                raise
        return rows

    def split(self, corpus: Corpus) -> Iterator[Piece]:
        """Yield each file as one piece, because no place within an array shows how deep it lies."""
        for file in corpus.files:
            yield Piece(file, 0, file.size_bytes)

    def lines_of(self, piece: Piece, corpus: Corpus) -> Iterator[Line]:
        return split_array(read_chunks(piece.file), piece.file.path)


class _Array:
    """State of the splitting of an array: the open element, its depth, and whether a text is open in it."""

    def __init__(self) -> None:
        self.element = OpenLine()
        self.depth = 0
        self.is_in_text = False


def split_array(chunks: Iterable[bytes], path: str) -> Iterator[Line]:
    """Split an array in JSON into its elements.

    Args:
      chunks: The file, decompressed.
      path: The file, for messages.

    Raises:
      RunError: The array does not end, or something follows. Elements up to there have been yielded.
    """
    state = _Array()
    has_begun = False
    for chunk in _whole_escapes(chunks):
        if not has_begun and (text := without_mark(chunk).lstrip()):
            if not text.startswith(b"["):
                raise RunError(f"{path} begins with {text[:80]!r}, which is no array in JSON.")
            has_begun, state.depth, chunk = True, 1, text[1:]
        if has_begun:
            yield from _split_chunk(chunk, state, path)
    if state.depth:
        raise RunError(
            f"{path} is cut or damaged: its array in JSON has no end. Put a whole copy in its place."
        )


def _whole_escapes(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield bytes in which no escape, such as of a quote, is split over two pieces."""
    slash = b""
    for chunk in chunks:
        chunk = slash + chunk
        slashes = len(chunk) - len(chunk.rstrip(b"\\"))
        slash = b"\\" if slashes % 2 else b""
        yield chunk[: len(chunk) - len(slash)]
    yield slash


def _split_chunk(chunk: bytes, state: _Array, path: str) -> Iterator[Line]:
    start = position = 0
    while position < len(chunk) and state.depth:
        pattern = _IN_TEXT if state.is_in_text else _IN_ELEMENT if state.depth > 1 else _BETWEEN
        token = pattern.match(chunk, position)
        if token is None:
            break
        position, byte = token.end(), token[1]
        if byte == b"\\":
            position += 1
        elif byte == b'"':
            state.is_in_text = not state.is_in_text
        elif byte in b"[{":
            state.depth += 1
        elif byte in b"]}":
            state.depth -= 1
        if state.depth == 0 or (state.depth == 1 and byte == b","):
            state.element.add(chunk[start : token.start(1)])
            start = position
            element = state.element.close()
            if isinstance(element, bytes):
                # Without space around, because the id of a row without URI must not depend on its place.
                element = element.strip()
            if element:
                yield element
            state.element = OpenLine()
    if state.depth:
        state.element.add(chunk[start:])
    elif chunk[position:].strip():
        raise RunError(
            f"{path} has {chunk[position:][:80]!r} behind the end of its array in JSON. Remove it."
        )


FORMAT: Final[InputFormat] = _Json()
