"""Checks of the options, and of the runner's job server or binary."""

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
from labelbeam.pipeline.checks.google import staging_folders
from labelbeam.pipeline.config import RunConfig
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
    # All messages are shown, because a run stops at the first one.
    messages = list(broken_rules(case.config, case.options))
    try:
        new_pipeline(_without_effects(case.config))
    except UserError as e:
        messages.append(str(e))
    yield from map(error, messages)
    if not messages:
        yield ok(f"the options are valid for {case.runner}.")


def _without_effects(config: RunConfig) -> PipelineOptions:
    """Return options that Beam validates without looking up a bucket, or making one."""
    options = pipeline_options(config.beam_flags)
    options.view_as(TestOptions).dry_run = True
    cloud = options.view_as(GoogleCloudOptions)
    # Placeholders, because the check `project` reports these options if they are missing.
    if not staging_folders(options):
        cloud.temp_location = "gs://none/none"
    cloud.project, cloud.region = cloud.project or "no-project", cloud.region or "no-region"
    return options


def _check_runner(case: Case) -> Iterator[Finding]:
    option, endpoint = submitted_to(case.options)
    if endpoint == "embed":
        yield ok("Beam's own job server runs in this process.")
    elif endpoint:
        yield _connect(option, endpoint)
    elif case.runner == "PortableRunner":
        yield error("--job_endpoint is missing for PortableRunner.", "Set --job_endpoint=HOST:PORT.")
    if not endpoint and case.runner == "PrismRunner":
        location = case.options.view_as(PrismRunnerOptions).prism_location
        if not location:
            yield warning("Beam downloads Prism when the run starts.", "Set --prism_location to a copy.")
        elif "://" in location or os.path.isfile(location):  # the check `options` reports a missing file
            yield ok(f"Prism is {location}.")
    if case.runner == "FlinkRunner" and option != "--job_endpoint":
        java = shutil.which("java")
        remedy = "Install Java, or set --job_endpoint to a job server."
        text = "FlinkRunner starts its job server with Java"
        yield ok(f"{text}: {java}.") if java else error(f"{text}, which is not installed.", remedy)


def _connect(option: str, endpoint: str) -> Finding:
    host, port = host_and_port(endpoint)
    flag = f"{option}={endpoint!r}"
    if not host or not port:
        return error(f"{flag} is not an address.", f"Write it as HOST:PORT: {option}=localhost:8099.")
    if why := try_connection(host, port):
        return error(f"{flag} did not respond: {why}.", "Start the job server, or check the address.")
    return ok(f"{flag} accepts connections.")


OPTIONS = Check("options", _check_options)
RUNNER = Check(
    "runner",
    _check_runner,
    applies=lambda case: is_portable(case.options),
    is_remote=lambda case: is_submitted_elsewhere(case.options),
)
