"""Launching: from a configuration to a finished run."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import (
    DebugOptions,
    DirectOptions,
    GoogleCloudOptions,
    PipelineOptions,
    StandardOptions,
)
from apache_beam.runners.runner import PipelineState

from pipeline import progress
from pipeline.config import RunConfig
from pipeline.corpus import find_corpus, output_columns
from pipeline.graph import Plan, build_graph
from pipeline.manifest import manifest_facts, manifest_path, new_run_id, read_manifest
from pipeline.summary import next_steps, summarise, verdict
from pipeline.workers import supervised
from transforms.count import KINDS, CountOutcomes, Listener
from transforms.errors import RunError, UserError
from transforms.files import delete_folder, make_folder, write_file
from transforms.models.runtime import configure_tensorflow, load_tensorflow
from transforms.models.spec import ModelOptions, resolve_spec
from transforms.overlap import available_cores
from transforms.rows import RowFacts
from transforms.stores import Limits

LOCAL_RUNNER = "FnApiRunner"
# Runners whose service takes options that the Python SDK doesn't know.
_OPEN_RUNNERS = ("PortableRunner", "FlinkRunner", "SparkRunner", "PrismRunner")
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
    local = options.view_as(StandardOptions).runner == LOCAL_RUNNER
    with tempfile.TemporaryDirectory(prefix="labelbeam-") as scratch:
        tally = progress.Tally(Path(scratch)) if local else None
        pipeline = _pipeline(options)
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


def pipeline_options(flags: tuple[str, ...]) -> PipelineOptions:
    """Beam's options from flags, with a local runner that is always the same one.

    Raises:
      UserError: A flag is not known to Beam, nor to us.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            options = PipelineOptions(list(flags))
            known = PipelineOptions([]).get_all_options()
            given = options.get_all_options(retain_unknown_options=True)
    except SystemExit as e:
        raise UserError(f"Beam says: {said.getvalue().strip().rpartition('error: ')[2]}.") from e
    standard = options.view_as(StandardOptions)
    standard.runner = standard.runner or LOCAL_RUNNER
    unknown = sorted(set(given) - set(known))
    stray = [flag for n, flag in enumerate(flags) if not flag.startswith("-") and _is_stray(flags, n)]
    if stray or (unknown and not standard.runner.endswith(_OPEN_RUNNERS)):
        names = ", ".join([f"--{name}" for name in unknown] + stray)
        raise UserError(f"Unknown flag {names}: neither labelbeam nor Beam has it. See labelbeam run --help.")
    return options


def _pipeline(options: PipelineOptions) -> beam.Pipeline:
    try:
        return beam.Pipeline(options=options)
    except ValueError as e:
        raise UserError(f"Beam says: {' '.join(str(e).split())}") from e


def _is_stray(flags: tuple[str, ...], n: int) -> bool:
    """Whether a word belongs to no flag."""
    return n == 0 or not flags[n - 1].startswith("--") or "=" in flags[n - 1]


def make_plan(config: RunConfig, options: PipelineOptions, listener: Listener | None = None) -> Plan:
    """Resolves a configuration: corpus, model, limits, and where results go.

    Raises:
      UserError: The input, the model or the output is not as it should be.
    """
    threads = threads_of_process(options)
    corpus = find_corpus(config.read)
    columns = output_columns(corpus)
    if options.view_as(StandardOptions).runner == LOCAL_RUNNER:
        cores = threads or available_cores()
        configure_tensorflow(cores, cores)
    load_tensorflow()
    model = resolve_spec(ModelOptions(**_shallow(config.model)))
    output = check_output(config.write.output)
    run_id = new_run_id()
    return Plan(
        config=config,
        corpus=corpus,
        model=model,
        rows=RowFacts(run_id, model.model_fingerprint, model.preprocessing_fingerprint, columns),
        limits=_limits(config),
        output=output,
        staging=FileSystems.join(output, "_staging", run_id),
        manifest_facts=manifest_facts(run_id, config, model),
        threads=threads,
        listener=listener,
    )


def _shallow(section: Any) -> dict[str, Any]:
    return {f.name: getattr(section, f.name) for f in dataclasses.fields(section)}


def _limits(config: RunConfig) -> Limits:
    fetch = config.fetch
    return Limits(
        connect_timeout_sec=fetch.connect_timeout_sec,
        total_timeout_sec=fetch.fetch_timeout_sec,
        max_bytes=round(fetch.max_image_mb * 1e6),
        connections=fetch.fetch_threads,
    )


def threads_of_process(options: PipelineOptions) -> int | None:
    """The cores that each worker process may use; None for all of its machine."""
    direct = options.view_as(DirectOptions)
    if options.view_as(StandardOptions).runner == LOCAL_RUNNER:
        several = direct.direct_running_mode == "multi_processing"
        processes = (direct.direct_num_workers or available_cores()) if several else 1
        return max(1, available_cores() // processes)
    if options.view_as(StandardOptions).runner == "DataflowRunner":
        # Dataflow starts one SDK process per vCPU unless it is told not to.
        experiments = options.view_as(DebugOptions).experiments or []
        return None if "no_use_multiple_sdk_containers" in experiments else 1
    return None


def check_output(output: str) -> str:
    """Checks that results can go to a folder; gives its name without a slash at the end.

    Raises:
      UserError: It can't be written, or holds the results of another run.
    """
    folder = output.rstrip("/") or "/"
    try:
        done = read_manifest(folder)
        if done is None:
            make_folder(folder)
            probe = FileSystems.join(folder, f"_probe-{new_run_id()}")
            write_file(probe, b"labelbeam")
            FileSystems.delete([probe])
    except (BeamIOError, OSError, ValueError) as e:
        raise UserError(f"output={output!r} cannot be written: {e}.") from e
    if done is not None:
        raise UserError(
            f"output={output!r} holds the results of run {done['run_id']}. "
            "Give another --output, or remove that folder."
        )
    return folder


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
