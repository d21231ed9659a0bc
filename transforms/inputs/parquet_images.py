"""Parquet files with the bytes of images: a column of bytes, or Hugging Face's structs of bytes and path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import accumulate, pairwise, starmap
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from labelbeam.transforms.errors import ImageError, Reason, RunError, UserError, describe_error
from labelbeam.transforms.inputs.columns import output_name
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.inputs.files import PART_BYTES, ListFile, split_large
from labelbeam.transforms.inputs.first_bytes import PARQUET
from labelbeam.transforms.inputs.formats import ReadOptions, Shard, ShardFormat
from labelbeam.transforms.inputs.lists import look_at_first
from labelbeam.transforms.inputs.parquet import IMAGE_NAMES, Types, holds_images, join_row_groups, types_of
from labelbeam.transforms.inputs.shards import (
    Reading,
    Row,
    ShardFiles,
    describe_choice,
    describe_rest,
    is_no,
)
from labelbeam.transforms.inputs.streams import RestError, errors_explained, open_seekable
from labelbeam.transforms.table.column_types import fit_values

# Usual names of the column with the bytes of images.
_USUAL_NAMES: Final = (*IMAGE_NAMES, "bytes", "content", "data")
# Bytes that are read of each column at once, because whole chunks of columns can be larger than the memory.
_BUFFER_BYTES = 4 << 20
# Bytes and rows of images in memory.
_BATCH_BYTES = 32 << 20
_MOST_ROWS = 512


def find_image_column(types: Types) -> str | None:
    """Return the column that holds images without doubt: the only one of its kind.

    Structs of bytes come first, then bytes under a usual name, then any bytes.
    """
    names = [name for name, kind in types.items() if holds_images(kind)]
    structs = [name for name in names if pa.types.is_struct(types[name])]
    usual = [name for name in names if name.lower() in _USUAL_NAMES]
    return next((some[0] for some in (structs, usual, names) if len(some) == 1), None)


class _ParquetImages(ShardFiles):
    name = "parquet_images"
    # None, because files of this ending can be lists, too.
    suffixes = ()

    def recognises(self, start: bytes) -> bool:
        """Return False, because the format of lists in Parquet decides by the columns."""
        return False

    def explain(self, start: bytes) -> str | None:
        if start.startswith(PARQUET):
            return None
        return is_no("Parquet file", start)

    def describe(
        self, corpus: Corpus, options: ReadOptions, known_types: Mapping[str, pa.DataType]
    ) -> Corpus:
        """Return the corpus with the columns of the files, which must be the same in all."""
        schemas = look_at_first(_schema_of, corpus.files)
        path, first = next(iter(schemas.items()))
        for other, schema in schemas.items():
            if not schema.equals(first):
                raise UserError(f"{other} has other columns than {path}: {_difference(schema, first)}.")
        types = types_of(first, path)
        name = _choose(types, options.image_feature, path)
        columns = (
            (column, known_types.get(output_name(column), kind)) for column, kind in _columns(types, name)
        )
        choice = () if options.image_feature else (describe_choice("column", name),)
        remarks = (*corpus.remarks, *choice)
        return replace(corpus, image_feature=name, columns=tuple(columns), remarks=remarks)

    def split(self, corpus: Corpus) -> Iterator[Shard]:
        """Split large files into parts of whole row groups; `start` and `end` are numbers of rows."""
        return split_large(corpus.files, PART_BYTES, Shard, _split)

    def members(self, shard: Shard) -> Iterator[str]:
        """Return the numbers of the rows of a part."""
        return map(str, range(shard.start, shard.start if shard.end is None else shard.end))

    def read_images(self, shard: Shard, reading: Reading) -> Iterator[Row]:
        with _open(shard.file) as (parquet, version):
            reading.version = version
            _check_columns(parquet.schema_arrow, shard.file, reading.corpus)
            with _errors_explained(shard.file.path):
                groups = _rows_of_groups(parquet.metadata)
            for group, rows in enumerate(groups):
                if shard.start <= rows.start and (shard.end is None or rows.stop <= shard.end):
                    yield from _read_group(parquet, group, rows, shard.file.path, reading)


def _rows_of_groups(metadata: pq.FileMetaData) -> list[range]:
    """Return the rows of each row group.

    Raises:
      RestError: The numbers contradict each other. Nothing else shows damage of them.
    """
    sizes = [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
    if min(sizes, default=0) < 0 or sum(sizes) != metadata.num_rows:
        raise RestError(
            f"the file is damaged: it has {metadata.num_rows:,} rows, its row groups {sum(sizes):,}"
        )
    ends = list(accumulate(sizes, initial=0))
    return list(starmap(range, pairwise(ends)))


def _read_group(
    parquet: pq.ParquetFile, group: int, rows: range, path: str, reading: Reading
) -> Iterator[Row]:
    """Read a row group; one failure stands for the rows from damage on."""
    if all(reading.is_done(reading.ref(str(row)).id) for row in rows):
        yield from (reading.ref(str(row)) for row in rows)
        return
    row = rows.start
    try:
        for batch in _batches(parquet, group, path, reading.corpus):
            if row + batch.num_rows > rows.stop:
                raise RestError("the file is damaged: a row group has more rows than the metadata")
            yield from _read_batch(batch, row, reading)
            row += batch.num_rows
        if row < rows.stop:
            raise RestError("the file is damaged: a row group has fewer rows than the metadata")
    except RestError as e:
        rest = f"{describe_rest(path, e)} {rows.stop - row:,} rows from {row:,} on are not read."
        yield reading.gap(f"row {row}", rest, e)


def _batches(parquet: pq.ParquetFile, group: int, path: str, corpus: Corpus) -> Iterator[pa.RecordBatch]:
    """Read a row group in batches of bounded memory."""
    names = [
        corpus.image_feature,
        *(name for name, _ in corpus.columns if name in parquet.schema_arrow.names),
    ]
    with _errors_explained(path):
        yield from parquet.iter_batches(
            batch_size=_rows_of_batches(parquet.metadata.row_group(group)),
            row_groups=[group],
            columns=names,
            use_threads=False,
        )


def _rows_of_batches(group: pq.RowGroupMetaData) -> int:
    # Of all columns, because Arrow ends the process where the metadata of a single column is damaged.
    row_bytes = group.total_byte_size // max(group.num_rows, 1)
    return max(1, min(_BATCH_BYTES // max(row_bytes, 1), _MOST_ROWS))


def _read_batch(batch: pa.RecordBatch, first: int, reading: Reading) -> Iterator[Row]:
    images = batch.column(reading.corpus.image_feature)
    columns = [_values(batch, name, kind, reading) for name, kind in reading.corpus.columns]
    for number, values in enumerate(zip(*columns, strict=True) if columns else [()] * batch.num_rows):
        ref = replace(reading.ref(str(first + number)), columns=values)
        if reading.is_done(ref.id):
            yield ref
            continue
        try:
            yield reading.image(ref, _image_of(images[number].as_py(), reading))
        except ImageError as e:
            yield reading.failure(ref, e)


def _image_of(value: Any, reading: Reading) -> bytes:
    data = value.get("bytes") if isinstance(value, dict) else value
    if data is None:
        path = value.get("path") if isinstance(value, dict) else None
        fault = f", only the path {path!r:.300}. List the paths in a file of their own" if path else ""
        raise ImageError(Reason.BAD_ROW, f"the row has no bytes in {reading.corpus.image_feature!r}{fault}")
    if len(data) > reading.max_bytes:
        raise reading.too_large(len(data))
    return data


def _values(batch: pa.RecordBatch, name: str, kind: pa.DataType, reading: Reading) -> list[Any]:
    """Return a column's values, of the type that the corpus has."""
    if name in batch.schema.names:
        array = batch.column(name)
    else:
        array = pc.struct_field(batch.column(reading.corpus.image_feature), "path")
    return fit_values(array, name, kind, reading.notes)


