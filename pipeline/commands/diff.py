"""The command `diff`: two outputs, or two generations of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from labelbeam.pipeline.commands.evaluate import describe_match
from labelbeam.pipeline.pages.diff import render_diff
from labelbeam.pipeline.pages.page import check_page, write_page
from labelbeam.pipeline.results.churn import Change, Labels
from labelbeam.pipeline.results.database import open_database
from labelbeam.pipeline.results.diff import Difference, compare
from labelbeam.pipeline.results.fates import Fate
from labelbeam.pipeline.results.shifts import Shifts
from labelbeam.pipeline.results.text import MOST_LINES, align, first_rows, values_of, write_json
from labelbeam.pipeline.results.truth import TruthOptions
from labelbeam.pipeline.results.verdict import Verdict, explain_test

_MOST_CHANGES = 10
_MOST_EXAMPLES = 30
_ABSENT = "(not there)"


def diff_outputs(
    a: str, b: str, truth: TruthOptions | None, json_path: str, page_path: str, show_sql: bool
) -> None:
    """Compare two outputs, print their differences, and write them to files.

    Args:
      a: Table folder, or `FOLDER@N`.
      b: Another one.
      truth: Origin of the truth; None for none.
      json_path: File that gets the whole result; "" for none.
      page_path: HTML file; "" for none.
      show_sql: Whether the SQL is printed in place of the result.

    Raises:
      UserError: There are no tables, they have nothing in common, or a file can't be written.
    """
    if page_path:
        # Before the work, because it takes minutes for large tables.
        check_page(page_path)
    with open_database(show_sql) as db:
        difference = compare(db, a, b, truth)
    if show_sql:
        return
    if json_path:
        write_json(json_path, difference)
    if page_path:
        write_page(page_path, render_diff(difference))
    print("\n".join(describe_difference(difference)))


def describe_difference(difference: Difference) -> Iterator[str]:
    """Yield the lines that describe the differences of two outputs."""
    yield from _describe_sides(difference)
    images = [(name, number) for name, number in difference.images.items() if number]
    yield from first_rows("Images", ("", "images"), images)
    if labels := difference.labels:
        yield from _describe_labels(labels)
        yield from _describe_shifts(difference.shifts)
        yield from _describe_changes("Images with other labels, the surest first", labels.changed)
        yield from _describe_changes("Largest shifts of the score", labels.shifted)
    else:
        yield from _describe_distances(difference.shifts, difference.distant)
    yield from _describe_fates([fate for fate in difference.fates if fate.a != fate.b])
    if difference.verdict:
        yield ""
        yield from describe_verdict(difference.verdict)


def _describe_sides(difference: Difference) -> Iterator[str]:
    sides = [
        (name, side.output, side.generation, side.run_id, side.labelled, side.failed)
        for name, side in (("A", difference.a), ("B", difference.b))
    ]
    yield from align(("", "output", "generation", "run", "labelled", "failed"), sides, indent="")
    settings = [(one.name, one.a, one.b) for one in difference.settings]
    yield from first_rows("Settings that differ", ("setting", "A", "B"), settings, len(settings))
    yield from [] if settings else ["", "All settings are the same."]
    yield from (f"Warning: {warning}" for warning in difference.warnings)


def _describe_labels(labels: Labels) -> Iterator[str]:
    measures = {"same labels" if labels.multilabel else "same label": labels.same, "Jaccard": labels.jaccard}
    rows = [(name, *values_of(one), one.images) for name, one in measures.items() if one]
    title = f"Agreement of labels, matched by {labels.matched_by}"
    yield from first_rows(title, ("measure", "value", "95 % from", "to", "of"), rows)
    churn = [(pair.a, pair.b, pair.images) for pair in labels.churn[:MOST_LINES]]
    more = f", the first {len(churn)} of {labels.pairs:,} pairs" if len(churn) < labels.pairs else ""
    yield from first_rows(f"Labels that changed{more}", ("in A", "in B", "images"), churn)
    if labels.multilabel:
        classes = [(one.label, one.a, one.b, one.lost, one.gained) for one in labels.classes]
        changed = [row for row in classes if row[3] or row[4]]
        header = ("label", "images in A", "in B", "lost", "gained")
        yield from first_rows("Labels that images lost and gained", header, changed)


def _describe_shifts(shifts: Shifts | None) -> Iterator[str]:
    if shifts:
        yield from ("", "Score of B minus score of A, of images with the same labels")
        means = {"mean": f"{shifts.mean:+.4f}", "mean absolute": f"{shifts.mean_absolute:.4f}"}
        yield from _describe_distribution(shifts, means, "+")


def _describe_distances(distances: Shifts | None, distant: Sequence[Change]) -> Iterator[str]:
    if distances:
        yield from ("", "Cosine distance of the embeddings in A and B")
        yield from _describe_distribution(distances, {"mean": f"{distances.mean:.4f}"}, "")
    rows = [(f"{change.distance:.6f}", change.uri) for change in distant[:_MOST_CHANGES]]
    yield from first_rows("Largest distances", ("distance", "image"), rows)


def _describe_distribution(shifts: Shifts, means: Mapping[str, str], sign: str) -> Iterator[str]:
    quantiles = {f"{percent} %": value for percent, value in shifts.quantiles.items()}
    values = {"least": shifts.least, **quantiles, "most": shifts.most}
    # As texts, because shifts have a sign and four digits.
    cells = {"images": f"{shifts.images:,}", **means, **{n: f"{v:{sign}.4f}" for n, v in values.items()}}
    yield from align(tuple(cells), [tuple(cells.values())])


def _describe_changes(title: str, changes: Sequence[Change]) -> Iterator[str]:
    rows = [
        (", ".join(one.a) or "(none)", one.a_score, ", ".join(one.b) or "(none)", one.b_score, one.uri)
        for one in changes[:_MOST_CHANGES]
    ]
    yield from first_rows(title, ("in A", "score", "in B", "score", "image"), rows)


def _describe_fates(fates: Sequence[Fate]) -> Iterator[str]:
    rows = [
        (fate.a or _ABSENT, fate.b or _ABSENT, fate.images if n == 0 else None, example.uri, example.message)
        for fate in fates
        for n, example in enumerate(fate.examples)
    ]
    title = "Failures that came and went, and images of one output alone"
    yield from first_rows(title, ("in A", "in B", "images", "such as", "message"), rows, _MOST_EXAMPLES)


def describe_verdict(verdict: Verdict) -> Iterator[str]:
    """Yield lines about which output is right."""
    yield from describe_match(verdict.match)
    if not (verdict.a and verdict.b):
        yield "No image with a truth is labelled in both outputs."
        return
    sides = {"A": verdict.a, "B": verdict.b}
    rows = [(name, *values_of(one), one.images) for name, one in sides.items()]
    yield from align(("output", "right", "95 % from", "to", "of"), rows)
    counts = (("both", verdict.both), ("only A", verdict.only_a), ("only B", verdict.only_b))
    yield from align(("right", "images"), [*counts, ("neither", verdict.neither)])
    yield explain_test(verdict)
