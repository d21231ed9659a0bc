"""The whole system as one pipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from pipeline.config import RunConfig
from transforms import count
from transforms.count import CountOutcomes, Listener
from transforms.decode import DecodeImages
from transforms.fetch import FetchImages
from transforms.models.spec import ModelSpec
from transforms.predict import PredictLabels
from transforms.publish import PublishResults
from transforms.read import Corpus, ReadImageRefs
from transforms.rows import (
    FAILURES,
    PREDICTIONS,
    RowFacts,
    failure_row,
    failures_schema,
    prediction_row,
    predictions_schema,
)
from transforms.select import SelectImages
from transforms.stage import StageRows
from transforms.stores import Limits


@dataclass(frozen=True)
class Plan:
    """A run, resolved: all that the graph is built from.

    Attributes:
      config: What the user said.
      corpus: What the input is.
      model: What labels it.
      rows: What every row carries.
      limits: Of one request.
      output: Folder of the tables.
      staging: Folder of unfinished work.
      manifest_facts: What the manifest says beside counts and files.
      threads: Cores of a worker process; None for all it has.
      listener: Called on workers with what became of images.
    """

    config: RunConfig
    corpus: Corpus
    model: ModelSpec
    rows: RowFacts
    limits: Limits
    output: str
    staging: str
    manifest_facts: dict[str, Any]
    threads: int | None = None
    listener: Listener | None = None


def build_graph(pipeline: beam.Pipeline, plan: Plan) -> beam.PCollection[str]:
    """From a corpus to published tables; gives the manifest."""
    max_pixels = round(plan.config.decode.max_megapixels * 1e6)
    predict = plan.config.predict

    rows = pipeline | "ReadImageRefs" >> ReadImageRefs(plan.corpus)
    images = rows | "SelectImages" >> SelectImages()
    encoded = images.ok | "FetchImages" >> FetchImages(plan.limits)
    decoded = encoded.ok | "DecodeImages" >> DecodeImages(plan.model.resize, max_pixels, plan.threads)
    predictions = decoded.ok | "PredictLabels" >> PredictLabels(
        plan.model, predict.top_k, predict.batch_size, plan.threads
    )
    failures = (
        images.failures,
        encoded.failures,
        decoded.failures,
        predictions.failures,
    ) | "Failures" >> beam.Flatten()

    schemas = {PREDICTIONS: predictions_schema(plan.rows), FAILURES: failures_schema(plan.rows)}
    staged = (
        predictions.ok
        | "StagePredictions"
        >> StageRows(PREDICTIONS, schemas[PREDICTIONS], prediction_row, plan.rows, plan.staging),
        failures
        | "StageFailures" >> StageRows(FAILURES, schemas[FAILURES], failure_row, plan.rows, plan.staging),
    ) | "Staged" >> beam.Flatten()
    outcomes = (
        rows.ok | "CountRows" >> CountOutcomes(count.listed, plan.listener),
        rows.failures | "CountBadRows" >> CountOutcomes(count.listed, plan.listener),
        images.duplicates | "CountDuplicates" >> CountOutcomes(count.duplicate, plan.listener),
        predictions.ok | "CountPredictions" >> CountOutcomes(count.labelled, plan.listener),
        failures | "CountFailures" >> CountOutcomes(count.failed, plan.listener),
    ) | "CountAll" >> count.SumOutcomes()
    return (staged, outcomes) | "PublishResults" >> PublishResults(
        plan.output, plan.staging, plan.manifest_facts, schemas
    )
