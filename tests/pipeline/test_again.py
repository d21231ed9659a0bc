"""Runs over existing tables: refresh, rerun, replace, and other changes of a table."""

import hashlib
import json
import os

import duckdb
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from labelbeam.pipeline.commands.rerun import rerun
from labelbeam.pipeline.commands.verify import verify
from labelbeam.pipeline.config import load_config
from labelbeam.pipeline.launch import run_and_report
from labelbeam.transforms.errors import RunError, UserError
from tests.damage import flip
from tests.graphs import assert_sound, make_mixed_corpus, read_tables, run_pipeline
from tests.results import prediction, stage
from tests.synthetic import HTML, encoded, gradient, jpeg_bytes


def write_images(folder, names, data=None):
    folder.mkdir(exist_ok=True)
    for n, name in enumerate(names):
        (folder / name).write_bytes(data or jpeg_bytes(30 + n, 30))
    return folder


def test_refresh__some_images_changed__labels_these_again(tmp_path, tiny):
    images = write_images(tmp_path / "in", [f"{n}.jpg" for n in range(10)])
    options = {"input": images, "output": tmp_path / "out", "model": tiny, "max_failure_rate": 1}
    run_pipeline(**options)
    before = {p["uri"]: p for p in read_tables(tmp_path / "out")[0]}
    write_images(images, ["3.jpg"], encoded(gradient(90, 90), "PNG"))
    (images / "4.jpg").unlink()
    (tmp_path / "list.txt").write_text("\n".join(before), "utf-8")
    options["input"] = tmp_path / "list.txt"
    assert run_pipeline(**options)["counts"]["kept"] == 10  # without --refresh
    counts = run_pipeline(**options, refresh="changed")["counts"]
    assert_sound(tmp_path / "out")
    # The missing image keeps its labels, because its disk may not be mounted.
    assert (counts["kept"], counts["unchecked"], counts["labelled"], counts["failed"]) == (9, 1, 1, 0)
    predictions, failures = read_tables(tmp_path / "out")
    after = {p["uri"]: p for p in predictions}
    assert after.pop(f"{images}/3.jpg")["format"] == "PNG" and failures == []
    assert len(after) == 9 and all(after[uri] == before[uri] for uri in after)
    assert run_pipeline(**options, refresh="changed")["counts"]["labelled"] == 0


def test_refresh__failed_images_that_were_mended__are_tried_again(tmp_path, tiny):
    images = write_images(tmp_path / "in", ["0.jpg", "1.jpg"])
    write_images(images, ["2.jpg", "3.jpg"], HTML)
    options = {"input": images, "output": tmp_path / "out", "model": tiny, "max_failure_rate": 1}
    run_pipeline(**options)
    write_images(images, ["2.jpg"])
    assert run_pipeline(**options)["counts"]["kept"] == 4  # without --refresh
    counts = run_pipeline(**options, refresh="changed")["counts"]
    assert_sound(tmp_path / "out")
    assert (counts["kept"], counts["labelled"], counts["failed"]) == (2, 1, 1)


def test_refresh__web_and_gcs__by_etag_or_digest(tmp_path, tiny, web, gcs):
    web.files["/a.jpg"] = jpeg_bytes()
    gcs.put("gs://refresh/a.jpg", jpeg_bytes())
    (tmp_path / "list.txt").write_text("\n".join([web.uri("/a.jpg"), "gs://refresh/a.jpg"]), "utf-8")
    options = {"input": tmp_path / "list.txt", "output": tmp_path / "out", "model": tiny}
    run_pipeline(**options)
    assert run_pipeline(**options, refresh="changed")["counts"]["kept"] == 2
    gcs.put("gs://refresh/a.jpg", jpeg_bytes(99, 99))
    counts = run_pipeline(**options, refresh="changed")["counts"]
    assert (counts["kept"], counts["labelled"]) == (1, 1)


