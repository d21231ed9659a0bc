"""Rows of the tables: their schemas, and their making from elements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from typing import Any, NamedTuple, get_args

import pyarrow as pa

from labelbeam.transforms.calibration import Calibration, decide
from labelbeam.transforms.elements import Failure, ImageMetadata, Prediction
from labelbeam.transforms.models.presets import EMBEDDING, Outputs

PREDICTIONS, FAILURES = "predictions", "failures"

_LABELS = pa.list_(pa.struct([("class_id", pa.int32()), ("label", pa.string()), ("score", pa.float32())]))

# Columns with few distinct values, which Parquet stores as a dictionary.
DICTIONARY_COLUMNS = (
    *("label", "labels.list.element.label", "format", "stage", "reason", "host"),
    *("decision", "decision.list.element.label"),
    *("model_fingerprint", "preprocessing_fingerprint", "run_id"),
)


CALIBRATION_COLUMNS = ("decision", "calibrated_score")


class Decisions(NamedTuple):
    """Columns of a calibration.

    Attributes:
      fingerprint: Fingerprint of the calibration.
      is_multilabel: Whether a row may have several decisions.
    """

    fingerprint: str
    is_multilabel: bool

    @property
    def fields(self) -> list[pa.Field]:
        """The columns, in the table's order."""
        # A list where a row may have several decisions; it is empty and not null where nothing is decided.
        decision, score = CALIBRATION_COLUMNS
        kind = _LABELS if self.is_multilabel else pa.string()
        return [pa.field(decision, kind, nullable=not self.is_multilabel), pa.field(score, pa.float32())]


def decisions_of(calibration: Calibration) -> Decisions:
    """Return the columns of a calibration."""
    return Decisions(calibration.fingerprint, calibration.basis.is_multilabel)


@dataclass(frozen=True, slots=True)
class RowMetadata:
    """Values and columns that all rows of a run have in common.

    Attributes:
      run_id: Id of the run.
      model_fingerprint: Fingerprint of the model.
      preprocessing_fingerprint: Fingerprint of the preprocessing.
      columns: Input columns, with their types.
      outputs: Column of the model's outputs, and their number; None for rows without.
      decisions: Columns of the calibration; None for rows without.
    """

    run_id: str
    model_fingerprint: str
    preprocessing_fingerprint: str
    columns: tuple[tuple[str, pa.DataType], ...] = ()
    outputs: tuple[str, int] | None = None
    decisions: Decisions | None = None

    @property
    def outputs_bytes(self) -> int:
        """Size of the model's outputs in a row."""
        return 4 * self.outputs[1] if self.outputs else 0

    @property
    def labelled(self) -> bool:
        """Whether the model names classes."""
        return self.outputs is None or self.outputs[0] != EMBEDDING

    @property
    def file_metadata(self) -> dict[str, str]:
        """Metadata of every file's schema."""
        return {
            "labelbeam.run_id": self.run_id,
            "labelbeam.model_fingerprint": self.model_fingerprint,
            "labelbeam.preprocessing_fingerprint": self.preprocessing_fingerprint,
        }


def predictions_schema(metadata: RowMetadata) -> pa.Schema:
    """Return the schema of `predictions/`; `label` and `score` are the best of `labels`."""
    labels = [
        # Nullable, because no class of a multi-label model may reach the threshold.
        pa.field("label", pa.string()),
        pa.field("score", pa.float32()),
        pa.field("labels", _LABELS, nullable=False),
    ]
    # In this table's files alone, because files of failures stay as they are when a calibration is applied.
    calibration = {"labelbeam.calibration": metadata.decisions.fingerprint} if metadata.decisions else {}
    outputs = [pa.field(name, pa.list_(pa.float32(), n), nullable=False) for name, n in _outputs_of(metadata)]
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("uri", pa.string(), nullable=False),
            *(labels if metadata.labelled else []),
            *(metadata.decisions.fields if metadata.decisions else []),
            *outputs,
            pa.field("width_px", pa.int32(), nullable=False),
            pa.field("height_px", pa.int32(), nullable=False),
            pa.field("format", pa.string(), nullable=False),
            pa.field("orientation", pa.int8(), nullable=False),
            pa.field("frames", pa.int32()),
            pa.field("size_bytes", pa.int64(), nullable=False),
            pa.field("sha256", pa.string(), nullable=False),
            pa.field("version", pa.string()),
            *_common_fields(metadata),
        ],
        metadata.file_metadata | calibration,
    )


def _outputs_of(metadata: RowMetadata) -> list[tuple[str, int]]:
    return [metadata.outputs] if metadata.outputs else []


