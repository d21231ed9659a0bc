"""Formats of a selection: lists, tables, and tasks for Label Studio and FiftyOne."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import quoteattr

from labelbeam.pipeline.results.columns import (
    as_cell,
    as_json,
    csv_options,
    free_name,
    jsonl_options,
    lines_options,
    select_list,
    struct,
)
from labelbeam.pipeline.results.database import ELEMENT, Database, literal, name
from labelbeam.pipeline.results.targets import new_file
from labelbeam.transforms.errors import UserError
from labelbeam.transforms.files import join_path
from labelbeam.transforms.images.regions import MARK
from labelbeam.transforms.models.heads import MULTILABEL
from labelbeam.transforms.table.manifest import Manifest
from labelbeam.transforms.table.rows import CALIBRATION_COLUMNS, RESERVED_COLUMNS

_FROM = "FROM ranks JOIN predictions USING (id)"
# Choices of Label Studio and FiftyOne, which must differ, while labels need not (ImageNet has two cranes).
# Labels that end like a number of a class get one, too, so that no two choices can be equal. XML has no
# control characters.
_CHOICES = r"""
CREATE TABLE choices AS
SELECT class_id, CASE
    WHEN count(*) OVER (PARTITION BY text) > 1 OR text = '' OR regexp_matches(text, '\(\d+\)$')
    THEN trim(text || ' (' || class_id || ')') ELSE text
  END AS choice
FROM (
  SELECT class_id,
    trim(regexp_replace(label, '[\x00-\x08\x0b\x0c\x0e-\x1f\x{fffe}\x{ffff}]', '�', 'g')) AS text
  FROM classes
)
"""
# A variable, because it is a constant of the statements, while a column would be copied for each label.
_SET_CHOICES = "SET VARIABLE choices = (SELECT list(choice ORDER BY class_id) FROM choices)"
_REMOTE = r"regexp_matches(predictions.uri, '^(?i)(https?|gs)://')"
# Names of local files may have some.
_HAS_LINE_BREAK = r"regexp_matches(predictions.uri, '[\n\r]')"
_PATH_IN_URI = r"regexp_extract(predictions.uri, '^(?i)file:(?://(?:localhost)?)?(/.*)$', 1)"
# Columns of a row that its reader needs, as far as the tables have them.
_COLUMNS = ("id", "uri", "label", "score", "labels", *CALIBRATION_COLUMNS)
_RANKED = [("ranks.rank", "rank"), ("ranks.value", "value")]


@dataclass(frozen=True, slots=True)
class Selected:
    """The selected images in a database, and the place for them.

    Attributes:
      db: Database with the tables and with `ranks`.
      manifest: Manifest of the tables.
      to: File or folder for the result.
      kinds: Types of the columns of `predictions` by name.
      further: Columns of `ranks` beside rank and value.
    """

    db: Database
    manifest: Manifest
    to: str
    kinds: dict[str, str]
    further: tuple[str, ...]

    @staticmethod
    def of(db: Database, manifest: Manifest, to: str) -> Selected:
        """Describe the selected images of a database."""
        known = ("id", "class_id", "value", "rank")
        further = tuple(column for column in db.columns("ranks") if column not in known)
        return Selected(db, manifest, to, db.columns("predictions"), further)

    @property
    def is_multilabel(self) -> bool:
        """Whether an image may have several labels."""
        return bool(self.manifest.model["head"] == MULTILABEL)

    def columns(
        self, convert: Callable[[str, str], str], first: list[tuple[str, str]]
    ) -> list[tuple[str, str]]:
        """Return expressions and names of columns: the first ones, those of `ranks`, and the user's own."""
        fixed = [*first, *((f"ranks.{column}", column) for column in self.further)]
        own = self.kinds.keys() - RESERVED_COLUMNS
        taken = {column for _, column in fixed}
        named = [
            (convert(f"predictions.{name(c)}", self.kinds[c]), free_name(c, taken | (own - {c})))
            for c in self.kinds
            if c in own
        ]
        return [*fixed, *named]


def write_uris(selected: Selected) -> list[str]:
    """Write a list of URIs, one a line."""
    if example := selected.db.rows(f"SELECT predictions.uri {_FROM} WHERE {_HAS_LINE_BREAK} LIMIT 1"):
        raise UserError(
            f"format='uris' has one URI a line, and {example[0]['uri']!r:.300} has a line break. Give "
            "--format csv or jsonl."
        )
    query = f"SELECT predictions.uri {_FROM} ORDER BY ranks.rank"
    selected.db.copy(query, selected.to, lines_options(selected.to))
    return []


