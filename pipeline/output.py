"""Opening an output folder: what is done there, and whether a run can go on with it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TextIO

from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems
from google.api_core.exceptions import GoogleAPIError

from pipeline.config import WriteConfig
from pipeline.manifest import new_run_id
from transforms.errors import UserError
from transforms.files import delete_files, delete_folder, is_local, make_folder, write_file
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


def open_output(config: WriteConfig, run_id: str, labelled_with: Mapping[str, Any]) -> OutputState:
    """Brings an output folder into order and announces a run there.

    Raises:
      UserError: It can't be written, or holds rows that were labelled with something else.
    """
    output = folder_of(config.output)
    try:
        return _open(output, config, run_id, labelled_with)
    except (BeamIOError, OSError, ValueError, GoogleAPIError) as e:
        raise UserError(f"output={output!r} cannot be written: {e}.") from e


def _open(output: str, config: WriteConfig, run_id: str, labelled_with: Mapping[str, Any]) -> OutputState:
    manifest = read_manifest(output)
    published = manifest["labelled_with"] if manifest else None
    merged = manifest["merged_runs"] if manifest else ()
    unfinished = {
        run: facts["labelled_with"]
        for run, facts in staged_runs(output).items()
        if facts and run not in merged
    }
    staged = [facts for run, facts in unfinished.items() if staged_sources(output, [run])]
    others = [facts for facts in (published, *staged) if facts not in (None, labelled_with)]
    if others and not config.replace:
        raise UserError(
            f"output={output!r} holds rows that were labelled with something else: "
            f"{_differences(others[0], labelled_with)}. Give another --output, or --replace to have a table "
            f"of the new rows alone{_HINT if others[0]['columns'] != labelled_with['columns'] else ''}."
        )
    _probe(output)
    tidy(output, config.keep_generations)
    layout = Layout(output)
    for run in [run for run, facts in unfinished.items() if facts != labelled_with]:
        del unfinished[run]
        if config.replace:
            delete_folder(layout.run(run))
    write_file(layout.run_facts(run_id), json.dumps({"labelled_with": labelled_with}, indent=2).encode())
    return OutputState(
        follows=manifest["run_id"] if manifest else None,
        resumes=tuple(unfinished),
        keeps_rows=published in (None, labelled_with),
        keeps_files=manifest is None or manifest["partitioned_by"] == config.partition_by,
    )


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


def _lock_file(output: str, folder: str) -> TextIO:
    try:
        make_folder(folder)
        return open(os.path.join(folder, "lock"), "w", encoding="utf-8")
    except OSError as e:
        raise UserError(f"output={output!r} cannot be written: {e}.") from e


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
