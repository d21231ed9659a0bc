"""Rows in JSON: objects whose keys are columns, for lists of lines and for arrays."""

from __future__ import annotations

import abc
import dataclasses
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa

from labelbeam.transforms.elements import ImageRef
from labelbeam.transforms.errors import UserError
from labelbeam.transforms.inputs.columns import (
    DEFAULT_URI_COLUMN,
    add_columns,
    check_names,
    declared_types,
    make_ref,
    readable_id,
)
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.inputs.files import MAX_LINE_BYTES, Line, read_start
from labelbeam.transforms.inputs.first_bytes import START_BYTES, explain_binary, find_uri_columns, strip_text
from labelbeam.transforms.inputs.formats import ReadOptions
from labelbeam.transforms.inputs.inventories import is_left_out
from labelbeam.transforms.inputs.lists import ListFormat, bad_row
from labelbeam.transforms.inputs.templates import RowFault
from labelbeam.transforms.notes import NO_COLUMN, UNPARSED, Notes
from labelbeam.transforms.table.column_types import WHOLE_NUMBERS, fit_value

# Depth of objects within a row in which a path may end, such as `data.image`.
_MOST_LEVELS = 4
# Rows that decide about columns and types.
_ROWS_LOOKED_AT = 10_000
# Digits of a whole number, because Python refuses longer ones.
_MOST_DIGITS = 4000
_TOO_DEEP = "has too many levels of objects and arrays"
# Bytes of a file that are read to find the columns if its first row is longer than `START_BYTES`.
_LONG_START_BYTES = 2 * MAX_LINE_BYTES


class Fraction(float):
    """A number with a point or an exponent, and its text, because a double may not hold all of its digits."""

    __slots__ = ("text",)
    text: str


class JsonFormat(ListFormat):
    """A format whose rows are objects in JSON."""

    has_columns = True

    @abc.abstractmethod
    def rows_at_start(self, start: bytes, path: str, is_whole: bool) -> list[Line]:
        """Return the rows of the first bytes of a file, without one that may go on.

        Args:
          start: The first bytes.
          path: The file, for messages.
          is_whole: Whether they are the whole file.

        Raises:
          RunError: The file is damaged there.
        """

    def explain(self, start: bytes) -> str | None:
        return explain_binary(start)

    def describe(
        self,
        corpus: Corpus,
        starts: Mapping[str, bytes],
        options: ReadOptions,
        known_types: Mapping[str, pa.DataType],
    ) -> Corpus:
        """Return the corpus with the keys of the first rows as columns, and the types of their values."""
        path = next(iter(starts))
        rows = (row for one, start in starts.items() for row in self._objects(one, start))
        objects = list(itertools.islice(rows, _ROWS_LOOKED_AT))
        if not objects:
            if len(starts) == len(corpus.files) and all(
                len(start) < START_BYTES for start in starts.values()
            ):
                return _without_rows(corpus, options, known_types)
            raise UserError(
                f"{path} has no rows at its beginning, so its columns can't be found. Put objects into it, "
                "or extract them from a longer object: jq -c '.images[]' FILE > NEW_FILE"
            )
        types = _types_of(objects)
        names = tuple(types)
        check_names(names, path)
        paths = _types_of(dict(_paths_of(one)) for one in objects)
        corpus = dataclasses.replace(corpus, header=names)
        nested = _nested_in(objects)
        remedy = _how_to_extract(nested)
        corpus = add_columns(corpus, names, path, options, known_types, types, paths, nested, remedy)
        # Without columns of which nothing is left, because the URI or the id was all they held.
        empty = {name for name, _ in corpus.columns} - {
            name for one in objects for name in _without_paths(one, corpus)
        }
        return dataclasses.replace(
            corpus, columns=tuple((name, kind) for name, kind in corpus.columns if name not in empty)
        )

    def _objects(self, path: str, start: bytes) -> Iterator[dict[str, Any]]:
        rows = self.rows_at_start(start, path, is_whole := len(start) < START_BYTES)
        if not rows and not is_whole:
            start = read_start(path, _LONG_START_BYTES)
            rows = self.rows_at_start(start, path, len(start) < _LONG_START_BYTES)
        faults, objects = [], []
        for row in rows:
            try:
                objects.append(parse_object(row.decode("utf-8") if isinstance(row, bytes) else ""))
            except (ValueError, RowFault) as e:
                faults.append((row, e))
        if faults and not objects:
            raise UserError(self.explain_rows(path, *faults[0]))
        yield from objects

    def explain_rows(self, path: str, row: Line, fault: Exception) -> str:
        """Explain that no row at the beginning of a file can be read; the first one is given."""
        start = row[:200] if isinstance(row, bytes) else row.head[:200]
        remedy = "Put objects into it"
        if start.startswith(b'"'):
            remedy = "If its texts are URIs, write them to a list: jq -r '.[]' FILE > NEW_FILE.txt"
        return f"{path} has no objects among its first rows: the first one, {start!r}, {fault}. {remedy}."

    def parse(self, line: str, corpus: Corpus, notes: Notes) -> ImageRef | None:
        """Parse one object.

        Raises:
          ImageError: `bad_row`: the text is no object, or has no URI or id.
        """
        try:
            row = parse_object(line)
            if is_left_out(row, corpus.known, notes):
                return None
            return make_ref(_with_paths(row, corpus), _columns_of(row, corpus, notes), corpus)
        except RowFault as e:
            raise bad_row(line, str(e)) from e
        except RecursionError as e:
            raise bad_row(line, _TOO_DEEP) from e

    def readable_id(self, line: bytes, corpus: Corpus) -> str | None:
        try:
            row = parse_object(line.decode("utf-8"))
        except (ValueError, RowFault):
            return None
        return readable_id(_with_paths(row, corpus), corpus)


