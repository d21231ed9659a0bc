"""The page of `labelbeam diff`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from labelbeam.pipeline.pages.charts import histogram, numbers
from labelbeam.pipeline.pages.page import count, render, share
from labelbeam.pipeline.results.churn import Labels
from labelbeam.pipeline.results.diff import Difference
from labelbeam.pipeline.results.fates import LABELLED_TWICE
from labelbeam.pipeline.results.shifts import Shifts
from labelbeam.pipeline.results.verdict import Verdict, explain_test

# Rows of tables, because a page is read by people; the JSON has more.
_MOST_PAIRS, _MOST_CLASSES, _MOST_IMAGES, _MOST_FATES = 25, 200, 20, 50


def render_diff(difference: Difference) -> str:
    """Return the page about the differences of two outputs, as HTML."""
    fates = [fate for fate in difference.fates if fate.a != fate.b]
    return render(
        "diff.html",
        difference=difference,
        parts=list(_parts(difference)),
        figures=list(_figures(difference)),
        images=[(name, number) for name, number in difference.images.items() if number],
        fates=fates[:_MOST_FATES],
        left_out_fates=len(fates[_MOST_FATES:]),
        **_values_of_labels(difference.labels),
        **_values_of_shifts(difference.shifts, is_score=difference.labels is not None),
        **_values_of_verdict(difference.verdict),
    )


def _values_of_labels(labels: Labels | None) -> dict[str, Any]:
    if labels is None:
        return {}
    changed = [one for one in labels.classes if one.lost or one.gained]
    return {
        "pairs": labels.churn[:_MOST_PAIRS],
        "classes": changed[:_MOST_CLASSES],
        "changed_classes": len(changed),
        "changed": labels.changed[:_MOST_IMAGES],
        "shifted": labels.shifted[:_MOST_IMAGES],
        "changed_images": _changed_images(labels),
    }


def _changed_images(labels: Labels) -> int:
    return round((1 - labels.same.value) * labels.same.images) if labels.same else 0


def _values_of_shifts(shifts: Shifts | None, is_score: bool) -> dict[str, Any]:
    if shifts is None:
        return {}
    title, axis = (
        ("Shifts of the score", "score of B minus score of A")
        if is_score
        else ("Distances", "cosine distance")
    )
    # Enough digits for the edges of bins to differ.
    digits = len(f"{shifts.bins[-1].high - shifts.bins[-1].low:.6f}".rstrip("0").partition(".")[2])
    return {
        "chart": histogram(title, shifts.bins, axis, digits=digits),
        "quantile_columns": numbers(*(f"{percent}%" for percent in shifts.quantiles)),
    }


def _values_of_verdict(verdict: Verdict | None) -> dict[str, Any]:
    if verdict is None:
        return {}
    names = ("both", "only A", "only B", "neither")
    counts = (verdict.both, verdict.only_a, verdict.only_b, verdict.neither)
    return {"verdicts": list(zip(names, counts, strict=True)), "conclusion": explain_test(verdict)}


def _parts(difference: Difference) -> Iterator[tuple[str, str]]:
    """Yield the id and the name of each section."""
    yield "outputs", "Outputs"
    if difference.labels:
        yield "labels", "Labels"
    if difference.shifts:
        yield "scores", "Scores" if difference.labels else "Distances"
    if difference.labels or difference.distant:
        yield "images", "Most changed images"
    if difference.verdict:
        yield "truth", "Truth"
    yield "failures", "Failures"


def _figures(difference: Difference) -> Iterator[tuple[str, str]]:
    """Yield the names and values of key figures."""
    labels, images = difference.labels, difference.images
    yield LABELLED_TWICE if labels else "embedded in both", count(images[LABELLED_TWICE])
    if labels and labels.same:
        changed = _changed_images(labels)
        yield "have the same label", share(labels.same.images - changed, labels.same.images)
        yield "have another label", count(changed)
    elif not labels and difference.shifts:
        yield "mean cosine distance", f"{difference.shifts.mean:.4f}"
    for name in ("failed in A, labelled in B", "labelled in A, failed in B", "only in A", "only in B"):
        if images[name]:
            yield name, count(images[name])
