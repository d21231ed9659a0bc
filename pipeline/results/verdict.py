"""Two outputs against the truth: which of them is right, and whether chance explains the difference."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from scipy.stats import binomtest

from labelbeam.pipeline.results.classes import BY_LABEL, CommonClasses
from labelbeam.pipeline.results.database import Database
from labelbeam.pipeline.results.intervals import Estimate, proportion
from labelbeam.pipeline.results.truth import FOLDER, Match, TruthOptions, match_truth
from labelbeam.transforms.models.heads import MULTILABEL
from labelbeam.transforms.table.manifest import TABLES, Manifest

# p-value below which chance is called unlikely.
_UNLIKELY = 0.05
# Smallest p-value that is printed.
_LEAST_P = 1e-4
_VERDICTS = """
SELECT {a} AS a_right, {b} AS b_right, count(*) AS images
FROM labelled_twice JOIN (SELECT id, right_ids FROM judged) USING (id)
GROUP BY ALL
"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Images with labels in both outputs and a truth, by which of the outputs is right.

    A multi-label model is right if its labels are exactly those of the truth.

    Attributes:
      match: Matching of truth and classes.
      both: Images that both have right.
      only_a: Images that only A has right.
      only_b: Images that only B has right.
      neither: Images that both have wrong.
      a: Share of images that A has right; None of no images.
      b: Share of images that B has right; None of no images.
      p_value: McNemar's exact test: probability of a split of `only_a` and `only_b` that is at least as
        uneven, if both outputs were equally good.
    """

    match: Match
    both: int
    only_a: int
    only_b: int
    neither: int
    a: Estimate | None
    b: Estimate | None
    p_value: float


def judge(
    db: Database, a: Manifest, b: Manifest, truth: TruthOptions, classes: CommonClasses | None
) -> Verdict:
    """Judge two outputs whose images are in the view `labelled_twice` and whose classes are in `classes`.

    Raises:
      UserError: There is no truth.
    """
    side, manifest = ("a", a) if _has_truth(a, truth) or not _has_truth(b, truth) else ("b", b)
    for table in TABLES:
        db.run(f"CREATE VIEW {table} AS FROM {side}_{table}")
    # With A's classes, because their class ids are those of the table `classes`.
    model = {**a.model, "classes": a.model.get("classes") or b.model.get("classes")}
    if MULTILABEL in (a.model["head"], b.model["head"]):
        model["head"] = MULTILABEL
    own_classes = "a_classes" if classes and classes.by == BY_LABEL else "classes"
    match = match_truth(db, dataclasses.replace(manifest, model=model), truth, own_classes=own_classes)
    is_right = {"a": _is_right("a", a), "b": _is_right("b", b)}
    images = {
        (row["a_right"], row["b_right"]): row["images"] for row in db.rows(_VERDICTS.format(**is_right))
    }
    both, only_a = images.get((True, True), 0), images.get((True, False), 0)
    only_b, neither = images.get((False, True), 0), images.get((False, False), 0)
    total = both + only_a + only_b + neither
    return Verdict(
        match=match,
        both=both,
        only_a=only_a,
        only_b=only_b,
        neither=neither,
        a=proportion(both + only_a, total),
        b=proportion(both + only_b, total),
        p_value=mcnemar(only_a, only_b),
    )


def mcnemar(only_a: int, only_b: int) -> float:
    """Return the p-value of McNemar's exact test, two-sided."""
    return float(binomtest(only_b, only_a + only_b).pvalue) if only_a + only_b else 1.0


def explain_test(verdict: Verdict) -> str:
    """Return the result of McNemar's test in words."""
    decided = verdict.only_a + verdict.only_b
    if not decided:
        return "A and B are right on the same images, so that the truth decides for neither."
    images = f"Of {decided:,} image{'s' if decided > 1 else ''} that only one output has right,"
    if verdict.only_a == verdict.only_b:
        return f"{images} A and B have half each."
    better, most = max(("A", verdict.only_a), ("B", verdict.only_b), key=lambda side: side[1])
    is_likely = verdict.p_value >= _UNLIKELY
    conclusion = "which may be chance" if is_likely else f"so that {better} is better, hardly by chance"
    chance, p = f"{100 * verdict.p_value:.2g} %", f"p = {verdict.p_value:.3g}"
    if verdict.p_value < _LEAST_P:
        chance, p = f"less than {100 * _LEAST_P:g} %", f"p < {_LEAST_P:g}"
    return (
        f"{images} {better} has {most:,}, {conclusion}: were both equally good, a split at least as uneven "
        f"would come in {chance} of such comparisons (McNemar's exact test, {p})."
    )


def _has_truth(manifest: Manifest, truth: TruthOptions) -> bool:
    columns = manifest.labelled_with.columns
    named = truth.column in columns or f"input_{truth.column}" in columns
    return bool(truth.file) or truth.column == FOLDER or named


def _is_right(side: str, manifest: Manifest) -> str:
    if manifest.model["head"] == MULTILABEL:
        return f"{side}_ids = right_ids"
    return f"list_contains(right_ids, {side}_ids[1])"
