"""The doctor on Google Cloud, against emulated APIs, and `labelbeam run` without a login."""

import dataclasses
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import apache_beam
import google.auth
import pytest
import yaml
from google.auth.exceptions import DefaultCredentialsError, RefreshError, TransportError

from labelbeam.pipeline.checks import google as google_checks
from labelbeam.pipeline.checks import workers
from labelbeam.pipeline.checks.findings import examine
from labelbeam.pipeline.checks.google import require_google_access
from labelbeam.pipeline.cli import main
from labelbeam.pipeline.commands.doctor import CHECKS
from labelbeam.transforms.errors import UserError
from tests.doctor import case_of, find, find_one, levels_of
from tests.engines.compute import PROJECT, REGION, WORKER, ComputeStub
from tests.synthetic import jpeg_bytes

ROOT = Path(__file__).parent.parent.parent
FILES = sorted((ROOT / "run_configs").glob("*.yaml"))
DATAFLOW = ("--runner=DataflowRunner", f"--project={PROJECT}", f"--region={REGION}")
FLINK_CLUSTER = ("--runner=FlinkRunner", "--flink_master=far:8081")
G2 = "--machine_type=g2-standard-8"
L4 = "--dataflow_service_options=worker_accelerator=type:nvidia-l4;count:1;install-nvidia-driver"
IMAGE = "us-docker.pkg.dev/some/images/labelbeam"
FORBIDDEN = (403, {"error": {"code": 403, "message": "no access"}})
VERSIONS = {
    "labelbeam.beam": apache_beam.__version__,
    "labelbeam.python": ".".join(platform.python_version_tuple()[:2]),
}
NO_LOGIN = "there are no working credentials for Google Cloud: "
LOG_IN = "Run gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS to a key file."
BUCKET = "/storage/v1/b/some"
CLOSED = "http://127.0.0.1:1"


@pytest.fixture
def google_stub(gcs, monkeypatch):
    """Compute Engine, IAM and a registry, which accept the emulator's credentials."""
    with ComputeStub() as stub:
        for name in ("COMPUTE", "IAM", "TROUBLESHOOTER"):
            monkeypatch.setattr(google_checks, name, stub.url)
        monkeypatch.setattr(workers, "_REGISTRY", stub.url)
        yield stub


def cloud_case(*flags: str, **options):
    """Return a planned Dataflow job with credentials, project and region."""
    case = case_of(*DATAFLOW, "--temp_location=gs://labels/tmp", *flags, **options)
    assert levels_of(find("credentials", case) + find("project", case)) == ["ok", "ok"]
    return case


# Credentials and project


class Stale:
    """Credentials without a token."""

    valid, universe_domain = False, "googleapis.com"

    def __init__(self, raised: Exception | None) -> None:
        self._raised = raised

    def refresh(self, _) -> None:
        if self._raised:
            raise self._raised


def refuse(**_):
    raise DefaultCredentialsError("no login was found. And so on\nsee the page")


@pytest.mark.parametrize(
    ("flags", "options", "level"),
    [
        (DATAFLOW, {}, "error"),
        ((), {"output": "gs://b/out"}, "error"),
        ((), {"input": "gs://b/list.txt"}, "warning"),
    ],
)
def test_credentials__none__are_an_error_where_something_is_written(monkeypatch, flags, options, level):
    monkeypatch.setattr(google.auth, "default", refuse)
    case = case_of(*flags, **options)
    actual, text = find_one("credentials", case)
    assert actual == level and text == f"{NO_LOGIN}no login was found. {LOG_IN}" and case.credentials is None
    skipped = find("buckets", case) + find("machines", case)
    assert skipped and set(levels_of(skipped)) == {"skipped"}
    assert find("credentials", case_of()) == []


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (RefreshError("expired"), f"{NO_LOGIN}expired. {LOG_IN}"),
        (TransportError("no route"), f"{NO_LOGIN}no route. Check the network."),
        (None, "the credentials work (a user account). "),
    ],
)
def test_credentials__without_a_token__get_one(monkeypatch, raised, expected):
    monkeypatch.setattr(google.auth, "default", lambda **_: (Stale(raised), None))
    case = case_of(*DATAFLOW)
    assert find_one("credentials", case) == ("error" if raised else "ok", expected)
    assert bool(case.credentials) == (raised is None)


