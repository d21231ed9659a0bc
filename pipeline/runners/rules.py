"""Rules for options that contradict each other or the runner, checked before anything starts.

A rule is here only if its breach loses rows, makes labels wrong, or costs money or a long wait. Beam reports
other mistakes itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from os.path import isfile
from typing import NamedTuple

from apache_beam.options.pipeline_options import (
    GoogleCloudOptions,
    PipelineOptions,
    PrismRunnerOptions,
    StandardOptions,
)

from labelbeam.pipeline.config import RunConfig
from labelbeam.pipeline.headers import resolve_headers
from labelbeam.pipeline.input_names import is_copied, is_path, is_query, public_input
from labelbeam.pipeline.plan import optimisation_of
from labelbeam.pipeline.report.metrics import fault_of_metrics_file
from labelbeam.pipeline.runners.options import (
    LOCAL_RUNNER,
    ONE_PROCESS,
    accelerators_for_all,
    environment_of,
    flink_cluster,
    has_job_server,
    has_one_process,
    hints_for_all,
    is_dataflow,
    is_portable,
    runner_of,
    runs_elsewhere,
    worker_accelerators,
)
from labelbeam.transforms.errors import UserError
from labelbeam.transforms.files import is_local

# The hints of Dataflow's right fitting (cloud.google.com/dataflow/docs/guides/right-fitting).
_RIGHT_FITTING = ("accelerator", "min_ram")
_WORKING_RUNNERS = f"{LOCAL_RUNNER}, PrismRunner, FlinkRunner or DataflowRunner"
_UNFIT_RUNNERS = {
    # Dask's runner drops the elements that `finish_bundle` yields, which are the last images of each bundle.
    "DaskRunner": "it drops elements that a step yields at the end of a bundle, and so loses images",
    # Refused here, because Beam tries for 77 s to download a Spark job server that Maven does not have (404).
    "SparkRunner": "Maven has no job server for this runner of Beam",
}


class Settings(NamedTuple):
    """The options of labelbeam and of Beam."""

    config: RunConfig
    options: PipelineOptions

    @property
    def runner(self) -> str:
        """The runner's name."""
        return runner_of(self.options)


def broken_rules(config: RunConfig, options: PipelineOptions) -> Iterator[str]:
    """Yield a message with a remedy for each broken rule."""
    settings = Settings(config, options)
    for rule in RULES:
        if message := rule(settings):
            yield message


def check_rules(config: RunConfig, options: PipelineOptions) -> None:
    """Make sure that options fit each other and the runner.

    Raises:
      UserError: A rule is broken.
    """
    for message in broken_rules(config, options):
        raise UserError(message)


def _unfit_runner(settings: Settings) -> str | None:
    why = _UNFIT_RUNNERS.get(settings.runner)
    return why and f"--runner={settings.runner} is not allowed: {why}. Use {_WORKING_RUNNERS}."


# Publishing is a step after all rows, so a pipeline that never ends would publish nothing.
def _streaming(settings: Settings) -> str | None:
    if not settings.options.view_as(StandardOptions).streaming:
        return None
    return (
        "--streaming is not allowed: results are published when the input is exhausted. Remove --streaming."
    )


# Publishing deletes and replaces files of the output, so the input must not lie there.
def _output_is_input(settings: Settings) -> str | None:
    read, write = settings.config.read, settings.config.write
    if write.output.rstrip("/") not in {name.rstrip("/") for name in read.inputs}:
        return None
    return f"--output={write.output!r} is the input, too, and would be written into. Give another --output."


# Beam would report the missing file only after the model was fetched and tried.
def _prism_missing(settings: Settings) -> str | None:
    location = settings.options.view_as(PrismRunnerOptions).prism_location
    if settings.runner != "PrismRunner" or not location or not is_local(location) or isfile(location):
        return None
    return (
        f"--prism_location={location!r} is not a file. Remove it to let Beam download Prism, or build it in "
        "a clone of labelbeam's repository: `python -m tests.engines.install prism`."
    )


# Workers with and without the hint are two pools, so Beam would part the fused step between them.
def _hint_without_split(settings: Settings) -> str | None:
    predict = settings.config.predict
    hint = predict.accelerator_hint
    if hint is None or predict.layout == "split":
        return None
    return (
        f"--accelerator_hint={hint!r} needs --layout=split: in the fused layout it would send pixels "
        f"through a shuffle. For all workers, give '--resource_hints=accelerator={hint}' instead."
    )


# The job would pay for an accelerator on each worker that only decodes.
def _hint_and_service_option(settings: Settings) -> str | None:
    hints, rivals = _hints(settings), worker_accelerators(settings.options)
    if not hints or not rivals:
        return None
    return (
        f"--dataflow_service_options={rivals[0]!r} is not allowed with the hint {hints[0]!r}: it gives every "
        "worker an accelerator, so Dataflow can't fit workers to hints. Remove one of them."
    )


def _accelerator_or_hint_and_flexrs(settings: Settings) -> str | None:
    goal = settings.options.view_as(GoogleCloudOptions).flexrs_goal
    resources = [*worker_accelerators(settings.options), *_hints(settings)]
    if not resources or not goal:
        return None
    return (
        f"--flexrs_goal={goal} is not allowed with {resources[0]!r}: FlexRS supports neither "
        "accelerators nor such hints. Remove one of them."
    )


# Each copy of the model takes GPU memory, and the second or third one finds none.
def _several_processes_a_gpu(settings: Settings) -> str | None:
    accelerators = _accelerators(settings)
    if not is_dataflow(settings.options) or not accelerators or has_one_process(settings.options):
        return None
    return (
        f"{accelerators[0]!r} needs --experiments={ONE_PROCESS}, because Dataflow otherwise starts a process "
        "for each vCPU, and each loads the model onto the GPU."
    )


