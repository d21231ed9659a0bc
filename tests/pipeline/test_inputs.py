"""Whole runs over inputs of every kind."""

import gzip
import os

import pytest

from labelbeam.pipeline import launch
from labelbeam.pipeline.cli import main
from labelbeam.pipeline.commands.rerun import rerun
from labelbeam.pipeline.commands.verify import verify
from labelbeam.pipeline.manifest import published_manifest
from labelbeam.pipeline.report.summary import summarise
from labelbeam.transforms.errors import RunError
from tests.graphs import TWO_PROCESSES, assert_sound, read_tables, run_pipeline
from tests.synthetic import HEIC, encoded, gradient, jpeg_bytes


def rows_by_name(output) -> dict[str, str]:
    """Return the label or the reason of each row, by the last part of the URI."""
    predictions, failures = read_tables(output)
    return {row["uri"].rpartition("/")[2]: row.get("reason", "label") for row in predictions + failures}


def test_graph__folder_of_odd_files__every_one_is_labelled_fails_or_is_counted(tmp_path, tiny):
    folder, output = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    for name in (b"a.jfif", b"b \xff%.JPE", b"c#d?e\n.jpg", b"notes.TXT", b"more.txt", b".DS_Store", b"none"):
        with open(os.fsencode(folder) + b"/" + name, "wb") as f:
            f.write(jpeg_bytes())
    (folder / "raw.dng").write_bytes(encoded(gradient(60, 40), "TIFF"))
    (folder / "phone.heic").write_bytes(HEIC)
    (folder / "gone.png").symlink_to("nowhere.png")
    (folder / "linked.jpg").symlink_to("a.jfif")
    options = {"input": folder, "output": output, "model": tiny, "max_failure_rate": 1}
    manifest = run_pipeline(**options)
    assert rows_by_name(output) == {
        **dict.fromkeys(["a.jfif", "b%20%FF%25.JPE", "c%23d%3Fe%0A.jpg", "linked.jpg"], "label"),
        **{"raw.dng": "unsupported", "phone.heic": "unsupported", "gone.png": "not_found"},
    }
    assert manifest["left_out"] == {".txt": 2, "(hidden)": 1, "(none)": 1}
    assert "Left out of the input: 2 .txt, 1 (hidden), 1 (none)." in summarise(
        published_manifest(str(output)), str(output), 1
    )
    again = run_pipeline(**options, refresh="changed")["counts"]
    assert (again["kept"], again["failed"], again["labelled"]) == (4, 3, 0)
    assert_sound(output)
    assert verify(str(output), {"input": str(folder)}) == []


def test_run__choices_by_names_of_columns__are_printed(tmp_path, tiny, capsys):
    for name, column in (("a", "url"), ("b", "Image Path")):
        (tmp_path / f"{name}.jpg").write_bytes(jpeg_bytes())
        (tmp_path / f"{name}.csv").write_text(f"{column},n\n{tmp_path}/{name}.jpg,1\n")
    lists = [tmp_path / "a.csv", tmp_path / "b.csv"]
    assert run_pipeline(input=lists, output=tmp_path / "out", model=tiny)["counts"]["labelled"] == 2
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Input: ")]
    assert printed == [
        f"Input: {lists[0]}: The column 'url' holds the URIs, by its name.",
        f"Input: {lists[1]}: The column 'Image Path' holds the URIs, by its name.",
    ]


def test_graph__table_without_rows__pins_no_types(tmp_path, tiny):
    (tmp_path / "a.jpg").write_bytes(jpeg_bytes())
    options = {"input": tmp_path / "list.csv", "output": tmp_path / "out", "model": tiny}
    (tmp_path / "list.csv").write_text("uri,n\n")
    assert run_pipeline(**options, column_types="n=int64")["counts"]["listed"] == 0
    (tmp_path / "list.csv").write_text(f"uri,n\n{tmp_path}/a.jpg,007\n")
    run_pipeline(**options)
    assert read_tables(tmp_path / "out")[0][0]["n"] == "007"


def test_run__uris_changed_under_their_ids__are_labelled_again_and_counted(tmp_path, tiny):
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.png").write_bytes(jpeg_bytes(40 + ord(name)))
    path, output = tmp_path / "list.csv", tmp_path / "out"

    def write(*rows: str) -> None:
        path.write_text("".join(f"{row}\n" for row in ("key,uri", *(row.format(tmp_path) for row in rows))))

    options = {"input": path, "output": output, "model": tiny, "id_column": "key", "max_failure_rate": 1}
    write("A,{}/a.png", "B,{}/none.png", "C,{}/c.png")
    assert run_pipeline(**options)["counts"]["other_uri"] == 0
    write("A,{}/b.png", "B,{}/b.png", "C,{}/c.png")
    manifest = run_pipeline(**options)
    counts = manifest["counts"]
    assert (counts["labelled"], counts["kept"], counts["other_uri"]) == (2, 1, 2)
    assert verify(str(output), {"input": str(path)}) == []
    assert "2 were done under another URI" in summarise(published_manifest(str(output)), str(output), 1)
    assert_sound(output)
    assert rows_by_name(output) == {"b.png": "label", "c.png": "label"}
    write("A,{}/c.png", "B,{}/b.png", "C,{}/c.png")
    (finding,) = verify(str(output), {"input": str(path)})
    assert finding.startswith(f"id 'A': is '{tmp_path}/c.png' in the input, and its row has another URI")
    counts = run_pipeline(**options, refresh="changed")["counts"]
    assert (counts["labelled"], counts["kept"], counts["other_uri"]) == (1, 2, 1)


