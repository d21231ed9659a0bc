"""The doctor on Google Cloud, against emulated APIs, and `labelbeam run` without a login."""

import os
import platform
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import apache_beam
import google.auth
import pytest
import yaml
from google.auth.exceptions import DefaultCredentialsError, RefreshError, TransportError

from labelbeam.pipeline.checks import google as google_checks
from labelbeam.pipeline.checks import workers
from labelbeam.pipeline.checks.google import require_google_access
from labelbeam.pipeline.cli import main
from labelbeam.transforms.errors import UserError
from tests.doctor import case_of, find, find_one, levels_of
from tests.engines.compute import PROJECT, REGION, ComputeStub
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
    """Compute Engine and a registry, which accept the emulator's credentials."""
    with ComputeStub() as stub:
        monkeypatch.setattr(workers, "COMPUTE", stub.url)
        monkeypatch.setattr(workers, "_REGISTRY", stub.url)
        yield stub


def cloud_case(*flags: str, **options):
    """Return a planned Dataflow job with credentials, project and region."""
    case = case_of(*DATAFLOW, "--temp_location=gs://labels/tmp", "--max_num_workers=2", *flags, **options)
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


# Workers


@pytest.mark.parametrize(
    ("flags", "levels", "expected"),
    [
        ((G2, L4), ["ok"], "workers are g2-standard-8 with 1 x nvidia-l4"),
        ((G2, "--resource_hints=accelerator=type:nvidia-l4;count:1;install-nvidia-driver"), ["ok"], "g2-"),
        (("--machine_type=n1-standard-8", L4.replace("l4", "tesla-t4")), ["ok"], "with 1 x nvidia-tesla-t4"),
        (("--machine_type=n2-standard-4",), ["ok"], "workers are n2-standard-4"),
        ((), ["ok"], "a machine type of Dataflow's choice"),
        ((G2,), ["warning"], "has 1 x nvidia-l4, which is billed, and the options request none"),
        ((G2, L4.replace("count:1", "count:2")), ["error"], "has 1 x nvidia-l4, .* request 2 x nvidia-l4"),
        ((G2, L4.replace("l4", "tesla-t4")), ["error"], "request 1 x nvidia-tesla-t4"),
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
        (("--max_num_workers=0",), ["warning", "ok"], "is missing, so the cost has no limit"),
    ],
)
def test_machines__combination__is_compared_with_compute_engine(google_stub, flags, levels, expected):
    findings = find("machines", cloud_case(*flags))
    assert levels_of(findings) == levels
    assert re.search(expected, f"{findings[0].text} {findings[0].remedy}")


def test_machines__zones__are_those_that_have_both(google_stub):
    case = cloud_case(G2, L4)
    assert find("machines", case)[0].details == (f"zones: {REGION}-a",)
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
def test_machines__not_answered__are_a_warning(google_stub, monkeypatch, answer, expected):
    if answer:
        google_stub.answers[f"/projects/{PROJECT}/aggregated/machineTypes"] = answer
    else:
        monkeypatch.setattr(workers, "COMPUTE", CLOSED)
    level, text = find_one("machines", cloud_case(G2))
    assert level == "warning" and "could not be checked: " in text and expected in text


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
    assert levels == ["warning"] and "no access. Check that Python and Beam have" in text
    for image in ("registry.example/labelbeam:1", "notgcr.io/p/labelbeam:1"):
        levels, text = container(image)
        assert levels == ["warning"] and "its registry is not Google's" in text
    assert google_stub.requests["/v2/p/labelbeam/manifests/1"] == 0


def test_container__labels__are_those_of_the_dockerfile():
    text = (ROOT / "Dockerfile").read_text("utf-8")
    assert set(re.findall(r"(labelbeam\.\w+)=", text)) == set(VERSIONS)


# The whole command


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
        assert {"sources", "machines", "container"} <= set(levels)
    assert "the only image was labelled" in printed
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
    monkeypatch.setattr(workers, "COMPUTE", CLOSED)
    path = ROOT / "run_configs" / "dataflow-gpu.yaml"
    status, levels, printed = report(capsys, path, f"--model={tiny}", "--sdk_container_image=some/image:1")
    assert status == 1, printed
    assert levels["buckets"] == ["error"]
    assert levels["machines"] == ["warning"]
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
