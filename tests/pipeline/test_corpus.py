import errno
import functools
import gzip
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labelbeam.pipeline.config import ReadConfig
from labelbeam.pipeline.corpus import find_corpus
from labelbeam.transforms.errors import UserError
from labelbeam.transforms.images.formats import IMAGE_SUFFIXES
from labelbeam.transforms.inputs import globs
from labelbeam.transforms.inputs.columns import output_columns
from labelbeam.transforms.read import list_rows
from labelbeam.transforms.sources import gcs as gcs_source


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "photos").mkdir()
    for name in ("photos/a.jpg", "list.txt", "list.txt.gz", "urls", "part-0.txt", "odd[1].txt"):
        (tmp_path / name).touch()
    (tmp_path / "list.txt.gz").write_bytes(gzip.compress(b"a.jpg\n"))
    (tmp_path / "list.csv").write_text("uri,n,x,day,label,code\na.jpg,1,0.5,2026-01-02,t,007\n")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "form", "pattern"),
    [
        ("photos", "images", "photos/**"),
        ("photos/", "images", "photos/**"),
        ("photos/*", "images", "photos/*"),
        ("photos/a.jpg", "images", "photos/a.jpg"),
        ("list.txt", "lines", "list.txt"),
        ("list.txt.gz", "lines", "list.txt.gz"),
        ("urls", "lines", "urls"),
        ("part-*.txt", "lines", "part-*.txt"),
        ("odd[1].txt", "lines", "odd[[]1].txt"),
        ("list.csv", "csv", "list.csv"),
    ],
)
def test_find_corpus__by_its_name__is_of_a_format(folder, name, form, pattern):
    corpus = find_corpus(ReadConfig(input=f"{folder}/{name}"))
    assert (corpus.format, corpus.pattern) == (form, f"{folder}/{pattern}")
    assert corpus.suffixes == (IMAGE_SUFFIXES if name.startswith("photos") and name[-1] in "s/" else ())


def test_find_corpus__csv__columns_are_text_unless_declared_or_in_the_table(folder):
    config = ReadConfig(input=f"{folder}/list.csv", column_types=(("n", "int64"), ("day", "date")))
    table = {"x": pa.float64(), "n": pa.bool_(), "input_label": pa.string(), "elsewhere": pa.int64()}
    assert dict(find_corpus(config, table).columns) == {
        "n": pa.int64(),
        "x": pa.float64(),
        "day": pa.date32(),
        "label": pa.string(),
        "code": pa.string(),
    }
    assert dict(output_columns(find_corpus(config)))["input_label"] == pa.string()


@pytest.mark.parametrize(
    ("text", "form", "uris"),
    [
        ("Image URL,name\na.jpg,x\n", "csv", ["a.jpg"]),
        ("\ufeffname|ImageURL\r\nx|a.jpg\r\n", "csv", ["a.jpg"]),
        ("name\tdata.image\nx\ta.jpg\n", "csv", ["a.jpg"]),
        ("a.jpg\nb.jpg\n", "lines", ["a.jpg", "b.jpg"]),
        ("../image\nb.jpg\n", "lines", ["../image", "b.jpg"]),
    ],
)
def test_find_corpus__name_without_ending__is_of_the_format_of_the_first_line(tmp_path, text, form, uris):
    (tmp_path / "list").write_text(text)
    corpus = find_corpus(ReadConfig(input=f"{tmp_path}/list"))
    assert corpus.format == form
    assert [row.uri for row in list_rows(corpus)] == uris


