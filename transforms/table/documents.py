"""JSON documents that are read into dataclasses, and checked once while they are.

A document carries a checksum of itself, because a flipped bit in a number is
still JSON of the right shape.
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
    """A document that is not what it should be; the message names the key and what it holds."""


def write_document(value: Any) -> bytes:
    """Return a dataclass as JSON that carries its checksum."""
    document = dataclasses.asdict(value)
    return json.dumps({**document, _CHECKSUM: _checksum_of(document)}, indent=2).encode()


def read_document(data: bytes) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
      DocumentError: The bytes are no JSON object.
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
        mappings and tuples of them; a mapping to `Any` is not looked into.
      document: The document. Documents of versions that wrote no checksum have none.

    Raises:
      DocumentError: A key is missing or mistyped, or the checksum is another. Unknown keys are passed over,
        because newer versions may write more; if damage made them, the checksum is another.
    """
    checksum = document.get(_CHECKSUM)
    document = {key: value for key, value in document.items() if key != _CHECKSUM}
    value = _parse(kind, document, "")
    if checksum not in (None, _checksum_of(document)):
        raise DocumentError("its checksum is another than its contents have")
    return value


def _checksum_of(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _parse(kind: Any, value: Any, key: str) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin is types.UnionType:  # of one type and None
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
    # Not isinstance, because true is an int for Python.
    if type(value) is not kind or (type(value) is int and value < 0):
        wanted = {list: "a list", dict: "an object", **_KINDS}[kind]
        raise DocumentError(f"the key {key!r} holds {_abbreviate(value)}; it must be {wanted}")
    return value


def _abbreviate(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
