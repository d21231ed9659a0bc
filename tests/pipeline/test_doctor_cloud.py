"""The doctor on Google Cloud: against the emulator, and stubs of what else it asks."""

import dataclasses
import platform
import re
import signal
import time
from pathlib import Path

import apache_beam
import google.auth
import pytest
import tensorflow as tf
import yaml
from google.auth.exceptions import DefaultCredentialsError, RefreshError, TransportError

from labelbeam.pipeline.checks import google_api, image
from labelbeam.pipeline.checks.account import _impersonating
from labelbeam.pipeline.checks.findings import examine
from labelbeam.pipeline.checks.machines import Accelerator, misfit, parse_accelerator, pools_of
from labelbeam.pipeline.checks.permissions import needs_of
from labelbeam.pipeline.checks.places import contains
from labelbeam.pipeline.cli import main
from labelbeam.pipeline.commands.doctor import CHECKS
from labelbeam.pipeline.config import PredictConfig
from labelbeam.pipeline.runners.options import pipeline_options
from tests.doctor import case_of, find, find_one, levels_of
from tests.engines.compute import PROJECT, REGION, WORKER, ComputeStub
from tests.synthetic import jpeg_bytes

FOLDER = Path(__file__).parent.parent.parent / "run_configs"
FILES = sorted(FOLDER.glob("*.yaml"))
DATAFLOW = ("--runner=DataflowRunner", f"--project={PROJECT}", f"--region={REGION}")
FLINK_CLUSTER = ("--runner=FlinkRunner", "--flink_master=far:8081")
G2 = "--machine_type=g2-standard-8"
L4 = "--dataflow_service_options=worker_accelerator=type:nvidia-l4;count:1;install-nvidia-driver"
IMAGE = "us-docker.pkg.dev/some/images/labelbeam"


@pytest.fixture
def google_stub(gcs, monkeypatch):
    """Compute Engine, IAM and a registry, with credentials that they take."""
    with ComputeStub() as stub:
        monkeypatch.setattr(google_api, "COMPUTE", stub.url)
        monkeypatch.setattr(google_api, "IAM", stub.url)
        monkeypatch.setattr(google_api, "TROUBLESHOOTER", stub.url)
        monkeypatch.setattr(image, "_REGISTRY", stub.url)
        yield stub


def known(case):
    """A case whose credentials and project were found."""
    assert levels_of(find("credentials", case) + find("project", case)) == ["ok", "ok"]
    return case


def cloud_case(*beam_flags: str, **options):
    return known(case_of(*DATAFLOW, *beam_flags, **options))


# Credentials and project


class Stale:
    """Credentials without a token."""

    valid = False
    universe_domain = "googleapis.com"

    def __init__(self, raised: Exception | None = None) -> None:
        self._raised = raised

    def refresh(self, request) -> None:
        if self._raised:
            raise self._raised


def test_credentials__nothing_of_google__are_not_looked_for():
    assert find("credentials", case_of()) == []


def test_credentials__there__work(gcs):
    case = case_of(*DATAFLOW)
    assert find_one("credentials", case)[0] == "ok"
    assert case.credentials is not None and case.suggested_project == "test"


@pytest.mark.parametrize(
    ("flags", "options", "level"),
    [
        (DATAFLOW, {}, "error"),
        ((), {"output": "gs://b/out"}, "error"),
        ((), {"input": "gs://b/list.txt"}, "warning"),
    ],
)
def test_credentials__none__are_an_error_where_something_is_written(monkeypatch, flags, options, level):
    def fail(**_):
        raise DefaultCredentialsError("none to be found\nsee the page")

    monkeypatch.setattr(google.auth, "default", fail)
    case = case_of(*flags, **options)
    found, told = find_one("credentials", case)
    assert (found, case.credentials) == (level, None)
    assert "no credentials were found: none to be found. Run gcloud auth application-default login" in told
    left_out = find("buckets", case) + find("zones", case)
    assert left_out and set(levels_of(left_out)) == {"skipped"}


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (RefreshError("expired"), "the credentials do not work: expired. Run gcloud"),
        (TransportError("no route"), "Google can't be asked for a token: no route. Check the network"),
    ],
)
def test_credentials__that_do_not_work__are_an_error(monkeypatch, raised, said):
    monkeypatch.setattr(google.auth, "default", lambda **_: (Stale(raised), None))
    case = case_of(*DATAFLOW)
    level, told = find_one("credentials", case)
    assert level == "error" and said in told and case.credentials is None


def test_credentials__without_a_token__get_one(monkeypatch):
    monkeypatch.setattr(google.auth, "default", lambda **_: (Stale(), "theirs"))
    assert find_one("credentials", case_of(*DATAFLOW))[0] == "ok"


