"""A corpus of many ids of which some are published already, made without labelling them.

python -m benchmarks.published FOLDER IDS DONE

All ids stand for one tiny image. FOLDER gets `all`, `done` and `missing`, each as a `.csv`
of keys and URIs and a `.txt` of keys, a `model` that does next to nothing, and `published`,
an output folder.
"""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.corpus import make_corpus
from labelbeam.pipeline.config import load_config
from labelbeam.pipeline.plan import Plan
from labelbeam.pipeline.prepare import prepared
from labelbeam.pipeline.runners.options import pipeline_options
from labelbeam.transforms.count import LABELLED, LISTED
from labelbeam.transforms.elements import ImageMetadata, ImageRef, Label, Prediction, id_of_uri
from labelbeam.transforms.publish import commit, list_stored
from labelbeam.transforms.stage import write_staged
from labelbeam.transforms.table.folder import TableFolder
from labelbeam.transforms.table.merge import merge_files, plan_merge
from labelbeam.transforms.table.rows import PREDICTIONS, prediction_row, predictions_schema, to_record_batch
from tests.tiny_model import save_tiny_model


def prepare(folder: Path, ids: int, done: int) -> None:
    """Make the published tables."""
    (image,) = make_corpus(folder / "images", 1, 16, 16).iterdir()
    model = save_tiny_model(folder / "model", size_px=16)
    keys = [id_of_uri(str(n)) for n in range(ids)]
    for name, some in (("all", keys), ("done", keys[:done]), ("missing", keys[done:])):
        (folder / f"{name}.txt").write_text("".join(f"{key}\n" for key in some))
        (folder / f"{name}.csv").write_text("key,uri\n" + "".join(f"{key},{image}\n" for key in some))
    paths = {"input": folder / "done.csv", "output": folder / "published", "model": model}
    flags = {"id_column": "key", **{name: str(path) for name, path in paths.items()}}
    with prepared(load_config(None, flags), pipeline_options(())) as plan:
        stage(plan, keys[:done], str(image))
        publish(plan, done)


def stage(plan: Plan, ids: Sequence[str], uri: str) -> None:
    """Stage a row for each id."""
    staging = plan.staging
    for start in range(0, len(ids), staging.every_rows):
        predictions = make_up(ids[start : start + staging.every_rows], uri, plan.model.labels)
        rows = [prediction_row(prediction, staging.row_metadata) for prediction in predictions]
        write_staged(
            PREDICTIONS, to_record_batch(rows, predictions_schema(staging.row_metadata)), staging.folder
        )


def make_up(ids: Sequence[str], uri: str, labels: Sequence[str]) -> Iterator[Prediction]:
    """Yield predictions that compress no better than real ones, because digests and scores differ."""
    for image_id in ids:
        scores = sorted((random.random() for _ in labels), reverse=True)
        best = tuple(
            Label(n, label, score) for n, (label, score) in enumerate(zip(labels, scores, strict=True))
        )
        digest = hashlib.sha256(image_id.encode()).hexdigest()
        yield Prediction(ImageRef(image_id, uri), best, ImageMetadata(16, 16, "JPEG", 1, 1, 600, digest))


def publish(plan: Plan, rows: int) -> None:
    """Publish what is staged, as a run does."""
    publication = plan.publication
    listing = list_stored(publication)
    tasks = plan_merge(listing.stored_files, {}, listing.name, publication.target_bytes)
    folder = TableFolder(plan.output).merged(publication.run_id)
    merged = [merge_files(task, publication.row_metadata, folder, publication.partitioning) for task in tasks]
    commit(publication, listing.name, merged, {LISTED: rows, LABELLED: rows}, {})


if __name__ == "__main__":
    prepare(Path(sys.argv[1]), *map(int, sys.argv[2:]))
