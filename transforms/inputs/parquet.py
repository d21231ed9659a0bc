"""Parquet lists: one image a row, with columns of any type."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from labelbeam.transforms.elements import Failure, ImageRef
from labelbeam.transforms.errors import RunError, UserError
from labelbeam.transforms.files import file_errors_as, open_file, open_parquet
from labelbeam.transforms.inputs.columns import (
    add_columns,
    check_names,
    make_ref,
    readable_id,
)
from labelbeam.transforms.inputs.compression import MAGIC_BYTES, compression_of
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.inputs.files import (
    MAX_LINE_BYTES,
    PIECE_BYTES,
    ListFile,
    check_planned,
    split_large,
)
from labelbeam.transforms.inputs.first_bytes import PARQUET, find_uri_columns, is_parquet
from labelbeam.transforms.inputs.formats import InputFormat, Location, ReadOptions, input_format
from labelbeam.transforms.inputs.inventories import is_left_out
from labelbeam.transforms.inputs.known_columns import find_known_columns
from labelbeam.transforms.inputs.lists import bad_row, find_files, look_at_first, row_failure
from labelbeam.transforms.inputs.structs import (
    Steps,
    drop_field,
    steps_of_paths,
    types_of_paths,
    values_at,
    without_field,
)
from labelbeam.transforms.inputs.templates import RowFault, parse_template
from labelbeam.transforms.notes import Notes
from labelbeam.transforms.table.column_types import fit_values, table_type

# Names of columns of bytes that hold images without doubt.
IMAGE_NAMES: Final = (
    *("image", "image_bytes", "image_data", "image_encoded", "encoded_image", "image_raw", "img", "picture"),
    *("photo", "jpg", "jpeg", "png"),
)
_REMEDY = "Put a whole copy in its place."
# Rows that are decoded at once, and their size.
_BATCH_ROWS = 4096
_BATCH_BYTES = 8 << 20
# Bytes of each column that are read at once, because columns of a row group may have gigabytes.
_BUFFER_BYTES = 1 << 18
# Characters that a message may show of a row that is too large.
_HEAD_CHARS = 1000

Types = dict[str, pa.DataType]


class RowGroups(NamedTuple):
    """Row groups of a file, from number `start` up to `end`, None for all."""

    file: ListFile
    start: int = 0
    end: int | None = None


class _Parquet:
    name = "parquet"
    suffixes = (".parquet", ".parq", ".pq")
    has_columns = True

    def recognises(self, start: bytes) -> bool:
        return is_parquet(start)

    def find(
        self, location: Location, options: ReadOptions, known_types: Mapping[str, pa.DataType]
    ) -> Corpus:
        """Describe the lists of a location, after a look at their schemas."""
        files, remarks = find_files(location)
        schemas = look_at_first(lambda file: _types_of_file(file.path), files)
        path, types = next(iter(schemas.items()))
        for other, its_types in schemas.items():
            if difference := _difference(types, its_types):
                raise UserError(f"{other} {difference} in {path}: the lists must have the same columns.")
        if options.image_feature or _has_images_alone(types, options):
            return input_format("parquet_images").find(location, options, known_types)
        corpus = Corpus(location.pattern, self.name, files=files, header=tuple(types), remarks=remarks)
        return _with_columns(corpus, types, path, options, known_types)

    def split(self, corpus: Corpus) -> Iterator[RowGroups]:
        """Split large files into their row groups."""
        return split_large(corpus.files, PIECE_BYTES, RowGroups, _row_groups_of)

    def read(self, piece: RowGroups, corpus: Corpus, notes: Notes) -> Iterator[ImageRef | Failure]:
        """Read the rows of a piece."""
        file = piece.file
        check_planned(file)
        with open_parquet(file.path, _REMEDY, _BUFFER_BYTES) as parquet:
            _check_types(_types_of(parquet.schema_arrow), corpus, file.path)
            end = parquet.num_row_groups if piece.end is None else piece.end
            for group in range(piece.start, end):
                rows = _rows_at_once(parquet.metadata.row_group(group))
                # Without threads, because workers run a piece per core.
                for batch in parquet.iter_batches(
                    rows, [group], columns=_columns_to_read(corpus), use_threads=False
                ):
                    yield from _read_batch(_in_usual_layout(batch), corpus, notes)
        # A second time, because the file may have changed while it was read.
        check_planned(file)


def _with_columns(
    corpus: Corpus, types: Types, path: str, options: ReadOptions, known_types: Mapping[str, pa.DataType]
) -> Corpus:
    # Not all columns of bytes, because bytes under other names are rather hashes or embeddings.
    left_out = [
        name
        for name, kind in types.items()
        if holds_images(kind) and (pa.types.is_struct(kind) or name.lower() in IMAGE_NAMES)
    ]
    names = [name for name in types if name not in left_out]
    corpus = dataclasses.replace(
        corpus,
        file_types=tuple(types.items()),
        remarks=(
            *corpus.remarks,
            *(
                f"The column {name!r} has images inside the file, and is left out of the tables; "
                f"--image_feature={name} labels them in place of the URIs."
                for name in left_out
            ),
        ),
    )
    corpus = add_columns(corpus, names, path, options, known_types, types, types_of_paths(types))
    return dataclasses.replace(corpus, columns=tuple(_without_paths(corpus)))


def _without_paths(corpus: Corpus) -> Iterator[tuple[str, pa.DataType]]:
    """Yield the columns without the URI and the id in structs, because the URI may have secrets."""
    paths = _paths_of_refs(corpus).values()
    for name, kind in corpus.columns:
        rest: pa.DataType | None = kind
        for column, *fields in paths:
            if rest is not None and column == name:
                rest = without_field(rest, fields)
        if rest is not None:
            yield name, rest


def _has_images_alone(types: Types, options: ReadOptions) -> bool:
    """Return whether a file has images, and no URIs."""
    texts = [name for name, kind in types.items() if pa.types.is_string(kind)]
    has_uris = options.uri_column or options.uri_template or find_uri_columns(texts)
    if has_uris or find_known_columns(list(types)).inventory:
        return False
    return any(map(holds_images, types.values()))


def holds_images(kind: pa.DataType) -> bool:
    """Return whether a column may hold encoded images: bytes, or a struct with bytes in its field `bytes`."""
    try:
        kind = table_type(kind)
    except ValueError:  # values that tables can't have
        return False
    if pa.types.is_struct(kind):
        place = kind.get_field_index("bytes")
        return place >= 0 and pa.types.is_binary(kind.field(place).type)
    return pa.types.is_binary(kind)


def _types_of_file(path: str) -> Types:
    """Return the columns of a file.

    Raises:
      UserError: It is no Parquet file, or has types that tables can't have.
      RunError: It is damaged.
    """
    with file_errors_as(RunError, f"{path} cannot be read", "Check it."), open_file(path) as f:
        start = f.read(MAGIC_BYTES)
    if compression := compression_of(start, path):
        raise UserError(
            f"{path} is compressed with {compression.name}, which is not needed for Parquet. Decompress it."
        )
    if not start.startswith(PARQUET):
        fault = f"begins with {start!r}, so it is no Parquet file" if start else "is empty"
        raise UserError(f"{path} {fault}. Put a whole copy in its place, or set --input_format.")
    with open_parquet(path, _REMEDY) as parquet:
        return types_of(parquet.schema_arrow, path)


def types_of(schema: pa.Schema, path: str) -> Types:
    """Return the types that a file's columns have in the tables.

    Raises:
      UserError: Names are empty or equal, or a type can't be kept.
    """
    check_names(schema.names, path)
    try:
        return _types_of(schema)
    except ValueError as e:
        raise UserError(f"{path} can't be read: {e}. Remove the column.") from e


def _types_of(schema: pa.Schema) -> Types:
    return {field.name: table_type(field.type) for field in schema}


def _difference(types: Types, others: Types) -> str | None:
    """Describe the first difference of the columns of two files; their order may differ."""
    for name in (*types, *others):
        here, there = (one.get(name) for one in (others, types))
        if here != there:
            return f"has {_described(name, here)}, and there is {_described(name, there)}"
    return None


def _described(name: str, kind: pa.DataType | None) -> str:
    return f"no column {name!r}" if kind is None else f"{name!r} of the type {kind}"


def _check_types(types: Types, corpus: Corpus, path: str) -> None:
    """Check a file that was not looked at when the run was planned."""
    if difference := _difference(dict(corpus.file_types), types):
        raise RunError(f"{path} {difference} in the first list. Give all lists the same columns.")


def _row_groups_of(file: ListFile) -> list[RowGroups]:
    """Return the row groups of a file, in pieces of about `PIECE_BYTES`."""
    check_planned(file)
    with open_parquet(file.path, _REMEDY) as parquet:
        return [RowGroups(file, *part) for part in join_row_groups(parquet.metadata, PIECE_BYTES)]


def join_row_groups(metadata: pq.FileMetaData, part_bytes: int) -> list[tuple[int, int]]:
    """Join row groups to parts of some bytes, decompressed; return their first and last numbers, plus one."""
    parts, start, size_bytes = [], 0, 0
    for group in range(metadata.num_row_groups):
        # Of all columns, because Arrow ends the process where the metadata of a single column is damaged.
        size_bytes += metadata.row_group(group).total_byte_size
        if size_bytes >= part_bytes:
            parts.append((start, group + 1))
            start, size_bytes = group + 1, 0
    if start < metadata.num_row_groups:
        parts.append((start, metadata.num_row_groups))
    return parts


def _rows_at_once(group: pq.RowGroupMetaData) -> int:
    row_bytes = group.total_byte_size // max(group.num_rows, 1) + 1
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES // row_bytes))


def _paths_of_refs(corpus: Corpus) -> dict[str, Steps]:
    """Return the paths of URI and id, where these are within columns, and the steps to their values."""
    # A column comes first, because its name can be a path, too.
    paths = [path for path in (corpus.uri_column, corpus.id_column) if path and path not in corpus.header]
    steps = steps_of_paths(dict(corpus.file_types)) if paths else {}
    return {path: steps[path] for path in paths}


def _columns_of_refs(corpus: Corpus) -> list[str]:
    """Return the columns of which URI, id and version are made."""
    needed = {corpus.uri_column, corpus.id_column, *dataclasses.astuple(corpus.known)}
    if corpus.uri_template:
        needed |= set(parse_template(corpus.uri_template).columns)
    return [name for name in corpus.header if name in needed]


def _columns_to_read(corpus: Corpus) -> list[str]:
    """Return the columns, and paths, of which rows are made, because others need not be decoded."""
    own = (name for name, _ in corpus.columns)
    return list(dict.fromkeys([*_columns_of_refs(corpus), *_paths_of_refs(corpus), *own]))


def _in_usual_layout(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return a batch in the types of tables, because a slice of a dictionary has the bytes of all values."""
    arrays = [array.cast(table_type(array.type)) for array in batch]
    return pa.record_batch(arrays, batch.schema.names)


