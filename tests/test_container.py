"""The container images and the template, as far as tests can check them without a build."""

import json
import os
import platform
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from deploy.launch import arguments_of
from deploy.template_metadata import metadata
from labelbeam.pipeline.config import OPTIONS_BY_HEADING, RUN_OPTIONS, load_config

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("file", ["Dockerfile", "deploy/launcher.Dockerfile"])
def test_dockerfile__linted__has_no_findings(file):
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, file], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_dockerfile__versions__are_those_of_this_environment():
    args = dict(re.findall(r"^ARG (\w+)=(.*)$", (ROOT / "Dockerfile").read_text(), re.M))
    python = ".".join(platform.python_version_tuple()[:2])
    assert (args["PYTHON_VERSION"], args["BEAM_VERSION"]) == (python, version("apache-beam"))
    assert args["TENSORFLOW_VERSION"] == version("tensorflow")
    assert args["PYTHON_TAG"].startswith(f"{python}.")
    assert args["MODEL"] == ""


def test_dockerfile__files_it_copies__are_not_ignored():
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for file in ("Dockerfile", "deploy/launcher.Dockerfile"):
        for sources in re.findall(r"^COPY (?!--from)(.*) \S+$", (ROOT / file).read_text(), re.M):
            for source in sources.split():
                assert (ROOT / source).exists() and source.split("/")[0] in kept


def test_cloudbuild__every_step__uses_what_is_there():
    build = yaml.safe_load((ROOT / "deploy/cloudbuild.yaml").read_text())
    text = json.dumps(build)
    used = set(re.findall(r"\$(_[A-Z]+)", text))
    assert used == {"_IMAGE", *build["substitutions"]}
    for path in re.findall(r"deploy/[\w.]+", text.replace("/workspace/", "")):
        assert (ROOT / path).is_file()
    mounts = re.findall(r"--volume /workspace/(\S+):/(\S+)", text)
    assert mounts and all(source == target and (ROOT / source).is_dir() for source, target in mounts)


def test_cloudbuild__builders__are_of_a_version():
    build = yaml.safe_load((ROOT / "deploy/cloudbuild.yaml").read_text())
    assert all(re.search(r":\d+\.\d+\.\d+(-|$)", step["name"]) for step in build["steps"])


@pytest.mark.parametrize("file", ["docs/running.md", "deploy/cloudbuild.yaml"])
def test_cloudbuild__documented_command__gives_what_has_no_default(file):
    build = yaml.safe_load((ROOT / "deploy/cloudbuild.yaml").read_text())
    used = set(re.findall(r"\$(_[A-Z]+)", json.dumps(build)))
    commands = re.findall(r"gcloud builds submit .*--substitutions[= \\#\n]+(\S+)", (ROOT / file).read_text())
    assert commands
    for command in commands:
        substitutions = set(re.findall(r"(_[A-Z]+)=", command))
        assert used - build["substitutions"].keys() <= substitutions <= used


@pytest.mark.parametrize(("template", "status"), [("", 0), ("gs://bucket/template.json", 7)])
def test_cloudbuild__template__is_built_if_asked_for(tmp_path, template, status):
    build = yaml.safe_load((ROOT / "deploy/cloudbuild.yaml").read_text())
    (step,) = [step for step in build["steps"] if step["id"] == "template"]
    gcloud = tmp_path / "gcloud"
    gcloud.write_text('#!/bin/bash\necho "$@"\nexit 7\n')
    gcloud.chmod(0o755)
    script = step["args"][-1].replace("$_TEMPLATE", template).replace("$_IMAGE", "image:1")
    command = [step["entrypoint"], *step["args"][:-1], script]
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(command, env={"PATH": path}, capture_output=True, text=True)
    assert done.returncode == status
    assert (f"build {template} --image=image:1-launcher" in done.stdout) == bool(template)


