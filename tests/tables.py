"""Published tables of imaginary images, made without a pipeline, for commands over results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from labelbeam.transforms.count import COUNTERS, FAILED, LABELLED, LISTED
from labelbeam.transforms.elements import TableFile
from labelbeam.transforms.files import digest_file
from labelbeam.transforms.images.resize import ResizeRule
from labelbeam.transforms.table.documents import write_document
from labelbeam.transforms.table.manifest import TABLES, LabelledWith, Manifest
from labelbeam.transforms.table.rows import FAILURES, PREDICTIONS, RowMetadata, schema_of

RUN_ID = "20260101T000000-00000001"


@dataclass(frozen=True)
class Settings:
    """Settings of the tables: the model's head and classes, and the user's own columns by type."""

    classes: Sequence[str]
    head: str = "single_label"
    top_k: int = 5
    threshold: float | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, int] = field(default_factory=dict)
    model: str = "model-1"
    generation: int = 1
    run_id: str = RUN_ID

    @property
    def labelled_with(self) -> LabelledWith:
        return LabelledWith(
            self.model, "pre-1", "float32", False, self.top_k, self.outputs, self.columns, self.threshold
        )

    @property
    def row_metadata(self) -> RowMetadata:
        settings = self.labelled_with
        return RowMetadata(self.run_id, self.model, "pre-1", settings.column_types, settings.outputs_column)


def publish_rows(
    output: Path,
    settings: Settings,
    predictions: Sequence[Mapping[str, Any]],
    failures: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Publish rows, which need `id`, and predictions `labels` as pairs of class id and score, best first."""
    rows = {
        PREDICTIONS: [_prediction(row, settings) for row in predictions],
        FAILURES: [
            {**_COMMON, **_FAILURE, **_uri_of(row), **row, "run_id": settings.run_id} for row in failures
        ],
    }
    for table in TABLES:
        folder = output / table
        folder.mkdir(parents=True, exist_ok=True)
        schema = schema_of(table, settings.row_metadata)
        pq.write_table(
            pa.Table.from_pylist(rows[table], schema=schema), folder / f"{settings.run_id}-0000-00000.parquet"
        )
    return publish_files(output, settings)


def publish_files(output: Path, settings: Settings) -> Path:
    """Write the manifest of the Parquet files that lie in an output's folders."""
    files = [
        TableFile(
            table,
            path.relative_to(output).as_posix(),
            pq.read_metadata(path).num_rows,
            *digest_file(str(path)),
        )
        for table in TABLES
        for path in sorted((output / table).rglob("*.parquet"))
    ]
    rows = {table: sum(file.rows for file in files if file.table == table) for table in TABLES}
    counts = dict.fromkeys(COUNTERS, 0)
    counts |= {LISTED: sum(rows.values()), LABELLED: rows[PREDICTIONS], FAILED: rows[FAILURES]}
    reasons: Counter[str] = Counter()
    for file in files:
        if file.table == FAILURES:
            reasons.update(pq.read_table(output / file.path, columns=["reason"])["reason"].to_pylist())
    manifest = Manifest(
        format=1,
        labelbeam="0.1.0",
        run_id=settings.run_id,
        publication=f"{settings.run_id}-0000",
        generation=settings.generation,
        labelled_with=settings.labelled_with,
        model={
            "handle": "a model",
            "head": settings.head,
            "head_from": "given",
            "outputs": "logits",
            "length": len(settings.classes),
            "fingerprint": settings.model,
            "classes": list(settings.classes),
        },
        preprocessing={
            **{"resize": ResizeRule(224).describe(), "input_range": [0, 1], "scaling_from": "preset"},
            "fingerprint": "pre-1",
        },
        partitioned_by=None,
        config={"input": "in", "output": str(output), "model": "a model"},
        balanced=True,
        counts=counts,
        rows=rows,
        failures_by_reason=dict(reasons),
        failures_by_host={},
        top_labels=(),
        files=tuple(files),
        merged_runs=(settings.run_id,),
    )
    (output / "manifest.json").write_bytes(write_document(manifest))
    return output


_COMMON = {"model_fingerprint": "model-1", "preprocessing_fingerprint": "pre-1"}
_IMAGE = {
    **{"width_px": 640, "height_px": 480, "format": "JPEG", "orientation": 1, "frames": 1},
    **{"size_bytes": 1234, "sha256": "f" * 64, "version": "v1"},
}
_FAILURE = {"stage": "fetch", "reason": "timeout", "message": "m", "attempts": 1, "host": "h"}


def _uri_of(row: Mapping[str, Any]) -> dict[str, str]:
    return {"uri": f"gs://bucket/{row['id']}.jpg"}


def _prediction(row: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    labels = [
        {"class_id": class_id, "label": settings.classes[class_id], "score": score}
        for class_id, score in row["labels"]
    ]
    best = labels[0] if labels else {"label": None, "score": None}
    return {
        **_COMMON,
        **_IMAGE,
        **_uri_of(row),
        **row,
        "labels": labels,
        "label": best["label"],
        "score": best["score"],
        "model_fingerprint": settings.model,
        "run_id": settings.run_id,
    }
