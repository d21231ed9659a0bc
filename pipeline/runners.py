"""Beam's options, and what each runner means for a worker process."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    DebugOptions,
    DirectOptions,
    FlinkRunnerOptions,
    GoogleCloudOptions,
    PipelineOptions,
    PortableOptions,
    SparkRunnerOptions,
    StandardOptions,
)

from pipeline.config import PredictConfig
from transforms.errors import UserError
from transforms.overlap import available_cores

LOCAL_RUNNER = "FnApiRunner"
# What has Dataflow start one SDK process on a worker, and not one for each vCPU.
_ONE_PROCESS = "no_use_multiple_sdk_containers"
# Runners whose service takes options that the Python SDK doesn't know.
_OPEN_RUNNERS = ("PortableRunner", "FlinkRunner", "SparkRunner", "PrismRunner")


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


def _is_stray(flags: tuple[str, ...], n: int) -> bool:
    """Whether a word belongs to no flag."""
    return n == 0 or not flags[n - 1].startswith("--") or "=" in flags[n - 1]


def accelerator_hints(predict: PredictConfig, options: PipelineOptions) -> dict[str, str]:
    """The resource hints of what follows the shuffle of the split layout.

    Raises:
      UserError: There is no such shuffle, or Dataflow is asked for what excludes hints.
    """
    hint = predict.accelerator_hint
    if hint is None:
        return {}
    if predict.layout != "split":
        raise UserError(
            f"--accelerator_hint={hint!r} needs --layout=split: within the fused layout it would send pixels "
            f"through a shuffle. For all workers alike, give Beam's '--resource_hints=accelerator={hint}'."
        )
    if rivals := _worker_accelerators(options):
        raise UserError(
            f"--dataflow_service_options={rivals[0]!r} is not allowed with --accelerator_hint={hint!r}: it "
            "gives every worker an accelerator, and Dataflow's right fitting excludes it. Leave it out."
        )
    if goal := options.view_as(GoogleCloudOptions).flexrs_goal:
        raise UserError(
            f"--flexrs_goal={goal} is not allowed with --accelerator_hint={hint!r}: Dataflow's "
            "right fitting excludes FlexRS. Leave it out."
        )
    return {"accelerator": hint}


def check_accelerators(options: PipelineOptions, hints: Mapping[str, str]) -> None:
    """Makes sure that on Dataflow one process owns a worker's GPU.

    Raises:
      UserError: Each vCPU's process would load a model onto it.
    """
    for_all = options.get_all_options().get("resource_hints") or []
    asked = [
        *_worker_accelerators(options),
        *(o for o in for_all if o.startswith("accelerator")),
        *hints.values(),
    ]
    if _is_dataflow(options) and asked and not _has_one_process(options):
        raise UserError(
            f"{asked[0]!r} needs --experiments={_ONE_PROCESS}: without it Dataflow starts a process for each "
            "vCPU, and each loads the model onto the GPU."
        )


def _worker_accelerators(options: PipelineOptions) -> list[str]:
    """The service options that give every worker of Dataflow an accelerator."""
    service_options = options.view_as(GoogleCloudOptions).dataflow_service_options or []
    return [option for option in service_options if option.startswith("worker_accelerator")]


def _has_one_process(options: PipelineOptions) -> bool:
    """Whether a worker of Dataflow has one process, and not one for each vCPU."""
    return _ONE_PROCESS in (options.view_as(DebugOptions).experiments or [])


def new_pipeline(options: PipelineOptions) -> beam.Pipeline:
    """An empty pipeline, its options checked by its runner.

    Raises:
      UserError: Beam refuses the options.
    """
    try:
        return beam.Pipeline(options=options)
    except ValueError as e:
        raise UserError(f"Beam says: {' '.join(str(e).split())}") from e


def _is_dataflow(options: PipelineOptions) -> bool:
    return options.view_as(StandardOptions).runner == "DataflowRunner"


def is_local(options: PipelineOptions) -> bool:
    """Whether this process, or processes it starts, do the work."""
    return options.view_as(StandardOptions).runner == LOCAL_RUNNER


def runs_elsewhere(options: PipelineOptions) -> bool:
    """Whether a job goes on when this process ends: a service has it, or a job server, or a cluster."""
    runner = options.view_as(StandardOptions).runner
    if not runner.endswith(_OPEN_RUNNERS):
        return _is_dataflow(options)
    return _has_job_server(options) or (
        (runner.endswith("FlinkRunner") and not _is_local_flink(options))
        or (runner.endswith("SparkRunner") and not _is_local_spark(options))
    )


def _has_job_server(options: PipelineOptions) -> bool:
    """Whether there is a job server that is not this process's own."""
    return options.view_as(PortableOptions).job_endpoint not in (None, "embed")


def _is_local_flink(options: PipelineOptions) -> bool:
    return options.view_as(FlinkRunnerOptions).flink_master in ("[auto]", "[local]")


def _is_local_spark(options: PipelineOptions) -> bool:
    return options.view_as(SparkRunnerOptions).spark_master_url.startswith("local")


def check_no_wait(options: PipelineOptions) -> None:
    """Makes sure that a job needs nothing of this process once it is submitted.

    Raises:
      UserError: It would end with it.
    """
    runner = options.view_as(StandardOptions).runner
    if not runs_elsewhere(options):
        raise UserError(
            f"--no_wait is not allowed with --runner={runner}, whose jobs end with this command. Leave it "
            "out, or name a runner that works elsewhere, such as --runner=DataflowRunner."
        )
    if _is_dataflow(options):
        return
    if not _has_job_server(options):
        raise UserError(
            f"--no_wait needs --job_endpoint with --runner={runner}: the job server that Beam starts "
            "otherwise ends with this command."
        )
    environment = options.view_as(PortableOptions).environment_type
    if environment in (None, "LOOPBACK"):
        raise UserError(
            "--no_wait needs --environment_type=DOCKER, PROCESS or EXTERNAL: the workers of LOOPBACK, which "
            "some runners take by default, are this command."
        )


def threads_of_process(options: PipelineOptions) -> int | None:
    """The cores that each worker process may use; None for all of its machine."""
    direct = options.view_as(DirectOptions)
    if is_local(options):
        several = direct.direct_running_mode == "multi_processing"
        processes = (direct.direct_num_workers or available_cores()) if several else 1
        return max(1, available_cores() // processes)
    if _is_dataflow(options):
        return None if _has_one_process(options) else 1
    return None