def _without_rows(corpus: Corpus, options: ReadOptions, known_types: Mapping[str, pa.DataType]) -> Corpus:
    """Return the corpus of a list without rows. It has the columns of the table, because it shows none."""
    declared = [name for name, _ in options.column_types]
    types = {**known_types, **declared_types(options, declared, corpus.pattern)}
    return dataclasses.replace(
        corpus,
        uri_column="" if options.uri_template else options.uri_column or DEFAULT_URI_COLUMN,
        uri_template=options.uri_template or "",
        id_column=options.id_column,
        columns=tuple(types.items()),
    )


def _columns_of(row: Mapping[str, Any], corpus: Corpus, notes: Notes) -> tuple[Any, ...]:
    """Return the values that pass through, and note those that do not."""
    rest, types = _without_paths(row, corpus), dict(corpus.columns)
    for name in rest.keys() - types.keys():
        notes.add(UNPARSED, f"{name}{NO_COLUMN}", text_of_json(rest[name]))
    return tuple(_fit(rest.get(name), name, kind, notes) for name, kind in types.items())


def _fit(value: Any, column: str, kind: pa.DataType, notes: Notes) -> Any:
    if value is None:
        return None
    text = text_of_json(value)
    # Text takes all values, because nothing is lost.
    if pa.types.is_string(kind):
        return text
    if isinstance(value, Fraction):
        value = _number(value, kind)
    if value is None:
        notes.add(UNPARSED, column, text)
        return None
    return fit_value(value, column, kind, notes, text)


def _number(value: Fraction, kind: pa.DataType) -> float | int | Decimal | None:
    """Return a number for a column of numbers; None if a column of whole numbers can't hold it."""
    if pa.types.is_decimal(kind):
        return Decimal(value.text)
    if not pa.types.is_integer(kind):
        return float(value)
    # As it is written, because as a double a fraction of a large number would be whole.
    exact = Decimal(value.text)
    return int(exact) if exact == exact.to_integral_value() else None


def text_of_json(value: Any) -> str:
    """Return a value as the text of a column: text itself, and other values as JSON, numbers as written."""
    return value if isinstance(value, str) else _dump(value)


def _dump(value: Any) -> str:
    if isinstance(value, Fraction):
        return value.text
    if isinstance(value, dict):
        return (
            f"{{{', '.join(f'{json.dumps(k, ensure_ascii=False)}: {_dump(v)}' for k, v in value.items())}}}"
        )
    if isinstance(value, list):
        return f"[{', '.join(map(_dump, value))}]"
    return json.dumps(value, ensure_ascii=False)


def parse_object(text: str) -> dict[str, Any]:
    """Parse a row.

    Numbers that Python can't hold become text.

    Raises:
      RowFault: The text is no object in JSON, or has a key twice.
    """
    try:
        value = json.loads(
            strip_text(text),
            object_pairs_hook=_object,
            parse_float=_fraction,
            parse_int=_whole,
            parse_constant=float,
        )
    except json.JSONDecodeError as e:
        raise RowFault(f"is not JSON ({e.msg} at character {e.pos + 1})") from e
    except RecursionError as e:
        raise RowFault(_TOO_DEEP) from e
    if not isinstance(value, dict):
        raise RowFault("is no object in JSON")
    # A text in UTF-8 can't hold them, so that the tables couldn't either.
    if "\\u" in text and not _is_text(value):
        raise RowFault("has half of a surrogate pair, which is no character")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        doubled = next(name for name in names if names.count(name) > 1)
        raise RowFault(f"has the key {doubled!r} twice")
    return value


