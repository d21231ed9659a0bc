"""DuckDB over published tables."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import duckdb
import pyarrow as pa

from labelbeam.pipeline.manifest import published_manifest
from labelbeam.pipeline.output import folder_of
from labelbeam.pipeline.results.remote import register_buckets
from labelbeam.pipeline.results.targets import new_file
from labelbeam.transforms.errors import RunError, UserError
from labelbeam.transforms.files import MEND, escape_glob, exists, file_metadata, join_path
from labelbeam.transforms.table.folder import TableFolder, read_generation
from labelbeam.transforms.table.manifest import TABLES, Manifest

_T = TypeVar("_T")

# Memory of DuckDB, from which on it writes to temporary files. Half of what a command may take, because
# buffers of Parquet readers and Python come on top.
_MEMORY = "1GB"
_ROWS_AT_ONCE = 10_000
# Time between two interrupts of a statement that has not ended yet.
_INTERRUPT_SEC = 0.1
# Number of different hashes of an id, which have 64 bits.
_HASHES = 1 << 64
# A generation in the name of an output, as in `labels@3`.
_GENERATION = re.compile(r"(.+)@(\d{1,6})")


class Database:
    """DuckDB over published tables, with statements that a user can run again.

    Statements have literals in place of parameters, because `--show_sql` prints them.

    Attributes:
      shown: Statements are printed.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, shown: bool) -> None:
        self.shown = shown
        self._connection = connection
        self._reading: tuple[str, str] | None = None

    def run(self, sql: str) -> None:
        """Run a statement.

        Raises:
          RunError: A file of the tables is gone or damaged, or the disk is full.
        """
        self._execute(sql)

    def rows(self, sql: str) -> list[dict[str, Any]]:
        """Run a statement, and return its rows, which must be few."""
        result = self._execute(sql)
        names = [column[0] for column in result.description or ()]
        return [dict(zip(names, row, strict=True)) for row in result.fetchall()]

    def arrow(self, sql: str) -> pa.Table:
        """Run a statement, and return its rows, which must fit into memory."""
        return self._executed(sql, lambda text: self._connection.sql(text).to_arrow_table())

    def row(self, sql: str) -> dict[str, Any]:
        """Run a statement that returns one row."""
        return self.rows(sql)[0]

    def texts(self, sql: str) -> Iterator[str]:
        """Run a statement of one column of texts, and yield them; other statements must wait for the last."""
        result = self._execute(sql)
        while rows := result.fetchmany(_ROWS_AT_ONCE):
            yield from (text for (text,) in rows)

    def copy(self, query: str, path: str, options: str) -> None:
        """Write a query's rows to a file, local or `gs://`; where statements are shown, print this one alone.

        Args:
          query: A SELECT.
          path: The file, which appears as a whole.
          options: Options of COPY.

        Raises:
          UserError: The file can't be written.
        """
        if self.shown:
            self._print(_copy(query, path, options))
            return
        with new_file(path) as written:
            # Without a temporary file of DuckDB's, because `written` is one.
            self._execute(_copy(query, written, f"{options}, USE_TMP_FILE false"))

    def columns(self, table: str) -> dict[str, str]:
        """Return the types of a table's columns by name."""
        return {row["column_name"]: row["column_type"] for row in self.rows(f"DESCRIBE {table}")}

    def _print(self, sql: str) -> None:
        print(f"{sql.strip()};\n", flush=True)

    def _execute(self, sql: str) -> duckdb.DuckDBPyConnection:
        return self._executed(sql, self._connection.execute)

    def _executed(self, sql: str, execute: Callable[[str], _T]) -> _T:
        if self.shown:
            self._print(sql)
        try:
            return self._interruptible(lambda: execute(sql))
        except duckdb.OutOfMemoryException as e:
            raise RunError(f"DuckDB needs more memory or temporary disk: {_first_line(e)}.") from e
        except duckdb.Error as e:
            raise self._error_of(e) from e

    def _interruptible(self, call: Callable[[], _T]) -> _T:
        """Run a statement, and end it if a signal ends the process."""
        # On another thread, because DuckDB 2.0 sees most signals only at the end of a statement, which may
        # have filled the disk by then.
        with ThreadPoolExecutor(1, "duckdb") as pool:
            future = pool.submit(call)
            try:
                return future.result()
            except KeyboardInterrupt:
                # Again and again, because a statement that has not begun yet is not interrupted.
                while not future.done():
                    self._connection.interrupt()
                    wait([future], _INTERRUPT_SEC)
                raise

    def _error_of(self, error: duckdb.Error) -> Exception:
        if self._reading:
            fault, remedy = self._reading
            return UserError(f"{fault} cannot be read: {_first_line(error)}. {remedy}.")
        if os.strerror(errno.ENOSPC) in str(error):
            return RunError(f"The disk is full: {_first_line(error)}. Free space there, or set TMPDIR.")
        if isinstance(error, (duckdb.IOException, duckdb.InvalidInputException)):
            return RunError(f"The tables can't be read: {_first_line(error)}. {MEND}")
        return error  # a mistake in a statement

    @contextmanager
    def reading(self, fault: str, remedy: str) -> Iterator[None]:
        """Report errors as mistakes of the user, while the body reads the user's own file.

        Args:
          fault: Option and value.
          remedy: Remedy, without a full stop.
        """
        self._reading = (fault, remedy)
        try:
            yield
        finally:
            self._reading = None

    def attach(self, output: str, prefix: str = "") -> Manifest:
        """Make the tables of an output available.

        Args:
          output: Table folder, or `FOLDER@N` for an older generation.
          prefix: Beginning of the names of the views `predictions` and `failures`, and of the table
            `classes`, which has the columns `class_id` and `label`.

        Returns:
          The manifest of the generation.

        Raises:
          UserError: There are no such tables.
        """
        generation = find_generation(output)
        for table in TABLES:
            # Partition folders are ignored, because the files have all columns themselves.
            files = ",\n  ".join(map(path_literal, generation.paths_of(table)))
            source = f"read_parquet([\n  {files}\n], hive_partitioning = false)"
            self.run(f"CREATE VIEW {prefix}{table} AS FROM {source}")
        path = path_literal(generation.path)
        self.run(
            f"CREATE TABLE {prefix}classes AS\n"
            "SELECT unnest(range(len(model.classes))) AS class_id, unnest(model.classes) AS label\n"
            f"FROM read_json({path}, columns = {{model: 'STRUCT(classes VARCHAR[])'}}, "
            # Because DuckDB refuses objects of 16 MB, as a manifest of many files or long labels is.
            f"maximum_object_size = {2**24 + file_metadata(generation.path).size_in_bytes})"
        )
        return generation.manifest


