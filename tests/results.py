"""Results of imaginary images, and a publication of them without a pipeline."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from labelbeam.pipeline.config import WriteConfig
from labelbeam.pipeline.output import OutputState, prepare_output, read_output
from labelbeam.transforms.budget import FailureBudget
from labelbeam.transforms.count import COUNTERS
from labelbeam.transforms.elements import Failure, ImageMetadata, ImageRef, Label, Prediction, TableFile
from labelbeam.transforms.publish import Publication, commit, list_stored, make_manifest
from labelbeam.transforms.stage import Stager, Staging, write_staged
from labelbeam.transforms.table.documents import write_document
from labelbeam.transforms.table.folder import StoredFile, TableFolder
from labelbeam.transforms.table.manifest import (
    FORMAT,
    TABLES,
    FailureExample,
    LabelledWith,
    Manifest,
    TopLabel,
)
from labelbeam.transforms.table.merge import Merged, find_superseded, merge_files, parts_of, plan_merge
from labelbeam.transforms.table.rows import (
    FAILURES,
    PREDICTIONS,
    RowMetadata,
    failure_row,
    prediction_row,
    schema_of,
    to_record_batch,
)

LABELLED_WITH = LabelledWith(
    model="model-1",
    preprocessing="pre-1",
    precision="float32",
    xla=False,
    top_k=2,
    outputs={},
    columns={"price": "double"},
)


def manifest_of(
    reasons: dict[str, int] | None = None,
    examples: dict[str, FailureExample] | None = None,
    rows: dict[str, int] | None = None,
    labelled_with: LabelledWith = LABELLED_WITH,
    label: str = "cat",
    **counts: int,
) -> Manifest:
    """Return a manifest of a run with these counts."""
    rows = rows or {"predictions": counts.get("labelled", 0), "failures": counts.get("failed", 0)}
    return Manifest(
        format=FORMAT,
        labelbeam="0",
        run_id="r",
        publication="r-1",
        generation=1,
        labelled_with=labelled_with,
        model={},
        preprocessing={},
        partitioned_by=None,
        config={},
        balanced=True,
        counts={**dict.fromkeys(COUNTERS, 0), **counts},
        rows=rows,
        failures_by_reason=reasons or {},
        failures_by_host={},
        top_labels=(TopLabel(1, label, 2),),
        files=tuple(TableFile(table, f"{table}/a.parquet", n, 10_000, "s") for table, n in rows.items()),
        merged_runs=("r",),
        failure_examples=examples,
    )


def write_table_file(
    folder: Path, results: Iterable, metadata: RowMetadata, published: bool = False
) -> StoredFile:
    """Write results of one kind as a file of their table."""
    rows = list(results)
    is_failure = isinstance(rows[0], Failure)
    table, to_row = (FAILURES, failure_row) if is_failure else (PREDICTIONS, prediction_row)
    batch = to_record_batch([to_row(row, metadata) for row in rows], schema_of(table, metadata))
    return StoredFile(write_staged(table, batch, str(folder)), published)


def row_metadata_of(run_id: str) -> RowMetadata:
    return RowMetadata(run_id, "model-1", "pre-1", (("price", pa.float64()),))


def prediction(n: int, class_id: int | None = None, price: float | None = None) -> Prediction:
    """Return the prediction for image `n`; its class is `n % 3` by default."""
    class_id = n % 3 if class_id is None else class_id
    ref = ImageRef(f"id{n}", f"gs://b/{n}.jpg", (n / 2 if price is None else price,))
    labels = (Label(class_id, "abcdefghij"[class_id], 0.5), Label(9, "z", 0.25))
    return Prediction(ref, labels, ImageMetadata(640, 480, "JPEG", 1, 1, 1234, "f" * 64, "v1"))


def failure(n: int, reason: str = "timeout") -> Failure:
    """Return the failure of image `n`."""
    return Failure(ImageRef(f"id{n}", f"http://h{n % 2}/{n}", (None,)), "fetch", reason, "m", 1, f"h{n % 2}")


def stage(output: Path | str, run_id: str, results: list, every_rows: int = 7) -> None:
    """Announce a run and stage its results, as a run that breaks off before it publishes."""
    open_output(output, run_id)
    add_staged(output, run_id, results, every_rows)


def open_output(output: Path | str, run_id: str, **settings: Any) -> OutputState:
    """Read and prepare an output folder, as a run does."""
    config = WriteConfig(output=str(output), **settings)
    state = read_output(config, LABELLED_WITH)
    prepare_output(config, state, run_id, LABELLED_WITH)
    return state


def add_staged(output: Path | str, run_id: str, results: list, every_rows: int = 7) -> None:
    folder = TableFolder(str(output)).run(run_id)
    stager = Stager(Staging(folder, row_metadata_of(run_id), every_rows, 1e9, FailureBudget()))
    for result in results:
        stager.add(result)
    stager.flush()


def plan_publication(output: Path | str, run_id: str, **settings: Any) -> Publication:
    """Open an output folder as a run does, and return the publication of that run."""
    keep = settings.get("keep_generations", 1)
    state = open_output(output, run_id, keep_generations=keep)
    fields = {
        "format": 1,
        "labelbeam": "1.2.3",
        "run_id": run_id,
        "labelled_with": LABELLED_WITH,
        "model": {"handle": "a model"},
        "preprocessing": {},
        "partitioned_by": None,
        "config": {"input": "in", "output": str(output), "model": "a model", "top_k": 2},
    }
    defaults = {
        "output": str(output),
        "row_metadata": row_metadata_of(run_id),
        "manifest_fields": fields,
        "follows": state.follows,
        "resumes": state.resumes,
    }
    return Publication(**{**defaults, **settings})


def list_published(output: Path, files: Iterable[TableFile]) -> None:
    """Write a manifest of files that lie below the output folder."""
    listed = [dataclasses.replace(file, path=file.path.removeprefix(f"{output}/")) for file in files]
    listed += [
        TableFile(table, f"{table}/none.parquet", 0, 0, "f" * 64)
        for table in set(TABLES) - {file.table for file in listed}
    ]
    failures = sum(file.rows for file in listed if file.table == FAILURES)
    merged = Merged(listed, reasons=Counter(timeout=failures))
    manifest = make_manifest(plan_publication(output, "r"), "r-1", merged, {}, None, {})
    (output / "manifest.json").write_bytes(write_document(manifest))


def publish(publication: Publication, counts: dict[str, int] | None = None) -> Manifest:
    """Publish as `PublishResults` does, by its pure functions alone."""
    listing = list_stored(publication)
    sources = listing.stored_files
    superseded = defaultdict(list)
    for part in range(parts_of(sources)):
        for path, rows in find_superseded(sources, part, parts_of(sources)).items():
            superseded[path].append(rows)
    tasks = plan_merge(sources, superseded, listing.name, publication.target_bytes)
    folder = TableFolder(publication.output).merged(publication.run_id)
    merged = [merge_files(task, publication.row_metadata, folder, publication.partitioning) for task in tasks]
    return commit(publication, listing.name, merged, counts or {}, {})
