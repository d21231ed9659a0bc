"""Launching: from a configuration to a finished run."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystem import BeamIOError
from apache_beam.options.pipeline_options import GoogleCloudOptions
from apache_beam.runners.runner import PipelineState

from pipeline import progress
from pipeline.config import RunConfig
from pipeline.graph import build_graph
from pipeline.manifest import manifest_path, read_manifest
from pipeline.plan import make_plan
from pipeline.runners import is_local, new_pipeline, pipeline_options
from pipeline.summary import next_steps, summarise, verdict
from pipeline.workers import supervised
from transforms.count import KINDS, CountOutcomes
from transforms.errors import RunError
from transforms.files import delete_folder

_USER_ERROR = re.compile(r"transforms\.errors\.(RunError|UserError): (.*?)(?: \[while running.*)?$", re.M)


def run(config: RunConfig) -> dict[str, Any] | None:
    """Runs the pipeline to its end.

    Returns:
      The manifest; None where the runner only wrote a job or runs on by itself.

    Raises:
      UserError: Something is wrong before the start; nothing was written.
      RunError: The run broke off.
    """
    options = pipeline_options(config.beam_flags)
    local = is_local(options)
    with tempfile.TemporaryDirectory(prefix="labelbeam-") as scratch:
        tally = progress.Tally(Path(scratch)) if local else None
        pipeline = new_pipeline(options)
        plan = make_plan(config, options, tally)
        build_graph(pipeline, plan)
        try:
            _execute(pipeline, tally.read if tally else None)
        except BaseException:
            if local:
                delete_folder(plan.staging)
            raise
    if options.view_as(GoogleCloudOptions).template_location:
        return None
    manifest = read_manifest(plan.output)
    if manifest is None or manifest["run_id"] != plan.rows.run_id:
        raise RunError(f"The run ended and left no manifest at {manifest_path(plan.output)}.")
    return manifest


def _execute(pipeline: beam.Pipeline, read: Callable[[], progress.Counts] | None) -> None:
    """Runs a pipeline and shows its progress: from the local tally, else from the runner's metrics."""
    try:
        if read:
            with progress.shown(read), supervised():
                pipeline.run().wait_until_finish()
            return
        result = pipeline.run()
        if result is None or result.state == PipelineState.DONE or not getattr(result, "has_job", True):
            return
        with progress.shown(lambda: _counts_of(result)):
            state = result.wait_until_finish()
    except (RuntimeError, BeamIOError) as e:
        raise RunError(_cause(e)) from e
    if state not in (None, PipelineState.DONE):
        raise RunError(f"The job ended as {state}. The runner's log says why.")


def _counts_of(result: Any) -> progress.Counts:
    """What the runner's metrics say became of images."""
    namespace = f"{CountOutcomes.__module__}.{CountOutcomes.__qualname__}"
    counters = result.metrics().query()["counters"]
    return {
        kind: sum(
            c.committed or c.attempted or 0
            for c in counters
            if c.key.metric.namespace == namespace and c.key.metric.name == kind
        )
        for kind in KINDS
    }


def _cause(error: BaseException) -> str:
    """What went wrong, without the worker's traceback."""
    text = str(error).strip()
    if found := _USER_ERROR.findall(text):
        return found[-1][1]
    lines = [line for line in text.splitlines() if line.strip()]
    return f"The run broke off: {lines[-1].strip() if lines else repr(error)}"


def run_and_report(config: RunConfig) -> bool:
    """Runs a pipeline and prints its summary; gives whether all went well."""
    start = time.monotonic()
    manifest = run(config)
    if manifest is None:
        print("The job was written; start it from its template.")
        return True
    print(summarise(manifest, config.write.output.rstrip("/"), time.monotonic() - start))
    wrong = verdict(manifest, config.write.max_failure_rate)
    print(f"\nlabelbeam: {wrong}" if wrong else next_steps(config.write.output.rstrip("/")))
    return wrong is None
