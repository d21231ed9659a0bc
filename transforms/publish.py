"""Publishing: staged rows become the next generation of the published tables."""

from __future__ import annotations

import dataclasses
import os
import secrets
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np

from labelbeam.transforms.count import (
    COUNTERS,
    DUPLICATE,
    FAILED,
    KEPT,
    LABELLED,
    LISTED,
    NOT_CHOSEN,
    OTHER,
)
from labelbeam.transforms.elements import TableFile
from labelbeam.transforms.errors import RunError
from labelbeam.transforms.table.folder import (
    StoredFile,
    TableFolder,
    announce,
    deleted_meanwhile,
    published_files,
    read_manifest,
    staged_files,
    staged_runs,
    switch,
    tidy,
)
from labelbeam.transforms.table.manifest import TABLES, FailureExample, Manifest, TopLabel
from labelbeam.transforms.table.merge import (
    NOT_PARTITIONED,
    Merged,
    MergeTask,
    Partitioning,
    check_fan_out,
    find_superseded,
    merge_files,
    parts_of,
    plan_merge,
    write_empty,
)
from labelbeam.transforms.table.rows import RowMetadata

# Hosts and labels in the manifest.
_MOST_RANKED = 20
# Longest URI and message of an example in the manifest.
_EXAMPLE_CHARS = 300


@dataclass(frozen=True, slots=True)
class Publication:
    """Plan of a new generation.

    Attributes:
      output: The table folder.
      row_metadata: Columns that are equal in every row of this run; the run id names files.
      manifest_fields: Fields of the manifest beside counts and files.
      follows: Run id of the current generation; None if there is none.
      resumes: Unfinished runs whose staged rows are published, too.
      keeps_rows: Whether rows of the current generation stay in the tables.
      keeps_files: Whether files of the current generation may stay as they are.
      target_bytes: Desired size of a file.
      keep_generations: Number of older generations to keep.
      partitioning: Assignment of rows to folders.
    """

    output: str
    row_metadata: RowMetadata
    manifest_fields: dict[str, Any]
    follows: str | None = None
    resumes: tuple[str, ...] = ()
    keeps_rows: bool = True
    keeps_files: bool = True
    target_bytes: int = 256 << 20
    keep_generations: int = 1
    partitioning: Partitioning = NOT_PARTITIONED

    @property
    def run_id(self) -> str:
        """Id of the run that publishes."""
        return self.row_metadata.run_id

    @property
    def merges(self) -> tuple[str, ...]:
        """Ids of the runs whose staged rows are published."""
        return (*self.resumes, self.run_id)


@dataclass(frozen=True, slots=True)
class Listing:
    """Input of a publication.

    Attributes:
      stored_files: Published and staged files.
      name: Name of the publication and prefix of its files' names. Random, because a graph may run twice.
    """

    stored_files: list[StoredFile]
    name: str


def list_stored(publication: Publication, written: Iterable[TableFile] = ()) -> Listing:
    """List the files that the new generation is made from.

    Args:
      publication: Plan of the new generation.
      written: Files that this run has staged.

    Raises:
      RunError: Staged files, or a run to resume, were deleted during the run.
    """
    # From the folder, not from `written`, because files of failed bundle attempts count, too.
    manifest = read_manifest(publication.output)
    # Runs that are merged already are not missed, because a graph that runs twice finds their folders
    # deleted.
    merged = manifest.merged_runs if manifest else ()
    _check_runs(publication, merged)
    published = published_files(publication.output, manifest if publication.keeps_rows else None)
    staged = staged_files(publication.output, publication.merges)
    paths = {stored.file.path for stored in staged}
    missing = next((file.path for file in written if file.path not in paths), None)
    if missing and publication.run_id not in merged:
        raise RunError(deleted_meanwhile(missing))
    return Listing(published + staged, f"{publication.run_id}-{secrets.token_hex(2)}")