def test_find_corpus__input_format__wins_over_the_name(folder):
    assert find_corpus(ReadConfig(input=f"{folder}/list.csv", input_format="lines")).format == "lines"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "list.csv is empty. Put a line with the columns' names first"),
        ("\ufeff\r\n \n", "list.csv is empty"),
        ("\nuri\n", "begins with '', which is no header"),
        ("uri,Sku,sku\n", r"distinct column names \('sku' occurs twice\)"),
        ("uri,,b\n", "distinct column names"),
        ("n,Image URL,path\n", "several columns that may hold the URIs: Image URL, path. Name one with"),
        (
            "n,m\n",
            r"no column of text with a usual name .* its columns are n, m\. Name one with --uri_column",
        ),
        (
            "many/m0.jpg,1\n",
            r"its columns are many/m0.jpg, 1\. .*; if these are values, give the names",
        ),
        ("https://h/a.jpg,1\n", "is no header .*--input_format=lines"),
        ("a,b;c\n", "may be separated by commas or semicolons. Set --delimiter"),
        ("uri,a;url\n", "may be separated by commas or semicolons"),
        ("uri,label,input_label\n", "two columns 'input_label'"),
    ],
)
def test_find_corpus__bad_header__is_explained(tmp_path, text, message):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        output_columns(find_corpus(ReadConfig(input=f"{tmp_path}/list.csv")))


@pytest.mark.parametrize("name", ["list.csv", "list.csv.gz", "list.txt", "list"])
@pytest.mark.parametrize("size_bytes", [512, 100_000])
def test_find_corpus__list_of_zeros__is_refused(tmp_path, name, size_bytes):
    data = bytes(size_bytes)
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    with pytest.raises(UserError, match=f"{name} has NUL bytes, the first in line 1"):
        find_corpus(ReadConfig(input=str(tmp_path / name)))


@pytest.mark.parametrize("options", [("a.tar", "auto"), ("a", "tar")])
def test_find_corpus__tar_archive_of_zeros__is_one_by_its_name_or_option(tmp_path, options):
    name, input_format = options
    (tmp_path / name).write_bytes(bytes(10_240))
    assert find_corpus(ReadConfig(input=str(tmp_path / name), input_format=input_format)).format == "tar"


def test_find_corpus__missing_bucket__is_a_user_error(gcs):
    with pytest.raises(UserError, match="gs://no-such-bucket/list.txt"):
        find_corpus(ReadConfig(input="gs://no-such-bucket/list.txt"))


@pytest.mark.parametrize("name", ["gs://bucket/list.txt", "gs://bucket/*.jpg", "gs://bucket/folder"])
def test_find_corpus__no_network__is_named_with_the_remedy(monkeypatch, name):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    monkeypatch.setattr(gcs_source, "_RETRY", gcs_source._RETRY.with_timeout(0.1))
    with pytest.raises(
        UserError, match="cannot be read: http://127.0.0.1:9 does not respond. Check the network.$"
    ):
        find_corpus(ReadConfig(input=name))


def test_find_corpus__folder_without_images__is_a_user_error(tmp_path):
    (tmp_path / "notes.md").touch()
    with pytest.raises(UserError, match="holds no images: no file ends in .jpg, "):
        find_corpus(ReadConfig(input=str(tmp_path)))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["a.tar", "b.tar", "a.csv", "x.md"],
            "2 files that end in .tar. Give a pattern: --input '{}/*.tar'.",
        ),
        (["a.TAR.GZ"], "1 file that ends in .TAR.GZ. Give a pattern: --input '{}/*.TAR.GZ'."),
        (["x/a.parquet"], "1 file that ends in .parquet. Give a pattern: --input '{}/**/*.parquet'."),
    ],
)
@pytest.mark.parametrize("end", ["", "/"])
def test_find_corpus__folder_of_files_that_are_read__is_refused_with_a_pattern(tmp_path, names, message, end):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(UserError) as error:
        find_corpus(ReadConfig(input=f"{tmp_path}{end}"))
    assert str(error.value) == f"input='{tmp_path}' holds no images, but {message.format(tmp_path)}"


def test_find_corpus__parts_with_other_columns__are_refused(tmp_path):
    (tmp_path / "part-0.csv").write_text("uri,author,licence\n")
    (tmp_path / "part-1.csv").write_text("uri,licence,author\n")
    with pytest.raises(UserError, match=r"part-1.csv has the columns uri, licence, author, and .*part-0.csv"):
        find_corpus(ReadConfig(input=f"{tmp_path}/part-*.csv"))


