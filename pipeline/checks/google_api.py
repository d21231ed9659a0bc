"""Asking Google's APIs, each question once and with a short time limit."""

from __future__ import annotations

from typing import Any

import requests
from google.auth.exceptions import GoogleAuthError
from google.auth.transport.requests import AuthorizedSession

from labelbeam.pipeline.checks.findings import ANSWER_SEC, CONNECT_SEC, Case, Finding, warning

COMPUTE = "https://compute.googleapis.com/compute/v1"
IAM = "https://iam.googleapis.com/v1"
TROUBLESHOOTER = "https://policytroubleshooter.googleapis.com/v1"

# More pages of a list than a filter for one name can give.
_MOST_PAGES = 20


class ApiError(Exception):
    """An API did not answer, or refused.

    Attributes:
      status: What it answered with; 0 if it did not.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def ask(
    case: Case,
    url: str,
    body: dict[str, Any] | None = None,
    params: dict[str, str] | None = None,
    accept: str = "application/json",
) -> dict[str, Any]:
    """Gets what is at an address, or posts a question there.

    Args:
      case: Whose credentials to use.
      url: The address.
      body: The question; None to get what is there.
      params: Go into the address.
      accept: The kinds of answers that are understood.

    Raises:
      ApiError: It can't be had.
    """
    session = AuthorizedSession(case.credentials)
    method = "GET" if body is None else "POST"
    limits = (CONNECT_SEC, ANSWER_SEC)
    try:
        response = session.request(
            method, url, params=params, json=body, headers={"Accept": accept}, timeout=limits
        )
        answer = response.json()
    except (requests.RequestException, GoogleAuthError, ValueError) as e:
        raise ApiError(0, f"{url.partition('?')[0]} gave no answer: {e}"[:300]) from e
    if not response.ok:
        raise ApiError(response.status_code, _message_of(answer) or response.reason)
    return answer


def ask_compute(case: Case, path: str, params: dict[str, str] | None = None) -> dict[str, Any]:
    """Gets what Compute Engine has below the job's project.

    Raises:
      ApiError: It can't be had.
    """
    return ask(case, f"{COMPUTE}/projects/{case.project}{path}", params=params)


def ask_iam(case: Case, email: str, action: str = "", body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Gets what there is to know of a service account, or posts a question about it.

    Raises:
      ApiError: It can't be had.
    """
    return ask(case, f"{IAM}/projects/-/serviceAccounts/{email}{action}", body)


def ask_access(case: Case, email: str, resource: str, permission: str) -> str:
    """Whether an account may do something: `GRANTED`, `NOT_GRANTED`, or why that can't be told.

    Args:
      case: Whose credentials to use.
      email: The account's.
      resource: The full name of what it would be done to.
      permission: What would be done, such as `storage.objects.get`.

    Raises:
      ApiError: It can't be had.
    """
    asked = {"principal": email, "fullResourceName": resource, "permission": permission}
    answer = ask(case, f"{TROUBLESHOOTER}/iam:troubleshoot", {"accessTuple": asked})
    return answer.get("access", "UNKNOWN")


def ask_all_zones(case: Case, kind: str, name: str) -> dict[str, dict[str, Any]]:
    """What Compute Engine has of one name, by zone.

    Args:
      case: Whose credentials to use.
      kind: `machineTypes` or `acceleratorTypes`.
      name: The name.

    Raises:
      ApiError: It can't be had.
    """
    zones: dict[str, dict[str, Any]] = {}
    params = {"filter": f"name={name}"}
    for _ in range(_MOST_PAGES):
        page = ask_compute(case, f"/aggregated/{kind}", params)
        for scope, scoped in page.get("items", {}).items():
            zones |= {scope.removeprefix("zones/"): item for item in scoped.get(kind, ())}
        if not (token := page.get("nextPageToken")):
            break
        params["pageToken"] = token
    return zones


def untold(what: str, why: ApiError, permission: str) -> Finding:
    """That something could not be told."""
    text = str(why)
    if why.status == 0:
        remedy = "Check the network."
    elif why.status == 404:
        remedy = "Check --project, --region and the name."
    elif "has not been used" in text or "disabled" in text:
        remedy = "Enable the API in the project."
    else:
        remedy = f"Your account needs {permission} to ask."
    return warning(f"{what} could not be told: {text.rstrip('.')}.", remedy)


def _message_of(answer: Any) -> str:
    try:
        return str(answer["error"]["message"])
    except (KeyError, TypeError):
        return ""