def test_impersonating__several_accounts__are_those_of_the_last():
    made = _impersonating(Stale(), "a@x,b@x")
    assert (made.service_account_email, made._delegates) == ("b@x", ["a@x"])


def test_project__given_or_not__is_told(monkeypatch, gcs):
    monkeypatch.delenv("CLOUDSDK_COMPUTE_REGION", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")  # no gcloud that knows a region
    assert find_one("project", case_of(*DATAFLOW)) == ("ok", f"{PROJECT}, in {REGION}. ")
    case = case_of("--runner=DataflowRunner")
    find("credentials", case)
    found = find("project", case)
    assert levels_of(found) == ["error", "error"]
    assert (found[0].remedy, found[1].what) == ("Give --project=test.", "no region is given.")
    assert find_one("zones", case)[0] == "skipped"


# Buckets


@pytest.mark.parametrize(
    ("location", "parts", "region", "inside"),
    [
        ("US-CENTRAL1", [], "us-central1", True),
        ("US-EAST1", [], "us-central1", False),
        ("US", [], "us-central1", True),
        ("US", [], "europe-west4", False),
        ("EU", [], "europe-west4", True),
        ("EU", [], "europe-west2", False),
        ("ASIA", [], "asia-east1", True),
        ("NAM4", [], "us-central1", True),
        ("NAM4", [], "us-west1", False),
        ("EUR4", [], "europe-north1", True),
        ("US", ["US-CENTRAL1", "US-WEST1"], "us-central1", True),
        ("US", ["US-WEST1", "US-EAST1"], "us-central1", False),
    ],
)
def test_contains__location__is_or_holds_the_region(location, parts, region, inside):
    assert contains(location, parts, region) is inside


def test_staging__folder_or_none__is_told():
    level, told = find_one("staging", case_of(*DATAFLOW, "--temp_location=gs://bucket/tmp"))
    assert level == "ok" and "gs://bucket/tmp" in told
    level, told = find_one("staging", case_of(*DATAFLOW))
    assert level == "warning" and "Beam makes a bucket" in told
    level, told = find_one("staging", case_of(*DATAFLOW, "--temp_location=/tmp"))
    assert level == "error" and "'/tmp' is no folder in a bucket" in told
    assert find("staging", case_of()) == []


def test_buckets__in_the_region_or_elsewhere__are_ok_or_a_warning(gcs):
    for name in ("near", "far"):
        gcs.put(f"gs://{name}/here", b"")
    gcs.place("near", "US-CENTRAL1")
    gcs.place("far", "EUROPE-WEST4")
    case = cloud_case("--temp_location=gs://near/tmp", input="gs://near/l.txt", output="gs://far/out")
    found = find("buckets", case)
    assert levels_of(found) == ["ok", "ok", "warning", "ok"]
    assert found[0].what.startswith("near (input, temp_location) is in US-CENTRAL1")
    assert "far (output) is in EUROPE-WEST4, and the job in us-central1" in found[2].what
    assert "0.02 USD a GB" in found[2].what and "--region" in found[2].remedy
    assert case.buckets == {"near", "far"}


def test_buckets__that_are_not_there__are_an_error_and_others_are_looked_at(gcs):
    gcs.put("gs://near/here", b"")
    case = known_local(input="gs://nosuch/l.txt", output="gs://near/out")
    found = find("buckets", case)
    assert levels_of(found) == ["error", "ok"] and "no bucket nosuch (input)" in found[0].what
    assert case.buckets == {"near"}
    assert find_one("input", case)[0] == "skipped"


def known_local(**options):
    case = case_of(**options)
    assert find_one("credentials", case)[0] == "ok"
    return case


def bucket_answers(stub: ComputeStub, monkeypatch, metadata, permissions) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", stub.url)
    stub.answers["/storage/v1/b/some"] = metadata
    stub.answers["/storage/v1/b/some/iam/testPermissions"] = permissions


FORBIDDEN = (403, {"error": {"code": 403, "message": "no access"}})


def test_buckets__metadata_forbidden__is_a_warning_and_permissions_are_told(google_stub, monkeypatch):
    allowed = {"permissions": ["storage.objects.get", "storage.objects.list"]}
    bucket_answers(google_stub, monkeypatch, FORBIDDEN, (200, allowed))
    case = known_local(input="gs://some/l.txt")
    found = find("buckets", case)
    assert levels_of(found) == ["warning", "ok"] and "could not be told" in found[0].what
    assert case.buckets == {"some"}


def test_buckets__permissions_missing__are_an_error_that_names_them(google_stub, monkeypatch):
    allowed = {"permissions": ["storage.objects.get", "storage.objects.list"]}
    bucket_answers(google_stub, monkeypatch, (200, {"name": "some", "location": "US"}), (200, allowed))
    (finding,) = find("buckets", known_local(output="gs://some/out"))
    assert finding.level == "error" and finding.remedy == "Get roles/storage.objectUser on it."
    assert "you have no storage.objects.create, storage.objects.delete" in finding.what


def test_buckets__permissions_cannot_be_told__are_a_warning(google_stub, monkeypatch):
    bucket_answers(google_stub, monkeypatch, (200, {"name": "some", "location": "US"}), FORBIDDEN)
    level, told = find_one("buckets", known_local(output="gs://some/out"))
    assert level == "warning" and "could not be told" in told


def test_buckets__no_network__are_an_error(gcs, monkeypatch):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:1")
    case = known_local(output="gs://some/out")
    level, told = find_one("buckets", case)
    assert level == "error" and "gave no answer" in told and case.buckets == set()


# Machines


@pytest.mark.parametrize(
    ("machine", "accelerator", "count", "surely", "why"),
    [
        ("g2-standard-8", "nvidia-l4", 1, None, ""),
        ("g2-standard-24", "nvidia-l4", 2, None, ""),
        ("g2-standard-24", "nvidia-l4", 1, True, "it has 2 x nvidia-l4"),
        ("g2-standard-8", "nvidia-tesla-t4", 1, True, "it has 1 x nvidia-l4"),
        ("n1-standard-8", "nvidia-tesla-t4", 4, None, ""),
        ("n1-standard-8", "nvidia-tesla-t4", 3, True, "it takes 1, 2, 4 of them"),
        ("n1-standard-8", "nvidia-tesla-v100", 8, None, ""),
        ("custom-4-16384", "nvidia-tesla-p4", 1, None, ""),
        ("n1-standard-8", "nvidia-l4", 1, True, "n1 take nvidia-tesla-t4"),
        ("n2-standard-8", "nvidia-l4", 1, True, "machines of the family n2 take no accelerator"),
        ("a2-highgpu-4g", "nvidia-tesla-a100", 4, None, ""),
        ("a2-highgpu-4g", "nvidia-tesla-a100", 1, True, "it has 4 x"),
        ("a2-ultragpu-1g", "nvidia-a100-80gb", 1, None, ""),
        ("a3-highgpu-8g", "nvidia-h100-80gb", 8, None, ""),
        ("z9-standard-8", "nvidia-l4", 1, False, "the machine type 'z9-standard-8' is not known here"),
        ("g2-standard-8", "nvidia-z99", 1, False, "'nvidia-z99' is not known here"),
    ],
)
def test_misfit__machine_and_accelerator__is_known(machine, accelerator, count, surely, why):
    found_surely, found_why = misfit(machine, Accelerator(accelerator, count, True))
    assert why in found_why and bool(why) == bool(found_why)
    assert surely is None or found_surely is surely


@pytest.mark.parametrize(
    "text", ["", "nvidia-l4", "type:nvidia-l4;count:none", "type:nvidia-l4;count:0", "count:1"]
)
def test_parse_accelerator__nonsense__is_told(text):
    assert "must name a type and a count" in parse_accelerator(text)


def test_pools__split_layout__are_two_and_the_hint_names_its_machine():
    hint = "type:nvidia-l4;count:1;machine_type:g2-standard-8;install-nvidia-driver"
    options = pipeline_options((*DATAFLOW, "--machine_type=n2-standard-8"))
    decoding, labelling = pools_of(PredictConfig(layout="split", accelerator_hint=hint), options)
    assert (decoding.name, labelling.name) == ("n2-standard-8", "g2-standard-8 with 1 x nvidia-l4")
    assert labelling.accelerator.installs_driver and not labelling.for_all


@pytest.mark.parametrize(
    ("flags", "levels", "said"),
    [
        ((G2, L4), ["ok"], "g2-standard-8 with 1 x nvidia-l4"),
        ((G2, "--resource_hints=accelerator=type:nvidia-l4;count:1;install-nvidia-driver"), ["ok"], "g2-"),
        (("--machine_type=n2-standard-4",), ["ok"], "workers are n2-standard-4"),
        ((), ["ok"], "a machine type of Dataflow's choice"),
        ((G2,), ["warning"], "has 1 x nvidia-l4, which is paid for"),
        (
            (L4,),
            ["warning"],
            "nothing for a machine type. Machines that have it: g2-standard-4, g2-standard-8",
        ),
        ((G2, L4.replace(";install-nvidia-driver", "")), ["warning", "ok"], "without NVIDIA's driver"),
        (("--machine_type=n2-standard-8", L4), ["error"], "take no accelerator. Machines that have it: g2-"),
        (("--machine_type=z9-standard-8", L4), ["warning"], "is not known here"),
        ((G2, L4.replace("count:1", "count:one")), ["error", "warning"], "is not understood"),
    ],
)
def test_machines__combination__is_told(flags, levels, said):
    found = find("machines", case_of(*DATAFLOW, *flags))
    assert levels_of(found) == levels
    assert said in f"{found[0].what} {found[0].remedy}"


def test_zones__machine_and_accelerator__are_had_where_both_are(google_stub):
    case = cloud_case(G2, L4)
    assert find_one("zones", case) == (
        "ok",
        f"g2-standard-8 with 1 x nvidia-l4 is to be had in {REGION}-a. ",
    )
    assert case.cores_of == {"g2-standard-8": 8}
    assert google_stub.requests[f"/projects/{PROJECT}/aggregated/machineTypes"] == 3  # a page for each zone


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ("--region=asia-east1", G2),
            "g2-standard-8 is not to be had in asia-east1. Regions that have it: eu",
        ),
        ((G2, L4, f"--worker_zone={REGION}-b"), f"nvidia-l4 is not to be had in {REGION}-b"),
        ((G2, L4, "--worker_region=europe-west1"), "is not to be had in europe-west1"),
        (("--machine_type=n9-standard-8",), "Compute Engine has no n9-standard-8"),
    ],
)
def test_zones__where_it_is_not_to_be_had__is_an_error(google_stub, flags, said):
    level, told = find_one("zones", cloud_case(*flags))
    assert level == "error" and said in told


