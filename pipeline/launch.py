"""Launching: from a configuration to a finished run."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.options.pipeline_options import GoogleCloudOptions
from apache_beam.runners.runner import PipelineState

from pipeline import GO_ON, progress
from pipeline.config import RunConfig
from pipeline.graph import build_graph
from pipeline.limits import Work, counters_of, describe_work, work_of
from pipeline.output import folder_of
from pipeline.plan import failure_budget, planned
from pipeline.rules import check_rules
from pipeline.runners import is_local, new_pipeline, pipeline_options
from pipeline.summary import next_steps, summarise, verdict
from pipeline.workers import supervised
from transforms.count import KINDS, CountRows
from transforms.errors import LabelbeamError, RunError
from transforms.layout import read_manifest
from transforms.read import Corpus
from transforms.stage import stager_of

_USER_ERROR = re.compile(r"transforms\.errors\.(RunError|UserError): (.*)$", re.M)
# What Beam adds to a worker's message.
_STAGE = re.compile(r" \[while running [^]]*\]$", re.M)


class Finished(NamedTuple):
    """A run that has ended.

    Attributes:
      manifest: What it published.
      work: What its processes did; None where the runner does not tell.
    """

    manifest: dict[str, Any]
    work: Work | None


def run(config: RunConfig, corpus: Corpus | None = None) -> Finished | None:
    """Runs the pipeline to its end.

    Args:
      config: What the user said.
      corpus: What to label; by default what the configuration's input is.

    Returns:
      What came of it; None where the runner only wrote a job.

    Raises:
      UserError: Something is wrong before the start; nothing was written.
      RunError: The run broke off.
    """
    options = pipeline_options(config.beam_flags)
    check_rules(config, options)
    local = is_local(options)
    with tempfile.TemporaryDirectory(prefix="labelbeam-") as scratch:
        tally = progress.Tally(Path(scratch)) if local else None
        pipeline = new_pipeline(options)
        with planned(config, options, tally, corpus) as plan:
            build_graph(pipeline, plan)
            try:
                result = _execute(pipeline, tally.read if tally else None)
            except KeyboardInterrupt:
                for staging in (plan.early_staging, plan.staging):
                    stager_of(staging).flush()
                raise
    if options.view_as(GoogleCloudOptions).template_location:
        return None
    manifest = read_manifest(plan.output)
    if manifest is None or manifest["run_id"] != plan.publication.run_id:
        raise RunError(f"The run ended and published nothing at {plan.output!r}. {GO_ON}")
    return Finished(manifest, work_of(result))


def _execute(pipeline: beam.Pipeline, read: Callable[[], progress.Counts] | None) -> Any:
    """Runs a pipeline and shows its progress: from the local tally, else from the runner's metrics."""
    try:
        if read:
            with progress.shown(read), supervised():
                result = pipeline.run()
                result.wait_until_finish()
            return result
        result = pipeline.run()
        if result is None or result.state == PipelineState.DONE or not getattr(result, "has_job", True):
            return result
        try:
            with progress.shown(lambda: _counts_of(result)):
                state = result.wait_until_finish()
        except KeyboardInterrupt as e:
            raise KeyboardInterrupt(
                "No longer following the job, which runs on; end it where it runs. Do not start another on "
                "this output before it has ended."
            ) from e
    except Exception as e:  # runners raise anything, also what a worker raised
        raise RunError(f"{_cause(e)} {GO_ON}") from e
    if state not in (None, PipelineState.DONE):
        raise RunError(f"The job ended as {state}. The runner's log says why. {GO_ON}")
    return result


def _counts_of(result: Any) -> progress.Counts:
    """What the runner's metrics say became of images."""
    counts = counters_of(result.metrics().query(), CountRows)
    return {kind: counts[kind] for kind in KINDS}


def _cause(error: BaseException) -> str:
    """What went wrong, without the worker's traceback."""
    text = _STAGE.sub("", str(error).strip())
    if isinstance(error, LabelbeamError):
        return text
    if found := _USER_ERROR.findall(text):
        return found[-1][1]
    lines = [line for line in text.splitlines() if line.strip()]
    what = lines[-1].strip() if lines else repr(error)
    return f"The run broke off: {what}. --verbose tells more."


def run_and_report(config: RunConfig, corpus: Corpus | None = None) -> bool:
    """Runs a pipeline and prints its summary; gives whether all went well."""
    start = time.monotonic()
    finished = run(config, corpus)
    if finished is None:
        print("The job was written; start it from its template.")
        return True
    output = folder_of(config.write.output)
    manifest = finished.manifest
    lines = describe_work(finished.work, config.predict) if finished.work else []
    print("\n".join([summarise(manifest, output, time.monotonic() - start), *lines]))
    wrong = verdict(manifest, failure_budget(config))
    print(f"\nlabelbeam: {wrong}" if wrong else next_steps(manifest, output))
    return wrong is None
