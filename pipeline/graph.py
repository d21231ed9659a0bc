"""The whole system as one pipe."""

from __future__ import annotations

import apache_beam as beam

from pipeline.plan import Plan
from transforms import count
from transforms.count import CountOutcomes
from transforms.decode import DecodeImages
from transforms.fetch import FetchImages
from transforms.predict import PredictLabels
from transforms.publish import PublishResults
from transforms.read import ReadImageRefs
from transforms.rows import (
    FAILURES,
    PREDICTIONS,
    failure_row,
    failures_schema,
    prediction_row,
    predictions_schema,
)
from transforms.select import SelectImages
from transforms.stage import StageRows


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
