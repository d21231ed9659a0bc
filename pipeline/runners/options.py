"""Beam's options, and their consequences for worker processes."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterable
from urllib.parse import urlsplit

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    DebugOptions,
    DirectOptions,
    FlinkRunnerOptions,
    GoogleCloudOptions,
    JobServerOptions,
    PipelineOptions,
    PortableOptions,
    StandardOptions,
    WorkerOptions,
)
from apache_beam.runners.portability.flink_runner import MAGIC_HOST_NAMES

from labelbeam.pipeline.config import RUN_OPTIONS, did_you_mean
from labelbeam.transforms.errors import UserError
from labelbeam.transforms.process import available_cores

LOCAL_RUNNER = "FnApiRunner"
_RUNNERS = (
    *(LOCAL_RUNNER, "BundleBasedDirectRunner", "DirectRunner", "PrismRunner", "PortableRunner"),
    *("FlinkRunner", "SparkRunner", "DataflowRunner", "DaskRunner"),
)
# Experiment by which Dataflow starts one SDK process on a worker, instead of one per vCPU.
ONE_PROCESS = "no_use_multiple_sdk_containers"
# Timeout of a job server. Very long, because Beam applies it to a whole job on Prism; its default is five
# minutes.
_NO_END_SEC = 30 * 24 * 3600
_PORTABLE_RUNNERS = ("PortableRunner", "FlinkRunner", "PrismRunner")


def pipeline_options(
    flags: tuple[str, ...], own_flags: Iterable[str] = RUN_OPTIONS, command: str = "labelbeam run"
) -> PipelineOptions:
    """Return Beam's options from flags, with a local runner that is always the same one.

    Args:
      flags: Beam's flags.
      own_flags: Flags of the command, without dashes, which an unknown one may be a misspelling of.
      command: Command that an unknown flag is reported for.

    Raises:
      UserError: Neither labelbeam nor Beam has a flag.
    """
    output = io.StringIO()
    try:
        # Beam's parser prints its usage and exits, so both are caught to get one line.
        with contextlib.redirect_stderr(output):
            options = PipelineOptions(list(flags))
            defaults = PipelineOptions([]).get_all_options()
            values = options.get_all_options(retain_unknown_options=True)
    except SystemExit as e:
        raise UserError(
            f"Beam refuses an option: {output.getvalue().strip().rpartition('error: ')[2]}."
        ) from e
    standard = options.view_as(StandardOptions)
    # One local runner, because Beam's DirectRunner chooses between several by machine and pipeline.
    runner = _full_name(standard.runner or LOCAL_RUNNER)
    standard.runner = LOCAL_RUNNER if runner == "DirectRunner" else runner
    portable = options.view_as(PortableOptions)
    if standard.runner == "PrismRunner" and portable.job_server_timeout == defaults["job_server_timeout"]:
        portable.job_server_timeout = _NO_END_SEC
    # Passed on by portable runners, because their job server may have options that Beam has not.
    unknown = [] if is_portable(options) else sorted(set(values) - set(defaults))
    if unknown:
        names = ", ".join(f"--{name}" for name in unknown)
        hint = did_you_mean(unknown[0], [*own_flags, *defaults], "--")
        raise UserError(
            f"Unknown flag {names}: neither labelbeam nor Beam has it. {hint}See {command} --help."
        )
    return options


def _full_name(runner: str) -> str:
    """Return the name of a runner's class; Beam takes any case, a module in front, and no `Runner`."""
    module, _, name = runner.rpartition(".")
    names = {name.lower(): name for name in _RUNNERS}
    # A class outside of Beam keeps its module, because its name may equal that of a runner of Beam's.
    if module and not module.startswith("apache_beam."):
        return runner
    return names.get(name.lower(), names.get(f"{name.lower()}runner", runner))


def worker_accelerators(options: PipelineOptions) -> list[str]:
    """Return the service options that give every worker of Dataflow an accelerator."""
    service_options = options.view_as(GoogleCloudOptions).dataflow_service_options or []
    return [option for option in service_options if option.startswith("worker_accelerator")]


def hints_for_all(options: PipelineOptions) -> list[str]:
    """Return the resource hints of every step, by which Dataflow fits workers to the job."""
    return options.get_all_options().get("resource_hints") or []


def accelerators_for_all(options: PipelineOptions) -> list[str]:
    """Return the resource hints of every step that request an accelerator."""
    return [hint for hint in hints_for_all(options) if hint.startswith("accelerator")]


def has_one_process(options: PipelineOptions) -> bool:
    """Return whether a worker of Dataflow has one process, and not one for each vCPU."""
    return ONE_PROCESS in (options.view_as(DebugOptions).experiments or [])


def new_pipeline(options: PipelineOptions) -> beam.Pipeline:
    """Return an empty pipeline, its options checked by its runner.

    Raises:
      UserError: Beam refuses the options.
    """
    try:
        pipeline = beam.Pipeline(options=options)
    except ValueError as e:
        raise UserError(f"Beam refuses the options: {' '.join(str(e).split())}") from e
    # Removed, because only transforms of other languages use it, and Beam removes it only after a run: a
    # check, or a run that is killed, would leave it.
    os.rmdir(pipeline.local_tempdir)
    return pipeline


