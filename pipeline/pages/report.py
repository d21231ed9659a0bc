"""The page of `labelbeam report`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from labelbeam.pipeline.pages.charts import Chart, histogram, reliability
from labelbeam.pipeline.pages.facts import (
    Fact,
    model_facts,
    options,
    performance_facts,
    run_facts,
    started_at,
    warnings_of,
)
from labelbeam.pipeline.pages.page import MAX_BYTES, count, counted, file_size, render, score, share
from labelbeam.pipeline.report.record import RunRecord
from labelbeam.pipeline.results.evaluation import Evaluation
from labelbeam.pipeline.results.failures import Failures
from labelbeam.pipeline.results.histogram import Bin
from labelbeam.pipeline.results.image_files import ImageFiles
from labelbeam.pipeline.results.overview import TOP_CLASSES, LabelledImage, Labels
from labelbeam.pipeline.results.thumbnails import Thumbnail
from labelbeam.transforms.models.heads import BINARY, MULTILABEL
from labelbeam.transforms.table.manifest import Manifest

# Classes in the table that is always open.
_OPEN_CLASSES = 15
# Rows of tables of classes, the first number with which a page is small enough.
_ROWS = (5_000, 2_000, 500, 100)
# Bytes around a picture, with the longest alternative text.
_ELEMENT_BYTES = 600
_TOO_MANY = Thumbnail(missing="left out, because a page has at most 5 MB")


@dataclass(frozen=True, slots=True)
class Report:
    """Contents of the page.

    Attributes:
      output: Table folder as the user has named it.
      record: Numbers of the run; None without them.
      labels: None for embeddings.
      norms: Distribution of the lengths of embeddings.
      evaluation: None without a truth.
      thumbnails: Pictures by id, the most important ones first.
    """

    output: str
    manifest: Manifest
    record: RunRecord | None
    labels: Labels | None
    norms: tuple[Bin, ...]
    files: ImageFiles
    failures: Failures
    evaluation: Evaluation | None
    thumbnails: Mapping[str, Thumbnail]


def images_in_order(labels: Labels) -> Iterator[LabelledImage]:
    """Yield the images of the page in the order of their thumbnails: the first ones of all lists first."""
    lists = [images for one in labels.extremes for images in (one.least, one.most)]
    for images in itertools.zip_longest(*lists):
        yield from (image for image in images if image)


def common_folder(uris: Sequence[str]) -> str:
    """Return the folder that all images are in, with a slash at its end; empty if there is none."""
    # Of the first and the last in order, because what these two have in common, all have.
    ends = zip(min(uris, default=""), max(uris, default=""), strict=False)
    prefix = "".join(a for a, b in itertools.takewhile(lambda pair: pair[0] == pair[1], ends))
    folder = prefix.rpartition("/")[0]
    # Not a host or a bucket alone, because its images are in no common folder.
    _, scheme, rest = folder.rpartition("://")
    return f"{folder}/" if ("/" in rest if scheme else folder.count("/") > 1) else ""


class Page(NamedTuple):
    """A rendered page.

    Attributes:
      left_out: Number of thumbnails that the page has no room for.
    """

    html: str
    left_out: int


def render_report(report: Report) -> Page:
    """Return a page of at most `MAX_BYTES`: with fewer rows of classes and fewer thumbnails if need be."""
    values = _values(report)
    texts = {key: _TOO_MANY if one.data else one for key, one in report.thumbnails.items()}
    without = replace(report, thumbnails=texts)
    for rows in _ROWS:
        html = _render(without, rows, values)
        if (room := MAX_BYTES - len(html.encode())) >= 0:
            break
    thumbnails = {}
    for key, thumbnail in report.thumbnails.items():
        room -= len(thumbnail.data) + _ELEMENT_BYTES if thumbnail.data else 0
        thumbnails[key] = _TOO_MANY if thumbnail.data and room < 0 else thumbnail
    html = _render(replace(report, thumbnails=thumbnails), rows, values)
    return Page(html, sum(thumbnail is _TOO_MANY for thumbnail in thumbnails.values()))


def _render(report: Report, rows: int, values: Mapping[str, Any]) -> str:
    return render(
        "report.html",
        **values,
        thumbnails=report.thumbnails,
        listed=report.labels.classes[:rows] if report.labels else (),
        evaluated_classes=report.evaluation.classes[:rows] if report.evaluation else (),
    )


def _values(report: Report) -> dict[str, Any]:
    manifest, labels = report.manifest, report.labels
    performance = report.record and report.record.performance
    per_image = labels.per_image if labels else ()
    values: dict[str, Any] = {
        "output": report.output,
        "manifest": manifest,
        "started": started_at(manifest),
        "lead": _lead(report),
        "figures": list(_figures(report)),
        "warnings": list(warnings_of(manifest)),
        "model_facts": list(model_facts(manifest)),
        "run_facts": list(run_facts(manifest, report.record)),
        "performance_facts": list(performance_facts(performance)) if performance else [],
        "options": options(manifest),
        "labels": labels,
        "labelled": manifest.rows["predictions"],
        "shown_classes": _OPEN_CLASSES,
        "per_image": per_image,
        "most_per_image": max((images for _, images in per_image), default=0),
        "charts": list(_score_charts(report)),
        "class_charts": list(_class_charts(labels)) if labels else [],
        "scores_note": _scores_note(report),
        "extremes": labels.extremes if labels else (),
        "folder": common_folder([image.uri for image in images_in_order(labels)]) if labels else "",
        "files": report.files,
        "file_charts": list(_file_charts(report.files)),
        "file_facts": list(_file_facts(report.files.facts, manifest.preprocessing["resize"]["size_px"])),
        "failures": report.failures,
        "failed": manifest.rows["failures"],
        "evaluation": report.evaluation,
        "reliability": reliability(report.evaluation.bins) if report.evaluation else None,
        "measures": list(_measures(report.evaluation)) if report.evaluation else [],
    }
    return {**values, "parts": list(_parts(values))}


def _parts(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the parts that the page has."""
    yield "run", "Run"
    if values["evaluation"]:
        yield "evaluation", "Evaluation"
    if values["labels"]:
        yield "labels", "Labels"
    if values["charts"]:
        yield "scores", "Scores" if values["labels"] else "Embeddings"
    if values["extremes"]:
        yield "certainty", "Certainty"
    if values["files"].formats:
        yield "files", "Image files"
    yield "failures", "Failures"


