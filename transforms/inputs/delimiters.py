"""Delimiters of CSV files, found in their first line."""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Mapping

from labelbeam.transforms.errors import UserError
from labelbeam.transforms.inputs.first_bytes import DELIMITERS, find_uri_columns
from labelbeam.transforms.inputs.formats import ReadOptions
from labelbeam.transforms.inputs.templates import parse_template

# A column's name. Not with dots and slashes, because these are signs of paths.
_NAME = re.compile(r"[^\W\d][\w -]*")


def find_delimiter(line: str, path: str, options: ReadOptions) -> str:
    """Return the delimiter of the columns of a file.

    Args:
      line: The first line of the file.
      path: The file, for messages.
      options: The user's options.

    Raises:
      UserError: Several delimiters are possible.
    """
    if options.delimiter:
        return options.delimiter
    split = {delimiter: fields for delimiter in DELIMITERS if len(fields := split_line(line, delimiter)) > 1}
    if len(split) > 1:
        split = _likely(split, options) or split
    if len(split) > 1:
        names = " or ".join(DELIMITERS[delimiter] for delimiter in split)
        raise UserError(
            f"{path} begins with {line[:200]!r}, whose columns may be separated by {names}. Set --delimiter, "
            "such as --delimiter=tab."
        )
    return next(iter(split), ",")


def has_columns(start: bytes) -> bool:
    """Return whether a text begins with a line of column names, and a row of as many fields."""
    names, row = [*start.decode("utf-8-sig", "replace").splitlines()[:2], "", ""][:2]
    for delimiter in DELIMITERS:
        fields = split_line(names, delimiter)
        are_names = len(fields) > 1 and all(_NAME.fullmatch(field.strip()) for field in fields)
        if are_names and len(set(fields)) == len(fields) == len(split_line(row, delimiter)):
            return True
    return False


def _likely(split: Mapping[str, list[str]], options: ReadOptions) -> dict[str, list[str]]:
    """Return the delimiters by which a line has the columns of the options, or a usual column of URIs."""
    if options.header:
        return {
            delimiter: fields for delimiter, fields in split.items() if len(fields) == len(options.header)
        }
    needed: Collection[str] = (options.uri_column,) if options.uri_column else ()
    if options.uri_template:
        needed = parse_template(options.uri_template).columns
    return {
        delimiter: fields
        for delimiter, fields in split.items()
        if (set(needed) <= set(fields) if needed else find_uri_columns(fields))
    }


def split_line(line: str, delimiter: str) -> list[str]:
    """Return the fields of a line; none if it can't be split."""
    try:
        return next(csv.reader([line], delimiter=delimiter, strict=True), [])
    except csv.Error:
        return []
