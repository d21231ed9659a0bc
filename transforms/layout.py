"""What is where in an output folder, and how one generation of its tables follows another.

    OUTPUT/manifest.json                    the generation that readers see
    OUTPUT/predictions/RUN-…-00000.parquet  its files, and no others
    OUTPUT/failures/RUN-…-00000.parquet
    OUTPUT/_staging/RUN/run.json            an unfinished run: what it labels with
    OUTPUT/_staging/RUN/predictions/…       its finished rows
    OUTPUT/_staging/RUN/merged/…            the next generation's files, before the switch
    OUTPUT/_generations/000001.json         the manifest of an older generation
    OUTPUT/_generations/predictions/…       files that only older generations have

docs/output-layout.md tells it to users.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from apache_beam.io.filesystems import FileSystems

from transforms.elements import TableFile
from transforms.errors import RunError, UserError, told_by
from transforms.files import (
    FILE_ERRORS,
    delete_files,
    delete_folder,
    list_files,
    move_files,
    read_file,
    write_file,
)
from transforms.rows import FAILURES, PREDICTIONS

TABLES = (PREDICTIONS, FAILURES)

# Names of ours in a table's folder; whatever else lies there is not for us to touch.
_PUBLISHED_NAME = re.compile(r"/\d{8}T\d{6}-[0-9a-f]{8}-[0-9a-f]{4}-\d{5,}\.parquet$")
# A staged file's name tells its rows, so that nobody has to open it to count them.
_STAGED_NAME = re.compile(r"/[0-9a-f]{32}-(\d+)\.parquet$")


class Source(NamedTuple):
    """A file whose rows belong into the next generation.

    Attributes:
      file: Its path is absolute.
      published: Whether readers see it already.
    """

    file: TableFile
    published: bool


@dataclass(frozen=True, slots=True)
class Layout:
    """The names in an output folder.

    Attributes:
      output: The folder, without a slash at its end.
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
        """The folder of what only older generations have."""
        return self.join("_generations")

    def join(self, *parts: str) -> str:
        """A path below the output folder."""
        return FileSystems.join(self.output, *parts)

    def run(self, run_id: str) -> str:
        """The folder of an unfinished run."""
        return FileSystems.join(self.staging, run_id)

    def run_facts(self, run_id: str) -> str:
        """The file that tells what an unfinished run labels with."""
        return FileSystems.join(self.run(run_id), "run.json")

    def merged(self, run_id: str) -> str:
        """The folder of the next generation's files."""
        return FileSystems.join(self.run(run_id), "merged")

    def generation(self, number: int) -> str:
        """The manifest of an older generation."""
        return FileSystems.join(self.generations, f"{number:06d}.json")


def read_manifest(output: str) -> dict[str, Any] | None:
    """The manifest of an output folder; None if nothing was published there.

    Raises:
      UserError: There is one, and it is not ours; or the folder can't be read.
    """
    path = Layout(output).manifest
    try:
        if not FileSystems.exists(path):
            return None
        data = read_file(path)
    except FILE_ERRORS as e:
        raise UserError(
            f"{path!r} cannot be read: {told_by(e)}. Check the folder's name and your credentials."
        ) from e
    try:
        manifest = json.loads(data)
        _ = manifest["format"], manifest["run_id"], manifest["generation"], manifest["files"]
    except (ValueError, KeyError, TypeError) as e:
        raise UserError(
            f"{path} is damaged, or no manifest of labelbeam's: {e!r}. Put a whole copy in its place, or "
            "use another folder."
        ) from e
    return manifest


def published_sources(output: str, manifest: Mapping[str, Any] | None) -> list[Source]:
    """The files that readers see."""
    files = manifest["files"] if manifest else ()
    return [
        Source(TableFile(**{**file, "path": FileSystems.join(output, file["path"])}), True) for file in files
    ]