def runner_of(options: PipelineOptions) -> str:
    """Return the runner's name; one that is not Beam's has its module before it."""
    return options.view_as(StandardOptions).runner


def is_dataflow(options: PipelineOptions) -> bool:
    """Return whether the job goes to Dataflow."""
    return runner_of(options) == "DataflowRunner"


def runs_here(options: PipelineOptions) -> bool:
    """Return whether this process, or processes it starts, do the work."""
    return runner_of(options) == LOCAL_RUNNER


def is_portable(options: PipelineOptions) -> bool:
    """Return whether a job server takes the job."""
    return runner_of(options) in _PORTABLE_RUNNERS


def runs_elsewhere(options: PipelineOptions) -> bool:
    """Return whether a job may outlive this process, in a service, a job server or a cluster."""
    if not is_portable(options):
        return is_dataflow(options)
    return has_job_server(options) or _is_for_a_cluster(options)


def has_job_server(options: PipelineOptions) -> bool:
    """Return whether there is a job server outside this process."""
    return options.view_as(PortableOptions).job_endpoint not in (None, "embed")


def starts_job_server(options: PipelineOptions) -> bool:
    """Return whether Beam starts a job server here for a job that runs elsewhere."""
    return runs_elsewhere(options) and not is_dataflow(options) and not has_job_server(options)


def keep_interrupts_from_job_server(options: PipelineOptions) -> None:
    """Make a Java job server that Beam starts ignore SIGINT, because it is needed to cancel the job."""
    server = options.view_as(JobServerOptions)
    java = [server.job_server_java_launcher, *server.job_server_jvm_properties]
    server.job_server_java_launcher = "sh"
    server.job_server_jvm_properties = ["-c", 'trap "" INT; exec "$0" "$@"', *java]


def name_apart(options: PipelineOptions, run_id: str) -> None:
    """Give a job a name of its own on a Flink cluster, because it is found by its name there."""
    cloud = options.view_as(GoogleCloudOptions)
    # Beam makes names up that differ, so only a name of the user's needs the suffix.
    if cloud.job_name and flink_cluster(options):
        cloud.job_name = f"{cloud.job_name}-{run_id}"


def flink_cluster(options: PipelineOptions) -> str:
    """Return the Flink cluster that the job is for, as the user named it; empty if none."""
    master = options.view_as(FlinkRunnerOptions).flink_master
    return "" if master in MAGIC_HOST_NAMES else master


def _is_for_a_cluster(options: PipelineOptions) -> bool:
    """Return whether the job server that a runner starts gives the job to a cluster."""
    return runner_of(options) == "FlinkRunner" and bool(flink_cluster(options))


def submitted_to(options: PipelineOptions) -> tuple[str, str]:
    """Return the option that names the job's server, and its value; both empty if the runner starts one."""
    if endpoint := options.view_as(PortableOptions).job_endpoint:
        return "--job_endpoint", endpoint
    return ("--flink_master", flink_cluster(options)) if _is_for_a_cluster(options) else ("", "")


def host_and_port(endpoint: str) -> tuple[str | None, int | None]:
    """Return host and port of --job_endpoint or --flink_master; None for a missing one."""
    try:
        address = urlsplit(f"//{endpoint.rpartition('://')[2]}")
        return address.hostname, address.port
    except ValueError:
        return None, None


def is_submitted_elsewhere(options: PipelineOptions) -> bool:
    """Return whether the job server or cluster is on another machine."""
    host = host_and_port(submitted_to(options)[1])[0] or "localhost"
    return host not in ("embed", "localhost") and not host.startswith("127.")


def environment_of(options: PipelineOptions) -> str:
    """Return the environment of a job server's workers, such as `DOCKER`; by default Beam's."""
    environment = options.view_as(PortableOptions).environment_type or ""
    # Beam takes both forms, and turns names into URNs when a job is submitted.
    if environment.startswith("beam:env:"):
        environment = environment.split(":")[2].upper()
    # As Beam decides: workers run in this process where the job server does, because both end together.
    at_home = runner_of(options) != "PortableRunner" and not _is_for_a_cluster(options)
    return environment or ("LOOPBACK" if at_home else "DOCKER")


def starts_image(options: PipelineOptions) -> bool:
    """Return whether workers start from a container image, Beam's own if no other is named."""
    return is_dataflow(options) or (is_portable(options) and environment_of(options) == "DOCKER")


def worker_image(options: PipelineOptions) -> str:
    """Return the container image that workers start from; empty if there is none, or none is named."""
    if is_dataflow(options):
        return options.view_as(WorkerOptions).sdk_container_image or ""
    if not starts_image(options):
        return ""
    portable = options.view_as(PortableOptions)
    return portable.lookup_environment_option("docker_container_image") or portable.environment_config or ""


def threads_of_process(options: PipelineOptions) -> int | None:
    """Return the number of cores that each worker process may use; None for all of its machine."""
    direct = options.view_as(DirectOptions)
    if runs_here(options):
        several = direct.direct_running_mode == "multi_processing"
        processes = (direct.direct_num_workers or available_cores()) if several else 1
        # Shared out, because processes on one machine would otherwise start a thread per core each.
        return max(1, available_cores() // processes)
    if is_dataflow(options):
        # One core each, because Dataflow starts a process for each vCPU otherwise, and threads would compete.
        return None if has_one_process(options) else 1
    return None
