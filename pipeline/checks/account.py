"""Checks of who asks: credentials, project and region, and the workers' account."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import google.auth
from apache_beam.options.pipeline_options import GoogleCloudOptions
from apache_beam.runners.dataflow.dataflow_runner import DataflowRunner
from google.auth import impersonated_credentials
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, TransportError
from google.auth.transport.requests import Request

from labelbeam.pipeline.checks.findings import (
    ANSWER_SEC,
    Case,
    Check,
    Finding,
    Level,
    always,
    error,
    ok,
    on_dataflow,
)
from labelbeam.pipeline.checks.google_api import ApiError, ask_compute, ask_iam, untold
from labelbeam.pipeline.checks.places import places_of

_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_LOG_IN = "Run gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS to a key file."
# Longest time for finding credentials, which asks the machine's metadata server last.
_CREDENTIALS_SEC = 15.0
_ACT_AS = "iam.serviceAccounts.actAs"


def _check_credentials(case: Case) -> Iterator[Finding]:
    impersonated = case.options.view_as(GoogleCloudOptions).impersonate_service_account
    try:
        found, case.suggested_project = google.auth.default(scopes=[_SCOPE])
        credentials = _impersonating(found, impersonated) if impersonated else found
        if not credentials.valid:
            credentials.refresh(functools.partial(Request(), timeout=ANSWER_SEC))
    except DefaultCredentialsError as e:
        yield _missing(case, f"no credentials were found: {_first_line(e)}.")
        return
    except TransportError as e:
        yield error(f"Google can't be asked for a token: {_first_line(e)}.", "Check the network.")
        return
    except GoogleAuthError as e:
        yield error(f"the credentials do not work: {_first_line(e)}.", _LOG_IN)
        return
    case.credentials = credentials
    yield ok(f"work: {_owner_of(credentials)}.")


def _impersonating(found: Any, accounts: str) -> impersonated_credentials.Credentials:
    """Credentials of the last of some accounts, by way of the others; as Beam's option takes them."""
    *delegates, target = accounts.split(",")
    return impersonated_credentials.Credentials(found, target, [_SCOPE], delegates)


def _missing(case: Case, what: str) -> Finding:
    writes = case.on_dataflow or case.config.write.output.startswith("gs://")
    level = Level.ERROR if writes else Level.WARNING
    public = "" if writes else " Without, public buckets can be read, after half a minute of Beam's looking."
    return Finding(level, what, f"{_LOG_IN}{public}")


def _first_line(e: Exception) -> str:
    return str(e.args[0] if e.args else e).strip().partition("\n")[0][:300].rstrip(".")


def _owner_of(credentials: Any) -> str:
    names = (
        getattr(credentials, name, None) for name in ("service_account_email", "signer_email", "account")
    )
    return next(filter(None, names), None) or f"of a user ({type(credentials).__module__})"


def _check_project(case: Case) -> Iterator[Finding]:
    cloud = case.options.view_as(GoogleCloudOptions)
    case.region = cloud.region or DataflowRunner().get_default_gcp_region()
    if not cloud.project:
        yield error("no project is given.", f"Give --project={case.suggested_project or 'PROJECT'}.")
    if not case.region:
        yield error("no region is given.", "Give --region, the one that your buckets are in.")
    if cloud.project and case.region:
        yield ok(f"{cloud.project}, in {case.region}.")


def lacks_api(case: Case) -> str:
    """What is missing to ask Google's APIs."""
    if case.credentials is None:
        return "credentials"
    return "" if case.project and case.region else "a project and a region"


def _check_account(case: Case) -> Iterator[Finding]:
    email = case.options.view_as(GoogleCloudOptions).service_account_email
    try:
        email = email or ask_compute(case, "").get("defaultServiceAccount")
    except ApiError as e:
        yield untold("the workers' service account", e, "compute.projects.get (roles/compute.viewer)")
        return
    if not email:
        yield error(
            "the project has no default service account for workers.", "Give --service_account_email."
        )
        return
    try:
        account = ask_iam(case, email)
        allowed = ask_iam(case, email, ":testIamPermissions", {"permissions": [_ACT_AS]})
    except ApiError as e:
        if e.status == 404:
            yield error(f"there is no service account {email}.", "Check --service_account_email.")
        else:
            case.worker_account = email
            yield untold(f"whether {email} can be used", e, "iam.serviceAccounts.get")
        return
    case.worker_account = email
    if account.get("disabled"):
        yield error(f"{email} is disabled.", f"Run gcloud iam service-accounts enable {email}.")
    elif _ACT_AS not in allowed.get("permissions", ()):
        yield error(f"you may not start workers as {email}.", "Get roles/iam.serviceAccountUser on it.")
    else:
        yield ok(f"workers run as {email}, which is there and which you may use.")


def _needs_google(case: Case) -> bool:
    return case.on_dataflow or bool(places_of(case))


CHECKS = (
    Check("credentials", _check_credentials, _needs_google, always, limit_sec=_CREDENTIALS_SEC),
    Check("project", _check_project, on_dataflow),
    Check("account", _check_account, on_dataflow, always, lacks_api),
)