def staged_sources(output: str, run_ids: Iterable[str]) -> list[Source]:
    """The files that runs have staged."""
    layout = Layout(output)
    return [
        Source(TableFile(table, file.path, int(found[1]), file.size_in_bytes), published=False)
        for run_id in run_ids
        for table in TABLES
        for file in list_files(FileSystems.join(layout.run(run_id), table))
        if (found := _STAGED_NAME.search(file.path))
    ]


def staged_runs(output: str) -> dict[str, dict[str, Any] | None]:
    """What unfinished runs label with, by run id; None for a run that never came so far as to say it."""
    layout = Layout(output)
    paths = [file.path for file in list_files(layout.staging)]
    below = [path.removeprefix(layout.staging).strip("/") for path in paths]
    run_ids = {path.partition("/")[0] for path in below if "/" in path}
    return {
        run_id: json.loads(read_file(layout.run_facts(run_id))) if layout.run_facts(run_id) in paths else None
        for run_id in sorted(run_ids)
    }


def switch(
    output: str,
    manifest: Mapping[str, Any],
    moves: Mapping[str, str],
    follows: Collection[str | None],
    keep: int,
) -> None:
    """Makes a new generation the one that readers see.

    Args:
      output: The output folder.
      manifest: Of the new generation.
      moves: Where its new files are, and their paths below `output`.
      follows: Run ids of generations that it may follow; None stands for none.
      keep: How many older generations to keep.

    Raises:
      RunError: Another run has published meanwhile.
    """
    layout = Layout(output)
    old = read_manifest(output)
    if (old["run_id"] if old else None) not in follows:
        raise RunError(
            f"Another run has published to {output!r} meanwhile. Run the same command again: what "
            "this one labelled is kept."
        )
    if old and old["generation"] != manifest["generation"]:
        write_file(layout.generation(old["generation"]), json.dumps(old, indent=2).encode())
    move_files(list(moves), [layout.join(path) for path in moves.values()])
    write_file(layout.manifest, json.dumps(manifest, indent=2).encode())
    tidy(output, keep)


def tidy(output: str, keep: int) -> None:
    """Brings an output folder to what its manifest says, whatever a run that broke off has left.

    Args:
      output: The output folder.
      keep: How many older generations to keep.
    """
    layout = Layout(output)
    manifest = read_manifest(output)
    live = {file["path"] for file in manifest["files"]} if manifest else set()
    kept = _keep_generations(layout, manifest, keep) - live
    for table in TABLES:
        strays = [p for p in _paths_below(layout, layout.output, table) if p not in live]
        retired = [p for p in strays if p in kept]
        move_files([layout.join(p) for p in retired], [layout.join("_generations", p) for p in retired])
        delete_files([layout.join(p) for p in strays if p not in kept])
        dropped = [p for p in _paths_below(layout, layout.generations, table) if p not in kept]
        delete_files([layout.join("_generations", p) for p in dropped])
    merged = set(manifest["merged_runs"]) if manifest else set()
    for run_id, facts in staged_runs(output).items():
        gone = facts is None or run_id in merged
        delete_folder(layout.run(run_id) if gone else layout.merged(run_id))


def _keep_generations(layout: Layout, manifest: Mapping[str, Any] | None, keep: int) -> set[str]:
    """Drops the manifests of all older generations but the last `keep`; gives the files of those."""
    current = manifest["generation"] if manifest else 0
    paths = [f.path for f in list_files(layout.generations) if re.search(r"/\d{6}\.json$", f.path)]
    older = [path for path in paths if int(path[-11:-5]) < current]
    kept = older[-keep:] if keep else []
    delete_files([path for path in paths if path not in kept])
    return {file["path"] for path in kept for file in json.loads(read_file(path))["files"]}


def _paths_below(layout: Layout, folder: str, table: str) -> Iterable[str]:
    """The files of ours in a table's folder, as manifests name them."""
    paths: Sequence[str] = [f.path for f in list_files(FileSystems.join(folder, table))]
    return [path.removeprefix(folder).strip("/") for path in paths if _PUBLISHED_NAME.search(path)]
