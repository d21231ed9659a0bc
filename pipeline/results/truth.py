"""Truth: the right classes of images, from a column, a file or the names of folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

from labelbeam.pipeline.results.database import Database, literal, name, path_literal
from labelbeam.transforms.errors import UserError
from labelbeam.transforms.files import exists, file_errors_as, remote_scheme
from labelbeam.transforms.models.heads import EMBEDDING, MULTILABEL
from labelbeam.transforms.models.labels import synonyms_of
from labelbeam.transforms.sources.addresses import GCS
from labelbeam.transforms.table.manifest import Manifest
from labelbeam.transforms.table.rows import PREDICTIONS

# Value of --truth that stands for the name of an image's folder.
FOLDER = "folder"
# The path of an image. Only URLs have queries and escapes, because names of files and objects may have `?`.
_PATH = """CASE WHEN regexp_matches(uri, '^(https?|file)://')
    THEN url_decode(regexp_replace(uri, '[?#].*$', '')) ELSE uri END"""
_FILE_NAME, _FOLDER_NAME = (
    f"regexp_extract({_PATH}, '{part}', 1)" for part in ("([^/]+)$", "([^/]+)/[^/]*$")
)
# Columns of a truth file that may name the image, best first.
_KEYS = {"id": "id", "uri": "uri", "file": _FILE_NAME, "file_name": _FILE_NAME}
_READERS = {
    ".parquet": "read_parquet({})",
    ".jsonl": "read_json({}, format = 'newline_delimited')",
    ".json": "read_json({})",
}
# Compressed files have a second suffix.
_CSV = "read_csv({}, all_varchar = true, header = true)"
_MOST_LISTED = 20

# Number of keys of a truth file that are in the tables, and the first one that names several labelled images,
# as file names in several folders do.
_MATCHES = """
WITH images AS (
  SELECT {key} AS key, TRUE AS is_labelled FROM predictions UNION ALL SELECT {key}, FALSE FROM failures
), hits AS (
  SELECT key, count(*) FILTER (is_labelled) AS images FROM images JOIN truths USING (key) GROUP BY key
)
SELECT count(*) AS keys, min(key) FILTER (images > 1) AS namesake,
  arg_min(images, key) FILTER (images > 1) AS images
FROM hits
"""
# Each class that a truth names, and the class ids of that name; null if there are none.
_PARTS = """
CREATE TABLE parts AS
WITH named AS (
  SELECT DISTINCT truth_text, trim(unnest({parts})) AS part
  FROM (SELECT DISTINCT truth_text FROM known WHERE trim(truth_text) <> '')
), by_name AS (
  SELECT part, list(DISTINCT class_id) AS ids
  FROM (SELECT DISTINCT part FROM named) JOIN names ON names.name = {plain_part}
  GROUP BY part
)
SELECT truth_text, part,
  coalesce(by_name.ids, CASE WHEN own_ids.class_id IS NOT NULL THEN [own_ids.class_id] END) AS ids,
  by_name.ids IS NOT NULL AS by_name
FROM named LEFT JOIN by_name USING (part)
LEFT JOIN own_ids
  -- With a fraction of zeros, because pandas writes whole numbers so where some are missing.
  ON regexp_full_match(part, '\\d{{1,9}}(\\.0+)?') AND own_id = try_cast(part AS DOUBLE)
"""
# A truth without parts is the separator alone, and stands for no class.
_MEANINGS = """
CREATE TABLE meanings AS
SELECT truth_text,
  list_sort(list_distinct(flatten(coalesce(list(ids) FILTER (ids IS NOT NULL), [])))) AS right_ids,
  count(*) FILTER (part <> '') AS parts
