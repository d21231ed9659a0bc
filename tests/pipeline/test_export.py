"""Exports: rows read back from CSV and JSON lines, and Delta logs whose versions are the generations."""

import csv
import gzip
import importlib.util
import json
import math
from pathlib import Path
from urllib.parse import unquote

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from labelbeam.pipeline.cli import main
from labelbeam.pipeline.commands.export import export_table
from labelbeam.pipeline.commands.verify import verify
from labelbeam.transforms.errors import UserError
from labelbeam.transforms.table.folder import DELTA_LOG, read_manifest
from labelbeam.transforms.table.merge import Partitioning
from labelbeam.transforms.table.rows import RowMetadata
from tests.pipeline.test_select import HOSTILE, OWN, URIS, publish_embeddings, publish_hostile
from tests.results import failure, plan_publication, prediction, publish, stage
from tests.tables import Settings, publish_rows


def export(output: Path | str, form: str, to: Path | str = "", table: str = "predictions") -> None:
    export_table(str(output), form, str(to), table, False)


def test_csv_and_jsonl__hostile_texts_and_columns__are_read_back(tmp_path):
    publish_hostile(tmp_path / "out", URIS)
    rows = pq.read_table(tmp_path / "out/predictions").to_pylist()
    export(tmp_path / "out", "csv", tmp_path / "t.csv")
    export(tmp_path / "out", "jsonl", tmp_path / "t.jsonl")
    from_csv = list(csv.DictReader((tmp_path / "t.csv").open(newline="", encoding="utf-8")))
    from_json = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text("utf-8").split("\n")[:-1]]
    assert len(rows) == len(from_csv) == len(from_json) == len(HOSTILE)
    for row, cells, values in zip(rows, from_csv, from_json, strict=True):
        row["ID_1"] = row.pop("ID")
        assert cells.keys() == values.keys() == row.keys()
        for column, value in row.items():
            if column == "labels":
                assert json.loads(cells[column]) == values[column] == value
            elif isinstance(value, float):
                # JSON has no NaN and no infinity.
                assert values[column] == (value if math.isfinite(value) else None)
                assert np.float32(cells[column]).tobytes() == np.float32(value).tobytes()
            else:
                assert values[column] == value
                assert cells[column] == ("" if value is None else str(value))


def test_csv__empty_and_null_texts__differ(tmp_path):
    rows = [{"id": f"i{n}", "labels": [(0, 0.5)], "c": c} for n, c in enumerate(["", None, " "])]
    publish_rows(tmp_path / "out", Settings(("a",), columns={"c": "string"}), rows)
    export(tmp_path / "out", "csv", tmp_path / "t.csv")
    options = pa_csv.ConvertOptions(strings_can_be_null=True, quoted_strings_can_be_null=False)
    assert pa_csv.read_csv(tmp_path / "t.csv", convert_options=options)["c"].to_pylist() == ["", None, " "]


def test_failures__all_columns__are_exported(tmp_path):
    failures = [{"id": "f", "uri": "=1+1,\n", "message": HOSTILE[0]}]
    publish_rows(tmp_path / "out", Settings(("a",)), [], failures)
    export(tmp_path / "out", "jsonl", tmp_path / "f.jsonl", "failures")
    (row,) = pq.read_table(tmp_path / "out/failures").to_pylist()
    assert json.loads((tmp_path / "f.jsonl").read_text()) == row


@pytest.mark.parametrize("end", ["gz", "zst"])
@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_rows__name_of_a_compressed_file__is_compressed(tmp_path, form, end):
    publish_hostile(tmp_path / "out", URIS)
    export(tmp_path / "out", form, tmp_path / f"t.{form}")
    export(tmp_path / "out", form, tmp_path / f"t.{form}.{end}")
    codec = {"gz": "gzip", "zst": "zstd"}[end]
    with pa.input_stream(tmp_path / f"t.{form}.{end}", compression=codec) as stream:
        assert stream.read() == (tmp_path / f"t.{form}").read_bytes()


def test_rows__embeddings__are_lists(tmp_path):
    publish_embeddings(tmp_path / "out", Settings((), "embedding", outputs={"embedding": 2}))
    export(tmp_path / "out", "csv", tmp_path / "t.csv")
    export(tmp_path / "out", "jsonl", tmp_path / "t.jsonl")
    rows = list(csv.DictReader((tmp_path / "t.csv").open(newline="")))
    assert [json.loads(row["embedding"]) for row in rows] == [[1, 2]] * 9
    assert [json.loads(line)["embedding"] for line in (tmp_path / "t.jsonl").open()] == [[1, 2]] * 9


