"""Opening an output folder: what is done there, and whether a run can go on with it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TextIO

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
    scheme_of,
    write_file,
)
from labelbeam.transforms.sources.addresses import GCS
from labelbeam.transforms.table.folder import (
    TableFolder,
    announce,
    delete_run,
    find_losses,
    read_manifest,
    staged_sources,
    tidy,
    unfinished_runs,
)
from labelbeam.transforms.table.manifest import LabelledWith, Manifest

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
    "threshold": "threshold",
    "outputs": "columns of the model's outputs",
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
    """Return an output folder's name without a slash at its end.

    Raises:
      UserError: It is neither local nor in a bucket of Google's.
    """
    scheme = scheme_of(output)
    if scheme not in (None, GCS):
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

    manifest: Manifest | None
    unfinished: Mapping[str, LabelledWith]
    staged_rows: Mapping[str, int]

    @property
    def labelled_with(self) -> list[LabelledWith]:
        """What its rows were labelled with: the published, then those of each unfinished run."""
        has_rows = self.manifest and sum(self.manifest.rows.values())
        published = [self.manifest.labelled_with] if self.manifest and has_rows else []
        return [*published, *(facts for run, facts in self.unfinished.items() if self.staged_rows[run])]


def open_output(config: WriteConfig, run_id: str, labelled_with: LabelledWith) -> OutputState:
    """Bring an output folder into order and announce a run there.

    Raises:
      UserError: It can't be written, is damaged, or holds rows that were labelled with something else.
    """
    output = folder_of(config.output)
    with _explained(output):
        return _open(output, config, run_id, labelled_with)


def _explained(output: str) -> AbstractContextManager[None]:
    return file_errors_as(UserError, f"output={output!r} cannot be written", "Check its name and rights.")


def _open(output: str, config: WriteConfig, run_id: str, labelled_with: LabelledWith) -> OutputState:
    contents = _look_into(output)
    refuse_others(output, contents, config.replace, labelled_with)
    manifest, unfinished = contents.manifest, dict(contents.unfinished)
    keeps_rows = manifest is None or manifest.labelled_with == labelled_with
    if keeps_rows:
        _refuse_losses(output, manifest)
    _probe(output)
    tidy(output, config.keep_generations)
    for run in [run for run, facts in unfinished.items() if facts != labelled_with]:
        del unfinished[run]
        if config.replace:
            delete_run(TableFolder(output), run)
    announce(output, run_id, labelled_with)
    return OutputState(
        follows=manifest.run_id if manifest else None,
        resumes=tuple(unfinished),
        keeps_rows=keeps_rows,
        keeps_files=manifest is None or manifest.partitioned_by == config.partition_by,
    )


def _refuse_losses(output: str, manifest: Manifest | None) -> None:
    # Before `tidy`, because it deletes files that the manifest does not list.
    if losses := list(find_losses(output, manifest)):
        more = f" (and {len(losses) - 1:,} more like it)" if len(losses) > 1 else ""
        raise UserError(f"{losses[0]}{more}. {MEND}")


def look_into(output: str) -> Contents:
    """Return what an output folder holds, and change nothing.

    Raises:
      UserError: It can't be read.
    """
    with _explained(output):
        return _look_into(output)


def _look_into(output: str) -> Contents:
    manifest = read_manifest(output)
    unfinished = unfinished_runs(output, manifest)
    rows = {run: sum(s.file.rows for s in staged_sources(output, [run])) for run in unfinished}
    return Contents(manifest, unfinished, rows)


def refuse_others(output: str, contents: Contents, replace: bool, labelled_with: LabelledWith) -> None:
    """Make sure that an output folder's rows were labelled as new ones will be, or may go.

    Raises:
      UserError: They were not, and may not.
    """
    others = [facts for facts in contents.labelled_with if facts != labelled_with]
    if others and not replace:
        raise UserError(
            f"output={output!r} holds rows that were labelled with something else: "
            f"{_differences(others[0], labelled_with)}. Give another --output, or --replace to have a table "
            f"of the new rows alone{_HINT if others[0].columns != labelled_with.columns else ''}."
        )


def probe_output(output: str) -> None:
    """Write a file into an output folder, and delete it again with the folders that were made for it.

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
    """Return whether a run of this machine is at work in a local output folder."""
    if not is_local(output) or not os.path.exists(_lock_path(TableFolder(output).staging)):
        return False
    try:
        with locked(output):
            return False
    except UserError:
        return True


def _differences(there: LabelledWith, wanted: LabelledWith) -> str:
    pairs = [(f.name, getattr(there, f.name), getattr(wanted, f.name)) for f in dataclasses.fields(wanted)]
    return "; ".join(
        f"{_WHAT.get(name, name)} ({old} there, {new} now)" for name, old, new in pairs if old != new
    )


def _probe(output: str) -> None:
    make_folder(output)
    probe = join_path(output, f"_probe-{new_run_id()}")
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
    """Keep other runs of this machine out of a local folder; the system frees it when the process ends.

    Raises:
      UserError: Another run is at work there.
    """
    folder = TableFolder(output).staging
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
