"""Launching: from a configuration to a finished run."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions
from apache_beam.runners.runner import PipelineState

from labelbeam.pipeline import GO_ON, KEPT
from labelbeam.pipeline.checks.google import require_google_access
from labelbeam.pipeline.config import RunConfig, require_options
from labelbeam.pipeline.graph import build_graph
from labelbeam.pipeline.output import folder_of
from labelbeam.pipeline.plan import Plan, budget_of
from labelbeam.pipeline.prepare import prepared
from labelbeam.pipeline.report import progress
from labelbeam.pipeline.report.bottleneck import describe_performance, measure_performance
from labelbeam.pipeline.report.metrics import failures_measured, write_metrics
from labelbeam.pipeline.report.model import (
    describe_head,
    describe_missing_names,
    describe_scaling,
    has_no_names,
)
from labelbeam.pipeline.report.next_steps import next_steps
from labelbeam.pipeline.report.record import Stopwatch, make_attempt, make_record, write_run_record
from labelbeam.pipeline.report.summary import summarise, verdict
from labelbeam.pipeline.report.work import Work, counters_of, query_metrics, work_of
from labelbeam.pipeline.runners.errors import (
    FOREIGN_ERRORS,
    cause_of_error,
    own_message,
    remedy_of,
    without_step,
)
from labelbeam.pipeline.runners.jobs import follow, job_of
from labelbeam.pipeline.runners.local import supervised
from labelbeam.pipeline.runners.options import (
    keep_interrupts_from_job_server,
    name_apart,
    new_pipeline,
    pipeline_options,
    runs_elsewhere,
    runs_here,
    starts_job_server,
)
from labelbeam.pipeline.runners.rules import check_rules
from labelbeam.transforms.count import COUNTERS, CountRows
from labelbeam.transforms.errors import LabelbeamError, RunError
from labelbeam.transforms.files import is_local
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.models.presets import find_preset
from labelbeam.transforms.models.spec import ModelSpec
from labelbeam.transforms.sources.secrets import hide_in_message
from labelbeam.transforms.stage import stager_of
from labelbeam.transforms.table.folder import TableFolder, read_manifest
from labelbeam.transforms.table.manifest import Manifest


class Finished(NamedTuple):
    """A run that has ended.

    Attributes:
      manifest: The published manifest.
      work: Work of its processes; None if the runner has no metrics.
    """

    manifest: Manifest
    work: Work | None


def run(config: RunConfig, corpus: Corpus | None = None) -> Finished | None:
    """Run the pipeline to its end, over a corpus that is by default the configuration's input.

    Returns:
      The finished run; None if the job was only written as a template, or with `no_wait`.

    Raises:
      UserError: The run can't start; nothing was written.
      RunError: The run broke off.
    """
    # Flags first, then missing options, then rules: an error in one may be the cause of an error in the next.
    options = pipeline_options(config.beam_flags)
    require_options(config)
    check_rules(config, options)
    # Before the model is fetched, because Beam finds a missing login only minutes later.
    require_google_access(config, options)
    local = runs_here(options)
    if not local:
        config = with_absolute_paths(config)
    with progress.new_tally() if local else nullcontext() as tally:
        # Made before the model is fetched, because Beam checks its options here.
        pipeline = new_pipeline(options)
        with prepared(config, options, tally, corpus) as plan:
            for remark in plan.corpus.remarks:
                print(f"Input: {remark}", flush=True)
            _announce(plan.model)
            build_graph(pipeline, plan)
            try:
                result = _run_here(pipeline, tally) if tally else _run_by_runner(pipeline, options, plan)
            except KeyboardInterrupt:
                # Finished rows of this process are staged, because the next run continues from staged rows.
                for staging in (plan.early_staging, plan.staging):
                    stager_of(staging).flush()
                raise
    if options.view_as(GoogleCloudOptions).template_location:
        print("The job was written; start it from its template.")
        return None
    if config.launch.no_wait:
        return None
    manifest = read_manifest(plan.output)
    # Compared, because the manifest of an earlier run lies there until a run has published.
    if manifest is None or manifest.run_id != plan.publication.run_id:
        raise RunError(f"The run ended and published nothing at {plan.output!r}. {GO_ON}")
    return Finished(manifest, work_of(result))


def _announce(model: ModelSpec) -> None:
    """Print the resolved meaning of a model that is no preset, and doubts about it."""
    if model.scaling_from != "preset" or model.head_from != "preset":
        scaling, head = describe_scaling(model), describe_head(model)
        print(f"Model: input range {scaling}; outputs {head}.", flush=True)
    if has_no_names(model):
        print(describe_missing_names(model), flush=True)
    for doubt in model.doubts:
        print(f"labelbeam: warning: {hide_in_message(doubt)}", file=sys.stderr, flush=True)


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """Make local paths absolute, because workers have another working folder."""
    model, output = config.model.model, config.write.output
    if os.path.exists(model) and not find_preset(model):
        model = os.path.abspath(model)
    if is_local(output):
        output = os.path.abspath(output)
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, model=model),
        write=dataclasses.replace(config.write, output=output),
    )


def _run_here(pipeline: beam.Pipeline, tally: progress.Tally) -> Any:
    """Run a pipeline in this process and its children, and return the runner's result."""
    with _errors_of_runner(), progress.shown(tally.read), progress.quiet_beam(), supervised():
        result = pipeline.run()
        result.wait_until_finish()
    return result


