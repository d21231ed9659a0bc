"""The table folder before a run: its state, checks, and preparation."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from labelbeam.pipeline.config import WriteConfig
from labelbeam.pipeline.manifest import new_run_id
from labelbeam.transforms.errors import UserError
from labelbeam.transforms.files import (
    MEND,
    delete_files,
    file_errors_as,
    is_local,
    join_path,
    make_folder,
    remote_scheme,
    write_file,
)
from labelbeam.transforms.sources.addresses import GCS
from labelbeam.transforms.table.folder import (
    TableFolder,
    announce,
    delete_run,
    find_losses,
    read_manifest,
    staged_files,
    tidy,
    unfinished_runs,
)
from labelbeam.transforms.table.manifest import LabelledWith, Manifest

_MEND_MANIFEST = "Put a whole copy of manifest.json in its place, or label into another --output."
_NAMES = {
    "model": "the model or its label map",
    "preprocessing": "how images are resized and scaled",
    "precision": "precision",
    "xla": "whether XLA compiles the model",
    "top_k": "top_k",
    "threshold": "threshold",
    "outputs": "columns of the model's outputs",
    "columns": "the input's own columns",
    "secret_params": "--secret_params",
    "calibration": "--calibration",
}


@dataclass(frozen=True, slots=True)
class OutputState:
    """State of a table folder when a run starts.

    Attributes:
      follows: Run id of the published generation; None if there is none.
      resumes: Unfinished runs with the settings of this run.
      replaces: Unfinished runs with other settings, which `--replace` deletes.
      keeps_rows: Whether published rows stay in the tables.
      keeps_files: Whether published files may stay as they are.
    """

    follows: str | None
    resumes: tuple[str, ...]
    replaces: tuple[str, ...]
    keeps_rows: bool
    keeps_files: bool


def folder_of(output: str) -> str:
    """Return the name of a table folder, without a slash at its end.

    Raises:
      UserError: The folder is neither local nor in a bucket of Google's.
    """
    scheme = remote_scheme(output)
    if scheme not in (None, GCS):
        raise UserError(
            f"output={output!r} is not allowed: a local folder or gs://; {scheme}:// is not written."
        )
    return output.rstrip("/") or "/"


@dataclass(frozen=True, slots=True)
class Contents:
    """Contents of a table folder.

    Attributes:
      manifest: Manifest of the published tables; None if nothing was published.
      unfinished: Settings of unfinished runs, by run id.
      staged_rows: Number of staged rows of each unfinished run.
    """

    manifest: Manifest | None
    unfinished: Mapping[str, LabelledWith]
    staged_rows: Mapping[str, int]

    @property
    def labelled_with(self) -> list[LabelledWith]:
        """Settings of all rows: of the published ones, then of each unfinished run."""
        has_rows = self.manifest and sum(self.manifest.rows.values())
        published = [self.manifest.labelled_with] if self.manifest and has_rows else []
        return [*published, *(settings for run, settings in self.unfinished.items() if self.staged_rows[run])]


def read_output(config: WriteConfig, labelled_with: LabelledWith) -> OutputState:
    """Return the state of a table folder, and change nothing.

    Raises:
      UserError: The folder can't be read, is damaged, or has rows with other settings.
    """
    output = folder_of(config.output)
    contents = look_into(output)
    refuse_others(output, contents, config.replace, labelled_with)
    manifest = contents.manifest
    keeps_rows = manifest is None or manifest.labelled_with == labelled_with
    if keeps_rows:
        refuse_losses(output, manifest)
    # Runs with other settings are left alone, because a run with those settings may still continue them.
    resumes = tuple(run for run, settings in contents.unfinished.items() if settings == labelled_with)
    others = tuple(run for run in contents.unfinished if run not in resumes)
    return OutputState(
        follows=manifest.run_id if manifest else None,
        resumes=resumes,
        replaces=others if config.replace else (),
        keeps_rows=keeps_rows,
        keeps_files=manifest is None or manifest.partitioned_by == config.partition_by,
    )


def prepare_output(config: WriteConfig, state: OutputState, run_id: str, labelled_with: LabelledWith) -> None:
    """Tidy a table folder, delete the runs that are replaced, and announce a run.

    Raises:
      UserError: The folder can't be written.
    """
    output = folder_of(config.output)
    with _explained(output):
        # First, because a folder that can't be written must stay as it is.
        _probe(output)
        # Under the run's lock, because tidying deletes files that a run at work may be writing.
        tidy(output, config.keep_generations)
        for replaced in state.replaces:
            delete_run(TableFolder(output), replaced)
        # Last, because a run that is announced is resumed by the next one with its settings.
        announce(output, run_id, labelled_with)


def _explained(output: str) -> AbstractContextManager[None]:
    return file_errors_as(UserError, f"output={output!r} cannot be written", "Check its name and rights.")


def refuse_losses(output: str, manifest: Manifest | None) -> None:
    """Refuse published tables of which files are missing.

    Raises:
      UserError: A file is missing or of another length.
    """
    # Checked before `tidy`, because `tidy` deletes files that the manifest does not list.
    with _explained(output):
        losses = list(find_losses(output, manifest))
    if losses:
        more = f" (and {len(losses) - 1:,} more like it)" if len(losses) > 1 else ""
        # Not `MEND` without a manifest, because `labelbeam verify` then refuses the folder.
        raise UserError(f"{losses[0]}{more}. {MEND if manifest else _MEND_MANIFEST}")


def look_into(output: str) -> Contents:
    """Return the contents of a table folder, and change nothing.

    Raises:
      UserError: The folder can't be read.
    """
    with _explained(output):
        manifest = read_manifest(output)
        unfinished = unfinished_runs(output, manifest)
        rows = {run: sum(s.file.rows for s in staged_files(output, [run])) for run in unfinished}
    return Contents(manifest, unfinished, rows)


def refuse_others(output: str, contents: Contents, replace: bool, labelled_with: LabelledWith) -> None:
    """Refuse rows with other settings than those of a new run, unless they may be replaced.

    Raises:
      UserError: The table folder has such rows.
    """
    others = [settings for settings in contents.labelled_with if settings != labelled_with]
    if others and not replace:
        raise UserError(
            f"output={output!r} holds rows that were labelled with something else: "
            f"{_differences(others[0], labelled_with)}. Give another --output, or --replace to have a table "
            f"of the new rows alone{_hint(others[0], labelled_with)}."
        )


def _hint(there: LabelledWith, wanted: LabelledWith) -> str:
    # Not where names differ, because types are no remedy there.
    if there.columns != wanted.columns and there.columns.keys() == wanted.columns.keys():
        return "; types of columns are set by --column_types"
    if there == dataclasses.replace(wanted, calibration=there.calibration):
        # The shorter way, because these rows need no new labels.
        return (
            "; or let labelbeam apply give all rows the new calibration"
            if wanted.calibration
            else "; or give the --calibration of the rows there"
        )
    return ""


def check_writable(output: str) -> None:
    """Write a file into a table folder, and delete the file and the folders that were made for it.

    Raises:
      UserError: The folder can't be written.
    """
    made, folder = [], os.path.abspath(output) if is_local(output) else ""
    # From the deepest folder up, because only empty folders can be removed.
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
    """Return whether a run of this machine is at work in a local table folder."""
    if not is_local(output) or not os.path.exists(_lock_path(TableFolder(output).staging)):
        return False
    # Tried and not looked up, because a lock file without a lock is left by every run that ended.
    try:
        with locked(output):
            return False
    except UserError:
        return True


def _differences(there: LabelledWith, wanted: LabelledWith) -> str:
    pairs = [(f.name, getattr(there, f.name), getattr(wanted, f.name)) for f in dataclasses.fields(wanted)]
    return "; ".join(
        f"{_NAMES.get(name, name)} ({_shown(old)} there, {_shown(new)} now)"
        for name, old, new in pairs
        if old != new
    )


def _shown(setting: Any) -> Any:
    return "none" if setting == "" else setting


def _probe(output: str) -> None:
    make_folder(output)
    # A new name each time, because two runs may probe the same folder.
    probe = join_path(output, f"_probe-{new_run_id()}")
    write_file(probe, b"labelbeam")
    delete_files([probe])


def _lock_path(folder: str) -> str:
    return os.path.join(folder, "lock")


@contextmanager
def locked(output: str) -> Iterator[None]:
    """Keep other runs of this machine out of a local table folder while the body runs.

    Raises:
      UserError: Another run is at work there.
    """
    # A lock of the system, because the system frees it even if the process is killed.
    folder = TableFolder(output).staging
    if not is_local(folder):
        yield
        return
    with _explained(output):
        make_folder(folder)
        file = open(_lock_path(folder), "w", encoding="utf-8")  # noqa: SIM115  (closed below)
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise UserError(
                f"output={output!r}: another run is at work there. Wait for it, or give another --output."
            ) from e
        yield
