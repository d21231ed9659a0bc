"""The command `report`: a page about published tables."""

from __future__ import annotations

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from labelbeam.pipeline.manifest import recorded_config
from labelbeam.pipeline.pages.page import check_page, counted, write_page
from labelbeam.pipeline.pages.report import Page, Report, images_in_order, render_report
from labelbeam.pipeline.report.record import read_run_record
from labelbeam.pipeline.results.database import Database, open_database, split_generation
from labelbeam.pipeline.results.evaluate import evaluate
from labelbeam.pipeline.results.failures import read_failures
from labelbeam.pipeline.results.image_files import read_image_files
from labelbeam.pipeline.results.overview import read_labels, read_norms
from labelbeam.pipeline.results.targets import check_target
from labelbeam.pipeline.results.thumbnails import Thumbnail, fetch_thumbnails
from labelbeam.pipeline.results.truth import TruthOptions
from labelbeam.transforms.errors import UserError
from labelbeam.transforms.files import is_local
from labelbeam.transforms.models.presets import EMBEDDING

MOST_THUMBNAILS = 1000


def report_output(
    output: str,
    page: str,
    truth: TruthOptions | None,
    thumbnails: int,
    flags: Mapping[str, Any],
    show_sql: bool,
) -> None:
    """Write a page about the tables of an output, and print its path.

    Args:
      output: Table folder.
      page: Path of the page; "" for the folder's name in the working folder.
      truth: Origin of the right classes; None for no evaluation.
      thumbnails: Number of small pictures.
      flags: Options of requests that replace those of the run.
      show_sql: Whether the SQL is printed in place of the result.

    Raises:
      UserError: There are no tables, there is no truth, or the page can't be written.
    """
    page = page or default_page(output)
    if not show_sql:
        # Before the work, because it takes minutes for large tables. Here, too, because the working folder of
        # the default may be one of the tables' own.
        check_target("--page", page, split_generation(output)[0])
        check_page(page)
    with open_database(show_sql) as db:
        report = _read(db, output, truth, thumbnails)
    if show_sql:
        return
    if thumbnails:
        report = dataclasses.replace(report, thumbnails=_fetch(report, thumbnails, flags))
    rendered = render_report(report)
    write_page(page, rendered.html)
    print("\n".join(_describe(report, page, rendered, thumbnails)))


def default_page(output: str) -> str:
    """Return the name of an output's page in the working folder, such as `labels-report.html`."""
    path = os.path.abspath(output) if is_local(output) else output.rstrip("/")
    name = re.sub(r"[^\w.@+-]+", "-", path.rpartition("/")[2])
    return f"{name}-report.html" if name.strip("-") else "report.html"


def _read(db: Database, output: str, truth: TruthOptions | None, thumbnails: int) -> Report:
    manifest = db.attach(output)
    is_embedding = manifest.model["head"] == EMBEDDING
    # First, because a truth that does not fit is a mistake of the user.
    evaluation = evaluate(db, manifest, truth) if truth else None
    return Report(
        output=output,
        manifest=manifest,
        record=read_run_record(split_generation(output)[0], manifest.labelling_run),
        labels=None if is_embedding else read_labels(db, manifest, thumbnails),
        norms=read_norms(db) if is_embedding else (),
        files=read_image_files(db, manifest.preprocessing["resize"]["size_px"]),
        failures=read_failures(db),
        evaluation=evaluation,
        thumbnails={},
    )


def _fetch(report: Report, thumbnails: int, flags: Mapping[str, Any]) -> dict[str, Thumbnail]:
    if report.labels is None:
        raise UserError(
            f"thumbnails={thumbnails} is not allowed: the tables have embeddings, and no images are listed."
        )
    # By id, because an image may be in the lists of several classes of a multi-label model.
    images = {image.id: image for image in images_in_order(report.labels)}
    wanted = list(images.values())[:thumbnails]
    return fetch_thumbnails(wanted, recorded_config(report.manifest, flags))


def _describe(report: Report, path: str, page: Page, wanted: int) -> Iterator[str]:
    """Yield the lines for the terminal."""
    rows = sum(report.manifest.rows.values())
    yield f"{path}: a report on {counted(rows, 'row')}, {len(page.html.encode()) / 1e6:,.2f} MB."
    if not wanted:
        return
    thumbnails = report.thumbnails.values()
    missing = Counter(one.missing for one in thumbnails if one.missing)
    yield f"Thumbnails: {len(thumbnails) - missing.total() - page.left_out:,} of {wanted:,}."
    if len(thumbnails) < wanted:
        yield f"The page lists no more than {counted(len(thumbnails), 'image')}."
    for reason, images in missing.most_common():
        yield f"{images:,} without a picture: {reason}."
    if page.left_out:
        yield f"{page.left_out:,} are left out of the page, because it has at most 5 MB."