def test_zones__machine_and_accelerator_in_different_zones__is_an_error(google_stub):
    google_stub.zones["machineTypes"] = {"g2-standard-8": [f"{REGION}-b"]}
    level, told = find_one("zones", cloud_case(G2, L4))
    assert level == "error" and f"no zone of {REGION} has both" in told


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (FORBIDDEN, "could not be told: no access. Your account needs roles/compute.viewer"),
        (
            (403, {"error": {"message": "Compute Engine API has not been used in project 1 before."}}),
            "Enable the API in the project",
        ),
        ((404, {"error": {"message": "not found"}}), "Check --project, --region"),
        ((500, "no JSON of ours"), "could not be told: Internal Server Error"),
    ],
)
def test_zones_and_quota__refused__are_warnings(google_stub, answer, said):
    case = cloud_case(G2, "--max_num_workers=2")
    google_stub.answers[f"/projects/{PROJECT}/aggregated/machineTypes"] = answer
    google_stub.answers[f"/projects/{PROJECT}/regions/{REGION}"] = answer
    for name in ("zones", "quota"):
        level, told = find_one(name, case)
        assert level == "warning" and said in told


def test_zones__no_network__is_a_warning(google_stub, monkeypatch):
    monkeypatch.setattr(google_api, "COMPUTE", "http://127.0.0.1:1")
    level, told = find_one("zones", cloud_case(G2))
    assert level == "warning" and "gave no answer" in told and "Check the network" in told


