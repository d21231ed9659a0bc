"""The corpus of `--input`, and the checks of it before anything starts."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from labelbeam.pipeline.config import ReadConfig
from labelbeam.pipeline.copies import copy_input, name_copies
from labelbeam.pipeline.extras import require
from labelbeam.pipeline.input_names import is_copied, is_in_bigquery, public_input
from labelbeam.transforms.boxes import with_boxes
from labelbeam.transforms.errors import RunError, UserError
from labelbeam.transforms.files import escape_glob, exists, file_errors_as, is_folder, is_local, remote_scheme
from labelbeam.transforms.images.formats import IMAGE_SUFFIXES
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.inputs.delimiters import has_columns
from labelbeam.transforms.inputs.files import read_start
from labelbeam.transforms.inputs.first_bytes import START_BYTES, has_uri_column, is_image
from labelbeam.transforms.inputs.formats import INPUT_FORMATS, FoundFormat, Location, input_format
from labelbeam.transforms.inputs.globs import list_paths
from labelbeam.transforms.inputs.lists import is_hidden, list_suffixes
from labelbeam.transforms.inputs.several import join_corpora
from labelbeam.transforms.notes import Notes
from labelbeam.transforms.sources import Limits
from labelbeam.transforms.sources.addresses import GCS

# Endings of lists in formats that are not read. They are taken as lines even in a glob, because the check of
# their first bytes then names the format, where a glob of other names stands for images.
_UNREAD = list_suffixes(
    *(".feather", ".arrow", ".avro", ".orc", ".sqlite", ".xlsx", ".xls", ".html"),
)
# Files of a glob that are looked at for one that shows the format.
_FILES_LOOKED_AT = 100

# Options that only some formats have.
_OPTIONS_OF_CSV = ("header", "delimiter")
_OPTIONS_OF_COLUMNS = (*_OPTIONS_OF_CSV, "uri_column", "uri_template", "id_column", "column_types")
# Names of a glob's files by which its formats are found.
_NAMES_LOOKED_AT = 1000


def find_corpus(
    config: ReadConfig,
    known_types: Mapping[str, pa.DataType] | None = None,
    limits: Callable[[], Limits] = Limits,
) -> Corpus:
    """Describe the corpus of one or several inputs: formats, files and columns.

    Args:
      config: The options of the input.
      known_types: Types of output columns, where the output has rows already.
      limits: Returns the limits of requests; called only if an input is on the web.

    Raises:
      UserError: An input does not exist, its content does not fit the options, or inputs do not fit each
        other.
    """
    parts = [
        _with_options(_find_one(name, config, known_types or {}, limits), config, public_input(name))
        for name in config.inputs
    ]
    return parts[0] if len(parts) == 1 else join_corpora(parts, list(map(public_input, config.inputs)))


def _find_one(
    name: str, config: ReadConfig, known_types: Mapping[str, pa.DataType], limits: Callable[[], Limits]
) -> Corpus:
    if is_in_bigquery(name):
        return _find_in_bigquery(name, config, known_types)
    scheme = None if is_copied(name) else remote_scheme(name)
    if scheme not in (None, GCS):
        raise UserError(
            f"input={name!r} is not allowed: a local path, gs://, http(s):// or bigquery://; {scheme}:// is "
            "not read. Copy it to one of these."
        )
    try:
        with file_errors_as(UserError, f"input={name!r} cannot be read", "Check its name and rights."):
            location = _copied(name, limits) if is_copied(name) else _locate(name)
            form = _format_of(config, location)
            if is_copied(name) and (form.name == "images" or is_image(_start_of_first(location))):
                raise _images_in_copy(location.name)
            _refuse_options_of_other_formats(config, form, location.name)
            try:
                corpus = form.find(location, config, known_types)
            except (UserError, RunError):
                # Afterwards, because files of another format are then the likely cause.
                if config.input_format == "auto" and not location.is_folder:
                    _refuse_several_formats(location)
                raise
            if corpus.format != form.name:  # Parquet with images inside
                _refuse_options_of_other_formats(config, input_format(corpus.format), location.name)
            if is_copied(name) and corpus.holds_images:
                raise _images_in_copy(location.name)
            if config.image_feature and not corpus.image_feature:
                raise UserError(
                    f"image_feature={config.image_feature!r}: input={location.name!r} has no names of "
                    "features. Leave it out."
                )
            return corpus
    except (UserError, RunError) as e:  # RunError where a folder may not be listed, or a list is damaged
        raise UserError(name_copies(str(e))) from e


def _with_options(corpus: Corpus, config: ReadConfig, name: str) -> Corpus:
    """Return a corpus with the options that are the same in all formats."""
    corpus = with_boxes(corpus, config.boxes, name) if config.boxes else corpus
    return dataclasses.replace(corpus, secret_params=config.secret_params)


def _find_in_bigquery(name: str, config: ReadConfig, known_types: Mapping[str, pa.DataType]) -> Corpus:
    require("--input bigquery:", "bigquery", ("google.cloud.bigquery", "google.cloud.bigquery_storage"))
    # Imported here, because the extra may be missing.
    from labelbeam.transforms.inputs.bigquery import FORMAT

    if config.input_format != "auto":
        raise UserError(
            f"input_format={config.input_format!r}: input={name!r:.100} is no file. Leave it out."
        )
    return FORMAT.find(Location(name, name, name, is_folder=False), config, known_types)


def _copied(name: str, limits: Callable[[], Limits]) -> Location:
    path = copy_input(name, limits)
    return Location(public_input(name), path, escape_glob(path), is_folder=False)


def _images_in_copy(name: str) -> UserError:
    # Because URIs and ids of images that are no rows of a list have the file's path in them.
    return UserError(
        f"input={name!r} holds images, which are not read from a copy. Download it to a folder or bucket, or "
        "write the addresses of images to a list."
    )


def _locate(name: str) -> Location:
    # Absolute, so that an image has one URI and one id wherever a run is started.
    path = os.path.abspath(name) if is_local(name) else name
    if is_folder(path):
        return Location(name, path, f"{escape_glob(path.rstrip('/'))}/**", is_folder=True)
    # A name with brackets is no glob if there is a file of this very name.
    is_glob = any(c in path for c in "*?[") and not exists(path)
    return Location(name, path, path if is_glob else escape_glob(path), is_folder=False)


def _format_of(config: ReadConfig, location: Location) -> FoundFormat:
    declared, name = config.input_format, location.path.lower()
    if location.is_folder:
        if declared not in ("auto", "images"):
            raise UserError(
                f"input_format={declared!r}: input={location.name!r} is a folder, whose images are labelled. "
                f"To read the lists in it, give a pattern such as {os.path.join(location.path, '*')!r}."
            )
        return input_format("images")
    if declared != "auto":
        return input_format(declared)
    # Images by name first, because one other file among a million images is a failure of its own.
    if name.endswith(IMAGE_SUFFIXES):
        return input_format("images")
    forms = list(map(input_format, INPUT_FORMATS))
    start = _start_of_first(location)
    by_content = (form for form in forms if form.recognises(start))
    by_name = (form for form in forms if name.endswith(form.suffixes))
    are_images = location.pattern != escape_glob(location.path) and not name.endswith(_UNREAD)
    if form := next(by_content, None) or next(by_name, None):
        return form
    # Also in a glob, because images have no columns.
    if not is_image(start) and any(_value_of(config, option) for option in _OPTIONS_OF_COLUMNS):
        return input_format("csv")
    if are_images:
        _refuse_lists_for_images(location)
        return input_format("images")
    # As standard input, whose name shows no format.
    return input_format("csv" if has_columns(start) or has_uri_column(start) else "lines")


def _formats_in(location: Location) -> dict[str, str]:
    """Return formats by the endings of a glob's files, the most frequent ending first.

    Names of other endings are under "", without a format. Hidden files are left out.
    """
    forms = list(map(input_format, INPUT_FORMATS))
    counts: Counter[tuple[str, str]] = Counter()
    for path in itertools.islice(list_paths(location.pattern, Notes()), _NAMES_LOOKED_AT):
        if not is_hidden(path):
            name = path.rpartition("/")[2].lower()
            endings = ((end, form.name) for form in forms for end in form.suffixes if name.endswith(end))
            counts[next(endings, ("", ""))] += 1
    return dict(ending for ending, _ in counts.most_common())


def _refuse_lists_for_images(location: Location) -> None:
    """Refuse a glob whose name shows no format if its files are not images, but mostly have known endings."""
    endings = _formats_in(location)
    if next(iter(endings), "") and "images" not in endings.values():
        raise UserError(
            f"input={location.name!r} would be read as images, because the pattern shows no other format, "
            f"and its files end in {_listed(endings)}. {_give_patterns(location, endings)}."
        )


def _refuse_several_formats(location: Location) -> None:
    endings = _formats_in(location) if location.pattern != escape_glob(location.path) else {}
    if len(set(filter(None, endings.values()))) > 1:
        raise UserError(
            f"input={location.name!r} has files of several formats, which end in {_listed(endings)}. "
            f"{_give_patterns(location, endings)}."
        )


def _listed(endings: Mapping[str, str]) -> str:
    return ", ".join(filter(None, endings))


def _give_patterns(location: Location, endings: Mapping[str, str]) -> str:
    patterns = [repr(location.name + ending) for ending in endings if ending]
    # Only behind a `*`, because the ending of a file is behind other names already.
    remedy = " or ".join(patterns) if location.name.endswith("*") else "a pattern with the ending"
    return f"Give {remedy}, or set --input_format"


def _start_of_first(location: Location) -> bytes:
    """Return the first bytes of the first file that is neither empty nor hidden.

    None are returned of a file that can't be read, which its format reports, or if there is no such file.
    """
    paths = list_paths(location.pattern, Notes())
    if location.pattern != escape_glob(location.path):
        paths = itertools.islice((path for path in paths if not is_hidden(path)), _FILES_LOOKED_AT)
    return next(filter(None, map(_start_of, paths)), b"")


def _start_of(path: str) -> bytes:
    # Not a pipe, because it could be read only once.
    if is_local(path) and not os.path.isfile(path):
        return b""
    try:
        return read_start(path, START_BYTES)
    except (RunError, OSError):
        return b""


def _refuse_options_of_other_formats(config: ReadConfig, form: FoundFormat, name: str) -> None:
    refused: tuple[str, ...] = () if form.name == "csv" else _OPTIONS_OF_CSV
    if not form.has_columns:
        refused = _OPTIONS_OF_COLUMNS
    remedy = "add --input_format=csv if it is a CSV" if form.name == "lines" else "set --input_format"
    for option in refused:
        if value := _value_of(config, option):
            # As the user wrote it, because Python's form of names is another one.
            shown = ",".join(value) if option == "header" else value
            raise UserError(
                f"{option}={shown!r}: input={name!r} is read as {form.name}, which has no such option. Leave "
                f"it out, or {remedy}."
            )


def _value_of(config: ReadConfig, option: str) -> Any:
    """Return the value of an option that has been set."""
    value = getattr(config, option)
    # `uri` is none, because manifests of earlier versions record it for every input.
    return None if value == "uri" else value