def _read_batch(batch: pa.RecordBatch, corpus: Corpus, notes: Notes) -> Iterator[ImageRef | Failure]:
    """Read the rows of a batch in the types of tables; rows that are too large fail."""
    if batch.nbytes > MAX_LINE_BYTES:
        if batch.num_rows == 1:
            fault = f"has {batch.nbytes:,} bytes; the most are {MAX_LINE_BYTES:,}"
            yield _failure(batch, corpus, fault)
            return
        # In halves, because a size is known of a batch alone.
        half = batch.num_rows // 2
        yield from _read_batch(batch.slice(0, half), corpus, notes)
        yield from _read_batch(batch.slice(half), corpus, notes)
        return
    rest = _without_refs(batch, corpus)
    columns = [fit_values(rest[name], name, kind, notes) for name, kind in corpus.columns]
    values = zip(*columns, strict=True) if columns else [()] * batch.num_rows
    rows = _rows_of_refs(batch, corpus)
    for n, (row, own) in enumerate(zip(rows, values, strict=True)):
        if is_left_out(row, corpus.known, notes):
            continue
        try:
            yield make_ref(row, own, corpus)
        except RowFault as e:
            yield _failure(batch.slice(n, 1), corpus, str(e))


def _without_refs(batch: pa.RecordBatch, corpus: Corpus) -> dict[str, pa.Array]:
    """Return the columns of a batch without the URI and the id in structs."""
    arrays = dict(zip(batch.schema.names, batch, strict=True))
    for column, *fields in _paths_of_refs(corpus).values():
        if column in dict(corpus.columns):
            arrays[column] = drop_field(arrays[column], fields)
    return arrays


