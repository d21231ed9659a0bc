"""Labels and embeddings of published tables: counts, scores, certain and uncertain images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from labelbeam.pipeline.results.database import Database, name
from labelbeam.pipeline.results.histogram import Bin
from labelbeam.transforms.models.heads import BINARY, MULTILABEL
from labelbeam.transforms.models.presets import EMBEDDING
from labelbeam.transforms.table.manifest import Manifest

# Classes with a score distribution and lists of images.
TOP_CLASSES = 8
# Classes that are read; more of them do not fit a page.
MOST_CLASSES = 5_000
# Least room of a list of extremes, and most classes with such lists, if many images are wanted.
_IMAGES = 6
_MOST_EXTREMES = 100
_SCORE_BINS = 20
_NORM_BINS = 20


@dataclass(frozen=True, slots=True)
class ClassCount:
    """Images with a label.

    Attributes:
      score: Mean score of the label.
      bins: Distribution of the label's score.
    """

    class_id: int
    label: str
    images: int
    score: float
    bins: tuple[Bin, ...] = ()


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """An image with one of its labels.

    Attributes:
      score: Score of this label.
      next: The second label with its score; None for models that are not single-label, and without one.
    """

    id: str
    uri: str
    sha256: str
    score: float
    next: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Extremes:
    """The least and the most certain images of a class, none of them twice.

    Attributes:
      least: Images with the lowest scores, ascending.
      most: Images with the highest scores, descending.
    """

    of: ClassCount
    least: tuple[LabelledImage, ...]
    most: tuple[LabelledImage, ...]


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels of all images.

    Attributes:
      total: Number of labels: of images, or, of multi-label models, of pairs of image and class.
      seen: Number of different classes.
      classes: The most frequent ones, at most `MOST_CLASSES`.
      bins: Distribution of the scores.
      extremes: Images of the most frequent classes.
      per_image: Number of images by number of labels; of multi-label models alone.
      positive: Distribution of the score of the second class; of binary models alone.
    """

    total: int
    seen: int
    classes: tuple[ClassCount, ...]
    bins: tuple[Bin, ...]
    extremes: tuple[Extremes, ...]
    per_image: tuple[tuple[int, int], ...] = ()
    positive: tuple[Bin, ...] = ()


def read_labels(db: Database, manifest: Manifest, wanted: int) -> Labels:
    """Return the labels of all images.

    Args:
      db: Database with the tables.
      manifest: Their manifest.
      wanted: Number of images in the lists of extremes, if there are as many. Each list has room for 6.
    """
    head = manifest.model["head"]
    db.run(_EVERY_LABEL if head == MULTILABEL else _BEST_LABEL)
    db.run(_SCORES)
    totals = db.row(
        "SELECT coalesce(sum(images), 0)::BIGINT AS total, count(DISTINCT class_id) AS seen FROM scores"
    )
    classes = _classes(db)
    all_bins = db.rows("SELECT bin, sum(images)::BIGINT AS images FROM scores GROUP BY bin")
    return Labels(
        **totals,
        classes=classes,
        bins=_score_bins({row["bin"]: row["images"] for row in all_bins}),
        extremes=_extremes(db, classes, wanted),
        per_image=_per_image(db) if head == MULTILABEL else (),
        positive=_positive(db) if head == BINARY else (),
    )


# One row for each label of each image.
_EVERY_LABEL = """
CREATE VIEW labelled AS
SELECT id, uri, sha256, one.class_id, one.label, one.score, NULL AS next
FROM (SELECT id, uri, sha256, unnest(labels) AS one FROM predictions)
"""
_BEST_LABEL = """
CREATE VIEW labelled AS
SELECT id, uri, sha256, labels[1].class_id AS class_id, label, score, labels[2] AS next
FROM predictions WHERE label IS NOT NULL
"""
# A table, because most numbers are sums of its few rows.
_SCORES = f"""
CREATE TABLE scores AS
SELECT class_id, least(floor(score * {_SCORE_BINS}), {_SCORE_BINS - 1})::INTEGER AS bin,
  min(label) AS label, count(*) AS images, sum(score::DOUBLE) AS score
FROM labelled GROUP BY ALL
"""
_CLASSES = f"""
SELECT class_id, min(label) AS label, sum(images)::BIGINT AS images, sum(score) / sum(images) AS score
FROM scores GROUP BY class_id ORDER BY images DESC, class_id LIMIT {MOST_CLASSES}
"""


