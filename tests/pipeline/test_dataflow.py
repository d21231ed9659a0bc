"""Jobs of the real `DataflowRunner`: their submission, and following them."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple

import pytest

from labelbeam.pipeline.cli import main
from labelbeam.pipeline.config import load_config
from labelbeam.pipeline.launch import run
from labelbeam.pipeline.manifest import published_manifest, recorded_config
from labelbeam.pipeline.report import progress
from labelbeam.pipeline.report.record import read_run_record
from labelbeam.pipeline.report.work import namespace_of
from labelbeam.pipeline.runners import jobs as follow
from labelbeam.transforms.count import CountRows
from tests.engines.dataflow import WORKFLOW_FAILED, DataflowStub, end_as, fail, ignore, run_staged, stay
from tests.graphs import PATIENCE_SEC, read_until, run_pipeline
from tests.synthetic import HTML, jpeg_bytes

ROOT = Path(__file__).parent.parent.parent
CONFIGS = ROOT / "run_configs"
IMAGE = "europe-docker.pkg.dev/some-project/labelbeam/worker:1"
PLACE = ("--project=some-project", "--temp_location=gs://dataflow/tmp")
ONE_PROCESS = "no_use_multiple_sdk_containers"
ACCELERATOR = "beam:resources:accelerator:v1"


@pytest.fixture
def stub(gcs):
    gcs.put("gs://dataflow/tmp/here", b"")
    with DataflowStub() as stub:
        yield stub


class Expected(NamedTuple):
    """The part of a submitted job that a file sets."""

    machine: str
    disk_gb: int
    most_workers: int
    image: str = IMAGE
    accelerator: str | None = None
    threads: int | None = 4
    one_process: bool = True
    hint: str | None = None


L4, T4, A100 = (f"type:nvidia-{card};count:1" for card in ("l4", "tesla-t4", "tesla-a100"))
JOBS = {
    "dataflow-cpu": Expected("n2-standard-4", 30, 50, threads=None, one_process=False),
    "dataflow-gpu": Expected("g2-standard-8", 100, 20, accelerator=L4),
    "dataflow-t4": Expected("n1-standard-8", 100, 20, accelerator=T4),
    "dataflow-a100": Expected("a2-highgpu-1g", 100, 8, accelerator=A100),
    "dataflow-split": Expected(
        "n2-standard-8", 100, 50, hint=f"{L4};machine_type:g2-standard-8;install-nvidia-driver"
    ),
}


@pytest.fixture
def submit(stub, gcs, hub, monkeypatch):
    """Return a function that submits a file's job without waiting, and returns the job from the service."""
    monkeypatch.chdir(ROOT)  # because a file's setup_file is relative to it
    stub.play = end_as("JOB_STATE_CANCELLED")  # because a running job would keep its name

    def submit(path: Path, name: str = "out", listed: int = 1):
        gcs.put("gs://dataflow/list.csv", b"uri,price\n" + b"gs://dataflow/a.jpg,1.5\n" * listed)
        options = {"input": "gs://dataflow/list.csv", "output": f"gs://dataflow/{name}", "no_wait": True}
        config = load_config(str(path), options, [*PLACE, stub.flag, f"--sdk_container_image={IMAGE}"])
        hub(config.model.model)
        assert run(config) is None
        return stub.jobs[-1]

    return submit


def test_jobs__files__are_all_expected_here():
    assert JOBS.keys() == {path.stem for path in CONFIGS.glob("dataflow-*.yaml")}


