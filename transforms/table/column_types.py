"""Types of the user's columns: their texts in manifests, and values that fit them without loss."""

from __future__ import annotations

import decimal
import json
import math
from collections.abc import Callable
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as kinds

from labelbeam.transforms.notes import UNPARSED, Notes

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

# Numbers that a column of whole numbers holds.
WHOLE_NUMBERS: Final = range(-(2**63), 2**63)
# Checks of the type that holds all values of one of Python's types, except for larger numbers.
_IS_EXACTLY: Final[dict[type, Callable[[pa.DataType], bool]]] = {
    str: kinds.is_string,
    int: kinds.is_int64,
    float: kinds.is_float64,
    bool: kinds.is_boolean,
}
# A year that Arrow parses, and of which most readers of the table make no date.
_YEAR_0: Final = "0000"
# Errors of values that don't fit a type.
_MISFITS: Final = (pa.ArrowException, ValueError, TypeError, OverflowError)


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


def to_values(array: pa.Array) -> list[Any]:
    """Return the values of an array of a table's type, in the form in which they travel.

    Raises:
      ValueError: A text is not in UTF-8.
    """
    kind = transfer_type(array.type)
    # Compared first, because a cast takes 2 us even where there is nothing to convert.
    return (array if array.type == kind else array.cast(kind)).to_pylist()


def fit_value(value: Any, column: str, kind: pa.DataType, notes: Notes, text: str | None = None) -> Any:
    """Return a value as one of its column's type; None, and a note, if the value does not fit.

    Args:
      value: The value, of any type that Python or Arrow has for it.
      column: The name of the column.
      kind: The type of the column in the tables.
      notes: The notes.
      text: The value as text, for the note.
    """
    # Nearly all values are as they must be, and a conversion by Arrow takes 15 us.
    if _IS_EXACTLY.get(type(value), _never)(kind) and (type(value) is not int or value in WHOLE_NUMBERS):
        return value
    if isinstance(value, str) and not (kinds.is_nested(kind) or kinds.is_time(kind)):
        # By a scalar, because an array takes three times as long.
        return _parse_text(value, column, kind, notes)
    return to_values(fit_one(value, column, kind, notes, text))[0]


def fit_text(text: str, column: str, kind: pa.DataType, notes: Notes) -> Any:
    """Return a text as a value of its column's type; None without a note for blank text.

    Formats of text alone have no other form of null.
    """
    if kinds.is_string(kind):
        return text
    return fit_value(text, column, kind, notes) if text.strip() else None


def fit_one(value: Any, column: str, kind: pa.DataType, notes: Notes, text: str | None = None) -> pa.Array:
    """Return a value as an array of its column's type; of null, and a note, if the value does not fit."""
    try:
        return _convert(_infer(value), kind)
    except _MISFITS:
        notes.add(UNPARSED, column, str(value) if text is None else text)
        return pa.nulls(1, kind)


def fit_values(array: pa.Array, column: str, kind: pa.DataType, notes: Notes) -> list[Any]:
    """Return the values of an array as those of a column; None, and a note, for those that do not fit."""
    try:
        return to_values(_convert(array, kind))
    except _MISFITS:
        if len(array) != 1:
            return [fit_values(array[n : n + 1], column, kind, notes)[0] for n in range(len(array))]
        notes.add(UNPARSED, column, _text_of(array))
        return [None]


def _never(_: pa.DataType) -> bool:
    return False


def _parse_text(text: str, column: str, kind: pa.DataType, notes: Notes) -> Any:
    stripped = text.strip()
    try:
        scalar = pa.scalar(text if kinds.is_binary(kind) else stripped).cast(kind)
        is_date = kinds.is_temporal(kind)
        value = scalar.value if is_date else scalar.as_py()
        if is_date and stripped.startswith(_YEAR_0):
            raise OverflowError
        if isinstance(value, float) and math.isinf(value) and "inf" not in text.lower():
            raise OverflowError  # because Arrow makes 1e400 infinite
    except _MISFITS:
        notes.add(UNPARSED, column, text)
        return None
    return value


def _text_of(array: pa.Array) -> str:
    try:
        return str(array[0])
    except (ValueError, OverflowError):  # Python has no nanoseconds, and no years beyond 9999
        return " ".join(str(array).split())


def _infer(value: Any) -> pa.Array:
    if isinstance(value, int) and value not in WHOLE_NUMBERS:
        return pa.array([decimal.Decimal(value)])
    return pa.array([value])


