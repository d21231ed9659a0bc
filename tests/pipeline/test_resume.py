"""Runs that are killed, and the same command started again afterwards."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import psutil
import pyarrow.dataset as ds
import pytest
from PIL import Image

from labelbeam.pipeline.report.progress import Tally
from labelbeam.transforms import stage
from labelbeam.transforms.photos import PHOTOS
from labelbeam.transforms.table.folder import staged_files, staged_runs
from tests.graphs import (
    PATIENCE_SEC,
    TWO_PROCESSES,
    assert_sound,
    besides_progress,
    make_mixed_corpus,
    read_tables,
    run_pipeline,
    wait_until,
)
from tests.shards import tar_of
from tests.synthetic import encoded

ROOT = Path(__file__).parent.parent.parent
IMAGES, STAGE_ROWS = 1000, 50


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Return a list of small images made of the photos, some unreadable ones, and some listed twice."""
    folder = tmp_path_factory.mktemp("photos")
    originals = [Image.open(p).convert("RGB").resize((96, 72)) for p in sorted(PHOTOS.glob("*.webp"))]
    uris = []
    for n in range(IMAGES):
        path = folder / f"{n:05d}.jpg"
        turned = originals[n % len(originals)].rotate(n // len(originals))
        path.write_bytes(encoded(turned, "JPEG", quality=85) if n % 50 else b"no image")
        uris.append(str(path))
    (folder / "list.txt").write_text("\n".join([*uris, *uris[:10]]), "utf-8")
    return folder / "list.txt"


@pytest.fixture(scope="module")
def uninterrupted(photos, lite0_dir, tmp_path_factory):
    """Return the tables of an uninterrupted run."""
    output = tmp_path_factory.mktemp("uninterrupted") / "out"
    run_pipeline(input=photos, output=output, model="efficientnet-lite0")
    return read_tables(output)


class Run:
    """The command as a process, and the files that it leaves."""

    def __init__(self, tmp_path: Path, photos: Path, output: str, *flags: str) -> None:
        self.output = output
        self.scratch = tmp_path / "scratch"
        self.scratch.mkdir(exist_ok=True)
        arguments = [f"--input={photos}", f"--output={output}", "--model=efficientnet-lite0"]
        arguments += [f"--stage_rows={STAGE_ROWS}", *flags]
        self._command = [sys.executable, "-m", "labelbeam", "run", *arguments]

    def kill_when(self, reached) -> int:
        """Start the command and kill it once `reached()`; return the number of images done until then."""
        before = set(self.scratch.iterdir())
        process = self._start()
        wait_until(reached, process)
        workers = psutil.Process(process.pid).children(recursive=True)
        assert_no_named_memory([process.pid, *(worker.pid for worker in workers)])
        process.send_signal(signal.SIGKILL)
        process.communicate()
        for worker in workers:
            if worker.is_running():
                worker.kill()
        psutil.wait_procs(workers, timeout=30)
        return self.worked(before)

    def worked(self, before: Collection[Path] = ()) -> int:
        """Return the number of images that the latest run has labelled or failed."""
        folders = [p for p in set(self.scratch.iterdir()) - set(before) if p.name.startswith("labelbeam-")]
        counts = Tally(folders[0]).read() if folders else {}
        return counts.get("labelled", 0) + counts.get("failed", 0)

    def finish(self) -> str:
        """Run the command to its end; return its output."""
        process = self._start()
        stdout, stderr = process.communicate(timeout=PATIENCE_SEC)
        assert (process.returncode, besides_progress(stderr)) == (0, []), stderr
        # Nothing of this run, and nothing of earlier runs that were killed.
        assert list(self.scratch.iterdir()) == []
        return stdout

    def _start(self) -> subprocess.Popen:
        environment = {**os.environ, "TMPDIR": str(self.scratch)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(self._command, cwd=ROOT, env=environment, **pipes)

    def staged(self) -> list:
        return staged_files(self.output, staged_runs(self.output))

    def staged_rows(self) -> int:
        return sum(source.file.rows for source in self.staged())


def assert_no_named_memory(pids: Collection[int]) -> None:
    """Check that processes have nothing in /dev/shm, where it would stay when they are killed."""
    for pid in pids:
        # A process that ends meanwhile has nothing any more.
        with suppress(OSError):
            opened = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
            lines = [*opened, *Path(f"/proc/{pid}/maps").read_text().splitlines()]
            assert not [line for line in lines if "/dev/shm/" in line]


def is_started(run: Run):
    return lambda: bool(staged_runs(run.output))


def has_staged(run: Run, rows: int):
    return lambda: run.staged_rows() >= rows


def is_publishing(run: Run):
    return lambda: any(Path(run.output).glob("_staging/*/merged/*/*.parquet"))


def assert_same(tables, expected) -> None:
    (predictions, failures), (expected_predictions, expected_failures) = tables, expected
    assert [p["id"] for p in predictions] == [p["id"] for p in expected_predictions]
    assert [p["label"] for p in predictions] == [p["label"] for p in expected_predictions]
    scores = [[one["score"] for one in p["labels"]] for p in predictions]
    assert scores == [
        pytest.approx([one["score"] for one in p["labels"]], abs=1e-5) for p in expected_predictions
    ]
    assert [(f["id"], f["reason"]) for f in failures] == [(f["id"], f["reason"]) for f in expected_failures]


@pytest.mark.parametrize(
    ("flags", "workers"), [((), 1), (TWO_PROCESSES, 2)], ids=["one_process", "two_processes"]
)
def test_run__killed_at_several_moments__goes_on_and_ends_as_if_nothing_had_been(
    tmp_path, photos, uninterrupted, flags, workers
):
    output = tmp_path / "out"
    run = Run(tmp_path, photos, str(output), *flags)
    run.kill_when(is_started(run))
    at_start = run.staged_rows()
    for rows in (3 * STAGE_ROWS, 9 * STAGE_ROWS):
        worked = run.kill_when(has_staged(run, rows))
        assert at_start + worked - run.staged_rows() <= (STAGE_ROWS + 1) * workers
        at_start = run.staged_rows()
    kept = at_start
    run.kill_when(is_publishing(run))
    assert run.staged_rows() == IMAGES or (output / "manifest.json").exists()
    printed = run.finish()
    assert f"{IMAGES:,} were done before" in printed and f"Labelled 0 of {IMAGES + 10:,} images" in printed
    assert kept < IMAGES
    assert_sound(output)
    assert_same(read_tables(output), uninterrupted)


@pytest.mark.slow
def test_run__killed_inside_an_archive_at_random_moments__goes_on_and_decodes_no_image_twice(
    tmp_path, photos, uninterrupted
):
    uris = photos.read_text("utf-8").splitlines()[:IMAGES]
    (tmp_path / "a.tar").write_bytes(tar_of({Path(uri).name: Path(uri).read_bytes() for uri in uris}))
    run, chance = Run(tmp_path, tmp_path / "a.tar", str(tmp_path / "out")), random.Random(time.time_ns())
    done = 0
    for n in range(10):
        # Somewhere within the images that the file of the archive has left, perhaps while one is staged.
        rows = chance.randint(1, (IMAGES - done) // (10 - n))
        before = set(run.scratch.iterdir())
        worked = run.kill_when(lambda rows=rows, before=before: run.worked(before) >= rows)
        assert done + worked - run.staged_rows() <= STAGE_ROWS + 1
        done = run.staged_rows()
    assert f"{done:,} were done before" in run.finish()
    assert_sound(tmp_path / "out")
    by_name = [sorted(map(_by_name, rows)) for rows in read_tables(tmp_path / "out")]
    assert by_name == [sorted(map(_by_name, rows)) for rows in uninterrupted]


def _by_name(row: dict) -> tuple[str, str]:
    return row["uri"].replace("#", "/").rpartition("/")[2], row.get("reason") or row["label"]


def test_run__killed_with_its_output_on_gcs__goes_on(tmp_path, photos, uninterrupted, gcs):
    gcs.put("gs://kept/here", b"")
    run = Run(tmp_path, photos, "gs://kept/out")
    worked = run.kill_when(has_staged(run, 5 * STAGE_ROWS))
    staged = run.staged_rows()
    assert worked - staged <= STAGE_ROWS + 1
    assert f"{staged:,} were done before" in run.finish()
    names = gcs.names("gs://kept/out/")
    copy = tmp_path / "copy"
    for name in names:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(gcs.get(f"gs://kept/{name}"))
    assert_sound(copy / "out")
    assert_same(read_tables(copy / "out"), uninterrupted)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_run__interrupted__keeps_all_that_is_labelled_and_says_how_to_go_on(
    tmp_path, photos, lite0_dir, sent
):
    never = ("--stage_rows=1000000", "--stage_sec=3600")
    run = Run(tmp_path, photos, str(tmp_path / "out"), *never)
    process = run._start()
    wait_until(lambda: run.worked() >= 100, process)
    worked = run.worked()
    process.send_signal(sent)
    _, stderr = process.communicate(timeout=PATIENCE_SEC)
    assert process.returncode == 130 and "run the same command again to continue" in stderr
    assert list((tmp_path / "scratch").iterdir()) == []
    assert worked <= run.staged_rows() < IMAGES
    assert f"{run.staged_rows():,} were done before" in run.finish()
    assert_sound(tmp_path / "out")


@pytest.mark.parametrize("runner", ["BundleBasedDirectRunner", "FnApiRunner"])
def test_run__bundles_fail_at_random__every_row_is_there_once(tmp_path, tiny, runner, monkeypatch):
    """Test a runner that tries bundles again, and one that does not; there the run is started again."""
    uris = make_mixed_corpus(tmp_path / "images")
    (tmp_path / "list.txt").write_text("\n".join(uris), "utf-8")
    chance = random.Random(1)
    failed = [0]

    def finish_or_fail(fn):
        yield from finish(fn)
        if failed[0] < 3 and chance.random() < 0.5:
            failed[0] += 1
            raise OSError("the worker is gone")

    finish = stage._StageFn.finish_bundle
    monkeypatch.setattr(stage._StageFn, "finish_bundle", finish_or_fail)
    options = {"input": tmp_path / "list.txt", "output": tmp_path / "out", "model": tiny, "stage_rows": 5}
    for _ in range(4):
        try:
            run_pipeline(f"--runner={runner}", **options)
            break
        except Exception as e:
            assert "the worker is gone" in str(e)
    assert failed[0] == 3
    assert_sound(tmp_path / "out")
    predictions, failures = read_tables(tmp_path / "out")
    assert len(predictions) + len(failures) == len(uris)


def test_run__bundles_run_twice__every_row_is_there_once(tmp_path, tiny):
    uris = make_mixed_corpus(tmp_path / "images")
    (tmp_path / "list.txt").write_text("\n".join(uris), "utf-8")
    options = {"input": tmp_path / "list.txt", "output": tmp_path / "out", "model": tiny}
    manifest = run_pipeline("--direct_runner_bundle_repeat=1", **options)
    assert_sound(tmp_path / "out")
    assert sum(manifest["rows"].values()) == len(uris)


def test_run__another_is_at_work_there__is_refused(tmp_path, tiny):
    from labelbeam.pipeline.output import locked
    from labelbeam.transforms.errors import UserError

    make_mixed_corpus(tmp_path / "images", 1)
    options = {"input": tmp_path / "images", "output": tmp_path / "out", "model": tiny}
    with locked(str(tmp_path / "out")), pytest.raises(UserError, match="another run is at work there"):
        run_pipeline(**options)
    run_pipeline(**options)


def test_run__longer_list__labels_what_is_new(tmp_path, tiny):
    uris = make_mixed_corpus(tmp_path / "images")
    options = {"input": tmp_path / "list.txt", "output": tmp_path / "out", "model": tiny}
    (tmp_path / "list.txt").write_text("\n".join(uris[:30]), "utf-8")
    run_pipeline(**options)
    (tmp_path / "list.txt").write_text("\n".join(uris[10:]), "utf-8")
    counts = run_pipeline(**options)["counts"]
    assert_sound(tmp_path / "out")
    assert (counts["kept"], counts["other"]) == (20, 10)
    assert counts["labelled"] + counts["failed"] == len(uris) - 30
    ids = ds.dataset(f"{tmp_path}/out/predictions").to_table(["run_id"])["run_id"].value_counts()
    assert len(ids) == 2
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["generation"] == 2
