"""The interface of input formats, and the table of them.

A new format is a module beside this one with an object `FORMAT`, and a row in `INPUT_FORMATS`.
"""

from __future__ import annotations

import importlib
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    import apache_beam as beam
    import pyarrow as pa

    from labelbeam.transforms.elements import Failure, ImageRef, InlineImage
    from labelbeam.transforms.inputs.corpus import Corpus
    from labelbeam.transforms.inputs.files import ListFile
    from labelbeam.transforms.notes import Notes

_PACKAGE = "labelbeam.transforms.inputs"
# Modules by the names that `--input_format` takes. They are imported when they are needed, because the
# command line reads this table before it loads Beam.
INPUT_FORMATS: Final = {
    "lines": f"{_PACKAGE}.lines",
    "csv": f"{_PACKAGE}.csv",
    "parquet": f"{_PACKAGE}.parquet",
    "jsonl": f"{_PACKAGE}.jsonl",
    "json": f"{_PACKAGE}.json",
    "images": f"{_PACKAGE}.images",
    "tar": f"{_PACKAGE}.tar",
    "zip": f"{_PACKAGE}.zip",
    "tfrecord": f"{_PACKAGE}.tfrecord",
    "parquet_images": f"{_PACKAGE}.parquet_images",
}
# With the formats that no name of an input stands for.
_FORMATS: Final = ChainMap(
    INPUT_FORMATS, {name: f"{_PACKAGE}.{name}" for name in ("failures", "several", "bigquery")}
)


_TABLES: Final = ("bigquery",)


class Location(NamedTuple):
    """A place that an input names.

    Attributes:
      name: The input as the user wrote it, for messages.
      path: Absolute path or URI.
      pattern: Glob of the files.
      is_folder: Whether `path` is a folder.
    """

    name: str
    path: str
    pattern: str
    is_folder: bool


class ReadOptions(Protocol):
    """The user's options of an input, as `labelbeam.pipeline.config.ReadConfig` has them."""

    @property
    def input_format(self) -> str:
        """Name of a format, or `auto`."""

    @property
    def uri_column(self) -> str | None:
        """Column with the URI; None to find it by its name."""

    @property
    def delimiter(self) -> str | None:
        """Delimiter of the columns of a CSV; None to find it in the first line."""

    @property
    def uri_template(self) -> str | None:
        """Template of the URI, if columns make it."""

    @property
    def header(self) -> tuple[str, ...]:
        """Column names of files without a line of names; empty if files have one."""

    @property
    def id_column(self) -> str | None:
        """Column with the id, if there is one."""

    @property
    def secret_params(self) -> tuple[str, ...]:
        """Names of query parameters that are secret, beside those that always are."""

    @property
    def column_types(self) -> tuple[tuple[str, str], ...]:
        """Names of columns and of their types."""

    @property
    def image_feature(self) -> str | None:
        """Name of the feature or column with the bytes of images."""


class CorpusFormat(Protocol):
    """A format that `ReadImageRefs` reads."""

    def split(self, corpus: Corpus) -> Iterator[Any]:
        """Split a corpus into pieces that workers read independently.

        Raises:
          RunError: A file is not the one that was planned.
        """

    def read(self, piece: Any, corpus: Corpus, notes: Notes) -> Iterator[ImageRef | Failure]:
        """Read the rows of a piece.

        Args:
          piece: A value of `split`.
          corpus: The corpus, without its files.
          notes: Counts of files and values that are left out.

        Raises:
          RunError: A file is not the one that was planned, or is cut or damaged. Rows up to there have been
            yielded.
        """


class TableFormat(CorpusFormat, Protocol):
    """A format whose pieces a step of Beam's own reads in a run."""

    def source(self, corpus: Corpus) -> beam.PTransform:
        """Return the step that reads the pieces, which `split` yields in one process."""


class Shard(NamedTuple):
    """Images of a file that are read in one go.

    Attributes:
      file: The file.
      start: Beginning of a part, in a unit of the format, such as rows or bytes.
      end: End of the part; None for the whole file.
    """

    file: ListFile
    start: int = 0
    end: int | None = None


class FoundFormat(Protocol):
    """The common part of formats of `--input`."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Endings of the names of files in this format, lower case."""

    @property
    def name(self) -> str:
        """Name in the table of formats."""

    @property
    def has_columns(self) -> bool:
        """Whether rows have named columns."""

    def recognises(self, start: bytes) -> bool:
        """Return whether the content of a file is surely of this format.

        Args:
          start: First bytes of the file, up to `START_BYTES`, decompressed.
        """

    def find(
        self, location: Location, options: ReadOptions, known_types: Mapping[str, pa.DataType]
    ) -> Corpus:
        """Describe the corpus at a location.

        Args:
          location: The location.
          options: The user's options.
          known_types: Types of output columns, where the output has rows already.

        Raises:
          UserError: There is nothing there, or it can't be read in this format.
          RunError: A folder can't be listed, or a file is damaged.
        """


class ShardFormat(FoundFormat, Protocol):
    """A format of files with images inside, such as tar."""

    def split(self, corpus: Corpus) -> Iterator[Shard]:
        """Split files into parts that workers read independently, where the format allows."""

    def members(self, shard: Shard) -> Iterable[str]:
        """Return the names of which the images of a part have their ids; none if they are unknown.

        Finished ids are brought to the part that has the image. Those of unknown names are brought to all
        parts of the file.
        """

    def read(
        self, shard: Shard, corpus: Corpus, notes: Notes, max_bytes: int, is_done: Callable[[str], bool]
    ) -> Iterator[InlineImage | ImageRef | Failure]:
        """Read the images of a shard, in one pass over the file.

        Args:
          shard: A value of `split`.
          corpus: The corpus, without its files.
          notes: Counts of files and values that are left out.
          max_bytes: Largest image; a larger one is a failure `too_large`.
          is_done: Whether the image of an id needs no bytes.

        Yields:
          One value an image: the image, its reference alone if it needs no bytes, or a failure. Of a damaged
          file, one failure more, behind those that could be read.
        """


class InputFormat(CorpusFormat, FoundFormat, Protocol):
    """A format of `--input` whose rows are references."""


def format_of(corpus: Corpus) -> CorpusFormat:
    """Return the format of a corpus of references."""
    return importlib.import_module(_FORMATS[corpus.format]).FORMAT


def shard_format(corpus: Corpus) -> ShardFormat:
    """Return the format of a corpus of files with images inside."""
    return importlib.import_module(_FORMATS[corpus.format]).FORMAT


def table_format_of(corpus: Corpus) -> TableFormat | None:
    """Return the format of a corpus if a step of Beam's own reads it."""
    return importlib.import_module(_FORMATS[corpus.format]).FORMAT if corpus.format in _TABLES else None


def input_format(name: str) -> FoundFormat:
    """Return a format of `--input`."""
    return importlib.import_module(INPUT_FORMATS[name]).FORMAT