def _convert(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """Return an array as one of a table's type.

    Children are converted on their own, because a cast of a list or struct by Arrow checks them less.

    Raises:
      ValueError, pa.ArrowException: A value would lose something, or its type can't be converted.
    """
    if array.type != (usual := table_type(array.type)):
        array = array.cast(usual)
    if array.type == kind:
        return array
    if kinds.is_null(array.type) or array.null_count == len(array):
        return pa.nulls(len(array), kind)
    if kinds.is_list(array.type) and kinds.is_list(kind):
        values = _convert(array.flatten(), kind.value_type)
        return pa.ListArray.from_arrays(_offsets(array), values, type=kind, mask=array.is_null())
    if kinds.is_struct(array.type) and kinds.is_struct(kind):
        return _convert_struct(array, kind)
    if kinds.is_map(array.type) and kinds.is_map(kind):
        return _convert_map(array, kind)
    if kinds.is_nested(array.type) or kinds.is_nested(kind):
        raise ValueError(f"{array.type} does not fit {kind}")
    if kinds.is_binary(array.type) or kinds.is_fixed_size_binary(array.type):
        return _convert_bytes(array, kind)
    return _parse_texts(array, kind) if kinds.is_string(array.type) else _convert_plain(array, kind)


def _offsets(lists: pa.Array) -> pa.Array:
    # Counted anew, because those of a slice do not begin at 0, and those of nulls may not be equal.
    lengths = pc.list_value_length(lists).fill_null(0)
    return pa.concat_arrays([pa.array([0], pa.int32()), pc.cumulative_sum(lengths).cast(pa.int32())])


def _convert_struct(array: pa.Array, kind: pa.DataType) -> pa.Array:
    names = [field.name for field in array.type]
    for name in names:
        if kind.get_field_index(name) < 0 and _field(array, name).null_count < len(array):
            raise ValueError(f"{kind} has no field {name}")
    fields = [
        _convert(_field(array, field.name), field.type)
        if field.name in names
        else pa.nulls(len(array), field.type)
        for field in kind
    ]
    return pa.StructArray.from_arrays(fields, fields=list(kind), mask=array.is_null())


def _field(array: pa.Array, name: str) -> pa.Array:
    # By position, because a name with a dot would be a path.
    return pc.struct_field(array, [array.type.get_field_index(name)])


def _convert_map(array: pa.Array, kind: pa.DataType) -> pa.Array:
    pair = pa.struct([("key", array.type.key_type), ("value", array.type.item_type)])
    entries = array.cast(pa.list_(pair))
    pairs = entries.flatten()
    keys = _convert(_field(pairs, "key"), kind.key_type)
    items = _convert(_field(pairs, "value"), kind.item_type)
    offsets = _offsets(entries)
    # Nulls are those of the offsets, because not all versions of Arrow take a mask here.
    is_null = pa.concat_arrays([entries.is_null(), pa.array([False])])
    return pa.MapArray.from_arrays(pc.if_else(is_null, None, offsets), keys, items, type=kind)


def _convert_bytes(array: pa.Array, kind: pa.DataType) -> pa.Array:
    if kinds.is_binary(kind) or kinds.is_fixed_size_binary(kind):
        return array.cast(kind)
    return _parse_texts(array.cast(pa.string()), kind)


def _parse_texts(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    if kinds.is_string(kind) or kinds.is_binary(kind) or kinds.is_fixed_size_binary(kind):
        return texts.cast(kind)
    texts = pc.utf8_trim_whitespace(texts)
    if kinds.is_time(kind):
        # As times of a day, because Arrow parses no times alone.
        return pc.binary_join_element_wise("1970-01-01", texts, " ").cast(pa.timestamp(kind.unit)).cast(kind)
    values = texts.cast(kind)
    if kinds.is_temporal(kind) and pc.any(pc.starts_with(texts, _YEAR_0)).as_py():
        raise OverflowError
    if kinds.is_floating(kind):
        is_named = pc.match_substring(texts, "inf", ignore_case=True)
        if pc.any(pc.and_not(pc.is_inf(values), is_named)).as_py():
            raise OverflowError  # because Arrow makes 1e400 infinite
    return values


def _convert_plain(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """Convert numbers, truth values and times, if no value loses anything but digits of a fraction."""
    if kinds.is_string(kind):
        return array.cast(kind)
    own = array.type
    is_other = kinds.is_temporal(own) != kinds.is_temporal(kind) or _has_zone(own) != _has_zone(kind)
    # A truth value is no number, as the text "true" is none.
    if is_other or kinds.is_boolean(own):
        raise ValueError(f"{own} does not fit {kind}")
    # Unchecked for whole numbers, because Arrow refuses all beyond 2**53; compared below.
    values = array.cast(kind, safe=not (kinds.is_integer(own) and kinds.is_floating(kind)))
    if kinds.is_floating(own) and kinds.is_floating(kind):
        is_kept = pc.is_inf(values).equals(pc.is_inf(array))
    else:
        # Back again, because Arrow cuts times to dates, rounds fractions to decimals, and takes 2 for true.
        is_kept = values.cast(own).equals(array)
    if not is_kept:
        raise ValueError(f"a value does not fit {kind}")
    return values


def _has_zone(kind: pa.DataType) -> bool:
    return kinds.is_timestamp(kind) and kind.tz is not None


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
