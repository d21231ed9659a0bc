"""Equal rows on every runner, and failures of a cluster's workers."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from labelbeam.pipeline.config import load_config
from labelbeam.pipeline.launch import run
from labelbeam.transforms.models.meter import LOADED
from labelbeam.transforms.photos import photo_paths
from labelbeam.transforms.table.folder import staged_files, staged_runs
from tests.engines.flink import FlinkCluster, workers_of
from tests.graphs import TWO_PROCESSES, assert_same_rows, assert_sound, read_tables, run_pipeline
from tests.hostile import write_hostile_site
from tests.list_files import WRITERS as LISTS
from tests.shards import parquet_of, tar_of, tfrecord_of, zip_of
from tests.synthetic import BAD_IMAGES

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent.parent
LISTED_TWICE = 5
# Formats of files with images inside, by the endings of their names.
SHARDS = {"tar": tar_of, "zip": zip_of, "tfrecord": tfrecord_of, "parquet": parquet_of}


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Return a list of the photos, of images that can't be read, and of some of both again."""
    folder = tmp_path_factory.mktemp("photos")
    bad = []
    for name, (data, _) in BAD_IMAGES.items():
        bad.append(folder / f"{name}.jpg")
        bad[-1].write_bytes(data)
    uris = [*map(str, photo_paths()), *map(str, bad), str(folder / "missing.jpg"), "s3://bucket/a.jpg"]
    (folder / "list.txt").write_text("\n".join([*uris, *uris[-LISTED_TWICE:]]), "utf-8")
    return folder / "list.txt"


@pytest.fixture(scope="module")
def many_photos(photos) -> Path:
    """Return a list of many links to the photos."""
    folder = photos.parent / "many"
    folder.mkdir()
    originals = photo_paths()
    for n in range(20 * len(originals)):
        (folder / f"{n:05d}.webp").symlink_to(originals[n % len(originals)])
    (photos.parent / "many.txt").write_text("\n".join(map(str, sorted(folder.iterdir()))), "utf-8")
    return photos.parent / "many.txt"


def label(photos, output, *flags, **options):
    options |= {"model": "efficientnet-lite0", "top_k": 3, "loaders": 2}
    return run_pipeline(*flags, input=photos, output=output, **options)


@pytest.fixture(scope="module")
def expected(photos, lite0_dir, tmp_path_factory) -> Path:
    """Return the output of one local process for the photos."""
    output = tmp_path_factory.mktemp("expected") / "out"
    label(photos, output, "--runner=BundleBasedDirectRunner")
    manifest = assert_sound(output)
    assert manifest["rows"] == {"predictions": len(photo_paths()), "failures": len(BAD_IMAGES) + 2}
    return output


@pytest.fixture(params=["fn_api", "two_processes", "prism", "flink"])
def flags(request):
    """Return the flags that send a job to each of the other runners."""
    if request.param == "flink":
        return request.getfixturevalue("flink").flags
    if request.param == "prism":
        return request.getfixturevalue("prism_flags")
    return {"fn_api": (), "two_processes": TWO_PROCESSES}[request.param]


def test_run__photos_bad_images_and_duplicates__give_the_same_tables_on_every_runner(
    tmp_path, photos, expected, flags
):
    manifest = label(photos, tmp_path / "out", *flags)
    assert_sound(tmp_path / "out")
    assert manifest["counts"]["duplicate"] == LISTED_TWICE
    assert_same_rows(tmp_path / "out", expected)


def _write_lists(folder: Path) -> list[Path]:
    """Write lists of every format, with a part of the photos each."""
    paths = [folder / f"list.{suffix}" for suffix in LISTS]
    for n, (path, write) in enumerate(zip(paths, LISTS.values(), strict=True)):
        path.write_bytes(write([{"uri": str(photo)} for photo in photo_paths()[n :: len(paths)]]))
    return paths


def _write_shards(folder: Path, suffix: str) -> list[Path]:
    """Write files of a format with images inside, with a part of the photos each."""
    paths = [folder / f"{n}.{suffix}" for n in range(3)]
    for n, path in enumerate(paths):
        path.write_bytes(SHARDS[suffix]({photo.name: photo.read_bytes() for photo in photo_paths()[n::3]}))
    return paths


@pytest.mark.parametrize("form", ["lists", *SHARDS])
def test_run__photos_in_any_format__give_the_labels_of_the_photos_on_every_runner(
    tmp_path, expected, flags, form
):
    paths = _write_lists(tmp_path) if form == "lists" else _write_shards(tmp_path, form)
    assert label(paths, tmp_path / "out", *flags)["counts"]["listed"] == len(photo_paths())
    assert_sound(tmp_path / "out")
    labels, of_photos = map(labels_by_digest, (tmp_path / "out", expected))
    assert labels == {digest: pytest.approx(scores, abs=1e-5) for digest, scores in of_photos.items()}


def test_run__boxes__give_the_same_tables_on_every_runner(tmp_path, flags):
    rows = [
        {"url": str(photo), "boxes": [[0.1, 0.2, 0.7, 0.9], [0, 0, 1, 0.5], [0.9, 0.9, 1.5, 1.5]]}
        for photo in photo_paths()[:20]
    ]
    (tmp_path / "list.jsonl").write_bytes(LISTS["jsonl"](rows))
    options = {"box_columns": "boxes", "box_unit": "fractions", "max_failure_rate": 1}
    counts = label(tmp_path / "list.jsonl", tmp_path / "out", *flags, **options)["counts"]
    assert_sound(tmp_path / "out")
    assert (counts["labelled"], counts["failed"]) == (40, 20)
    label(tmp_path / "list.jsonl", tmp_path / "expected", **options)
    assert_same_rows(tmp_path / "out", tmp_path / "expected")


