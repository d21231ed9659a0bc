"""Labels that changed between two outputs, and the most changed images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from labelbeam.pipeline.results.classes import CommonClasses
from labelbeam.pipeline.results.database import Database
from labelbeam.pipeline.results.fates import look_up
from labelbeam.pipeline.results.intervals import Estimate, interval, proportion
from labelbeam.transforms.models.heads import MULTILABEL
from labelbeam.transforms.table.manifest import Manifest

MOST_IMAGES = 50
_MOST_PAIRS = 1000

# Only of sets that differ, because two empty ones would divide by zero.
_JACCARD = "len(list_intersect(a_ids, b_ids)) / len(list_distinct(a_ids || b_ids))"
_AGREEMENT = f"""
SELECT count(*) AS images, count(*) FILTER (WHERE jaccard = 1) AS same, avg(jaccard) AS jaccard,
  var_samp(jaccard) AS variance
FROM (
  SELECT CASE WHEN a_ids = b_ids THEN 1.0
    ELSE {_JACCARD} END AS jaccard
  FROM labelled_twice
)
"""
_CHURN = f"""
SELECT a_ids[1] AS a, b_ids[1] AS b, count(*) AS images, count(*) OVER () AS pairs
FROM labelled_twice WHERE a_ids <> b_ids
GROUP BY a, b ORDER BY images DESC, a, b LIMIT {_MOST_PAIRS}
"""
_CLASS_CHANGES = """
SELECT class_id, sum(a)::BIGINT AS a, sum(b)::BIGINT AS b, sum(kept)::BIGINT AS kept
FROM (
  SELECT unnest(a_ids) AS class_id, 1 AS a, 0 AS b, 0 AS kept FROM labelled_twice
  UNION ALL SELECT unnest(b_ids), 0, 1, 0 FROM labelled_twice
  UNION ALL SELECT unnest(list_intersect(a_ids, b_ids)), 0, 0, 1 FROM labelled_twice
)
GROUP BY class_id ORDER BY sum(a) + sum(b) - 2 * sum(kept) DESC, class_id
"""
_CHANGED = f"""
SELECT id, a_ids, b_ids, a_score, b_score FROM labelled_twice WHERE a_ids <> b_ids
ORDER BY {_JACCARD},
  least(coalesce(a_score, 0), coalesce(b_score, 0)) DESC, id LIMIT {MOST_IMAGES}
"""
_SHIFTED = f"""
SELECT id, a_ids, b_ids, a_score, b_score FROM labelled_twice
WHERE a_ids = b_ids AND a_score <> b_score
ORDER BY abs(b_score - a_score) DESC, id LIMIT {MOST_IMAGES}
"""


@dataclass(frozen=True, slots=True)
class Churn:
    """Images that have one label in A and another in B."""

    a: str
    b: str
    images: int


@dataclass(frozen=True, slots=True)
class ClassChange:
    """Images of a class.

    Attributes:
      a: Images with this label in A.
      b: Images with this label in B.
      lost: Images with this label in A alone.
      gained: Images with this label in B alone.
    """

    label: str
    a: int
    b: int
    lost: int
    gained: int


@dataclass(frozen=True, slots=True)
class Change:
    """An image that changed.

    Attributes:
      a: Label in A; all labels of a multi-label model; empty of embeddings.
      b: Label or labels in B.
      a_score: Score in A, the mean of all labels; None without labels.
      b_score: Score in B.
      distance: Cosine distance of embeddings.
    """

    id: str
    uri: str
    a: tuple[str, ...] = ()
    b: tuple[str, ...] = ()
    a_score: float | None = None
    b_score: float | None = None
    distance: float | None = None


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels of images that are labelled in both outputs.

    Attributes:
      matched_by: Way in which classes are matched: `class id` or `label`.
      multilabel: Whether images have any number of labels, in one output at least.
      same: Share of images with the same label, or the same set of labels; None without images.
      jaccard: Mean over images of the number of common labels, divided by the number of all their labels (1
        for two empty sets), of multi-label models alone.
      churn: Pairs of labels that changed into each other, the most frequent first, of other models.
      pairs: Number of such pairs, of which `churn` has at most 1,000.
      classes: Changes of each class, largest first.
      changed: Images with other labels: those with fewest common labels first, then those whose lower score
        of both is highest.
      shifted: Images with the same labels, those with the largest shifts of their score first.
    """

    matched_by: str
    multilabel: bool
    same: Estimate | None
    jaccard: Estimate | None
    churn: tuple[Churn, ...]
    pairs: int
    classes: tuple[ClassChange, ...]
    changed: tuple[Change, ...]
    shifted: tuple[Change, ...]


def compare_labels(db: Database, a: Manifest, b: Manifest, classes: CommonClasses) -> Labels:
    """Compare the labels of the images in the view `labelled_twice`, whose classes are in `classes`."""
    multilabel = MULTILABEL in (a.model["head"], b.model["head"])
    names = {row["class_id"]: row["label"] for row in db.rows("SELECT class_id, label FROM classes")}
    counts = db.row(_AGREEMENT)
    pairs = [] if multilabel else db.rows(_CHURN)
    return Labels(
        matched_by=classes.by,
        multilabel=multilabel,
        same=proportion(counts["same"], counts["images"]),
        jaccard=_mean_jaccard(**counts) if multilabel and counts["images"] else None,
        churn=tuple(Churn(names[row["a"]], names[row["b"]], row["images"]) for row in pairs),
        pairs=pairs[0]["pairs"] if pairs else 0,
        classes=tuple(
            ClassChange(
                names[row["class_id"]], row["a"], row["b"], row["a"] - row["kept"], row["b"] - row["kept"]
            )
            for row in db.rows(_CLASS_CHANGES)
        ),
        changed=find_changes(db, _CHANGED, names),
        shifted=find_changes(db, _SHIFTED, names),
    )


def _mean_jaccard(images: int, jaccard: float, variance: float | None, **_: int) -> Estimate:
    return interval(jaccard, (variance or 0.0) / images, images)


def find_changes(db: Database, sql: str, names: Mapping[int, str]) -> tuple[Change, ...]:
    """Return images that changed.

    Args:
      db: Database with the view `labelled_twice`.
      sql: Query for a few of its rows.
      names: Labels by class number.
    """
    rows = db.rows(sql)
    images = look_up(db, [row["id"] for row in rows])

    def labels_of(row: Mapping[str, Any], side: str) -> tuple[str, ...]:
        return tuple(names[number] for number in row.get(f"{side}_ids", ()))

    return tuple(
        Change(
            id=row["id"],
            uri=images[row["id"]].uri,
            a=labels_of(row, "a"),
            b=labels_of(row, "b"),
            a_score=row.get("a_score"),
            b_score=row.get("b_score"),
            distance=row.get("distance"),
        )
        for row in rows
    )