def quota_lines(case) -> dict[str, tuple[str, str]]:
    return {f.what.split(":")[0]: (f.level.value, f.what) for f in find("quota", case)}


def test_quota__enough__is_ok_for_each(google_stub):
    lines = quota_lines(cloud_case(G2, L4, "--max_num_workers=20"))
    assert {level for level, _ in lines.values()} == {"ok"}
    assert set(lines) == {
        f"G2_CPUS in {REGION}",
        f"IN_USE_ADDRESSES in {REGION}",
        f"NVIDIA_L4_GPUS in {REGION}",
        "GPUS_ALL_REGIONS of the project",
    }
    assert "a worker takes 8: enough for 20 workers" in lines[f"G2_CPUS in {REGION}"][1]


def test_quota__for_some_or_none__is_a_warning_or_an_error(google_stub):
    google_stub.quotas |= {"NVIDIA_L4_GPUS": (8.0, 3.0), "G2_CPUS": (4.0, 0.0)}
    google_stub.project_quotas = {"GPUS_ALL_REGIONS": (0.0, 0.0)}
    lines = quota_lines(cloud_case(G2, L4, "--max_num_workers=20"))
    gpus, cores = lines[f"NVIDIA_L4_GPUS in {REGION}"], lines[f"G2_CPUS in {REGION}"]
    assert gpus[0] == "warning" and "5 of 8 are free" in gpus[1] and "5 of 20 workers can start" in gpus[1]
    assert cores[0] == "error" and "not one can start" in cores[1]
    assert lines["GPUS_ALL_REGIONS of the project"][0] == "error"