@pytest.mark.parametrize("name", JOBS)
def test_submission__every_file__the_job_has_its_settings(name, submit):
    expected, job = JOBS[name], submit(CONFIGS / f"{name}.yaml")
    environment = job.description["environment"]
    (pool,) = environment["workerPools"]
    assert (job.description["name"], job.description["type"]) == (
        name.replace("dataflow", "labelbeam"),
        "JOB_TYPE_BATCH",
    )
    assert (pool["machineType"], pool["diskSizeGb"]) == (expected.machine, expected.disk_gb)
    assert pool["autoscalingSettings"] == {
        "algorithm": "AUTOSCALING_ALGORITHM_BASIC",
        "maxNumWorkers": expected.most_workers,
    }
    assert pool.get("numThreadsPerWorker") == expected.threads
    images = {one["containerImage"] for one in pool["sdkHarnessContainerImages"]}
    assert images == {expected.image}
    accelerator = expected.accelerator and f"worker_accelerator={expected.accelerator};install-nvidia-driver"
    assert environment.get("serviceOptions", []) == ([accelerator] if accelerator else [])
    assert (ONE_PROCESS in environment["experiments"]) == expected.one_process
    assert ("use_multiple_sdk_containers" in environment["experiments"]) != expected.one_process
    assert {"use_runner_v2", "use_portable_job_submission"} <= set(environment["experiments"])
    assert not {"serviceAccountEmail", "flexResourceSchedulingGoal"} & environment.keys()
    assert not {"subnetwork", "network", "ipConfiguration"} & pool.keys()
    assert job.options["region"] == "us-central1" and job.options["project"] == "some-project"
    assert "save_main_session" not in {name for name, value in job.options.items() if value}
    assert_labelling_alone_asks_for_an_accelerator(job.pipeline, expected.hint)


def assert_labelling_alone_asks_for_an_accelerator(pipeline, hint: str | None) -> None:
    """Check that only labelling steps have the accelerator's hint, if the file has a hint at all."""
    hints = dict(accelerators(pipeline))
    assert set(hints.values()) == {None, hint}
    labelling = (
        "HandOverImages/Take",
        "HandOverImages/Unpack",
        "PredictLabels",
        "StageResults",
        "CountResults",
    )
    if hint:
        with_hint = {step for step, one in hints.items() if one}
        assert with_hint == {step for step in hints if step.startswith(labelling)}
        assert all(any(step.startswith(part) for step in with_hint) for part in labelling)
        assert "HandOverImages/Deal" in hints.keys() - with_hint


def accelerators(pipeline):
    """Yield the steps that run on workers, each with the accelerator in its hints or None."""
    for transform in pipeline.components.transforms.values():
        if transform.environment_id and not transform.subtransforms:
            hints = pipeline.components.environments[transform.environment_id].resource_hints
            yield transform.unique_name, hints[ACCELERATOR].decode() if ACCELERATOR in hints else None


@pytest.mark.parametrize("name", JOBS)
def test_submission__commented_keys_of_a_file__are_ready_to_be_taken_in(name, submit, tmp_path):
    text = (CONFIGS / f"{name}.yaml").read_text("utf-8")
    before, _, after = text.partition("beam:\n")
    taken_in, count = re.subn(r"^( +)# (\w+: |- use_network_tags)", r"\1\2", after, flags=re.M)
    path = tmp_path / f"{name}.yaml"
    path.write_text(f"{before}beam:\n{taken_in}", "utf-8")
    environment = submit(path).description["environment"]
    (pool,) = environment["workerPools"]
    assert environment["serviceAccountEmail"] == "labelbeam@PROJECT.iam.gserviceaccount.com"
    assert pool["subnetwork"] == "regions/us-central1/subnetworks/SUBNETWORK"
    assert pool["ipConfiguration"] == "WORKER_IP_PRIVATE"
    assert "use_network_tags=TAG" in environment["experiments"]
    flexible = environment.get("flexResourceSchedulingGoal")
    assert (count, flexible) == ((5, "FLEXRS_COST_OPTIMIZED") if name == "dataflow-cpu" else (4, None))


def test_submission__with_a_setup_file__brings_the_package(submit):
    (pool,) = submit(CONFIGS / "dataflow-cpu.yaml").description["environment"]["workerPools"]
    assert "workflow.tar.gz" in {package["name"] for package in pool["packages"]}


@pytest.mark.parametrize("name", ["dataflow-gpu", "dataflow-split"])
def test_submission__longer_list__is_no_larger_job(name, submit):
    path = CONFIGS / f"{name}.yaml"
    short, long = submit(path, "short", listed=10), submit(path, "equal", listed=100_000)
    sizes = [len(job.pipeline_bytes) for job in (short, long)]
    descriptions = [len(json.dumps(job.description)) for job in (short, long)]
    assert max(sizes) < 1 << 20 and max(descriptions) < 1 << 20
    assert descriptions[0] == descriptions[1]
    assert abs(sizes[0] - sizes[1]) < 1000  # steps are compressed, and hold a run's random id