def test_credentials__impersonated__are_those_of_the_last_account(monkeypatch):
    monkeypatch.setattr(google.auth, "default", lambda **_: (Stale(None), None))
    monkeypatch.setattr(google_checks.impersonated_credentials.Credentials, "refresh", lambda *_: None)
    case = case_of(*DATAFLOW, "--impersonate_service_account=a@x,b@x")
    assert find_one("credentials", case) == ("ok", "the credentials work (b@x). ")
    assert case.credentials._delegates == ["a@x"]


def test_project__missing__is_an_error_with_the_default(monkeypatch, gcs):
    monkeypatch.delenv("CLOUDSDK_COMPUTE_REGION", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")  # no gcloud with a default region
    case = case_of("--runner=DataflowRunner", "--temp_location=gs://bucket/tmp")
    assert levels_of(find("credentials", case)) == ["ok"]
    project, region = find("project", case)
    assert (project.level, project.remedy) == ("error", "Set --project=test.")
    assert (region.level, region.text) == ("error", "--region is missing.")
    assert find_one("machines", case)[0] == "skipped"


def test_project__without_temp_location__is_a_warning():
    for flags in (), ("--temp_location=/tmp",), ("--temp_location=gs://bucket",):
        findings = find("project", case_of(*DATAFLOW, *flags))
        assert levels_of(findings) == ["ok", "warning"] and "so Beam makes a bucket" in findings[1].text
    case = case_of(*DATAFLOW, "--staging_location=gs://bucket/x")
    assert find_one("project", case) == ("ok", f"the job runs in project {PROJECT}, region {REGION}. ")


# Buckets


@pytest.mark.parametrize(
    ("location", "kind", "regions", "level"),
    [
        ("US-CENTRAL1", "region", None, "ok"),
        ("US-EAST1", "region", None, "warning"),
        ("EU", "multi-region", None, "ok"),
        ("US", "dual-region", ["US-CENTRAL1", "US-WEST1"], "ok"),
        ("US", "dual-region", ["US-EAST1", "US-WEST1"], "warning"),
    ],
)
def test_buckets__location__is_compared_with_the_job(
    google_stub, monkeypatch, location, kind, regions, level
):
    bucket = {"location": location, "locationType": kind}
    google_stub.answers[BUCKET] = 200, bucket | {"customPlacementConfig": {"dataLocations": regions}}
    case = cloud_case("--temp_location=gs://some/tmp", input="gs://some/l.txt", output="gs://some/out")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", google_stub.url)
    actual, text = find_one("buckets", case)
    assert actual == level and f"some (input, output, temp_location) is in {location}" in text
    assert ("not in us-central1: traffic is slower, and billed" in text) == (level == "warning")
    assert case.buckets == {"some"}


def test_buckets__unreachable__are_an_error_and_others_are_checked(gcs, google_stub, monkeypatch):
    gcs.put("gs://labels/here", b"")
    case = cloud_case(input="gs://nosuch/l.txt", output="gs://labels/out")
    findings = find("buckets", case)
    assert levels_of(findings) == ["error", "ok"] and "no bucket nosuch (input)" in findings[0].text
    assert case.buckets == {"labels"} and find_one("input", case)[0] == "skipped"
    google_stub.answers[BUCKET] = FORBIDDEN
    case = cloud_case("--temp_location=gs://some/tmp", input="gs://some/l.txt", output="gs://some/out")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", google_stub.url)
    level, text = find_one("buckets", case)
    assert level == "warning" and "could not be checked" in text and case.buckets == {"some"}


def test_sources__images_in_another_bucket__are_checked_after_the_input_was_read(gcs):
    gcs.put("gs://labels/l.txt", b"gs://photos/a.jpg\ngs://labels/b.jpg\n")
    gcs.put("gs://photos/a.jpg", b"")
    case = cloud_case(input="gs://labels/l.txt", output="gs://labels/out")
    assert find_one("buckets", case)[1].startswith("labels (input, output, temp_location) is in US")
    assert find_one("output", case)[0] == find_one("input", case)[0] == "ok"
    assert find_one("sources", case) == ("ok", "photos (images) is in US. ")
    assert find("sources", case) == []


# The workers' account


def test_account__default_or_given__may_be_used(google_stub):
    assert find_one("account", cloud_case()) == ("ok", f"workers run as {WORKER}, which you may use. ")
    google_stub.accounts["own@some-project"] = {}
    level, text = find_one("account", cloud_case("--service_account_email=own@some-project"))
    assert level == "ok" and "workers run as own@some-project" in text


def test_account__unusable__is_an_error(google_stub):
    def expect(text: str, *flags: str) -> None:
        level, actual = find_one("account", cloud_case(*flags))
        assert level == "error" and text in actual

    expect("there is no account no@some-project", "--service_account_email=no@some-project")
    google_stub.may_act = False
    expect("Get roles/iam.serviceAccountUser on it.")
    google_stub.accounts[WORKER] = {"disabled": True}
    expect("is disabled")
    google_stub.answers[f"/projects/{PROJECT}"] = (200, {})
    expect("no default service account")


IN_PROJECT = f"//cloudresourcemanager.googleapis.com/projects/{PROJECT}"
IN_BUCKET = "//storage.googleapis.com/projects/_/buckets/"


def permissions_of_workers(*flags: str):
    case = cloud_case(*flags, input="gs://pictures/l.txt", output="gs://labels/out")
    find("account", case)
    return find("permissions", case)


def test_permissions__all_granted__are_ok_for_the_project_and_each_bucket(google_stub):
    findings = permissions_of_workers(
        "--staging_location=gs://staged/x", "--template_location=gs://templates/x"
    )
    assert levels_of(findings) == ["ok"] * 4
    places = [f"project {PROJECT}.", "bucket pictures.", "bucket labels.", "bucket staged."]
    assert [f.text.rpartition(" on the ")[2] for f in findings] == places
    assert findings[1].text.startswith(f"{WORKER} has storage.objects.get, storage.objects.list on")
    assert findings[3].text.startswith(f"{WORKER} has storage.objects.get on")
    assert google_stub.requests["/iam:troubleshoot"] == 1 + 2 + 4 + 1


@pytest.mark.parametrize(
    ("resource", "permission", "where", "role"),
    [
        (IN_PROJECT, "dataflow.workItems.lease", f"the project {PROJECT}", "dataflow.worker"),
        (f"{IN_BUCKET}pictures", "storage.objects.list", "the bucket pictures", "storage.objectViewer"),
        (f"{IN_BUCKET}labels", "storage.objects.create", "the bucket labels", "storage.objectUser"),
    ],
)
def test_permissions__one_missing__is_an_error_with_the_role(google_stub, resource, permission, where, role):
    google_stub.access[resource, permission] = "NOT_GRANTED"
    (wrong,) = (f for f in permissions_of_workers() if f.level != "ok")
    assert (wrong.level, wrong.text) == ("error", f"{WORKER} lacks {permission} on {where}.")
    assert wrong.remedy == f"Grant roles/{role} to the account."
    google_stub.access[resource, permission] = "UNKNOWN_CONDITIONAL"
    (doubt,) = (f for f in permissions_of_workers() if f.level != "ok")
    assert doubt.level == "warning" and f"{permission} (UNKNOWN_CONDITIONAL)" in doubt.text


def test_permissions__not_answered__are_one_warning(google_stub):
    google_stub.answers[f"/projects/-/serviceAccounts/{WORKER}"] = FORBIDDEN
    assert levels_of(permissions_of_workers()) == ["ok"] * 3
    google_stub.answers["/iam:troubleshoot"] = FORBIDDEN
    google_stub.requests.clear()
    (finding,) = permissions_of_workers()
    assert finding.level == "warning" and "Enable the API in the project" in finding.remedy
    assert google_stub.requests["/iam:troubleshoot"] == 1


def test_permissions__account_unknown__are_skipped(google_stub):
    missing = permissions_of_workers("--service_account_email=no@some-project")
    google_stub.answers[f"/projects/{PROJECT}"] = FORBIDDEN
    for finding in missing + permissions_of_workers():
        assert finding.level == "skipped" and "the workers' account" in finding.text
    assert google_stub.requests["/iam:troubleshoot"] == 0


# Workers


@pytest.mark.parametrize(
    ("flags", "levels", "expected"),
    [
        ((G2, L4), ["ok"], "workers are g2-standard-8 with 1 x nvidia-l4"),
        ((G2, "--resource_hints=accelerator=type:nvidia-l4;count:1;install-nvidia-driver"), ["ok"], "g2-"),
        (("--machine_type=n1-standard-8", L4.replace("l4", "tesla-t4")), ["ok"], "with 1 x nvidia-tesla-t4"),
        (("--machine_type=n2-standard-4",), ["ok"], "workers are n2-standard-4"),
        ((), ["ok"], "a machine type of Dataflow's choice"),
        ((G2,), ["warning"], "has 1 x nvidia-l4, which is billed, and the options ask for none"),
        ((G2, L4.replace("count:1", "count:2")), ["error"], "has 1 x nvidia-l4, .* ask for 2 x nvidia-l4"),
        ((G2, L4.replace("l4", "tesla-t4")), ["error"], "ask for 1 x nvidia-tesla-t4"),
        (("--machine_type=n1-standard-8", L4.replace("count:1", "count:9")), ["error"], "the limit of 8"),
        ((L4,), ["warning"], "--machine_type is missing, and workers need nvidia-l4"),
        ((G2, L4.replace(";install-nvidia-driver", "")), ["warning", "ok"], "NVIDIA's driver is missing"),
        ((G2, L4.replace("count:1", "count:one")), ["error"], "names no accelerator"),
        ((G2, L4.replace("count:1", "count:0")), ["error"], "names no accelerator"),
        ((G2, L4.replace("type:", "kind:")), ["error"], "names no accelerator"),
        (("--region=asia-east1", G2), ["error"], "not available in asia-east1. .* europe-west4, us-central1"),
        ((G2, L4, f"--worker_zone={REGION}-b"), ["error"], f"nvidia-l4 is not available in {REGION}-b"),
        ((G2, L4, "--worker_region=europe-west1"), ["error"], "is not available in europe-west1"),
        (("--machine_type=n9-standard-8",), ["error"], "Regions that have it: none"),
    ],
)
def test_machines__combination__is_compared_with_compute_engine(google_stub, flags, levels, expected):
    findings = find("machines", cloud_case(*flags))
    assert levels_of(findings) == levels
    assert re.search(expected, f"{findings[0].text} {findings[0].remedy}")


def test_machines__zones__are_those_that_have_both(google_stub):
    case = cloud_case(G2, L4)
    assert find("machines", case)[0].details == (f"zones: {REGION}-a",)
    assert case.worker_cores == {"g2-standard-8": 8}
    assert google_stub.requests[f"/projects/{PROJECT}/aggregated/machineTypes"] == 3  # a page for each zone
    google_stub.zones["machineTypes"] = {"g2-standard-8": [f"{REGION}-b"]}
    level, text = find_one("machines", case)
    assert level == "error" and "no zone of the region has both g2-standard-8 and nvidia-l4" in text


def test_machines__split_layout__has_two_kinds_of_workers(google_stub):
    hint = "type:nvidia-l4;count:1;machine_type:g2-standard-8;install-nvidia-driver"
    case = cloud_case("--machine_type=n2-standard-8", layout="split", accelerator_hint=hint)
    texts = [f.text for f in find("machines", case)]
    assert texts == ["workers are n2-standard-8.", "workers are g2-standard-8 with 1 x nvidia-l4."]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (FORBIDDEN, "no access. Enable the API in the project, or get roles/compute.viewer"),
        ((404, {"error": {"message": "not found"}}), "Check --project, --region"),
        ((500, "no JSON object"), "Internal Server Error"),
        (None, "Check the network"),
    ],
)
def test_machines_and_quota__not_answered__are_warnings(google_stub, monkeypatch, answer, expected):
    case = cloud_case(G2, "--max_num_workers=2")
    if answer:
        google_stub.answers[f"/projects/{PROJECT}/aggregated/machineTypes"] = answer
        google_stub.answers[f"/projects/{PROJECT}/regions/{REGION}"] = answer
    else:
        monkeypatch.setattr(google_checks, "COMPUTE", CLOSED)
    for name in ("machines", "quota"):
        level, text = find_one(name, case)
        assert level == "warning" and "could not be checked: " in text and expected in text


