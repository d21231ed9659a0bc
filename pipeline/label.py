"""Labels of a small corpus as an Arrow table, for notebooks: no runner, no files."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from labelbeam.pipeline.arguments import StrPath, check_arguments, check_images
from labelbeam.pipeline.calibration import calibration_of
from labelbeam.pipeline.config import LoadConfig, PredictConfig, ReadConfig
from labelbeam.pipeline.corpus import find_corpus
from labelbeam.transforms.calibration import Calibration
from labelbeam.transforms.elements import AnyImage, Failure, ImageRef, Prediction, id_of_uri
from labelbeam.transforms.inputs.columns import output_columns
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.label import label_images
from labelbeam.transforms.loaders.image import Loading
from labelbeam.transforms.loaders.loaders import start_loaders
from labelbeam.transforms.models.devices import BatchSize, load_models
from labelbeam.transforms.models.heads import DEFAULT_THRESHOLD
from labelbeam.transforms.models.optimise import Optimisation
from labelbeam.transforms.models.presets import EMBEDDING
from labelbeam.transforms.models.probe import understand_model
from labelbeam.transforms.models.spec import ModelOptions, ModelSpec
from labelbeam.transforms.process import available_cores
from labelbeam.transforms.read import hide_in_row, list_images
from labelbeam.transforms.sources import Limits
from labelbeam.transforms.table.rows import (
    RowMetadata,
    decisions_of,
    failure_row,
    failures_schema,
    prediction_row,
    predictions_schema,
    to_predictions,
    to_record_batch,
)


def label(
    images: StrPath | Iterable[StrPath],
    model: str = "efficientnet-lite0",
    *,
    top_k: int = 5,
    threshold: float = DEFAULT_THRESHOLD,
    keep_outputs: bool = False,
    batch_size: BatchSize = None,
    calibration: StrPath | None = None,
    limits: Limits = Limits(),  # noqa: B008  (frozen)
    max_megapixels: float = LoadConfig().max_megapixels,
    secret_params: Sequence[str] = (),
    **options: Any,
) -> pa.Table:
    """Label images in this process, and return a table with a row for each, in their order.

    The model is understood as by `labelbeam run`: read, or tried on the sample photos. Doubts about it are
    Python warnings. All rows are in memory at the end, so a corpus of millions is for `labelbeam run`.

    Args:
      images: Paths and URIs; or one, as `--input` takes it: a folder, a glob or a list.
      model: Preset, address or folder, as `--model` takes it.
      top_k: Largest number of labels per image.
      threshold: Least score of a label, in [0, 1]; for multi-label models alone.
      keep_outputs: Whether rows have the model's outputs for every class.
      batch_size: Images in a batch; by default computed from the device, `auto` by trial.
      calibration: File of `labelbeam calibrate`; rows then have its columns `decision` and
        `calibrated_score`.
      limits: Limits of one request.
      max_megapixels: Largest image, in millions of pixels.
      secret_params: Query parameters of URIs that are secret, beside those that always are.
      options: Further options of the model, as `ModelOptions` has them: `labels`, `input_range`, `outputs`, …

    Returns:
      The columns of `predictions/` and of `failures/` (docs/output.md). `reason` is null where an image was
      labelled, and the columns of labels are null where it failed.

    Raises:
      TypeError: An image is no path or URI, or there is no such option.
      UserError: The input or the model cannot be used, or a value is out of the range of its option in the
        command; the message has the remedy.
      RunError: A list is damaged, or the model does not return.
    """
    arguments = {
        **{"model": model, "top_k": top_k, "threshold": threshold, "keep_outputs": keep_outputs},
        **{"batch_size": batch_size, "calibration": calibration},
        **{"max_megapixels": max_megapixels, "secret_params": secret_params},
    }
    values, options = check_arguments(arguments, limits, options)
    model, top_k, threshold, keep_outputs, batch_size, calibration_file, max_megapixels, names = values
    rows, columns = _rows_of(check_images(images), names, limits)
    spec = understand_model(ModelOptions(model, **options), PredictConfig().predict_timeout_sec)
    predict = PredictConfig(top_k=top_k, threshold=threshold, calibration=calibration_file)
    decide_with = calibration_of(predict, spec)
    # As warnings, because a notebook shows them, and a program can turn them into errors.
    for doubt in (*_assumed_range(spec), *spec.doubts):
        warnings.warn(doubt, stacklevel=2)
    models = load_models(spec, top_k, batch_size, Optimisation(), available_cores(), require_gpu=False)
    keep_outputs = keep_outputs or spec.outputs == EMBEDDING
    results = label_images(
        rows,
        models.classifiers[0],
        start_loaders(Loading(limits, spec.resize, round(max_megapixels * 1e6))),
        ahead=limits.connections,
        callers=models.callers,
        keep_outputs=keep_outputs,
        threshold=threshold,
    )
    metadata = RowMetadata(
        run_id="",
        model_fingerprint=spec.model_fingerprint,
        preprocessing_fingerprint=spec.preprocessing_fingerprint,
        columns=columns,
        outputs=(spec.outputs, spec.length) if keep_outputs else None,
        decisions=decisions_of(decide_with) if decide_with else None,
    )
    return _to_table(list(results), metadata, decide_with)


def _assumed_range(spec: ModelSpec) -> Iterator[str]:
    if spec.scaling_from == "assumed":
        yield (
            f"The input range {spec.scaling.name} is assumed, because neither the model nor the sample "
            "photos show it. Give input_range if you know it."
        )


def _rows_of(
    images: StrPath | Iterable[StrPath], secret_params: tuple[str, ...], limits: Limits
) -> tuple[Iterable[AnyImage | Failure], tuple[tuple[str, pa.DataType], ...]]:
    if isinstance(images, str | os.PathLike):
        read = ReadConfig(input=os.fspath(images), secret_params=secret_params)
        corpus = find_corpus(read, limits=lambda: limits)
        return list_images(corpus, limits.max_bytes), output_columns(corpus)
    corpus = Corpus("", "lines", secret_params=secret_params)
    uris = (os.fspath(image) for image in images)
    return (hide_in_row(ImageRef(id_of_uri(uri), uri), corpus) for uri in uris), ()


def _to_table(
    results: list[Prediction | Failure], metadata: RowMetadata, calibration: Calibration | None
) -> pa.Table:
    labelled = {
        n: prediction_row(one, metadata) for n, one in enumerate(results) if isinstance(one, Prediction)
    }
    failed = {n: failure_row(one, metadata) for n, one in enumerate(results) if isinstance(one, Failure)}
    table = pa.concat_tables(
        [
            _nullable(
                predictions_schema(metadata),
                to_predictions(list(labelled.values()), metadata, calibration) if labelled else None,
            ),
            _nullable(
                failures_schema(metadata),
                to_record_batch(list(failed.values()), failures_schema(metadata)) if failed else None,
            ),
        ],
        promote_options="default",
    )
    # Sorted by position, because labelled and failed rows come from two tables.
    return table.take(np.argsort([*labelled, *failed])).drop_columns("run_id")


def _nullable(schema: pa.Schema, rows: pa.RecordBatch | None) -> pa.Table:
    # Because each of the two tables has columns that the other one has not.
    schema = pa.schema([field.with_nullable(True) for field in schema])
    return schema.empty_table() if rows is None else pa.Table.from_arrays(rows.columns, schema=schema)