def test_submission__template__is_written_and_not_submitted(stub, gcs, hub, tmp_path, capsys):
    hub("efficientnet-b7")
    gcs.put("gs://dataflow/list.csv", b"uri\na.jpg\n")
    written = tmp_path / "job.json"
    path = str(CONFIGS / "dataflow-gpu.yaml")
    options = {"input": "gs://dataflow/list.csv", "output": "gs://dataflow/out"}
    assert run(load_config(path, options, [*PLACE, stub.flag, f"--template_location={written}"])) is None
    assert (
        json.loads(written.read_text("utf-8"))["environment"]["workerPools"][0]["machineType"]
        == "g2-standard-8"
    )
    assert stub.jobs == [] and "start it from its template" in capsys.readouterr().out


# The jobs of the tests below run, with a model of three classes.


@pytest.fixture
def corpus(gcs, tiny, tmp_path):
    """Put three images, a file that is none, and a model in the bucket; return the command's arguments."""
    for path in tiny.rglob("*"):
        if path.is_file():
            gcs.put(f"gs://dataflow/tiny/{path.relative_to(tiny)}", path.read_bytes())
    for n in range(3):
        gcs.put(f"gs://dataflow/photos/{n}.jpg", jpeg_bytes(30 + n, 30))
    gcs.put("gs://dataflow/photos/bad.jpg", HTML)
    uris = [f"gs://dataflow/photos/{name}.jpg" for name in (0, 1, 2, "bad")]
    gcs.put("gs://dataflow/list.txt", "\n".join(uris).encode())
    output = f"gs://dataflow/{tmp_path.name}"
    return {
        "input": "gs://dataflow/list.txt",
        "output": output,
        "model": "gs://dataflow/tiny",
        "max_failure_rate": "0.5",
    }


@pytest.fixture
def arguments(stub, corpus):
    beam_flags = ("--runner=DataflowRunner", "--region=us-east4", "--job_name=some-job", *PLACE, stub.flag)
    return ["run", *(f"--{name}={value}" for name, value in corpus.items()), *beam_flags]


@pytest.fixture
def brisk(monkeypatch, own_signal_handlers):
    """Shorten the pauses of following a job."""
    monkeypatch.setattr(follow, "_POLL_SEC", 0.02)
    monkeypatch.setattr(follow, "_COUNTS_SEC", 0.0)
    monkeypatch.setattr(follow, "_REASON_POLL_SEC", 0.02)
    monkeypatch.setattr(progress, "_PLAIN_EVERY_SEC", 0.02)


def link_of(job) -> str:
    return f"https://console.cloud.google.com/dataflow/jobs/us-east4/{job.id}?project=some-project"


def manifest_of(gcs, output: str) -> dict:
    return json.loads(gcs.get(f"{output}/manifest.json"))


def test_run__job_done__its_own_graph_has_published_the_rows_of_a_local_run(
    stub, gcs, corpus, arguments, brisk, capsys
):
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert stub.job.id in out and link_of(stub.job) in out
    assert "The job is running.\n" in err and "The job is done.\n" in err
    assert "Labelled 3 of 4 images" in out and "1  not_an_image" in out
    manifest = manifest_of(gcs, corpus["output"])
    there = run_pipeline(**{**corpus, "output": corpus["output"] + "-local"})
    for what in ("counts", "rows", "top_labels", "failures_by_reason", "labelled_with", "balanced"):
        assert manifest[what] == there[what]
    record = read_run_record(corpus["output"], manifest["run_id"])
    assert (record.runner, record.counts) == ("DataflowRunner", manifest["counts"])
    assert main(["verify", corpus["output"], f"--input={corpus['input']}"]) == 0


TRACEBACK = """Traceback (most recent call last):
  File "apache_beam/runners/common.py", line 1498, in process
  File "/usr/lib/python3.11/site-packages/transforms/decode.py", line 72, in submit
ValueError: no such thing [while running 'LoadImages/ParDo(_LoadImagesFn)-ptransform-47']

passed through:
==>
    dist_proc/dax/workflow/worker/fnapi_service_impl.cc:1339
"""
OURS = TRACEBACK.replace(
    "ValueError: no such thing", "labelbeam.transforms.errors.RunError: The disc is full."
)