def _columns(types: Types, image: str) -> Iterator[tuple[str, pa.DataType]]:
    """Yield the columns that pass through: all but those with bytes, and the path beside the bytes."""
    for name, kind in types.items():
        if not holds_images(kind):
            yield name, kind
    kind, path = types[image], f"{image}_path"
    has_path = pa.types.is_struct(kind) and kind.get_field_index("path") >= 0
    if has_path and path not in types:
        yield path, pa.string()


def _choose(types: Types, wanted: str | None, path: str) -> str:
    names = [name for name, kind in types.items() if holds_images(kind)]
    name = wanted or find_image_column(types)
    if name is not None and name in names:
        return name
    fault = (
        f"image_feature={wanted!r} is no column of bytes in {path}"
        if wanted
        else f"{path} has {len(names)} columns that can hold images"
    )
    remedy = (
        f"Give one with --image_feature: {', '.join(names)}"
        if names
        else "It has no column of bytes. Remove --input_format to read it as a list"
    )
    raise UserError(f"{fault}. {remedy}.")


def _difference(schema: pa.Schema, first: pa.Schema) -> str:
    fields = [f"{field.name} ({field.type})" for field in schema if field not in list(first)]
    missing = [field.name for field in first if field.name not in schema.names]
    return f"{', '.join([*fields, *(f'no {name}' for name in missing)]) or 'their order'}"


def _check_columns(schema: pa.Schema, file: ListFile, corpus: Corpus) -> None:
    image, path = corpus.image_feature, f"{corpus.image_feature}_path"
    missing = [name for name in (image, *dict(corpus.columns)) if name not in schema.names and name != path]
    if missing or not holds_images(schema.field(image).type):
        raise RunError(
            f"{file.path} has no column {', '.join(missing or [image])}, and the first file has. Give all "
            "files the same columns."
        )


@contextmanager
def _open(file: ListFile) -> Iterator[tuple[pq.ParquetFile, str | None]]:
    with open_seekable(file) as (f, version_of):
        with _errors_explained(file.path):
            # In small reads, because a row group can be larger than the memory.
            parquet = pq.ParquetFile(
                f, buffer_size=_BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True
            )
        yield parquet, version_of()


@contextmanager
def _errors_explained(path: str) -> Iterator[None]:
    with errors_explained(path):
        try:
            yield
        # ValueError is for names that are no text.
        except (pa.ArrowException, OSError, ValueError) as e:
            # Arrow raises OSError for damaged bytes, too, but without a number. A disk's errors have one.
            if isinstance(e, ConnectionError) or getattr(e, "errno", None) is not None:
                raise
            raise RestError(f"the file is damaged: {describe_error(e)}") from e


def _schema_of(file: ListFile) -> pa.Schema:
    try:
        with _open(file) as (parquet, _):
            return parquet.schema_arrow.remove_metadata()
    except RestError as e:
        raise UserError(describe_rest(file.path, e)) from e


def _split(file: ListFile) -> list[Shard]:
    """Split a file into parts of whole row groups; one part if it is damaged or has none."""
    try:
        with _open(file) as (parquet, _):
            groups = _rows_of_groups(parquet.metadata)
            parts = join_row_groups(parquet.metadata, PART_BYTES)
    except RestError:
        parts = []  # reported when the file is read
    return [Shard(file, groups[start].start, groups[end - 1].stop) for start, end in parts] or [Shard(file)]


FORMAT: Final[ShardFormat] = _ParquetImages()