@pytest.mark.usefixtures("own_signal_handlers")
def test_rerun__with_an_input__takes_the_uris_of_the_input(tmp_path, tiny, capsys):
    (tmp_path / "a.png").write_bytes(jpeg_bytes())
    path, output = tmp_path / "list.csv", tmp_path / "out"
    path.write_text(f"key,uri\nA,{tmp_path}/moved.png\nB,{tmp_path}/none.png\n")
    options = {"input": path, "model": tiny, "id_column": "key", "max_failure_rate": 1}
    run_pipeline(**options, output=output)
    path.write_text(f"key,uri\nA,{tmp_path}/a.png\nB,{tmp_path}/none.png\n")
    assert rerun(str(output), None, {}, ()) and rows_by_name(output)["moved.png"] == "not_found"
    status = main(["rerun", str(output), "--input", str(path), "--max_failure_rate=1"])
    assert status == 0 and rows_by_name(output) == {"a.png": "label", "none.png": "not_found"}
    assert_sound(output)
    path.write_text(f"link,key\n{tmp_path}/a.png,A\n{tmp_path}/none.png,B\n{tmp_path}/a.png,C\n")
    arguments = [str(output), f"--input={path}", "--uri-column=link"]
    assert main(["verify", str(output), "--uri-column=link"]) == 2
    assert main(["verify", *arguments]) == 1
    assert f"\nid 'C': '{tmp_path}/a.png' is in the input and has no row\n" in capsys.readouterr().out
    assert main(["rerun", *arguments, "--only=timeout", "--max-failure-rate=1"]) == 0
    assert main(["verify", *arguments]) == 0
    assert capsys.readouterr().out.endswith(f"Each image of {path} has a row.\n")


def test_verify__bad_rows_and_ambiguous_ids__are_covered_by_their_failures(tmp_path, tiny):
    path, output = tmp_path / "list.csv", tmp_path / "out"
    lines = [b"A,", b"A,x.jpg", b"B,", b"C,c.jpg,1", b"D,d.jpg", b"D,e.jpg", b"H"]
    lines += [b"\xff,f.jpg", b"G,\xff.jpg", "E,ü.jpg".encode(), "F,ö.jpg".encode()]
    path.write_bytes(b"\n".join([b"key,uri", *lines]))
    options = {"input": path, "output": output, "model": tiny, "id_column": "key", "max_failure_rate": 1}
    manifest = run_pipeline(**options)
    assert manifest["failures_by_reason"] == {"bad_row": 5, "not_found": 3, "ambiguous_id": 1}
    assert_sound(output)
    assert verify(str(output), {"input": str(path)}) == []
    path.write_bytes(b"\n".join([b"key,uri", *lines, b"new,a.jpg"]))
    assert verify(str(output), {"input": str(path)}) == ["id 'new': 'a.jpg' is in the input and has no row"]


def test_run__list_cut_in_half__ends_with_its_name_and_publishes_nothing(tmp_path, tiny):
    text = "".join(f"{tmp_path}/{n}.jpg\n" for n in range(20_000)).encode()
    data = gzip.compress(text)
    (tmp_path / "list.txt.gz").write_bytes(data[: len(data) // 2])
    with pytest.raises(RunError, match=r"list\.txt\.gz is cut"):
        run_pipeline(input=tmp_path / "list.txt.gz", output=tmp_path / "out", model=tiny)
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize("flags", [(), TWO_PROCESSES], ids=["one process", "two"])
def test_run__list_deleted_after_planning__ends_with_its_name(tmp_path, tiny, monkeypatch, flags):
    (tmp_path / "list.txt").write_text("a.jpg\n")
    build = launch.build_graph

    def build_and_delete(pipeline, plan):
        build(pipeline, plan)
        (tmp_path / "list.txt").unlink()

    monkeypatch.setattr(launch, "build_graph", build_and_delete)
    with pytest.raises(RunError, match=r"list\.txt cannot be read any more"):
        run_pipeline(*flags, input=tmp_path / "list.txt", output=tmp_path / "out", model=tiny)
