"""The whole system as one pipe."""

from __future__ import annotations

from typing import NamedTuple

import apache_beam as beam

from labelbeam.pipeline.plan import Plan, optimisation_of
from labelbeam.transforms.choose import Choice
from labelbeam.transforms.count import CountRows, SumCounts, count_as_is, count_listed, count_result
from labelbeam.transforms.listed_labels import LabelsInCommon, RememberLabels, ReuseLabels
from labelbeam.transforms.load import LoadImages
from labelbeam.transforms.notes import SumNotes
from labelbeam.transforms.outcomes import Outcomes
from labelbeam.transforms.pack import HandOverImages
from labelbeam.transforms.predict import PredictLabels, most_recent
from labelbeam.transforms.publish import PublishResults
from labelbeam.transforms.read import ReadImageRefs, ReadOutcomes
from labelbeam.transforms.sample import ChooseRows
from labelbeam.transforms.select import SelectUnlabelled
from labelbeam.transforms.shards import ReadShards
from labelbeam.transforms.stage import StageResults
from labelbeam.transforms.table.manifest import Manifest


def build_graph(pipeline: beam.Pipeline, plan: Plan) -> beam.PCollection[Manifest]:
    """Build the graph from a corpus to published tables, and return its manifest."""
    load, predict = plan.config.load, plan.config.predict

    images = _find_images(pipeline, plan)
    refs, reused, labels = images.ok, (), None
    if plan.reuses_listed:
        labels = LabelsInCommon(most_recent(plan.model.length if plan.keeps_outputs else 0))
        refs, *reused = refs | "ReuseLabels" >> ReuseLabels(labels)
    loaded = refs | "LoadImages" >> LoadImages(
        plan.limits,
        plan.model.resize,
        round(load.max_megapixels * 1e6),
        load.loaders,
        plan.threads,
        packed=plan.is_split,
        has_boxes=plan.corpus.boxes is not None,
    )
    pixels = loaded.ok
    if plan.is_split:
        size_px = plan.model.resize.size_px
        pixels = pixels | "HandOverImages" >> HandOverImages(size_px, plan.threads, plan.hints)
    predictions = pixels | "PredictLabels" >> PredictLabels(
        plan.model,
        predict.top_k,
        predict.batch_size,
        plan.threads,
        reuse=predict.dedupe == "content",
        require_gpu=predict.require_accelerator,
        optimisation=optimisation_of(plan.config),
        keep_outputs=plan.keeps_outputs,
        threshold=predict.least_score,
        timeout_sec=predict.predict_timeout_sec,
    ).with_resource_hints(**plan.hints)
    if labels:
        _ = predictions.ok | "RememberLabels" >> RememberLabels(labels)

    # Consumers of predictions get the same resource hints, because Beam only fuses steps whose hints are
    # equal.
    early = (images.failures, loaded.failures, *reused)
    results = (predictions.ok, predictions.failures)
    passed_on = (loaded.ok,) if plan.is_split else ()
    # Two steps that stage, because only the second may have hints (without hints both share one stager in a
    # process). The Flatten is behind them, because publishing waits for both, and because one in front would
    # split the fused stage on some runners.
    staged = (
        (*early, *passed_on) | "StageEarly" >> StageResults(plan.early_staging),
        results | "StageResults" >> StageResults(plan.staging).with_resource_hints(**plan.hints),
    ) | "Staged" >> beam.Flatten()
    counts = (
        *images.counts,
        (*early, loaded.unchanged) | "CountEarly" >> CountRows(count_result, plan.listener),
        results | "CountResults" >> CountRows(count_result, plan.listener).with_resource_hints(**plan.hints),
    ) | "SumCounts" >> SumCounts()
    notes = images.notes | "SumNotes" >> SumNotes()
    results = (staged, counts, notes, *images.stale_ids)
    return results | "PublishResults" >> PublishResults(plan.publication)


class _Found(NamedTuple):
    """The images of a corpus that need labels.

    Attributes:
      ok: `ImageRef`, or `InlineImage` of files with images inside; `BoxedImage` if boxes are labelled.
      failures: `Failure`, one per row that can't be read or selected.
      counts: Outputs of `CountRows`.
      notes: `Notes` about the input.
      stale_ids: As in `ShardOutcomes`; none of a list.
    """

    ok: beam.PCollection
    failures: beam.PCollection
    counts: tuple[beam.PCollection, ...]
    notes: beam.PCollection
    stale_ids: tuple[beam.PCollection, ...] = ()


def _find_images(pipeline: beam.Pipeline, plan: Plan) -> _Found:
    done = pipeline | "ReadDoneIds" >> plan.done
    count_selection = "CountSelection" >> CountRows(count_as_is, plan.listener)
    if plan.corpus.holds_images:
        images = done | "ReadShards" >> ReadShards(plan.corpus, plan.limits.max_bytes, plan.choice)
        counted = ((images.counts,) | count_selection,)
        return _Found(images.ok, images.failures, counted, images.notes, (images.stale_ids,))
    rows = pipeline | "ReadImageRefs" >> ReadImageRefs(plan.corpus)
    listed = (rows.ok, rows.failures) | "CountRows" >> CountRows(count_listed, plan.listener)
    chosen, left_out = (rows, ()) if plan.choice.is_all else _choose(rows, plan.choice)
    selected = (chosen, done) | "SelectUnlabelled" >> SelectUnlabelled(plan.corpus.boxes is not None)
    counts = (listed, (selected.counts, *left_out) | count_selection)
    return _Found(selected.ok, selected.failures, counts, rows.notes)


def _choose(rows: ReadOutcomes, choice: Choice) -> tuple[Outcomes, tuple[beam.PCollection, ...]]:
    """Return the chosen rows, and the counts of the others."""
    chosen = rows | "ChooseRows" >> ChooseRows(choice)
    return Outcomes(chosen.ok, chosen.failures), (chosen.counts,)
