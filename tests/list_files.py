"""Lists of the same rows in every format."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

Rows = Sequence[Mapping[str, Any]]


def _separated(delimiter: str) -> Callable[[Rows], bytes]:
    def write(rows: Rows) -> bytes:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().encode()

    return write


def _parquet(rows: Rows) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), buffer, row_group_size=7)
    return buffer.getvalue()


# Formats with columns by the endings of their names; each value writes rows.
WRITERS: Mapping[str, Callable[[Rows], bytes]] = {
    "csv": _separated(","),
    "tsv": _separated("\t"),
    "psv": _separated("|"),
    "parquet": _parquet,
    "jsonl": lambda rows: "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode(),
    "json": lambda rows: json.dumps(list(rows), indent=1).encode(),
}
COMPRESSIONS: Mapping[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard.compress,
}
