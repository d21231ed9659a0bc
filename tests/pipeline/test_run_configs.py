"""Every reviewed file builds the job it stands for."""

import hashlib
import json
from pathlib import Path

import pytest
import yaml
from apache_beam.options.pipeline_options import StandardOptions
from apache_beam.pipeline import Pipeline
from apache_beam.portability.api import beam_runner_api_pb2

from pipeline.config import load_config
from pipeline.graph import build_graph
from pipeline.launch import run
from pipeline.plan import planned
from pipeline.runners import pipeline_options, threads_of_process
from tests.tiny_model import save_tiny_model
from transforms.models.presets import find_preset

FOLDER = Path(__file__).parent.parent.parent / "run_configs"
FILES = sorted(FOLDER.glob("*.yaml"))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """TF Hub's cache with a small model in a preset's place: what is resolved without a network."""
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "hub"))

    def put(model: str) -> None:
        preset = find_preset(model)
        name = hashlib.sha1(preset.handle.encode()).hexdigest()
        save_tiny_model(tmp_path / "hub" / name, size_px=preset.image_size_px, classes=1000)

    return put


@pytest.fixture
def flags(gcs, tmp_path):
    """What a file leaves to the command line, on the emulator."""
    gcs.put("gs://bucket/list.csv", b"uri,price\ngs://bucket/a.jpg,1.5\n")
    gcs.put("gs://bucket/tmp/here", b"")
    return {"input": "gs://bucket/list.csv", "output": "gs://bucket/out"}


def test_run_configs__readme__lists_every_file():
    text = (FOLDER / "README.md").read_text("utf-8")
    assert FILES and all(f"`{path.name}`" in text for path in FILES)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_run_configs__every_file__builds_its_graph(path, hub, flags):
    config = load_config(str(path), flags, ["--project=some-project", "--temp_location=gs://bucket/tmp"])
    hub(config.model.model)
    options = pipeline_options(config.beam_flags)
    pipeline = Pipeline(options=options)
    with planned(config, options) as plan:
        assert plan.model.resize.size_px == find_preset(config.model.model).image_size_px
        build_graph(pipeline, plan)
    proto = pipeline.to_runner_api()
    assert len(proto.SerializeToString()) < 1 << 20
    stages = {t.unique_name for t in proto.components.transforms.values()}
    assert {"ReadImageRefs", "FetchImages", "PredictLabels", "PublishResults"} <= stages


@pytest.mark.parametrize("path", [p for p in FILES if "dataflow" in p.name], ids=lambda p: p.stem)
def test_run_configs__dataflow__the_real_runner_writes_the_job(path, hub, flags, tmp_path):
    template = tmp_path / "job.json"
    beam_flags = [
        "--project=some-project",
        "--temp_location=gs://bucket/tmp",
        f"--template_location={template}",
    ]
    config = load_config(str(path), flags, [*beam_flags, "--sdk_container_image=gcr.io/p/labelbeam:1"])
    hub(config.model.model)
    assert pipeline_options(config.beam_flags).view_as(StandardOptions).runner == "DataflowRunner"
    assert run(config) is None
    job = json.loads(template.read_text("utf-8"))
    (pool,) = job["environment"]["workerPools"]
    asked = yaml.safe_load(path.read_text("utf-8"))["beam"]
    assert pool["machineType"] == asked["machine_type"]
    assert pool["diskSizeGb"] == asked["disk_size_gb"]
    assert pool["autoscalingSettings"]["maxNumWorkers"] == asked["max_num_workers"]
    options = job["environment"]["sdkPipelineOptions"]["options"]
    assert options.get("dataflow_service_options", []) == asked.get("dataflow_service_options", [])
    assert set(asked.get("experiments", [])) <= set(job["environment"]["experiments"])


def test_run_configs__dataflow_split__what_labels_asks_for_an_accelerator_alone(hub, flags, gcs, tmp_path):
    beam_flags = [
        "--project=some-project",
        "--temp_location=gs://bucket/tmp",
        "--staging_location=gs://bucket/split",
        f"--template_location={tmp_path / 'job.json'}",
        "--sdk_container_image=gcr.io/p/labelbeam:1",
    ]
    config = load_config(str(FOLDER / "dataflow-split.yaml"), flags, beam_flags)
    hub(config.model.model)
    run(config)
    (name,) = (name for name in gcs.names("gs://bucket/split/") if name.endswith("pipeline.pb"))
    job = beam_runner_api_pb2.Pipeline.FromString(gcs.get(f"gs://bucket/{name}"))
    asked = {step for step, hint in accelerators(job) if hint == config.predict.accelerator_hint}
    others = {step for step, hint in accelerators(job) if hint is None}
    assert asked | others == {step for step, _ in accelerators(job)}
    labelling = (
        *("HandOverImages/Take", "HandOverImages/Unpack"),
        *("PredictLabels", "StageResults", "CountResults"),
    )
    assert {step for step in asked | others if step.startswith(labelling)} == asked
    assert all(any(step.startswith(part) for step in asked) for part in labelling)
    assert {"HandOverImages/Pack", "HandOverImages/Deal"} <= others


def accelerators(job):
    """The steps that run on workers, and the accelerator each asks for."""
    for transform in job.components.transforms.values():
        if transform.environment_id and not transform.subtransforms:
            hints = job.components.environments[transform.environment_id].resource_hints
            hint = hints.get("beam:resources:accelerator:v1")
            yield transform.unique_name, hint.decode() if hint else None


def test_threads_of_process__dataflow__one_per_vcpu_unless_one_process_owns_the_machine():
    cpu = pipeline_options(load_config(str(FOLDER / "dataflow-cpu.yaml"), _needed()).beam_flags)
    gpu = pipeline_options(load_config(str(FOLDER / "dataflow-gpu.yaml"), _needed()).beam_flags)
    assert (threads_of_process(cpu), threads_of_process(gpu)) == (1, None)


def _needed() -> dict[str, str]:
    return {"input": "i", "output": "o"}
