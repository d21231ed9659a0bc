"""Rows that every rival writes, one for each image, and their comparison with the pipeline's."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds

from labelbeam.transforms.errors import ImageError
from labelbeam.transforms.models.classifier import TopK

SCHEMA = pa.schema([("uri", pa.string()), ("class_id", pa.int32()), ("score", pa.float32())])

# Class and score by file name.
Best = dict[str, tuple[int, float]]


def best_of(result: TopK | ImageError) -> dict[str, float]:
    """Return a row without its URI."""
    if isinstance(result, ImageError):
        raise result
    return {"class_id": int(result.class_ids[0]), "score": float(result.scores[0])}


def output_of(corpus: Path) -> Path:
    """Return the output folder of a corpus."""
    return corpus.parent / "output"


def new_output(corpus: Path) -> Path:
    """Delete the output folder of a corpus and return its path."""
    shutil.rmtree(output_of(corpus), ignore_errors=True)
    return output_of(corpus)


def read_best(corpus: Path) -> Best:
    """Return the best class of each image from a rival's or the pipeline's output; no image may lack one."""
    predictions = output_of(corpus) / "predictions"
    if predictions.is_dir():
        rows = ds.dataset(predictions, format="parquet").to_table(["uri", "labels"]).to_pylist()
        rows = [{"uri": row["uri"], **row["labels"][0]} for row in rows]
    else:
        rows = ds.dataset(output_of(corpus), format="parquet").to_table(SCHEMA.names).to_pylist()
    best = {Path(row["uri"]).name: (row["class_id"], row["score"]) for row in rows}
    images = {path.name for path in corpus.iterdir()}
    assert best.keys() == images and len(rows) == len(images), f"{len(rows)} rows of {len(images)} images"
    return best


def agreement(some: Best, others: Best) -> tuple[float, float]:
    """Return the share of images of the same class, and the largest difference of a best score."""
    same = sum(some[image][0] == others[image][0] for image in some) / len(some)
    return same, max(abs(some[image][1] - others[image][1]) for image in some)
