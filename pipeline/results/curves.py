"""Areas under curves: ROC AUC of binary models, average precision of multi-label models."""

from __future__ import annotations

from labelbeam.pipeline.results.database import Database
from labelbeam.pipeline.results.intervals import Estimate, interval
from labelbeam.transforms.table.manifest import Manifest

# For each score, the negatives below it and the positives above it, ties by half: the placements, whose
# variances are those of the area (DeLong, DeLong and Clarke-Pearson 1988).
_ROC = """
WITH scored AS (
  SELECT right_ids = [1] AS positive,
    CAST(coalesce(list_filter(labels, lambda l: l.class_id = 1)[1].score, 1 - score) AS DOUBLE) AS score
  FROM judged WHERE len(right_ids) = 1
), steps AS (
  SELECT score, count(*) FILTER (positive)::DOUBLE AS p, count(*) FILTER (NOT positive)::DOUBLE AS q
  FROM scored GROUP BY score
), placements AS (
  SELECT p, q, sum(q) OVER (ORDER BY score) - q / 2 AS below,
    sum(p) OVER (ORDER BY score DESC) - p / 2 AS above
  FROM steps
)
SELECT sum(p) AS positives, sum(q) AS negatives, sum(p * below) AS pairs,
  sum(p * below * below) AS below_squares, sum(q * above * above) AS above_squares
FROM placements
"""
_SCORED_LABELS = """
  SELECT label.class_id AS class_id, label.score AS score, list_contains(right_ids, class_id) AS is_right
  FROM (SELECT unnest(labels) AS label, right_ids FROM judged)"""
_SCORED_OUTPUTS = """
  SELECT class_id, score, list_contains(right_ids, class_id) AS is_right
  FROM (
    SELECT unnest(range(len({column}))) AS class_id, unnest({column}) AS score, right_ids FROM judged
  )"""
# Sum over the scores of a class of precision times the gain of recall. Images that a class is not listed for
# come last, all at once.
_AVERAGE_PRECISION = """
WITH scored AS (
{scored}
), steps AS (
  SELECT class_id, score, count(*) AS labels, count(*) FILTER (is_right) AS hits
  FROM scored GROUP BY class_id, score
), curve AS (
  SELECT class_id, hits, sum(hits) OVER down AS all_hits, sum(labels) OVER down AS all_labels
  FROM steps WINDOW down AS (PARTITION BY class_id ORDER BY score DESC)
), areas AS (
  SELECT class_id, sum(hits * all_hits / all_labels) AS area, sum(hits) AS hits FROM curve GROUP BY class_id
), positives AS (
  SELECT class_id, sum(images) AS support FROM supports GROUP BY class_id
)
SELECT class_id, (
    coalesce(area, 0) + (support - coalesce(hits, 0)) * support / (SELECT count(*) FROM judged)
  ) / support AS average_precision
FROM positives LEFT JOIN areas USING (class_id)
"""


def area_under_roc(db: Database) -> Estimate | None:
    """Return the area under the ROC curve of the second class; None without images of both classes."""
    row = db.row(_ROC)
    positives, negatives = row["positives"] or 0, row["negatives"] or 0
    if not positives or not negatives:
        return None
    area = row["pairs"] / (positives * negatives)
    variance = _variance(row["below_squares"] / negatives**2, area, positives)
    variance += _variance(row["above_squares"] / positives**2, area, negatives)
    return interval(area, variance, round(positives + negatives))


def _variance(squares: float, area: float, images: float) -> float:
    """Return the variance of the mean placement of one class's images."""
    return (squares / images - area**2) / (images - 1) if images > 1 else 0.0


def average_precisions(db: Database, manifest: Manifest) -> dict[int, float]:
    """Return the average precision of each class that a truth names, by class id."""
    column = kept_outputs(manifest)
    scored = _SCORED_OUTPUTS.format(column=column) if column else _SCORED_LABELS
    rows = db.rows(_AVERAGE_PRECISION.format(scored=scored.strip("\n")))
    return {row["class_id"]: row["average_precision"] for row in rows}


def kept_outputs(manifest: Manifest) -> str:
    """Return the column of the model's outputs; "" for tables without."""
    return next(iter(manifest.labelled_with.outputs), "")