def test_command__columns_that_differ_in_case__are_reported_by_their_new_name(tmp_path, capsys):
    publish_hostile(tmp_path / "out", URIS)
    arguments = ["export", str(tmp_path / "out"), "--format=csv", f"--to={tmp_path}/t.csv"]
    assert main([*arguments, "--show_sql"]) == 0
    script = capsys.readouterr().out
    assert not (tmp_path / "t.csv").exists()
    with duckdb.connect() as connection:
        connection.execute(script)
    by_script = (tmp_path / "t.csv").read_bytes()
    (tmp_path / "t.csv").unlink()
    assert main(arguments) == 0
    assert (tmp_path / "t.csv").read_bytes() == by_script
    printed = capsys.readouterr().out
    assert f"{len(HOSTILE)} rows of predictions: {tmp_path}/t.csv" in printed
    assert "Warning: the column 'ID' is called 'ID_1', because another differs in case alone." in printed
    assert "ID" in OWN


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "format='' is not allowed: give --format csv, jsonl, delta."),
        (["--format=parquet"], "format='parquet' is not allowed: give --format csv, jsonl, delta."),
        (["--format=csv"], "No place for the result is given. Name it with --to."),
        (
            ["--format=csv", "--to=x", "--table=labels"],
            "table='labels' is not allowed: predictions or failures.",
        ),
        (["--format=csv", "--to={}/out/failures/x.csv"], "is a place of the tables' own files."),
        (["--format=csv", "--to=/proc/x/y.csv"], "'/proc/x/y.csv' cannot be written: "),
        (["--format=csv", "--to={}"], "cannot be written: "),
        (["--format=delta", "--to={}/d"], "with --format delta: the log lies beside the files that it lists"),
        (["--format=delta", "--show_sql"], "--show_sql is not allowed with --format delta"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_command__mistakes_of_the_user__are_one_line(tmp_path, capsys, arguments, message):
    publish_rows(tmp_path / "out", Settings(("a",)), [{"id": "a", "labels": [(0, 0.5)]}])
    before = sorted(tmp_path.rglob("*"))
    assert main(["export", str(tmp_path / "out"), *(a.format(tmp_path) for a in arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_delta__package_that_is_missing__is_named(tmp_path, capsys, monkeypatch):
    publish_rows(tmp_path, Settings(("a",)), [])
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "deltalake" else find(name))
    assert main(["export", str(tmp_path), "--format=delta"]) == 2
    assert "Install them with: pip install 'labelbeam[delta]'" in capsys.readouterr().err


def publish_generation(output: Path, n: int, results: list, **settings) -> None:
    stage(output, f"20260101T0000{n:02d}-00000001", results)
    publish(plan_publication(output, f"20260102T0000{n:02d}-00000001", **settings))


def files_of(output: Path, table: str) -> dict[str, int]:
    manifest = read_manifest(str(output))
    return {file.path.removeprefix(f"{table}/"): file.rows for file in manifest.files_of(table)}


def files_in(delta: DeltaTable) -> set[str]:
    # Not `file_uris`, which encodes a part of the path.
    return set(map(unquote, pa.table(delta.get_add_actions())["path"].to_pylist()))


def ids_of(table: DeltaTable) -> list[str]:
    return sorted(table.to_pyarrow_table()["id"].to_pylist())


def check_readers(folder: Path, files: dict[str, int], delta: DeltaTable) -> None:
    """Check that all readers see the rows of the manifest's files: of the log, the folder, and a glob."""
    rows = sorted(ds.dataset([str(folder / path) for path in files]).to_table(["id"])["id"].to_pylist())
    assert ids_of(delta) == sorted(ds.dataset(folder).to_table(["id"])["id"].to_pylist()) == rows
    pattern = str(folder / "**/*.parquet").replace("[1]", "[[]1]")
    with duckdb.connect() as connection:
        connection.register("delta", delta.to_pyarrow_dataset())
        for source in ("delta", f"read_parquet('{pattern}', hive_partitioning = false)"):
            query = f"SELECT id FROM {source} ORDER BY id"
            assert [i for (i,) in connection.execute(query).fetchall()] == rows


@pytest.mark.parametrize(
    "partitioning", [None, Partitioning("price"), Partitioning(buckets=3)], ids=["none", "column", "hash"]
)
@pytest.mark.parametrize("keep", [0, 5])
def test_delta__random_generations__are_the_versions_of_the_log(tmp_path, keep, partitioning, brisk):
    rng = np.random.default_rng(keep)
    output = tmp_path / "out[1] é"
    settings = {"keep_generations": keep} | ({"partitioning": partitioning} if partitioning else {})
    seen: dict[tuple[str, int], set[str]] = {}
    for n in range(1, 7):
        few = [prediction(i, price=float(i % 4)) for i in rng.integers(0, 40, 5).tolist()]
        publish_generation(output, n, [*few, failure(100 + int(rng.integers(0, 9)))], **settings)
        generation = read_manifest(str(output)).generation
        if rng.random() < 0.5 and n < 6:
            continue
        for table in ("predictions", "failures"):
            export(output, "delta", table=table)
            delta = DeltaTable(str(output / table))
            files = files_of(output, table)
            assert delta.version() == generation
            seen[table, generation] = files_in(delta)
            assert seen[table, generation] == set(files)
            assert sum(pa.table(delta.get_add_actions())["num_records"].to_pylist()) == sum(files.values())
            check_readers(output / table, files, delta)
        assert not [line for line in verify(str(output)) if DELTA_LOG in line]
    for table in ("predictions", "failures"):
        current = set(files_of(output, table))
        assert ids_of(DeltaTable(str(output / table), version=0)) == []
        for version in range(1, generation + 1):
            delta = DeltaTable(str(output / table), version=version)
            if (table, version) in seen:
                assert files_in(delta) == seen[table, version]
            # A version is whole, or an error: never fewer rows than it had.
            if not files_in(delta) <= current:
                with pytest.raises(FileNotFoundError):
                    delta.to_pyarrow_table()


def test_delta__generation_that_was_not_exported__fails_by_its_name_unless_its_manifest_is_kept(tmp_path):
    for n in range(1, 4):
        publish_generation(tmp_path, n, [prediction(n)], keep_generations=1)
    export(tmp_path, "delta")
    with pytest.raises(FileNotFoundError, match="generation-000001-was-never-exported"):
        DeltaTable(str(tmp_path / "predictions"), version=1).to_pyarrow_table()
    kept = json.loads((tmp_path / "_generations/000002.json").read_bytes())
    paths = {f["path"].removeprefix("predictions/") for f in kept["files"] if f["table"] == "predictions"}
    assert files_in(DeltaTable(str(tmp_path / "predictions"), version=2)) == paths
    assert ids_of(DeltaTable(str(tmp_path / "predictions"))) == ["id1", "id2", "id3"]


def test_delta__export_again__changes_nothing(tmp_path, capsys):
    publish_generation(tmp_path, 1, [prediction(1)])
    export(tmp_path, "delta")
    before = {path: path.read_bytes() for path in (tmp_path / "predictions").rglob("*.json")}
    assert len(before) == 2
    export(tmp_path, "delta")
    assert {path: path.read_bytes() for path in (tmp_path / "predictions").rglob("*.json")} == before
    assert "predictions is already a Delta table at version 1." in capsys.readouterr().out


def test_delta__older_generation__is_refused(tmp_path):
    for n in (1, 2):
        publish_generation(tmp_path, n, [prediction(n)])
    with pytest.raises(UserError, match="is an older generation, and a Delta log lists files of the current"):
        export(f"{tmp_path}@1", "delta")


def replace_with_column(output: Path, kind: pa.DataType) -> None:
    """Publish rows with another column in place of the old ones, as --replace does."""
    metadata = RowMetadata("20260103T000000-00000001", "model-1", "pre-1", (("day", kind),))
    publish(plan_publication(output, metadata.run_id, row_metadata=metadata, keeps_rows=False))


def test_delta__other_columns__are_of_the_new_version_alone(tmp_path):
    publish_generation(tmp_path, 1, [prediction(1)])
    export(tmp_path, "delta")
    replace_with_column(tmp_path, pa.date32())
    export(tmp_path, "delta")
    new, old = (DeltaTable(str(tmp_path / "predictions"), version=version) for version in (2, 1))
    names = [[field.name for field in table.schema().fields] for table in (new, old)]
    assert [("day" in n, "price" in n) for n in names] == [(True, False), (False, True)]
    assert files_in(new) == set(files_of(tmp_path, "predictions"))


def test_delta__columns_that_the_log_cannot_take__are_a_remedy_that_works(tmp_path):
    publish_generation(tmp_path, 1, [prediction(1)])
    export(tmp_path, "delta")
    before = sorted((tmp_path / "predictions").rglob("*.json"))
    replace_with_column(tmp_path, pa.timestamp("us"))
    with pytest.raises(UserError, match=r"timestampNtz.*\. Delete it, and export again\."):
        export(tmp_path, "delta")
    assert sorted((tmp_path / "predictions").rglob("*.json")) == before
    for path in before:
        path.unlink()
    export(tmp_path, "delta")
    assert DeltaTable(str(tmp_path / "predictions")).version() == 2


def append_a_row(output: Path) -> None:
    folder = str(output / "predictions")
    write_deltalake(folder, DeltaTable(folder).to_pyarrow_table(), mode="append")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (append_a_row, "it is at version 2, and the tables are at generation 1"),
        (lambda output: publish_appended(output, 2), "another program wrote version 2"),
        (lambda output: publish_appended(output, 3), "another program wrote version 2"),
        (lambda output: begin_anew(output), "version 1 lists other files than generation 1"),
    ],
    ids=["ahead", "level", "behind", "another output"],
)
def test_delta__commits_of_another_program__are_refused_and_stay(tmp_path, change, message):
    publish_generation(tmp_path, 1, [prediction(1)])
    export(tmp_path, "delta")
    change(tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "predictions" / DELTA_LOG).iterdir()}
    with pytest.raises(UserError, match=f"is not the log of these tables: {message}. Delete it, and export"):
        export(tmp_path, "delta")
    assert {path: path.read_bytes() for path in (tmp_path / "predictions" / DELTA_LOG).iterdir()} == before