def test_rerun__failures_that_passed__become_predictions_and_others_stay(tmp_path, tiny, web):
    web.files["/good.jpg"] = jpeg_bytes()
    rows = [f"{web.uri('/good.jpg')},1", f"{web.uri('/late.jpg')},2", f"{web.uri('/status/500')},3", "a,b,c"]
    (tmp_path / "list.csv").write_text("\n".join(["uri,price", *rows]), "utf-8")
    options = {"input": tmp_path / "list.csv", "output": tmp_path / "out", "model": tiny}
    run_pipeline(**options)
    web.files["/late.jpg"] = jpeg_bytes(50, 50)
    before = dict(web.requests)
    assert not rerun(f"{tmp_path}/out/", "not_found", {}, ())  # the 500 and the bad row are over budget
    assert web.requests["/status/500"] == before["/status/500"]
    assert web.requests["/good.jpg"] == before["/good.jpg"]
    assert_sound(tmp_path / "out")
    predictions, failures = read_tables(tmp_path / "out")
    assert {p["uri"]: p["price"] for p in predictions} == {
        web.uri("/good.jpg"): "1",
        web.uri("/late.jpg"): "2",
    }
    assert sorted(f["reason"] for f in failures) == ["bad_row", "http_5xx"]
    assert verify(f"{tmp_path}/out", {"input": str(tmp_path / "list.csv")}) == []


def test_rerun__failed_again__has_one_row(tmp_path, tiny, web):
    (tmp_path / "list.txt").write_text(web.uri("/status/500"), "utf-8")
    run_pipeline(input=tmp_path / "list.txt", output=tmp_path / "out", model=tiny)
    assert rerun(str(tmp_path / "out"), "http_5xx,timeout", {"max_failure_rate": "1"}, ())
    assert_sound(tmp_path / "out")
    assert web.requests["/status/500"] == 2


def test_rerun__no_reasons_given__tries_all_again_and_nothing_where_none_is_left(tmp_path, tiny, web, capsys):
    (tmp_path / "list.txt").write_text(f"{web.uri('/late.jpg')}\n{web.uri('/status/500')}\n", "utf-8")
    run_pipeline(input=tmp_path / "list.txt", output=tmp_path / "out", model=tiny, max_failure_rate=1)
    web.files["/late.jpg"] = jpeg_bytes()
    assert rerun(str(tmp_path / "out"), None, {"max_failure_rate": "1"}, ())
    manifest = assert_sound(tmp_path / "out")
    assert manifest["rows"] == {"predictions": 1, "failures": 1}
    assert rerun(str(tmp_path / "out"), "not_found,timeout", {}, ())
    assert assert_sound(tmp_path / "out") == manifest
    assert capsys.readouterr().out.endswith("Failures there: 1 http_5xx.\n")


@pytest.mark.parametrize(
    ("only", "message"),
    [("often", "only='often' is not allowed"), ("bad_row", "only='bad_row'"), ("", "only=''")],
)
def test_rerun__no_such_reason__is_a_user_error(tmp_path, only, message):
    with pytest.raises(UserError, match=message):
        rerun(str(tmp_path), only, {}, ())


def test_rerun__nothing_published__is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="holds no published results: there is no .*manifest.json"):
        rerun(str(tmp_path), "timeout", {}, ())


def test_commands__staged_rows_alone__advise_to_continue_the_run(tmp_path):
    stage(tmp_path, "20260101T000000-00000000", [prediction(1), prediction(2)])
    for command in (lambda: rerun(str(tmp_path), None, {}, ()), lambda: verify(str(tmp_path))):
        with pytest.raises(UserError, match="broke off, .* 2 rows finished. Run the same command again to"):
            command()