VALUES = {
    "input": "gs://bucket/list.csv",
    "output": "gs://bucket/labels",
    "batch_size": "auto",
    "input_range": "-1,1",
    "max_failure_rates": "timeout=0.01,not_found=0.2",
    "http_header": "X-Api-Key=$KEY,Accept=image/webp,image/*",
    "user_agent": "me/1 (me@example.org)",
    "allow_hosts": "img.lan,*.corp.example,10.1.0.0/16,::1",
    "require_accelerator": "true",
    "stage_sec": "2.5",
    "uri_template": "gs://{bucket}/{name}",
    "header": "bucket,key,size",
    "delimiter": "tab",
    "model": "efficientnet-b7",
}
NOT_ALLOWED = {
    "input": "list.csv",
    "output": "gs://",
    "batch_size": "large",
    "top_k": "-1",
    "resize": "crop",
    "require_accelerator": "yes",
    "stage_sec": "soon",
    "max_failure_rates": "timeout",
    "http_header": "X-Api-Key",
    "user_agent": "a\nb",
    "allow_hosts": "a,,b",
    "secret_params": "a=b",
    "delimiter": ", ",
    "calibration": "calibration.json",
    "model": "",
}


def test_metadata__parameters__are_the_options_and_take_what_these_take():
    parameters = {p["name"]: p for p in metadata()["parameters"]}
    launching = OPTIONS_BY_HEADING["launching"]
    options = {name: option for name, option in RUN_OPTIONS.items() if name not in launching}
    assert parameters.keys() == options.keys()
    assert {name for name, p in parameters.items() if not p["isOptional"]} == {"input", "output", "model"}
    load_config(None, VALUES)

    def takes(name: str, value: str) -> bool:
        return all(re.search(regex, value) for regex in parameters[name]["regexes"])

    assert [name for name, value in VALUES.items() if not takes(name, value)] == []
    assert [name for name, value in NOT_ALLOWED.items() if takes(name, value)] == []
    several = '["gs://bucket/a, b.csv", "https://host/list.txt", "bigquery:SELECT 1"]'
    assert takes("input", several) and not takes("input", '["list.csv"]') and not takes("input", "-")
    assert list(arguments_of([f"--input={several}", "--top_k=[1]"])) == [
        "--input=gs://bucket/a, b.csv",
        "--input=https://host/list.txt",
        "--input=bigquery:SELECT 1",
        "--top_k=[1]",
    ]
    for name, option in options.items():
        if isinstance(option.default, (int, float, str)) and option.default != "":
            assert takes(name, str(option.default)), name


def test_flink_manifest__its_parts__fit_each_other_the_dockerfile_and_the_run_config():
    manifest = yaml.safe_load((ROOT / "deploy" / "flink-kubernetes.yaml").read_text("utf-8"))
    spec = manifest["spec"]
    main, workers = spec["taskManager"]["podTemplate"]["spec"]["containers"]
    beam = yaml.safe_load((ROOT / "run_configs" / "flink.yaml").read_text("utf-8"))["beam"]
    assert (manifest["kind"], main["name"]) == ("FlinkDeployment", "flink-main-container")
    assert spec["flinkVersion"] == "v" + beam["flink_version"].replace(".", "_")
    assert spec["image"].startswith(f"flink:{beam['flink_version']}.")
    assert spec["taskManager"]["replicas"] > beam["parallelism"]
    # A pool serves one task manager, which has one slot; with --worker_pool, boot listens on 50000.
    assert spec["flinkConfiguration"]["taskmanager.numberOfTaskSlots"] == "1"
    assert workers["args"] == ["--worker_pool"] and workers["ports"] == [{"containerPort": 50000}]
    assert 'ENTRYPOINT ["/opt/apache/beam/boot"]' in (ROOT / "Dockerfile").read_text("utf-8")
    text = json.dumps(spec["flinkConfiguration"])
    assert "fixed-delay" in text and all(isinstance(v, str) for v in spec["flinkConfiguration"].values())
