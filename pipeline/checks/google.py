"""Checks of Google Cloud's login, project and buckets."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from typing import Any

import google.auth
import requests
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions
from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
from apache_beam.runners.dataflow.dataflow_runner import DataflowRunner
from google.api_core import exceptions as api
from google.auth import environment_vars, impersonated_credentials
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, TransportError
from google.auth.transport.requests import AuthorizedSession, Request
from google.cloud import storage

from labelbeam.pipeline.checks.findings import (
    CONNECT_SEC,
    RESPONSE_SEC,
    Case,
    Check,
    Finding,
    Level,
    always,
    error,
    examine,
    lacks_credentials,
    ok,
    on_dataflow,
    warning,
)
from labelbeam.pipeline.config import RunConfig
from labelbeam.transforms.errors import UserError
from labelbeam.transforms.sources.addresses import is_gcs, split_gcs

_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_LOG_IN = "Run gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS to a key file."
_METADATA_IP, _METADATA_SEC = "169.254.169.254", 1.0
_LIMITS = (CONNECT_SEC, RESPONSE_SEC)
_NO_ANSWER = (api.GoogleAPICallError, GoogleAuthError, requests.RequestException, ConnectionError)


def require_google_access(config: RunConfig, options: PipelineOptions) -> None:
    """Check the login and the buckets of a Dataflow job, because Beam reports a missing login after minutes.

    Raises:
      UserError: The credentials do not work, or a bucket does not exist.
    """
    case = Case(config, options)
    with warnings.catch_warnings(action="ignore"):  # google.auth warns about logins that work
        checks = (CREDENTIALS, BUCKETS) if case.on_dataflow else ()
        findings = [finding for check in checks for finding in examine(check, case)]
    # Warnings are left to the doctor, because a run may succeed in spite of them.
    for finding in findings:
        if finding.level is Level.ERROR:
            raise UserError(f"{finding.text[:1].upper()}{finding.text[1:]} {finding.remedy}")


class ApiError(Exception):
    """An API that refused a request, or did not respond; status 0 means the latter."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def call_api(case: Case, url: str, **options: Any) -> dict[str, Any]:
    """Get a resource with the user's credentials.

    Raises:
      ApiError: The API refuses the request, or does not respond.
    """
    try:
        session = AuthorizedSession(case.credentials)
        response = session.get(url, timeout=_LIMITS, **options)
        answer = response.json()
    except (requests.RequestException, GoogleAuthError, ValueError) as e:
        raise ApiError(0, f"{url.partition('?')[0]} did not respond: {e}"[:300]) from e
    if not response.ok:
        fault = answer.get("error") if isinstance(answer, dict) else None
        raise ApiError(response.status_code, fault["message"] if isinstance(fault, dict) else response.reason)
    return answer


class _BriefRequest(Request):
    """HTTP transport of google.auth with shorter time limits."""

    def __call__(self, url: str, *args: Any, timeout: float = RESPONSE_SEC, **kwargs: Any) -> Any:
        # google.auth looks for a metadata server last, three times for 3 s. Outside of Google Cloud nothing
        # listens at the address, and inside the server responds within milliseconds.
        if os.environ.get(environment_vars.GCE_METADATA_IP, _METADATA_IP) in url:
            timeout = _METADATA_SEC
        return super().__call__(url, *args, timeout=timeout, **kwargs)


def _check_credentials(case: Case) -> Iterator[Finding]:
    accounts = case.options.view_as(GoogleCloudOptions).impersonate_service_account
    request = _BriefRequest()
    try:
        credentials, case.default_project = google.auth.default(scopes=[_SCOPE], request=request)
        if accounts:
            # The last account is the target, and the others are its delegates, as in Beam's option.
            *delegates, target = accounts.split(",")
            credentials = impersonated_credentials.Credentials(credentials, target, [_SCOPE], delegates)
        # Refreshed now, because an expired login still loads without an error.
        if not credentials.valid:
            credentials.refresh(request)
    except GoogleAuthError as e:
        # Without credentials public buckets can still be read, but nothing can be written.
        is_writer = case.on_dataflow or is_gcs(case.config.write.output)
        report = error if is_writer or not isinstance(e, DefaultCredentialsError) else warning
        remedy = "Check the network." if isinstance(e, TransportError) else _LOG_IN
        # The first sentence is enough, because the rest is Google's own remedy.
        text = str(e.args[0] if e.args else e).partition("\n")[0].partition(". ")[0][:300].rstrip(".")
        yield report(f"there are no working credentials for Google Cloud: {text}.", remedy)
    else:
        case.credentials = credentials
        yield ok(f"the credentials work ({getattr(credentials, 'service_account_email', 'a user account')}).")


