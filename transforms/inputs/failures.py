"""Failures: the images of an output folder that have no labels yet."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from labelbeam.transforms.elements import ImageRef
from labelbeam.transforms.files import open_file
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.table.folder import published_sources, read_manifest
from labelbeam.transforms.table.rows import FAILURES


def list_failure_files(output: str) -> Iterator[str]:
    """Yield the paths of the published files of failures."""
    sources = published_sources(output, read_manifest(output))
    yield from (file.path for file, _ in sources if file.table == FAILURES)


def read_failures(path: str, corpus: Corpus) -> Iterator[ImageRef]:
    """Read from a published file which images failed, for the corpus's reasons."""
    names = ["id", "uri", *(name for name, _ in corpus.columns)]
    reasons = pa.array(corpus.reasons, pa.string())
    with open_file(path) as f:
        for batch in pq.ParquetFile(f).iter_batches(columns=[*names, "reason"]):
            wanted = batch.filter(pc.is_in(batch["reason"], reasons))
            for image_id, uri, *values in zip(*(wanted[name].to_pylist() for name in names), strict=True):
                yield ImageRef(image_id, uri, tuple(values))
