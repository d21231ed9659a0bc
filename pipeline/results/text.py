"""Results as tables on a terminal, and as files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

from labelbeam.pipeline.results.targets import new_file
from labelbeam.transforms.calibration import Estimate

# Rows of a table on a terminal.
MOST_LINES = 20


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: `1 image`, `2 images`."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def align(header: Sequence[str], rows: Iterable[Sequence[Any]], indent: str = "  ") -> list[str]:
    """Align cells in columns: text to the left, numbers to the right; None is a dash."""
    values = list(rows)
    cells = [[_cell(value) for value in row] for row in values]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    is_text = [any(isinstance(value, str) for value in column) for column in zip(*values, strict=True)]
    is_text = is_text or [True] * len(header)
    return [
        indent
        + "  ".join(
            cell.ljust(width) if left else cell.rjust(width)
            for cell, width, left in zip(line, widths, is_text, strict=True)
        ).rstrip()
        for line in ([*header], *cells)
    ]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}"
    return value if isinstance(value, str) else f"{value:,}"


def values_of(estimate: Estimate | None) -> tuple[float | None, float | None, float | None]:
    """Return the cells of an estimate: value, lower and upper bound."""
    return (estimate.value, estimate.low, estimate.high) if estimate else (None, None, None)


def first_rows(
    title: str, header: Sequence[str], rows: Sequence[Sequence[Any]], most: int = MOST_LINES
) -> list[str]:
    """Return a titled table of the first rows, with the number of further ones; empty without rows."""
    if not rows:
        return []
    more = f", the first {most:,} of {len(rows):,}" if len(rows) > most else ""
    return ["", f"{title}{more}", *align(header, rows[:most])]


def write_json(path: str, result: Any) -> None:
    """Write a dataclass as a JSON file, local or `gs://`.

    Raises:
      UserError: The file can't be written.
    """
    text = json.dumps(dataclasses.asdict(result), indent=1, ensure_ascii=False)
    _write(path, text.encode() + b"\n")


def write_parquet(path: str, kind: type, rows: Sequence[Any]) -> None:
    """Write dataclasses of a kind as the rows of a Parquet file, local or `gs://`.

    Raises:
      UserError: The file can't be written.
    """
    sink = pa.BufferOutputStream()
    schema = pa.schema([(name, arrow_type) for name, arrow_type in _fields_of(kind)])
    pq.write_table(pa.Table.from_pylist([dataclasses.asdict(row) for row in rows], schema), sink)
    _write(path, sink.getvalue().to_pybytes())


def _fields_of(kind: type) -> Iterator[tuple[str, pa.DataType]]:
    """Yield names and Arrow types of a dataclass's fields."""
    # Not from the values, because a column of nulls alone would have no type.
    for name, hint in get_type_hints(kind).items():
        (plain,) = set(get_args(hint) or (hint,)) - {NoneType}
        nested = dataclasses.is_dataclass(plain)
        yield name, pa.struct(list(_fields_of(plain))) if nested else _ARROW_TYPES[plain]


_ARROW_TYPES = {int: pa.int64(), float: pa.float64(), str: pa.string()}


def _write(path: str, data: bytes) -> None:
    with new_file(path) as written:
        Path(written).write_bytes(data)
