"""Publishing, and publications that are cut off."""

import contextlib
import dataclasses
import json
import shutil
from pathlib import Path

import duckdb
import pyarrow.dataset as ds
import pytest

from labelbeam.transforms.errors import RunError
from labelbeam.transforms.notes import SumNotes
from labelbeam.transforms.publish import PublishResults, commit
from labelbeam.transforms.table.folder import TableFolder, read_manifest
from labelbeam.transforms.table.manifest import TopLabel
from tests.damage import DISK, Death
from tests.eager import RUNNERS, eagerly
from tests.results import (
    LABELLED_WITH,
    add_staged,
    failure,
    plan_publication,
    prediction,
    publish,
    stage,
)

RUN_1, RUN_2, RUN_3, RUN_4 = (f"20260101T00000{n}-0000000{n}" for n in range(1, 5))


def rows_of(output: Path) -> dict[str, str]:
    """Return label or reason by id from all files of the folders; ids must be unique."""
    predictions, failures = (
        ds.dataset(output / t).to_table().to_pylist() for t in ("predictions", "failures")
    )
    rows = [(r["id"], r["label"]) for r in predictions] + [(r["id"], r["reason"]) for r in failures]
    assert len(dict(rows)) == len(rows)
    return dict(rows)


def rows_by_manifest(output: Path) -> dict[str, str] | None:
    """Return label or reason by id from the files of the manifest; None if nothing was published."""
    manifest = read_manifest(str(output))
    if manifest is None:
        return None
    rows = {}
    for table, column in (("predictions", "label"), ("failures", "reason")):
        paths = [str(output / f.path) for f in manifest.files_of(table)]
        for row in ds.dataset(paths).to_table(["id", column]).to_pylist():
            assert row["id"] not in rows
            rows[row["id"]] = row[column]
    return rows


def first_generation(output: Path) -> dict[str, str]:
    stage(output, RUN_1, [*map(prediction, range(20)), *map(failure, range(20, 26))])
    publish(plan_publication(output, RUN_2))
    return rows_of(output)


@pytest.mark.parametrize("gone", [".", "_staging", f"_staging/{RUN_1}", "manifest.json"])
def test_publish__output_deleted_during_the_run__is_reported_and_the_next_run_publishes(tmp_path, gone):
    output = tmp_path / "out"
    stage(output, RUN_1, [prediction(1)])
    publication = plan_publication(output, RUN_2)
    if gone == "manifest.json":
        publish(publication)
        publication, whole = plan_publication(output, RUN_3), (output / gone).read_bytes()
        (output / gone).unlink()
    else:
        shutil.rmtree(output / gone)
    add_staged(output, publication.run_id, [prediction(2)])
    with pytest.raises(RunError, match=r"was deleted during the run\. (Run the same|Put a whole)"):
        publish(publication)
    if gone == "manifest.json":
        (output / gone).write_bytes(whole)
    publication = plan_publication(output, RUN_4)
    add_staged(output, RUN_4, [prediction(1)])
    publish(publication)
    assert rows_of(output)["id1"] == "b"


def test_publish__first__every_row_once_and_nothing_staged_is_left(tmp_path):
    stage(tmp_path, RUN_1, [prediction(1), failure(2), failure(3), prediction(1)], every_rows=1)
    publication = plan_publication(tmp_path, RUN_2)
    add_staged(tmp_path, RUN_2, [prediction(3), prediction(4)])
    manifest = publish(publication)
    assert (
        rows_of(tmp_path)
        == rows_by_manifest(tmp_path)
        == {"id1": "b", "id2": "timeout", "id3": "a", "id4": "b"}
    )
    assert manifest == read_manifest(str(tmp_path)) and manifest.generation == 1
    assert manifest.rows == {"predictions": 3, "failures": 1}
    assert manifest.top_labels[0] == TopLabel(1, "b", 2)
    assert (manifest.failures_by_reason, manifest.failures_by_host) == ({"timeout": 1}, {"h0": 1})
    assert list((tmp_path / "_staging").iterdir()) == []
    count = duckdb.sql(f"SELECT count(DISTINCT id) FROM '{tmp_path}/predictions/**/*.parquet'").fetchall()
    assert count == [(3,)]


def test_publish__no_rows__tables_can_be_read(tmp_path):
    publish(plan_publication(tmp_path, RUN_1))
    assert rows_of(tmp_path) == {}


def test_publish__again__new_rows_win_and_nothing_else_is_written_again(tmp_path):
    first_generation(tmp_path)
    before = {f.path for f in read_manifest(str(tmp_path)).files_of("predictions")}
    stage(tmp_path, RUN_3, [prediction(21), failure(30)])
    publication = plan_publication(tmp_path, RUN_4, target_bytes=1)
    manifest = publish(publication)
    rows = rows_of(tmp_path)
    assert len(rows) == 27 and (rows["id21"], rows["id30"], rows["id22"]) == ("a", "timeout", "timeout")
    assert before < {f.path for f in manifest.files}
    assert manifest.generation == 2


def test_publish__nothing_new__is_the_same_generation_of_the_same_files(tmp_path):
    first_generation(tmp_path)
    before = read_manifest(str(tmp_path))
    manifest = publish(plan_publication(tmp_path, RUN_3))
    assert (manifest.generation, manifest.files) == (1, before.files)
    assert manifest.run_id == RUN_3 and not (tmp_path / "_generations").exists()