def _check_runs(publication: Publication, merged: Collection[str]) -> None:
    announced = {run_id for run_id, is_announced in staged_runs(publication.output).items() if is_announced}
    for run_id in publication.merges:
        if run_id not in announced and run_id not in merged:
            # Announced again, because rows staged since the deletion are whole, and the next run needs
            # `run.json` to take them.
            announce(publication.output, publication.run_id, publication.manifest_fields["labelled_with"])
            raise RunError(deleted_meanwhile(TableFolder(publication.output).announcement(run_id)))


def make_manifest(
    publication: Publication,
    name: str,
    merged: Merged,
    counts: Mapping[str, int],
    old: Manifest | None,
    notes: Mapping[str, Any],
) -> Manifest:
    """Describe a finished run and the tables after it.

    Args:
      publication: Plan of the new generation.
      name: Name of the publication.
      merged: Merged files, with paths below the table folder.
      counts: Rows of the input by kind, and `other` rows of the tables.
      old: Manifest of the current generation.
      notes: Counts about the input, as `Notes.to_json` returns them.

    Returns:
      The manifest. `balanced` is true if each listed row is a prediction, a failure, a duplicate, kept or not
      chosen, and if the tables' files hold a row for each of the predictions, failures and kept ones.
    """
    counts = {kind: counts.get(kind, 0) for kind in COUNTERS}
    done = counts[KEPT] + counts[LABELLED] + counts[FAILED]
    rows = {table: sum(f.rows for f in merged.files if f.table == table) for table in TABLES}
    files = tuple(sorted(merged.files, key=lambda file: file.path))
    same_files = old is not None and old.files == files
    return Manifest(
        **publication.manifest_fields,
        **notes,
        publication=name,
        generation=old.generation + (not same_files) if old else 1,
        balanced=counts[LISTED] == done + counts[DUPLICATE] + counts[NOT_CHOSEN]
        and sum(rows.values()) == done + counts[OTHER],
        counts=counts,
        rows=rows,
        failures_by_reason=dict(_most_first(merged.reasons)),
        failures_by_host=dict(_most_first(merged.hosts)[:_MOST_RANKED]),
        top_labels=top_labels(merged.labels),
        files=files,
        merged_runs=publication.merges,
        failure_examples={
            reason: FailureExample(uri[:_EXAMPLE_CHARS], message[:_EXAMPLE_CHARS])
            for reason, (uri, message) in sorted(merged.examples.items())
        },
    )


def top_labels(labels: Mapping[tuple[int, str], int]) -> tuple[TopLabel, ...]:
    """Return the most frequent labels."""
    return tuple(TopLabel(class_id, label, n) for (class_id, label), n in _most_first(labels)[:_MOST_RANKED])


