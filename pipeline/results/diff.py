"""Differences of two outputs, image by image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from labelbeam.pipeline.results.churn import Change, Labels, compare_labels
from labelbeam.pipeline.results.classes import BY_LABEL, CommonClasses, match_classes
from labelbeam.pipeline.results.database import ELEMENT, Database
from labelbeam.pipeline.results.distances import measure_distances
from labelbeam.pipeline.results.fates import LABELLED_TWICE, Fate, count_images, find_fates
from labelbeam.pipeline.results.settings import Setting, find_differences
from labelbeam.pipeline.results.shifts import Shifts, measure_shifts
from labelbeam.pipeline.results.truth import TruthOptions
from labelbeam.pipeline.results.verdict import Verdict, judge
from labelbeam.transforms.errors import UserError
from labelbeam.transforms.models.heads import EMBEDDING, MULTILABEL
from labelbeam.transforms.table.manifest import Manifest

# Images of one output: those with an empty reason are labelled. Only columns that a query names are read.
_IMAGES = """
CREATE VIEW {side}_images AS
SELECT id, uri, '' AS reason, {values} FROM {side}_predictions
UNION ALL BY NAME SELECT id, uri, reason, message FROM {side}_failures
"""
# Images that are in one output alone have a null reason in the other one. The join is the only step whose
# memory grows with the tables, and DuckDB spills it.
_PAIRS = """
CREATE TABLE pairs AS
SELECT id, a.reason AS a_reason, b.reason AS b_reason{values}
FROM a_images AS a FULL JOIN b_images AS b USING (id)
"""
_PAIRED_LABELS = """,
  a.ids AS a_ids, b.ids AS b_ids, a.score AS a_score, b.score AS b_score"""
_LABELLED_TWICE = "CREATE VIEW labelled_twice AS FROM pairs WHERE a_reason = '' AND b_reason = ''"


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two outputs.

    Attributes:
      output: Table folder.
      labelled: Images with labels, or with an embedding.
    """

    output: str
    generation: int
    run_id: str
    labelled: int
    failed: int


@dataclass(frozen=True, slots=True)
class Difference:
    """Differences of two outputs.

    Attributes:
      settings: Settings that differ.
      images: Numbers of images: in both, in A alone, in B alone, and so on.
      fates: Outcomes in A and in B, most frequent first.
      labels: Changes of labels; None of embeddings.
      shifts: Shifts of the score, B's minus A's, of images with the same labels; of embeddings their cosine
        distances; None without such images.
      distant: Images with the largest distances, of embeddings alone.
      verdict: Judgement by the truth; None without a truth.
      warnings: Reservations.
    """

    a: Side
    b: Side
    settings: tuple[Setting, ...]
    images: Mapping[str, int]
    fates: tuple[Fate, ...]
    labels: Labels | None
    shifts: Shifts | None
    distant: tuple[Change, ...]
    verdict: Verdict | None
    warnings: tuple[str, ...]


def compare(db: Database, a: str, b: str, truth: TruthOptions | None = None) -> Difference:
    """Compare two outputs.

    Args:
      db: Database without tables.
      a: Table folder, or `FOLDER@N` for its generation N.
      b: Another one, or the same.
      truth: Origin of the truth; None for none.

    Raises:
      UserError: There are no such tables, or they have nothing in common.
    """
    left, right = db.attach(a, "a_"), db.attach(b, "b_")
    classes = match_classes(db, left, right) if _have_labels(left, right) else None
    _join_images(db, left, right, classes)
    fates = find_fates(db, (a, b))
    images = count_images(fates)
    distant: tuple[Change, ...] = ()
    if classes:
        shifts = measure_shifts(db, "b_score - a_score", "labelled_twice WHERE a_ids = b_ids")
        warnings = tuple(_warnings_of_labels(left, right, classes))
    else:
        length = left.labelled_with.outputs[EMBEDDING]
        shifts, distant, warnings = measure_distances(db, images[LABELLED_TWICE], length)
        if left.labelled_with.model != right.labelled_with.model:
            warnings += ("The embeddings are of different models, so that distances may mean nothing.",)
    verdict = judge(db, left, right, truth, classes) if truth else None
    if verdict and verdict.match.by_id and classes and classes.by == BY_LABEL:
        warnings += ("Truths that are numbers are taken for class ids of A, because the models differ.",)
    return Difference(
        a=_side(a, left),
        b=_side(b, right),
        settings=find_differences(left, right),
        images=images,
        fates=fates,
        labels=compare_labels(db, left, right, classes) if classes else None,
        shifts=shifts,
        distant=distant,
        verdict=verdict,
        warnings=warnings,
    )


