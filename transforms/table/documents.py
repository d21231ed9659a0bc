"""JSON documents as dataclasses.

A document carries a checksum, because JSON with a flipped bit in a number is still valid. Keys and types are
not checked one by one, because a document with the right checksum is as labelbeam wrote it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

_T = TypeVar("_T")

_CHECKSUM = "checksum"


class DocumentError(ValueError):
    """An error in a document."""


def write_document(value: Any) -> bytes:
    """Return a dataclass as JSON with a checksum."""
    document = dataclasses.asdict(value)
    return json.dumps({**document, _CHECKSUM: _checksum_of(document)}, indent=2).encode()


def read_document(data: bytes) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
      DocumentError: The bytes are not a JSON object.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as e:
        raise DocumentError(f"the file is not JSON: {e}") from e
    if not isinstance(document, dict):
        raise DocumentError("the file holds no JSON object")
    return document


def parse_document(kind: type[_T], document: Mapping[str, Any]) -> _T:
    """Return a document as a dataclass of primitives, dataclasses, and mappings and tuples of them.

    Unknown keys are ignored, because newer versions may write more keys.

    Raises:
      DocumentError: The checksum is missing or wrong.
    """
    content = {key: value for key, value in document.items() if key != _CHECKSUM}
    if document.get(_CHECKSUM) != _checksum_of(content):
        raise DocumentError("its checksum does not fit its contents")
    return _build(kind, content)


def _checksum_of(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


# Cached, because a manifest lists thousands of files, and Python evaluates the annotations at each call.
_hints: Callable[[Any], dict[str, Any]] = functools.cache(typing.get_type_hints)


def _build(kind: Any, value: Any) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:  # always of one type and None
        return None if value is None else _build(args[0], value)
    if origin is tuple:
        return tuple(_build(args[0], one) for one in value)
    if origin is not None:  # a mapping
        return {name: _build(args[1], one) for name, one in value.items()}
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        return value
    hints = _hints(kind).items()
    return kind(**{name: _build(hint, value[name]) for name, hint in hints if name in value})