def _lead(report: Report) -> str:
    rows, model = report.manifest.rows, report.manifest.model
    verb = "labelled" if report.labels else "embedded"
    failed = f", {counted(rows['failures'], 'failure')}" if rows["failures"] else ""
    return f"{counted(rows['predictions'], 'image')} {verb} by {model['handle']}{failed}."


def _figures(report: Report) -> Iterator[tuple[str, str]]:
    rows, labels = report.manifest.rows, report.labels
    total = sum(rows.values())
    yield "images in the tables", count(total)
    yield "labelled" if labels else "embedded", count(rows["predictions"])
    failed = rows["failures"]
    yield f"failed ({share(failed, total)})" if failed else "failed", count(failed)
    if labels:
        yield "different labels", count(labels.seen)
    if report.evaluation:
        name, estimate = next(iter(report.evaluation.measures.items()), ("", None))
        if estimate:
            yield name, score(estimate.value)
    if report.record and report.record.images_per_sec:
        yield "images/s", f"{report.record.images_per_sec:,.1f}"


def _measures(evaluation: Evaluation) -> Iterator[tuple[str, str, str, str]]:
    """Yield name, value, interval and number of images of each measure."""
    for name, one in evaluation.measures.items():
        yield name, score(one.value), f"{score(one.low)} to {score(one.high)}", count(one.images)
    for name, value in evaluation.means.items():
        yield name, score(value), "", ""


def _score_charts(report: Report) -> Iterator[Chart]:
    if report.labels is None:
        if report.norms:
            # As many digits as the edges need to differ.
            digits = max(2, 1 - math.floor(math.log10(report.norms[0].high - report.norms[0].low)))
            yield histogram("Lengths of embeddings", report.norms, "Euclidean length", digits=digits)
        return
    head, labels = report.manifest.model["head"], report.labels
    if not labels.total:
        return
    title = "Scores of all labels" if head == MULTILABEL else "Scores of the best label"
    yield histogram(title, labels.bins, "score")
    if head == BINARY:
        yield histogram("Scores of the second class", labels.positive, "score of class 1")


def _class_charts(labels: Labels) -> Iterator[Chart]:
    # Not of a single one, because its distribution is that of all scores.
    if labels.seen > 1:
        for one in labels.classes[:TOP_CLASSES]:
            yield histogram(one.label, one.bins, "score", height=130)


def _scores_note(report: Report) -> str:
    if report.labels is None:
        return "Lengths of about 1 are of normalised embeddings. A length of 0 is no description of an image."
    if report.evaluation:
        return "The reliability diagram above shows how far scores can be taken for probabilities."
    return "Scores are the model's own. Only an evaluation shows how far they can be taken for probabilities."


def _file_charts(files: ImageFiles) -> Iterator[Chart]:
    if files.megapixels:
        names = {edge: f"{edge:.3g}" for b in files.megapixels for edge in (b.low, b.high)}
        yield histogram("Size in megapixels", files.megapixels, "megapixels", ticks=names)
    if files.kilobytes:
        names = {edge: _size(edge) for b in files.kilobytes for edge in (b.low, b.high)}
        yield histogram("Size of files", files.kilobytes, "length of the file", ticks=names)


def _size(kilobytes: float) -> str:
    # 1024 kB as 1 MB, because edges are powers of two.
    if kilobytes < 1:
        return f"{1000 * kilobytes:.3g} B"
    return f"{kilobytes:g} kB" if kilobytes < 1024 else f"{kilobytes / 1024:g} MB"


def _file_facts(facts: Mapping[str, int], size_px: int) -> Iterator[Fact]:
    images = facts["images"]
    if not images:
        return
    yield Fact("all files", file_size(facts["bytes"]), f"{file_size(facts['bytes'] / images)} in the mean")
    remarks: Sequence[tuple[str, str]] = (
        ("small", f"shorter side below the model's {size_px} px, so they were enlarged"),
        ("turned", "turned or mirrored by their EXIF orientation, which was applied"),
        ("animated", "several frames or pages, of which the first was labelled"),
    )
    for name, remark in remarks:
        if facts[name]:
            yield Fact(f"{name} images", f"{count(facts[name])} ({share(facts[name], images)})", remark)
