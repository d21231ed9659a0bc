"""Commands to try next, at the end of a run."""

from __future__ import annotations

import itertools
import os
import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence

from labelbeam.pipeline.config import inputs_of
from labelbeam.pipeline.input_names import input_flags
from labelbeam.transforms.errors import Reason, may_heal
from labelbeam.transforms.files import is_local, join_path
from labelbeam.transforms.models.labels import synonyms_of
from labelbeam.transforms.models.presets import EMBEDDING
from labelbeam.transforms.sources.secrets import lacks_secrets
from labelbeam.transforms.table.manifest import Manifest
from labelbeam.transforms.table.rows import FAILURES, PREDICTIONS

# Without `truncated`, because most images of that reason are damaged files.
_AGAIN = {reason for reason in Reason if may_heal(reason)} - {Reason.TRUNCATED}

# Words of a column's name that mean a class, and words that may stand beside them.
_TRUTHS = frozenset(
    (
        *("label", "labels", "class", "classes", "category", "categories", "truth", "groundtruth", "gt"),
        *("target", "targets", "expected", "annotation", "annotations", "synset", "wnid", "y"),
    )
)
_BESIDE_TRUTHS = frozenset(
    ("true", "ground", "gold", "actual", "correct", "human", "manual", "image", "name", "names", "id", "ids")
)
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
# Arrow types of columns that may name a class.
_TYPES_OF_TRUTHS = re.compile(r"(large_)?(string|utf8)|u?int\d+|bool")
# Value of `evaluate --truth` that stands for the names of the images' folders.
_FOLDER = "folder"
# Length up to which commands are padded, so that their purposes stand below each other.
_LONGEST_ALIGNED = 72
# Folders of the input that are looked at, because a corpus may have millions.
_MOST_FOLDERS = 1000


def next_steps(manifest: Manifest, output: str) -> str:
    """Return commands to try next with an output folder."""
    predictions, failures = (join_path(output, table) for table in (PREDICTIONS, FAILURES))
    files = f"'{predictions}/**/*.parquet'"
    embedding = manifest.labelled_with.outputs.get(EMBEDDING)
    by_label = f"SELECT label, count(*) FROM {files} GROUP BY label ORDER BY 2 DESC"
    commands = list(_commands(manifest, shlex.quote(output)))
    width = min(_LONGEST_ALIGNED, max(len(command) for command, _ in commands))
    lines = ["", "Next steps"]
    lines += [f"  {command:<{width}}  # {purpose}" for command, purpose in commands]
    # PyArrow and not pandas, because labelbeam installs it.
    first_rows = f"  import pyarrow.dataset; pyarrow.dataset.dataset({predictions!r}).head(5).to_pylist()"
    lines += ["", "Rows, with PyArrow and in DuckDB", first_rows]
    lines.append(f"  {_most_similar(files, embedding) if embedding else by_label}")
    if manifest.failures_by_reason:
        lines.append(f"  SELECT reason, uri, message FROM '{failures}/**/*.parquet'")
    return "\n".join(lines)


def _commands(manifest: Manifest, output: str) -> Iterator[tuple[str, str]]:
    """Yield commands that fit an output, each with its purpose."""
    if truth := _truth_of(manifest):
        source = "the names of the images' folders" if truth == _FOLDER else f"the column {truth!r}"
        yield f"labelbeam evaluate {output} --truth {shlex.quote(truth)}", f"compares labels with {source}"
    if sum(manifest.rows.values()):
        yield f"labelbeam report {output}", "shows the results on one page"
    # These alone, because they may pass without a change of the input or the options.
    if again := [reason for reason in manifest.failures_by_reason if reason in _AGAIN]:
        only = f"--only {','.join(again)}{_input_of_secrets(manifest)}"
        yield f"labelbeam rerun {output} {only}", "retries failures that may be temporary"
    yield f"labelbeam verify {output}", "proves that the tables are whole"


def _truth_of(manifest: Manifest) -> str | None:
    """Return the value of `evaluate --truth` that fits an output; None if none does."""
    # Embeddings have no labels to compare.
    if not manifest.rows[PREDICTIONS] or EMBEDDING in manifest.labelled_with.outputs:
        return None
    if column := find_truth_column(manifest.labelled_with.columns):
        return column
    inputs = inputs_of(manifest.config.get("input", ""))
    folders = [folder for name in inputs for folder in _folders_of(name)]
    return _FOLDER if are_classes(folders, manifest.model.get("classes", ())) else None


def find_truth_column(columns: Mapping[str, str]) -> str | None:
    """Return the first column whose name and type are those of a class; None if there is none.

    Args:
      columns: Arrow types of columns, by name.
    """
    for column, kind in columns.items():
        words = {word.lower() for word in _WORD.findall(column.removeprefix("input_"))}
        is_class = bool(words & _TRUTHS) and words <= _TRUTHS | _BESIDE_TRUTHS
        if is_class and _TYPES_OF_TRUTHS.fullmatch(kind):
            return column
    return None


def are_classes(folders: Collection[str], classes: Sequence[str]) -> bool:
    """Return whether folders are one for each class: at least two, and most of them named after classes."""
    if len(folders) < 2:
        return False
    names = {_plain(name) for name in classes} | {name for _, name in synonyms_of(classes)}
    return 2 * sum(_plain(folder) in names for folder in folders) > len(folders)


def _plain(name: str) -> str:
    # As `labelbeam evaluate` compares names.
    return name.strip().lower().replace("_", " ")


def _folders_of(path: str) -> list[str]:
    """Return the names of folders in a local folder; of a glob, of the folders where its files may be."""
    # Not in buckets, because listing one takes seconds or more.
    if not path or not is_local(path):
        return []
    base = re.split(r"[^/]*[*?\[]", path, maxsplit=1)[0] or "."
    try:
        with os.scandir(base) as entries:
            return [e.name for e in itertools.islice(entries, _MOST_FOLDERS) if e.is_dir()]
    except OSError:  # a list of images, or a folder that is gone
        return []


def _input_of_secrets(manifest: Manifest) -> str:
    """Return the option that a rerun needs where failed images have secrets in their addresses."""
    names = manifest.config.get("secret_params") or ()
    examples = (manifest.failure_examples or {}).values()
    is_needed = any(lacks_secrets(example.uri, names) for example in examples)
    return input_flags(inputs_of(manifest.config["input"])) if is_needed else ""


def _most_similar(files: str, length: int) -> str:
    """Return a query for the images that are most similar to the first one."""
    # Cast to arrays, because Parquet has lists only, and DuckDB's similarity takes arrays of one length only.
    return (
        f"WITH images AS (SELECT uri, {EMBEDDING}::FLOAT[{length}] AS vector FROM {files}), "
        "first AS (FROM images LIMIT 1) "
        "SELECT images.uri, array_cosine_similarity(images.vector, first.vector) AS similarity "
        "FROM images, first ORDER BY similarity DESC LIMIT 5"
    )
