"""The plan: a run, resolved, before its graph is built."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from apache_beam.options.pipeline_options import PipelineOptions

from labelbeam.pipeline.config import RunConfig
from labelbeam.pipeline.corpus import find_corpus
from labelbeam.pipeline.manifest import labelled_with, manifest_fields, new_run_id
from labelbeam.pipeline.output import OutputState, folder_of, locked, open_output
from labelbeam.pipeline.runners.options import is_local, threads_of_process
from labelbeam.transforms.budget import FailureBudget
from labelbeam.transforms.count import Listener
from labelbeam.transforms.done import ReadDoneIds
from labelbeam.transforms.errors import Reason, UserError
from labelbeam.transforms.inputs.columns import output_columns
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.models.heads import MULTILABEL
from labelbeam.transforms.models.optimise import Optimisation
from labelbeam.transforms.models.presets import EMBEDDING
from labelbeam.transforms.models.probe import understand_model
from labelbeam.transforms.models.runtime import NO_GPU, configure_tensorflow, has_gpu, load_tensorflow
from labelbeam.transforms.models.spec import ModelOptions, ModelSpec
from labelbeam.transforms.process import available_cores
from labelbeam.transforms.publish import Publication
from labelbeam.transforms.sources import Limits
from labelbeam.transforms.sources.limits import CONNECT_TIMEOUT_SEC
from labelbeam.transforms.stage import Staging
from labelbeam.transforms.table.folder import TableFolder, read_manifest
from labelbeam.transforms.table.manifest import Manifest
from labelbeam.transforms.table.merge import Partitioning
from labelbeam.transforms.table.rows import RowMetadata


@dataclass(frozen=True)
class Plan:
    """A run, resolved: all that the graph is built from.

    Attributes:
      config: The configuration.
      corpus: What the input is.
      done: How to read what has a row already.
      model: What labels the images.
      limits: Of one request.
      staging: Where finished rows go.
      publication: What the run is to publish.
      hints: Resource hints of what follows the shuffle of the split layout.
      threads: Cores of a worker process; None for all it has.
      listener: Called on workers with what became of images.
    """

    config: RunConfig
    corpus: Corpus
    done: ReadDoneIds
    model: ModelSpec
    limits: Limits
    staging: Staging
    publication: Publication
    hints: Mapping[str, str]
    threads: int | None = None
    listener: Listener | None = None

    @property
    def is_split(self) -> bool:
        """Whether other workers label images than decode them."""
        return self.config.predict.layout == "split"

    @property
    def keeps_outputs(self) -> bool:
        """Whether rows get what the model gives itself."""
        return self.staging.row_metadata.outputs is not None

    @property
    def early_staging(self) -> Staging:
        """Where the rows go of images that fail before they are handed over to other workers, if they are."""
        return dataclasses.replace(self.staging, side="decoding") if self.is_split else self.staging

    @property
    def output(self) -> str:
        """The output folder."""
        return self.publication.output


@contextmanager
def planned(
    config: RunConfig,
    options: PipelineOptions,
    listener: Listener | None = None,
    corpus: Corpus | None = None,
) -> Iterator[Plan]:
    """Resolve a configuration: corpus, model, limits, and the table folder.

    While the body runs, no other run of this machine can be planned for the same local output.

    Args:
      config: The configuration.
      options: Beam's.
      listener: Called on workers with what became of images.
      corpus: What to label; by default what the configuration's input is.

    Raises:
      UserError: The input, the model or the output is not as it should be.
    """
    output = folder_of(config.write.output)
    corpus = corpus or find_corpus(config.read, known_types(config, read_manifest(output)))
    columns = output_columns(corpus)
    budget, partitioning = failure_budget(config), partitioning_of(config, [name for name, _ in columns])
    model = model_of(config, options)
    rows = facts_of_rows(config, model, columns)
    with locked(output):
        state = open_output(config.write, rows.run_id, labelled_with(model, rows, config.predict))
        yield Plan(
            config=config,
            corpus=corpus,
            done=_done(config, corpus, state),
            model=model,
            limits=limits_of(config),
            staging=_staging(config, rows, FailureBudget() if corpus.only_failed else budget),
            publication=_publication(config, model, rows, state, partitioning),
            hints=_hints(config),
            threads=threads_of_process(options),
            listener=listener,
        )


def _hints(config: RunConfig) -> dict[str, str]:
    hint = config.predict.accelerator_hint
    return {"accelerator": hint} if hint else {}


def model_of(config: RunConfig, options: PipelineOptions) -> ModelSpec:
    """Bring the model to this machine, and find out what it is.

    Raises:
      UserError: The model can't be had or used, an option does not fit it, or this machine can't make it
        faster as asked.
      RunError: The model does not return.
    """
    if is_local(options):
        cores = threads_of_process(options) or available_cores()
        configure_tensorflow(cores, cores)
        on_gpu = has_gpu()
        if config.predict.require_accelerator and not on_gpu:
            raise UserError(f"{NO_GPU}, and --require_accelerator asks for one.")
        if unfit := optimisation(config).unfit(on_gpu):
            raise UserError(unfit)
    load_tensorflow()
    model = understand_model(ModelOptions(**_shallow(config.model)), config.predict.predict_timeout_sec)
    if config.predict.threshold is not None and model.head.kind != MULTILABEL:
        raise UserError(
            f"--threshold={config.predict.threshold:g} is for multi-label models, and {config.model.model!r} "
            f"returns {model.head}. Remove --threshold, or give --outputs multilabel."
        )
    return model


def optimisation(config: RunConfig) -> Optimisation:
    """How the model may be made faster."""
    predict = config.predict
    return Optimisation(
        precision=predict.precision,
        xla=predict.xla,
        otherwise=predict.on_disagreement,
    )


def facts_of_rows(
    config: RunConfig, model: ModelSpec, columns: tuple[tuple[str, pa.DataType], ...]
) -> RowMetadata:
    """Return the columns that all rows of a new run have in common."""
    prints = (model.model_fingerprint, model.preprocessing_fingerprint)
    return RowMetadata(new_run_id(), *prints, columns, _outputs_column(config, model))


def _outputs_column(config: RunConfig, model: ModelSpec) -> tuple[str, int] | None:
    kept = config.predict.keep_outputs or model.outputs == EMBEDDING
    return (model.outputs, model.length) if kept else None


def _done(config: RunConfig, corpus: Corpus, state: OutputState) -> ReadDoneIds:
    refreshes = config.write.refresh == "changed"
    return ReadDoneIds(
        output=folder_of(config.write.output),
        resumes=state.resumes,
        published=state.keeps_rows,
        # Of an image that failed no version is known.
        redo=frozenset(Reason) if refreshes else corpus.reasons,
        versions=refreshes,
        uris=corpus.id_column is not None,
    )


def _staging(config: RunConfig, rows: RowMetadata, budget: FailureBudget) -> Staging:
    return Staging(
        folder=TableFolder(folder_of(config.write.output)).run(rows.run_id),
        row_metadata=rows,
        every_rows=config.write.stage_rows,
        every_sec=config.write.stage_sec,
        budget=budget,
    )


def known_types(config: RunConfig, manifest: Manifest | None) -> dict[str, pa.DataType]:
    """Return the types of the input's columns in the rows that the output has already."""
    has_rows = manifest and sum(manifest.rows.values()) and not config.write.replace
    return dict(manifest.labelled_with.column_types) if manifest and has_rows else {}


