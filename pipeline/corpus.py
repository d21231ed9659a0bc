"""The corpus of `--input`, and the checks of it before anything starts."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
from apache_beam.io.filesystems import FileSystems

from labelbeam.pipeline.config import ReadConfig
from labelbeam.transforms.errors import RunError, UserError, describe_error
from labelbeam.transforms.files import FILE_ERRORS, escape_glob, is_local
from labelbeam.transforms.images.suffixes import IMAGES, READ
from labelbeam.transforms.inputs.compression import FORMATS
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.inputs.files import ListFile, match_files, read_start
from labelbeam.transforms.inputs.first_bytes import (
    START_BYTES,
    explain_names,
    explain_unreadable,
    parse_header,
    suggest_uri_column,
)
from labelbeam.transforms.inputs.globs import list_paths
from labelbeam.transforms.notes import Notes
from labelbeam.transforms.table.rows import RESERVED_COLUMNS

# Files of a folder that are looked at before the folder is refused for lack of images.
_FILES_LOOKED_AT = 10_000
# Lists whose first bytes are read before a run starts. Workers compare the headers of all.
_STARTS_LOOKED_AT = 1000
_OPENED_AT_ONCE = 32
# Lists of a corpus. Their names, sizes and times are part of the job, which Dataflow limits to 10 MB.
MOST_FILES = 50_000

COLUMN_TYPES = {
    "string": pa.string(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us"),
}

# Data that is no list of URIs. Taken as lines, so that the first bytes are looked at and explained, where
# a glob would take the files for images.
_NO_LISTS = (
    *(".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".feather", ".arrow", ".avro", ".orc"),
    *(".tar", ".tgz", ".zip", ".xlsx", ".xls", ".tfrecord", ".tfrecords"),
)
_LINES = (".txt", ".lst", ".list", *_NO_LISTS)
_LIST_SUFFIXES = tuple(
    (f"{suffix}{packed}", kind)
    for suffix, kind in ((".csv", "csv"), *((suffix, "lines") for suffix in _LINES))
    for packed in ("", *(one.suffix for one in FORMATS))
)


def find_corpus(config: ReadConfig, known_types: Mapping[str, pa.DataType] | None = None) -> Corpus:
    """Return the corpus that the input is: its kind, files and columns.

    Args:
      config: The options of the input.
      known_types: Types of output columns, where the output has rows already.

    Raises:
      UserError: There is nothing there, or it is not what it should be.
    """
    if config.input.startswith(("http://", "https://")):
        raise UserError(
            f"input={config.input!r} is an address. Download the list, or write the address into a "
            "text file to label that image."
        )
    try:
        return _find_corpus(config, known_types or {})
    except FILE_ERRORS as e:
        raise UserError(
            f"input={config.input!r} cannot be read: {describe_error(e)}. Check its name and rights."
        ) from e
    except RunError as e:  # a folder may not be listed, or a list is damaged
        raise UserError(str(e)) from e


def _find_corpus(config: ReadConfig, known_types: Mapping[str, pa.DataType]) -> Corpus:
    # Absolute, so that an image has one URI and one id wherever a run is started.
    path = os.path.abspath(config.input) if is_local(config.input) else config.input
    is_glob = any(c in path for c in "*?[") and not _is_there(path)
    is_folder = not is_glob and _is_folder(path)
    if is_folder:
        if config.input_format not in ("auto", "images"):
            raise UserError(
                f"input_format={config.input_format!r}: input={config.input!r} is a folder, whose images are "
                f"labelled. To read the lists in it, give a pattern such as {os.path.join(path, '*')!r}."
            )
        _refuse_options_of_lists(config)
        return _folder_corpus(path)
    pattern = path if is_glob else escape_glob(path)
    kind = _kind_of(config, is_glob)
    files = match_files(pattern, 1 if kind == "images" else None)
    if not files:
        raise UserError(f"input={config.input!r} matches nothing. Check the name.")
    if kind != "csv":
        _refuse_options_of_lists(config)
    if kind == "images":
        return Corpus(pattern, kind)
    if len(files) > MOST_FILES:
        raise UserError(
            f"input={config.input!r} matches {len(files):,} lists, more than a job can be planned with "
            f"({MOST_FILES:,}). Join them into fewer files."
        )
    starts = _read_starts(files, kind, is_declared=config.input_format != "auto")
    corpus = Corpus(pattern, kind, files=files)
    return _csv_corpus(corpus, config, starts, known_types) if kind == "csv" else corpus


def _refuse_options_of_lists(config: ReadConfig) -> None:
    for option in ("id_column", "column_types"):
        if getattr(config, option):
            raise UserError(f"{option}: input={config.input!r} is no CSV and has no columns. Leave it out.")


def _read_starts(files: tuple[ListFile, ...], kind: Any, is_declared: bool) -> dict[str, bytes]:
    """Read the first bytes of lists, by path; of very many lists, those of the first."""
    looked_at = files[:_STARTS_LOOKED_AT]
    with ThreadPoolExecutor(_OPENED_AT_ONCE) as pool:
        starts = dict(pool.map(_read_start, looked_at))
    for path, start in starts.items():
        if why := explain_unreadable(start, kind, is_declared):
            raise UserError(f"{path} {why}.")
    return starts


def _read_start(file: ListFile) -> tuple[str, bytes]:
    try:
        return file.path, read_start(file.path, START_BYTES)
    except RunError as e:
        raise UserError(str(e)) from e


def _folder_corpus(path: str) -> Corpus:
    pattern = f"{escape_glob(path.rstrip('/'))}/**"
    corpus = Corpus(pattern, "images", suffixes=IMAGES)
    files = list(itertools.islice(list_paths(corpus.pattern, Notes(), _FILES_LOOKED_AT), _FILES_LOOKED_AT))
    if len(files) < _FILES_LOOKED_AT and not any(file.lower().endswith(IMAGES) for file in files):
        raise UserError(
            f"input={path!r} holds no images: no file ends in {', '.join(READ)}. Check the name, or list the "
            "images' URIs in a text file."
        )
    return corpus


def _is_there(path: str) -> bool:
    """Return whether a file or folder has this very name, so that its brackets are no glob's."""
    return os.path.exists(path) if is_local(path) else FileSystems.exists(path) or _is_folder(path)


