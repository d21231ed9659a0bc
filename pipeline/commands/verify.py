"""Verification: published tables are read and compared with their manifest."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from labelbeam.pipeline.commands.coverage import find_uncovered
from labelbeam.pipeline.corpus import find_corpus
from labelbeam.pipeline.manifest import published_manifest, recorded_config
from labelbeam.pipeline.output import folder_of
from labelbeam.transforms.count import DUPLICATE, FAILED, KEPT, LABELLED, LISTED, OTHER
from labelbeam.transforms.errors import RunError
from labelbeam.transforms.files import file_errors_as, join_path, list_files, open_parquet
from labelbeam.transforms.publish import top_labels
from labelbeam.transforms.table.folder import Source, published_sources
from labelbeam.transforms.table.integrity import damage_of
from labelbeam.transforms.table.manifest import TABLES, Manifest
from labelbeam.transforms.table.merge import Merged, count_rows, find_superseded, parts_of
from labelbeam.transforms.table.rows import RowMetadata, schema_of

# Findings of one kind that are listed one by one.
_MOST_LISTED = 10
_FINGERPRINTS = ("model_fingerprint", "preprocessing_fingerprint")


def verify(output: str, input: str | None = None) -> list[str]:
    """Check published tables.

    Args:
      output: An output folder.
      input: What they should have a row for; by default only the tables are looked at.

    Returns:
      One line for each thing that is wrong.

    Raises:
      UserError: Nothing is published there, the manifest is damaged, or the input can't be read.
    """
    folder = folder_of(output)
    manifest = published_manifest(folder)
    corpus = find_corpus(recorded_config(manifest, {"input": input}).read) if input else None
    sources = published_sources(folder, manifest)
    files = list(itertools.chain.from_iterable(_check_file(s, folder, manifest) for s in sources))
    strays = list(_check_strays(folder, manifest))
    if files:  # what can't be read can't be counted
        return files + strays
    rows = [*_check_counts(sources, manifest), *_check_unique(sources)]
    return strays + rows + (list(_first(find_uncovered(sources, corpus))) if corpus else [])


def _check_file(source: Source, folder: str, manifest: Manifest) -> Iterator[str]:
    name = source.file.path.removeprefix(folder).strip("/")
    try:
        with file_errors_as(RunError, f"{name}: cannot be read", "Check its rights"):
            if damage := damage_of(source):
                yield f"{name}: {damage}"
                return
            with open_parquet(source.file.path) as parquet:
                yield from _check_content(parquet, source, name, manifest)
    except RunError as e:
        yield str(e)


def _facts_of(manifest: Manifest) -> RowMetadata:
    labelled_with = manifest.labelled_with
    prints = (labelled_with.model, labelled_with.preprocessing)
    return RowMetadata(manifest.run_id, *prints, labelled_with.column_types, labelled_with.outputs_column)


def _check_content(parquet: pq.ParquetFile, source: Source, name: str, manifest: Manifest) -> Iterator[str]:
    if parquet.metadata.num_rows != source.file.rows:
        yield f"{name}: {parquet.metadata.num_rows:,} rows, {source.file.rows:,} are listed"
    expected = schema_of(source.file.table, _facts_of(manifest))
    if not parquet.schema_arrow.equals(expected):
        yield f"{name}: its schema is not that of {source.file.table}"
        return
    wanted = {fact: getattr(manifest.labelled_with, fact.partition("_")[0]) for fact in _FINGERPRINTS}
    metadata = parquet.schema_arrow.metadata or {}
    for fact, value in wanted.items():
        if (stamped := metadata.get(f"labelbeam.{fact}".encode(), b"").decode()) != value:
            yield f"{name}: its {fact} is {stamped!r}, the manifest's {value!r}"
    for batch in parquet.iter_batches(columns=list(wanted)):
        for fact, value in wanted.items():
            if strangers := set(batch[fact].unique().to_pylist()) - {value}:
                yield f"{name}: rows with {fact} {sorted(strangers)[0]!r}, the manifest's is {value!r}"


def _check_strays(folder: str, manifest: Manifest) -> Iterator[str]:
    listed = {file.path for file in manifest.files}
    for table in TABLES:
        for file in list_files(join_path(folder, table)):
            name = file.path.removeprefix(folder).strip("/")
            if name not in listed:
                yield f"{name}: is there and not listed. Delete it, because readers read it too"


def _check_counts(sources: list[Source], manifest: Manifest) -> Iterator[str]:
    counted = Merged()
    for source in sources:
        counted.add(count_rows(source, _facts_of(manifest)))
    if counted.reasons != manifest.failures_by_reason:
        yield f"failures: by reason {dict(counted.reasons)}, the manifest has {manifest.failures_by_reason}"
    if top_labels(counted.labels) != manifest.top_labels:
        yield "predictions: the labels that most rows have are not the manifest's top_labels"
    counts, rows = manifest.counts, sum(manifest.rows.values())
    done = counts[KEPT] + counts[LABELLED] + counts[FAILED]
    if (counts[LISTED], rows) != (counts[DUPLICATE] + done, done + counts[OTHER]):
        yield f"the run {manifest.run_id} did not balance: {manifest.counts}"


def _check_unique(sources: list[Source]) -> Iterator[str]:
    parts = parts_of(sources)
    doubled: Counter[str] = Counter()
    for part in range(parts):
        for path, rows in find_superseded(sources, part, parts).items():
            doubled.update(_ids(path).take(pa.array(rows)).to_pylist())
    yield from _first(f"id {image_id!r}: {n + 1} rows" for image_id, n in sorted(doubled.items()))


def _ids(path: str) -> pa.Array:
    with open_parquet(path) as parquet:
        return parquet.read(["id"])["id"].combine_chunks()


def _first(findings: Iterator[str]) -> Iterator[str]:
    """Yield the first findings, and the number of further ones."""
    yield from itertools.islice(findings, _MOST_LISTED)
    if more := sum(1 for _ in findings):
        yield f"… and {more:,} more of this kind"
