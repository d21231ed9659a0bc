"""Whole runs that are killed before each change of the disk, without a model."""

import contextlib
import itertools
import json
import shutil

import pyarrow.dataset as ds
import pytest
from apache_beam.io.gcp.gcsfilesystem import GCSFileSystem

from labelbeam.pipeline.commands.verify import verify
from labelbeam.transforms.table.folder import read_manifest, staged_files
from labelbeam.transforms.table.manifest import TABLES
from tests.damage import DISK, NEW, OLD, Death, files_below, label, run_number

pytestmark = pytest.mark.usefixtures("brisk")


def ids_of(output) -> list[str]:
    tables = [ds.dataset(f"{output}/{table}").to_table(["id"]) for table in TABLES]
    return sorted(i for table in tables for i in table["id"].to_pylist())


def readable_ids(output) -> list[str]:
    """Return the ids that readers of the manifest see; none of its files may be missing."""
    manifest = read_manifest(str(output))
    files = [str(output / file.path) for file in manifest.files] if manifest else []
    return sorted(i for file in files for i in ds.dataset(file).to_table()["id"].to_pylist())


@pytest.mark.parametrize(("published", "generations"), [([], 0), (OLD, 1)], ids=["first", "second"])
def test_run__killed_before_any_change_of_the_disk__goes_on_and_leaves_nothing(
    tmp_path, published, generations
):
    """Try every prefix of a whole run's changes, because a kill may leave each of them behind."""
    old, new = (sorted(r.ref.id for r in results) for results in (published, published + NEW))
    if published:
        label(tmp_path / "old", run_number(1), published)
    for change in itertools.count():
        output = tmp_path / str(change)
        if published:
            shutil.copytree(tmp_path / "old", output)
        died = True
        with contextlib.suppress(Death), DISK.dying_before(change, output):
            label(output, run_number(2), published + NEW, keep_generations=generations)
            died = False
        assert readable_ids(output) in (old, new), change
        staged = sum(s.file.rows for s in staged_files(str(output), [run_number(2)]))
        left = label(output, run_number(3), published + NEW, keep_generations=generations)
        assert left <= max(0, len(NEW) - staged), change
        assert ids_of(output) == readable_ids(output) == new and verify(str(output)) == [], change
        assert_clean(output, generations)
        if not died:
            break
    assert change > 30


def assert_clean(output, generations: int) -> None:
    """Check that every file is listed in a manifest."""
    documents = [output / "manifest.json", *output.glob("_generations/*.json")]
    assert len(documents) <= 1 + generations
    listed = {file["path"] for path in documents for file in json.loads(path.read_text())["files"]}
    paths = set(files_below(output)) - set(documents)
    assert {str(path.relative_to(output)).removeprefix("_generations/") for path in paths} == listed


def test_run__killed_before_a_change_of_a_bucket__goes_on_and_leaves_nothing(
    gcs, one_client, tmp_path, monkeypatch
):
    """Try every prefix of a whole run's uploads, renames and deletions."""
    new, died, change = sorted(r.ref.id for r in OLD + NEW), True, 0
    left = [10**9]
    for name in ("create", "rename", "delete"):
        monkeypatch.setattr(GCSFileSystem, name, dying(getattr(GCSFileSystem, name), left))
    while died:
        output, died = f"gs://kills/{change}", False
        gcs.put(f"{output}.here", b"")
        label(output, run_number(1), OLD)
        left[0] = change
        try:
            label(output, run_number(2), OLD + NEW)
        except Death:
            died = True
        left[0] = 10**9
        staged = sum(s.file.rows for s in staged_files(output, [run_number(2)]))
        assert label(output, run_number(3), OLD + NEW) <= max(0, len(NEW) - staged), change
        assert verify(output) == [] and read_manifest(output).rows == {"predictions": 11, "failures": 5}
        copy = tmp_path / str(change)
        for name in gcs.names(f"{output}/"):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes(gcs.get(f"gs://kills/{name}"))
        assert ids_of(copy / str(change)) == readable_ids(copy / str(change)) == new, change
        assert_clean(copy / str(change), 1)
        change += 3  # each takes a second
    assert change > 10


def dying(method, left: list[int]):
    def changed(*args, **kwargs):
        left[0] -= 1
        if left[0] < 0:
            raise Death
        return method(*args, **kwargs)

    return changed