def test_quota__without_public_addresses_or_workers_known__is_told(google_stub):
    found = find("quota", cloud_case("--machine_type=n2-standard-4", "--no_use_public_ips"))
    assert levels_of(found) == ["warning", "ok"] and "--max_num_workers is not given" in found[0].what
    assert found[1].what.startswith(f"N2_CPUS in {REGION}: 1,000 of 1,000 are free")


def test_quota__that_the_api_does_not_list__is_a_warning(google_stub):
    del google_stub.quotas["NVIDIA_L4_GPUS"]
    found = find("quota", cloud_case(G2, L4, "--max_num_workers=2"))
    assert [f.what for f in found if f.level == "warning"] == [
        f"the quota NVIDIA_L4_GPUS in {REGION} could not be told."
    ]


# The workers' account


def test_account__of_the_project_or_given__may_be_used(google_stub):
    level, told = find_one("account", cloud_case())
    assert level == "ok" and f"workers run as {WORKER}" in told
    google_stub.accounts["own@some-project"] = {}
    level, told = find_one("account", cloud_case("--service_account_email=own@some-project"))
    assert level == "ok" and "workers run as own@some-project" in told


def test_account__wrong__is_an_error(google_stub):
    level, told = find_one("account", cloud_case("--service_account_email=no@some-project"))
    assert level == "error" and "there is no service account no@some-project" in told
    google_stub.may_act = False
    level, told = find_one("account", cloud_case())
    assert level == "error" and "roles/iam.serviceAccountUser" in told
    google_stub.accounts[WORKER] = {"disabled": True}
    level, told = find_one("account", cloud_case())
    assert level == "error" and "is disabled" in told


def test_account__that_cannot_be_told__is_a_warning_or_an_error(google_stub):
    google_stub.answers[f"/projects/-/serviceAccounts/{WORKER}"] = FORBIDDEN
    level, told = find_one("account", cloud_case())
    assert level == "warning" and "iam.serviceAccounts.get" in told
    google_stub.answers[f"/projects/{PROJECT}"] = (200, {})
    level, told = find_one("account", cloud_case())
    assert level == "error" and "no default service account" in told
    google_stub.answers[f"/projects/{PROJECT}"] = FORBIDDEN
    assert find_one("account", cloud_case())[0] == "warning"


IN_PROJECT = f"//cloudresourcemanager.googleapis.com/projects/{PROJECT}"
IN_BUCKET = "//storage.googleapis.com/projects/_/buckets/{}"


def permissions_of_workers(*flags: str):
    case = cloud_case(*flags, input="gs://pictures/l.txt", output="gs://labels/out")
    find("account", case)
    return find("permissions", case)


def test_permissions__all_granted__are_ok_for_the_project_and_each_bucket(google_stub):
    found = permissions_of_workers("--temp_location=gs://labels/tmp")
    assert levels_of(found) == ["ok"] * 3
    places = [f"project {PROJECT}.", "bucket pictures.", "bucket labels."]
    assert [f.what.rpartition(" in the ")[2] for f in found] == places
    assert found[1].what.startswith(f"{WORKER} has storage.objects.get, storage.objects.list in")
    assert google_stub.requests["/iam:troubleshoot"] == 1 + 2 + 4


@pytest.mark.parametrize(
    ("resource", "permission", "said", "grant"),
    [
        (
            IN_PROJECT,
            "dataflow.workItems.lease",
            f"in the project {PROJECT}",
            f"gcloud projects add-iam-policy-binding {PROJECT} --member=serviceAccount:{WORKER} "
            "--role=roles/dataflow.worker",
        ),
        (
            IN_BUCKET.format("pictures"),
            "storage.objects.list",
            "in the bucket pictures",
            "gcloud storage buckets add-iam-policy-binding gs://pictures "
            f"--member=serviceAccount:{WORKER} --role=roles/storage.objectViewer",
        ),
        (
            IN_BUCKET.format("labels"),
            "storage.objects.create",
            "in the bucket labels",
            "gcloud storage buckets add-iam-policy-binding gs://labels "
            f"--member=serviceAccount:{WORKER} --role=roles/storage.objectUser",
        ),
    ],
)
def test_permissions__one_missing__is_an_error_with_the_command_that_grants_it(
    google_stub, resource, permission, said, grant
):
    google_stub.access[resource, permission] = "NOT_GRANTED"
    (wrong,) = (f for f in permissions_of_workers() if f.level != "ok")
    assert (wrong.level, wrong.what) == ("error", f"{WORKER} has no {permission} {said}.")
    assert wrong.remedy == f"Run {grant}."


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("UNKNOWN_CONDITIONAL", "could not be told: it depends on a condition. Check the condition."),
        ("UNKNOWN_INFO_DENIED", "you may not see all policies that apply. Your account needs roles/iam.sec"),
    ],
)
def test_permissions__in_doubt__are_a_warning(google_stub, answer, said):
    google_stub.access[IN_PROJECT, "dataflow.workItems.lease"] = answer
    (doubt,) = (f for f in permissions_of_workers() if f.level != "ok")
    assert doubt.level == "warning" and said in f"{doubt.what} {doubt.remedy}"


