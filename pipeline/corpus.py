"""The corpus of `--input`, and the checks of it before anything starts."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping

import pyarrow as pa

from labelbeam.pipeline.config import ReadConfig
from labelbeam.transforms.errors import RunError, UserError
from labelbeam.transforms.files import escape_glob, exists, file_errors_as, is_folder, is_local, remote_scheme
from labelbeam.transforms.images.formats import IMAGE_SUFFIXES
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.inputs.files import read_start
from labelbeam.transforms.inputs.first_bytes import START_BYTES
from labelbeam.transforms.inputs.formats import INPUT_FORMATS, FoundFormat, Location, input_format
from labelbeam.transforms.inputs.globs import list_paths
from labelbeam.transforms.inputs.lists import list_suffixes
from labelbeam.transforms.notes import Notes
from labelbeam.transforms.sources.addresses import GCS

# Endings of lists in formats that are not read. They are taken as lines even in a glob, because the check of
# their first bytes then names the format, where a glob of other names stands for images.
_UNREAD = list_suffixes(
    *(".feather", ".arrow", ".avro", ".orc", ".sqlite", ".xlsx", ".xls", ".html"),
)


def find_corpus(config: ReadConfig, known_types: Mapping[str, pa.DataType] | None = None) -> Corpus:
    """Describe the corpus of an input: its format, files and columns.

    Args:
      config: The options of the input.
      known_types: Types of output columns, where the output has rows already.

    Raises:
      UserError: The input does not exist, or its content does not fit the options.
    """
    if config.input.startswith(("http://", "https://")):
        raise UserError(
            f"input={config.input!r} is an address. Download the list, or write the address into a "
            "text file to label that image."
        )
    scheme = remote_scheme(config.input)
    if scheme not in (None, GCS):
        raise UserError(
            f"input={config.input!r} is not allowed: a local path or gs://; {scheme}:// is not read. Copy it "
            "to one of these."
        )
    try:
        with file_errors_as(
            UserError, f"input={config.input!r} cannot be read", "Check its name and rights."
        ):
            location = _locate(config.input)
            form = _format_of(config, location)
            _refuse_options_of_other_formats(config, form)
            corpus = form.find(location, config, known_types or {})
            if config.image_feature and not corpus.image_feature:
                raise UserError(
                    f"image_feature={config.image_feature!r}: input={config.input!r} has no names of "
                    "features. Leave it out."
                )
            return dataclasses.replace(corpus, secret_params=config.secret_params)
    except RunError as e:  # a folder may not be listed, or a list is damaged
        raise UserError(str(e)) from e


def _locate(name: str) -> Location:
    # Absolute, so that an image has one URI and one id wherever a run is started.
    path = os.path.abspath(name) if is_local(name) else name
    if is_folder(path):
        return Location(name, path, f"{escape_glob(path.rstrip('/'))}/**", is_folder=True)
    # A name with brackets is no glob if there is a file of this very name.
    is_glob = any(c in path for c in "*?[") and not exists(path)
    return Location(name, path, path if is_glob else escape_glob(path), is_folder=False)


def _format_of(config: ReadConfig, location: Location) -> FoundFormat:
    declared, name = config.input_format, config.input.lower()
    if location.is_folder:
        if declared not in ("auto", "images"):
            raise UserError(
                f"input_format={declared!r}: input={config.input!r} is a folder, whose images are labelled. "
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
    found = next(by_content, None) or next(by_name, None)
    return found or input_format("images" if are_images else "lines")


def _start_of_first(location: Location) -> bytes:
    """Return the first bytes of the first file; none if it can't be read, which its format reports."""
    path = next(list_paths(location.pattern, Notes()), None)
    # Not a pipe, because it could be read only once.
    if path is None or (is_local(path) and not os.path.isfile(path)):
        return b""
    try:
        return read_start(path, START_BYTES)
    except (RunError, OSError):
        return b""


def _refuse_options_of_other_formats(config: ReadConfig, form: FoundFormat) -> None:
    refused = [] if form.name == "csv" else ["header", "delimiter"]
    if not form.has_columns:
        refused += ["uri_column", "uri_template", "id_column", "column_types"]
    for option in refused:
        # `uri` is allowed, because manifests of earlier versions record it for every input.
        if (value := getattr(config, option)) and value != "uri":
            raise UserError(
                f"{option}={value!r}: input={config.input!r} is read as {form.name}, which has no such "
                "option. Leave it out, or set --input_format."
            )
