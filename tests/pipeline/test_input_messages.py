"""Messages about inputs that can't be read: what is wrong, and a remedy that fits."""

import io
import json
import sys
import tarfile
import zipfile
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labelbeam.pipeline.config import ReadConfig
from labelbeam.pipeline.copies import delete_copies
from labelbeam.pipeline.corpus import find_corpus
from labelbeam.transforms.errors import UserError
from labelbeam.transforms.read import list_rows

COCO = {"info": {"year": 2017}, "licenses": [{"id": 1}], "images": [{"file_name": "a.jpg", "id": 1}]}
OF_A_CSV = "if these are values, give the names with --header"
NO_COLUMN = "no column of text with a usual name"

# Content of a list, its options, and parts of the message; parts that begin with ! are not in it.
REFUSED = {
    "coco.json": (json.dumps(COCO), {}, [NO_COLUMN, "jq -c '.images[]' FILE > NEW_FILE", "!--header"]),
    "own keys.json": ('{"my rows": [{"src": "a.jpg"}]}', {}, ["""jq -c '.["my rows"][]' FILE"""]),
    "array.json": (json.dumps(COCO), {"uri_column": "images"}, ["holds no text", "jq -c '.images[]'"]),
    "guess.json": (json.dumps(COCO), {"uri_column": "images.file"}, ["is no column of", "jq -c '.images[]'"]),
    "object.jsonl": (
        '{"data": {"n": 1, "image": "a.jpg"}}',
        {"uri_column": "data"},
        ["uri_column='data' of", "holds no text. Name a value in it, such as --uri_column=data.image."],
    ),
    "id.jsonl": (
        '{"uri": "a.jpg", "meta": {"key": "k"}}',
        {"id_column": "meta"},
        ["id_column='meta' of", "such as --id_column=meta.key."],
    ),
    "list.jsonl": ('{"photo": ["a.jpg"], "n": 1}', {"uri_column": "photo"}, ["Name a column of text."]),
    "names.jsonl": (
        '{"photo": "a.jpg", "n": 1}',
        {},
        ["columns are photo, n. Name one with --uri_column.", "!--header"],
    ),
    "names.csv": (
        "photo,n\na.jpg,1\n",
        {},
        [f"columns are photo, n. Name one with --uri_column; {OF_A_CSV}."],
    ),
    "semicolon.csv": (
        "uri,sku,price\n/a.jpg,1,2\n",
        {"delimiter": ";"},
        [
            "its only column is 'uri,sku,price'",
            f"{OF_A_CSV}; if another character separates columns, set --del",
        ],
    ),
    "tilde.csv": ("uri~sku\n/a.jpg~1\n", {"uri_column": "sku"}, ["is 'uri~sku'", "set --delimiter"]),
    "paths.json": ('["/a.jpg", "/b.jpg"]', {}, ["no objects among its first rows", "jq -r '.[]' FILE"]),
    **{
        f"empty.{form}": ("", {"input_format": form}, ["is empty. Put a whole copy in its place", "!b''"])
        for form in ("tar", "zip", "parquet_images")
    },
    "options.txt": (
        "/a.jpg\n",
        {"header": ("uri", "sku")},
        ["header='uri,sku'", "Leave it out, or add --input_format=csv if it is a CSV."],
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_find_corpus__list_that_is_refused__gets_a_remedy_that_fits(tmp_path, name):
    text, options, parts = REFUSED[name]
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as raised:
        find_corpus(ReadConfig(input=str(tmp_path / name), **options))
    for part in parts:
        assert (part.removeprefix("!") in str(raised.value)) != part.startswith("!"), raised.value


@pytest.mark.parametrize(("option", "inner"), [("uri_column", "data.image"), ("id_column", "data.n")])
def test_find_corpus__struct_as_uri_or_id__is_refused_with_a_value_in_it(tmp_path, option, inner):
    table = pa.table({"uri": ["a.jpg"], "data": [{"n": 1, "image": "a.jpg"}]})
    pq.write_table(table, tmp_path / "list.parquet")
    with pytest.raises(UserError, match=f"holds no text. Name a value in it, such as --{option}=data"):
        find_corpus(ReadConfig(input=str(tmp_path / "list.parquet"), **{option: "data"}))
    assert find_corpus(ReadConfig(input=str(tmp_path / "list.parquet"), **{option: inner}))


def test_find_corpus__object_under_a_usual_name__is_not_taken_for_the_uri(tmp_path):
    (tmp_path / "list.jsonl").write_text('{"image": {"href": "a.jpg", "w": 3}}\n{"image": null}\n')
    corpus = find_corpus(ReadConfig(input=str(tmp_path / "list.jsonl")))
    assert corpus.uri_column == "image.href"
    assert [getattr(row, "uri", "no uri") for row in list_rows(corpus)] == ["a.jpg", "no uri"]


# Text on standard input, options, the format that it is read as, and the URIs; or a part of the message.
PIPED = {
    "names": ("photo,n\na.jpg,1\n", {}, "columns are photo, n. Name one with --uri_column"),
    "tabs": ("photo\tn\na.jpg\t1\n", {}, "columns are photo, n. Name one"),
    "option": ("photo,n\na.jpg,1\n", {"uri_column": "photo"}, ("csv", ["a.jpg"])),
    "header": ("a.jpg,1\nb.jpg,2\n", {"header": ("uri", "n")}, ("csv", ["a.jpg", "b.jpg"])),
    "template": ("a b,n\na.jpg,1\n", {"uri_template": "x/{a b}"}, ("csv", ["x/a.jpg"])),
    "types": ("uri,n\na.jpg,1\n", {"column_types": (("n", "int64"),)}, ("csv", ["a.jpg"])),
    "delimiter": ("uri~n\na.jpg~1\n", {"delimiter": "~"}, ("csv", ["a.jpg"])),
    "of old manifests": ("a.jpg\n", {"uri_column": "uri"}, ("lines", ["a.jpg"])),
    "lines": ("a.jpg\nb.jpg\n", {}, ("lines", ["a.jpg", "b.jpg"])),
    "commas": ("a,b.jpg\nc,d.jpg\n", {}, ("lines", ["a,b.jpg", "c,d.jpg"])),
    "paths": ("/a,b\n/c,d\n", {}, ("lines", ["/a,b", "/c,d"])),
    "one": ("a,b\n", {}, ("lines", ["a,b"])),
    "other numbers": ("a,b\nc\n", {}, ("lines", ["a,b", "c"])),
}


@pytest.mark.parametrize("case", PIPED)
def test_find_corpus__piped_text__is_a_csv_if_options_or_its_first_lines_show_it(case, monkeypatch):
    text, options, outcome = PIPED[case]
    delete_copies()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=Piped(text.encode())))
    config = ReadConfig(input="-", **options)
    if isinstance(outcome, str):
        with pytest.raises(UserError, match=outcome):
            find_corpus(config)
        return
    corpus = find_corpus(config)
    assert (corpus.format, [row.uri for row in list_rows(corpus)]) == outcome