def quota_lines(*flags: str) -> dict[str, tuple[str, str]]:
    case = cloud_case(*flags)
    find("machines", case)
    return {f.text.split(":")[0]: (f.level.value, f.text) for f in find("quota", case)}


def test_quota__enough__is_ok_for_each(google_stub):
    lines = quota_lines(G2, L4, "--max_num_workers=20")
    assert {level for level, _ in lines.values()} == {"ok"}
    assert set(lines) == {"G2_CPUS", "IN_USE_ADDRESSES", "NVIDIA_L4_GPUS", "GPUS_ALL_REGIONS"}
    assert "a worker uses 8: enough for 20 workers" in lines["G2_CPUS"][1]
    t4 = L4.replace("l4", "tesla-t4")
    del google_stub.quotas["NVIDIA_A100_GPUS"]
    assert "Compute Engine lists no quota NVIDIA_A100_GPUS in us-central1." in quota_lines(
        "--machine_type=a2-highgpu-1g", L4.replace("l4", "tesla-a100")
    )
    assert {"CPUS", "NVIDIA_T4_GPUS"} < set(quota_lines("--machine_type=n1-standard-8", t4))


def test_quota__for_some_or_none__is_a_warning_or_an_error(google_stub):
    google_stub.quotas |= {"NVIDIA_L4_GPUS": (8.0, 3.0), "G2_CPUS": (4.0, 0.0)}
    google_stub.project_quotas = {"GPUS_ALL_REGIONS": (0.0, 0.0)}
    lines = quota_lines(G2, L4, "--max_num_workers=20")
    gpus, cores = lines["NVIDIA_L4_GPUS"], lines["G2_CPUS"]
    assert gpus[0] == "warning" and "5 of 8 are free" in gpus[1] and "5 of 20 workers can start" in gpus[1]
    assert cores[0] == "error" and "no worker can start" in cores[1]
    assert lines["GPUS_ALL_REGIONS"][0] == "error"


