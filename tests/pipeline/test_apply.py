"""Calibrations that are applied to published tables, and runs with a calibration."""

import contextlib
import dataclasses
import itertools
import shutil
import warnings
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from labelbeam import label
from labelbeam.pipeline.commands.apply import apply_calibration
from labelbeam.pipeline.commands.doctor import doctor
from labelbeam.pipeline.commands.rerun import rerun
from labelbeam.pipeline.commands.verify import verify
from labelbeam.pipeline.config import load_config
from labelbeam.pipeline.launch import run
from labelbeam.transforms.calibration import Calibration
from labelbeam.transforms.errors import RunError, UserError
from labelbeam.transforms.files import write_file
from labelbeam.transforms.table.documents import write_document
from labelbeam.transforms.table.folder import announce, read_manifest
from labelbeam.transforms.table.manifest import Manifest
from labelbeam.transforms.table.merge import Partitioning
from tests.calibrations import SINGLE_LABEL, calibration, publish_rows, random_rows
from tests.damage import DISK, Death, files_below, flip
from tests.graphs import assert_sound, make_mixed_corpus, read_tables, run_pipeline
from tests.results import add_staged, prediction

MULTILABEL = calibration(head="multilabel", top_k=4, threshold=0.4, temperature=1.5, default_threshold=0.92)
BINARY = calibration(head="binary", classes=2, temperature=3.0, default_threshold=0.7, thresholds=())
COLUMNS = ("decision", "calibrated_score")


def write(path: Path | str, one: Calibration) -> str:
    write_file(str(path), write_document(one))
    return str(path)


def table_of(output: Path) -> pa.Table:
    """Return the rows of the manifest's files of predictions, by id."""
    manifest = read_manifest(str(output))
    assert manifest is not None
    paths = [str(output / file.path) for file in manifest.files_of("predictions")]
    return ds.dataset(paths, partitioning=None).to_table().sort_by("id")


def without(table: pa.Table, *names: str) -> pa.Table:
    return table.drop_columns(
        [name for name in names if name in table.column_names]
    ).replace_schema_metadata()


@pytest.mark.parametrize("one", [SINGLE_LABEL, MULTILABEL, BINARY], ids=lambda one: one.basis.head)
def test_apply__any_head__gives_the_columns_of_a_run_and_keeps_all_else(tmp_path, one):
    rows, _ = random_rows(one.basis, 300, seed=1)
    before = publish_rows(tmp_path / "applied", rows, one.basis)
    old, file = table_of(tmp_path / "applied"), write(tmp_path / "cal.json", one)
    applied = apply_calibration(str(tmp_path / "applied"), file)
    publish_rows(tmp_path / "run", rows, one.basis, calibration=one)
    table, expected = table_of(tmp_path / "applied"), table_of(tmp_path / "run")
    assert without(table, "run_id").equals(without(expected, "run_id"))
    assert table.schema.names[4:7] == ["labels", *COLUMNS]
    assert without(table, *COLUMNS).equals(without(old))
    assert verify(str(tmp_path / "applied")) == verify(str(tmp_path / "run")) == []
    manifest = read_manifest(str(tmp_path / "applied"))
    assert manifest == applied.manifest
    assert (manifest.generation, manifest.labelled_with.calibration) == (2, one.fingerprint)
    assert manifest.labelling_run == before.labelling_run == before.run_id != manifest.run_id
    assert manifest.files_of("failures") == before.files_of("failures")
    decided = [row for row in table["decision"].to_pylist() if row]
    assert 0 < applied.decided == len(decided) < 300


def test_apply__another_calibration__replaces_the_columns_and_the_same_one_changes_nothing(tmp_path):
    output = tmp_path / "out"
    rows, _ = random_rows(SINGLE_LABEL.basis, 100, seed=2)
    publish_rows(output, rows)
    other = calibration(temperature=1.0)
    for one in (SINGLE_LABEL, other):
        apply_calibration(str(output), write(tmp_path / "cal.json", one))
    publish_rows(tmp_path / "run", rows, calibration=other)
    assert without(table_of(output), "run_id").equals(without(table_of(tmp_path / "run"), "run_id"))
    before = {path: path.read_bytes() for path in files_below(output)}
    assert apply_calibration(str(output), str(tmp_path / "cal.json")).decided is None
    assert {path: path.read_bytes() for path in files_below(output)} == before
    assert verify(str(output)) == []


