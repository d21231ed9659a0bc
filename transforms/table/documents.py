"""JSON documents as dataclasses, checked once when they are read.

A document carries a checksum, because JSON with a flipped bit in a number is still valid.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

_T = TypeVar("_T")

_CHECKSUM = "checksum"
_KINDS = {str: "text", int: "a whole number from 0", float: "a number", bool: "true or false"}


class DocumentError(ValueError):
    """An error in a document; the message names the key and its value."""


def write_document(value: Any) -> bytes:
    """Return a dataclass as JSON with a checksum."""
    document = dataclasses.asdict(value)
    return json.dumps({**document, _CHECKSUM: _checksum_of(document)}, indent=2).encode()


def read_document(data: bytes) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
      DocumentError: The bytes are not a JSON object.
    """
    if not data.strip():
        raise DocumentError("the file is empty")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as e:
        raise DocumentError(f"the file is not JSON: {e}") from e
    if not isinstance(document, dict):
        raise DocumentError(f"the file holds {_abbreviate(document)}; it must hold a JSON object")
    return document


def parse_document(kind: type[_T], document: Mapping[str, Any]) -> _T:
    """Return a document as a dataclass.

    Args:
      kind: The dataclass. Its fields are typed as text, numbers, booleans, dataclasses, and
        mappings and tuples of them; values of a mapping to `Any` are not checked.
      document: The document. Old versions of labelbeam wrote no checksum.

    Raises:
      DocumentError: A key is missing or has a wrong type, or the checksum is wrong. Unknown keys are ignored,
        because newer versions may write more keys; a key that damage has changed spoils the checksum.
    """
    checksum = document.get(_CHECKSUM)
    document = {key: value for key, value in document.items() if key != _CHECKSUM}
    # Parsed first, because a message about a key helps more than one about the checksum.
    value = _parse(kind, document, "")
    if checksum not in (None, _checksum_of(document)):
        raise DocumentError("its checksum does not fit its contents")
    return value


def _checksum_of(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _parse(kind: Any, value: Any, key: str) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin is types.UnionType:  # always of one type and None
        return None if value is None else _parse(args[0], value, key)
    if origin is tuple:
        return tuple(_parse(args[0], one, f"{key}[{n}]") for n, one in enumerate(_check(list, value, key)))
    if origin is not None:
        items = _check(dict, value, key).items()
        return {name: _parse(args[1], one, f"{key}.{name}") for name, one in items}
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return kind(**dict(_fields(kind, _check(dict, value, key), f"{key}." if key else "")))
    return _check(kind, value, key)


_hints = functools.cache(typing.get_type_hints)


def _fields(kind: Any, value: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    hints = _hints(kind)
    for field in dataclasses.fields(kind):
        if field.name in value:
            yield field.name, _parse(hints[field.name], value[field.name], prefix + field.name)
        elif field.default is dataclasses.MISSING:
            raise DocumentError(f"the key {prefix + field.name!r} is missing")


def _check(kind: type, value: Any, key: str) -> Any:
    # Not isinstance, because True is an int in Python.
    if type(value) is not kind or (type(value) is int and value < 0):
        expected = {list: "a list", dict: "an object", **_KINDS}[kind]
        raise DocumentError(f"the key {key!r} holds {_abbreviate(value)}; it must be {expected}")
    return value


def _abbreviate(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
