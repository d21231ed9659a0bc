"""JSON lines: an object a line, whose keys are columns."""

from __future__ import annotations

from typing import Final

from labelbeam.transforms.inputs.files import Line, LongLine, split_lines
from labelbeam.transforms.inputs.first_bytes import is_json_array, is_json_object, without_mark
from labelbeam.transforms.inputs.formats import InputFormat
from labelbeam.transforms.inputs.json_rows import JsonFormat
from labelbeam.transforms.inputs.lists import list_suffixes


class _JsonLines(JsonFormat):
    name = "jsonl"
    suffixes = list_suffixes(".jsonl", ".ndjson", ".jsonlines")

    def recognises(self, start: bytes) -> bool:
        return is_json_object(start)

    def explain(self, start: bytes) -> str | None:
        if is_json_array(start):
            return "is one array in JSON. Add --input_format=json to read its objects"
        return super().explain(start)

    def rows_at_start(self, start: bytes, path: str, is_whole: bool) -> list[Line]:
        lines: list[Line] = [line for line, _ in split_lines([without_mark(start)])]
        if not is_whole and not start.endswith(b"\n"):
            lines.pop()
        return [line for line in lines if isinstance(line, LongLine) or line.strip()]

    def explain_rows(self, path: str, row: Line, fault: Exception) -> str:
        start = row[:200] if isinstance(row, bytes) else row.head[:200]
        if isinstance(row, LongLine) or not is_json_object(row):
            return (
                f"{path} begins with {start!r}, which is no object in JSON. Put an object in each line, or "
                "set --input_format."
            )
        return (
            f"{path} begins with {start!r}: its first line {fault}. Write each object in one line, such as "
            "with jq -c . FILE > NEW_FILE; for a list within an object, jq -c '.images[]' FILE > NEW_FILE."
        )


FORMAT: Final[InputFormat] = _JsonLines()