def _is_folder(path: str) -> bool:
    if FileSystems.get_scheme(path) is None:
        return os.path.isdir(path)
    if not path.endswith("/") and FileSystems.exists(path):
        return False
    (match,) = FileSystems.match([f"{escape_glob(path.rstrip('/'))}/**"], limits=[1])
    return bool(match.metadata_list)


def _kind_of(config: ReadConfig, is_glob: bool) -> Any:
    if config.input_format != "auto":
        return config.input_format
    lower = config.input.lower()
    listed = next((kind for suffix, kind in _LIST_SUFFIXES if lower.endswith(suffix)), None)
    if listed or is_glob or lower.endswith(IMAGES):
        return listed or "images"
    return "lines"


def _csv_corpus(
    corpus: Corpus, config: ReadConfig, starts: Mapping[str, bytes], known_types: Mapping[str, pa.DataType]
) -> Corpus:
    headers = {path: _header(path, start) for path, start in starts.items()}
    path, header = next(iter(headers.items()))
    for other, its_header in headers.items():
        if its_header != header:
            its, first = ", ".join(its_header), ", ".join(header)
            raise UserError(f"{other} has the columns {its}, and {path} has {first}: they must be the same.")
    _check_columns(config, header, path)
    own = [name for name in header if name not in (config.uri_column, config.id_column)]
    known = {name: known_types[output_name(name)] for name in own if output_name(name) in known_types}
    # Text unless declared otherwise: a guess from the first rows would change values such as 00123.
    types = dict.fromkeys(own, pa.string()) | known | _declared_types(config, own, path)
    return dataclasses.replace(
        corpus,
        header=header,
        uri_column=config.uri_column,
        id_column=config.id_column,
        columns=tuple((name, types[name]) for name in own),
    )


def _header(path: str, start: bytes) -> tuple[str, ...]:
    if len(start) >= START_BYTES and b"\n" not in start:
        raise UserError(f"{path} has a header of more than {START_BYTES:,} bytes. Remove columns.")
    header = parse_header(start)
    if why := explain_names(header, start.decode("utf-8-sig", "replace").partition("\n")[0]):
        raise UserError(f"{path} {why}.")
    return header


def _check_columns(config: ReadConfig, header: tuple[str, ...], path: str) -> None:
    for option in ("uri_column", "id_column"):
        name = getattr(config, option)
        if name and name not in header:
            close = suggest_uri_column(header) if option == "uri_column" else None
            remedy = f" Add --uri_column={close!r} if that column holds the URIs." if close else ""
            raise UserError(
                f"{option}={name!r} is no column of {path}; its columns are {', '.join(header)}.{remedy}"
            )


def _declared_types(config: ReadConfig, own: list[str], path: str) -> dict[str, pa.DataType]:
    for name, kind in config.column_types:
        if name not in own:
            raise UserError(f"column_types names {name!r}; the columns of {path} are {', '.join(own)}.")
        if kind not in COLUMN_TYPES:
            raise UserError(
                f"column_types: {name}={kind!r} is not allowed: one of {', '.join(COLUMN_TYPES)}."
            )
    return {name: COLUMN_TYPES[kind] for name, kind in config.column_types}


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
    names = [name.casefold() for name, _ in renamed]
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled:
        raise UserError(f"The output would have two columns {doubled!r}. Rename one in the CSV.")
    return tuple(renamed)
