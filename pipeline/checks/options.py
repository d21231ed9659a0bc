"""Checks of the options, and of what the runner is to be found at."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

from apache_beam.options.pipeline_options import (
    GoogleCloudOptions,
    PipelineOptions,
    PrismRunnerOptions,
    TestOptions,
)

from labelbeam.pipeline.checks.findings import Case, Check, Finding, error, ok, try_connection, warning
from labelbeam.pipeline.checks.places import staging_folders
from labelbeam.pipeline.config import RunConfig
from labelbeam.pipeline.plan import failure_budget
from labelbeam.pipeline.runners.options import (
    host_and_port,
    is_portable,
    is_submitted_elsewhere,
    new_pipeline,
    pipeline_options,
    submitted_to,
)
from labelbeam.pipeline.runners.rules import broken_rules
from labelbeam.transforms.errors import UserError


def _check_options(case: Case) -> Iterator[Finding]:
    wrong = list(_contradictions(case))
    yield from map(error, wrong)
    if not wrong:
        yield ok(f"go together, for {case.runner}.")


def _contradictions(case: Case) -> Iterator[str]:
    """What would be said by all that refuses a run."""
    yield from broken_rules(case.config, case.options)
    for refuse in (
        lambda: failure_budget(case.config),
        lambda: new_pipeline(_without_effects(case.config)),
    ):
        try:
            refuse()
        except UserError as e:
            yield str(e)


def _without_effects(config: RunConfig) -> PipelineOptions:
    """The options as Beam checks them without asking for a bucket, or making one."""
    options = pipeline_options(config.beam_flags)
    options.view_as(TestOptions).dry_run = True
    cloud = options.view_as(GoogleCloudOptions)
    if not staging_folders(options):  # which another check tells, as the next two
        cloud.temp_location = "gs://none/none"
    cloud.project, cloud.region = cloud.project or "no-project", cloud.region or "no-region"
    return options


def _check_runner(case: Case) -> Iterator[Finding]:
    option, endpoint = submitted_to(case.options)
    if endpoint == "embed":
        yield ok("Beam's own job server, in this process.")
    elif endpoint:
        yield _reached(option, endpoint)
    elif case.runner == "PortableRunner":
        yield error("PortableRunner has nothing to submit to.", "Give --job_endpoint=HOST:PORT.")
    if not endpoint and case.runner == "PrismRunner":
        yield from _found_prism(case.options.view_as(PrismRunnerOptions).prism_location)
    if case.runner in ("FlinkRunner", "SparkRunner") and option != "--job_endpoint":
        java = shutil.which("java")
        remedy = "Install Java, or give the --job_endpoint of a job server."
        starts = f"{case.runner} starts its job server with Java"
        yield ok(f"{starts}: {java}.") if java else error(f"{starts}, and there is none.", remedy)


def _reached(option: str, endpoint: str) -> Finding:
    host, port = host_and_port(endpoint)
    if not host or not port:
        return error(
            f"{option}={endpoint!r} is no address.", f"Write it as HOST:PORT: {option}=localhost:8099."
        )
    if why := try_connection(host, port):
        return error(
            f"{option}={endpoint!r} does not answer: {why}.", "Start the job server, or check the address."
        )
    return ok(f"{option}={endpoint!r} answers.")


def _found_prism(location: str | None) -> Iterator[Finding]:
    if not location:
        yield warning(
            "Beam downloads Prism when the run starts.", "Give --prism_location=FILE to have it at hand."
        )
    elif "://" in location:
        yield ok(f"Prism comes from {location}.")
    elif os.path.isfile(location):  # the options are refused otherwise
        yield ok(f"Prism is {location}.")


CHECKS = (
    Check("options", _check_options),
    Check(
        "runner",
        _check_runner,
        applies=lambda case: is_portable(case.options),
        is_remote=lambda case: is_submitted_elsewhere(case.options),
    ),
)