def test_run__a_list_of_fewer_images__tells_that_the_tables_have_more(tmp_path, tiny, capsys):
    write_images(tmp_path / "in", [f"{n}.jpg" for n in range(3)])
    options = {"output": str(tmp_path / "out"), "model": str(tiny)}
    assert run_and_report(load_config(None, {"input": str(tmp_path / "in"), **options}, ()))
    out = capsys.readouterr().out
    assert "Top labels\n" in out and "in the tables" not in out
    assert run_and_report(load_config(None, {"input": str(tmp_path / "in" / "0.jpg"), **options}, ()))
    out = capsys.readouterr().out
    assert "; 1 were done before; 2 more are in the tables." in out and "Top labels in the tables\n" in out


def test_replace__another_model__leaves_the_new_rows_alone_and_the_old_ones_in_the_generation(tmp_path, tiny):
    images = write_images(tmp_path / "in", [f"{n}.jpg" for n in range(6)])
    options = {"input": images, "output": tmp_path / "out", "model": tiny}
    run_pipeline(**options)
    (images / "0.jpg").unlink()
    with pytest.raises(UserError, match=r"top_k \(5 there, 2 now\).*--replace"):
        run_pipeline(**options, top_k=2)
    manifest = run_pipeline(**options, top_k=2, replace="true")
    assert_sound(tmp_path / "out")
    assert manifest["rows"] == {"predictions": 5, "failures": 0}
    old = ds.dataset(f"{tmp_path}/out/_generations/predictions").to_table()
    assert len(old) == 6
    assert run_pipeline(**options, top_k=2, replace="true")["counts"]["kept"] == 5


def test_partition_by__column_and_hash__rows_are_the_same_and_verify(tmp_path, tiny):
    write_images(tmp_path / "in", [f"{n}.jpg" for n in range(12)])
    rows = [f"{tmp_path}/in/{n}.jpg,{'abc'[n % 3]}" for n in range(13)]
    (tmp_path / "list.csv").write_text("\n".join(["uri,kind", *rows]), "utf-8")
    options = {"input": tmp_path / "list.csv", "output": tmp_path / "out", "model": tiny}
    plain = run_pipeline(**options)
    expected = read_tables(tmp_path / "out")
    for by, folders in (("kind", 3), ("hash:4", 4)):
        manifest = run_pipeline(**options, partition_by=by)
        assert_sound(tmp_path / "out")
        partitions = {f["path"].split("/")[1] for f in manifest["files"] if f["table"] == "predictions"}
        assert 1 < len(partitions) <= folders and all("=" in name for name in partitions)
        assert read_tables(tmp_path / "out") == expected
        assert verify(str(tmp_path / "out")) == [] and manifest["rows"] == plain["rows"]
    run_pipeline(**options, partition_by="kind")
    folder = tmp_path / "out" / "predictions"
    for table in (pq.read_table(folder), ds.dataset(folder, partitioning="hive").to_table()):
        assert len(table) == 12 and table["kind"].to_pylist() == table["by_kind"].cast("string").to_pylist()
    rows = duckdb.sql(f"SELECT count(*) FROM '{folder}/**/*.parquet' WHERE kind = by_kind").fetchall()
    assert rows == [(12,)]
    before = json.loads((tmp_path / "out" / "manifest.json").read_text())
    again = run_pipeline(**options, partition_by="kind")
    assert (again["generation"], again["files"]) == (before["generation"], before["files"])


@pytest.mark.parametrize(
    ("by", "message"), [("no", "it must be a column"), ("hash:0", "hash:N"), ("hash:x", "hash:N")]
)
def test_partition_by__no_such_column__is_a_user_error(tmp_path, tiny, by, message):
    images = write_images(tmp_path / "in", ["a.jpg"])
    with pytest.raises(UserError, match=message):
        run_pipeline(input=images, output=tmp_path / "out", model=tiny, partition_by=by)


