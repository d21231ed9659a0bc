"""What options can't be said together, or to a runner: one table, checked before anything starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from os.path import isfile
from typing import NamedTuple

from apache_beam.options.pipeline_options import (
    DirectOptions,
    GoogleCloudOptions,
    PipelineOptions,
    PrismRunnerOptions,
    SetupOptions,
    StandardOptions,
)

from labelbeam.pipeline.config import RunConfig
from labelbeam.pipeline.plan import optimisation
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
    is_local,
    is_portable,
    runner_of,
    runs_elsewhere,
    worker_accelerators,
)
from labelbeam.transforms.errors import UserError
from labelbeam.transforms.files import is_local as is_local_path

# The hints of Dataflow's right fitting (cloud.google.com/dataflow/docs/guides/right-fitting).
_RIGHT_FITTING = ("accelerator", "min_ram")


class Said(NamedTuple):
    """What the user said: labelbeam's options and Beam's."""

    config: RunConfig
    options: PipelineOptions

    @property
    def runner(self) -> str:
        """The runner's name."""
        return runner_of(self.options)


def broken_rules(config: RunConfig, options: PipelineOptions) -> Iterator[str]:
    """What the options have against each other or the runner, each with what to do."""
    said = Said(config, options)
    for rule in RULES:
        if wrong := rule(said):
            yield wrong


def check_rules(config: RunConfig, options: PipelineOptions) -> None:
    """Makes sure that options go together.

    Raises:
      UserError: They don't.
    """
    for wrong in broken_rules(config, options):
        raise UserError(wrong)


def _runner_loses_rows(said: Said) -> str | None:
    if said.runner != "DaskRunner":
        return None
    return (
        "--runner=DaskRunner is not allowed: it drops what a step yields at a bundle's end, and so loses "
        f"images. Use {LOCAL_RUNNER}, PrismRunner, FlinkRunner or DataflowRunner."
    )


def _streaming(said: Said) -> str | None:
    if not said.options.view_as(StandardOptions).streaming:
        return None
    return "--streaming is not allowed: a corpus is a list with an end, and is published at it. Leave it out."


def _main_session(said: Said) -> str | None:
    if not said.options.view_as(SetupOptions).save_main_session:
        return None
    return (
        "--save_main_session is not allowed: workers have labelbeam installed, and need nothing of the "
        "submitting process. Leave it out."
    )


def _local_processes_elsewhere(said: Said) -> str | None:
    direct = said.options.view_as(DirectOptions)
    if is_local(said.options):
        return None
    if direct.direct_num_workers == 1 and direct.direct_running_mode in (None, "in_memory"):
        return None
    return (
        f"--direct_num_workers and --direct_running_mode mean nothing to {said.runner}. Leave them out, or "
        f"use --runner={LOCAL_RUNNER}."
    )


def _processes_without_effect(said: Said) -> str | None:
    direct = said.options.view_as(DirectOptions)
    if not is_local(said.options) or direct.direct_num_workers == 1:
        return None
    if direct.direct_running_mode not in (None, "in_memory"):
        return None
    return (
        f"--direct_num_workers={direct.direct_num_workers} has no effect in one process. Give "
        "--direct_running_mode=multi_processing, or leave it out: one process uses all cores."
    )


def _output_is_input(said: Said) -> str | None:
    read, write = said.config.read, said.config.write
    if read.input.rstrip("/") != write.output.rstrip("/"):
        return None
    return f"--output={write.output!r} is the input, too. Give another folder."


def _prism_missing(said: Said) -> str | None:
    location = said.options.view_as(PrismRunnerOptions).prism_location
    if said.runner != "PrismRunner" or not location or not is_local_path(location) or isfile(location):
        return None
    return (
        f"--prism_location={location!r} is no file. Leave it out to have Beam download it, or make it with "
        "`python -m tests.engines.install prism` in labelbeam's repository."
    )


def _hint_without_split(said: Said) -> str | None:
    predict = said.config.predict
    hint = predict.accelerator_hint
    if hint is None or predict.layout == "split":
        return None
    return (
        f"--accelerator_hint={hint!r} needs --layout=split: within the fused layout it would send pixels "
        f"through a shuffle. For all workers alike, give Beam's '--resource_hints=accelerator={hint}'."
    )


def _hint_and_service_option(said: Said) -> str | None:
    hints, rivals = _hints(said), worker_accelerators(said.options)
    if not hints or not rivals:
        return None
    return (
        f"--dataflow_service_options={rivals[0]!r} is not allowed with the hint {hints[0]!r}: it gives every "
        "worker an accelerator, and Dataflow's right fitting excludes it. Leave one of them out."
    )


