"""The table folder: names of its files, and the switch from one generation of the tables to the next.

    OUTPUT/manifest.json                    the generation that readers see
    OUTPUT/predictions/RUN-…-00000.parquet  the files of this generation, and no others
    OUTPUT/failures/RUN-…-00000.parquet
    OUTPUT/_staging/RUN/run.json            an unfinished run: its settings
    OUTPUT/_staging/RUN/predictions/…       finished rows of the run
    OUTPUT/_staging/RUN/merged/…            the next generation's files, before the switch
    OUTPUT/_generations/000001.json         the manifest of an older generation
    OUTPUT/_generations/predictions/…       files that only older generations have
    OUTPUT/runs/RUN.json                    the numbers of a finished run

docs/output.md describes the folder to users.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from labelbeam.transforms.elements import TableFile
from labelbeam.transforms.errors import RunError, UserError
from labelbeam.transforms.files import (
    delete_files,
    delete_folder,
    delete_temporary,
    exists,
    file_errors_as,
    join_path,
    list_files,
    move_files,
    read_file,
    write_file,
)
from labelbeam.transforms.table.documents import write_document
from labelbeam.transforms.table.manifest import (
    TABLES,
    Announcement,
    LabelledWith,
    Manifest,
    parse,
)

_T = TypeVar("_T")

# Folder of a table's Delta log, which `labelbeam export` writes.
DELTA_LOG = "_delta_log"
_MEND_MANIFEST = "Put a whole copy in its place, or give another --output."
_MEND_GENERATION = "Put a whole copy in its place, or delete it: only older generations need it."
_RELABELLED = "its rows are then labelled again."
# Names of published files. Files of other names are never touched, because they belong to the user.
_PUBLISHED_NAME = re.compile(r"/(\d{8}T\d{6}-[0-9a-f]{8})-[0-9a-f]{4}-\d{5,}\.parquet$")
# A staged file's name holds its digest and its number of rows, because a second file with these numbers
# could be lost or belong to another attempt.
_STAGED_NAME = re.compile(r"/([0-9a-f]{64})-(\d+)\.parquet$")


class StoredFile(NamedTuple):
    """A file whose rows belong into the next generation.

    Attributes:
      file: The file, with an absolute path.
      published: Whether the file belongs to the generation that readers see.
    """

    file: TableFile
    published: bool


@dataclass(frozen=True, slots=True)
class TableFolder:
    """Paths in a table folder.

    Attributes:
      output: Path of the table folder, without a slash at its end.
    """

    output: str

    @property
    def manifest(self) -> str:
        """The manifest of the generation that readers see."""
        return self.join("manifest.json")

    @property
    def staging(self) -> str:
        """The folder of all unfinished runs."""
        return self.join("_staging")

    @property
    def generations(self) -> str:
        """The folder of files that only older generations have."""
        return self.join("_generations")

    @property
    def runs(self) -> str:
        """The folder with the numbers of finished runs."""
        return self.join("runs")

    def join(self, *parts: str) -> str:
        """Return a path below the table folder."""
        return join_path(self.output, *parts)

    def below(self, path: str) -> str:
        """Return a path of the table folder as manifests name it."""
        return path.removeprefix(self.output).strip("/")

    def run(self, run_id: str) -> str:
        """Return the folder of an unfinished run."""
        return join_path(self.staging, run_id)

    def announcement(self, run_id: str) -> str:
        """Return the path of the file with an unfinished run's settings."""
        return join_path(self.run(run_id), "run.json")

    def merged(self, run_id: str) -> str:
        """Return the folder of the next generation's files."""
        return join_path(self.run(run_id), "merged")

    def generation(self, number: int) -> str:
        """Return the path of an older generation's manifest."""
        return join_path(self.generations, f"{number:06d}.json")

    def record(self, run_id: str) -> str:
        """Return the path of the numbers of a finished run."""
        return join_path(self.runs, f"{run_id}.json")


def read_manifest(output: str) -> Manifest | None:
    """Read the manifest of a table folder; None if nothing has been published.

    Raises:
      UserError: The manifest is damaged or of a newer format, or the folder can't be read.
    """
    return read_stored(Manifest, TableFolder(output).manifest, _MEND_MANIFEST)


