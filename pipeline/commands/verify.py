"""The command `verify`: a comparison of published tables with their manifest, and with an input."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from labelbeam.pipeline.corpus import find_corpus
from labelbeam.pipeline.manifest import published_manifest, published_row_metadata, recorded_config
from labelbeam.pipeline.output import folder_of
from labelbeam.pipeline.plan import limits_of
from labelbeam.transforms.buckets import hash_of
from labelbeam.transforms.choose import Choice
from labelbeam.transforms.count import DUPLICATE, FAILED, KEPT, LABELLED, LISTED, NOT_CHOSEN, OTHER
from labelbeam.transforms.elements import Failure, ImageRef, box_key, digest_of_uri, ref_of
from labelbeam.transforms.errors import Reason, RunError
from labelbeam.transforms.files import file_errors_as, join_path, list_files, open_parquet
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.publish import top_labels
from labelbeam.transforms.sample import list_chosen
from labelbeam.transforms.select import id_of
from labelbeam.transforms.table.folder import DELTA_LOG, StoredFile, published_files
from labelbeam.transforms.table.integrity import damage_of
from labelbeam.transforms.table.manifest import TABLES, Manifest
from labelbeam.transforms.table.merge import Merged, count_rows, find_superseded, parts_of
from labelbeam.transforms.table.rows import FAILURES, schema_of

# Findings of one kind that are listed one by one.
_MOST_LISTED = 10
# Ids that are Python objects at once, because these take some 300 MB with the digests of their URIs.
_IDS_IN_MEMORY = 2_000_000
_FINGERPRINTS = ("model_fingerprint", "preprocessing_fingerprint")


def verify(output: str, reading: Mapping[str, Any] | None = None) -> list[str]:
    """Check published tables, and return a line for each finding.

    Args:
      output: The table folder.
      reading: Options of an input whose rows the tables should have, `input` and others, which replace
        those of the run that published; by default no input is read.

    Raises:
      UserError: The folder has no manifest, the manifest is damaged, or the input can't be read.
    """
    folder = folder_of(output)
    manifest = published_manifest(folder)
    config = recorded_config(manifest, reading) if reading else None
    corpus = find_corpus(config.read, limits=lambda: limits_of(config)) if config else None
    stored_files = published_files(folder, manifest)
    files = list(itertools.chain.from_iterable(_check_file(s, folder, manifest) for s in stored_files))
    strays = list(_check_strays(folder, manifest))
    if files:  # rows of damaged files can't be counted
        return files + strays
    rows = [*_check_counts(stored_files, manifest), *_check_unique(stored_files)]
    if not config or not corpus:
        return strays + rows
    return [*strays, *rows, *_first(_find_uncovered(stored_files, corpus, config.read.choice))]


def _check_file(stored: StoredFile, folder: str, manifest: Manifest) -> Iterator[str]:
    name = stored.file.path.removeprefix(folder).strip("/")
    try:
        with file_errors_as(RunError, f"{name}: cannot be read", "Check its rights"):
            if damage := damage_of(stored):
                yield f"{name}: {damage}"
                return
            with open_parquet(stored.file.path) as parquet:
                yield from _check_content(parquet, stored, name, manifest)
    except RunError as e:
        yield str(e)


def _check_content(
    parquet: pq.ParquetFile, stored: StoredFile, name: str, manifest: Manifest
) -> Iterator[str]:
    if parquet.metadata.num_rows != stored.file.rows:
        yield f"{name}: {parquet.metadata.num_rows:,} rows, {stored.file.rows:,} are listed"
    expected = schema_of(stored.file.table, published_row_metadata(manifest))
    if not parquet.schema_arrow.equals(expected):
        yield f"{name}: its schema is not that of {stored.file.table}"
        return
    # Fingerprints stand in the file's metadata and in each row. Both are compared, because a file that was
    # rewritten by other software may keep one and lose the other.
    metadata = parquet.schema_arrow.metadata or {}
    for key, value in (expected.metadata or {}).items():
        # Any run, because a file of an earlier run stays as it is.
        if key != b"labelbeam.run_id" and (stamped := metadata.get(key, b"")) != value:
            column = key.decode().removeprefix("labelbeam.")
            yield f"{name}: its {column} is {stamped.decode()!r}, the manifest's {value.decode()!r}"
    expected_prints = {
        column: getattr(manifest.labelled_with, column.partition("_")[0]) for column in _FINGERPRINTS
    }
    for batch in parquet.iter_batches(columns=list(expected_prints)):
        for column, value in expected_prints.items():
            if strangers := set(batch[column].unique().to_pylist()) - {value}:
                yield f"{name}: rows with {column} {sorted(strangers)[0]!r}, the manifest's is {value!r}"


def _check_strays(folder: str, manifest: Manifest) -> Iterator[str]:
    listed = {file.path for file in manifest.files}
    for table in TABLES:
        for file in list_files(join_path(folder, table)):
            name = file.path.removeprefix(folder).strip("/")
            # A Delta log is none, unless it has Parquet files, which readers by a glob would read.
            of_a_log = name.startswith(f"{table}/{DELTA_LOG}/") and not name.endswith(".parquet")
            if name not in listed and not of_a_log:
                yield f"{name}: is there and not listed. Delete it, because readers read it too"


def _check_counts(stored_files: list[StoredFile], manifest: Manifest) -> Iterator[str]:
    counted = Merged()
    for stored in stored_files:
        counted.add(count_rows(stored, published_row_metadata(manifest)))
    if counted.reasons != manifest.failures_by_reason:
        yield f"failures: by reason {dict(counted.reasons)}, the manifest has {manifest.failures_by_reason}"
    if top_labels(counted.labels) != manifest.top_labels:
        yield "predictions: the most frequent labels are not the manifest's top_labels"
    counts, rows = manifest.counts, sum(manifest.rows.values())
    # Each listed row is a duplicate, not chosen, or has a row. Each row is of the input or was there before.
    done = counts[KEPT] + counts[LABELLED] + counts[FAILED]
    without = counts[DUPLICATE] + counts.get(NOT_CHOSEN, 0)  # older manifests lack the latter
    if (counts[LISTED], rows) != (without + done, done + counts[OTHER]):
        yield f"the run {manifest.run_id} did not balance: {manifest.counts}"


def _check_unique(stored_files: list[StoredFile]) -> Iterator[str]:
    # In parts, because the ids of a large table do not fit into memory at once.
    parts = parts_of(stored_files)
    doubled: Counter[str] = Counter()
    for part in range(parts):
        for path, rows in find_superseded(stored_files, part, parts).items():
            doubled.update(_ids(path).take(pa.array(rows)).to_pylist())
    yield from _first(f"id {image_id!r}: {n + 1} rows" for image_id, n in sorted(doubled.items()))


def _ids(path: str) -> pa.Array:
    with open_parquet(path) as parquet:
        return parquet.read(["id"])["id"].combine_chunks()


def _find_uncovered(stored_files: list[StoredFile], corpus: Corpus, choice: Choice) -> Iterator[str]:
    """Find rows of an input whose id has no row in published tables, or a row with another URI.

    The input is read once for each two million rows of the tables, because no more ids are held in memory.

    Raises:
      RunError: The input is cut or damaged, or changes while it is read.
    """
    # Parted by a hash of the id, so that rows of the tables and of the input meet in the same part.
    parts = 1 + sum(stored.file.rows for stored in stored_files) // _IDS_IN_MEMORY
    for part in range(parts):
        rows = (row for row in list_chosen(corpus, choice) if hash_of(_key_of(row)) % parts == part)
        yield from _uncovered(_uris_of_part(stored_files, part, parts), rows, corpus.id_column is not None)


def _key_of(row: ImageRef | Failure) -> str:
    return box_key(id_of(row), ref_of(row).uri)


def _uncovered(
    uris: dict[str, bytes | None], rows: Iterable[ImageRef | Failure], has_own_ids: bool
) -> Iterator[str]:
    for row in rows:
        image_id = _key_of(row)
        if image_id not in uris:
            uri = row.ref.uri if isinstance(row, Failure) else row.uri
            yield f"id {image_id!r}: {f'{uri!r} ' if uri else ''}is in the input and has no row"
        elif isinstance(row, Failure) or not has_own_ids:
            continue  # an unreadable row has no URI, and an id made from a URI stands for no other
        elif (digest := uris[image_id]) is None or digest == digest_of_uri(row.uri):
            continue
        else:
            yield f"id {image_id!r}: is {row.uri!r} in the input, and its row has another URI. Run again"
        if image_id in uris or len(uris) < 2 * _IDS_IN_MEMORY:
            uris[image_id] = None  # so that the id is reported once, as far as memory allows


def _uris_of_part(stored_files: list[StoredFile], part: int, parts: int) -> dict[str, bytes | None]:
    """Return the digest of the URI of each id of a part; None if the id stands for several URIs."""
    uris: dict[str, bytes | None] = {}
    for stored in stored_files:
        columns = ["id", "uri", *(["reason"] if stored.file.table == FAILURES else [])]
        with open_parquet(stored.file.path) as parquet:
            for batch in parquet.iter_batches(columns=columns):
                for image_id, uri, *reason in zip(*(c.to_pylist() for c in batch.columns), strict=True):
                    key = box_key(image_id, uri)
                    if hash_of(key) % parts == part:
                        uris[key] = None if reason == [Reason.AMBIGUOUS_ID] else digest_of_uri(uri)
    return uris


def _first(findings: Iterator[str]) -> Iterator[str]:
    """Yield the first findings, and the number of further ones."""
    yield from itertools.islice(findings, _MOST_LISTED)
    if more := sum(1 for _ in findings):
        yield f"… and {more:,} more of this kind"
