"""What every rival writes: a row for each image."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds

from transforms.errors import ImageError
from transforms.models.classifier import TopK

SCHEMA = pa.schema([("uri", pa.string()), ("class_id", pa.int32()), ("score", pa.float32())])

# Class and score by file name.
Best = dict[str, tuple[int, float]]


def best_of(result: TopK | ImageError) -> dict[str, float]:
    """A row, but for its URI."""
    if isinstance(result, ImageError):
        raise result
    return {"class_id": int(result.class_ids[0]), "score": float(result.scores[0])}


def read_best(output: Path) -> Best:
    """The rows that a rival wrote."""
    rows = ds.dataset(output, format="parquet").to_table(SCHEMA.names).to_pylist()
    best = {Path(row["uri"]).name: (row["class_id"], row["score"]) for row in rows}
    assert len(best) == len(rows), f"{len(rows)} rows of {len(best)} images"
    return best