# Without this rule, workers start, find no GPU, fail four times, and are paid for.
def _accelerator_required_without_one(settings: Settings) -> str | None:
    if (
        not settings.config.predict.require_accelerator
        or not is_dataflow(settings.options)
        or _accelerators(settings)
    ):
        return None
    return (
        "--require_accelerator on Dataflow needs workers with an accelerator. Give "
        "--dataflow_service_options='worker_accelerator=type:nvidia-l4;count:1;install-nvidia-driver', or "
        "--layout=split with --accelerator_hint."
    )


def _optimisation(settings: Settings) -> str | None:
    how, required = optimisation_of(settings.config), settings.config.predict.require_accelerator
    # Elsewhere each worker checks its own device, because only Dataflow's options show what workers have.
    if not required and not is_dataflow(settings.options):
        return how.contradiction()
    return how.unfit(on_gpu=required or bool(_accelerators(settings)))


# Checked here, because a job would start its workers before one of them misses the file.
def _local_path_on_dataflow(settings: Settings) -> str | None:
    if not is_dataflow(settings.options):
        return None
    inputs = filter(is_path, settings.config.read.inputs)
    for name, path in (*(("input", name) for name in inputs), ("output", settings.config.write.output)):
        if path and is_local(path):
            return f"--{name}={path!r} is on this machine, not on Dataflow's workers. Give a gs:// path."
    return None


# Beam would create the table of the query's result in no project, and fail on a worker.
def _query_without_project(settings: Settings) -> str | None:
    name = next(filter(is_query, settings.config.read.inputs), None)
    if not name or settings.options.view_as(GoogleCloudOptions).project:
        return None
    return f"--input={name!r:.100} needs the project that BigQuery runs the query in. Add --project=PROJECT."


# The copy is deleted by the first job, and the template would read it again.
def _copy_in_a_template(settings: Settings) -> str | None:
    name = next(filter(is_copied, settings.config.read.inputs), None)
    if not name or not settings.options.view_as(GoogleCloudOptions).template_location:
        return None
    return (
        f"--input={public_input(name)!r} is not allowed with --template_location: jobs from the template "
        "could not read it again. Copy the list to a bucket."
    )


# Ids of workers are numbers that each task manager counts by itself, while LOOPBACK has one pool for all.
def _loopback_on_a_cluster(settings: Settings) -> str | None:
    master = flink_cluster(settings.options)
    if not is_portable(settings.options) or not master or environment_of(settings.options) != "LOOPBACK":
        return None
    return (
        f"--environment_type=LOOPBACK is not allowed with --flink_master={master}: workers of different "
        "task managers get equal ids here, and the end of one stops another. Use DOCKER, PROCESS or EXTERNAL."
    )


def _no_wait_for_a_job_that_ends(settings: Settings) -> str | None:
    if not settings.config.launch.no_wait or is_dataflow(settings.options):
        return None
    if not runs_elsewhere(settings.options):
        why, remedy = (
            f"--runner={settings.runner} runs in",
            "Remove --no_wait, or use --runner=DataflowRunner",
        )
    elif not has_job_server(settings.options):
        why, remedy = f"the job server that {settings.runner} starts ends with", "Give --job_endpoint"
    elif environment_of(settings.options) == "LOOPBACK":
        why, remedy = "workers of LOOPBACK end with", "Give --environment_type=DOCKER, PROCESS or EXTERNAL"
    else:
        return None
    return f"--no_wait is not allowed, because {why} this command. {remedy}."


def _own_hint(settings: Settings) -> list[str]:
    hint = settings.config.predict.accelerator_hint
    return [hint] if hint else []


def _hints(settings: Settings) -> list[str]:
    """Return the hints that Dataflow fits workers to."""
    hints = hints_for_all(settings.options)
    return [*(hint for hint in hints if hint.partition("=")[0] in _RIGHT_FITTING), *_own_hint(settings)]


def _accelerators(settings: Settings) -> list[str]:
    """Return the options and hints that request accelerators."""
    return [
        *worker_accelerators(settings.options),
        *accelerators_for_all(settings.options),
        *_own_hint(settings),
    ]


# Checked here, because headers are resolved only after the model was fetched and tried.
def _headers(settings: Settings) -> str | None:
    try:
        resolve_headers(settings.config.load.http_header, os.environ)
    except UserError as e:
        return str(e)
    return None


# Checked here, because a run's metrics would be lost at its end.
def _metrics_file(settings: Settings) -> str | None:
    launch = settings.config.launch
    if launch.metrics_file is None:
        return None
    flag = f"--metrics_file={launch.metrics_file!r}"
    template = settings.options.view_as(GoogleCloudOptions).template_location
    for name, is_set in (("--no_wait", launch.no_wait), ("--template_location", template)):
        if is_set:
            return (
                f"{flag} is not allowed with {name}, because the command ends before the run. "
                "Remove one of them."
            )
    why = fault_of_metrics_file(launch.metrics_file)
    return why and f"{flag} cannot be written: {why}. Give a file in a folder that you may write."


# Each returns a message with a remedy, or None if it is kept.
RULES: tuple[Callable[[Settings], str | None], ...] = (
    _unfit_runner,
    _streaming,
    _output_is_input,
    _prism_missing,
    _hint_without_split,
    _hint_and_service_option,
    _accelerator_or_hint_and_flexrs,
    _several_processes_a_gpu,
    _accelerator_required_without_one,
    _optimisation,
    _local_path_on_dataflow,
    _copy_in_a_template,
    _query_without_project,
    _loopback_on_a_cluster,
    _no_wait_for_a_job_that_ends,
    _headers,
    _metrics_file,
)
