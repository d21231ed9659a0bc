"""Published tables as CSV and JSON lines."""

from __future__ import annotations

from collections.abc import Iterator

from labelbeam.pipeline.results.columns import as_cell, as_json, csv_options, jsonl_options, select_list
from labelbeam.pipeline.results.database import Database, name
from labelbeam.pipeline.results.text import counted
from labelbeam.transforms.table.manifest import Manifest

# Formats of rows: the conversion of a column, and the options of COPY by the file's name.
ROW_FORMATS = {"csv": (as_cell, csv_options), "jsonl": (as_json, jsonl_options)}


def export_rows(db: Database, manifest: Manifest, table: str, form: str, to: str) -> Iterator[str]:
    """Write all rows of a table to a file, and yield lines about it.

    Args:
      db: Database with the tables.
      manifest: Manifest of the tables.
      table: `predictions` or `failures`.
      form: `csv` or `jsonl`.
      to: File for the rows.

    Raises:
      UserError: The file can't be written.
    """
    convert, options = ROW_FORMATS[form]
    # The order of the files' rows, because two exports of a table should be equal.
    db.run("SET preserve_insertion_order = true")
    columns = db.columns(table)
    cells = select_list((convert(name(column), kind), column) for column, kind in columns.items())
    db.copy(f"SELECT {cells}\nFROM {table}", to, options(to))
    yield f"{counted(manifest.rows[table], 'row')} of {table}: {to}"
    # DuckDB's names have no case.
    for column in manifest.labelled_with.columns.keys() - columns.keys():
        renamed = next(c for c in columns if c.lower().startswith(f"{column.lower()}_"))
        yield f"Warning: the column {column!r} is called {renamed!r}, because another differs in case alone."