@pytest.mark.parametrize("partitioning", [Partitioning(buckets=3), Partitioning(column="price")])
def test_apply__partitions__keep_their_folders(tmp_path, partitioning):
    rows, _ = random_rows(SINGLE_LABEL.basis, 20, seed=3)
    before = publish_rows(tmp_path / "out", rows, partitioning=partitioning)
    after = apply_calibration(str(tmp_path / "out"), write(tmp_path / "cal.json", SINGLE_LABEL)).manifest
    folders = [[str(Path(file.path).parent) for file in m.files_of("predictions")] for m in (before, after)]
    assert len(folders[0]) > 1 and sorted(folders[0]) == sorted(folders[1])
    assert verify(str(tmp_path / "out")) == []


def test_apply__no_rows__gives_the_columns(tmp_path):
    publish_rows(tmp_path / "out", [])
    assert apply_calibration(str(tmp_path / "out"), write(tmp_path / "cal.json", SINGLE_LABEL)).decided == 0
    assert set(COLUMNS) <= set(table_of(tmp_path / "out").column_names)
    assert verify(str(tmp_path / "out")) == []


def test_apply__killed_before_any_change__readers_see_a_whole_generation_and_it_can_be_repeated(
    tmp_path, brisk
):
    rows, _ = random_rows(SINGLE_LABEL.basis, 20, seed=4)
    file = write(tmp_path / "cal.json", SINGLE_LABEL)
    other = write(tmp_path / "other.json", calibration(temperature=1.0))
    for change in itertools.count():
        output = tmp_path / f"out{change}"
        publish_rows(output, rows)
        killed = True
        with contextlib.suppress(Death), DISK.dying_before(change, output):
            apply_calibration(str(output), file)
            killed = False
        table = table_of(output)
        assert len(table) == 20
        assert ("decision" in table.column_names) == (read_manifest(str(output)).generation == 2)
        apply_calibration(str(output), file)
        assert "decision" in table_of(output).column_names
        # Another one, because the command tidies where it has something to do.
        apply_calibration(str(output), other)
        assert len(table_of(output)) == 20 and verify(str(output)) == []
        assert [path.name for path in files_below(output / "_staging")] == ["lock"]
        if not killed:
            break
    assert change > 10


@pytest.mark.parametrize("rows", [0, 1, 2])
@pytest.mark.parametrize("runs", [1, 2])
def test_apply__unfinished_runs__are_refused_with_the_remedy_until_they_are_deleted(tmp_path, rows, runs):
    before = publish_rows(tmp_path, [[(1, 0.5)]])
    run_ids = [f"20260101T00000{n}-00000001" for n in range(runs)]
    for run_id in run_ids:
        announce(str(tmp_path), run_id, before.labelled_with)
        if rows:
            add_staged(tmp_path, run_id, [prediction(n) for n in range(rows)])
    file = write(tmp_path / "cal.json", SINGLE_LABEL)
    more = r" \(and 1 more\)" if runs == 2 else ""
    staged = f"with {rows * runs} row{'' if rows * runs == 1 else 's'}"
    with pytest.raises(UserError, match=f"holds the run {run_ids[0]}{more}, {staged}, .* command again"):
        apply_calibration(str(tmp_path), file)
    assert read_manifest(str(tmp_path)) == before
    for run_id in run_ids:
        with pytest.raises(UserError, match=f"never be finished, delete {tmp_path}/_staging/{run_id}"):
            apply_calibration(str(tmp_path), file)
        shutil.rmtree(tmp_path / "_staging" / run_id)
    assert apply_calibration(str(tmp_path), file).manifest.generation == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "m2"}, r"the model's fingerprint \(m2 in the file, model-1 here\)"),
        ({"preprocessing": "p2"}, r"the preprocessing's fingerprint \(p2 in the file, pre-1 here\)"),
        ({"head": "binary"}, r"the kind of the model's outputs \(binary in the file, single_label here\)"),
        ({"classes": 11}, r"the number of classes \(11 in the file, 10 here\)"),
        ({"top_k": 5}, r"top_k \(5 in the file, 2 here\)"),
        ({"threshold": 0.1}, r"threshold \(0.1 in the file, None here\)"),
    ],
)
def test_apply__file_of_another_table__is_refused_and_nothing_changes(tmp_path, changes, message):
    publish_rows(tmp_path / "out", [[(1, 0.5)]])
    before = read_manifest(str(tmp_path / "out"))
    with pytest.raises(UserError, match=f"does not fit .*out: {message}"):
        apply_calibration(str(tmp_path / "out"), write(tmp_path / "cal.json", calibration(**changes)))
    assert read_manifest(str(tmp_path / "out")) == before
    assert verify(str(tmp_path / "out")) == []


