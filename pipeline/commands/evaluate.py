"""The command `evaluate`: labels against the truth."""

from __future__ import annotations

from collections.abc import Iterator

from labelbeam.pipeline.results.database import open_database
from labelbeam.pipeline.results.evaluate import evaluate
from labelbeam.pipeline.results.evaluation import ClassResult, Evaluation
from labelbeam.pipeline.results.text import align, first_rows, values_of, write_json, write_parquet
from labelbeam.pipeline.results.truth import Match, TruthOptions


def evaluate_output(
    output: str, truth: TruthOptions, by: str, json_path: str, parquet_path: str, show_sql: bool
) -> None:
    """Compare the labels of an output with the truth, print the result, and write it to files.

    Args:
      output: Table folder.
      truth: Origin of the truth.
      by: Column whose values divide the images into groups; "" for none.
      json_path: File that gets the whole result; "" for none.
      parquet_path: File that gets a row for each class; "" for none.
      show_sql: Whether the SQL is printed in place of the result.

    Raises:
      UserError: There are no tables, there is no truth, or a file can't be written.
    """
    with open_database(show_sql) as db:
        evaluation = evaluate(db, db.attach(output), truth, by)
    if show_sql:
        return
    if json_path:
        write_json(json_path, evaluation)
    if parquet_path:
        write_parquet(parquet_path, ClassResult, evaluation.classes)
    print("\n".join(describe_evaluation(evaluation, by)))


def describe_evaluation(evaluation: Evaluation, by: str = "") -> Iterator[str]:
    """Yield the lines that describe an evaluation."""
    yield from describe_match(evaluation.match)
    yield from (f"Warning: {warning}" for warning in evaluation.warnings)
    yield ""
    rows = [(name, *values_of(estimate), estimate.images) for name, estimate in evaluation.measures.items()]
    yield from align(("measure", "value", "95 % from", "to", "of"), rows)
    if evaluation.means:
        yield ""
        yield from align(("mean over classes", "value"), list(evaluation.means.items()))
    yield from _describe_classes(evaluation.classes)
    confusions = [(pair.truth, pair.label, pair.images) for pair in evaluation.confusions]
    yield from first_rows("Largest confusions", ("truth", "label", "images"), confusions, 10)
    if by:
        groups = [
            (group.value or "(none)", name, *values_of(estimate), estimate.images)
            for group in evaluation.groups
            for name, estimate in group.measures.items()
        ]
        yield from first_rows(f"By {by}", (by, "measure", "value", "95 % from", "to", "of"), groups, 60)


def describe_match(match: Match) -> Iterator[str]:
    """Yield lines about the matching of truth and classes."""
    ways = {"name": match.by_name, "class id": match.by_id}
    matched = " and ".join(f"{n:,} by {way}" for way, n in ways.items() if n)
    yield f"Truth: {match.source}, {match.judged:,} of {match.images:,} images; classes matched: {matched}."
    if match.failed:
        yield f"Images with a truth that failed, and so have no label: {match.failed:,}. See labelbeam rerun."
    if match.unmatched:
        listed = ", ".join(f"{one.truth!r} ({one.images:,})" for one in match.unmatched)
        yield f"Warning: truths that are no class of the model, with their numbers of images: {listed}."
    if match.unmatched_images:
        yield f"Images that are left out because their truth is no class: {match.unmatched_images:,}."


def _describe_classes(classes: tuple[ClassResult, ...]) -> Iterator[str]:
    has_areas = any(one.average_precision is not None for one in classes)
    header = (
        "class",
        "label",
        "support",
        "labelled",
        "precision",
        "from",
        "to",
        "recall",
        "from",
        "to",
        "F1",
    )
    rows = [
        (
            str(one.class_id),
            one.label,
            one.support,
            one.labelled,
            *values_of(one.precision),
            *values_of(one.recall),
            one.f1,
            *((one.average_precision,) if has_areas else ()),
        )
        for one in classes
    ]
    yield from first_rows("Classes", (*header, *(("AP",) if has_areas else ())), rows)
