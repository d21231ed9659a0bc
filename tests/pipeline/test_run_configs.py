"""Run configurations: every reviewed file builds its job."""

import re
from pathlib import Path

import pytest
import yaml
from apache_beam.pipeline import Pipeline

from labelbeam.pipeline.config import load_config
from labelbeam.pipeline.graph import build_graph
from labelbeam.pipeline.prepare import prepared
from labelbeam.pipeline.runners.options import pipeline_options, threads_of_process
from labelbeam.transforms.models.presets import find_preset

FOLDER = Path(__file__).parent.parent.parent / "run_configs"
FILES = sorted(FOLDER.glob("*.yaml"))


@pytest.fixture
def flags(gcs):
    """Return the options that a file leaves to the command line, on the emulator."""
    gcs.put("gs://bucket/list.csv", b"uri,price\ngs://bucket/a.jpg,1.5\n")
    gcs.put("gs://bucket/tmp/here", b"")
    return {"input": "gs://bucket/list.csv", "output": "gs://bucket/out"}


def test_run_configs__readme__lists_every_file():
    text = (FOLDER / "README.md").read_text("utf-8")
    assert FILES and all(f"`{path.name}`" in text for path in FILES)


# vCPUs and GB of memory.
MACHINES = {
    "n1-standard-8": (8, 30),
    "n2-standard-4": (4, 16),
    "n2-standard-8": (8, 32),
    "g2-standard-8": (8, 32),
    "a2-highgpu-1g": (12, 85),
}
SHUFFLE_GB = {"dataflow-split": 62.5}


@pytest.mark.parametrize("path", [p for p in FILES if "dataflow" in p.name], ids=lambda p: p.stem)
def test_run_configs__cost__is_what_rate_machine_and_prices_make(path):
    readme = (FOLDER / "README.md").read_text("utf-8")
    running = (FOLDER.parent / "docs" / "running.md").read_text("utf-8")
    prices = re.search(r"([\d.]+) USD a vCPU hour, ([\d.]+) a GB hour .*? ([\d.]+) a GB of shuffle", running)
    vcpu_usd, gb_usd, shuffle_usd = map(float, prices.groups())
    text = path.read_text("utf-8")
    vcpus, gb = MACHINES[yaml.safe_load(text)["beam"]["machine_type"]]
    row = next(line for line in readme.splitlines() if line.startswith(f"| `{path.name}`"))
    hours = 1e6 / 3600 / float(re.search(r"([\d,]+) images/s", row)[1].replace(",", ""))
    if path.stem in SHUFFLE_GB:  # the decoding machines, at 83 images/s a vCPU
        hours += 1e6 / 3600 / (vcpus * 83)
    usd = hours * (vcpus * vcpu_usd + gb * gb_usd) + SHUFFLE_GB.get(path.stem, 0) * shuffle_usd
    assert row.split("|")[-2].split()[0] == f"{usd:.2f}"
    assert f"# Cost: {usd:.2f} USD a million images" in text and "cloud.google.com/dataflow/pricing" in text
    assert f"{vcpus} vCPUs and {gb} GB" in text


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_run_configs__every_file__builds_its_graph(path, hub, flags):
    config = load_config(str(path), flags, ["--project=some-project", "--temp_location=gs://bucket/tmp"])
    hub(config.model.model)
    options = pipeline_options(config.beam_flags)
    pipeline = Pipeline(options=options)
    with prepared(config, options) as plan:
        assert plan.model.resize.size_px == find_preset(config.model.model).image_size_px
        build_graph(pipeline, plan)
    proto = pipeline.to_runner_api()
    assert len(proto.SerializeToString()) < 1 << 20
    stages = {t.unique_name for t in proto.components.transforms.values()}
    assert {"ReadImageRefs", "LoadImages", "PredictLabels", "PublishResults"} <= stages


def test_threads_of_process__dataflow__one_per_vcpu_unless_one_process_owns_the_machine():
    cpu = pipeline_options(load_config(str(FOLDER / "dataflow-cpu.yaml"), _needed()).beam_flags)
    gpu = pipeline_options(load_config(str(FOLDER / "dataflow-gpu.yaml"), _needed()).beam_flags)
    assert (threads_of_process(cpu), threads_of_process(gpu)) == (1, None)


def _needed() -> dict[str, str]:
    return {"input": "i", "output": "o"}
