"""Launching: from a configuration to a finished run."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions
from apache_beam.runners.runner import PipelineState

from labelbeam.pipeline import GO_ON
from labelbeam.pipeline.checks.google import require_google_access
from labelbeam.pipeline.config import RunConfig
from labelbeam.pipeline.graph import build_graph
from labelbeam.pipeline.output import folder_of
from labelbeam.pipeline.plan import Plan, failure_budget, planned
from labelbeam.pipeline.report import progress
from labelbeam.pipeline.report.bottleneck import Work, counters_of, describe_work, query_metrics, work_of
from labelbeam.pipeline.report.model import (
    describe_head,
    describe_missing_names,
    describe_scaling,
    has_no_names,
)
from labelbeam.pipeline.report.summary import next_steps, summarise, verdict
from labelbeam.pipeline.runners.errors import cause_of_error, own_message, without_step
from labelbeam.pipeline.runners.jobs import follow, job_of
from labelbeam.pipeline.runners.local import supervised
from labelbeam.pipeline.runners.options import (
    is_local,
    keep_interrupts_from_job_server,
    name_apart,
    new_pipeline,
    pipeline_options,
    runs_elsewhere,
    starts_job_server,
)
from labelbeam.pipeline.runners.rules import check_rules
from labelbeam.transforms.count import KINDS, CountRows
from labelbeam.transforms.errors import LabelbeamError, RunError
from labelbeam.transforms.files import is_local as is_local_path
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.models.presets import find_preset
from labelbeam.transforms.models.spec import ModelSpec
from labelbeam.transforms.stage import stager_of
from labelbeam.transforms.table.folder import TableFolder, read_manifest
from labelbeam.transforms.table.manifest import Manifest


class Finished(NamedTuple):
    """A run that has ended.

    Attributes:
      manifest: What it published.
      work: What its processes did; None if the runner has no metrics.
    """

    manifest: Manifest
    work: Work | None


def run(config: RunConfig, corpus: Corpus | None = None) -> Finished | None:
    """Run the pipeline to its end.

    Args:
      config: The configuration.
      corpus: What to label; by default what the configuration's input is.

    Returns:
      What came of it; None where the job was only written, or nobody waits for it.

    Raises:
      UserError: Something is wrong before the start; nothing was written.
      RunError: The run broke off.
    """
    options = pipeline_options(config.beam_flags)
    check_rules(config, options)
    require_google_access(config, options)
    local = is_local(options)
    if not local:
        config = with_absolute_paths(config)
    with tempfile.TemporaryDirectory(prefix="labelbeam-") as scratch:
        tally = progress.Tally(Path(scratch)) if local else None
        pipeline = new_pipeline(options)
        with planned(config, options, tally, corpus) as plan:
            _announce(plan.model)
            build_graph(pipeline, plan)
            try:
                result = _run_here(pipeline, tally) if tally else _run_by_runner(pipeline, options, plan)
            except KeyboardInterrupt:
                for staging in (plan.early_staging, plan.staging):
                    stager_of(staging).flush()
                raise
    if options.view_as(GoogleCloudOptions).template_location:
        print("The job was written; start it from its template.")
        return None
    if config.launch.no_wait:
        return None
    manifest = read_manifest(plan.output)
    if manifest is None or manifest.run_id != plan.publication.run_id:
        raise RunError(f"The run ended and published nothing at {plan.output!r}. {GO_ON}")
    return Finished(manifest, work_of(result))


def _announce(model: ModelSpec) -> None:
    """Print what a model that is no preset is taken for, and what speaks against that."""
    if model.scaling_from != "preset" or model.head_from != "preset":
        scaling, head = describe_scaling(model), describe_head(model)
        print(f"Model: input range {scaling}; outputs {head}.", flush=True)
    if has_no_names(model):
        print(describe_missing_names(model), flush=True)
    for doubt in model.doubts:
        print(f"labelbeam: warning: {doubt}", file=sys.stderr, flush=True)


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """Make local paths absolute, because workers have another working folder."""
    model, output = config.model.model, config.write.output
    if os.path.exists(model) and not find_preset(model):
        config = dataclasses.replace(
            config, model=dataclasses.replace(config.model, model=os.path.abspath(model))
        )
    if is_local_path(output):
        config = dataclasses.replace(
            config, write=dataclasses.replace(config.write, output=os.path.abspath(output))
        )
    return config


def _run_here(pipeline: beam.Pipeline, tally: progress.Tally) -> Any:
    """Run a pipeline in this process and its children, and return the runner's result."""
    try:
        with progress.shown(tally.read), progress.quiet_beam(), supervised():
            result = pipeline.run()
            result.wait_until_finish()
    except Exception as e:  # runners raise anything, also what a worker raised
        raise _broken_off(e) from e
    return result


