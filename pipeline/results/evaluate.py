"""Evaluation: labels against the truth."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean as mean

import numpy as np

from labelbeam.pipeline.results.curves import area_under_roc, average_precisions, kept_outputs
from labelbeam.pipeline.results.database import Database, name
from labelbeam.pipeline.results.evaluation import (
    AUC,
    CALIBRATION_ERROR,
    TOP_1,
    Bin,
    ClassResult,
    Confusion,
    Evaluation,
    Group,
)
from labelbeam.pipeline.results.intervals import Estimate, error_of_bins, proportion
from labelbeam.pipeline.results.truth import TruthOptions, match_truth
from labelbeam.transforms.errors import UserError
from labelbeam.transforms.models.heads import BINARY, MULTILABEL
from labelbeam.transforms.table.manifest import Manifest

# Bins of equal width for the calibration error.
BINS = 15
# Values of --by. A column with more of them is most likely no group.
_MOST_GROUPS = 1000
_MOST_PAIRS = 1000

# Labels by everything that measures depend on: best labels of images, or all labels of multi-label models.
# `place` is the position of the first right label, 0 without one.
_CELLS = """
CREATE TABLE cells AS
SELECT part, class_id, truth_id, place, least(CAST(floor(score * {bins}) AS INTEGER), {bins} - 1) AS bin,
  count(*) AS labels, sum(score) AS scores, sum(score * score) AS squares
FROM (
{labels}
)
GROUP BY ALL
"""
_BEST = """
  SELECT group_value AS part, labels[1].class_id AS class_id, CAST(score AS DOUBLE) AS score,
    coalesce(list_position(list_transform(labels, lambda l: list_contains(right_ids, l.class_id)), true), 0)
      AS place,
    -- An image of several right classes counts for the class of its label, if that is right.
    CASE WHEN place = 1 THEN class_id ELSE right_ids[1] END AS truth_id
  FROM judged"""
_LABELS = """
  SELECT part, label.class_id AS class_id, CAST(label.score AS DOUBLE) AS score,
    CAST(list_contains(right_ids, class_id) AS INTEGER) AS place, NULL AS truth_id
  FROM (SELECT group_value AS part, unnest(labels) AS label, right_ids FROM judged)"""
_SUPPORTS = """
CREATE TABLE supports AS
SELECT part, truth_id AS class_id, sum(labels) AS images FROM cells GROUP BY ALL
"""
_SUPPORTS_OF_LABELS = """
CREATE TABLE supports AS
SELECT part, class_id, count(*) AS images
FROM (SELECT group_value AS part, unnest(right_ids) AS class_id FROM judged)
GROUP BY ALL
"""
_BINS = """
SELECT part, bin, sum(labels) AS labels, coalesce(sum(labels) FILTER (place = 1), 0) AS hits,
  coalesce(sum(labels) FILTER (place BETWEEN 1 AND {n}), 0) AS hits_n, sum(scores) AS scores,
  hits - 2 * coalesce(sum(scores) FILTER (place = 1), 0) + sum(squares) AS squared_gaps
FROM cells GROUP BY part, bin
"""
_SUPPORT_OF_PARTS = """
SELECT part, sum(images) AS support FROM supports GROUP BY part ORDER BY support DESC, part
"""
_CLASSES = """
SELECT class_id, label, coalesce(support, 0) AS support, coalesce(labelled, 0) AS labelled,
  coalesce(hits, 0) AS hits