def _classes(db: Database) -> tuple[ClassCount, ...]:
    """Return the most frequent classes, of which the first `TOP_CLASSES` have a distribution."""
    rows = db.rows(_CLASSES)
    bins: dict[int, dict[int, int]] = {row["class_id"]: {} for row in rows[:TOP_CLASSES]}
    for row in db.rows(f"SELECT class_id, bin, images FROM scores WHERE class_id IN {_one_of(bins)}"):
        bins[row["class_id"]][row["bin"]] = row["images"]
    return tuple(
        ClassCount(**row, bins=_score_bins(bins[row["class_id"]]) if row["class_id"] in bins else ())
        for row in rows
    )


def _one_of(class_ids: Iterable[int]) -> str:
    # With a null, because SQL has no empty lists.
    return f"({', '.join(['NULL', *map(str, class_ids)])})"


def _score_bins(images: Mapping[int, int]) -> tuple[Bin, ...]:
    return tuple(Bin(n / _SCORE_BINS, (n + 1) / _SCORE_BINS, images.get(n, 0)) for n in range(_SCORE_BINS))


def _extremes(db: Database, classes: Sequence[ClassCount], wanted: int) -> tuple[Extremes, ...]:
    shown = list(classes[:TOP_CLASSES])
    for one in classes[TOP_CLASSES:_MOST_EXTREMES]:
        if sum(min(2 * _IMAGES, other.images) for other in shown) >= wanted:
            break
        shown.append(one)
    if not shown:
        return ()
    images = max(_IMAGES, math.ceil(wanted / (2 * len(shown))))
    # By id among equal scores, because the same tables must give the same page.
    rows = db.rows(f"""
SELECT class_id, min_by(image, place, {images}) AS least, max_by(image, place, {images}) AS most
FROM (
  SELECT class_id, {{score: score, id: id}} AS place,
    {{id: id, uri: uri, sha256: sha256, score: score, next: next}} AS image
  FROM labelled WHERE class_id IN {_one_of(one.class_id for one in shown)}
)
GROUP BY class_id
""")
    by_class = {row["class_id"]: row for row in rows}
    return tuple(_extremes_of(one, by_class[one.class_id]) for one in shown)


def _extremes_of(one: ClassCount, row: Mapping[str, Any]) -> Extremes:
    least = tuple(LabelledImage(**image) for image in row["least"])
    shown = {image.id for image in least}
    return Extremes(one, least, tuple(LabelledImage(**i) for i in row["most"] if i["id"] not in shown))


def _per_image(db: Database) -> tuple[tuple[int, int], ...]:
    rows = db.rows(
        "SELECT len(labels) AS labels, count(*) AS images FROM predictions GROUP BY ALL ORDER BY 1"
    )
    return tuple((row["labels"], row["images"]) for row in rows)


def _positive(db: Database) -> tuple[Bin, ...]:
    rows = db.rows(f"""
SELECT least(floor(positive * {_SCORE_BINS}), {_SCORE_BINS - 1})::INTEGER AS bin, count(*) AS images
FROM (SELECT CASE class_id WHEN 1 THEN score ELSE 1 - score END AS positive FROM labelled) GROUP BY bin
""")
    return _score_bins({row["bin"]: row["images"] for row in rows})


def read_norms(db: Database) -> tuple[Bin, ...]:
    """Return the distribution of the lengths of embeddings, as vectors."""
    column = name(EMBEDDING)
    # A table and not a view, because embeddings are large and read twice otherwise. In double precision,
    # because squares of large numbers are no float32.
    db.run(
        "CREATE TABLE norms AS\n"
        f"SELECT sqrt(list_inner_product({column}::DOUBLE[], {column}::DOUBLE[])) AS norm FROM predictions"
    )
    ends = db.row("SELECT min(norm) AS low, max(norm) AS high FROM norms")
    if ends["low"] is None:
        return ()
    low, span = ends["low"], ends["high"] - ends["low"]
    # One bar for lengths that differ by rounding alone, because its edges would be equal.
    width = span / _NORM_BINS if span > 1e-9 * ends["high"] else 1.0
    rows = db.rows(
        f"SELECT least(floor((norm - {low!r}) / {width!r}), {_NORM_BINS - 1})::INTEGER AS bin, "
        "count(*) AS images FROM norms GROUP BY bin"
    )
    images = {row["bin"]: row["images"] for row in rows}
    return tuple(Bin(low + n * width, low + (n + 1) * width, images.get(n, 0)) for n in range(_NORM_BINS))
