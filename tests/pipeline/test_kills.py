"""Whole runs that are killed before each change of the disk, without a model."""

import contextlib
import itertools
import json
import shutil

import pyarrow.dataset as ds
import pytest

from pipeline.verify import verify
from tests.damage import DISK, Death, files_below
from tests.results import add_staged, failure, plan_publication, prediction, publish
from transforms.done import read_done_ids
from transforms.layout import published_sources, read_manifest, staged_sources
from transforms.manifest import TABLES

OLD = [*map(prediction, range(6)), *map(failure, range(6, 9))]
NEW = [*map(prediction, range(9, 14)), *map(failure, range(14, 16))]


def run_number(n: int) -> str:
    return f"20260101T{n:06d}-00000000"


def label(output, run_id: str, results: list, **settings) -> int:
    """Does on the disk what a run does that labels images; gives how many were not done before."""
    publication = plan_publication(output, run_id, **settings)
    sources = [
        *published_sources(str(output), read_manifest(str(output))),
        *staged_sources(str(output), publication.resumes),
    ]
    done = {i for source in sources for part in read_done_ids(source, frozenset(), False) for i in part.ids}
    left = [result for result in results if result.ref.id not in done]
    add_staged(output, run_id, left, every_rows=3)
    worked = {"labelled": len(left), "kept": len(results) - len(left)}
    publish(publication, {"listed": len(results), **worked})
    return len(left)


def ids_of(output) -> list[str]:
    tables = [ds.dataset(f"{output}/{table}").to_table(["id"]) for table in TABLES]
    return sorted(i for table in tables for i in table["id"].to_pylist())


def readable_ids(output) -> list[str]:
    """The ids that readers of the manifest see, none of whose files may be missing."""
    manifest = read_manifest(str(output))
    files = [str(output / file.path) for file in manifest.files] if manifest else []
    return sorted(i for file in files for i in ds.dataset(file).to_table()["id"].to_pylist())


@pytest.mark.parametrize(("published", "generations"), [([], 0), (OLD, 1)], ids=["first", "second"])
def test_run__killed_before_any_change_of_the_disk__goes_on_and_leaves_nothing(tmp_path, published, generations):
    """Every prefix of the changes of a whole run is a state that a kill may leave behind."""
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
        staged = sum(s.file.rows for s in staged_sources(str(output), [run_number(2)]))
        left = label(output, run_number(3), published + NEW, keep_generations=generations)
        assert left <= max(0, len(NEW) - staged), change
        assert ids_of(output) == readable_ids(output) == new and verify(str(output)) == [], change
        assert_clean(output, generations)
        if not died:
            break
    assert change > 30


def assert_clean(output, generations: int) -> None:
    """Nothing is left that no manifest lists."""
    documents = [output / "manifest.json", *output.glob("_generations/*.json")]
    assert len(documents) <= 1 + generations
    listed = {file["path"] for path in documents for file in json.loads(path.read_text())["files"]}
    found = {path for path in files_below(output)} - set(documents)
    assert {str(path.relative_to(output)).removeprefix("_generations/") for path in found} == listed
