"""Failures: the images of an output folder that have no labels yet.

Images whose addresses have lost their secrets are left out, because they can't be fetched.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from labelbeam.transforms.elements import ImageRef
from labelbeam.transforms.files import open_parquet
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.inputs.formats import CorpusFormat
from labelbeam.transforms.notes import Notes
from labelbeam.transforms.sources.secrets import HIDDEN, lacks_secrets
from labelbeam.transforms.table.folder import published_files, read_manifest
from labelbeam.transforms.table.rows import FAILURES


class _Failures:
    def split(self, corpus: Corpus) -> Iterator[str]:
        """Yield the paths of the published files of failures."""
        stored_files = published_files(corpus.pattern, read_manifest(corpus.pattern))
        yield from (file.path for file, _ in stored_files if file.table == FAILURES)

    def read(self, piece: str, corpus: Corpus, notes: Notes) -> Iterator[ImageRef]:
        """Read the images of a file that failed for one of the corpus's reasons."""
        names = ["id", "uri", *(name for name, _ in corpus.columns)]
        reasons = pa.array(corpus.reasons, pa.string())
        with open_parquet(piece) as parquet:
            for batch in parquet.iter_batches(columns=[*names, "reason"]):
                taken = batch.filter(pc.is_in(batch["reason"], reasons))
                for image_id, uri, *values in zip(*(taken[name].to_pylist() for name in names), strict=True):
                    if not lacks_secrets(uri, corpus.secret_params):
                        yield ImageRef(image_id, uri, tuple(values))


def find_without_secrets(corpus: Corpus) -> Iterator[str]:
    """Find the URIs of failures that are left out, because their secrets are gone."""
    reasons = pa.array(corpus.reasons, pa.string())
    for path in _Failures().split(corpus):
        with open_parquet(path) as parquet:
            for batch in parquet.iter_batches(columns=["uri", "reason"]):
                # By Arrow first, because a table may have millions of failures.
                taken = pc.and_(pc.is_in(batch["reason"], reasons), pc.match_substring(batch["uri"], HIDDEN))
                for uri in batch["uri"].filter(taken).to_pylist():
                    if lacks_secrets(uri, corpus.secret_params):
                        yield uri


FORMAT: Final[CorpusFormat] = _Failures()
