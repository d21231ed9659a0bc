import dataclasses
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labelbeam.pipeline.config import ReadConfig
from labelbeam.pipeline.corpus import find_corpus
from labelbeam.transforms.errors import UserError
from labelbeam.transforms.inputs.columns import output_columns
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.inputs.files import ListFile
from labelbeam.transforms.inputs.several import join_corpora
from labelbeam.transforms.read import ReadImageRefs, list_rows
from tests.eager import RUNNERS, eagerly

ROWS = [{"url": f"/photos/{n}.jpg", "n": n, "name": f"image {n}"} for n in range(6)]


@pytest.fixture
def lists(tmp_path):
    """Return the paths of lists in several formats with two rows each, whose columns have other orders."""
    (tmp_path / "a, b.csv").write_text(
        "url,n,name\n" + "".join(f"{r['url']},{r['n']},{r['name']}\n" for r in ROWS[:2])
    )
    (tmp_path / "c.jsonl").write_text(
        "".join(
            json.dumps({"name": row["name"], "url": row["url"], "n": row["n"]}) + "\n" for row in ROWS[2:4]
        )
    )
    table = pa.Table.from_pylist(ROWS[4:]).select(["n", "name", "url"])
    pq.write_table(table, tmp_path / "d.parquet")
    (tmp_path / "e.csv").write_text("image,name,n\n/photos/5.jpg,again,5\n")
    return [str(tmp_path / name) for name in ("a, b.csv", "c.jsonl", "d.parquet", "e.csv")]


@pytest.mark.parametrize("runner", RUNNERS)
def test_read__several_formats__gives_the_rows_of_all_with_their_own_values(lists, runner):
    corpus = find_corpus(ReadConfig(input=tuple(lists), column_types=(("n", "int64"),)))
    expected = [(row["url"], (row["n"], row["name"])) for row in ROWS] + [("/photos/5.jpg", (5, "again"))]
    assert [(row.uri, row.columns) for row in list_rows(corpus)] == expected
    read = eagerly(ReadImageRefs(corpus), None, runner)
    assert sorted((row.uri, row.columns) for row in read.ok) == sorted(expected)
    assert corpus.formats == "csv and jsonl and parquet" and corpus.has_files
    assert any(remark.startswith(f"{lists[3]}: ") and "'image'" in remark for remark in corpus.remarks)
    assert not corpus.without_files().has_files


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("first", [0, 1])
def test_read__reserved_name_in_one_input_and_its_output_name_in_another__keeps_all_values(
    tmp_path, suffix, first
):
    (tmp_path / "a.csv").write_text("uri,n,input_label\n/0.jpg,zero,cat\n")
    other = pa.table({"label": ["dog"], "uri": ["/1.jpg"], "n": ["one"]})
    path = tmp_path / f"b{suffix}"
    if suffix == ".csv":
        path.write_text("label,uri,n\ndog,/1.jpg,one\n")
    elif suffix == ".jsonl":
        path.write_text(json.dumps(other.to_pylist()[0]) + "\n")
    else:
        pq.write_table(other, path)
    inputs = [str(tmp_path / "a.csv"), str(path)]
    corpus = find_corpus(ReadConfig(input=tuple(inputs[first:] + inputs[:first])))
    names = [name for name, _ in output_columns(corpus)]
    rows = {row.uri: dict(zip(names, row.columns, strict=True)) for row in list_rows(corpus)}
    assert rows == {
        "/0.jpg": {"n": "zero", "input_label": "cat"},
        "/1.jpg": {"n": "one", "input_label": "dog"},
    }


def test_find_corpus__folder_and_list__are_read_as_one(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    (tmp_path / "list.txt").write_text("/elsewhere/b.jpg\n")
    corpus = find_corpus(ReadConfig(input=(str(tmp_path / "photos"), str(tmp_path / "*.txt"))))
    assert [row.uri for row in list_rows(corpus)] == [f"{tmp_path}/photos/a.jpg", "/elsewhere/b.jpg"]
    assert [part.most_files for part in corpus.with_most_files(7).parts] == [7, 7]


@pytest.mark.parametrize(
    ("other", "options", "message"),
    [
        (
            "uri\n/f.jpg\n",
            {},
            "input='.*/other.csv' and input='.*/a, b.csv' have different columns: 'n' is missing in the "
            "former and string in the latter. Inputs of one run must have the same columns and types. Run",
        ),
        ("uri,n,m,name\n", {}, "'m' is string in the former and missing in the latter"),
        ("uri,n\n", {"column_types": (("n", "int64"),)}, "'name' is missing in the former and string"),
        ("uri,n,name\n", {"id_column": "key"}, "id_column='key' is no column of"),
    ],
)
def test_find_corpus__other_columns__are_refused_in_one_line(lists, tmp_path, other, options, message):
    (tmp_path / "other.csv").write_text(other)
    with pytest.raises(UserError, match=message):
        find_corpus(ReadConfig(input=(lists[0], str(tmp_path / "other.csv")), **options))


def test_join_corpora__images_inside_files_beside_a_list__is_refused():
    shards, lines = Corpus("a.tar", "tar", holds_images=True), Corpus("b.txt", "lines")
    for parts, names in (((shards, lines), ("a.tar", "b.txt")), ((lines, shards), ("b.txt", "a.tar"))):
        with pytest.raises(UserError, match="input='a.tar' holds images, and input='b.txt' lists them"):
            join_corpora(parts, names)
    files = tuple(ListFile(f"/{n}.tar", 1, 0.0) for n in range(3))
    one, other = (dataclasses.replace(shards, files=some) for some in (files[:2], files[1:]))
    assert join_corpora((one, other), ("a", "b")) == dataclasses.replace(one, pattern="a, b", files=files)
    remarked = dataclasses.replace(other, remarks=("A remark.",))
    assert join_corpora((one, remarked), ("a", "b")).remarks == ("b: A remark.",)
    with pytest.raises(UserError, match="input='b.zip' is read as zip, and input='a.tar' as tar"):
        join_corpora((one, dataclasses.replace(other, format="zip")), ("a.tar", "b.zip"))