def test_partition_by__column_whose_folders_have_the_name_of_another__is_a_user_error(tmp_path, tiny):
    (tmp_path / "list.csv").write_text("uri,cat,by_cat\na.jpg,1,2\n", "utf-8")
    with pytest.raises(UserError, match="partition_by='cat' makes folders by_cat=.*rename it in the input"):
        run_pipeline(input=tmp_path / "list.csv", output=tmp_path / "out", model=tiny, partition_by="cat")


def test_partition_by__too_many_values__is_refused_and_goes_on_with_another(tmp_path, tiny):
    write_images(tmp_path / "in", [f"{n}.jpg" for n in range(5)])
    rows = [f"{tmp_path}/in/{n}.jpg,{n}" for n in range(5)]
    (tmp_path / "list.csv").write_text("\n".join(["uri,n", *rows]), "utf-8")
    options = {"input": tmp_path / "list.csv", "output": tmp_path / "out", "model": tiny}
    with pytest.raises(RunError, match="more than max_partitions=3 folders"):
        run_pipeline(**options, partition_by="n", max_partitions=3)
    assert run_pipeline(**options, partition_by="hash:2")["counts"]["kept"] == 5
    assert_sound(tmp_path / "out")


def test_dedupe__content__says_how_many_took_anothers_labels(tmp_path, tiny, capsys):
    images = write_images(tmp_path / "in", [f"{n}.jpg" for n in range(9)], jpeg_bytes())
    write_images(images, ["other.jpg"], jpeg_bytes(80, 80))
    flags = {"input": str(images), "output": str(tmp_path / "out"), "model": str(tiny), "dedupe": "content"}
    assert run_and_report(load_config(None, flags))
    assert assert_sound(tmp_path / "out")["counts"]["reused"] == 8
    assert "8 took the labels of another image of the same bytes" in capsys.readouterr().out
    predictions, _ = read_tables(tmp_path / "out")
    assert len({str(p["labels"]) for p in predictions}) == 2 and len({p["uri"] for p in predictions}) == 10


@pytest.mark.parametrize("runner", ["FnApiRunner", "BundleBasedDirectRunner"])
def test_budget__passed__stops_early_names_the_worst_and_keeps_what_is_done(tmp_path, tiny, runner):
    images = write_images(tmp_path / "in", [f"{n}.jpg" for n in range(300)])
    write_images(images, [f"bad{n}.jpg" for n in range(900)], HTML)
    options = {"input": images, "output": tmp_path / "out", "model": tiny, "failure_floor": 50}
    with pytest.raises(RunError, match=r"Stopped early: .*--max_failure_rate 0.1 allows.*not_an_image \("):
        run_pipeline(f"--runner={runner}", **options)
    assert not (tmp_path / "out" / "manifest.json").exists()
    staged = sum(ds.dataset(p).count_rows() for p in (tmp_path / "out").glob("_staging/*/*/*.parquet"))
    assert 50 <= staged < 1200
    counts = run_pipeline(**options, max_failure_rate=1)["counts"]
    assert 50 <= counts["kept"] <= staged
    assert_sound(tmp_path / "out")


def test_budget__split_layout__takes_images_handed_over_for_good(tmp_path, tiny):
    images = write_images(tmp_path / "in", [f"{n}.jpg" for n in range(400)])
    write_images(images, [f"bad{n}.jpg" for n in range(40)], HTML)
    options = {"input": images, "model": tiny, "layout": "split", "failure_floor": 30, "fetch_threads": 1}
    counts = run_pipeline(output=tmp_path / "out", **options)["counts"]
    assert (counts["labelled"], counts["failed"]) == (400, 40)
    write_images(images, [f"worse{n}.jpg" for n in range(400)], HTML)
    with pytest.raises(RunError, match=r"Stopped early: .*--max_failure_rate 0.1 allows"):
        run_pipeline(output=tmp_path / "worse", **options)


