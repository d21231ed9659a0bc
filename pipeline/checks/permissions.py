"""Check of what the workers' account may do, in the project and in the buckets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from labelbeam.pipeline.checks.findings import Case, Check, Finding, always, error, ok, on_dataflow, warning
from labelbeam.pipeline.checks.google_api import ApiError, ask_access, untold
from labelbeam.pipeline.checks.places import permissions_by_bucket, role_for

_REVIEWER = "roles/iam.securityReviewer"


@dataclass(frozen=True, slots=True)
class Need:
    """What workers must be allowed somewhere.

    Attributes:
      where: The place in words.
      resource: Its full name.
      permissions: What must be allowed.
      role: The role that allows it.
      grant: The command that gives a role there, up to whom and which.
    """

    where: str
    resource: str
    permissions: tuple[str, ...]
    role: str
    grant: str


def needs_of(case: Case) -> list[Need]:
    """What the workers of a job must be allowed."""
    project = Need(
        f"the project {case.project}",
        f"//cloudresourcemanager.googleapis.com/projects/{case.project}",
        ("dataflow.workItems.lease",),
        "roles/dataflow.worker",
        f"gcloud projects add-iam-policy-binding {case.project}",
    )
    buckets = [
        Need(
            f"the bucket {bucket}",
            f"//storage.googleapis.com/projects/_/buckets/{bucket}",
            permissions,
            role_for(permissions),
            f"gcloud storage buckets add-iam-policy-binding gs://{bucket}",
        )
        for bucket, permissions in permissions_by_bucket(case, of_workers=True).items()
    ]
    return [project, *buckets]


def _check_permissions(case: Case) -> Iterator[Finding]:
    email = case.worker_account
    assert email
    for need in needs_of(case):
        try:
            access = {p: ask_access(case, email, need.resource, p) for p in need.permissions}
        except ApiError as e:
            # The next question would have the same answer.
            yield untold(f"what {email} may do in {need.where}", e, _REVIEWER)
            return
        yield _judged(need, email, access)


def _judged(need: Need, email: str, access: dict[str, str]) -> Finding:
    give = f"{need.grant} --member=serviceAccount:{email} --role={need.role}"
    if missing := [permission for permission, answer in access.items() if answer == "NOT_GRANTED"]:
        return error(f"{email} has no {', '.join(missing)} in {need.where}.", f"Run {give}.")
    if doubtful := [permission for permission, answer in access.items() if answer != "GRANTED"]:
        told = f"whether {email} has {', '.join(doubtful)} in {need.where} could not be told: "
        if all(access[permission] == "UNKNOWN_CONDITIONAL" for permission in doubtful):
            return warning(f"{told}it depends on a condition.", "Check the condition.")
        remedy = f"Your account needs {_REVIEWER} on it to ask; {give} makes sure."
        return warning(f"{told}you may not see all policies that apply.", remedy)
    return ok(f"{email} has {', '.join(access)} in {need.where}.")


def _lacks(case: Case) -> str:
    if case.credentials is None:
        return "credentials"
    return "" if case.worker_account and case.project else "a project, and the workers' account"


CHECKS = (Check("permissions", _check_permissions, on_dataflow, always, _lacks, 60.0, warning),)
