"""Failures: the images of an output folder that have no labels yet."""

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
                    yield ImageRef(image_id, uri, tuple(values))


FORMAT: Final[CorpusFormat] = _Failures()