def test_quota__without_public_addresses_or_limit__is_a_warning(google_stub):
    lines = quota_lines("--machine_type=n2-standard-4", "--no_use_public_ips")
    assert set(lines) == {"--max_num_workers is missing, so the cost has no limit.", "N2_CPUS"}
    assert "1,000 of 1,000 are free, and a worker uses 4: enough for 250 workers" in lines["N2_CPUS"][1]


def test_container__none__is_an_error_unless_workers_install_labelbeam():
    for flags, option in ((DATAFLOW, "--sdk_container_image"), (FLINK_CLUSTER, "--environment_config=IMAGE")):
        level, text = find_one("container", case_of(*flags))
        assert level == "error" and "which has no labelbeam" in text and option in text
        level, text = find_one("container", case_of(*flags, "--setup_file=./setup.py"))
        assert level == "ok" and "workers install labelbeam" in text
    assert find("container", case_of(*FLINK_CLUSTER, "--environment_type=PROCESS")) == []
    assert find("container", case_of("--setup_file=./setup.py")) == []


def container(image: str) -> tuple[list[str], str]:
    findings = find("container", cloud_case(f"--sdk_container_image={image}"))
    return levels_of(findings), f"{findings[-1].text} {findings[-1].remedy}"


def test_container__in_a_registry_of_google__has_its_versions_compared(google_stub):
    images = {"1": VERSIONS, "old": {**VERSIONS, "labelbeam.beam": "2.1.0"}, "bare": {}}
    google_stub.images = {f"some/images/labelbeam:{tag}": {"Labels": images[tag]} for tag in images}
    assert container(f"{IMAGE}:1")[0] == ["ok", "ok"]
    levels, text = container(f"{IMAGE}:old")
    assert levels == ["ok", "error"]
    assert f"has labelbeam.beam 2.1.0, and this machine {apache_beam.__version__}" in text
    assert container(f"{IMAGE}:bare")[0] == ["error", "error"]
    levels, text = container(f"{IMAGE}:none")
    assert levels == ["error"] and f"there is no image {IMAGE}:none" in text