def labels_by_digest(output: Path) -> dict[str, dict[str, float]]:
    predictions, _ = read_tables(output)
    return {row["sha256"]: {one["label"]: one["score"] for one in row["labels"]} for row in predictions}


@pytest.mark.parametrize("runner", ["fn_api", "two_processes", "flink"])
def test_run__images_that_crash_sleep_and_eat__cost_themselves_only(
    tmp_path, monkeypatch, request, lite0_dir, runner
):
    site = write_hostile_site(tmp_path / "site")
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("PYTHONPATH", f"{site}:{ROOT}")
    flags = {"fn_api": (), "two_processes": TWO_PROCESSES}.get(runner)
    if flags is None:
        path = f"PYTHONPATH={site}:{ROOT}"
        flags = request.getfixturevalue("flink").flags_with(tmp_path / "worker.sh", path)
    (tmp_path / "in").mkdir()
    for n, photo in enumerate(photo_paths()):
        (tmp_path / "in" / f"{n:02d}.webp").symlink_to(photo)
    for n, kind in (("10", "crash"), ("20", "sleep"), ("30", "eat")):
        (tmp_path / "in" / f"{n}-{kind}.jpg").write_text(kind)
    manifest = run_pipeline(
        *flags,
        input=tmp_path / "in",
        output=tmp_path / "out",
        model="efficientnet-lite0",
        image_timeout_sec=15,
        loaders=2,
    )
    assert_sound(tmp_path / "out")
    assert manifest["counts"]["labelled"] == len(photo_paths())
    _, failures = read_tables(tmp_path / "out")
    reasons = {Path(row["uri"]).stem[3:]: row["reason"] for row in failures}
    assert reasons == {"crash": "decoder_crashed", "sleep": "decode_timeout", "eat": "decode_memory"}


def test_flink__a_run__loads_the_model_once_a_worker_in_one_stage(flink, tmp_path, photos, lite0_dir):
    options = {"input": str(photos), "output": str(tmp_path / "out"), "model": "efficientnet-lite0"}
    config = str(ROOT / "run_configs" / "flink.yaml")
    finished = run(load_config(config, options, flink.flags))
    assert finished.work.counts[LOADED] == 2
    (stage,) = (vertex for vertex in flink.jobs()[-1]["vertices"] if "PredictLabels" in vertex["name"])
    steps = ("LoadImages", "PredictLabels", "StageResults")
    assert all(step in stage["name"] for step in steps)
    assert stage["parallelism"] == 2


class Command:
    """A run as a process of its own."""

    def __init__(self, input: Path, output: Path, *flags: str) -> None:
        self._output = str(output)
        arguments = [
            f"--input={input}",
            f"--output={output}",
            "--model=efficientnet-lite0",
            "--stage_rows=20",
        ]
        self._log = output.with_suffix(".log")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "labelbeam", "run", *arguments, *flags],
                cwd=output.parent,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until_staged(self) -> None:
        """Wait until some rows are staged, but not most of them."""
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and self._process.poll() is None:
            if staged_files(self._output, staged_runs(self._output)):
                return
            time.sleep(0.05)
        raise AssertionError(self.log)

    def interrupt(self) -> None:
        """Interrupt the run as Ctrl-C does on a terminal."""
        os.killpg(self._process.pid, signal.SIGINT)
        assert self._process.wait(120) == 130, self.log

    def finish(self) -> None:
        assert self._process.wait(400) == 0, self.log
        assert not list(job_servers()), "the command leaves its job server behind"

    @property
    def log(self) -> str:
        return self._log.read_text("utf-8")


def job_servers() -> Iterator[psutil.Process]:
    """Yield the running job servers that are no children of this process."""
    own = {child.pid for child in psutil.Process().children(recursive=True)}
    for process in psutil.process_iter(["pid", "cmdline"]):
        if "/job-server-" in " ".join(process.info["cmdline"] or ()) and process.info["pid"] not in own:
            yield process


def busy(cluster: FlinkCluster) -> list[tuple[subprocess.Popen, psutil.Process]]:
    """Return the running task managers, each with its Python worker."""
    return [(t, worker) for t in cluster.task_managers if t.poll() is None for worker in workers_of(t)[:1]]


@pytest.mark.parametrize("victim", ["a worker", "a task manager"])
def test_flink__killed_mid_run__costs_no_row(flink, tmp_path, many_photos, lite0_dir, victim):
    command = Command(many_photos, tmp_path / "out", *flink.flags)
    command.wait_until_staged()
    task_manager, worker = busy(flink)[0]
    os.kill(worker.pid if victim == "a worker" else task_manager.pid, signal.SIGKILL)
    command.finish()
    assert flink.jobs()[-1]["timestamps"]["RESTARTING"] > 0
    manifest = assert_sound(tmp_path / "out")
    assert manifest["rows"] == {"predictions": 20 * len(photo_paths()), "failures": 0}


def test_flink__ctrl_c__cancels_the_job_and_the_same_command_goes_on(flink, tmp_path, many_photos, lite0_dir):
    command = Command(many_photos, tmp_path / "out", *flink.flags)
    command.wait_until_staged()
    command.interrupt()
    assert "the job is cancelled" in command.log and "Traceback" not in command.log
    deadline = time.monotonic() + 60
    while (state := flink.jobs()[-1]["state"]) in ("RUNNING", "CANCELLING") and time.monotonic() < deadline:
        time.sleep(0.5)
    assert state == "CANCELED" and not list(job_servers())
    Command(many_photos, tmp_path / "out", *flink.flags).finish()
    manifest = assert_sound(tmp_path / "out")
    assert manifest["counts"]["kept"] > 0
    assert manifest["rows"] == {"predictions": 20 * len(photo_paths()), "failures": 0}
