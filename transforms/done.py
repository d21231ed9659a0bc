"""Done ids: ids that have a row already, read from staged and published files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from labelbeam.transforms.buckets import GATHERED_ROWS, bucket_of, bucket_of_file, bucket_of_image
from labelbeam.transforms.elements import DIGEST, DoneIds, digest_of_uri
from labelbeam.transforms.errors import FAULTS_OF_THE_INPUT
from labelbeam.transforms.table.folder import StoredFile, published_files, read_manifest, staged_files
from labelbeam.transforms.table.integrity import keep_whole, read_batches
from labelbeam.transforms.table.rows import FAILURES

# Ids that share a bucket.
MeetBy = Literal["id", "image", "file"]
_BUCKETS: Final = {"id": bucket_of, "image": bucket_of_image, "file": bucket_of_file}


def read_done_ids(
    stored: StoredFile, redo: frozenset[str], versions: bool, uris: bool = False, by: MeetBy = "id"
) -> Iterator[DoneIds]:
    """Read the ids of one file, and of the other columns only requested ones; yield one bucket at a time.

    The file's bytes are compared with its digest first. A damaged staged file is deleted and has no ids, so
    that its rows are labelled again. Arguments are as in `ReadDoneIds`.

    Raises:
      RunError: The file is published and damaged.
    """
    if not keep_whole(stored):
        return
    failures = stored.file.table == FAILURES
    # Rows that failed because of a bad line are always selected again, because the user may have fixed the
    # line. Staged failures of other kinds are not, because the run that resumes has just tried them.
    redo = FAULTS_OF_THE_INPUT | (redo if stored.published else frozenset())
    # URIs of failures by file, because one that is the URI of a file shows that the failure stands for the
    # rest of that file.
    columns = ["id", *(["uri"] if uris or (by == "file" and failures) else [])]
    # Digests alone by file, because the version of a file shows nothing about a single image inside.
    compared = ["sha256"] if by == "file" else ["version", "sha256"]
    columns += ["reason"] if failures else compared if versions else []
    for batch in read_batches(stored, GATHERED_ROWS, columns):
        yield from _by_bucket(batch, stored.published, redo, by)


def _by_bucket(batch: pa.RecordBatch, published: bool, redo: frozenset[str], by: MeetBy) -> Iterator[DoneIds]:
    ids = batch["id"].to_pylist()
    names = batch.schema.names
    reasons = batch["reason"].to_pylist() if "reason" in names else [""] * len(ids)
    versions = _versions_of(batch) if "sha256" in names else []
    bucket = _BUCKETS[by]
    uris = list(map(digest_of_uri, batch["uri"].to_pylist())) if "uri" in names else []
    rows: dict[tuple[int, bool], list[int]] = defaultdict(list)
    for n, (image_id, reason) in enumerate(zip(ids, reasons, strict=True)):
        rows[bucket(image_id), reason in redo].append(n)
    for (_, retry), numbers in rows.items():
        yield DoneIds(
            ids=tuple(ids[n] for n in numbers),
            versions=tuple(versions[n] for n in numbers) if versions else (),
            published=published,
            retry=retry,
            uris=b"".join(uris[n] for n in numbers) if uris else b"",
        )


def _versions_of(batch: pa.RecordBatch) -> list[str]:
    # A digest in place of a missing version, because the image's bytes can then be compared.
    digests = pc.binary_join_element_wise(DIGEST, batch["sha256"], "")
    if "version" in batch.schema.names:
        digests = pc.coalesce(batch["version"], digests)
    return digests.to_pylist()


@dataclass
class ReadDoneIds(beam.PTransform):
    """The step that reads the ids that have a row in an output folder.

    Input: the pipeline. Output: `DoneIds`, each of one bucket.

    Attributes:
      output: The table folder.
      resumes: Unfinished runs whose staged rows count.
      published: Whether published rows count.
      redo: Reasons for which published failures are tried again.
      versions: Whether to read the versions of images, or digests of images without a version.
      uris: Whether to read digests of the URIs, which only ids of the user's own need.
      by: Ids that share a bucket: those of boxes of one `image`, or of images inside one `file`. By file,
        failures have digests of their URIs.
    """

    output: str
    resumes: tuple[str, ...] = ()
    published: bool = True
    redo: frozenset[str] = frozenset()
    versions: bool = False
    uris: bool = False
    by: MeetBy = "id"

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection[DoneIds]:
        return (
            pipeline
            | "Once" >> beam.Create([self.output], reshuffle=False)
            | "ListFiles"
            >> beam.FlatMap(_list_files, self.resumes, self.published).with_output_types(StoredFile)
            # A reshuffle, because one worker would read every file if listing and reading were fused.
            | "Spread" >> beam.Reshuffle()
            | "ReadIds" >> beam.FlatMap(read_done_ids, self.redo, self.versions, self.uris, self.by)
        )


def _list_files(output: str, resumes: tuple[str, ...], published: bool) -> list[StoredFile]:
    manifest = read_manifest(output) if published else None
    return [*published_files(output, manifest), *staged_files(output, resumes)]