def _shallow(section: Any) -> dict[str, Any]:
    return {f.name: getattr(section, f.name) for f in dataclasses.fields(section)}


def limits_of(config: RunConfig) -> Limits:
    """Return the limits of one image's request."""
    fetch = config.fetch
    return Limits(
        connect_timeout_sec=CONNECT_TIMEOUT_SEC,
        total_timeout_sec=fetch.fetch_timeout_sec,
        max_bytes=round(fetch.max_image_mb * 1e6),
        connections=fetch.fetch_threads,
    )


def _publication(
    config: RunConfig, model: ModelSpec, rows: RowMetadata, state: OutputState, partitioning: Partitioning
) -> Publication:
    return Publication(
        output=folder_of(config.write.output),
        row_metadata=rows,
        manifest_fields=manifest_fields(config, model, rows),
        follows=state.follows,
        resumes=state.resumes,
        keeps_rows=state.keeps_rows,
        keeps_files=state.keeps_files,
        target_bytes=round(config.write.target_file_mb * 1e6),
        keep_generations=config.write.keep_generations,
        partitioning=partitioning,
    )


def failure_budget(config: RunConfig) -> FailureBudget:
    """Return the failure budget.

    Raises:
      UserError: A reason is not known, or its rate is not from 0 to 1.
    """
    rates = []
    for reason, rate in config.budget.max_failure_rates:
        allowed = f"max_failure_rates: {reason}={rate!r} is not allowed: "
        if reason not in set(Reason):
            raise UserError(f"{allowed}the reasons are {', '.join(Reason)}.")
        try:
            rates.append((reason, float(rate)))
        except ValueError:
            rates.append((reason, -1.0))
        if not 0 <= rates[-1][1] <= 1:
            raise UserError(f"{allowed}a rate is a number from 0 to 1.")
    return FailureBudget(
        max_rate=config.budget.max_failure_rate,
        max_rates=tuple(rates),
        floor=config.budget.failure_floor,
    )


def partitioning_of(config: RunConfig, columns: list[str]) -> Partitioning:
    """How tables are laid out in folders.

    Raises:
      UserError: There is no such column, or no such number of buckets.
    """
    by, most = config.write.partition_by, config.write.max_partitions
    if by is None:
        return Partitioning()
    kind, _, buckets = by.partition(":")
    if kind == "hash" and buckets.isdecimal() and 1 <= int(buckets) <= most:
        return Partitioning(buckets=int(buckets), max_folders=most)
    if by not in columns:
        own = ", ".join(columns) or "it has none"
        raise UserError(
            f"partition_by={by!r} is not allowed: it must be a column of the input ({own}), or hash:N "
            f"with N from 1 to max_partitions={most:,}."
        )
    partitioning = Partitioning(column=by, max_folders=most)
    if partitioning.folder_column in columns:
        raise UserError(
            f"partition_by={by!r} makes folders {partitioning.folder_column}=…, and the input has a column "
            "of that name too. Readers take both for one column: rename it in the input."
        )
    return partitioning