def test_budget__by_reason__stops_for_this_reason_alone(tmp_path, tiny):
    images = write_images(tmp_path / "in", [f"{n}.jpg" for n in range(100)])
    write_images(images, [f"bad{n}.jpg" for n in range(400)], HTML)
    options = {"input": images, "output": tmp_path / "out", "model": tiny, "max_failure_rate": 1}
    with pytest.raises(RunError, match="images failed with not_an_image"):
        run_pipeline(**options, failure_floor=20, max_failure_rates="not_an_image=0.2,timeout=0")
    run_pipeline(**options, failure_floor=20, max_failure_rates="timeout=0")


@pytest.fixture
def published(tmp_path, tiny):
    uris = make_mixed_corpus(tmp_path / "images")
    (tmp_path / "list.txt").write_text("\n".join(uris), "utf-8")
    run_pipeline(input=tmp_path / "list.txt", output=tmp_path / "out", model=tiny, max_failure_rate=1)
    return tmp_path / "out"


def test_verify__whole_table__has_no_findings(published, tmp_path):
    assert verify(str(published)) == [] == verify(f"{published}/", {"input": str(tmp_path / "list.txt")})
    assert verify(str(published), {"input": str(tmp_path / "images")}) == []


def file_of(published, table):
    (path,) = (published / table).glob("*.parquet")
    return path


def alter(published, change) -> None:
    """Change the manifest, and update its checksum."""
    path = published / "manifest.json"
    manifest = json.loads(path.read_text("utf-8"))
    change(manifest)
    del manifest["checksum"]
    checksum = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps({**manifest, "checksum": checksum}), "utf-8")


