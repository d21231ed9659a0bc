"""The user's own columns: their names, types and values, in formats that have columns."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from labelbeam.transforms.elements import ImageRef, id_of_uri
from labelbeam.transforms.errors import UserError
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.inputs.first_bytes import URI_NAMES
from labelbeam.transforms.inputs.formats import ReadOptions
from labelbeam.transforms.inputs.known_columns import (
    describe_known_columns,
    find_known_columns,
    listed_digest,
    listed_version,
    text_of,
)
from labelbeam.transforms.inputs.templates import RowFault, check_template, parse_template
from labelbeam.transforms.notes import UNPARSED, Notes
from labelbeam.transforms.sources.secrets import hide_secrets, public_uri
from labelbeam.transforms.table.rows import RESERVED_COLUMNS

# Column of the URI if the user names none.
DEFAULT_URI_COLUMN: Final = "uri"
# Types by the names that `--column_types` takes.
COLUMN_TYPES: Final = {
    "string": pa.string(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us"),
}


def add_columns(
    corpus: Corpus,
    names: Sequence[str],
    path: str,
    options: ReadOptions,
    known_types: Mapping[str, pa.DataType],
) -> Corpus:
    """Return a corpus with the columns that its files have; `path` is one of the files, for messages.

    Raises:
      UserError: An option names a column or a type that does not exist.
    """
    uri_column, template = _choose_uri(options, names, path)
    _check_column("id_column", options.id_column, names, path)
    own = [name for name in names if name not in (uri_column, options.id_column)]
    in_table = {name: known_types[output_name(name)] for name in own if output_name(name) in known_types}
    # Text unless declared otherwise, because a guess from the first rows would change values such as 00123.
    # A table that has rows keeps its types, unless the user declares others.
    types = dict.fromkeys(own, pa.string()) | in_table | _declared_types(options, own, path)
    known = find_known_columns(names)
    if known.inventory and not (template and known.name in parse_template(template).columns):
        known = dataclasses.replace(known, inventory="", md5="")  # the user has chosen rows and URIs
    is_encoded = known.inventory == "s3" and not corpus.has_header_line
    return dataclasses.replace(
        corpus,
        uri_column=uri_column,
        uri_template=template,
        # S3 encodes the keys in its CSV files, which have no line of names. Other programs that write such a
        # list read the keys first.
        encoded_columns=(known.name,) if is_encoded else (),
        id_column=options.id_column,
        columns=tuple((name, types[name]) for name in own),
        known=known,
        remarks=(
            *corpus.remarks,
            *describe_known_columns(known, public_uri(template, options.secret_params)),
        ),
    )


def _choose_uri(options: ReadOptions, names: Sequence[str], path: str) -> tuple[str, str]:
    """Return the column with the URI, or "" and the template of the URI."""
    column, template = options.uri_column, options.uri_template
    if template:
        if column != DEFAULT_URI_COLUMN:
            raise UserError(
                f"uri_column={column!r} and uri_template={public_uri(template, options.secret_params)!r}: "
                "each gives the URI. Remove one."
            )
        check_template(template, names, path, options.secret_params)
        return "", template
    known = find_known_columns(names)
    if column == DEFAULT_URI_COLUMN and column not in names and not suggest_uri_column(names):
        if known.inventory == "google":
            return "", f"gs://{{{known.bucket}}}/{{{known.name}}}"
        if known.inventory == "s3":
            raise UserError(
                f"{path} is an inventory of Amazon S3, which has no URIs. Add such as "
                f"--uri_template='https://{{{known.bucket}}}.s3.REGION.amazonaws.com/{{{known.name}}}'."
            )
    _check_column("uri_column", column, names, path)
    return column, ""


def _check_column(option: str, name: str | None, names: Sequence[str], path: str) -> None:
    if not name or name in names:
        return
    close = suggest_uri_column(names) if option == "uri_column" else None
    remedy = (
        f"Add --uri_column={close!r} if that column holds the URIs"
        if close
        # The second remedy, because the columns of a CSV without a header are its first values.
        else f"Give one of them with --{option}; if these are values, give the names with --header"
    )
    raise UserError(
        f"{option}={name!r} is no column of {path}; its columns are {', '.join(names)}. {remedy}."
    )


def _declared_types(options: ReadOptions, own: list[str], path: str) -> dict[str, pa.DataType]:
    for name, kind in options.column_types:
        if name not in own:
            raise UserError(f"column_types names {name!r}; the columns of {path} are {', '.join(own)}.")
        if kind not in COLUMN_TYPES:
            raise UserError(
                f"column_types: {name}={kind!r} is not allowed: one of {', '.join(COLUMN_TYPES)}."
            )
    return {name: COLUMN_TYPES[kind] for name, kind in options.column_types}


def make_ref(row: Mapping[str, Any], values: tuple[Any, ...], corpus: Corpus) -> ImageRef:
    """Make the reference of a row of any format with columns.

    Args:
      row: The values by column, as they are in the file.
      values: The values of the columns that pass through, in the order of the corpus.
      corpus: The corpus.

    Raises:
      RowFault: The row has no URI or no id, or a value that can't be a part of a URI.
    """
    if corpus.uri_template:
        uri = parse_template(corpus.uri_template, corpus.encoded_columns).fill(row)
    else:
        uri = text_of(row[corpus.uri_column])
    if not uri:
        raise RowFault(f"has no {corpus.uri_column}")
    image_id = text_of(row[corpus.id_column]) if corpus.id_column else id_of_uri(uri)
    if not image_id:
        raise RowFault(f"has no {corpus.id_column}")
    version = listed_version(uri, row, corpus.known)
    # Only of a known version, because the digest is that of the version.
    digest = listed_digest(row, corpus.known) if version and corpus.known.md5 else None
    return ImageRef(image_id, uri, values, listed_version=version, listed_digest=digest)


def suggest_uri_column(names: Sequence[str]) -> str | None:
    """Return the column that most likely holds the URIs."""
    # Reversed, because the first of several equal names must remain.
    by_name = {_plain(name): name for name in reversed(names)}
    return next((by_name[name] for name in map(_plain, URI_NAMES) if name in by_name), None)


def _plain(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())


def parse_value(text: str, column: str, kind: pa.DataType, notes: Notes) -> Any:
    """Return a text as a value of its column's type; None, and a note, if it is not of the type."""
    if pa.types.is_string(kind):
        return text
    text = text.strip()
    if text == "":
        return None
    try:
        value = pa.scalar(text).cast(kind).as_py()
        if isinstance(value, float) and math.isinf(value) and "inf" not in text.lower():
            raise OverflowError  # because Arrow makes 1e400 infinite
    except (pa.ArrowInvalid, ValueError, OverflowError):
        notes.add(UNPARSED, column, hide_secrets(text))
        return None
    return value


def output_name(column: str) -> str:
    """Return the name that a column of the input has in the output."""
    taken = {name.casefold() for name in RESERVED_COLUMNS}
    return f"input_{column}" if column.casefold() in taken else column


def output_columns(corpus: Corpus) -> tuple[tuple[str, pa.DataType], ...]:
    """Return the user's columns under their names in the output: `input_NAME` where we have a column NAME.

    Raises:
      UserError: The corpus has a column of that name too.
    """
    renamed = [(output_name(name), kind) for name, kind in corpus.columns]
    # Without case, because DuckDB and other readers of the table ignore the case of columns.
    names = [name.casefold() for name, _ in renamed]
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled:
        raise UserError(f"The output would have two columns {doubled!r}. Rename one in the CSV.")
    return tuple(renamed)