def test_apply__damaged_or_newer_or_missing_file__is_refused(tmp_path):
    publish_rows(tmp_path / "out", [[(1, 0.5)]])
    file = Path(write(tmp_path / "cal.json", SINGLE_LABEL))
    whole = file.read_bytes()
    cases = {
        whole[:-9]: "is damaged: the file is not JSON",
        whole.replace(b'"temperature": 2.0', b'"temperature": 3.0'): "its checksum does not fit",
        write_document(
            calibration(format=2)
        ): "has format 2, .* Install a newer labelbeam, or make the file again",
        write_document(calibration(temperature=0.0)): "is damaged: temperature=0.0 is not above zero",
        b"": "is damaged",
    }
    for data, message in cases.items():
        file.write_bytes(data)
        with pytest.raises(UserError, match=message):
            apply_calibration(str(tmp_path / "out"), str(file))
    with pytest.raises(UserError, match=r"calibration='.*nowhere.json' cannot be read: No such file"):
        apply_calibration(str(tmp_path / "out"), str(tmp_path / "nowhere.json"))


def test_apply__folder_without_tables_or_of_embeddings__is_refused(tmp_path):
    file = write(tmp_path / "cal.json", SINGLE_LABEL)
    with pytest.raises(UserError, match="holds no published results"):
        apply_calibration(str(tmp_path / "nowhere"), file)
    assert not (tmp_path / "nowhere").exists()
    manifest = publish_rows(tmp_path / "out", [[(1, 0.5)]])
    _rewrite(tmp_path / "out", dataclasses.replace(manifest, model={"head": "embedding", "length": 3}))
    with pytest.raises(UserError, match="holds embeddings, which have no scores"):
        apply_calibration(str(tmp_path / "out"), file)
    columns = {"Decision": "string"}
    settings = dataclasses.replace(manifest.labelled_with, columns=columns)
    _rewrite(tmp_path / "out", dataclasses.replace(manifest, labelled_with=settings))
    with pytest.raises(UserError, match="has a column 'Decision' of the input"):
        apply_calibration(str(tmp_path / "out"), file)


def _rewrite(output: Path, manifest: Manifest) -> None:
    (output / "manifest.json").write_bytes(write_document(manifest))


def test_apply__damaged_file__breaks_off_and_publishes_nothing(tmp_path):
    manifest = publish_rows(tmp_path / "out", [[(1, 0.5)]])
    (file,) = manifest.files_of("predictions")
    flip(tmp_path / "out" / file.path, 99)
    with pytest.raises(RunError, match="is damaged: SHA-256"):
        apply_calibration(str(tmp_path / "out"), write(tmp_path / "cal.json", SINGLE_LABEL))
    assert read_manifest(str(tmp_path / "out")) == manifest


