"""JSON documents as dataclasses.

A document carries a checksum, because JSON with a flipped bit in a number is still valid. Keys and types are
checked, too, because a tool that edits a document may compute its checksum again.
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

from labelbeam.transforms.errors import UserError

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
      DocumentError: The checksum is missing or wrong, or a value is missing or of another type.
    """
    content = {key: value for key, value in document.items() if key != _CHECKSUM}
    if document.get(_CHECKSUM) != _checksum_of(content):
        raise DocumentError("its checksum does not fit its contents")
    return _build(kind, content, "it")


def parse_file(kind: type[_T], data: bytes, path: str, newest: int, mend: str, instead: str) -> _T:
    """Parse and check a document that has a key `format`.

    Args:
      kind: Class of the document.
      data: The file's bytes.
      path: The file's path.
      newest: Newest format that this version reads.
      mend: Last sentence of the message about a damaged document.
      instead: Alternative to a newer labelbeam, for the message about a newer format.

    Raises:
      UserError: The file is damaged, or a newer version wrote it.
    """
    try:
        document = read_document(data)
        # The format is checked first, because a later format may have other keys and another checksum.
        if type(document.get("format")) is int and document["format"] > newest:
            raise UserError(
                f"{path} has format {document['format']}, and this version of labelbeam reads formats up to "
                f"{newest}. Install a newer labelbeam, or {instead}."
            )
        return parse_document(kind, document)
    except DocumentError as e:
        raise UserError(f"{path} is damaged: {e}. {mend}") from e


def _checksum_of(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


# Cached, because a manifest lists thousands of files, and Python evaluates the annotations at each call.
_hints: Callable[[Any], dict[str, Any]] = functools.cache(typing.get_type_hints)


def _build(kind: Any, value: Any, name: str) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin is types.UnionType:  # always of one type and None
        return None if value is None else _build(args[0], value, name)
    if origin is tuple:
        return tuple(_build(args[0], one, name) for one in _typed(list, value, name))
    if origin is not None:  # a mapping
        return {key: _build(args[1], one, name) for key, one in _typed(dict, value, name).items()}
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        return _typed(kind, value, name)
    hints, values = _hints(kind), _typed(dict, value, name)
    for f in dataclasses.fields(kind):
        if f.name not in values and f.default is dataclasses.MISSING:
            raise DocumentError(f"{name} has no key {f.name!r}")
    return kind(**{key: _build(hint, values[key], key) for key, hint in hints.items() if key in values})


def _typed(kind: type[_T], value: Any, name: str) -> _T:
    # The exact type, because True is an instance of int. JSON's 1 is a float, too.
    if type(value) is not kind and (kind, type(value)) != (float, int):
        raise DocumentError(f"{name}={value!r:.100} is not of the type {kind.__name__}")
    return value
