"""The description of a corpus, which planning makes and workers read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from labelbeam.transforms.inputs.files import ListFile

CorpusKind = Literal["lines", "csv", "images", "failures"]


@dataclass(frozen=True, slots=True)
class Corpus:
    """Where the images of a run are listed.

    Attributes:
      pattern: A file or a glob, as Beam's filesystems take it; of `failures`, an output folder.
      kind: `lines` (one URI a line), `csv` (with a header), `images` (the files themselves)
        or `failures` (images that failed).
      header: The CSV's column names.
      uri_column: Which of them holds the URI.
      id_column: Which of them holds the id; by default ids are made from URIs.
      columns: The columns that pass through, with their types.
      suffixes: Endings of file names to take, lower case; all if empty.
      reasons: Reasons whose failed images are tried again; of `failures`, those to take.
      files: Of `lines` and `csv`, the files as they were when the run was planned.
    """

    pattern: str
    kind: CorpusKind
    header: tuple[str, ...] = ()
    uri_column: str = ""
    id_column: str | None = None
    columns: tuple[tuple[str, pa.DataType], ...] = ()
    suffixes: tuple[str, ...] = ()
    reasons: frozenset[str] = frozenset()
    files: tuple[ListFile, ...] = ()