def test_container__unreadable__is_a_warning(google_stub):
    google_stub.answers["/v2/some/images/labelbeam/manifests/1"] = FORBIDDEN
    levels, text = container(f"{IMAGE}:1")
    assert levels == ["warning"] and "no access. Run python deploy/check_image.py" in text
    for image in ("registry.example/labelbeam:1", "notgcr.io/p/labelbeam:1"):
        levels, text = container(image)
        assert levels == ["warning"] and "its registry is not Google's" in text
    assert google_stub.requests["/v2/p/labelbeam/manifests/1"] == 0


def test_container__labels__are_those_of_the_dockerfile():
    text = (ROOT / "Dockerfile").read_text("utf-8")
    assert set(re.findall(r"(labelbeam\.\w+)=", text)) == set(VERSIONS)


# The whole command


@pytest.mark.parametrize(
    ("name", "level"),
    [("permissions", "warning"), ("machines", "warning"), ("quota", "warning"), ("buckets", "error")],
)
def test_examine__no_answer_in_time__has_the_level_of_the_check(google_stub, name, level):
    def dawdle(_):
        time.sleep(1)
        yield

    case = cloud_case()
    find("account", case)
    (check,) = (check for check in CHECKS if check.name == name)
    (finding,) = examine(dataclasses.replace(check, find=dawdle, limit_sec=0.05), case)
    assert finding.level == level and "no answer within" in finding.text


