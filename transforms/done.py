"""Done ids: ids that have a row already, read from staged and published files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import apache_beam as beam
import pyarrow.compute as pc
from apache_beam.metrics import Metrics

from labelbeam.transforms.buckets import GATHERED_ROWS, bucket_of
from labelbeam.transforms.elements import DIGEST, DoneIds, digest_of_uri
from labelbeam.transforms.errors import FAULTS_OF_THE_INPUT
from labelbeam.transforms.table.folder import Source, published_sources, read_manifest, staged_sources
from labelbeam.transforms.table.integrity import keep_whole, read_batches
from labelbeam.transforms.table.rows import FAILURES


def read_done_ids(
    source: Source, redo: frozenset[str], versions: bool, uris: bool = False
) -> Iterator[DoneIds]:
    """Read the ids of one file, and of the other columns only requested ones.

    The file's bytes are compared with its digest first. A damaged staged file is deleted and has no ids, so
    that its rows are labelled again.

    Args:
      source: The file.
      redo: Reasons for which published failures are tried again.
      versions: Whether to read the versions of images, or digests of images without a version.
      uris: Whether to read digests of the URIs.

    Yields:
      The ids of one bucket at a time.

    Raises:
      RunError: The file is published and damaged.
    """
    if not keep_whole(source):
        return
    failures = source.file.table == FAILURES
    # Rows that failed because of a bad line are always selected again, because the user may have fixed the
    # line. Staged failures of other kinds are not, because the run that resumes has just tried them.
    redo = FAULTS_OF_THE_INPUT | (redo if source.published else frozenset())
    extra = ["uri"] if uris else []
    extra += ["reason"] if failures else ["version", "sha256"] if versions else []
    for batch in read_batches(source, GATHERED_ROWS, ["id", *extra]):
        ids = batch["id"].to_pylist()
        row_versions = None
        retries = [False] * len(ids)
        if failures:
            retries = [reason in redo for reason in batch["reason"].to_pylist()]
        elif versions:
            digests = pc.binary_join_element_wise(DIGEST, batch["sha256"], "")
            row_versions = pc.coalesce(batch["version"], digests).to_pylist()
        row_uris = list(map(digest_of_uri, batch["uri"].to_pylist())) if uris else None
        yield from _by_bucket(ids, row_versions, retries, source.published, row_uris)


def _by_bucket(
    ids: list[str],
    versions: list[str | None] | None,
    retries: list[bool],
    published: bool,
    uris: list[bytes] | None,
) -> Iterator[DoneIds]:
    rows: dict[tuple[int, bool], list[int]] = defaultdict(list)
    for n, image_id in enumerate(ids):
        rows[bucket_of(image_id), retries[n]].append(n)
    for (_, retry), numbers in rows.items():
        bucket_versions = tuple(versions[n] for n in numbers) if versions else ()
        bucket_uris = b"".join(uris[n] for n in numbers) if uris else b""
        yield DoneIds(tuple(ids[n] for n in numbers), bucket_versions, published, retry, bucket_uris)


@dataclass
class ReadDoneIds(beam.PTransform):
    """The step that reads the ids that have a row in an output folder.

    Input: the pipeline. Output: `DoneIds`, each of one bucket. Metrics: `ids_done`.

    Attributes:
      output: The table folder.
      resumes: Unfinished runs whose staged rows count.
      published: Whether published rows count.
      redo: Reasons for which published failures are tried again.
      versions: Whether to read the versions of images.
      uris: Whether to read digests of the URIs, which only ids of the user's own need.
    """

    output: str
    resumes: tuple[str, ...] = ()
    published: bool = True
    redo: frozenset[str] = frozenset()
    versions: bool = False
    uris: bool = False

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection[DoneIds]:
        return (
            pipeline
            | "Once" >> beam.Create([None], reshuffle=False)
            | "ListFiles" >> beam.ParDo(_ListFn(self)).with_output_types(Source)
            # A reshuffle, because one worker would read every file if listing and reading were fused.
            | "Spread" >> beam.Reshuffle()
            | "ReadIds" >> beam.ParDo(_ReadFn(self)).with_output_types(DoneIds)
        )


class _ListFn(beam.DoFn):
    def __init__(self, step: ReadDoneIds) -> None:
        self._output = step.output
        self._resumes = step.resumes
        self._published = step.published

    def process(self, _: None) -> Iterator[Source]:
        if self._published:
            yield from published_sources(self._output, read_manifest(self._output))
        yield from staged_sources(self._output, self._resumes)


class _ReadFn(beam.DoFn):
    def __init__(self, step: ReadDoneIds) -> None:
        self._redo = step.redo
        self._versions = step.versions
        self._uris = step.uris
        self._ids_done = Metrics.counter(ReadDoneIds, "ids_done")

    def process(self, source: Source) -> Iterator[DoneIds]:
        for done in read_done_ids(source, self._redo, self._versions, self._uris):
            self._ids_done.inc(len(done.ids))
            yield done