@pytest.mark.parametrize(
    ("errors", "message"),
    [
        ((TRACEBACK, TRACEBACK, WORKFLOW_FAILED), "The job failed: ValueError: no such thing"),
        ((TRACEBACK, OURS, WORKFLOW_FAILED), "The job failed: The disc is full."),
        (("The zone has no L4 left.", WORKFLOW_FAILED), "The job failed: The zone has no L4 left."),
        (
            (WORKFLOW_FAILED,),
            "The job failed: Workflow failed. Causes: S07:LoadImages+PredictLabels failed., The",
        ),
    ],
)
def test_run__job_failed__the_cause_comes_first(stub, arguments, brisk, capsys, errors, message):
    stub.play = fail(*errors)
    assert main(arguments) == 1
    err = capsys.readouterr().err
    last = err.splitlines()[-1]
    assert last.startswith(f"labelbeam: {message}") and "Finished work is kept" in last
    # A message of our own has its remedy.
    assert ("run the same command again" in last) == ("disc is full" not in message)
    assert "Traceback" not in err and "passed through" not in err
    assert err.count("Dataflow: ValueError: no such thing") <= 1


def test_run__job_failed_without_a_word__says_where_to_look(stub, arguments, brisk, capsys, monkeypatch):
    monkeypatch.setattr(follow, "_REASON_SEC", 0.1)
    stub.play = fail()
    assert main(arguments) == 1
    look = f"Look at job {stub.job.id} ({link_of(stub.job)})"
    assert f"without an error message. {look}" in capsys.readouterr().err


def test_run__a_worker_stops_the_job__its_words_are_the_cause(stub, gcs, corpus, arguments, brisk, capsys):
    assert main([*arguments, "--failure_floor=1", "--max_failure_rate=0"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("labelbeam: The job failed: ") and "not_an_image" in last
    assert "Traceback" not in last
    assert f"{corpus['output']}/manifest.json".removeprefix("gs://dataflow/") not in gcs.names(
        "gs://dataflow/"
    )


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("JOB_STATE_CANCELLED", "The job was cancelled, and not by this command. Finished work is kept"),
        ("JOB_STATE_UPDATED", "The job ended as UPDATED, and published nothing. Finished work is kept"),
    ],
)
def test_run__job_ended_elsewhere__is_reported(stub, arguments, brisk, capsys, state, message):
    stub.play = end_as(state)
    assert main(arguments) == 1
    assert f"labelbeam: {message}" in capsys.readouterr().err


def test_run__warnings_and_errors_of_the_service__are_shown_once_each(stub, arguments, brisk, capsys):
    def play(job):
        job.state = "JOB_STATE_QUEUED"
        job.log("DETAILED", "Fusing steps.")
        job.log("WARNING", "The quota of L4 is used up.\nAsk for more.")
        job.counts_sent.wait(PATIENCE_SEC)
        job.state = "JOB_STATE_CANCELLED"

    stub.play = play
    main(arguments)
    err = capsys.readouterr().err
    assert err.count("Dataflow: The quota of L4 is used up.\n") == 1
    assert "The job is queued.\n" in err and "Fusing" not in err


def test_run__counts_of_the_job__become_share_rate_and_eta(stub, arguments, brisk, capsys):
    def play(job):
        job.state = "JOB_STATE_RUNNING"
        for labelled in (50, 100):
            counted = {"listed": 200, "labelled": labelled, "failed": 2}
            job.counts.update({(namespace_of(CountRows), kind): n for kind, n in counted.items()})
            job.counts_sent.clear()
            for _ in range(3):
                job.counts_sent.wait(PATIENCE_SEC)
                job.counts_sent.clear()
        job.state = "JOB_STATE_CANCELLED"

    stub.play = play
    main(arguments)
    lines = capsys.readouterr().err.splitlines()
    assert any(
        re.fullmatch(r"(submitted|running), [\d:]+: 52 of 200 images, 26\.0%, 2 failed", n) for n in lines
    )
    moving = r"running, [\d:]+: 102 of 200 images, 51\.0%, [\d.,]+ images/s, 2 failed, ETA [\d:]+"
    assert any(re.fullmatch(moving, line) for line in lines), lines