def _run_by_runner(pipeline: beam.Pipeline, options: PipelineOptions, plan: Plan) -> Any:
    """Submit a pipeline to a runner, follow its job, and return the runner's result."""
    elsewhere = runs_elsewhere(options)  # asked now: portable runners take their name out of the options
    if starts_job_server(options):
        keep_interrupts_from_job_server(pipeline.options)
    name_apart(pipeline.options, plan.publication.run_id)
    try:
        with progress.quiet_beam(), _own_interrupts():
            result = pipeline.run()
        if not elsewhere:
            _wait(result)
    except KeyboardInterrupt as e:
        raise KeyboardInterrupt(_WHILE_SUBMITTED if elsewhere else "") from e
    except Exception as e:  # runners raise anything
        raise _broken_off(e) from e
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
    """Has Ctrl-C mean afterwards what it did: Beam has it stop a job server, by which a job is cancelled."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _wait(result: Any) -> None:
    """Wait for a runner of this process other than Beam's local one."""
    if result.state == PipelineState.DONE:
        return
    with progress.quiet_beam(), progress.shown(lambda: _counts_of(result), status=progress.Status("running")):
        state = result.wait_until_finish()
    if state not in (None, PipelineState.DONE):
        raise RunError(f"The run ended as {state}.")


_WHILE_SUBMITTED = (
    "Interrupted while the job was being submitted: look whether it runs. If not, run the same command again."
)


def _how_to_look(plan: Plan) -> str:
    manifest = TableFolder(plan.output).manifest
    return "\n".join(
        [
            "It publishes its results itself, and needs nothing more of this machine. They are there when",
            f"  {manifest}",
            f"names the run {plan.publication.run_id}; then prove that they are whole:",
            f"  labelbeam verify {plan.output}",
            "If it fails or is cancelled, the same command goes on from what is done, once it has ended.",
        ]
    )


def _counts_of(result: Any) -> progress.Counts:
    """Return the counts of images in the runner's metrics; empty if it has none."""
    counts = counters_of(query_metrics(result), CountRows)
    return {kind: counts[kind] for kind in KINDS} if counts else {}


def _broken_off(error: Exception) -> RunError:
    """Return the error of a run that broke off, without the worker's traceback."""
    text = str(error)
    ours = without_step(text) if isinstance(error, LabelbeamError) else own_message(text)
    if ours is not None:
        return RunError(f"{ours} {GO_ON}")
    return RunError(f"The run broke off: {cause_of_error(error)}. --verbose shows more. {GO_ON}")


def run_and_report(config: RunConfig, corpus: Corpus | None = None) -> bool:
    """Run a pipeline, print its summary, and return whether all went well."""
    start = time.monotonic()
    finished = run(config, corpus)
    if finished is None:
        return True
    output = folder_of(config.write.output)
    manifest = finished.manifest
    lines = describe_work(finished.work, config) if finished.work else []
    print("\n".join([summarise(manifest, output, time.monotonic() - start), *lines]))
    wrong = verdict(manifest, failure_budget(config))
    print(next_steps(manifest, output))
    if wrong:
        print(f"\nlabelbeam: {wrong}")
    return wrong is None
