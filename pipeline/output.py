"""Opening an output folder: what is done there, and whether a run can go on with it."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TextIO

from apache_beam.io.filesystems import FileSystems

from pipeline.config import WriteConfig
from pipeline.manifest import new_run_id
from transforms.errors import UserError, told_by
from transforms.files import FILE_ERRORS, delete_files, delete_folder, is_local, make_folder, write_file
from transforms.layout import Layout, read_manifest, staged_runs, staged_sources, tidy

try:
    import fcntl
except ImportError:  # not on Windows, where two runs at once are not noticed
    fcntl = None  # type: ignore[assignment]

_HINT = "; types of columns are set by --column_types"
_WHAT = {
    "model": "the model or its label map",
    "preprocessing": "how images are resized and scaled",
    "precision": "precision",
    "xla": "whether XLA compiles the model",
    "top_k": "top_k",
    "outputs": "columns of what the model gives",
    "columns": "the input's own columns",
}


@dataclass(frozen=True, slots=True)
class OutputState:
    """What an output folder holds when a run starts.

    Attributes:
      follows: Run id of the generation that is published; None if there is none.
      resumes: Unfinished runs that labelled with the same.
      keeps_rows: Whether its rows stay in the tables.
      keeps_files: Whether its files may stay as they are.
    """

    follows: str | None
    resumes: tuple[str, ...]
    keeps_rows: bool
    keeps_files: bool


def folder_of(output: str) -> str:
    """An output folder's name without a slash at its end.

    Raises:
      UserError: It is neither local nor in a bucket of Google's.
    """
    scheme = FileSystems.get_scheme(output)
    if scheme not in (None, "gs"):
        raise UserError(
            f"output={output!r} is not allowed: a local folder or gs://; {scheme}:// is not written."
        )
    return output.rstrip("/") or "/"


@dataclass(frozen=True, slots=True)
class Contents:
    """What an output folder holds.

    Attributes:
      manifest: Of the tables that readers see; None if nothing was published.
      unfinished: What unfinished runs labelled with, by run id.
      staged_rows: How many rows each of them has staged.
    """

    manifest: Mapping[str, Any] | None
    unfinished: Mapping[str, Mapping[str, Any]]
    staged_rows: Mapping[str, int]

    @property
    def labelled_with(self) -> list[Mapping[str, Any]]:
        """What its rows were labelled with: the published, then those of each unfinished run."""
        has_rows = self.manifest and sum(self.manifest["rows"].values())
        published = [self.manifest["labelled_with"]] if self.manifest and has_rows else []
        return [*published, *(facts for run, facts in self.unfinished.items() if self.staged_rows[run])]


def open_output(config: WriteConfig, run_id: str, labelled_with: Mapping[str, Any]) -> OutputState:
    """Brings an output folder into order and announces a run there.

    Raises:
      UserError: It can't be written, or holds rows that were labelled with something else.
    """
    output = folder_of(config.output)
    with _explained(output):
        return _open(output, config, run_id, labelled_with)


@contextmanager
def _explained(output: str) -> Iterator[None]:
    try:
        yield
    except FILE_ERRORS as e:
        raise UserError(
            f"output={output!r} cannot be written: {told_by(e)}. Check its name and rights."
        ) from e


def _open(output: str, config: WriteConfig, run_id: str, labelled_with: Mapping[str, Any]) -> OutputState:
    contents = _look_into(output)
    refuse_others(output, contents, config.replace, labelled_with)
    _probe(output)
    tidy(output, config.keep_generations)
    layout, manifest, unfinished = Layout(output), contents.manifest, dict(contents.unfinished)
    for run in [run for run, facts in unfinished.items() if facts != labelled_with]:
        del unfinished[run]
        if config.replace:
            delete_folder(layout.run(run))
    write_file(layout.run_facts(run_id), json.dumps({"labelled_with": labelled_with}, indent=2).encode())
    return OutputState(
        follows=manifest["run_id"] if manifest else None,
        resumes=tuple(unfinished),
        keeps_rows=manifest is None or manifest["labelled_with"] == labelled_with,
        keeps_files=manifest is None or manifest["partitioned_by"] == config.partition_by,
    )


def look_into(output: str) -> Contents:
    """Finds out what an output folder holds, and changes nothing.

    Raises:
      UserError: It can't be read.
    """
    with _explained(output):
        return _look_into(output)


def _look_into(output: str) -> Contents:
    manifest = read_manifest(output)
    merged = manifest["merged_runs"] if manifest else ()
    unfinished = {
        run: facts["labelled_with"]
        for run, facts in staged_runs(output).items()
        if facts and run not in merged
    }
    rows = {run: sum(s.file.rows for s in staged_sources(output, [run])) for run in unfinished}
    return Contents(manifest, unfinished, rows)


def refuse_others(output: str, contents: Contents, replace: bool, labelled_with: Mapping[str, Any]) -> None:
    """Makes sure that an output folder's rows were labelled as new ones will be, or may go.

    Raises:
      UserError: They were not, and may not.
    """
    others = [facts for facts in contents.labelled_with if facts != labelled_with]
    if others and not replace:
        raise UserError(
            f"output={output!r} holds rows that were labelled with something else: "
            f"{_differences(others[0], labelled_with)}. Give another --output, or --replace to have a table "
            f"of the new rows alone{_HINT if others[0]['columns'] != labelled_with['columns'] else ''}."
        )


def probe_output(output: str) -> None:
    """Writes a file into an output folder, and takes it away again with what was made for it.

    Raises:
      UserError: It can't be written.
    """
    made, folder = [], os.path.abspath(output) if is_local(output) else ""
    while folder and not os.path.isdir(folder):
        made.append(folder)
        folder = os.path.dirname(folder)
    try:
        with _explained(output):
            _probe(output)
    finally:
        with contextlib.suppress(OSError):  # it was not made, or somebody has put something there meanwhile
            for folder in made:
                os.rmdir(folder)


def is_at_work(output: str) -> bool:
    """Whether a run of this machine is at work in a local output folder."""
    if not is_local(output) or not os.path.exists(_lock_path(Layout(output).staging)):
        return False
    try:
        with locked(output):
            return False
    except UserError:
        return True


def _differences(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    return "; ".join(
        f"{_WHAT.get(name, name)} ({there.get(name)} there, {wanted[name]} now)"
        for name in wanted
        if there.get(name) != wanted[name]
    )


def _probe(output: str) -> None:
    make_folder(output)
    probe = FileSystems.join(output, f"_probe-{new_run_id()}")
    write_file(probe, b"labelbeam")
    delete_files([probe])


def _lock_path(folder: str) -> str:
    return os.path.join(folder, "lock")


def _lock_file(output: str, folder: str) -> TextIO:
    with _explained(output):
        make_folder(folder)
        return open(_lock_path(folder), "w", encoding="utf-8")


@contextmanager
def locked(output: str) -> Iterator[None]:
    """Keeps other runs of this machine out of a local folder; the system frees it when the process ends.

    Raises:
      UserError: Another run is at work there.
    """
    folder = Layout(output).staging
    if fcntl is None or not is_local(folder):
        yield
        return
    with _lock_file(output, folder) as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise UserError(
                f"output={output!r}: another run is at work there. Wait for it, or give another --output."
            ) from e
        yield
