"""Calibrations, and batches of predictions whose scores are known."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from labelbeam.pipeline.config import WriteConfig
from labelbeam.pipeline.manifest import new_run_id
from labelbeam.pipeline.output import prepare_output, read_output
from labelbeam.transforms.budget import FailureBudget
from labelbeam.transforms.calibration import Basis, Calibration, ClassThreshold, Estimate, Judgement
from labelbeam.transforms.elements import ImageMetadata, ImageRef, Label, Prediction
from labelbeam.transforms.publish import Publication
from labelbeam.transforms.stage import Stager, Staging
from labelbeam.transforms.table.folder import TableFolder
from labelbeam.transforms.table.manifest import Manifest
from labelbeam.transforms.table.rows import RowMetadata, prediction_row, to_predictions
from tests.results import LABELLED_WITH, failure, publish

METADATA = ImageMetadata(640, 480, "JPEG", 1, 1, 1234, "f" * 64, "v1")
ROWS = RowMetadata("run", "model-1", "pre-1", (("price", pa.float64()),))
_HALF = Estimate(0.5, 0.4, 0.6, 300)
SINGLE_LABEL = Calibration(
    labelbeam="1.2.3",
    basis=Basis("model-1", "pre-1", "single_label", classes=10, top_k=2),
    temperature=2.0,
    default_threshold=0.5,
    default_labels=100,
    thresholds=(ClassThreshold(1, "b", 0.25, 100), ClassThreshold(2, "c", None, 100)),
    wanted_risk=0.05,
    images=300,
    judgement=Judgement(300, _HALF, _HALF, _HALF, None),
)


def calibration(**changes: Any) -> Calibration:
    """Return a calibration with changes of its fields and of its basis."""
    names = {field.name for field in dataclasses.fields(Basis)}
    of_basis = {name: value for name, value in changes.items() if name in names}
    others = {name: value for name, value in changes.items() if name not in names}
    basis = dataclasses.replace(SINGLE_LABEL.basis, **of_basis)
    return dataclasses.replace(SINGLE_LABEL, basis=basis, **others)


def scored(n: int, labels: list[tuple[int, float]]) -> Prediction:
    """Return the prediction of image `n` with class ids and scores, best first."""
    ref = ImageRef(f"id{n}", f"gs://b/{n}.jpg", (n / 2,))
    return Prediction(ref, tuple(Label(i, f"class {i}", s) for i, s in labels), METADATA)


def batch_of(rows: list[list[tuple[int, float]]]) -> pa.RecordBatch:
    """Return rows of the predictions table with class ids and scores, best first."""
    values = [prediction_row(scored(n, labels), ROWS) for n, labels in enumerate(rows)]
    return to_predictions(values, ROWS, None)


def random_rows(
    basis: Basis, images: int, seed: int, gain: float = 4.0
) -> tuple[list[list[tuple[int, float]]], np.ndarray]:
    """Return class ids and scores of random images, and their logits, `[images, classes]`."""
    random = np.random.default_rng(seed)
    logits = gain * random.normal(size=(images, basis.classes))
    if basis.head == "binary":
        logits[:, 0] = 0
    scores = 1 / (1 + np.exp(-logits)) if basis.is_multilabel else softmax(logits)
    scores = scores.astype(np.float32)
    rows = []
    for one in scores:
        best = np.argsort(-one, kind="stable")[: basis.top_k]
        rows.append([(int(i), float(one[i])) for i in best if one[i] >= (basis.threshold or 0)])
    return rows, logits


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the softmax of each row."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def publish_rows(
    output: Path | str,
    rows: list[list[tuple[int, float]]],
    basis: Basis = SINGLE_LABEL.basis,
    truths: Sequence[str] | None = None,
    calibration: Calibration | None = None,
    **settings: Any,
) -> Manifest:
    """Publish rows with class ids and scores, and two failures.

    Args:
      output: A new table folder.
      rows: Class ids and scores of each image, best first.
      basis: Properties of the table.
      truths: Right class of each image, which becomes the column `truth`.
      calibration: Calibration of the rows.
      settings: Of the publication.
    """
    columns = {"truth": "string"} if truths is not None else {"price": "double"}
    labelled_with = dataclasses.replace(
        LABELLED_WITH,
        model=basis.model,
        preprocessing=basis.preprocessing,
        top_k=basis.top_k,
        threshold=basis.threshold,
        columns=columns,
        calibration=calibration.fingerprint if calibration else "",
    )
    run_id = new_run_id()
    metadata = RowMetadata(
        run_id,
        basis.model,
        basis.preprocessing,
        labelled_with.column_types,
        decisions=labelled_with.decisions,
    )
    folder = str(output)
    config = WriteConfig(output=folder)
    state = read_output(config, labelled_with)
    prepare_output(config, state, run_id, labelled_with)
    staging = Staging(
        TableFolder(folder).run(run_id), metadata, 10_000, 1e9, FailureBudget(), calibration=calibration
    )
    stager = Stager(staging)
    for n, labels in enumerate(rows):
        one = scored(n, labels)
        stager.add(dataclasses.replace(one, ref=_with_value(one.ref, truths[n] if truths else n / 2)))
    for n in (len(rows), len(rows) + 1):
        stager.add(dataclasses.replace(failure(n), ref=_with_value(failure(n).ref, None)))
    stager.flush()
    length = 1 if basis.head == "binary" else basis.classes
    fields = {
        **{"format": 1, "labelbeam": "1.2.3", "run_id": run_id, "labelled_with": labelled_with},
        "model": {
            **{"handle": "a model", "head": basis.head, "length": length},
            "classes": [f"class {n}" for n in range(basis.classes)],
        },
        **{"preprocessing": {}, "partitioned_by": None},
        "config": {"input": "in", "output": folder, "model": "a model", "top_k": basis.top_k},
    }
    total = len(rows) + 2
    counts = {"listed": total, "labelled": len(rows), "failed": 2}
    publication = Publication(folder, metadata, fields, state.follows, state.resumes, **settings)
    return publish(publication, counts)


def _with_value(ref: ImageRef, value: Any) -> ImageRef:
    return dataclasses.replace(ref, columns=(value,))
