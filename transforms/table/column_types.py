"""Types of the user's columns: the types that tables have, their texts in manifests, and values of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

import pyarrow as pa
import pyarrow.types as kinds

# Types that differ from another one by their layout in memory alone.
_LAYOUTS: Final = (
    (kinds.is_large_string, pa.string()),
    (kinds.is_string_view, pa.string()),
    (kinds.is_large_binary, pa.binary()),
    (kinds.is_binary_view, pa.binary()),
    # A column without values takes any text later.
    (kinds.is_null, pa.string()),
)
_IS_LIST = (
    *(kinds.is_list, kinds.is_large_list, kinds.is_fixed_size_list),
    *(kinds.is_list_view, kinds.is_large_list_view),
)


def table_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of a column in the tables: that of its values, in the usual layout.

    Lists have no fixed size, because Parquet files with nulls among lists of fixed size can't be read.

    Raises:
      ValueError: Values of the type can't be kept.
    """
    for is_kind, usual in _LAYOUTS:
        if is_kind(kind):
            return usual
    if isinstance(kind, pa.BaseExtensionType):
        return table_type(kind.storage_type)
    if kinds.is_dictionary(kind) or kinds.is_run_end_encoded(kind):
        return table_type(kind.value_type)
    if kinds.is_decimal(kind):
        make = pa.decimal128 if kind.precision <= 38 else pa.decimal256
        return make(kind.precision, kind.scale)
    if kinds.is_struct(kind) and len({field.name for field in kind}) < kind.num_fields:
        raise ValueError(f"the type {kind} has two fields of one name")
    if kinds.is_union(kind) or kinds.is_interval(kind):
        raise ValueError(f"values of the type {kind} can't be kept")
    return _map_children(kind, table_type)


def transfer_type(kind: pa.DataType) -> pa.DataType:
    """Return the type in which values of a table's type travel: as `kind`, with dates and times as numbers.

    Python's dates and times have neither nanoseconds nor years beyond 9999, and coders pickle them.
    """
    if kinds.is_temporal(kind):
        return pa.int32() if kind.bit_width == 32 else pa.int64()
    return _map_children(kind, transfer_type)


def _map_children(kind: pa.DataType, convert: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    if any(is_list(kind) for is_list in _IS_LIST):
        return pa.list_(convert(kind.value_type))
    if kinds.is_map(kind):
        return pa.map_(convert(kind.key_type), convert(kind.item_type))
    if kinds.is_struct(kind):
        return pa.struct([(field.name, convert(field.type)) for field in kind])
    return kind


def to_values(array: pa.Array, kind: pa.DataType) -> list[Any]:
    """Return the values of an array of a table's type, in the form in which they travel.

    Raises:
      ValueError: A value is not of the type, or is no text in UTF-8.
      pa.ArrowException: The array's type can't be converted.
    """
    # In two steps, because Arrow converts a text to a date, and a date to a number.
    for step in (kind, transfer_type(kind)):
        # Compared first, because a cast takes 2 us even where there is nothing to convert.
        if array.type != step:
            array = array.cast(step)
    return array.to_pylist()


def type_to_text(kind: pa.DataType) -> str:
    """Return a table's type as text: Arrow's name, or JSON for types with parameters."""
    described = _describe(kind)
    return described if isinstance(described, str) else json.dumps(described)


def type_from_text(text: str) -> pa.DataType:
    """Return the type of a text of `type_to_text`.

    Raises:
      ValueError: The text is no type.
    """
    try:
        return _parse(json.loads(text) if text.startswith("{") else text)
    except (KeyError, TypeError, AttributeError) as e:
        raise ValueError(f"{text!r} is no type of a column") from e


def _describe(kind: pa.DataType) -> Any:
    if kinds.is_timestamp(kind) and kind.tz is not None:
        return {"timestamp": [kind.unit, kind.tz]}
    if kinds.is_decimal(kind):
        return {f"decimal{kind.bit_width}": [kind.precision, kind.scale]}
    if kinds.is_fixed_size_binary(kind):
        return {"fixed_size_binary": kind.byte_width}
    if kinds.is_list(kind):
        return {"list": _describe(kind.value_type)}
    if kinds.is_map(kind):
        return {"map": [_describe(kind.key_type), _describe(kind.item_type)]}
    if kinds.is_struct(kind):
        return {"struct": [[field.name, _describe(field.type)] for field in kind]}
    return str(kind)


_MAKERS: Final[dict[str, Callable[[Any], pa.DataType]]] = {
    "timestamp": lambda given: pa.timestamp(*given),
    "decimal128": lambda given: pa.decimal128(*given),
    "decimal256": lambda given: pa.decimal256(*given),
    "fixed_size_binary": pa.binary,
    "list": lambda given: pa.list_(_parse(given)),
    "map": lambda given: pa.map_(*map(_parse, given)),
    "struct": lambda given: pa.struct([(name, _parse(kind)) for name, kind in given]),
}


def _parse(described: Any) -> pa.DataType:
    if isinstance(described, str):
        return pa.type_for_alias(described)
    ((name, given),) = described.items()
    return _MAKERS[name](given)