def _rows_of_refs(batch: pa.RecordBatch, corpus: Corpus) -> list[dict[str, Any]]:
    """Return the values of which URI, id and version are made, by column or path."""
    steps = {name: (name,) for name in _columns_of_refs(corpus)} | _paths_of_refs(corpus)
    return _rows_of({name: values_at(batch, its) for name, its in steps.items()})


def _rows_of(arrays: Mapping[str, pa.Array]) -> list[dict[str, Any]]:
    unnoted = Notes()
    columns = [fit_values(array, name, table_type(array.type), unnoted) for name, array in arrays.items()]
    return [dict(zip(arrays, row, strict=True)) for row in zip(*columns, strict=True)]


def _failure(batch: pa.RecordBatch, corpus: Corpus, fault: str) -> Failure:
    """Return the failure of the only row of a batch."""
    (row,) = _rows_of(dict(zip(batch.schema.names, batch, strict=True)))
    (ref,) = _rows_of_refs(batch, corpus)
    # As JSON, because a row has no line. Bytes and decimals as Python writes them.
    text = json.dumps(row, ensure_ascii=False, default=str)
    identity = ""
    if len(text) > MAX_LINE_BYTES:
        identity = f"line {hashlib.sha256(text.encode('utf-8')).hexdigest()}"
        text = text[:_HEAD_CHARS]
    return row_failure(text.encode("utf-8"), corpus, bad_row(text, fault), readable_id(ref, corpus), identity)


FORMAT: Final[InputFormat] = _Parquet()