def publish_appended(output: Path, generation: int) -> None:
    append_a_row(output)
    for n in range(2, generation + 1):
        publish_generation(output, n, [prediction(n)])


def begin_anew(output: Path) -> None:
    """Delete an output but for its log, and publish another one in its place."""
    (output / "manifest.json").unlink()
    for path in output.rglob("*.parquet"):
        path.unlink()
    publish_generation(output, 9, [prediction(9)])


def test_verify__checkpoint_of_another_program__is_a_stray(tmp_path):
    publish_generation(tmp_path, 1, [prediction(1)])
    export(tmp_path, "delta")
    DeltaTable(str(tmp_path / "predictions")).create_checkpoint()
    (stray,) = [line for line in verify(str(tmp_path)) if DELTA_LOG in line]
    assert "checkpoint.parquet: is there and not listed" in stray


def test_export__output_and_target_in_a_bucket__are_read_and_written(tmp_path, gcs, one_client):
    publish_generation(tmp_path, 1, [prediction(1), prediction(2)], partitioning=Partitioning("price"))
    for path in tmp_path.rglob("*"):
        if path.is_file():
            gcs.put(f"gs://b/out/{path.relative_to(tmp_path)}", path.read_bytes())
    export("gs://b/out", "delta")
    logs = gcs.names(f"gs://b/out/predictions/{DELTA_LOG}")
    assert [name[-6:] for name in logs] == ["0.json", "1.json"]
    # The log is the one of a local copy.
    for name in logs:
        path = tmp_path / name.removeprefix("out/")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(gcs.get(f"gs://b/{name}"))
    assert ids_of(DeltaTable(str(tmp_path / "predictions"))) == ["id1", "id2"]
    assert not [line for line in verify("gs://b/out") if DELTA_LOG in line]
    export_rows_to_bucket(gcs)


def export_rows_to_bucket(gcs) -> None:
    document = json.loads(gcs.get("gs://b/out/manifest.json"))
    assert "classes" not in document["model"]
    export("gs://b/out", "csv", "gs://b/t.csv.gz")
    rows = list(csv.DictReader(gzip.decompress(gcs.get("gs://b/t.csv.gz")).decode().splitlines()))
    assert sorted(row["id"] for row in rows) == ["id1", "id2"]