def write_csv(selected: Selected) -> list[str]:
    """Write a CSV."""
    _write_table(selected, as_cell, csv_options(selected.to))
    return []


def write_jsonl(selected: Selected) -> list[str]:
    """Write a JSON object a line."""
    _write_table(selected, as_json, jsonl_options(selected.to))
    return []


def _write_table(selected: Selected, convert: Callable[[str, str], str], options: str) -> None:
    columns = [column for column in _COLUMNS if column in selected.kinds]
    first = [*_RANKED, *((convert(f"predictions.{c}", selected.kinds[c]), c) for c in columns)]
    cells = select_list(selected.columns(convert, first))
    selected.db.copy(f"SELECT {cells}\n{_FROM} ORDER BY ranks.rank", selected.to, options)


# A prediction's score and result are those of the model; people correct the choices.
_TASKS = """
SELECT {data} AS data, [{{
    'model_version': {version}, 'score': predictions.score,
    'result': CASE WHEN predictions.label IS NULL THEN [] ELSE [{{
      'id': 'label', 'from_name': 'label', 'to_name': 'image', 'type': 'choices',
      'value': {{'choices': {choices}}}
    }}] END
  }}] AS predictions
{ranked} ORDER BY ranks.rank
"""


def write_labelstudio(selected: Selected) -> list[str]:
    """Write tasks of Label Studio with pre-annotations, and the labelling configuration for them."""
    _refuse_boxes(selected, "Label Studio")
    choices = _choices(selected, "Label Studio")
    # Paths within a query, because Label Studio serves local files under this URL alone.
    address = (
        f"CASE WHEN {_REMOTE} THEN predictions.uri ELSE '/data/local-files/?d=' || "
        f"CASE WHEN {_PATH_IN_URI} <> '' "
        f"THEN replace(replace(replace({_PATH_IN_URI}[2:], '&', '%26'), '+', '%2B'), '#', '%23') "
        f"ELSE replace(url_encode(({_absolute('predictions.uri')})[2:]), '%2F', '/') END END"
    )
    first = [(address, "image"), ("predictions.id", "image_id"), ("predictions.uri", "uri")]
    first += _RANKED
    query = _TASKS.format(
        data=struct(selected.columns(as_json, first)),
        version=literal(f"{selected.manifest.model['handle']} {selected.manifest.labelled_with.model}"),
        choices=f"list_transform(predictions.labels, lambda {ELEMENT}: {_choice(f'{ELEMENT}.class_id')})"
        if selected.is_multilabel
        else f"[{_choice('ranks.class_id')}]",
        ranked=_FROM,
    )
    selected.db.copy(query, join_path(selected.to, "tasks.json"), "FORMAT json, ARRAY true")
    if selected.db.shown:
        return []
    config = join_path(selected.to, "config.xml")
    with new_file(config) as written:
        Path(written).write_text(_labelling_config(choices, selected.is_multilabel), "utf-8")
    notes = _note_relative_paths(selected)
    return [f"Make a project with the labelling configuration {config}, and import tasks.json.", *notes]


def _labelling_config(choices: list[str], several: bool) -> str:
    # A drop-down, because a thousand classes would fill the page.
    layout = "select" if len(choices) > 20 else "inline"
    lines = (
        "<View>",
        '  <Image name="image" value="$image"/>',
        f'  <Choices name="label" toName="image" choice="{"multiple" if several else "single"}" '
        f'layout="{layout}">',
        *(f"    <Choice value={quoteattr(choice)}/>" for choice in choices),
        "  </Choices>",
        "</View>",
    )
    return "\n".join(lines) + "\n"


# One object, in lines: its beginning, an entry for each image, its end.
_OBJECT = """
SELECT line FROM (
  SELECT 0 AS n, {beginning} AS line
  UNION ALL
  SELECT ranks.rank, CASE WHEN ranks.rank > 1 THEN ', ' ELSE '' END || to_json({key})::VARCHAR || ': ' ||
    to_json({value})::VARCHAR
  {ranked}
  UNION ALL
  SELECT (SELECT count(*) FROM ranks) + 1, {end}
) ORDER BY n
"""
# Ranks with zeros in front, because FiftyOne sorts the keys.
_KEY = "format('{:012d}', ranks.rank)"


