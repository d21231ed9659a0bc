"""The user's own columns: their names, types and values, in formats that have columns."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import pyarrow as pa

from labelbeam.transforms.elements import ImageRef, id_of_uri
from labelbeam.transforms.errors import UserError
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.inputs.first_bytes import find_uri_columns
from labelbeam.transforms.inputs.formats import ReadOptions
from labelbeam.transforms.inputs.known_columns import (
    describe_known_columns,
    find_known_columns,
    listed_digest,
    listed_version,
)
from labelbeam.transforms.inputs.templates import RowFault, check_template, parse_template, text_in
from labelbeam.transforms.sources.secrets import public_uri
from labelbeam.transforms.table.rows import RESERVED_COLUMNS

# Column of the URI if the user names none.
DEFAULT_URI_COLUMN: Final = "uri"
# Any type of values within values.
_NESTED: Final = pa.struct([])
# Columns that a message lists.
_NAMES_SHOWN = 50
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
    file_types: Mapping[str, pa.DataType] | None = None,
    paths: Mapping[str, pa.DataType] = MappingProxyType({}),
    nested: Collection[str] = (),
    remedy: str = "",
) -> Corpus:
    """Return a corpus with the columns that its files have.

    Args:
      corpus: The corpus without columns.
      names: Names of the columns.
      path: One of the files, for messages.
      options: The user's options.
      known_types: Types of output columns, where the output has rows already.
      file_types: Types of the columns in the files; text by default.
      paths: Paths to values within columns, such as `data.image`, and the types of the values.
      nested: Columns of objects and arrays, which are no URIs, although they are text in the tables.
      remedy: Remedy of the format, if no column holds URIs.

    Raises:
      UserError: An option names a column or a type that does not exist, or the URI's column is not clear.
    """
    file_types = file_types or dict.fromkeys(names, pa.string())
    for option in ("uri_column", "id_column"):
        if (name := getattr(options, option)) and name not in names and name not in paths:
            raise _no_column(option, name, [*names, *paths], path, remedy or _remedy(corpus, names, option))
    # Objects and arrays by a type of their own, because their text is neither a URI nor an id.
    kinds = {**paths, **file_types, **dict.fromkeys(nested, _NESTED)}
    for option, allows in (("uri_column", pa.types.is_string), ("id_column", _may_be_id)):
        if (name := getattr(options, option)) and not allows(kinds[name]):
            inner = [one for one in paths if one.startswith(f"{name}.") and allows(kinds[one])]
            raise _no_text(option, name, inner, path, remedy)
    remedy = remedy or _remedy(corpus, names, "uri_column")
    uri_column, template, remark = _choose_uri(options, kinds, paths, path, names, remedy)
    own = [name for name in names if name not in (uri_column, options.id_column)]
    in_table = {name: known_types[output_name(name)] for name in own if output_name(name) in known_types}
    # A table that has rows keeps its types, unless the user declares others.
    types = {name: file_types[name] for name in own} | in_table | declared_types(options, own, path)
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
            *remark,
            *describe_known_columns(known, public_uri(template, options.secret_params)),
        ),
    )


class _UriChoice(NamedTuple):
    """The column with the URI, or the template that makes it, and sentences about a choice by name."""

    column: str = ""
    template: str = ""
    remarks: tuple[str, ...] = ()


def _choose_uri(
    options: ReadOptions,
    types: Mapping[str, pa.DataType],
    paths: Mapping[str, pa.DataType],
    path: str,
    names: Sequence[str],
    remedy: str,
) -> _UriChoice:
    column, template = options.uri_column, options.uri_template
    texts = [name for name in names if pa.types.is_string(types[name])]
    if template:
        if column is not None:
            raise UserError(
                f"uri_column={column!r} and uri_template={public_uri(template, options.secret_params)!r}: "
                "each gives the URI. Remove one."
            )
        check_template(template, names, path, options.secret_params)
        return _UriChoice(template=template)
    if column is not None:
        return _UriChoice(column)
    if DEFAULT_URI_COLUMN in texts:
        return _UriChoice(DEFAULT_URI_COLUMN)
    # Paths only where no column fits, because most objects within a row describe something else.
    text_paths = [name for name, kind in paths.items() if pa.types.is_string(kind)]
    usual = find_uri_columns(texts) or find_uri_columns(text_paths)
    known = find_known_columns(names)
    if usual and known.inventory:
        usual = [*usual, known.name]  # because bucket and name make URIs, too
    if len(usual) > 1:
        raise UserError(
            f"{path} has several columns that may hold the URIs: {', '.join(usual)}. Name one with "
            "--uri_column."
        )
    if usual:
        return _UriChoice(usual[0], remarks=(f"The column {usual[0]!r} holds the URIs, by its name.",))
    if known.inventory == "google":
        return _UriChoice(template=f"gs://{{{known.bucket}}}/{{{known.name}}}")
    if known.inventory == "s3":
        raise UserError(
            f"{path} is an inventory of Amazon S3, which has no URIs. Add such as "
            f"--uri_template='https://{{{known.bucket}}}.s3.REGION.amazonaws.com/{{{known.name}}}'."
        )
    raise UserError(
        f"{path} has no column of text with a usual name for URIs, such as uri, url or file_name; "
        f"{_describe_columns([*names, *paths])}. {remedy}."
    )


def _describe_columns(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"its only column is {names[0]!r}"
    return f"its columns are {', '.join(names[:_NAMES_SHOWN])}" + ", ..." * (len(names) > _NAMES_SHOWN)


def _remedy(corpus: Corpus, names: Sequence[str], option: str) -> str:
    """Return remedies for a column that is not found; those of a CSV fit no other format."""
    remedies = [f"Name one with --{option}"]
    if corpus.format == "csv":
        # Because the columns of a CSV without a header are its first values.
        remedies.append("if these are values, give the names with --header")
        if len(names) == 1:
            remedies.append("if another character separates columns, set --delimiter")
    return "; ".join(remedies)


def _no_column(option: str, name: str, names: Sequence[str], path: str, remedy: str) -> UserError:
    close = next(iter(find_uri_columns(names)), None) if option == "uri_column" else None
    if close:
        remedy = f"Add --uri_column={close!r} if that column holds the URIs"
    return UserError(f"{option}={name!r} is no column of {path}; {_describe_columns(names)}. {remedy}.")


def _no_text(option: str, name: str, inner: Sequence[str], path: str, remedy: str) -> UserError:
    """Return the error for a column of objects or arrays, because each of its rows would fail."""
    best = next(iter(find_uri_columns(inner) or inner), None)
    remedy = f"Name a value in it, such as --{option}={best}" if best else remedy or "Name a column of text"
    return UserError(f"{option}={name!r} of {path} holds no text. {remedy}.")


def _may_be_id(kind: pa.DataType) -> bool:
    return not pa.types.is_nested(kind)


def declared_types(options: ReadOptions, own: Sequence[str], path: str) -> dict[str, pa.DataType]:
    """Return the types that the user declares for columns.

    Raises:
      UserError: There is no such column or type.
    """
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
        # Not of numbers, because no address is one.
        uri = text_in(row, corpus.uri_column, str).strip()
    image_id = text_in(row, corpus.id_column).strip() if corpus.id_column else id_of_uri(uri)
    version = listed_version(uri, row, corpus.known)
    # Only of a known version, because the digest is that of the version.
    digest = listed_digest(row, corpus.known) if version and corpus.known.md5 else None
    return ImageRef(image_id, uri, values, listed_version=version, listed_digest=digest)


def readable_id(row: Mapping[str, Any], corpus: Corpus) -> str | None:
    """Return the id of a row that can't be read otherwise; None if the id can't be read either."""
    try:
        return text_in(row, corpus.id_column).strip() if corpus.id_column else None
    except RowFault:
        return None


def check_names(names: Sequence[str], path: str) -> None:
    """Check that columns have distinct names.

    Raises:
      UserError: A name is empty, or names are equal without case, which readers of the table ignore.
    """
    seen: dict[str, str] = {}
    for name in names:
        if not name:
            raise UserError(f"{path} has a column without a name. Name it.")
        other = seen.setdefault(name.casefold(), name)
        if other is not name:
            raise UserError(
                f"{path} has the columns {other!r} and {name!r}, which readers take for one. Rename one."
            )


def output_name(column: str) -> str:
    """Return the name that a column of the input has in the output."""
    taken = {name.casefold() for name in RESERVED_COLUMNS}
    return f"input_{column}" if column.casefold() in taken else column


def output_columns(corpus: Corpus) -> tuple[tuple[str, pa.DataType], ...]:
    """Return the user's columns under their names in the output: `input_NAME` where we have a column NAME.

    Raises:
      UserError: The corpus has a column of that name too.
    """
    renamed = [(output_name(name), kind) for name, kind in corpus.row_columns]
    # Without case, because DuckDB and other readers of the table ignore the case of columns.
    names = [name.casefold() for name, _ in renamed]
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled:
        raise UserError(f"The output would have two columns {doubled!r}. Rename one in the input.")
    return tuple(renamed)