def test_permissions__that_cannot_be_asked_for__are_one_warning(google_stub):
    disabled = {"error": {"message": "Policy Troubleshooter API has not been used in project 1 before."}}
    google_stub.answers["/iam:troubleshoot"] = (403, disabled)
    (finding,) = permissions_of_workers()
    assert finding.level == "warning" and "Enable the API in the project" in finding.remedy
    assert google_stub.requests["/iam:troubleshoot"] == 1


def test_permissions__of_what_is_staged__are_to_read_alone_and_of_templates_none(google_stub):
    found = permissions_of_workers("--staging_location=gs://staged/x", "--template_location=gs://templates/x")
    assert [f.what.rpartition(" ")[2] for f in found] == [PROJECT + ".", "pictures.", "labels.", "staged."]
    assert found[3].what == f"{WORKER} has storage.objects.get in the bucket staged."


def test_permissions__account_that_is_not_there__are_left_out(google_stub):
    (finding,) = permissions_of_workers("--service_account_email=no@some-project")
    assert finding.level == "skipped" and google_stub.requests["/iam:troubleshoot"] == 0


def test_permissions__account_that_may_not_be_looked_at__are_asked_for_all_the_same(google_stub):
    google_stub.answers[f"/projects/-/serviceAccounts/{WORKER}"] = FORBIDDEN
    assert levels_of(permissions_of_workers()) == ["ok"] * 3


def test_sources__images_in_another_bucket__are_looked_at_once_the_input_was_read(gcs):
    gcs.put("gs://lists/l.txt", b"gs://photos/a.jpg\ngs://lists/b.jpg\n")
    gcs.put("gs://photos/a.jpg", b"")
    gcs.place("photos", "EUROPE-WEST4")
    case = cloud_case(input="gs://lists/l.txt", output="gs://lists/out")
    assert {f.what.partition(" ")[0] for f in find("buckets", case)} == {"lists"}
    for name in ("output", "input"):
        assert find_one(name, case)[0] == "ok"
    compared, allowed = find("sources", case)
    assert compared.level == "warning" and "photos (images) is in EUROPE-WEST4" in compared.what
    assert allowed.level == "ok"
    assert [n.resource.rpartition("/")[2] for n in needs_of(case)] == [PROJECT, "lists", "photos"]
    assert needs_of(case)[2].permissions == ("storage.objects.get",)


@pytest.mark.parametrize(
    ("name", "level"),
    [("permissions", "warning"), ("zones", "warning"), ("quota", "warning"), ("buckets", "error")],
)
def test_examine__no_answer_in_time__is_as_bad_as_what_could_not_be_told(google_stub, name, level):
    def dawdle(_):
        time.sleep(1)
        yield

    case = cloud_case()
    find("account", case)
    (check,) = (check for check in CHECKS if check.name == name)
    (finding,) = examine(dataclasses.replace(check, find=dawdle, limit_sec=0.05), case)
    assert finding.level == level and "no answer within" in finding.what


def test_permissions__no_account_known__are_left_out(google_stub):
    google_stub.answers[f"/projects/{PROJECT}"] = FORBIDDEN
    (finding,) = permissions_of_workers()
    assert finding.level == "skipped" and "the workers' account" in finding.what


# Images


@pytest.mark.parametrize(
    ("name", "level", "said"),
    [
        (f"{IMAGE}:1", "ok", "well named"),
        ("localhost:5000/a/b:1.2-x", "ok", "well named"),
        (f"gcr.io/p/labelbeam@sha256:{'0a' * 32}", "ok", "well named"),
        ("apache/beam_python3.11_sdk:2.77.0", "ok", "well named"),
        (IMAGE, "warning", "whatever was pushed last"),
        (f"{IMAGE}:latest", "warning", "whatever was pushed last"),
        ("gcr.io/Project/labelbeam:1", "error", "is no name of an image"),
        ("gcr.io/p/labelbeam:1:2", "error", "is no name of an image"),
        ("https://gcr.io/p/labelbeam:1", "error", "REGISTRY/PATH:TAG"),
        ("gcr.io/p/labelbeam@sha256:12", "error", "is no name of an image"),
        (f"{IMAGE}:", "error", "is no name of an image"),
    ],
)
def test_image__name__is_looked_at(name, level, said):
    found, told = find_one("image", case_of(*DATAFLOW, f"--sdk_container_image={name}"))
    assert found == level and said in told
    for docker in ((), ("--environment_type=DOCKER",)):  # which is what Beam takes if none is said
        flags = (f"--environment_config={name}", *docker, *FLINK_CLUSTER)
        assert find_one("image", case_of(*flags)) == (found, told)


