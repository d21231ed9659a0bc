"""URI templates: `gs://{bucket}/{name}` makes a URI from the columns of a row."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Any, Final
from urllib.parse import quote, unquote_plus

from labelbeam.transforms.errors import ImageError, UserError
from labelbeam.transforms.sources.addresses import scheme_of
from labelbeam.transforms.sources.secrets import hide_in_message, lacks_secrets, public_uri
from labelbeam.transforms.sources.sources import SCHEMES

# A brace of its own, a column in braces, or a brace without its partner.
_TOKEN = re.compile(r"(?P<brace>\{\{|\}\})|\{(?P<column>[^{}]*)\}|(?P<stray>[{}])")
# End of a placeholder whose value is percent-encoded already.
_RAW: Final = ":raw"
_ENCODED_SCHEMES = ("http:", "https:", "file:")


class RowFault(Exception):
    """A fault of a row; its text follows "The row"."""


@dataclass(frozen=True, slots=True)
class _Placeholder:
    """A column in a template, and the text in front of it."""

    text: str
    column: str
    is_raw: bool


@dataclass(frozen=True, slots=True)
class UriTemplate:
    """A template of URIs.

    Attributes:
      placeholders: The columns in their order.
      end: The text behind the last column.
      encodes: Whether values are percent-encoded, because the URI is one in which they must be.
      encoded_columns: Columns whose values are form-encoded, and are decoded first.
    """

    placeholders: tuple[_Placeholder, ...]
    end: str
    encodes: bool
    encoded_columns: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns, each once."""
        return tuple(dict.fromkeys(one.column for one in self.placeholders))

    def fill(self, row: Mapping[str, Any]) -> str:
        """Return the URI of a row.

        Raises:
          RowFault: A value is missing, or can't be a part of a URI.
        """
        return "".join(f"{one.text}{self._value(one, row)}" for one in self.placeholders) + self.end

    def _value(self, one: _Placeholder, row: Mapping[str, Any]) -> str:
        text = text_in(row, one.column)
        if one.is_raw:
            return text
        try:
            if one.column in self.encoded_columns:
                text = unquote_plus(text, errors="strict")
            return quote(text) if self.encodes else text
        except UnicodeError as e:
            raise RowFault(f"has {text[:200]!r} in {one.column}, which is not UTF-8: {e}") from e


# Values that are no text, for messages.
_KINDS: Final[dict[type, str]] = {
    **{dict: "an object", list: "an array", bool: "true or false", int: "a number", float: "a number"},
    bytes: "bytes",
}


def text_in(row: Mapping[str, Any], column: str, allowed: type | UnionType = str | int) -> str:
    """Return a value of a row that is a text or a whole number, as text.

    Args:
      row: The values by column.
      column: The column.
      allowed: `str` for texts alone.

    Raises:
      RowFault: There is no value, or it is of another type.
    """
    value = row.get(column)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise RowFault(f"has no {column}")
    # Not numbers with a fraction, because 7.0 in place of 7 would be another URI, and not true or dates,
    # because they can be written in several ways.
    if isinstance(value, bool) or not isinstance(value, allowed):
        kinds = "no text" if allowed is str else "neither text nor a whole number"
        # Without the value, because it may have secrets.
        kind = _KINDS.get(type(value), f"a value of type {type(value).__name__}")
        raise RowFault(f"has {kind} in {column}, which is {kinds}")
    return str(value)


# Cached, because each row of a corpus has the same template.
@functools.lru_cache(maxsize=16)
def parse_template(template: str, encoded_columns: tuple[str, ...] = ()) -> UriTemplate:
    """Parse a template.

    Args:
      template: Text with columns in braces. `{{` and `}}` are braces, and `{column:raw}` is a value that is
        percent-encoded already.
      encoded_columns: As in `UriTemplate`.

    Raises:
      UserError: A brace has no partner, a column no name, or there is no column at all.
    """
    placeholders: list[_Placeholder] = []
    text, start = "", 0
    for token in _TOKEN.finditer(template):
        text, start = text + template[start : token.start()], token.end()
        if token["stray"]:
            raise _refusal(
                template, f"has a {token['stray']} without its partner. Write {{{{ or }}}} for a brace"
            )
        if token["brace"]:
            text += token["brace"][0]
            continue
        column = token["column"]
        if not column.removesuffix(_RAW).strip():
            raise _refusal(template, f"has {token[0]} without a name. Put the name of a column in it")
        placeholders.append(_Placeholder(text, column.removesuffix(_RAW), column.endswith(_RAW)))
        text = ""
    if not placeholders:
        raise _refusal(template, "names no column, so all rows would be one image. Write {COLUMN} in it")
    encodes = placeholders[0].text.lower().startswith(_ENCODED_SCHEMES)
    return UriTemplate(tuple(placeholders), text + template[start:], encodes, encoded_columns)


def check_template(
    template: str, names: Collection[str], path: str, secret_params: Collection[str] = ()
) -> None:
    """Check a template before a run.

    Args:
      template: The template.
      names: Columns of the input.
      path: A file of the input, for messages.
      secret_params: Names of query parameters that are secret, beside those that always are.

    Raises:
      UserError: The template can't be parsed, names no column of the input, or makes URIs that are not read.
    """
    parsed, public = parse_template(template), public_uri(template, secret_params)
    if lacks_secrets(template, secret_params):
        raise UserError(
            f"uri_template={template!r} lacks its secrets, which no manifest has. Give --uri_template again."
        )
    for column in parsed.columns:
        if column not in names:
            raise UserError(
                f"uri_template={public!r} names {column!r}, which is no column of {path}; its columns are "
                f"{', '.join(names)}."
            )
    # A template that begins with a column may make any URI.
    if parsed.placeholders[0].text:
        try:
            scheme_of(parsed.fill(dict.fromkeys(parsed.columns, "x")), SCHEMES)
        except ImageError as e:
            why = hide_in_message(str(e))
            raise UserError(f"uri_template={public!r} makes URIs that are not read: {why}.") from e


def _refusal(template: str, fault: str) -> UserError:
    return UserError(f"uri_template={public_uri(template)!r} {fault}.")