def report(capsys, path: Path, *args: str) -> tuple[int, dict[str, list[str]], str]:
    """Run the doctor; return exit status, levels by check, and output."""
    flags = [f"--config={path}"]
    if yaml.safe_load(path.read_text("utf-8"))["beam"]["runner"] == "DataflowRunner":
        flags += [
            f"--project={PROJECT}",
            "--temp_location=gs://lists/tmp",
            f"--sdk_container_image={IMAGE}:1",
        ]
    handler = signal.getsignal(signal.SIGTERM)
    try:
        status = main(["doctor", "--input=gs://lists/l.csv", "--output=gs://lists/out", *flags, *args])
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
    monkeypatch.chdir(ROOT)
    hub(yaml.safe_load(path.read_text("utf-8"))["model"])
    gcs.put("gs://lists/l.csv", b"uri,price\ngs://pictures/a.jpg,1.5\n")
    gcs.put("gs://pictures/a.jpg", jpeg_bytes())
    google_stub.images["some/images/labelbeam:1"] = {"Labels": VERSIONS}
    status, levels, printed = report(capsys, path)
    assert status == 0, printed
    assert {name for name, one in levels.items() if {"error", "skipped"} & set(one)} == set()
    assert {"options", "credentials", "buckets", "output", "input", "model", "table", "images"} <= set(levels)
    if "project" in levels:
        cloud = {"sources", "account", "permissions", "machines", "quota", "container"}
        assert cloud <= set(levels) and levels["permissions"] == ["ok"] * 3
    assert "1 of the first 1 images were labelled" in printed
    assert gcs.names("gs://lists/") == ["l.csv"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_doctor__every_run_config_offline__sends_no_request(path, tmp_path, capsys, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a request was sent")

    monkeypatch.setenv("LABELBEAM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr(google.auth, "default", refuse)
    status, levels, printed = report(capsys, path, "--offline")
    assert status == 0 and levels["options"] == ["ok"], printed
    (line,) = (line for line in printed.splitlines() if "--offline is set" in line)
    names = set(line.removeprefix("skipped").partition(":")[0].strip().split(", "))
    assert names >= {"credentials", "output", "input", "model"}, printed
    assert levels["table"] == levels["images"] == ["skipped"], printed


def test_doctor__no_network__reports_each_server(gcs, capsys, monkeypatch, tiny):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", CLOSED)
    monkeypatch.setattr(google_checks, "COMPUTE", CLOSED)
    path = ROOT / "run_configs" / "dataflow-gpu.yaml"
    status, levels, printed = report(capsys, path, f"--model={tiny}", "--sdk_container_image=some/image:1")
    assert status == 1, printed
    assert levels["buckets"] == ["error"]
    assert levels["machines"] == levels["account"] == ["warning"]
    assert levels["input"] == levels["output"] == ["skipped"]


# A run without a login


def test_require_google_access__login_and_buckets__are_required_on_dataflow_alone(gcs, monkeypatch):
    def require(*flags: str, **options) -> None:
        case = case_of(*flags, **options)
        require_google_access(case.config, case.options)

    gcs.put("gs://labels/here", b"")
    require(*DATAFLOW, input="gs://labels/l.txt", output="gs://labels/out")
    with pytest.raises(UserError, match=r"^There is no bucket nosuch \(input\)\. Check its name"):
        require(*DATAFLOW, input="gs://nosuch/l.txt", output="gs://labels/out")
    monkeypatch.setattr(google.auth, "default", refuse)
    require()
    with pytest.raises(UserError, match="^There are no working credentials .* Run gcloud auth"):
        require(*DATAFLOW, input="gs://labels/l.txt", output="gs://labels/out")


def test_run__no_login_and_a_silent_metadata_server__is_one_line_in_seconds(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        env = {k: v for k, v in os.environ.items() if not k.startswith(("GOOGLE_", "STORAGE_"))}
        env |= {"GCE_METADATA_IP": f"127.0.0.1:{silent.getsockname()[1]}"}
        env |= {"HOME": str(tmp_path), "CLOUDSDK_CONFIG": str(tmp_path)}
        command = [sys.executable, "-m", "labelbeam", "run", *DATAFLOW, "--temp_location=gs://b/tmp"]
        command += ["--input=gs://b/l.csv", "--output=gs://b/out", "--model=efficientnet-b0"]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    text = f"{NO_LOGIN}Your default credentials were not found. {LOG_IN}"
    assert done.stderr == f"labelbeam: T{text[1:]}\n"