def test_image__none_named_for_docker__is_an_error():
    level, told = find_one("image", case_of(*FLINK_CLUSTER))
    assert level == "error" and "would not have labelbeam" in told and "--environment_config=IMAGE" in told
    assert find("image", case_of(*FLINK_CLUSTER, "--environment_type=PROCESS")) == []
    assert find("image", case_of("--runner=FlinkRunner")) == []  # on this machine
    assert find_one("image", case_of("--runner=PrismRunner", "--environment_type=DOCKER"))[0] == "error"
    assert find("image", case_of("--environment_type=DOCKER")) == []  # which means nothing to it
    level, told = find_one("image", case_of(*FLINK_CLUSTER, f"--setup_file={FOLDER.parent}/setup.py"))
    assert level == "ok" and "workers install labelbeam when they start" in told


@pytest.mark.parametrize(
    ("flags", "level", "said"),
    [
        ((), "error", "workers would not have labelbeam"),
        (("--setup_file=./setup.py",), "ok", "--setup_file=./setup.py"),
        (("--setup_file=./nowhere.py",), "error", "Start from the repository's folder"),
        (("--setup_file=./setup.py", L4, G2), "warning", "no CUDA libraries"),
    ],
)
def test_image__none__what_workers_install_is_looked_at(flags, level, said, monkeypatch):
    monkeypatch.chdir(FOLDER.parent)
    found, told = find_one("image", case_of(*DATAFLOW, *flags))
    assert found == level and said in told
    assert find("image", case_of(*flags)) == []


VARIABLES = [f"PYTHON_VERSION={platform.python_version()}", "A=b=c"]


def test_versions__in_a_registry_of_google__are_compared(google_stub):
    fitting = {"Env": VARIABLES, "Labels": {"labelbeam.beam": apache_beam.__version__}}
    google_stub.images["some/images/labelbeam:1"] = fitting
    google_stub.images["some/images/labelbeam:old"] = {**fitting, "Labels": {"labelbeam.beam": "2.1.0"}}
    found = find("versions", cloud_case(f"--sdk_container_image={IMAGE}:1"))
    assert levels_of(found) == ["ok", "warning"]
    assert f"beam {apache_beam.__version__}" in found[0].what and "python 3." in found[0].what
    assert f"tensorflow {tf.__version__} could not be told" in found[1].what
    found = find("versions", cloud_case(f"--sdk_container_image={IMAGE}:old"))
    assert levels_of(found) == ["error", "warning"]
    assert f"has beam 2.1.0 (here {apache_beam.__version__})" in found[0].what
    level, told = find_one("versions", cloud_case(f"--sdk_container_image={IMAGE}:none"))
    assert level == "error" and f"there is no image {IMAGE}:none" in told


def test_versions__registry_refuses__are_a_warning(google_stub):
    google_stub.answers["/v2/some/images/labelbeam/manifests/1"] = FORBIDDEN
    level, told = find_one("versions", cloud_case(f"--sdk_container_image={IMAGE}:1"))
    assert level == "warning" and "could not be told (no access)" in told and "check_image.py" in told


def test_versions__told_by_the_name__are_compared_without_asking():
    own = case_of(*DATAFLOW, "--sdk_container_image=apache/beam_python3.7_sdk:2.40.0", offline=True)
    found = find("versions", own)
    assert levels_of(found) == ["error", "warning"]
    assert "python 3.7 (here 3." in found[0].what and "beam 2.40.0 (here" in found[0].what
    other = case_of(*DATAFLOW, "--sdk_container_image=registry.example/labelbeam:1", offline=True)
    assert levels_of(find("versions", other)) == ["warning"]
    google = case_of(*DATAFLOW, f"--sdk_container_image={IMAGE}:1", offline=True)
    assert levels_of(find("versions", google)) == ["skipped"]


def test_versions__labels__are_those_of_the_dockerfile():
    text = (FOLDER.parent / "Dockerfile").read_text("utf-8")
    assert set(re.findall(r"(labelbeam\.\w+)=", text)) == set(image._LABELS.values())


# The whole command


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """No model was downloaded before."""
    monkeypatch.setenv("LABELBEAM_CACHE_DIR", str(tmp_path / "cache"))


