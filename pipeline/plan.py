"""The plan of a run: its configuration, resolved. Nothing is written or downloaded here."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
from apache_beam.options.pipeline_options import PipelineOptions

from labelbeam.pipeline.calibration import calibration_of
from labelbeam.pipeline.config import RunConfig
from labelbeam.pipeline.corpus import find_corpus
from labelbeam.pipeline.headers import resolve_headers
from labelbeam.pipeline.manifest import labelled_with, manifest_fields, new_run_id
from labelbeam.pipeline.output import OutputState, folder_of, read_output
from labelbeam.pipeline.runners.options import threads_of_process
from labelbeam.transforms.budget import FailureBudget
from labelbeam.transforms.calibration import Calibration
from labelbeam.transforms.choose import Choice
from labelbeam.transforms.count import Listener
from labelbeam.transforms.done import ReadDoneIds
from labelbeam.transforms.errors import Reason, UserError
from labelbeam.transforms.inputs.columns import output_columns
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.models.optimise import Optimisation
from labelbeam.transforms.models.presets import EMBEDDING
from labelbeam.transforms.models.spec import ModelSpec
from labelbeam.transforms.publish import Publication
from labelbeam.transforms.sources import HttpSettings, Limits, Manners
from labelbeam.transforms.stage import Staging
from labelbeam.transforms.table.folder import TableFolder, read_manifest
from labelbeam.transforms.table.manifest import LabelledWith, Manifest
from labelbeam.transforms.table.merge import Partitioning
from labelbeam.transforms.table.rows import RowMetadata, decisions_of


@dataclass(frozen=True)
class Plan:
    """A resolved run, from which the graph is built.

    Attributes:
      config: The configuration.
      corpus: The input.
      done: The step that reads which images have a row already.
      model: The model.
      limits: Limits of one request.
      staging: Destination of finished rows.
      publication: Plan of the new generation.
      output_state: State of the table folder.
      hints: Resource hints of the steps after the shuffle of the split layout.
      threads: Cores of a worker process; None for all of its machine.
      listener: Receives the counts of finished images on workers.
    """

    config: RunConfig
    corpus: Corpus
    done: ReadDoneIds
    model: ModelSpec
    limits: Limits
    staging: Staging
    publication: Publication
    output_state: OutputState
    hints: Mapping[str, str]
    threads: int | None = None
    listener: Listener | None = None

    @property
    def choice(self) -> Choice:
        """Images of the input to label."""
        # All failed images, because they were chosen when they failed.
        return Choice() if self.corpus.only_failed else self.config.read.choice

    @property
    def is_split(self) -> bool:
        """Whether some workers decode images and others label them."""
        return self.config.predict.layout == "split"

    @property
    def reuses_listed(self) -> bool:
        """Whether images of the same listed digest share one request."""
        return bool(self.corpus.known.md5)

    @property
    def keeps_outputs(self) -> bool:
        """Whether rows have the model's outputs."""
        return self.staging.row_metadata.outputs is not None

    @property
    def early_staging(self) -> Staging:
        """Destination of images that fail before labelling."""
        return dataclasses.replace(self.staging, side="decoding") if self.is_split else self.staging

    @property
    def output(self) -> str:
        """The table folder."""
        return self.publication.output

    @property
    def run_id(self) -> str:
        """Id of the run."""
        return self.publication.run_id

    @property
    def labelled_with(self) -> LabelledWith:
        """Settings that all rows of a table have in common."""
        return self.publication.manifest_fields["labelled_with"]


def make_plan(
    config: RunConfig,
    options: PipelineOptions,
    corpus: Corpus,
    model: ModelSpec,
    listener: Listener | None = None,
) -> Plan:
    """Resolve a configuration. The table folder is read, and nothing is changed.

    Raises:
      UserError: The table folder is damaged or has rows with other settings, or an option does not fit the
        input or the model.
    """
    predict = config.predict
    if predict.dedupe != "content" or predict.layout == "split" or corpus.holds_images or corpus.boxes:
        # Without digests, because they would make each row longer. The split layout has no use for them,
        # because its processes that request images have no labels; images inside files need no requests; and
        # boxes of images of the same bytes have different pixels.
        corpus = _without_digests(corpus)
    # The run's id is made here, once, because staged files, manifest and job name must have the same one.
    calibration = calibration_of(predict, model)
    rows = row_metadata_of(config, model, corpus, calibration)
    state = read_output(config.write, labelled_with(model, rows, config))
    hint = predict.accelerator_hint
    return Plan(
        config=config,
        corpus=corpus,
        done=_done(config, corpus, state),
        model=model,
        limits=limits_of(config),
        staging=_staging(config, corpus, rows, calibration),
        publication=_publication(config, model, rows, state, partitioning_of(config, corpus)),
        output_state=state,
        hints={"accelerator": hint} if hint else {},
        threads=threads_of_process(options),
        listener=listener,
    )