class Piped(io.BytesIO):
    def isatty(self):
        return False


LISTS = {".csv": b"uri\n/a.jpg\n", ".txt": b"/a.jpg\n", ".jsonl": b'{"uri": "/a.jpg"}\n', ".md": b"# words\n"}
with zipfile.ZipFile(_zip := io.BytesIO(), "w") as _archive:
    _archive.writestr("a.jpg", b"image")
with tarfile.open(fileobj=(_tar := io.BytesIO()), mode="w") as _archive:
    _archive.addfile(tarfile.TarInfo("a.jpg"))
CONTENTS = {
    **LISTS,
    ".zip": _zip.getvalue(),
    ".tar": _tar.getvalue(),
    ".jpg": b"\xff\xd8\xff\0",
    "": b"\xff\xd8\xff\0",
}


@pytest.mark.parametrize(
    ("names", "pattern", "outcome"),
    [
        (("a.csv", "b.csv", "c.csv"), "*", "files end in .csv. Give '{}.csv', or set --input_format."),
        (("a.csv", "b.jsonl"), "*", "files end in .csv, .jsonl. Give '{}.csv' or '{}.jsonl', or set"),
        (
            ("a.jsonl", "b.csv"),
            "*",
            "several formats, which end in .jsonl, .csv. Give '{}.jsonl' or '{}.csv'",
        ),
        (("a.tar", "b.zip"), "*", "several formats, which end in .tar, .zip. Give '{}.tar' or '{}.zip'"),
        (("a.zip", "s0.tar", "s1.tar"), "*", "end in .tar, .zip. Give '{}.tar' or '{}.zip'"),
        (("a-1.csv", "b-1.csv"), "?-1*v", "files end in .csv. Give a pattern with the ending, or set"),
        (("_SUCCESS", "a.csv"), "*", "files end in .csv. Give '{}.csv'"),
        (("a.jsonl", "b.jsonl"), "*", "jsonl"),
        (("a.jpg", "b.csv", "c.csv"), "*", "images"),
        (("a", "b", "c.csv"), "*", "images"),
        (("a.md",), "*", "images"),
    ],
)
def test_find_corpus__glob_that_shows_no_format__is_read_as_one_format_or_refused(
    tmp_path, names, pattern, outcome
):
    for name in names:
        (tmp_path / name).write_bytes(CONTENTS["." + name.partition(".")[2] if "." in name else ""])
    where = f"{tmp_path}/{pattern}"
    if " " not in outcome:
        assert find_corpus(ReadConfig(input=where)).format == outcome
        return
    with pytest.raises(UserError) as raised:
        find_corpus(ReadConfig(input=where))
    assert outcome.replace("{}", where) in str(raised.value)


def test_find_corpus__images_in_parquet__name_the_column_that_was_chosen(tmp_path):
    struct = pa.array([{"bytes": b"x", "path": "a.jpg"}])
    pq.write_table(pa.table({"image": [b"x"], "thumb": [b"x"], "mask": struct}), tmp_path / "a.parquet")
    corpus = find_corpus(ReadConfig(input=f"{tmp_path}/a.parquet"))
    assert corpus.image_feature == "mask" and "column 'mask' holds the images" in corpus.remarks[0]
    named = find_corpus(ReadConfig(input=f"{tmp_path}/a.parquet", image_feature="image"))
    assert (named.image_feature, named.remarks) == ("image", ())