def failures_schema(metadata: RowMetadata) -> pa.Schema:
    """Return the schema of `failures/`; `reason` is a value of `labelbeam.transforms.errors.Reason`."""
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("uri", pa.string(), nullable=False),
            pa.field("stage", pa.string(), nullable=False),
            pa.field("reason", pa.string(), nullable=False),
            pa.field("message", pa.string(), nullable=False),
            pa.field("attempts", pa.int32(), nullable=False),
            pa.field("host", pa.string(), nullable=False),
            *_common_fields(metadata),
        ],
        metadata.file_metadata,
    )


def schema_of(table: str, metadata: RowMetadata) -> pa.Schema:
    """Return the schema of a table by its name."""
    return predictions_schema(metadata) if table == PREDICTIONS else failures_schema(metadata)


def _common_fields(metadata: RowMetadata) -> list[pa.Field]:
    own = [pa.field(name, kind) for name, kind in metadata.columns]
    names = ("model_fingerprint", "preprocessing_fingerprint", "run_id")
    return [*(pa.field(name, pa.string(), nullable=False) for name in names), *own]


def parquet_options(schema: pa.Schema) -> dict[str, Any]:
    """Return the encoding of every file: zstd, dictionaries for columns of few values, checksums of pages."""
    dictionaries = [name for name in DICTIONARY_COLUMNS if name.partition(".")[0] in schema.names]
    return {"compression": "zstd", "use_dictionary": dictionaries, "write_page_checksum": True}


# Names that input columns can't have, because the tables have columns of these names, or may get them.
RESERVED_COLUMNS = frozenset(
    name
    for schema in (predictions_schema, failures_schema)
    for name in schema(RowMetadata("", "", "", decisions=Decisions("", False))).names
) | frozenset(get_args(Outputs))


_metadata_values = attrgetter(*(field.name for field in fields(ImageMetadata)))


def prediction_row(prediction: Prediction, metadata: RowMetadata) -> tuple:
    """Return the values of a row of `predictions/`, in the schema's order."""
    return (
        prediction.ref.id,
        prediction.ref.uri,
        *(_labels_of(prediction) if metadata.labelled else ()),
        *((prediction.outputs,) if metadata.outputs else ()),
        *_metadata_values(prediction.metadata),
        *_common_values(metadata),
        *prediction.ref.columns,
    )


def _labels_of(prediction: Prediction) -> tuple[str | None, float | None, list[tuple[int, str, float]]]:
    labels = [(label.class_id, label.label, label.score) for label in prediction.labels]
    return (labels[0][1], labels[0][2], labels) if labels else (None, None, labels)


def failure_row(failure: Failure, metadata: RowMetadata) -> tuple:
    """Return the values of a row of `failures/`, in the schema's order."""
    return (
        failure.ref.id,
        failure.ref.uri,
        failure.stage,
        failure.reason,
        failure.message,
        failure.attempts,
        failure.host,
        *_common_values(metadata),
        *failure.ref.columns,
    )


def _common_values(metadata: RowMetadata) -> tuple[str, str, str]:
    return metadata.model_fingerprint, metadata.preprocessing_fingerprint, metadata.run_id


def to_record_batch(rows: Sequence[tuple], schema: pa.Schema) -> pa.RecordBatch:
    """Turn rows into columns; in a row, a struct is a tuple of its fields, a fixed-size list its bytes."""
    columns = zip(*rows, strict=True)
    return pa.record_batch(
        [_array(values, field.type) for values, field in zip(columns, schema, strict=True)], schema
    )


def to_predictions(
    rows: Sequence[tuple], metadata: RowMetadata, calibration: Calibration | None
) -> pa.RecordBatch:
    """Turn rows of `prediction_row` into columns, and add those of the calibration, if there is one."""
    batch = to_record_batch(rows, predictions_schema(replace(metadata, decisions=None)))
    return with_decisions(batch, calibration, predictions_schema(metadata)) if calibration else batch


def with_decisions(
    predictions: pa.RecordBatch, calibration: Calibration, schema: pa.Schema
) -> pa.RecordBatch:
    """Return predictions with the columns of a calibration, in place of those of another one."""
    columns = dict(zip(predictions.schema.names, predictions.columns, strict=True))
    columns |= zip(CALIBRATION_COLUMNS, decide(predictions, calibration), strict=True)
    return pa.record_batch([columns[name] for name in schema.names], schema)


def _array(values: Sequence, kind: pa.DataType) -> pa.Array:
    if not pa.types.is_fixed_size_list(kind):
        return pa.array(values, kind)
    # Copied as bytes, because Arrow would make a Python object of every number.
    numbers = pa.Array.from_buffers(
        kind.value_type, len(values) * kind.list_size, [None, pa.py_buffer(b"".join(values))]
    )
    return pa.FixedSizeListArray.from_arrays(numbers, type=kind)