def relist(manifest, published, table, rows) -> None:
    """List the files in the manifest as they are now; `table` has one file, with `rows` rows."""
    manifest["rows"][table] = rows
    for entry in manifest["files"]:
        if entry["table"] == table:
            entry["rows"] = rows
        data = (published / entry["path"]).read_bytes()
        entry.update(size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def renamed(counts, names):
    return {names.get(name, name): count for name, count in counts.items()}


def rewrite(published, table, change) -> None:
    """Change a table's rows, and list the changed file in the manifest."""
    import pyarrow.parquet as pq

    path = file_of(published, table)
    changed = change(pq.read_table(path))
    pq.write_table(changed, path)
    alter(published, lambda manifest: relist(manifest, published, table, len(changed)))


def test_verify__file_gone__is_found(published):
    path = file_of(published, "predictions")
    path.unlink()
    assert verify(str(published)) == [f"predictions/{path.name}: the file is missing"]


def test_verify__bit_flipped__is_found(published):
    path = file_of(published, "failures")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    (finding,) = verify(str(published))
    assert finding.startswith(f"failures/{path.name}: ") and " instead of " in finding


def test_verify__stray_file__is_found(published):
    os.link(file_of(published, "predictions"), published / "predictions" / "stray.parquet")
    assert verify(str(published)) == [
        "predictions/stray.parquet: is there and not listed. Delete it, because readers read it too"
    ]


def test_verify__row_twice__is_found(published):
    import pyarrow as pa

    rewrite(published, "predictions", lambda table: pa.concat_tables([table, table.slice(3, 1)]))
    findings = verify(str(published))
    assert any(line.endswith(": 2 rows") for line in findings)
    assert any("did not balance" in line for line in findings)


def test_verify__row_missing__is_found_by_count_and_by_input(published, tmp_path):
    rewrite(published, "predictions", lambda table: table.slice(1))
    findings = verify(str(published), {"input": str(tmp_path / "list.txt")})
    assert "top_labels" in findings[0] and "did not balance" in findings[1]
    assert findings[2].endswith("is in the input and has no row") and len(findings) == 3


def test_verify__other_reasons_schema_or_fingerprint__are_found(published):
    swapped = {"not_an_image": "timeout"}
    alter(published, lambda m: m.update(failures_by_reason=renamed(m["failures_by_reason"], swapped)))
    (finding,) = verify(str(published))
    assert finding.startswith("failures: by reason")
    rewrite(published, "failures", lambda table: table.drop_columns(["host"]))
    assert any("its schema is not that of failures" in line for line in verify(str(published)))
    alter(published, lambda manifest: manifest["labelled_with"].update(model="other"))
    findings = verify(str(published))
    assert any("its model_fingerprint is" in line for line in findings)
    assert any("rows with model_fingerprint" in line for line in findings)


def test_verify__many_findings__tells_some_and_their_number(published, tmp_path):
    (tmp_path / "more.txt").write_text("\n".join(f"x{n}" for n in range(25)), "utf-8")
    findings = verify(str(published), {"input": str(tmp_path / "more.txt")})
    assert len(findings) == 11 and findings[-1] == "… and 15 more of this kind"


def test_rerun__all_fail_again__is_not_stopped_early(tmp_path, tiny):
    write_images(tmp_path / "in", ["a.jpg"])
    uris = [str(tmp_path / "in" / "a.jpg"), *(str(tmp_path / f"none{n}.jpg") for n in range(50))]
    (tmp_path / "list.txt").write_text("\n".join(uris), "utf-8")
    options = {"input": tmp_path / "list.txt", "output": tmp_path / "out", "model": tiny}
    run_pipeline(**options, failure_floor=20, max_failure_rate=1)
    assert not rerun(str(tmp_path / "out"), "not_found", {"max_failure_rate": "0"}, ())
    assert_sound(tmp_path / "out")


def test_refresh__an_image_cannot_be_asked_for__keeps_its_labels(tmp_path, tiny, web):
    web.files["/status/503/a.jpg"] = jpeg_bytes()
    (tmp_path / "list.txt").write_text(web.uri("/status/503/a.jpg"), "utf-8")
    options = {"input": tmp_path / "list.txt", "output": tmp_path / "out", "model": tiny}
    run_pipeline(**options)
    before = read_tables(tmp_path / "out")
    del web.files["/status/503/a.jpg"]
    counts = run_pipeline(**options, refresh="changed")["counts"]
    assert (counts["kept"], counts["unchecked"], counts["failed"]) == (1, 1, 0)
    assert read_tables(tmp_path / "out") == before


def test_run__mended_input__ids_that_it_was_at_fault_for_are_labelled(tmp_path, tiny):
    images = write_images(tmp_path / "in", ["a.jpg", "b.jpg"])
    (tmp_path / "list.csv").write_text(f"uri,key\n{images}/a.jpg,1\n{images}/b.jpg,1\n", "utf-8")
    options = {"input": tmp_path / "list.csv", "output": tmp_path / "out", "model": tiny, "id_column": "key"}
    assert run_pipeline(**options)["failures_by_reason"] == {"ambiguous_id": 1}
    assert run_pipeline(**options)["counts"]["failed"] == 1
    (tmp_path / "list.csv").write_text(f"uri,key\n{images}/a.jpg,1\n{images}/b.jpg,2\n", "utf-8")
    manifest = run_pipeline(**options)
    assert_sound(tmp_path / "out")
    assert manifest["rows"] == {"predictions": 2, "failures": 0}


def test_run__longer_csv_of_other_types__keeps_those_of_the_table(tmp_path, tiny):
    images = write_images(tmp_path / "in", ["a.jpg", "b.jpg"])
    (tmp_path / "list.csv").write_text(f"uri,code,label\n{images}/a.jpg,x,1\n", "utf-8")
    options = {"input": tmp_path / "list.csv", "output": tmp_path / "out", "model": tiny}
    run_pipeline(**options, column_types="label=int64")
    (tmp_path / "list.csv").write_text(f"uri,code,label\n{images}/a.jpg,1,1\n{images}/b.jpg,2,2\n", "utf-8")
    assert run_pipeline(**options)["counts"]["kept"] == 1
    predictions, _ = read_tables(tmp_path / "out")
    assert sorted((p["code"], p["input_label"]) for p in predictions) == [("2", 2), ("x", 1)]
    with pytest.raises(UserError, match="--column_types"):
        run_pipeline(**options, column_types="code=int64")


def test_run__same_graph_twice__publishes_both_times(tmp_path, tiny):
    """Run one graph twice, because a runner may restart a job, and a user may start a template twice."""
    import apache_beam as beam

    from labelbeam.pipeline.graph import build_graph
    from labelbeam.pipeline.prepare import prepared
    from labelbeam.pipeline.runners.options import pipeline_options

    images = write_images(tmp_path / "in", ["a.jpg", "b.jpg"])
    flags = {"input": str(images), "output": str(tmp_path / "out"), "model": str(tiny)}
    options = pipeline_options(())
    with prepared(load_config(None, flags), options) as plan:
        pipeline = beam.Pipeline(options=options)
        build_graph(pipeline, plan)
        for names in (["c.jpg"], ["d.jpg"]):
            write_images(images, names)
            pipeline.run().wait_until_finish()
            assert_sound(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["rows"]["predictions"] == 4


def test_run__published_file_is_damaged__says_which_and_what_to_do(published, tmp_path, tiny):
    path = file_of(published, "predictions")
    whole = path.read_bytes()
    options = {"input": tmp_path / "list.txt", "output": published, "model": tiny}
    path.write_bytes(whole[:100])
    with pytest.raises(UserError, match=rf"{path} has 100 bytes; manifest.json lists .*labelbeam verify"):
        run_pipeline(**options)
    path.write_bytes(whole)
    flip(path, 4 * len(whole))
    with pytest.raises(
        RunError, match=rf"^{path} is damaged: SHA-256 .*labelbeam verify.*Finished work is kept.$"
    ):
        run_pipeline(**options)
    path.write_bytes(whole)
    assert run_pipeline(**options)["counts"]["labelled"] == 0


def test_verify__counts_edited__is_found(published):
    alter(published, lambda manifest: manifest["counts"].update(labelled=157))
    (finding,) = verify(str(published))
    assert "did not balance" in finding


def test_partition_by__both_tables__are_counted_each_by_itself(tmp_path, tiny):
    write_images(tmp_path / "in", ["0.jpg", "1.jpg"])
    rows = [f"{tmp_path}/in/{name}.jpg,{n % 2}" for n, name in enumerate(("0", "1", "none", "nothing"))]
    (tmp_path / "list.csv").write_text("\n".join(["uri,n", *rows]), "utf-8")
    options = {"input": tmp_path / "list.csv", "output": tmp_path / "out", "model": tiny}
    manifest = run_pipeline(**options, partition_by="n", max_partitions=2)
    assert_sound(tmp_path / "out")
    assert len(manifest["files"]) == 4


def test_run__staged_file_is_damaged__deletes_it_and_labels_its_rows_again(tmp_path, tiny, capfd):
    images = write_images(tmp_path / "in", [f"{n}.jpg" for n in range(6)])
    rows = [f"{images}/{n}.jpg,{n}" for n in range(6)]
    (tmp_path / "list.csv").write_text("\n".join(["uri,n", *rows]), "utf-8")
    options = {"input": tmp_path / "list.csv", "output": tmp_path / "out", "model": tiny, "stage_rows": 2}
    with pytest.raises(RunError, match="folders"):  # the failed run leaves all rows staged
        run_pipeline(**options, partition_by="n", max_partitions=3)
    path, *others = sorted((tmp_path / "out").glob("_staging/*/predictions/*.parquet"))
    lost = ds.dataset(path).count_rows()
    flip(path, 500)
    counts = run_pipeline(**options)["counts"]
    assert (counts["labelled"], counts["kept"]) == (lost, 6 - lost) and others
    assert f"{path} was damaged and is deleted" in capfd.readouterr().err
    assert_sound(tmp_path / "out")
