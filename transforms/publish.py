"""Publishing: staged rows become the next generation of the tables that readers see."""

from __future__ import annotations

import dataclasses
import secrets
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from labelbeam.transforms.count import DUPLICATE, FAILED, KEPT, KINDS, LABELLED, LISTED, OTHER
from labelbeam.transforms.elements import TableFile
from labelbeam.transforms.errors import RunError
from labelbeam.transforms.table.folder import (
    Layout,
    Source,
    announce,
    deleted_meanwhile,
    published_sources,
    read_manifest,
    staged_runs,
    staged_sources,
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
from labelbeam.transforms.table.rows import RowFacts

_TOP = 20
# Longest URI and message of an example in the manifest.
_EXAMPLE_CHARS = 300


@dataclass(frozen=True, slots=True)
class Publication:
    """Plan of a new generation.

    Attributes:
      output: The output folder.
      facts: The files' metadata; its run id names them.
      manifest_facts: Fields of the manifest beside counts and files.
      follows: Run id of the generation it is made from; None if there is none.
      resumes: Unfinished runs whose staged rows go in too.
      keeps_rows: Whether that generation's rows stay in the tables.
      keeps_files: Whether its files may stay as they are.
      target_bytes: How large files are to be.
      keep_generations: How many older generations to keep.
      partitioning: How rows are dealt to folders.
    """

    output: str
    facts: RowFacts
    manifest_facts: dict[str, Any]
    follows: str | None = None
    resumes: tuple[str, ...] = ()
    keeps_rows: bool = True
    keeps_files: bool = True
    target_bytes: int = 256 << 20
    keep_generations: int = 1
    partitioning: Partitioning = NOT_PARTITIONED

    @property
    def run_id(self) -> str:
        """The run that publishes."""
        return self.facts.run_id

    @property
    def merges(self) -> tuple[str, ...]:
        """The runs whose staged rows go in."""
        return (*self.resumes, self.run_id)


@dataclass(frozen=True, slots=True)
class Listing:
    """Input of a publication.

    Attributes:
      sources: The files.
      name: Of this publication, and what its files' names begin with: a graph may be run twice.
    """

    sources: list[Source]
    name: str


def list_sources(publication: Publication, written: Iterable[TableFile] = ()) -> Listing:
    """List the files that the new generation is made from.

    Args:
      publication: What is to be made.
      written: Files that this run has staged. Files are listed from the folder, because files of bundle
        attempts that failed count, too.

    Raises:
      RunError: Staged files or runs whose rows go in were deleted during the run.
    """
    manifest = read_manifest(publication.output)
    # A run that is merged already has no folder any more where a graph is run twice.
    merged = manifest.merged_runs if manifest else ()
    _check_runs(publication, merged)
    published = published_sources(publication.output, manifest if publication.keeps_rows else None)
    staged = staged_sources(publication.output, publication.merges)
    there = {source.file.path for source in staged}
    gone = next((file.path for file in written if file.path not in there), None)
    if gone and publication.run_id not in merged:
        raise RunError(deleted_meanwhile(gone))
    return Listing(published + staged, f"{publication.run_id}-{secrets.token_hex(2)}")


def _check_runs(publication: Publication, merged: Collection[str]) -> None:
    announced = {run_id for run_id, is_announced in staged_runs(publication.output).items() if is_announced}
    for run_id in publication.merges:
        if run_id not in announced and run_id not in merged:
            # Rows staged since then are whole, and the next run needs `run.json` to take them.
            announce(publication.output, publication.run_id, publication.manifest_facts["labelled_with"])
            raise RunError(deleted_meanwhile(Layout(publication.output).run_facts(run_id)))


def make_manifest(
    publication: Publication,
    name: str,
    merged: Merged,
    counts: Mapping[str, int],
    old: Manifest | None,
    notes: Mapping[str, Any] | None = None,
) -> Manifest:
    """Describe a finished run and the tables after it.

    Args:
      publication: What was to be made.
      name: Of this publication.
      merged: What was made.
      counts: Rows of the input by what became of them, and `other` rows of the tables.
      old: The manifest before.
      notes: Further facts about the input, as `Notes.to_json` returns them.

    Returns:
      The manifest. `balanced` is whether each row that was listed is a
      prediction, a failure, a duplicate or kept, and whether the tables' files
      hold a row for each of these but duplicates.
    """
    counts = {kind: counts.get(kind, 0) for kind in KINDS}
    done = counts[KEPT] + counts[LABELLED] + counts[FAILED]
    rows = {table: sum(f.rows for f in merged.files if f.table == table) for table in TABLES}
    files = tuple(
        dataclasses.replace(file, path=path)
        for path, file in sorted(zip(merged.paths, merged.files, strict=True), key=lambda pair: pair[0])
    )
    same_files = old is not None and old.files == files
    return Manifest(
        **publication.manifest_facts,
        publication=name,
        generation=old.generation + (not same_files) if old else 1,
        balanced=counts[LISTED] == done + counts[DUPLICATE] and sum(rows.values()) == done + counts[OTHER],
        counts=counts,
        **(notes or {}),
        rows=rows,
        failures_by_reason=dict(_most_first(merged.reasons)),
        failures_by_host=dict(_most_first(merged.hosts)[:_TOP]),
        top_labels=top_labels(merged.labels),
        files=files,
        merged_runs=publication.merges,
        failure_examples={
            reason: FailureExample(uri[:_EXAMPLE_CHARS], message[:_EXAMPLE_CHARS])
            for reason, (uri, message) in sorted(merged.examples.items())
        },
    )


def top_labels(labels: Mapping[tuple[int, str], int]) -> tuple[TopLabel, ...]:
    """Return the labels that most rows have first."""
    return tuple(TopLabel(class_id, label, n) for (class_id, label), n in _most_first(labels)[:_TOP])


def _most_first(counts: Mapping[Any, int]) -> list[tuple[Any, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def commit(
    publication: Publication,
    name: str,
    results: Iterable[Merged],
    counts: Mapping[str, int],
    notes: Mapping[str, Any] | None = None,
) -> Manifest:
    """Make merged files the generation that readers see, and return its manifest.

    Args:
      publication: What was to be made.
      name: Of this publication; one that was made already is only tidied up after.
      results: The files.
      counts: Rows of the input by what became of them.
      notes: Further facts about the input.

    Raises:
      RunError: Another run has published meanwhile, or the tables would be too scattered.
    """
    layout = Layout(publication.output)
    old = read_manifest(publication.output)
    if old and old.publication == name:
        tidy(publication.output, publication.keep_generations)
        return old
    merged = Merged()
    for result in results:
        merged.add(result)
    merged.paths = [
        path or file.path.removeprefix(publication.output).strip("/")
        for path, file in zip(merged.paths, merged.files, strict=True)
    ]
    for table in TABLES:
        folders = {path.rpartition("/")[0] for path in merged.paths if path.startswith(f"{table}/")}
        check_fan_out(folders, publication.partitioning)
    staged = layout.merged(publication.run_id)
    for table in set(TABLES) - {file.table for file in merged.files}:
        merged.add(write_empty(table, f"{name}-99999", publication.facts, staged))
    manifest = make_manifest(publication, name, merged, counts, old, notes or {})
    moves = {
        file.path: path
        for path, file in zip(merged.paths, merged.files, strict=True)
        if file.path.startswith(staged)
    }
    follows = (publication.follows, publication.run_id)  # its own where the graph is run again
    switch(publication.output, manifest, moves, follows, publication.keep_generations)
    return manifest


@dataclass
class PublishResults(beam.PTransform):
    """Merges what is staged with what is published, and switches readers over.

    Input: `TableFile` of `StageResults`, `(kind, count)`, and the notes of `SumNotes`. Output: the manifest.
    Guarantees: each id has one row in one of the tables; readers of the manifest
    see the tables as they were or as they are now; a publication that breaks
    off is done again by the next run. Files are merged in parallel, each task
    in bounded memory.

    Attributes:
      publication: What to make.
    """

    publication: Publication

    def expand(self, results: tuple[beam.PCollection, ...]) -> beam.PCollection[Manifest]:
        """Apply the step."""
        staged, counts, notes = results
        sources = (
            staged.pipeline
            | "Once" >> beam.Create([None], reshuffle=False)
            # The side input is a barrier, too: nothing is listed before all is staged.
            | "ListSources" >> beam.ParDo(_ListFn(self.publication), beam.pvalue.AsIter(staged))
        )
        superseded = (
            sources
            | "DealParts" >> beam.ParDo(_DealPartsFn())
            | "SpreadParts" >> beam.Reshuffle()
            | "FindSuperseded" >> beam.ParDo(_FindSupersededFn(), beam.pvalue.AsSingleton(sources))
        )
        merged = (
            sources
            | "PlanMerge" >> beam.ParDo(_PlanMergeFn(self.publication), beam.pvalue.AsIter(superseded))
            | "SpreadTasks" >> beam.Reshuffle()
            | "MergeFiles" >> beam.ParDo(_MergeFilesFn(self.publication))
        )
        return sources | "Commit" >> beam.ParDo(
            _CommitFn(self.publication),
            beam.pvalue.AsIter(merged),
            beam.pvalue.AsDict(counts),
            beam.pvalue.AsSingleton(notes),
        ).with_output_types(Manifest)


class _PublicationFn(beam.DoFn):
    def __init__(self, publication: Publication) -> None:
        self._publication = publication


class _ListFn(_PublicationFn):
    def process(self, _: None, written: Iterable[TableFile]) -> Iterator[Listing]:
        yield list_sources(self._publication, written)


class _DealPartsFn(beam.DoFn):
    def process(self, listing: Listing) -> Iterator[int]:
        yield from range(parts_of(listing.sources))


class _FindSupersededFn(beam.DoFn):
    def process(self, part: int, listing: Listing) -> Iterator:
        yield from find_superseded(listing.sources, part, parts_of(listing.sources)).items()


class _PlanMergeFn(_PublicationFn):
    def process(self, listing: Listing, superseded: Iterable) -> Iterator[MergeTask]:
        rows = defaultdict(list)
        for path, its_rows in superseded:
            rows[path].append(its_rows)
        publication = self._publication
        yield from plan_merge(
            listing.sources, rows, listing.name, publication.target_bytes, publication.keeps_files
        )


class _MergeFilesFn(_PublicationFn):
    def process(self, task: MergeTask) -> Iterator[Merged]:
        folder = Layout(self._publication.output).merged(self._publication.run_id)
        yield merge_files(task, self._publication.facts, folder, self._publication.partitioning)


class _CommitFn(_PublicationFn):
    def process(
        self, listing: Listing, merged: Iterable[Merged], counts: dict, notes: dict
    ) -> Iterator[Manifest]:
        yield commit(self._publication, listing.name, merged, counts, notes)
