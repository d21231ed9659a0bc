"""The command `export`: tables in other formats."""

from __future__ import annotations

from labelbeam.pipeline.extras import require
from labelbeam.pipeline.results.database import find_generation, open_database
from labelbeam.pipeline.results.export import ROW_FORMATS, export_rows
from labelbeam.pipeline.results.targets import require_target
from labelbeam.transforms.errors import UserError
from labelbeam.transforms.files import join_path
from labelbeam.transforms.table.manifest import TABLES

DELTA = "delta"
_FORMATS = (*ROW_FORMATS, DELTA)


def export_table(output: str, form: str, to: str, table: str, show_sql: bool) -> None:
    """Write a table in another format, and print a line about it.

    Args:
      output: Table folder.
      form: `csv`, `jsonl` or `delta`.
      to: File for the rows; none for `delta`.
      table: `predictions` or `failures`.
      show_sql: Whether the SQL is printed in place of the result.

    Raises:
      UserError: There are no tables, options contradict each other, or nothing can be written there.
    """
    if form not in _FORMATS:
        raise UserError(f"format={form!r} is not allowed: give --format {', '.join(_FORMATS)}.")
    if table not in TABLES:
        raise UserError(f"table={table!r} is not allowed: {' or '.join(TABLES)}.")
    if form == DELTA:
        print(_export_delta(output, to, table, show_sql))
        return
    require_target(to)
    with open_database(show_sql) as db:
        lines = list(export_rows(db, db.attach(output), table, form, to))
    if not show_sql:
        print("\n".join(lines))


def _export_delta(output: str, to: str, table: str, show_sql: bool) -> str:
    generation = find_generation(output)
    place = join_path(generation.folder, table)
    if to and to.rstrip("/") != place:
        raise UserError(
            f"to={to!r} is not allowed with --format delta: the log lies beside the files that it lists, in "
            f"{place}. Remove --to."
        )
    if show_sql:
        raise UserError("--show_sql is not allowed with --format delta, which needs no SQL. Remove it.")
    if not generation.is_current:
        raise UserError(f"{output!r} is an older generation, and a Delta log lists files of the current one.")
    require("labelbeam export --format delta", "delta", ("deltalake",))
    from labelbeam.pipeline.results.delta import write_delta_log

    return write_delta_log(generation.folder, generation.manifest, table)