def read_stored(kind: type[_T], path: str, mend: str) -> _T | None:
    """Read a document of a table folder; None if there is no such file.

    Args:
      kind: Class of the document.
      path: Path of the document.
      mend: Last sentence of the message about a damaged document.

    Raises:
      UserError: The document is damaged or of a newer format, or the folder can't be read.
    """
    remedy = "Check the folder's name and your credentials."
    with file_errors_as(UserError, f"{path!r} cannot be read", remedy):
        try:
            data = read_file(path) if exists(path) else None
        except IsADirectoryError as e:
            raise UserError(f"{path} is damaged: the path is a folder. {mend}") from e
    return None if data is None else parse(kind, data, path, mend)


def read_generation(output: str, number: int) -> Manifest | None:
    """Read the manifest of an older generation; None if it is not kept.

    Raises:
      UserError: The manifest is damaged.
    """
    return read_stored(Manifest, TableFolder(output).generation(number), _MEND_GENERATION)


def published_files(output: str, manifest: Manifest | None) -> list[StoredFile]:
    """Return the files that readers see."""
    files = manifest.files if manifest else ()
    return [StoredFile(dataclasses.replace(file, path=join_path(output, file.path)), True) for file in files]


def staged_name(sha256: str, rows: int) -> str:
    """Return the name of a staged file."""
    return f"{sha256}-{rows}.parquet"


def staged_files(output: str, run_ids: Iterable[str]) -> list[StoredFile]:
    """Return the files that runs have staged."""
    folder = TableFolder(output)
    return [
        StoredFile(TableFile(table, file.path, int(name[2]), file.size_in_bytes, name[1]), published=False)
        for run_id in run_ids
        for table in TABLES
        for file in list_files(join_path(folder.run(run_id), table))
        if (name := _STAGED_NAME.search(file.path))
    ]


def staged_runs(output: str) -> dict[str, bool]:
    """Return the runs that have a folder in `_staging`, and whether each has a `run.json`."""
    folder = TableFolder(output)
    paths = [file.path for file in list_files(folder.staging)]
    below = [path.removeprefix(folder.staging).strip("/") for path in paths]
    # Only paths with a slash, because `_staging/lock` is a file and no run.
    run_ids = {path.partition("/")[0] for path in below if "/" in path}
    return {run_id: folder.announcement(run_id) in paths for run_id in sorted(run_ids)}


def unfinished_runs(output: str, manifest: Manifest | None) -> dict[str, LabelledWith]:
    """Return the settings of the runs whose staged rows are not published yet, by run id.

    Raises:
      UserError: A run's `run.json` is damaged, or is missing while finished rows lie beside it.
    """
    folder = TableFolder(output)
    runs = {}
    for run_id, announced in staged_runs(output).items():
        path = folder.announcement(run_id)
        if manifest and run_id in manifest.merged_runs:
            continue
        if announced:
            remedy = f"Put a whole copy in its place, or delete {folder.run(run_id)}: {_RELABELLED}"
            runs[run_id] = parse(Announcement, read_file(path), path, remedy).labelled_with
        elif staged_files(output, [run_id]):
            raise UserError(
                f"{path} is missing, and finished rows lie beside it. Put the file back, or delete "
                f"{folder.run(run_id)}: {_RELABELLED}"
            )
    return runs


def announce(output: str, run_id: str, labelled_with: LabelledWith) -> None:
    """Write an unfinished run's `run.json`."""
    write_file(TableFolder(output).announcement(run_id), write_document(Announcement(labelled_with)))


def find_losses(output: str, manifest: Manifest | None) -> Iterator[str]:
    """Find published files that are missing or of another length, and files whose manifest is missing.

    Only names and lengths are compared, because every run does it before it starts.

    Yields:
      One line for each file.
    """
    folder = TableFolder(output)
    sizes = {file.path: file.size_in_bytes for table in TABLES for file in list_files(folder.join(table))}
    for stored in published_files(output, manifest):
        file = stored.file
        if file.path not in sizes:
            yield f"{file.path} is listed in manifest.json, but does not exist"
        elif sizes[file.path] != file.size_bytes:
            yield f"{file.path} has {sizes[file.path]:,} bytes; manifest.json lists {file.size_bytes:,}"
    if manifest is None:
        # Files of runs that are still in `_staging` are no losses, because a first publication that was
        # killed leaves files without a manifest, and the staged rows are published again.
        runs = staged_runs(output)
        orphans = [path for path in sizes if (name := _PUBLISHED_NAME.search(path)) and name[1] not in runs]
        yield from (f"{path} exists, but {folder.manifest} does not" for path in orphans)