FROM classes
LEFT JOIN (SELECT class_id, sum(images) AS support FROM supports GROUP BY ALL) USING (class_id)
LEFT JOIN (
  SELECT class_id, sum(labels) AS labelled, sum(labels) FILTER (place = 1) AS hits FROM cells GROUP BY ALL
) USING (class_id)
WHERE support > 0 OR labelled > 0
ORDER BY support DESC, class_id
"""
_CONFUSIONS = f"""
SELECT truths.label AS truth, classes.label AS label, sum(labels) AS images
FROM cells JOIN classes USING (class_id) JOIN classes AS truths ON truths.class_id = truth_id
WHERE place <> 1
GROUP BY truth_id, class_id, truths.label, classes.label
ORDER BY images DESC, truth_id, class_id LIMIT {_MOST_PAIRS}
"""


def evaluate(db: Database, manifest: Manifest, truth: TruthOptions, by: str = "") -> Evaluation:
    """Compare the labels of attached tables with the truth.

    Args:
      db: Database with the tables.
      manifest: Manifest of the tables.
      truth: Origin of the truth.
      by: Column whose values divide the images into groups; "" for one group.

    Raises:
      UserError: There is no truth, or the column does not exist or has too many values.
    """
    match = match_truth(db, manifest, truth, _group_of(manifest, by))
    _refuse_many_groups(db, by)
    head = manifest.model["head"]
    labels = _LABELS if head == MULTILABEL else _BEST
    db.run(_CELLS.format(bins=BINS, labels=labels.strip("\n")))
    db.run(_SUPPORTS_OF_LABELS if head == MULTILABEL else _SUPPORTS)
    classes = _class_results(db, average_precisions(db, manifest) if head == MULTILABEL else {})
    groups = list(_groups(db, _top_n(manifest)))
    everything = _Counts.sum(groups)
    measures = everything.measures(manifest)
    if head == BINARY and (auc := area_under_roc(db)):
        measures[AUC] = auc
    return Evaluation(
        match=match,
        measures=measures,
        means=_means(classes),
        classes=classes,
        confusions=tuple(Confusion(**row) for row in db.rows(_CONFUSIONS)),
        bins=everything.calibration,
        groups=tuple(Group(group.part, group.measures(manifest)) for group in groups if by),
        warnings=tuple(_warnings(db, manifest)),
    )


def _group_of(manifest: Manifest, by: str) -> str:
    """Return the value of the column `by` as SQL."""
    if not by:
        return "NULL"
    columns = manifest.labelled_with.columns
    if by not in columns and by not in _COLUMNS_TO_GROUP_BY:
        own = ", ".join(map(repr, (*columns, *_COLUMNS_TO_GROUP_BY)))
        raise UserError(f"by={by!r} is no column of the tables that groups images. Give one of {own}.")
    return f"predictions.{name(by)}"


def _refuse_many_groups(db: Database, by: str) -> None:
    groups = f"SELECT DISTINCT group_value FROM judged LIMIT {_MOST_GROUPS + 1}"
    if by and db.row(f"SELECT count(*) AS n FROM ({groups})")["n"] > _MOST_GROUPS:
        raise UserError(f"by={by!r} has over {_MOST_GROUPS:,} values. Give a column that groups images.")


# Columns of labelbeam's own that group images.
_COLUMNS_TO_GROUP_BY = ("format", "orientation", "run_id")


def _top_n(manifest: Manifest) -> int:
    # Fewer than 5 if rows have fewer labels.
    return min(5, manifest.labelled_with.top_k, len(manifest.model["classes"]))


@dataclass(frozen=True)
class _Counts:
    """Counts of a group of images.

    Attributes:
      part: The group's value.
      support: Number of right classes.
      bins: Sums by bin, `[BINS, 5]`: labels, hits, hits among the first n labels, scores, and squared gaps
        between score and hit.
    """

    part: str | None
    support: int
    bins: np.ndarray

    @staticmethod
    def sum(groups: Sequence[_Counts]) -> _Counts:
        """Add groups up."""
        bins = sum((group.bins for group in groups), np.zeros((BINS, 5)))
        return _Counts(None, sum(group.support for group in groups), bins)

    def measures(self, manifest: Manifest) -> dict[str, Estimate]:
        """Return the measures of the group, by name."""
        labels, hits, hits_n = (round(n) for n in self.bins[:, :3].sum(axis=0))
        if manifest.model["head"] == MULTILABEL:
            found = {"precision": proportion(hits, labels), "recall": proportion(hits, self.support)}
        else:
            n = _top_n(manifest)
            found = {TOP_1: proportion(hits, labels)} | (
                {f"top-{n}": proportion(hits_n, labels)} if n > 1 else {}
            )
        return {name: value for name, value in found.items() if value} | self._calibration_error(labels)

    def _calibration_error(self, labels: int) -> dict[str, Estimate]:
        if not labels:
            return {}
        gaps, squared_gaps = self.bins[:, 1] - self.bins[:, 3], float(self.bins[:, 4].sum())
        return {CALIBRATION_ERROR: error_of_bins(gaps, squared_gaps, labels)}

    @property
    def calibration(self) -> tuple[Bin, ...]:
        """The bins that have labels."""
        return tuple(
            Bin(n / BINS, (n + 1) / BINS, round(labels), scores / labels, hits / labels)
            for n, (labels, hits, _, scores, _) in enumerate(self.bins.tolist())
            if labels
        )


def _groups(db: Database, n: int) -> Iterator[_Counts]:
    """Yield the counts of each group, those with most support first."""
    bins: dict[str | None, np.ndarray] = defaultdict(lambda: np.zeros((BINS, 5)))
    for row in db.rows(_BINS.format(n=n)):
        columns = ("labels", "hits", "hits_n", "scores", "squared_gaps")
        bins[row["part"]][row["bin"]] = [float(row[column]) for column in columns]
    # Both, because a group of a multi-label model may have right classes without labels, or the reverse.
    supports = {row["part"]: row["support"] for row in db.rows(_SUPPORT_OF_PARTS)}
    for part in dict.fromkeys([*supports, *bins]):
        yield _Counts(part, supports.get(part, 0), bins[part])


def _class_results(db: Database, areas: Mapping[int, float]) -> tuple[ClassResult, ...]:
    return tuple(
        ClassResult(
            class_id=row["class_id"],
            label=row["label"],
            support=row["support"],
            labelled=row["labelled"],
            precision=proportion(row["hits"], row["labelled"]),
            recall=proportion(row["hits"], row["support"]),
            f1=2 * row["hits"] / (row["support"] + row["labelled"]),
            average_precision=areas.get(row["class_id"]),
        )
        for row in db.rows(_CLASSES)
    )


def _means(classes: Iterable[ClassResult]) -> dict[str, float]:
    """Return means over the classes with images of their own."""
    known = [one for one in classes if one.support]
    if not known:
        return {}
    # A class that is never a label has precision 0, as scikit-learn counts it.
    means = {
        "macro precision": mean(one.precision.value if one.precision else 0.0 for one in known),
        "macro recall": mean(one.recall.value for one in known if one.recall),
        "macro F1": mean(one.f1 for one in known),
    }
    areas = [one.average_precision for one in known if one.average_precision is not None]
    return means | ({"mean average precision": mean(areas)} if areas else {})


def _warnings(db: Database, manifest: Manifest) -> Iterator[str]:
    if manifest.model["head"] != MULTILABEL:
        return
    top_k, least = manifest.labelled_with.top_k, manifest.labelled_with.threshold
    if not kept_outputs(manifest):
        yield (
            f"Average precision is a lower bound, because rows have at most {top_k} labels with scores of at "
            f"least {least:g}. Run with --keep_outputs for all scores."
        )
    full = db.row(f"SELECT count(*) AS images FROM judged WHERE len(labels) = {top_k}")["images"]
    if full and top_k < len(manifest.model["classes"]):
        yield (
            f"Images with {top_k} labels, the most that --top_k allows: {full:,}. Their further labels over "
            "the threshold are missing, so that recall may be too low."
        )