class Generation(NamedTuple):
    """A generation of published tables.

    Attributes:
      folder: The table folder.
      path: Path of the manifest.
    """

    folder: str
    path: str
    manifest: Manifest

    @property
    def is_current(self) -> bool:
        """Whether readers of the table folder see this generation."""
        return self.path == TableFolder(self.folder).manifest

    def paths_of(self, table: str) -> list[str]:
        """Return the paths of a table's files."""
        folder = TableFolder(self.folder)
        paths = [folder.join(file.path) for file in self.manifest.files_of(table)]
        if self.is_current:
            return paths
        # Files of older generations move to `_generations/`, unless the current one has them, too.
        return [path if exists(path) else join_path(folder.generations, folder.below(path)) for path in paths]


@contextmanager
def open_database(shown: bool = False) -> Iterator[Database]:
    """Yield a database whose temporary files end with the body.

    Args:
      shown: Whether statements are printed.
    """
    with (
        tempfile.TemporaryDirectory(prefix="labelbeam-sql-") as folder,
        # On disk and not in memory, because tables with a row per image must not count to the limit.
        duckdb.connect(str(Path(folder, "tables.duckdb"))) as connection,
    ):
        connection.execute(f"SET memory_limit = '{_MEMORY}'")
        connection.execute(f"SET temp_directory = {literal(folder)}")
        # Off, because keeping the rows' order would hold more of them in memory.
        connection.execute("SET preserve_insertion_order = false")
        register_buckets(connection)
        yield Database(connection, shown)


def split_generation(output: str) -> tuple[str, int | None]:
    """Return the table folder that `FOLDER` or `FOLDER@N` names, and N, or None."""
    named = _GENERATION.fullmatch(output)
    # A folder whose own name ends so wins, because it is there.
    if not named or exists(TableFolder(folder_of(output)).manifest):
        return folder_of(output), None
    return folder_of(named[1]), int(named[2])


def find_generation(output: str) -> Generation:
    """Find the tables of an output, or of the older generation that `FOLDER@N` names.

    Raises:
      UserError: Nothing was published there, or the generation was deleted.
    """
    folder, number = split_generation(output)
    current = published_manifest(folder)
    if number is None or number == current.generation:
        return Generation(folder, TableFolder(folder).manifest, current)
    older = read_generation(folder, number)
    if older is None:
        raise UserError(
            f"{output!r}: {folder!r} has no generation {number}; the current one is {current.generation}. "
            "Older ones are kept with --keep_generations."
        )
    return Generation(folder, TableFolder(folder).generation(number), older)


def literal(value: Any) -> str:
    """Return a value as SQL."""
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if value is None or isinstance(value, bool):
        return {None: "NULL", True: "TRUE", False: "FALSE"}[value]
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(literal, value))}]"
    return repr(value)


def path_literal(path: str) -> str:
    """Return the path of one file as SQL, which would take `*`, `?` and `[` for a glob."""
    return literal(escape_glob(path))


# Parameter of lambdas, because DuckDB would take `one.score` for a field of a user's own column `one`.
ELEMENT = '"element of a list"'


def name(column: str) -> str:
    """Return the name of a column as SQL."""
    return '"' + column.replace('"', '""') + '"'


def sample_of(images: int, most: int) -> str:
    """Return the WHERE clause of a fixed sample of about `most` images; "" if there are no more."""
    # A bound for the hash and no LIMIT, because DuckDB would sort all rows for that. Hashes are spread
    # evenly, so that the number of images is `most`, give or take some hundreds.
    return f"WHERE md5_number_lower(id) < {_HASHES * most // images}" if images > most else ""


def _copy(query: str, path: str, options: str) -> str:
    return f"COPY (\n{query.strip()}\n) TO {literal(path)} ({options})"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".")