def _join_images(db: Database, a: Manifest, b: Manifest, classes: CommonClasses | None) -> None:
    """Make the table `pairs` of all images, and its view `labelled_twice`."""
    for side, manifest in (("a", a), ("b", b)):
        db.run(_IMAGES.format(side=side, values=_values_of(side, manifest, classes)))
    db.run(_PAIRS.format(values=_PAIRED_LABELS if classes else ""))
    db.run(_LABELLED_TWICE)


def _side(output: str, manifest: Manifest) -> Side:
    rows = manifest.rows
    return Side(output, manifest.generation, manifest.run_id, rows["predictions"], rows["failures"])


def _have_labels(a: Manifest, b: Manifest) -> bool:
    """Return whether both outputs have labels, and not embeddings.

    Raises:
      UserError: The outputs have nothing to compare.
    """
    kinds = [manifest.model["head"] == EMBEDDING for manifest in (a, b)]
    if kinds[0] != kinds[1]:
        names = " and B has ".join("embeddings" if is_embedding else "labels" for is_embedding in kinds)
        raise UserError(f"A has {names}, so there is nothing to compare.")
    lengths = [manifest.labelled_with.outputs.get(EMBEDDING) for manifest in (a, b)]
    if all(kinds) and lengths[0] != lengths[1]:
        raise UserError(
            f"The embeddings have {lengths[0]:,} and {lengths[1]:,} numbers, so there is nothing to compare."
        )
    return not any(kinds)


def _values_of(side: str, manifest: Manifest, classes: CommonClasses | None) -> str:
    """Return the SQL of an image's classes and score, or of its embedding."""
    if classes is None:
        return EMBEDDING
    if manifest.model["head"] != MULTILABEL:
        return f"[{classes.number_of(side, 'labels[1].class_id')}] AS ids, CAST(score AS DOUBLE) AS score"
    number = classes.number_of(side, f"{ELEMENT}.class_id")
    return (
        f"list_sort(list_distinct(list_transform(labels, lambda {ELEMENT}: {number}))) AS ids, "
        f"list_avg(list_transform(labels, lambda {ELEMENT}: CAST({ELEMENT}.score AS DOUBLE))) AS score"
    )


def _warnings_of_labels(a: Manifest, b: Manifest, classes: CommonClasses) -> Iterator[str]:
    if classes.by == BY_LABEL:
        sizes = [len(manifest.model["classes"]) for manifest in (a, b)]
        yield (
            f"The models have {sizes[0]:,} and {sizes[1]:,} classes, of which {classes.common:,} have the "
            "same name. Labels are compared by name: one that the other model lacks counts as changed."
        )
    if classes.doubled:
        listed = ", ".join(map(repr, classes.doubled[:5])) + ("…" if classes.doubled[5:] else "")
        yield f"Several classes of a model have the same label, and are compared as one: {listed}."
    heads = {manifest.model["head"] == MULTILABEL for manifest in (a, b)}
    if len(heads) > 1:
        yield "One model gives each image one label, the other any number: labels are compared as sets."
    if True in heads and a.labelled_with.top_k != b.labelled_with.top_k:
        yield "--top_k differs: labels beyond it are missing in one output, and count as changed."