def _fraction(text: str) -> Fraction | str:
    value = Fraction(text)
    value.text = text
    return text if math.isinf(value) else value


def _whole(text: str) -> int | str:
    return int(text) if len(text) <= _MOST_DIGITS else text


def _is_text(value: Any) -> bool:
    text = json.dumps(value, ensure_ascii=False)
    return text.encode("utf-8", "replace").decode("utf-8") == text


def _types_of(objects: Iterable[Mapping[str, Any]]) -> dict[str, pa.DataType]:
    """Return the types of columns: those of all values, or text where these differ."""
    seen: dict[str, set[type]] = {}
    for row in objects:
        for name, value in row.items():
            kinds = seen.setdefault(name, set())
            if value is not None:
                # Text for larger numbers, because no digit must be lost.
                is_large = type(value) is int and value not in WHOLE_NUMBERS
                kind = float if isinstance(value, float) else type(value)
                kinds.add(str if is_large else kind)
    return {name: _type_of(kinds) for name, kinds in seen.items()}


def _type_of(kinds: set[type]) -> pa.DataType:
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int}:
        return pa.int64()
    return pa.float64() if kinds in ({float}, {int, float}) else pa.string()


def _nested_in(objects: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the first value of each key whose values are objects and arrays alone."""
    values: dict[str, Any] = {}
    others = set()
    for row in objects:
        for name, value in row.items():
            if isinstance(value, dict | list):
                values.setdefault(name, value)
            elif value is not None:
                others.add(name)
    return {name: value for name, value in values.items() if name not in others}


def _how_to_extract(nested: Mapping[str, Any]) -> str:
    """Return how to extract rows that an array holds, as in COCO; "" if there is no array of objects."""
    rows = {name: value[0] for name, value in nested.items() if isinstance(value, list) and value}
    keys = [name for name, row in rows.items() if isinstance(row, dict)]
    if not keys:
        return ""
    # One with a usual column of URIs, because other arrays describe something else.
    key = next((key for key in keys if find_uri_columns(list(rows[key]))), keys[0])
    place = f".{key}" if key.isidentifier() else f".[{json.dumps(key)}]"
    return f"If an array holds the rows, extract them: jq -c '{place}[]' FILE > NEW_FILE"


def _paths_of(
    row: Mapping[str, Any], prefix: str = "", levels: int = _MOST_LEVELS
) -> Iterator[tuple[str, Any]]:
    """Yield paths to texts and numbers within objects, such as `data.image`, but not the row's own keys."""
    for name, value in row.items():
        if isinstance(value, dict) and levels:
            yield from _paths_of(value, f"{prefix}{name}.", levels - 1)
        elif prefix and isinstance(value, str | int):
            yield f"{prefix}{name}", value


def _value_at(row: Any, path: str | None) -> Any:
    """Return the value of a key or at a path; None if there is none."""
    if path is None or not isinstance(row, Mapping):
        return None
    if path in row:
        return row[path]
    # All splits, because keys may have dots, too.
    parts = path.split(".")
    for n in range(1, len(parts)):
        value = _value_at(row.get(".".join(parts[:n])), ".".join(parts[n:]))
        if value is not None:
            return value
    return None


def _with_paths(row: Mapping[str, Any], corpus: Corpus) -> dict[str, Any]:
    """Return a row with its URI and id as values of its own."""
    return {**row, **{path: _value_at(row, path) for path in (corpus.uri_column, corpus.id_column) if path}}


def _without_paths(row: Mapping[str, Any], corpus: Corpus) -> dict[str, Any]:
    """Return a row without the values of its URI and id, because the URI may have secrets."""
    rest = dict(row)
    for path in (corpus.uri_column, corpus.id_column):
        if path:
            _remove(rest, path)
    return rest


def _remove(row: dict[str, Any], path: str) -> None:
    """Remove the value at a path, and objects that are empty without it; other objects are copied."""
    if row.pop(path, None) is not None:
        return
    parts = path.split(".")
    for n in range(1, len(parts)):
        name, rest = ".".join(parts[:n]), ".".join(parts[n:])
        if _value_at(row.get(name), rest) is not None:
            inner = dict(row[name])
            _remove(inner, rest)
            row[name] = inner
            if not inner:
                del row[name]
            return