def _without_digests(corpus: Corpus) -> Corpus:
    parts = tuple(map(_without_digests, corpus.parts))
    return dataclasses.replace(corpus, known=dataclasses.replace(corpus.known, md5=""), parts=parts)


def find_input(config: RunConfig) -> Corpus:
    """Describe the input. Its columns have the types of rows that the table folder has.

    Raises:
      UserError: The input does not exist or can't be read.
    """
    manifest = read_manifest(folder_of(config.write.output))
    return find_corpus(config.read, column_types_of(config, manifest), lambda: limits_of(config))


def optimisation_of(config: RunConfig) -> Optimisation:
    """Return the permitted ways to make the model faster."""
    predict = config.predict
    return Optimisation(predict.precision, predict.xla, predict.on_disagreement)


def row_metadata_of(
    config: RunConfig, model: ModelSpec, corpus: Corpus, calibration: Calibration | None
) -> RowMetadata:
    """Return the columns that are equal in all rows of a new run, its new id among them."""
    return RowMetadata(
        run_id=new_run_id(),
        model_fingerprint=model.model_fingerprint,
        preprocessing_fingerprint=model.preprocessing_fingerprint,
        columns=output_columns(corpus),
        outputs=_outputs_column(config, model),
        decisions=decisions_of(calibration) if calibration else None,
    )


def _outputs_column(config: RunConfig, model: ModelSpec) -> tuple[str, int] | None:
    # Embeddings are always kept, because such rows have no labels and would hold nothing.
    kept = config.predict.keep_outputs or model.outputs == EMBEDDING
    return (model.outputs, model.length) if kept else None


def _done(config: RunConfig, corpus: Corpus, state: OutputState) -> ReadDoneIds:
    refreshes = config.write.refresh == "changed"
    return ReadDoneIds(
        output=folder_of(config.write.output),
        # Rows of runs that broke off count as done, too, because a staged file only holds finished rows.
        resumes=state.resumes,
        published=state.keeps_rows,
        # Failed images, too, because their version is unknown.
        redo=frozenset(Reason) if refreshes else corpus.reasons,
        versions=refreshes,
        # URIs are compared only for ids of the user's, because an id that is made from a URI stands for no
        # other, and for boxes, because a box of the same number may have another region.
        uris=corpus.id_column is not None or corpus.boxes is not None,
        by="file" if corpus.holds_images else "image" if corpus.boxes else "id",
    )


def _staging(
    config: RunConfig, corpus: Corpus, rows: RowMetadata, calibration: Calibration | None
) -> Staging:
    return Staging(
        folder=TableFolder(folder_of(config.write.output)).run(rows.run_id),
        row_metadata=rows,
        every_rows=config.write.stage_rows,
        every_sec=config.write.stage_sec,
        # Without a budget, because a rerun only has images that failed before.
        budget=FailureBudget() if corpus.only_failed else budget_of(config),
        calibration=calibration,
    )


def column_types_of(config: RunConfig, manifest: Manifest | None) -> dict[str, pa.DataType]:
    """Return the types of the input's columns in the rows that the output has already."""
    # An empty table binds no types, because no row has them yet.
    has_rows = manifest and sum(manifest.rows.values()) and not config.write.replace
    return dict(manifest.labelled_with.column_types) if manifest and has_rows else {}


def limits_of(config: RunConfig) -> Limits:
    """Return the limits of one image's request, with headers from this process's environment.

    Raises:
      UserError: A header needs a variable that is not set.
    """
    load = config.load
    headers = resolve_headers(load.http_header, os.environ)
    return Limits(
        total_timeout_sec=load.image_timeout_sec,
        max_bytes=round(load.max_image_mb * 1e6),
        connections=load.fetch_threads,
        http=HttpSettings(load.user_agent, headers, load.ignore_opt_out),
        manners=Manners(load.fetch_attempts, load.host_connections, load.host_rate),
        allow_hosts=load.allow_hosts,
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


def budget_of(config: RunConfig) -> FailureBudget:
    """Return the failure budget."""
    budget = config.budget
    return FailureBudget(budget.max_failure_rate, budget.max_failure_rates, budget.failure_floor)


def partitioning_of(config: RunConfig, corpus: Corpus) -> Partitioning:
    """Return the assignment of rows to partition folders.

    Raises:
      UserError: The input has no such column, or the number of folders is out of range.
    """
    columns = [name for name, _ in output_columns(corpus)]
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