def report(capsys, *args: str) -> tuple[int, dict[str, list[str]], str]:
    """The exit status of the command, the levels by check, and all it printed."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        status = main(["doctor", *args])
    finally:
        signal.signal(signal.SIGTERM, handler)
    printed, errors = capsys.readouterr()
    assert errors == ""
    levels: dict[str, list[str]] = {}
    for line in printed.splitlines()[:-1]:
        if not line.startswith(" "):
            level, name, *_ = line.split()
            levels.setdefault(name, []).append(level)
    return status, levels, printed


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_doctor__every_run_config__has_no_error(path, hub, google_stub, gcs, capsys, monkeypatch):
    monkeypatch.chdir(FOLDER.parent)
    settings = yaml.safe_load(path.read_text("utf-8"))
    hub(settings["model"])
    gcs.put("gs://bucket/list.csv", b"uri,price\ngs://bucket/a.jpg,1.5\n")
    gcs.put("gs://bucket/a.jpg", jpeg_bytes())
    fitting = {"Env": VARIABLES, "Labels": {"labelbeam.beam": apache_beam.__version__}}
    google_stub.images["some/images/labelbeam:1"] = fitting
    flags = ["--input=gs://bucket/list.csv", "--output=gs://bucket/doctored", f"--config={path}"]
    if settings["beam"]["runner"] == "DataflowRunner":
        flags += [f"--project={PROJECT}", "--temp_location=gs://bucket/tmp"]
        flags += [f"--sdk_container_image={IMAGE}:1"]
    before = gcs.names("gs://bucket/")
    status, levels, printed = report(capsys, *flags)
    assert status == 0, printed
    assert {name for name, found in levels.items() if "error" in found or "skipped" in found} == set()
    assert {"options", "credentials", "buckets", "output", "input", "model", "table", "images"} <= set(levels)
    if settings["beam"]["runner"] == "DataflowRunner":
        workers = {"staging", "account", "permissions", "machines", "zones", "quota", "image", "versions"}
        assert {"project", *workers} <= set(levels)
        assert {"warning"} & set(levels["versions"])  # TensorFlow's
    assert "1 of the first 1 images labelled here" in printed
    assert gcs.names("gs://bucket/") == before


def test_doctor__images_in_a_bucket_that_workers_may_not_read__are_an_error(google_stub, gcs, capsys, tiny):
    gcs.put("gs://lists/l.txt", b"gs://pictures/a.jpg\n")
    gcs.put("gs://pictures/a.jpg", jpeg_bytes())
    google_stub.access[IN_BUCKET.format("pictures"), "storage.objects.get"] = "NOT_GRANTED"
    flags = [*DATAFLOW, "--setup_file=./setup.py", "--temp_location=gs://lists/tmp"]
    options = ["--input=gs://lists/l.txt", "--output=gs://lists/out", f"--model={tiny}"]
    status, levels, printed = report(capsys, *flags, *options)
    assert status == 1 and levels["images"] == ["ok"] and len(levels["sources"]) == 2, printed
    assert levels["permissions"] == ["ok", "ok", "error"]
    assert f"{WORKER} has no storage.objects.get in the bucket pictures." in printed


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_doctor__every_run_config_offline__asks_nobody(path, empty_cache, capsys, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a server was asked")

    monkeypatch.chdir(FOLDER.parent)
    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr(google.auth, "default", refuse)
    settings = yaml.safe_load(path.read_text("utf-8"))
    flags = ["--input=gs://bucket/list.csv", "--output=gs://bucket/out", f"--config={path}", "--offline"]
    if settings["beam"]["runner"] == "DataflowRunner":
        flags += [f"--project={PROJECT}", "--temp_location=gs://bucket/tmp"]
        flags += [f"--sdk_container_image={IMAGE}:1"]
    status, levels, printed = report(capsys, *flags)
    assert "options" in levels and levels["options"] == ["ok"]
    (left_out,) = (line for line in printed.splitlines() if "--offline was said" in line)
    names = set(left_out.removeprefix("skipped").partition(":")[0].strip().split(", "))
    assert names >= {"credentials", "output", "input", "model"}, printed
    assert levels["table"] == levels["images"] == ["skipped"], printed
    assert status == 0, printed


def test_doctor__no_network__says_so_of_each_server(gcs, capsys, monkeypatch, tmp_path, tiny):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:1")
    monkeypatch.setattr(google_api, "COMPUTE", "http://127.0.0.1:1")
    flags = [*DATAFLOW, G2, "--input=gs://b/l.txt", "--output=gs://b/out", f"--model={tiny}"]
    status, levels, printed = report(capsys, *flags, "--temp_location=gs://b/tmp")
    assert status == 1, printed
    assert (
        levels["buckets"] == ["error"] and levels["zones"] == ["warning"] and levels["account"] == ["warning"]
    )
    assert levels["input"] == levels["output"] == ["skipped"] and levels["model"] == ["ok"]