def test_find_corpus__columns_of_what_is_no_csv__are_refused(tmp_path):
    (tmp_path / "list.txt").touch()
    with pytest.raises(UserError, match="id_column=.* is read as [a-z]*, which has no such option"):
        find_corpus(ReadConfig(input=f"{tmp_path}/list.txt", id_column="key"))


@pytest.mark.parametrize(
    ("option", "explained"),
    [
        ({"id_column": "key"}, "id_column=.* is read as [a-z]*, which has no such option"),
        ({"column_types": {"x": "int64"}}, "column_types=.* is read as [a-z]*, which has no such option"),
        ({"input_format": "csv"}, "input_format='csv': input=.* is a folder"),
        ({"input_format": "lines"}, "input_format='lines': input=.* is a folder"),
    ],
)
def test_find_corpus__options_of_lists_with_a_folder__are_refused(folder, option, explained):
    with pytest.raises(UserError, match=explained):
        find_corpus(ReadConfig(input=f"{folder}/photos", **option))


@pytest.mark.parametrize(
    "options",
    [
        {"id_column": "n"},
        {"column_types": (("n", "int64"),)},
        {"uri_column": "n", "image_feature": "image"},
        {"uri_template": "{n}", "image_feature": "image"},
    ],
)
def test_find_corpus__options_of_lists_with_parquet_that_has_images__are_refused(tmp_path, options):
    pq.write_table(pa.table({"image": [b"\xff\xd8"], "n": ["1"]}), tmp_path / "a.parquet")
    name = next(iter(options))
    with pytest.raises(UserError, match=f"{name}=.* is read as parquet_images, which has no such option"):
        find_corpus(ReadConfig(input=f"{tmp_path}/a.parquet", **options))


@pytest.mark.parametrize("pattern", ["**", "**/*.jpg"])
def test_find_corpus__folder_that_may_not_be_listed__is_a_user_error(tmp_path, monkeypatch, pattern):
    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(globs.os, "scandir", refuse)
    with pytest.raises(UserError, match="cannot be listed: Permission denied"):
        find_corpus(ReadConfig(input=str(tmp_path)))


@pytest.mark.parametrize("first", ["link", "pipe"])
def test_find_corpus__glob_of_images__is_one_whatever_its_first_file_is(tmp_path, first):
    """Expect one result per file, because a glob of images is never read as lists."""
    (tmp_path / "b.jpg").touch()
    (tmp_path / "a.jpg").symlink_to("nowhere") if first == "link" else os.mkfifo(tmp_path / "a.jpg")
    assert len(list(list_rows(find_corpus(ReadConfig(input=f"{tmp_path}/*.jpg"))))) == 2


@pytest.mark.parametrize("place", ["", "gs://deep"])
def test_find_corpus__range_without_members__is_a_user_error(gcs, place):
    gcs.put("gs://deep/a.jpg", b"x")
    with pytest.raises(UserError, match=r"\[b-a\]x.jpg' is no pattern: bad character range b-a"):
        find_corpus(ReadConfig(input=f"{place}/[b-a]x.jpg"))


@pytest.mark.parametrize("name", ["gs://deep", "gs://deep/"])
def test_find_corpus__bucket__is_a_folder(gcs, name):
    gcs.put("gs://deep/a/b.jpg", b"x")
    assert [row.uri for row in list_rows(find_corpus(ReadConfig(input=name)))] == ["gs://deep/a/b.jpg"]


@pytest.mark.parametrize(("pattern", "kind"), [("**/*.txt", "lines"), ("**/*.jpg", "images")])
def test_find_corpus__any_number_of_folders__is_none_too_in_a_bucket(gcs, pattern, kind):
    for name in ("a.txt", "b/c.txt", "a.jpg", "b/c.jpg"):
        gcs.put(f"gs://deep/{name}", b"x.jpg\n")
    corpus = find_corpus(ReadConfig(input=f"gs://deep/{pattern}"))
    assert corpus.format == kind and len(list(list_rows(corpus))) == 2


