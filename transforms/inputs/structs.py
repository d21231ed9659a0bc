"""Structs: paths to the values within columns, such as `data.image`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

Steps = tuple[str, ...]


def steps_of_paths(types: Mapping[str, pa.DataType]) -> dict[str, Steps]:
    """Return the columns and fields that lead to each text and whole number within structs, by its path."""
    return {".".join(steps): steps for steps, _ in _walk(types.items(), ())}


def types_of_paths(types: Mapping[str, pa.DataType]) -> dict[str, pa.DataType]:
    """Return the types of the texts and whole numbers within structs, by their paths."""
    return {".".join(steps): kind for steps, kind in _walk(types.items(), ())}


def _walk(fields: Iterable[tuple[str, pa.DataType]], above: Steps) -> Iterator[tuple[Steps, pa.DataType]]:
    for name, kind in fields:
        steps = (*above, name)
        if pa.types.is_struct(kind):
            yield from _walk(((field.name, field.type) for field in kind), steps)
        elif above and (pa.types.is_string(kind) or pa.types.is_integer(kind)):
            yield steps, kind


def values_at(batch: pa.RecordBatch, steps: Steps) -> pa.Array:
    """Return a column of a batch, or the values within a column."""
    column, *fields = steps
    return pc.struct_field(batch[column], fields) if fields else batch[column]


def without_field(kind: pa.DataType, fields: Sequence[str]) -> pa.DataType | None:
    """Return a struct's type without the field that some fields lead to.

    Returns:
      The type; `kind` if it has no such field, None if the struct has no other one.
    """
    if not fields:
        return None
    types = {field.name: field.type for field in kind} if pa.types.is_struct(kind) else {}
    if fields[0] not in types:
        return kind
    inner = without_field(types[fields[0]], fields[1:])
    if inner is None:
        del types[fields[0]]
    else:
        types[fields[0]] = inner
    return pa.struct(list(types.items())) if types else None


def drop_field(array: pa.Array, fields: Sequence[str]) -> pa.Array:
    """Return an array of structs without the field that some fields lead to, if the struct has others."""
    kind = without_field(array.type, fields)
    if kind is None or kind == array.type:
        return array
    values = {}
    for field in kind:
        inner = pc.struct_field(array, [array.type.get_field_index(field.name)])
        values[field.name] = drop_field(inner, fields[1:]) if field.name == fields[0] else inner
    return pa.StructArray.from_arrays(list(values.values()), fields=list(kind), mask=array.is_null())