def test_run__refused_by_the_service__is_one_line(stub, arguments, brisk, capsys):
    stub.refusal = (403, "The caller does not have permission dataflow.jobs.create.")
    assert main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("labelbeam: The run broke off: 403") and "dataflow.jobs.create" in line


def test_run__a_job_of_that_name_is_active__is_refused(stub, arguments, brisk, capsys):
    stub.play = ignore
    assert main([*arguments, "--no_wait"]) == 0
    assert main(arguments) == 1
    err = capsys.readouterr().err
    assert "already active job named some-job" in err and "--job_name" in err


def start(arguments: list[str]) -> subprocess.Popen:
    """Start the command as a process."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(
        [sys.executable, "-m", "labelbeam", *arguments], cwd=ROOT, env=os.environ, **pipes
    )


def test_run__ctrl_c__cancels_the_job_and_waits_until_it_has_ended(stub, gcs, corpus, arguments):
    stub.play = stay
    process = start(arguments)
    read_until(process.stderr, "The job is running.")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE_SEC)
    assert process.returncode == 130 and stub.job.state == "JOB_STATE_CANCELLED"
    first, last = err.splitlines()[0], err.splitlines()[-1]
    assert first == "Cancelling the job, and waiting until it has ended. Ctrl-C again leaves at once."
    assert last.startswith(
        "Interrupted: the job is cancelled. Finished work is kept: run the same command again"
    )
    assert "Traceback" not in err and link_of(stub.job) in out
    stub.play = run_staged
    process = start(arguments)
    out, err = process.communicate(timeout=PATIENCE_SEC)
    assert process.returncode == 0 and "Labelled 3 of 4 images" in out, err


def test_run__ctrl_c_twice__leaves_at_once_and_says_that_the_job_may_run(stub, arguments):
    stub.play = ignore
    process = start(arguments)
    read_until(process.stderr, "The job is running.")
    process.send_signal(signal.SIGINT)
    read_until(process.stderr, "Cancelling the job")
    assert stub.job.cancel_requested.wait(PATIENCE_SEC)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE_SEC)
    assert process.returncode == 130 and stub.job.state == "JOB_STATE_RUNNING"
    assert err.splitlines()[-1].startswith(
        f"Not waiting any longer: job {stub.job.id} ({link_of(stub.job)}) may"
    )
    assert "Traceback" not in err


def test_run__sigterm__leaves_the_job_alone(stub, arguments):
    stub.play = stay
    process = start(arguments)
    read_until(process.stderr, "The job is running.")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=PATIENCE_SEC)
    assert process.returncode == 130 and not stub.job.cancel_requested.is_set()
    assert "No longer following" in err and "which may run on" in err and "Traceback" not in err


def test_run__no_wait__the_job_publishes_when_the_command_has_long_ended(stub, gcs, corpus, arguments):
    ended = threading.Event()
    done = threading.Event()

    def play(job):
        ended.wait(PATIENCE_SEC)
        run_staged(job)
        done.set()

    stub.play = play
    process = start([*arguments, "--no_wait"])
    out, err = process.communicate(timeout=PATIENCE_SEC)
    assert (process.returncode, err, stub.job.state) == (0, "", "JOB_STATE_PENDING")
    assert link_of(stub.job) in out and f"labelbeam verify {corpus['output']}" in out
    ended.set()
    assert done.wait(PATIENCE_SEC) and stub.job.state == "JOB_STATE_DONE", stub.job.messages
    manifest = manifest_of(gcs, corpus["output"])
    assert f"names the run {manifest['run_id']};" in out and manifest["balanced"]
    assert manifest["config"]["no_wait"] is True
    assert read_run_record(corpus["output"], manifest["run_id"]) is None
    assert recorded_config(published_manifest(corpus["output"]), {}).launch.no_wait is False


def test_rerun__no_wait__submits_what_failed(stub, corpus, arguments, brisk, capsys):
    assert main(arguments) == 0
    stub.play = ignore
    again = ["rerun", corpus["output"], "--only=not_an_image", "--no_wait", "--job_name=again"]
    assert main(again) == 0
    assert [job.description["name"] for job in stub.jobs] == ["some-job", "again"]
    assert "publishes its results without this machine" in capsys.readouterr().out