def test_find_corpus__lists_of_any_name__are_all_there_or_refused(tmp_path):
    for name in ("1.txt", "a\\b.txt", "b/2.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{name}.jpg\n")
    find = functools.partial(find_corpus, ReadConfig(input=f"{tmp_path}/**/*.txt"))
    assert len(find().files) == 3
    (tmp_path / "3.txt").symlink_to("not mounted")
    with pytest.raises(UserError, match=r"3\.txt"):
        find()
    (tmp_path / "3.txt").unlink()
    os.mkfifo(tmp_path / "3.txt")
    with pytest.raises(UserError, match=r"3\.txt is no ordinary file"):
        find()


def test_find_corpus__long_header__is_a_user_error(tmp_path):
    (tmp_path / "list.csv").write_text("uri," + ",".join(f"c{n}" for n in range(20_000)) + "\n")
    with pytest.raises(UserError, match="has a header of more than 65,536 bytes"):
        find_corpus(ReadConfig(input=f"{tmp_path}/list.csv"))


def test_find_corpus__relative_glob_and_folder__are_named_by_absolute_paths(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert find_corpus(ReadConfig(input="part-*.txt")).pattern == f"{folder}/part-*.txt"
    assert find_corpus(ReadConfig(input="photos")).pattern == f"{folder}/photos/**"


def test_find_corpus__folder_with_brackets__is_taken_literally(tmp_path):
    (tmp_path / "Trip [2024]").mkdir()
    (tmp_path / "Trip [2024]" / "a.jpg").touch()
    corpus = find_corpus(ReadConfig(input=str(tmp_path / "Trip [2024]")))
    assert [row.uri for row in list_rows(corpus)] == [f"{tmp_path}/Trip [2024]/a.jpg"]


def test_list_rows__text_columns__keep_every_character(tmp_path):
    values = ["00123", "1.10", "0x1F", "1e5", "NA", " 7", "11898508762506083287", ""]
    (tmp_path / "list.csv").write_text(
        "".join(f"{value}\n" for value in ["uri,v", *(f"u,{v}" for v in values)])
    )
    rows = list_rows(find_corpus(ReadConfig(input=f"{tmp_path}/list.csv")))
    assert [row.columns for row in rows] == [(value,) for value in values]


def test_list_rows__hidden_files_of_a_folder__are_left_out(tmp_path):
    for name in (".hidden.jpg", "._a.jpg", "a.jpg"):
        (tmp_path / name).touch()
    corpus = find_corpus(ReadConfig(input=str(tmp_path)))
    assert [row.uri for row in list_rows(corpus)] == [f"{tmp_path}/a.jpg"]


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("part-[01].txt", ["part-0.txt", "part-1.txt"]),
        ("part-[!01].txt", ["part-2.txt"]),
        ("odd[1].txt", ["odd[1].txt"]),
        ("Trip [2024]", ["Trip [2024]/a.jpg"]),
        ("Trip [2024]/*.jpg", []),
    ],
)
@pytest.mark.parametrize("place", ["local", "bucket"])
def test_find_corpus__brackets__are_a_set_unless_a_file_has_that_name(tmp_path, gcs, place, name, files):
    folder = f"{tmp_path}" if place == "local" else "gs://brackets"
    for one in ("part-0.txt", "part-1.txt", "part-2.txt", "odd[1].txt", "Trip [2024]/a.jpg"):
        if place == "local":
            (tmp_path / one).parent.mkdir(exist_ok=True)
            (tmp_path / one).write_bytes(b"a.jpg")
        else:
            gcs.put(f"{folder}/{one}", b"a.jpg")
    config = ReadConfig(input=f"{folder}/{name}")
    if not files:
        with pytest.raises(UserError, match="matches nothing"):
            find_corpus(config)
        return
    corpus = find_corpus(config)
    uris = [f.path for f in corpus.files] or [row.uri for row in list_rows(corpus)]
    assert [uri.removeprefix(f"{folder}/") for uri in uris] == files
