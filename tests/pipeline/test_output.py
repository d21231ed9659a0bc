"""The table folder before a run: read without changes, then prepared."""

import dataclasses
from pathlib import Path

from labelbeam.pipeline.config import WriteConfig
from labelbeam.pipeline.output import prepare_output, read_output
from tests.results import LABELLED_WITH, prediction, stage

OTHERS = dataclasses.replace(LABELLED_WITH, top_k=3)
OLD, NEW = "20260101T000000-00000001", "20260101T000000-00000002"


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_read_output__any__changes_nothing_and_lists_the_runs_to_resume_or_replace(tmp_path):
    stage(tmp_path, OLD, [prediction(1)])
    before = files_of(tmp_path)
    same = read_output(WriteConfig(output=str(tmp_path)), LABELLED_WITH)
    other = read_output(WriteConfig(output=str(tmp_path), replace=True), OTHERS)
    assert (same.resumes, same.replaces) == ((OLD,), ())
    assert (other.resumes, other.replaces) == ((), (OLD,))
    assert files_of(tmp_path) == before


def test_prepare_output__replaced_run__is_deleted_and_the_new_one_announced(tmp_path):
    stage(tmp_path, OLD, [prediction(1)])
    config = WriteConfig(output=str(tmp_path), replace=True)
    prepare_output(config, read_output(config, OTHERS), NEW, OTHERS)
    assert [path.relative_to(tmp_path).as_posix() for path in files_of(tmp_path)] == [
        f"_staging/{NEW}/run.json"
    ]


def test_read_output__folder_that_does_not_exist__is_not_made(tmp_path):
    state = read_output(WriteConfig(output=str(tmp_path / "out")), LABELLED_WITH)
    assert (state.follows, state.resumes, state.keeps_rows) == (None, (), True)
    assert not (tmp_path / "out").exists()