def switch(
    output: str,
    manifest: Manifest,
    moves: Mapping[str, str],
    follows: Collection[str | None],
    keep: int,
) -> None:
    """Make a new generation the one that readers see.

    Args:
      output: The table folder.
      manifest: Manifest of the new generation.
      moves: Paths of new files, and the paths below `output` that they move to.
      follows: Run ids of generations that the new one may follow; None stands for an empty table folder.
      keep: Number of older generations to keep.

    Raises:
      RunError: Another run has published meanwhile, or the manifest was deleted.
    """
    folder = TableFolder(output)
    old = read_manifest(output)
    if old is None and None not in follows:
        raise RunError(
            f"{folder.manifest} was deleted during the run. Put a whole copy in its place, or delete "
            f"{' and '.join(folder.join(table) for table in TABLES)}, too."
        )
    if (old.run_id if old else None) not in follows:
        raise RunError(
            f"Another run has published to {output!r} meanwhile. Run the same command again: rows that "
            "this run labelled are kept."
        )
    if old and old.generation != manifest.generation:
        # The bytes are copied, because another version may have written keys that are not parsed here.
        write_file(folder.generation(old.generation), read_file(folder.manifest))
    # The manifest is written last: until then readers see the old generation, because files that no manifest
    # lists belong to no generation. A run that is killed before it is repeated from `_staging`.
    move_files(list(moves), [folder.join(path) for path in moves.values()])
    write_file(folder.manifest, write_document(manifest))
    tidy(output, keep)


def deleted_meanwhile(path: str) -> str:
    """Return the message about a file that somebody else deleted during a run."""
    return f"{path} was deleted during the run. Run the same command again: deleted rows are labelled again."


def tidy(output: str, keep: int) -> None:
    """Bring a table folder into the state that its manifest lists, with `keep` older generations."""
    folder = TableFolder(output)
    manifest = read_manifest(output)
    delete_temporary(output)
    delete_temporary(folder.generations)
    delete_temporary(folder.runs)
    live = {file.path for file in manifest.files} if manifest else set()
    kept = _keep_generations(folder, manifest, keep) - live
    for table in TABLES:
        strays = [p for p in _paths_below(folder.output, table) if p not in live]
        retired = [p for p in strays if p in kept]
        move_files([folder.join(p) for p in retired], [folder.join("_generations", p) for p in retired])
        delete_files([folder.join(p) for p in strays if p not in kept])
        dropped = [p for p in _paths_below(folder.generations, table) if p not in kept]
        delete_files([folder.join("_generations", p) for p in dropped])
    for run_id, announced in staged_runs(output).items():
        if manifest and run_id in manifest.merged_runs:
            delete_run(folder, run_id)
        elif announced:
            delete_folder(folder.merged(run_id))
        elif not staged_files(output, [run_id]):
            delete_folder(folder.run(run_id))


def delete_run(folder: TableFolder, run_id: str) -> None:
    """Delete an unfinished run."""
    # `run.json` is deleted last, because after a kill in between, rows without it would look like damage.
    for path in (folder.merged(run_id), *(join_path(folder.run(run_id), table) for table in TABLES)):
        delete_folder(path)
    delete_folder(folder.run(run_id))


def _keep_generations(folder: TableFolder, manifest: Manifest | None, keep: int) -> set[str]:
    """Delete the manifests of all older generations but the last `keep`; return the files of the others."""
    current = manifest.generation if manifest else 0
    paths = [f.path for f in list_files(folder.generations) if re.search(r"/\d{6}\.json$", f.path)]
    older = [path for path in paths if int(path[-11:-5]) < current]
    kept = older[-keep:] if keep else []
    # All are parsed before anything is deleted, because files that a damaged manifest lists would be deleted.
    manifests = [parse(Manifest, read_file(path), path, _MEND_GENERATION) for path in kept]
    delete_files([path for path in paths if path not in kept])
    return {file.path for older_manifest in manifests for file in older_manifest.files}


def _paths_below(folder: str, table: str) -> list[str]:
    """Return the published files of a table, as manifests name them."""
    paths = [file.path for file in list_files(join_path(folder, table))]
    return [path.removeprefix(folder).strip("/") for path in paths if _PUBLISHED_NAME.search(path)]
