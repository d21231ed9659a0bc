"""The reference model's architecture at its native size, because its real weights can't be had offline."""

import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest

from labelbeam.transforms.photos import PHOTOS
from tests.b7_model import save_b7
from tests.graphs import assert_sound, read_tables

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent.parent
# The measured peak is 6.5 GB, while TensorFlow optimises the frozen graph; 3 GB remain afterwards.
_MAX_RSS_BYTES = 8 << 30


@pytest.fixture(scope="module")
def b7(tmp_path_factory):
    """Save the model in a process of its own, so that its memory does not count as the run's."""
    folder = tmp_path_factory.mktemp("b7")
    process = multiprocessing.get_context("spawn").Process(target=save_b7, args=(str(folder),))
    process.start()
    process.join()
    assert process.exitcode == 0
    return folder


def test_run__b7_at_600__labels_photos_with_bounded_memory(tmp_path, b7):
    photos = sorted(PHOTOS.glob("n0*.jpg"))
    (tmp_path / "list.txt").write_text("\n".join(map(str, photos)), "utf-8")
    options = [f"--input={tmp_path / 'list.txt'}", f"--output={tmp_path / 'out'}", f"--model={b7}"]
    script = (
        "import resource, sys; from labelbeam.pipeline.cli import main; assert main(sys.argv[1:]) == 0;"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    command = [sys.executable, "-c", script, "run", *options, "--labels=imagenet"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    rss_bytes = int(done.stdout.splitlines()[-1]) * 1024
    assert rss_bytes < _MAX_RSS_BYTES, f"{rss_bytes / 1e9:.1f} GB"
    manifest = assert_sound(tmp_path / "out")
    assert manifest["preprocessing"]["resize"]["size_px"] == 600
    assert (manifest["model"]["length"], manifest["counts"]["labelled"]) == (1000, len(photos))
    predictions, _ = read_tables(tmp_path / "out")
    assert all(len(p["labels"]) == 5 and 0 < p["score"] < 1 for p in predictions)
