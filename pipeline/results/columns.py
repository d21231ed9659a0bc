"""Columns of tables as values of CSV and JSON."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from labelbeam.pipeline.results.database import literal, name

_NUMBERS = ("FLOAT", "DOUBLE")
# Compressions by the end of a file's name.
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}


def as_cell(column: str, kind: str) -> str:
    """Return a column as a cell of CSV; nested values are JSON."""
    return f"to_json({as_json(column, kind)})" if _is_nested(kind) else column


def as_json(column: str, kind: str) -> str:
    """Return a column as a value of JSON.

    Args:
      column: The column, as SQL.
      kind: Its type.
    """
    # JSON has no NaN and no infinity, and DuckDB would write them nevertheless.
    if kind in _NUMBERS:
        return _finite(column)
    if kind.partition("[")[0] in _NUMBERS:
        return f"list_transform({column}::{kind.partition('[')[0]}[], lambda number: {_finite('number')})"
    return column


def _finite(number: str) -> str:
    return f"CASE WHEN isfinite({number}) THEN {number} END"


def _is_nested(kind: str) -> bool:
    return kind.endswith("]") or kind.startswith("STRUCT")


def select_list(columns: Iterable[tuple[str, str]]) -> str:
    """Return pairs of an expression and a name as the list of a SELECT."""
    return ",\n  ".join(f"{expression} AS {name(column)}" for expression, column in columns)


def struct(fields: Iterable[tuple[str, str]]) -> str:
    """Return pairs of an expression and a name as a struct."""
    return "{" + ", ".join(f"{literal(field)}: {expression}" for expression, field in fields) + "}"


def free_name(column: str, taken: Collection[str]) -> str:
    """Return the name of a user's own column beside columns of labelbeam's, as the tables form it."""
    names = {other.lower() for other in taken}  # because DuckDB's names have no case
    while column.lower() in names:
        column = f"input_{column}"
    return column


def csv_options(path: str) -> str:
    """Return the options of COPY for CSV, compressed by the file's name."""
    return f"FORMAT csv, HEADER, COMPRESSION {_compression(path)}"


def jsonl_options(path: str) -> str:
    """Return the options of COPY for JSON lines, compressed by the file's name."""
    return f"FORMAT json, COMPRESSION {_compression(path)}"


def lines_options(path: str) -> str:
    """Return the options of COPY for lines of text, compressed by the file's name."""
    # Without quotes, because a list of lines has none. The caller sees to it that no line has a line break.
    return f"FORMAT csv, HEADER false, QUOTE '', ESCAPE '', COMPRESSION {_compression(path)}"


def _compression(path: str) -> str:
    return next((name for end, name in _COMPRESSIONS.items() if path.endswith(end)), "none")