def _accelerator_or_hint_and_flexrs(said: Said) -> str | None:
    goal = said.options.view_as(GoogleCloudOptions).flexrs_goal
    asked = [*worker_accelerators(said.options), *_hints(said)]
    if not asked or not goal:
        return None
    return (
        f"--flexrs_goal={goal} is not allowed with {asked[0]!r}: FlexRS is for jobs without accelerators, "
        "and without hints to fit workers by. Leave one of them out."
    )


def _several_processes_a_gpu(said: Said) -> str | None:
    asked = _accelerators(said)
    if not is_dataflow(said.options) or not asked or has_one_process(said.options):
        return None
    return (
        f"{asked[0]!r} needs --experiments={ONE_PROCESS}: without it Dataflow starts a process for each "
        "vCPU, and each loads the model onto the GPU."
    )


def _accelerator_required_and_not_asked_for(said: Said) -> str | None:
    if not said.config.predict.require_accelerator or not is_dataflow(said.options) or _accelerators(said):
        return None
    return (
        "--require_accelerator on Dataflow needs workers that have one. Give "
        "--dataflow_service_options='worker_accelerator=type:nvidia-l4;count:1;install-nvidia-driver', or "
        "--layout=split with --accelerator_hint."
    )


def _optimisation(said: Said) -> str | None:
    how, required = optimisation(said.config), said.config.predict.require_accelerator
    if not required and not is_dataflow(said.options):
        return how.contradiction()  # workers look at what they find
    return how.unfit(on_gpu=required or bool(_accelerators(said)))


def _local_path_on_dataflow(said: Said) -> str | None:
    if not is_dataflow(said.options):
        return None
    for name, path in (("input", said.config.read.input), ("output", said.config.write.output)):
        if path and is_local_path(path):
            return f"--{name}={path!r} is on this machine, and Dataflow's workers are not. Give a gs:// path."
    return None


def _loopback_on_a_cluster(said: Said) -> str | None:
    master = flink_cluster(said.options)
    if not is_portable(said.options) or not master or environment_of(said.options) != "LOOPBACK":
        return None
    return (
        f"--environment_type=LOOPBACK is not allowed with --flink_master={master}: task managers number "
        "their workers alike, and one's end would end another's. Use DOCKER, PROCESS or EXTERNAL."
    )


def _no_wait_here(said: Said) -> str | None:
    if not said.config.launch.no_wait or runs_elsewhere(said.options):
        return None
    return (
        f"--no_wait is not allowed with --runner={said.runner}, whose jobs end with this command. Leave it "
        "out, or name a runner that works elsewhere, such as --runner=DataflowRunner."
    )


def _no_wait_with_an_own_job_server(said: Said) -> str | None:
    if not said.config.launch.no_wait or is_dataflow(said.options) or has_job_server(said.options):
        return None
    if not runs_elsewhere(said.options):
        return None
    return (
        f"--no_wait needs --job_endpoint with --runner={said.runner}: the job server that Beam starts "
        "otherwise ends with this command."
    )


def _no_wait_with_own_workers(said: Said) -> str | None:
    if not said.config.launch.no_wait or is_dataflow(said.options) or not has_job_server(said.options):
        return None
    if environment_of(said.options) != "LOOPBACK":
        return None
    return (
        "--no_wait needs --environment_type=DOCKER, PROCESS or EXTERNAL: the workers of LOOPBACK, which "
        "some runners take by default, are this command."
    )


def _own_hint(said: Said) -> list[str]:
    hint = said.config.predict.accelerator_hint
    return [hint] if hint else []


def _hints(said: Said) -> list[str]:
    """All by which Dataflow would fit workers to the job."""
    hints = hints_for_all(said.options)
    return [*(hint for hint in hints if hint.partition("=")[0] in _RIGHT_FITTING), *_own_hint(said)]


def _accelerators(said: Said) -> list[str]:
    """All that asks for accelerators."""
    return [*worker_accelerators(said.options), *accelerators_for_all(said.options), *_own_hint(said)]


# Each gives what is wrong, and the remedy; None where all is well.
RULES: tuple[Callable[[Said], str | None], ...] = (
    _runner_loses_rows,
    _streaming,
    _main_session,
    _local_processes_elsewhere,
    _processes_without_effect,
    _output_is_input,
    _prism_missing,
    _hint_without_split,
    _hint_and_service_option,
    _accelerator_or_hint_and_flexrs,
    _several_processes_a_gpu,
    _accelerator_required_and_not_asked_for,
    _optimisation,
    _local_path_on_dataflow,
    _loopback_on_a_cluster,
    _no_wait_here,
    _no_wait_with_an_own_job_server,
    _no_wait_with_own_workers,
)