def test_publish__older_generations__are_kept_readable_and_dropped_by_number(tmp_path):
    old = first_generation(tmp_path)
    for n in range(3):
        stage(tmp_path, f"20260102T00000{n}-00000000", [prediction(100 + n)])
        publish(plan_publication(tmp_path, f"20260103T00000{n}-00000000", keep_generations=2))
    folder, older = TableFolder(str(tmp_path)), tmp_path / "_generations"
    assert read_manifest(str(tmp_path)).generation == 4
    assert sorted(p.name for p in older.glob("*.json")) == ["000002.json", "000003.json"]
    kept = json.loads(Path(folder.generation(2)).read_text())
    live = {f.path for f in read_manifest(str(tmp_path)).files}
    paths = [f["path"] if f["path"] in live else f"_generations/{f['path']}" for f in kept["files"]]
    table = ds.dataset([str(tmp_path / p) for p in paths if "predictions" in p]).to_table(["id"])
    assert {"id100"} | {i for i, v in old.items() if v in "abc"} == set(table["id"].to_pylist())
    needed = {f["path"] for n in (2, 3) for f in json.loads(Path(folder.generation(n)).read_text())["files"]}
    retired = {str(p.relative_to(older)) for p in older.rglob("*.parquet")}
    assert retired == needed - live
    publish(plan_publication(tmp_path, RUN_4, keep_generations=0))
    assert not [p for p in older.rglob("*") if p.is_file()]


def test_publish__another_run_published_meanwhile__is_refused_and_loses_nothing(tmp_path):
    first_generation(tmp_path)
    late = plan_publication(tmp_path, RUN_3)
    add_staged(tmp_path, RUN_3, [prediction(50)])
    early = plan_publication(tmp_path, RUN_4, resumes=())
    publish(early)
    with pytest.raises(RunError, match="Another run has published"):
        publish(late)
    assert "id50" not in rows_of(tmp_path)
    publish(plan_publication(tmp_path, "20260102T000000-00000000"))
    assert "id50" in rows_of(tmp_path)


def test_publish__files_of_others_in_the_folder__are_left_alone(tmp_path):
    first_generation(tmp_path)
    mine = tmp_path / "predictions" / "mine.parquet"
    mine.write_bytes(b"mine")
    publish(plan_publication(tmp_path, RUN_3))
    assert mine.read_bytes() == b"mine"


@pytest.mark.parametrize("change", range(0, 30, 2))
def test_commit__tried_again_by_the_runner__goes_on_where_it_broke_off(tmp_path, change):
    old = first_generation(tmp_path)
    stage(tmp_path, RUN_3, [prediction(21)])
    publication = plan_publication(tmp_path, RUN_4)
    with contextlib.suppress(Death), DISK.dying_before(change, tmp_path):
        publish(publication)
    manifest = publish(publication)
    assert manifest.run_id == RUN_4 and rows_of(tmp_path) == {**old, "id21": "a"}


def test_commit__repeated_after_it_published__returns_the_manifest_that_readers_see(tmp_path):
    stage(tmp_path, RUN_1, [])
    publication = plan_publication(tmp_path, RUN_2)
    first, repeated = (commit(publication, "same name", [], {"listed": 0}, {}) for _ in range(2))
    assert first == repeated == read_manifest(str(tmp_path))


@pytest.mark.parametrize("runner", RUNNERS)
def test_publish_results__on_a_runner__gives_what_the_pure_functions_give(tmp_path, runner):
    outputs = {}
    for name in ("graph", "pure"):
        output = tmp_path / name
        old = first_generation(output)
        stage(output, RUN_3, [prediction(21), *map(failure, range(30, 40))])
        publication = plan_publication(output, RUN_4)
        counts = {"listed": 11, "labelled": 1, "failed": 10, "other": 25}
        if name == "graph":
            (manifest,) = eagerly(Published(publication), list(counts.items()), runner)
        else:
            manifest = publish(publication, counts)
        outputs[name] = dataclasses.replace(manifest, files=(), publication="", config={})
        assert len(rows_of(output)) == len(old) + 10 and manifest.balanced
    assert outputs["graph"] == outputs["pure"]


class Published(PublishResults):
    """The step, with counts alone and no file staged by this run."""

    def expand(self, counts):
        import apache_beam as beam

        staged = counts | "None" >> beam.Filter(lambda _: False)
        return super().expand((staged, counts, staged | SumNotes()))


@pytest.mark.parametrize(
    ("counts", "balanced"),
    [
        ({"listed": 8, "duplicate": 1, "kept": 3, "labelled": 3, "failed": 1, "other": 19}, True),
        ({"listed": 7, "duplicate": 1, "kept": 3, "labelled": 3, "failed": 1, "other": 19}, False),
        ({"listed": 9, "duplicate": 1, "kept": 3, "labelled": 3, "failed": 1, "other": 19}, False),
        ({"listed": 9, "duplicate": 1, "kept": 3, "labelled": 4, "failed": 1, "other": 19}, False),
        ({"listed": 8, "duplicate": 1, "kept": 3, "labelled": 3, "failed": 1, "other": 18}, False),
    ],
)
def test_make_manifest__a_row_lost_or_twice__does_not_balance(tmp_path, counts, balanced):
    first_generation(tmp_path)  # 26 rows
    assert publish(plan_publication(tmp_path, RUN_3), counts).balanced is balanced


def test_make_manifest__any__is_json_and_says_what_it_labelled_with(tmp_path):
    first_generation(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["labelled_with"] == dataclasses.asdict(LABELLED_WITH)
    assert manifest["merged_runs"] == [RUN_1, RUN_2]