def staging_folders(options: PipelineOptions) -> list[str]:
    """Return the values of --temp_location and --staging_location that Beam accepts."""
    cloud, validator = options.view_as(GoogleCloudOptions), PipelineOptionsValidator(options, None)
    names = ("temp_location", "staging_location")
    return [getattr(cloud, name) for name in names if not validator.validate_gcs_path(cloud, name)]


def _check_project(case: Case) -> Iterator[Finding]:
    cloud = case.options.view_as(GoogleCloudOptions)
    case.region = cloud.region or DataflowRunner().get_default_gcp_region()
    if not cloud.project:
        yield error("--project is missing.", f"Set --project={case.default_project or 'PROJECT'}.")
    if not case.region:
        yield error("--region is missing.", "Set --region to the region of your buckets.")
    if cloud.project and case.region:
        yield ok(f"the job runs in project {cloud.project}, region {case.region}.")
    if not staging_folders(case.options):
        place = cloud.temp_location
        fault = f"={place!r} is no folder in a bucket" if place else " is missing"
        text = f"--temp_location{fault}, so Beam makes a bucket."
        yield warning(text, "Set --temp_location=gs://BUCKET/FOLDER.")


def _bucket_uses(case: Case) -> dict[str, list[str]]:
    """Return the options that name each bucket; buckets of images once the input was read."""
    config, cloud = case.config, case.options.view_as(GoogleCloudOptions)
    uses = [("input", name) for name in config.read.inputs]
    uses += [("model", config.model.model), ("output", config.write.output)]
    if case.on_dataflow:
        names = ("temp_location", "staging_location", "template_location")
        uses += [(name, getattr(cloud, name) or "") for name in names]
    uses += [("images", row.uri) for row in case.fetched_images()]
    by_bucket: dict[str, list[str]] = {}
    for option, uri in uses:
        if is_gcs(uri):
            by_bucket.setdefault(split_gcs(uri)[0], []).append(option)
    # Without duplicates, because each image of the input names a bucket.
    return {bucket: list(dict.fromkeys(options)) for bucket, options in by_bucket.items()}


def _check_buckets(case: Case) -> Iterator[Finding]:
    for name, uses in _bucket_uses(case).items():
        if name not in case.checked_buckets:
            case.checked_buckets.add(name)
            yield _locate(case, name, f"{name} ({', '.join(uses)})")


def _locate(case: Case, name: str, label: str) -> Finding:
    bucket = storage.Client(project=case.project or "none", credentials=case.credentials).bucket(name)
    try:
        # Without retries, because the client repeats for two minutes, longer than the check may take.
        bucket.reload(timeout=_LIMITS, retry=None)
    except api.NotFound:
        return error(f"there is no bucket {label}.", "Check its name, or create it in the job's region.")
    except api.Forbidden as e:
        # The bucket counts as existing, because reading its objects does not need storage.buckets.get.
        case.buckets.add(name)
        return warning(f"the bucket {label} could not be checked: {e.message}.", "Get storage.buckets.get.")
    except _NO_ANSWER as e:
        return error(f"the bucket {label} did not respond: {e!s:.200}.", "Check the network and the login.")
    case.buckets.add(name)
    # The regions of predefined dual- and multi-regions are not compared, because the API does not list them.
    regions = [bucket.location] if bucket.location_type == "region" else bucket.data_locations or ()
    if case.region and regions and case.region.upper() not in regions:
        text = f"{label} is in {bucket.location}, not in {case.region}: traffic is slower, and billed."
        return warning(text, "Set --region to the bucket's, or use a bucket in the job's region.")
    return ok(f"{label} is in {bucket.location}.")


def lacks_project(case: Case) -> str:
    """Return the missing requirement of checks that send requests about the job's project."""
    return lacks_credentials(case) or ("" if case.project and case.region else "a project and a region")


def _uses_buckets(case: Case) -> bool:
    return bool(_bucket_uses(case))


CREDENTIALS = Check(
    "credentials", _check_credentials, lambda case: case.on_dataflow or _uses_buckets(case), always
)
PROJECT = Check("project", _check_project, on_dataflow)
BUCKETS = Check("buckets", _check_buckets, _uses_buckets, always, lacks_credentials)
# The same for buckets of images, which are only known after the input was read.
SOURCES = Check("sources", _check_buckets, on_dataflow, always, lacks_credentials)
