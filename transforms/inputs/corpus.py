"""The description of a corpus, which planning makes and workers read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import pyarrow as pa

from labelbeam.transforms.inputs.files import ListFile
from labelbeam.transforms.inputs.known_columns import KnownColumns


class BoxColumns(NamedTuple):
    """Columns with boxes.

    Attributes:
      columns: Columns of left, top, right and bottom, or the one with a list of boxes; or paths to values
        within columns, such as `objects.bbox`.
      unit: Unit of the numbers; `fractions` are of the image's width and height.
    """

    columns: tuple[str, ...]
    unit: Literal["pixels", "fractions"]

    @property
    def in_list(self) -> str:
        """Column with lists of boxes, or path to it; "" if each row has one box."""
        return self.columns[0] if len(self.columns) == 1 else ""


@dataclass(frozen=True, slots=True)
class Corpus:
    """A list of images, and how to read it.

    Attributes:
      pattern: A file or a glob, as Beam's filesystems take it; of `failures`, an output folder.
      format: Name of the format, as `labelbeam.transforms.inputs.formats` has it: `lines` (one URI a line),
        `csv` (with a header), `parquet`, `jsonl`, `json`, `images` (the files themselves) or `failures`
        (images that failed).
      header: Column names of the files.
      uri_column: Column with the URI; "" if `uri_template` makes it.
      id_column: Column with the id; by default ids are made from URIs.
      columns: The columns that pass through, with their types.
      suffixes: Endings of file names to take, lower case; all if empty.
      reasons: Reasons whose failed images are tried again; of `failures`, those to take.
      files: The files of a list as they were when the run was planned.
      secret_params: Names of query parameters that are secret, beside those that always are.
      holds_images: Whether the files have images inside, so that the format is a `ShardFormat`.
      image_feature: Name of the feature or column with the bytes of an image, of formats that have names.
      most_files: Largest number of objects to list in a bucket; None for all. Of `images` alone.
      has_header_line: Whether each file begins with the names of `header`.
      uri_template: Template of the URI, as `labelbeam.transforms.inputs.templates` parses it.
      encoded_columns: Columns whose values are form-encoded; the template takes them decoded.
      known: Columns whose meaning their names show.
      delimiter: Delimiter of the columns of a CSV.
      file_types: Types of the columns in the files, of `parquet` alone.
      remarks: Sentences about the choices that were made for the user, for the run's output.
      parts: Of `several`, the corpora of the inputs.
      boxes: Columns with the boxes to label; None to label whole images.
    """

    pattern: str
    format: str
    header: tuple[str, ...] = ()
    uri_column: str = ""
    id_column: str | None = None
    columns: tuple[tuple[str, pa.DataType], ...] = ()
    suffixes: tuple[str, ...] = ()
    reasons: frozenset[str] = frozenset()
    # Part of the plan, because workers compare each file with it, and new files must not slip in.
    files: tuple[ListFile, ...] = ()
    secret_params: tuple[str, ...] = ()
    holds_images: bool = False
    image_feature: str = ""
    most_files: int | None = None
    has_header_line: bool = True
    uri_template: str = ""
    encoded_columns: tuple[str, ...] = ()
    known: KnownColumns = KnownColumns()  # noqa: RUF009  (frozen)
    delimiter: str = ","
    file_types: tuple[tuple[str, pa.DataType], ...] = ()
    remarks: tuple[str, ...] = ()
    parts: tuple[Corpus, ...] = ()
    boxes: BoxColumns | None = None

    @property
    def only_failed(self) -> bool:
        """Whether every image has failed before, so that many failures show no new fault."""
        return self.format == "failures"

    @property
    def row_columns(self) -> tuple[tuple[str, pa.DataType], ...]:
        """Columns of rows: without lists of boxes, because each row would have the boxes of all rows."""
        left_out = self.boxes.in_list if self.boxes else ""
        return tuple((name, kind) for name, kind in self.columns if name != left_out)

    @property
    def formats(self) -> str:
        """Names of the formats, for messages."""
        return " and ".join(dict.fromkeys(part.format for part in self.parts)) or self.format

    @property
    def has_files(self) -> bool:
        """Whether the corpus has lists."""
        return bool(self.files) or any(part.has_files for part in self.parts)

    def without_files(self) -> Corpus:
        """Return the corpus without its files, because a job's size is limited and pieces name them."""
        return replace(self, files=(), parts=tuple(part.without_files() for part in self.parts))

    def with_most_files(self, most: int) -> Corpus:
        """Return the corpus with a largest number of objects to list."""
        return replace(self, most_files=most, parts=tuple(part.with_most_files(most) for part in self.parts))
