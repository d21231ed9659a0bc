"""Failures: the images of an output folder that have no labels yet.

Images whose addresses have lost their secrets are left out, because they can't be fetched, and images inside
files, because the file is read in one pass.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from labelbeam.transforms.elements import ImageRef, is_member
from labelbeam.transforms.files import open_parquet
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.inputs.formats import CorpusFormat
from labelbeam.transforms.notes import Notes
from labelbeam.transforms.sources.secrets import HIDDEN, lacks_secrets
from labelbeam.transforms.table.column_types import to_values
from labelbeam.transforms.table.folder import published_files, read_manifest
from labelbeam.transforms.table.rows import FAILURES


class LeftOut(enum.Enum):
    """The reason why a failure is left out: the secrets of its address are gone, or it is inside a file."""

    SECRETS = enum.auto()
    INSIDE = enum.auto()


class _Failures:
    def split(self, corpus: Corpus) -> Iterator[str]:
        """Yield the paths of the published files of failures."""
        stored_files = published_files(corpus.pattern, read_manifest(corpus.pattern))
        yield from (file.path for file, _ in stored_files if file.table == FAILURES)

    def read(self, piece: str, corpus: Corpus, notes: Notes) -> Iterator[ImageRef]:
        """Read the images of a file that failed for one of the corpus's reasons."""
        columns = [("id", pa.string()), ("uri", pa.string()), *corpus.columns]
        names = [name for name, _ in columns]
        reasons = pa.array(corpus.reasons, pa.string())
        with open_parquet(piece) as parquet:
            for batch in parquet.iter_batches(columns=[*names, "reason"]):
                failed = batch.filter(pc.is_in(batch["reason"], reasons))
                values_of = [to_values(failed[name].cast(kind)) for name, kind in columns]
                for image_id, uri, *values in zip(*values_of, strict=True):
                    if not _why_left_out(image_id, uri, corpus):
                        yield ImageRef(image_id, uri, tuple(values))


def find_left_out(corpus: Corpus) -> Iterator[tuple[str, LeftOut]]:
    """Find the URIs of failures that are left out, and why."""
    reasons = pa.array(corpus.reasons, pa.string())
    for path in _Failures().split(corpus):
        with open_parquet(path) as parquet:
            for batch in parquet.iter_batches(columns=["id", "uri", "reason"]):
                failed = batch.filter(pc.is_in(batch["reason"], reasons))
                for image_id, uri in zip(failed["id"].to_pylist(), failed["uri"].to_pylist(), strict=True):
                    if why := _why_left_out(image_id, uri, corpus):
                        yield uri, why


def _why_left_out(image_id: str, uri: str, corpus: Corpus) -> LeftOut | None:
    if is_member(image_id, uri):
        return LeftOut.INSIDE
    return LeftOut.SECRETS if HIDDEN in uri and lacks_secrets(uri, corpus.secret_params) else None


FORMAT: Final[CorpusFormat] = _Failures()