def _most_first(counts: Mapping[Any, int]) -> list[tuple[Any, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def commit(
    publication: Publication,
    name: str,
    results: Iterable[Merged],
    counts: Mapping[str, int],
    notes: Mapping[str, Any],
) -> Manifest:
    """Publish merged files as the new generation, and return its manifest; arguments as in `make_manifest`.

    Raises:
      RunError: Another run has published meanwhile, or the tables would be too scattered.
    """
    folder = TableFolder(publication.output)
    old = read_manifest(publication.output)
    if old and old.publication == name:
        # Beam repeats a bundle whose result it lost. The earlier attempt has published, but may have been
        # killed before it deleted old files.
        tidy(publication.output, publication.keep_generations)
        return old
    merged = Merged()
    for result in results:
        merged.add(result)
    staged = folder.merged(publication.run_id)
    # Each table has a file, because a reader of a table without files would find no schema.
    for table in set(TABLES) - {file.table for file in merged.files}:
        # Number 99,999, because no task may have the name of this file.
        merged.files.append(write_empty(table, f"{name}-99999", publication.row_metadata, staged))
    moves = {
        file.path: file.path.removeprefix(staged).strip("/")
        for file in merged.files
        if file.path.startswith(staged)
    }
    merged.files = [
        dataclasses.replace(file, path=moves.get(file.path) or folder.below(file.path))
        for file in merged.files
    ]
    # Checked over all tasks, because a task has only its own folders.
    for table in TABLES:
        folders = {os.path.dirname(file.path) for file in merged.files if file.table == table}
        check_fan_out(folders, publication.partitioning)
    manifest = make_manifest(publication, name, merged, counts, old, notes)
    # The run's own id, too, because a graph that runs again follows itself.
    follows = (publication.follows, publication.run_id)
    switch(publication.output, manifest, moves, follows, publication.keep_generations)
    return manifest


@dataclass
class PublishResults(beam.PTransform):
    """The step that merges staged with published rows, and switches readers to the result.

    Input: `TableFile` of `StageResults`, `(kind, count)`, the notes of `SumNotes`, and the stale ids of
    `ReadShards`, if it is a part of the graph. Output: the manifest.
    Guarantees: each id has one row in one of the tables; readers of the manifest see the old tables or the
    new ones, whole; the next run repeats a publication that was cut off. Files are merged in parallel, each
    task in bounded memory.

    Attributes:
      publication: Plan of the new generation.
    """

    publication: Publication

    def expand(self, results: tuple[beam.PCollection, ...]) -> beam.PCollection[Manifest]:
        staged, counts, notes, *stale = results
        publication = self.publication
        listing = (
            staged.pipeline
            | "Once" >> beam.Create([publication], reshuffle=False)
            # `staged` is a side input, because Beam computes a side input wholly before its first consumer
            # runs: a barrier, without which files would be listed while others are still being written.
            | "ListStored" >> beam.Map(list_stored, beam.pvalue.AsIter(staged))
        )
        superseded = (
            listing
            # Ids are compared in parts, because all ids of a large table fit in no worker's memory.
            | "DealParts" >> beam.FlatMap(_part_numbers)
            | "SpreadParts" >> beam.Reshuffle()
            | "FindSuperseded"
            >> beam.FlatMap(
                _find_superseded,
                beam.pvalue.AsSingleton(listing),
                publication.run_id,
                *map(beam.pvalue.AsIter, stale),
            )
        )
        merged = (
            listing
            | "PlanMerge" >> beam.FlatMap(_plan_tasks, publication, beam.pvalue.AsIter(superseded))
            | "SpreadTasks" >> beam.Reshuffle()
            | "MergeFiles" >> beam.Map(_merge_files, publication)
        )
        # Side inputs are barriers here, too, because readers may be switched only when every file is merged.
        return listing | "Commit" >> beam.Map(
            _commit_listing,
            publication,
            beam.pvalue.AsIter(merged),
            beam.pvalue.AsDict(counts),
            beam.pvalue.AsSingleton(notes),
        ).with_output_types(Manifest)


def _part_numbers(listing: Listing) -> range:
    return range(parts_of(listing.stored_files))


def _find_superseded(
    part: int, listing: Listing, run_id: str, stale_ids: Iterable[str] = ()
) -> Iterable[tuple[str, np.ndarray]]:
    stored_files = listing.stored_files
    return find_superseded(stored_files, part, parts_of(stored_files), set(stale_ids), run_id).items()


def _plan_tasks(
    listing: Listing, publication: Publication, superseded: Iterable[tuple[str, np.ndarray]]
) -> list[MergeTask]:
    rows = defaultdict(list)
    for path, numbers in superseded:
        rows[path].append(numbers)
    return plan_merge(
        listing.stored_files, rows, listing.name, publication.target_bytes, publication.keeps_files
    )


def _merge_files(task: MergeTask, publication: Publication) -> Merged:
    folder = TableFolder(publication.output).merged(publication.run_id)
    return merge_files(task, publication.row_metadata, folder, publication.partitioning)


def _commit_listing(
    listing: Listing, publication: Publication, merged: Iterable[Merged], counts: dict, notes: dict
) -> Manifest:
    return commit(publication, listing.name, merged, counts, notes)