def write_fiftyone(selected: Selected) -> list[str]:
    """Write a dataset folder that FiftyOne imports as `FiftyOneImageClassificationDataset`."""
    _refuse_boxes(selected, "FiftyOne")
    _choices(selected, "FiftyOne")
    decoded = f"CASE WHEN {_PATH_IN_URI} <> '' THEN TRY(url_decode({_PATH_IN_URI})) ELSE predictions.uri END"
    path = f"CASE WHEN NOT {_REMOTE} THEN {_absolute(decoded)} END"
    _refuse_remote(selected, path)
    # Without the user's own columns, because FiftyOne's labels have attributes of their own.
    facts = struct([("predictions.id", "image_id"), *_RANKED, *((f"ranks.{c}", c) for c in selected.further)])
    entry = "{{'label': {}, 'confidence': {}, 'attributes': {}}}".format
    if selected.is_multilabel:
        numbered = entry(_choice(f"{ELEMENT}.class_id"), f"{ELEMENT}.score", facts)
        value = f"list_transform(predictions.labels, lambda {ELEMENT}: {numbered})"
    else:
        value = entry(_choice("ranks.class_id"), "predictions.score", facts)
    classes = "'{\"classes\": ' || to_json(getvariable('choices'))::VARCHAR || ', \"labels\": {'"
    for file, beginning, end, content in (
        ("labels.json", classes, "'}}'", value),
        ("data.json", "'{'", "'}'", path),
    ):
        query = _OBJECT.format(beginning=beginning, key=_KEY, value=content, end=end, ranked=_FROM)
        to = join_path(selected.to, file)
        selected.db.copy(query, to, lines_options(to))
    return [
        f"Import: fiftyone.Dataset.from_dir({selected.to!r}, fiftyone.types."
        'FiftyOneImageClassificationDataset, data_path="data.json")',
        *_note_relative_paths(selected),
    ]


def _choice(class_id: str) -> str:
    return f"getvariable('choices')[{class_id} + 1]"


def _choices(selected: Selected, program: str) -> list[str]:
    """Make the table and the variable `choices`, and return the choices by class id."""
    if not selected.manifest.model.get("classes"):
        raise UserError(
            f"{program} needs the model's classes, and manifest.json has none. Give --format csv, jsonl or "
            "uris; if an older labelbeam wrote the tables, the same run command again adds the classes, and "
            "labels no image again."
        )
    selected.db.run(_CHOICES)
    selected.db.run(_SET_CHOICES)
    return list(selected.db.texts("SELECT choice FROM choices ORDER BY class_id"))


def _absolute(path: str) -> str:
    """Return a local path as an absolute one, as SQL."""
    here = literal(os.getcwd().rstrip("/") + "/")
    return f"CASE WHEN starts_with({path}, '/') THEN {path} ELSE {here} || {path} END"


def _note_relative_paths(selected: Selected) -> list[str]:
    where = f"NOT {_REMOTE} AND {_PATH_IN_URI} = '' AND NOT starts_with(predictions.uri, '/')"
    n = selected.db.row(f"SELECT count(*) AS n {_FROM} WHERE {where}")["n"]
    if not n:
        return []
    return [f"Warning: paths that are relative, and are taken from the folder {os.getcwd()}: {n:,}."]


def _refuse_boxes(selected: Selected, program: str) -> None:
    is_box = f"contains(predictions.id, '#') AND contains(predictions.uri, '{MARK}')"
    query = f"SELECT count(*) AS n, min(predictions.uri) AS example {_FROM} WHERE {is_box}"
    row = selected.db.row(query)
    if row["n"]:
        are = (
            "1 of the selected rows is a box"
            if row["n"] == 1
            else f"{row['n']:,} of the selected rows are boxes"
        )
        raise UserError(
            f"{program} would show whole images, and {are}, such as {row['example']!r:.300}. Give --format "
            "csv, jsonl or uris."
        )


def _refuse_remote(selected: Selected, path: str) -> None:
    query = f"SELECT count(*) AS n, min(predictions.uri) AS example {_FROM} WHERE ({path}) IS NULL"
    row = selected.db.row(query)
    if row["n"]:
        raise UserError(
            f"FiftyOne opens files of this machine alone, and {row['n']:,} of the selected images are none, "
            f"such as {row['example']!r:.300}. Give --format csv or jsonl, or label copies on this machine."
        )


# Writers by the values of --format; each returns lines for the user.
FORMATS: dict[str, Callable[[Selected], list[str]]] = {
    "uris": write_uris,
    "csv": write_csv,
    "jsonl": write_jsonl,
    "labelstudio": write_labelstudio,
    "fiftyone": write_fiftyone,
}