def _run_by_runner(pipeline: beam.Pipeline, options: PipelineOptions, plan: Plan) -> Any:
    """Submit a pipeline to a runner, follow its job, and return the runner's result."""
    # Before the run, because portable runners remove their name from the options.
    elsewhere = runs_elsewhere(options)
    if starts_job_server(options):
        keep_interrupts_from_job_server(pipeline.options)
    name_apart(pipeline.options, plan.publication.run_id)
    try:
        with _errors_of_runner():
            with progress.quiet_beam(), _own_interrupts():
                result = pipeline.run()
            if not elsewhere:
                _wait(result)
    except KeyboardInterrupt as e:
        raise KeyboardInterrupt(_WHILE_SUBMITTED if elsewhere else "") from e
    # A template has no job, because it is only written to a file.
    if elsewhere and getattr(result, "has_job", True):
        job = job_of(result, pipeline.runner, options)
        print("\n".join(["Submitted as", *(f"  {line}" for line in (job.id, job.link) if line)]), flush=True)
        if plan.config.launch.no_wait:
            print(_how_to_look(plan), flush=True)
        else:
            follow(job, lambda: _counts_of(result))
    return result


@contextmanager
def _own_interrupts() -> Iterator[None]:
    """Restore the SIGINT handler. Beam installs one that stops its job server, which would cancel the job."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _wait(result: Any) -> None:
    """Wait for a runner of this process other than Beam's local one."""
    # Returned early, because some runners have done all their work in `run`.
    if result.state == PipelineState.DONE:
        return
    with progress.quiet_beam(), progress.shown(lambda: _counts_of(result), status=progress.Status("running")):
        state = result.wait_until_finish()
    if state not in (None, PipelineState.DONE):
        raise RunError(f"The run ended as {state}. Run the same command again to continue.")


_WHILE_SUBMITTED = (
    "Interrupted while the job was being submitted. Check whether it has started. "
    "If not, run the same command again."
)


def _how_to_look(plan: Plan) -> str:
    manifest = TableFolder(plan.output).manifest
    return "\n".join(
        [
            "The job publishes its results without this machine. They are published when",
            f"  {manifest}",
            f"names the run {plan.run_id}; then check them with",
            f"  labelbeam verify {plan.output}",
            "If it fails or is cancelled, run the same command again once it has ended: all work is kept.",
        ]
    )


def _counts_of(result: Any) -> progress.Counts:
    """Return the counts of images in the runner's metrics; empty if it has none."""
    counts = counters_of(query_metrics(result), CountRows)
    return {kind: counts[kind] for kind in COUNTERS} if counts else {}


@contextmanager
def _errors_of_runner() -> Iterator[None]:
    """Turn anything that a runner raises into the error of a run, without the worker's traceback."""
    try:
        yield
    except FOREIGN_ERRORS as e:
        ours = without_step(str(e)) if isinstance(e, LabelbeamError) else own_message(str(e))
        # Without a hint at --verbose, because a message of our own names cause and remedy.
        if ours:
            raise RunError(f"{ours} {KEPT}") from e
        cause = cause_of_error(e).rstrip(".")
        remedy = remedy_of(cause)
        rest = f"{remedy} {KEPT}" if remedy else f"--verbose shows more. {GO_ON}"
        raise RunError(f"The run broke off: {cause}. {rest}") from e


def run_and_report(config: RunConfig, corpus: Corpus | None = None) -> bool:
    """Run a pipeline, print its summary, and return whether all went well; with a corpus, it is a rerun."""
    watch = Stopwatch()
    with failures_measured(config, watch):
        finished = run(config, corpus)
        if finished is None:
            return True
    output, manifest = folder_of(config.write.output), finished.manifest
    performance = measure_performance(finished.work, config) if finished.work else None
    wrong = verdict(manifest, budget_of(config), is_rerun=corpus is not None)
    record = make_record(make_attempt(config, watch), manifest, performance, wrong)
    # Before the summary, because the reader of the output may have ended, as `head` does.
    write_run_record(output, record)
    write_metrics(config, record, succeeded=wrong is None)
    lines = describe_performance(performance, config) if performance else []
    print("\n".join([summarise(manifest, output, record.seconds), *lines]))
    print(next_steps(manifest, output))
    if wrong:
        print(f"\nlabelbeam: {wrong}")
    return wrong is None