FROM parts GROUP BY truth_text
"""
_JUDGED = """
CREATE VIEW judged AS
SELECT known.* EXCLUDE (truth_text), right_ids
FROM known JOIN meanings USING (truth_text)
WHERE len(right_ids) >= {least} AND (len(right_ids) > 0 OR parts = 0)
"""
_COUNTS = """
SELECT count(*) AS images, (SELECT count(*) FROM judged) AS judged,
  (SELECT count(*) FROM known JOIN meanings USING (truth_text) WHERE parts > 0 AND right_ids = [])
    AS unmatched_images,
  (SELECT count(*) FROM known_failures WHERE trim(truth_text) <> '') AS failed,
  (SELECT count(DISTINCT part) FROM parts WHERE by_name) AS by_name,
  (SELECT count(DISTINCT part) FROM parts WHERE ids IS NOT NULL AND NOT by_name) AS by_id
FROM known
"""
_UNMATCHED = f"""
SELECT part AS truth, count(*) AS images
FROM known JOIN parts USING (truth_text) WHERE ids IS NULL AND part <> ''
GROUP BY part ORDER BY images DESC, part LIMIT {_MOST_LISTED}
"""


@dataclass(frozen=True, slots=True)
class TruthOptions:
    """Where the right classes of images are.

    Attributes:
      column: A column of the tables, or of the file; `folder` for the name of the image's folder.
      file: CSV, Parquet or JSON file with a column `id`, `uri`, `file` or `file_name`.
      separator: Text between several classes of an image.
    """

    column: str = ""
    file: str = ""
    separator: str = "|"


@dataclass(frozen=True, slots=True)
class Unmatched:
    """A truth that no class of the model has as its name or id."""

    truth: str
    images: int


@dataclass(frozen=True, slots=True)
class Match:
    """The matching of truth and classes.

    Attributes:
      source: Origin of the truth, for a person.
      images: Images with labels.
      judged: Images with labels and with a truth that is a class.
      failed: Images with a truth that failed, and so have no labels.
      by_name: Different truths that matched by the name of a class.
      by_id: Different truths that matched by the number of a class.
      unmatched: The most frequent truths that match nothing; images with them are not judged.
      unmatched_images: Number of images with a truth that matches nothing.
    """

    source: str
    images: int
    judged: int
    failed: int
    by_name: int
    by_id: int
    unmatched: tuple[Unmatched, ...]
    unmatched_images: int

    @property
    def without(self) -> int:
        """Number of images with labels and without a truth."""
        return self.images - self.judged - self.unmatched_images


def match_truth(
    db: Database, manifest: Manifest, options: TruthOptions, group: str = "NULL", own_classes: str = "classes"
) -> Match:
    """Match the truth of images with the model's classes.

    Makes the view `judged` of predictions whose truth is a class: `id`, `uri`, `labels`, `score`, the column
    of kept outputs, `group_value`, and `right_ids`, class ids in ascending order. Labels match by name
    (without regard to case, and with underscores for spaces), else by class id.

    Args:
      db: Database with the tables.
      manifest: Manifest of the tables.
      options: Origin of the truth.
      group: SQL of a value of the predictions that divides them into groups.
      own_classes: Table of the model's own classes, where `classes` has those of two models by name.

    Raises:
      UserError: There is no such column or file, an image has several rows in the file, or no truth matches.
    """
    require_classes(manifest)
    if not manifest.rows[PREDICTIONS]:
        raise UserError("The tables have no labelled image, so there is nothing to compare with a truth.")
    # No star, because statements over `judged` have names of their own, which columns of users must not take.
    columns = ("id", "uri", "labels", "score", *manifest.labelled_with.outputs)
    selected = ", ".join(f"predictions.{column}" for column in columns)
    source = _attach_truth(db, manifest, options, f"{selected}, CAST({group} AS VARCHAR) AS group_value")
    _attach_names(db, manifest, own_classes)
    parts = f"string_split(truth_text, {literal(options.separator)})" if options.separator else "[truth_text]"
    db.run(_PARTS.format(parts=parts, plain_part=plain_name("part")))
    db.run(_MEANINGS)
    db.run(_JUDGED.format(least=0 if manifest.model["head"] == MULTILABEL else 1))
    counts = db.row(_COUNTS)
    unmatched = tuple(Unmatched(**row) for row in db.rows(_UNMATCHED))
    if not counts["judged"]:
        examples = ", ".join(repr(one.truth) for one in unmatched[:5])
        why = f"matches a class of the model, such as {examples}" if unmatched else "is there"
        raise UserError(
            f"No truth in {source} {why}. Truths are names of classes, such as "
            f"{manifest.model['classes'][0]!r}, or class ids."
        )
    return Match(source=source, unmatched=unmatched, **counts)


def require_classes(manifest: Manifest) -> None:
    """Refuse tables without a list of the model's classes.

    Raises:
      UserError: The manifest has none.
    """
    if manifest.model.get("classes"):
        return
    if manifest.model.get("head") == EMBEDDING:
        raise UserError(
            "The tables have embeddings and no labels, so there is nothing to compare with a truth."
        )
    raise UserError(
        "manifest.json has no list of the model's classes, because an older labelbeam wrote it. Run the same "
        "run command again to add it; no image is labelled again."
    )


def _attach_truth(db: Database, manifest: Manifest, options: TruthOptions, selected: str) -> str:
    """Make the views `known` and `known_failures`, with the column `truth_text`; return its origin.

    Args:
      db: Database with the tables.
      manifest: Manifest of the tables.
      options: Origin of the truth.
      selected: Further columns of `known`, as SQL.
    """
    if options.file:
        return _attach_file(db, options, selected)
    columns = manifest.labelled_with.columns
    # An own column of a name that the tables need themselves is stored under another one.
    column = next((c for c in (options.column, f"input_{options.column}") if c in columns), None)
    if column:
        value, source = _text(db, "predictions", column, options.separator), f"the column {column!r}"
    elif options.column == FOLDER:
        value, source = f"nullif({_FOLDER_NAME}, '')", "the names of folders"
    else:
        own = ", ".join(map(repr, columns)) or "none"
        raise UserError(
            f"truth={options.column!r} is no column of the input. Its columns: {own}. Give one of them, "
            f"{FOLDER!r} for the name of the image's folder, or a file with --truth_file."
        )
    db.run(f"CREATE VIEW known AS\nSELECT {selected}, {value} AS truth_text\nFROM predictions")
    db.run(f"CREATE VIEW known_failures AS\nSELECT {value} AS truth_text FROM failures")
    return source


def _text(db: Database, table: str, column: str, separator: str) -> str:
    """Return a column's value as text; lists are joined by the separator.

    Raises:
      UserError: DuckDB reads the column under another name.
    """
    kind = db.columns(table).get(column)
    if kind is None:
        raise UserError(
            f"The column {column!r} of {table} differs from another one in its case alone. Label with "
            "columns of distinct names."
        )
    if kind.endswith("]"):
        return f"array_to_string({name(column)}, {literal(separator)})"
    return f"CAST({name(column)} AS VARCHAR)"


def _attach_file(db: Database, options: TruthOptions, selected: str) -> str:
    path = options.file
    if (scheme := remote_scheme(path)) not in (None, GCS):
        raise UserError(
            f"truth_file={path!r} is not allowed: a local file or gs://; {scheme}:// is not read."
        )
    with file_errors_as(UserError, f"truth_file={path!r} cannot be read", "Check its name and rights."):
        if not exists(path):
            raise UserError(f"truth_file={path!r} does not exist. Check its name.")
    suffixes = [s for s in PurePath(path).suffixes if s not in (".gz", ".zst")]
    reader = _READERS.get(suffixes[-1].lower() if suffixes else "", _CSV)
    with db.reading(f"truth_file={path!r}", "Give a CSV with a header, Parquet, or JSON"):
        db.run(f"CREATE VIEW truth_file AS FROM {reader.format(path_literal(path))}")
        columns = list(db.columns("truth_file"))
        key = next((key for key in _KEYS if key in columns), None)
        column = options.column or _only_other(columns, key)
        listed = f"truth_file={path!r} has the columns {', '.join(map(repr, columns))}"
        if key is None:
            raise UserError(
                f"{listed}. It needs one of {', '.join(map(repr, _KEYS))}, which names the image."
            )
        if column not in columns:
            what = f"no column {column!r}" if column else "more than one of them beside the image's name"
            raise UserError(f"{listed}, and {what}. Name the one with the right class with --truth.")
        value = _text(db, "truth_file", column, options.separator)
        db.run(
            f"CREATE TABLE truths AS\nSELECT CAST({name(key)} AS VARCHAR) AS key, {value} AS truth_text\n"
            f"FROM truth_file WHERE {name(column)} IS NOT NULL AND {name(key)} IS NOT NULL"
        )
    _check_keys(db, options, key)
    db.run(
        f"CREATE VIEW known AS\nSELECT {selected}, truths.truth_text\n"
        f"FROM predictions LEFT JOIN truths ON truths.key = {_KEYS[key]}"
    )
    db.run(
        "CREATE VIEW known_failures AS\nSELECT truths.truth_text\n"
        f"FROM failures JOIN truths ON truths.key = {_KEYS[key]}"
    )
    return f"the column {column!r} of {path}"


def _check_keys(db: Database, options: TruthOptions, key: str) -> None:
    """Refuse a truth file whose keys do not name images one by one."""
    path = options.file
    if doubled := db.rows(
        "SELECT key, count(*) AS n FROM truths GROUP BY key HAVING n > 1 ORDER BY 1 LIMIT 1"
    ):
        raise UserError(
            f"truth_file={path!r} has {doubled[0]['n']:,} rows for {key} {doubled[0]['key']!r}. Join its "
            f"classes in one row, with {options.separator!r} between them."
        )
    matches = db.row(_MATCHES.format(key=_KEYS[key]))
    if not matches["keys"]:
        example = next((row["key"] for row in db.rows("SELECT key FROM truths LIMIT 1")), None)
        some = f"no {key} of it is one of the tables, such as {example!r}" if example else "it has no rows"
        raise UserError(f"truth_file={path!r} has the truth of no image: {some}.")
    if matches["namesake"] is not None:
        raise UserError(
            f"truth_file={path!r}: the tables have {matches['images']:,} images for {key} "
            f"{matches['namesake']!r}. Name images by id or uri."
        )


def _only_other(columns: list[str], key: str | None) -> str:
    others = [column for column in columns if column != key]
    return others[0] if len(others) == 1 else ""


def plain_name(column: str) -> str:
    """Return the SQL of a class's name as names are compared."""
    return f"lower(replace(trim({column}), '_', ' '))"


def _attach_names(db: Database, manifest: Manifest, own_classes: str) -> None:
    """Make the table `names`, in which several classes may have one name, and `own_ids`, the model's ids."""
    db.run(f"CREATE TABLE names AS\nSELECT class_id, {plain_name('label')} AS name FROM classes")
    same = "class_id" if own_classes == "classes" else "name"
    db.run(
        "CREATE TABLE own_ids AS\nSELECT own.class_id AS own_id, names.class_id\n"
        f"FROM (SELECT class_id, {plain_name('label')} AS name FROM {own_classes}) AS own "
        f"JOIN names USING ({same})"
    )
    if synonyms := list(synonyms_of(manifest.model["classes"])):
        rows = ", ".join(f"({class_id}, {literal(name)})" for class_id, name in synonyms)
        # ImageNet's other names, because folders and columns of ImageNet's users have synsets and synonyms.
        db.run(
            "INSERT INTO names\nSELECT own_ids.class_id, synonyms.name\n"
            f"FROM (VALUES {rows}) AS synonyms(own_id, name) JOIN own_ids USING (own_id)\nEXCEPT FROM names"
        )