def test_apply__bucket__publishes_there(tmp_path, gcs, one_client):
    gcs.put("gs://labels/x", b"")
    publish_rows("gs://labels/out", [[(1, 0.5), (0, 0.4)], [(2, 0.9)]])
    file = write("gs://labels/cal.json", SINGLE_LABEL)
    assert apply_calibration("gs://labels/out/", file).decided == 1
    manifest = read_manifest("gs://labels/out")
    assert manifest.config["calibration"] == "gs://labels/cal.json"
    assert verify("gs://labels/out") == []
    (listed,) = manifest.files_of("predictions")
    table = pq.read_table(pa.BufferReader(gcs.get(f"gs://labels/out/{listed.path}")))
    assert sorted(map(str, table["decision"].to_pylist())) == ["None", "class 1"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    uris = make_mixed_corpus(folder / "images", images=12)
    (folder / "list.txt").write_text("\n".join(uris), "utf-8")
    return folder / "list.txt"


def calibration_for(manifest: dict, **changes) -> Calibration:
    """Return a calibration that fits a run of the tiny model."""
    settings = manifest["labelled_with"]
    basis = {"model": settings["model"], "preprocessing": settings["preprocessing"], "classes": 3}
    thresholds = SINGLE_LABEL.thresholds[:1]
    return calibration(**{**basis, "top_k": settings["top_k"], "thresholds": thresholds, **changes})


@pytest.mark.parametrize("layout", ["fused", "split"])
def test_run__with_a_calibration__equals_apply_and_each_goes_on_with_the_other(
    tmp_path, tiny, corpus, layout
):
    common = {"model": tiny, "max_failure_rate": 1, "layout": layout, "keep_outputs": layout == "split"}
    plain = run_pipeline(**common, input=corpus, output=tmp_path / "applied")
    file = write(tmp_path / "cal.json", calibration_for(plain, default_threshold=0.37))
    apply_calibration(str(tmp_path / "applied"), file)
    run_pipeline(**common, input=corpus, output=tmp_path / "run", calibration=file)
    applied, expected = table_of(tmp_path / "applied"), table_of(tmp_path / "run")
    assert without(applied, "run_id").equals(without(expected, "run_id"))
    assert None in applied["decision"].to_pylist() and set(applied["decision"].to_pylist()) != {None}
    # The corpus with one more image.
    longer = tmp_path / "longer.txt"
    longer.write_text(f"{corpus.read_text()}\n{corpus.parent}/images/../images/good000.jpeg", "utf-8")
    for output in ("applied", "run"):
        options = {**common, "input": longer, "output": tmp_path / output, "calibration": file}
        assert run_pipeline(**options)["counts"]["labelled"] == 1
        assert_sound(tmp_path / output)
        assert verify(str(tmp_path / output), {"input": str(longer)}) == []
        assert rerun(str(tmp_path / output), None, {"loaders": "0"}, [])
        assert verify(str(tmp_path / output), {"input": str(longer)}) == []
    predictions = [read_tables(tmp_path / output)[0] for output in ("applied", "run")]
    for rows in predictions:
        assert len(rows) == 13 and all(row["calibrated_score"] > 0 for row in rows)
    options = {**common, "input": longer, "output": tmp_path / "run", "calibration": file}
    assert run_pipeline(**options, refresh="changed")["counts"]["labelled"] == 0


def test_run__other_calibration_than_the_rows_have__is_refused_with_the_remedy(tmp_path, tiny, corpus):
    options = {"model": tiny, "max_failure_rate": 1, "input": corpus, "output": tmp_path / "out"}
    manifest = run_pipeline(**options)
    one = calibration_for(manifest)
    file = write(tmp_path / "cal.json", one)
    with pytest.raises(
        UserError, match=rf"--calibration \(none there, {one.fingerprint} now\).*or let labelbeam apply give"
    ):
        run_pipeline(**options, calibration=file)
    apply_calibration(str(tmp_path / "out"), file)
    with pytest.raises(UserError, match=r"--calibration \(.* there, none now\).* give the --calibration of"):
        run_pipeline(**options)
    with pytest.raises(UserError, match="does not fit this model with these options: top_k"):
        run_pipeline(**options, calibration=file, top_k=2)
    write(file, calibration_for(manifest, temperature=9.0))
    with pytest.raises(UserError, match=r"--calibration \(.* there, .* now\)"):
        rerun(str(tmp_path / "out"), None, {"loaders": "0"}, [])


def test_run__bad_calibration__is_refused_before_the_model_is_fetched(tmp_path, corpus):
    flags = {"input": str(corpus), "output": str(tmp_path / "out"), "model": "https://tfhub.dev/no/such/1"}
    (tmp_path / "cal.json").write_text("{}")
    with pytest.raises(UserError, match=r"cal.json is damaged: its checksum does not fit"):
        run(load_config(None, {**flags, "calibration": str(tmp_path / "cal.json")}))


def test_label__with_a_calibration__has_the_columns_of_a_run(tmp_path, tiny, corpus):
    options = {"model": tiny, "max_failure_rate": 1, "input": corpus, "output": tmp_path / "out"}
    one = calibration_for(run_pipeline(**options), default_threshold=0.37)
    apply_calibration(str(tmp_path / "out"), write(tmp_path / "cal.json", one))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = label(str(corpus), str(tiny), calibration=tmp_path / "cal.json")
        failed = label([tmp_path / "nowhere.jpg"], str(tiny), calibration=str(tmp_path / "cal.json"))
        with pytest.raises(UserError, match="does not fit this model with these options: top_k"):
            label([], str(tiny), calibration=tmp_path / "cal.json", top_k=1)
    rows = table.filter(pc.is_null(table["reason"])).sort_by("id").select(["id", *COLUMNS])
    assert rows.to_pylist() == table_of(tmp_path / "out").select(["id", *COLUMNS]).to_pylist()
    assert failed.select(COLUMNS).to_pylist() == [dict.fromkeys(COLUMNS)]
    assert failed.column_names == table.column_names


def test_doctor__calibration_that_does_not_fit_or_is_missing__is_an_error(tmp_path, tiny, corpus, capsys):
    flags = {"model": str(tiny), "input": str(corpus), "output": str(tmp_path / "out"), "loaders": "0"}
    one = calibration_for(run_pipeline(**flags, max_failure_rate=1))
    apply_calibration(str(tmp_path / "out"), write(tmp_path / "cal.json", one))
    write(tmp_path / "other.json", dataclasses.replace(one, temperature=1.0))
    write(tmp_path / "stranger.json", SINGLE_LABEL)
    cases = {
        "cal.json": "ok       table        the rows in the output have the same settings",
        "other.json": "or let labelbeam apply give all rows the new calibration",
        "stranger.json": "stranger.json' does not fit this model with these options: the model's fingerprint",
        "nowhere.json": "nowhere.json' cannot be read: No such file",
    }
    for name, message in cases.items():
        config = load_config(None, {**flags, "calibration": str(tmp_path / name)})
        assert doctor(config) is (name == "cal.json")
        assert message in capsys.readouterr().out
