"""Inventories of buckets as lists: recognition, rows, versions, and files without a line of names."""

import pytest

from labelbeam.pipeline.config import ReadConfig
from labelbeam.pipeline.corpus import find_corpus
from labelbeam.transforms.elements import Failure
from labelbeam.transforms.errors import UserError
from labelbeam.transforms.inputs.formats import format_of
from labelbeam.transforms.inputs.known_columns import (
    KnownColumns,
    find_known_columns,
    listed_digest,
    listed_version,
)
from labelbeam.transforms.notes import Notes

GOOGLE = (
    "project,bucket,name,location,size,timeCreated,timeDeleted,updated,etag,crc32c,md5Hash,"
    "generation,contentType"
)
S3 = "bucket,key,version_id,is_latest,is_delete_marker,size,last_modified_date,e_tag,storage_class"
MD5 = "d41d8cd98f00b204e9800998ecf8427e"


def read(folder, text, **options):
    """Return the corpus of a CSV, its images and failures, and the files that are left out."""
    (folder / "list.csv").write_text(text, "utf-8")
    corpus = find_corpus(ReadConfig(input=f"{folder}/list.csv", **options))
    form, notes = format_of(corpus), Notes()
    rows = [row for piece in form.split(corpus) for row in form.read(piece, corpus, notes)]
    return corpus, rows, notes.to_json().get("left_out", {})


def google_row(name, generation="17", deleted="", content_type=""):
    return f"p,b,{name},EU,5,t,{deleted},t,CKi=,AAAAAA==,1B2M2Y8AsgTpgAmY7PhCfg==,{generation},{content_type}"


def test_google_inventory__csv__is_recognised_with_its_uris_and_versions(tmp_path):
    rows = [
        google_row("a b#1.jpg"),
        google_row("a b#1.jpg", "16", deleted="2026-01-01"),
        google_row("digest"),
        google_row("folder/"),
        google_row("notes.txt", content_type="text/plain"),
        google_row("photo.v2", content_type="image/jpeg"),
        google_row("", "18"),
    ]
    corpus, refs, left_out = read(tmp_path, "\n".join([GOOGLE, *rows]))
    failure = refs.pop()
    assert [(ref.uri, ref.listed_version) for ref in refs] == [
        ("gs://b/a b#1.jpg", "17"),
        ("gs://b/digest", "17"),
        ("gs://b/photo.v2", "17"),
    ]
    assert isinstance(failure, Failure) and "has no name" in failure.message
    assert left_out == {"(folder)": 1, "(noncurrent version)": 1, ".txt": 1}
    assert refs[0].columns[:3] == ("p", "b", "a b#1.jpg") and refs[0].listed_digest == f"{MD5}/5"
    assert list(corpus.remarks) == [
        "The list is an inventory of Cloud Storage; the URIs are gs://{bucket}/{name}.",
        "Left out of it are old versions and deletions (timeDeleted), folders, and files whose names end "
        "otherwise than images' names.",
        "The column generation has the versions of gs:// images.",
        "With --dedupe content, images of equal md5Hash and size share one request.",
    ]


def test_s3_inventory__csv_without_names__is_read_with_header_and_template(tmp_path):
    text = "\n".join(
        [
            f'"b","a+b%2B%23.jpg","v2","true","false","5","t","{MD5}","STANDARD"',
            f'"b","a+b%2B%23.jpg","v1","false","false","5","t","{MD5}","STANDARD"',
            '"b","gone.jpg","v3","true","true","","t","","STANDARD"',
            '"b","multi.jpg","","","","5","t","abc-2","STANDARD"',
            '"b","no-tag.jpg","","","","5","t","","STANDARD"',
        ]
    )
    options = {
        "header": tuple(S3.split(",")),
        "uri_template": "https://{bucket}.s3.eu-west-1.amazonaws.com/{key}",
    }
    corpus, refs, left_out = read(tmp_path, text, **options)
    host = "https://b.s3.eu-west-1.amazonaws.com"
    assert [(ref.uri, ref.listed_version) for ref in refs] == [
        (f"{host}/a%20b%2B%23.jpg", f'"{MD5}"'),
        (f"{host}/multi.jpg", '"abc-2"'),
        (f"{host}/no-tag.jpg", None),
    ]
    assert left_out == {"(delete marker)": 1, "(noncurrent version)": 1}
    assert corpus.remarks[0].startswith(
        "The list is an inventory of Amazon S3; the URIs are https://{bucket}.s3"
    )
    assert corpus.remarks[2] == "The column e_tag has the versions of http(s):// images."
    # Another program has written a list with names, and has read the keys first.
    _, refs, _ = read(tmp_path, f"{S3}\n{text}", uri_template=options["uri_template"])
    assert refs[0].uri == f"{host}/a%2Bb%252B%2523.jpg"


def test_inventory__uri_column_of_the_users__leaves_nothing_out(tmp_path):
    corpus, refs, left_out = read(tmp_path, f"uri,{GOOGLE}\ngs://b/x.txt,{google_row('x.txt', deleted='t')}")
    assert [(ref.uri, ref.listed_version) for ref in refs] == [("gs://b/x.txt", "17")] and left_out == {}
    assert corpus.remarks == ("The column generation has the versions of gs:// images.",)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (S3, {}, r"inventory of Amazon S3, which has no URIs. Add .*s3.REGION.amazonaws.com/\{key\}'"),
        ("bucket,name,n", {}, "has no column of text with a usual name"),
        (f"{GOOGLE},url", {}, "several columns that may hold the URIs: url, name"),
        (GOOGLE, {"uri_template": "gs://b/{key}"}, "names 'key', which is no column of"),
        (GOOGLE, {"uri_template": "gs://b/{name}", "uri_column": "etag"}, "each gives the URI. Remove one"),
        ("a,b", {"header": ("a", "b")}, "begins with a line of the names in --header='a,b'. Remove --header"),
        ("a,b", {"header": ("uri",)}, "has 2 columns in its first line, and --header='uri' has 1 names"),
        ("a,b", {"header": ("x", "y")}, "no column of text with a usual name .* its columns are x, y"),
        (
            "a",
            {"header": ("uri",), "input_format": "lines"},
            "header=.* is read as lines, which has no such option",
        ),
        (
            "a",
            {"uri_template": "{a}", "input_format": "lines"},
            "uri_template=.* is read as lines, which has no such option",
        ),
    ],
)
def test_find_corpus__options_that_do_not_fit__are_refused(tmp_path, text, options, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, text, **options)


def test_header__any_first_line__is_a_row(tmp_path):
    _, rows, _ = read(tmp_path, "\ufeffa.jpg,1\nb.jpg,2\nc.jpg\n", header=("uri", "n"))
    assert [(row.uri, row.columns) for row in rows[:2]] == [("a.jpg", ("1",)), ("b.jpg", ("2",))]
    assert rows[2].reason == "bad_row" and "has 1 fields where the header has 2" in rows[2].message
    assert read(tmp_path, "", header=("uri", "n"))[1] == []


@pytest.mark.parametrize(
    ("names", "known"),
    [
        ("Bucket,Key,VersionId,IsLatest", KnownColumns("s3", "Bucket", "Key", latest="IsLatest")),
        ("bucket,key,size", KnownColumns()),
        ("bucket,name", KnownColumns()),
        ("bucket,name,storageClass", KnownColumns("google", "bucket", "name")),
        ("uri,Generation,ETag", KnownColumns(generation="Generation", etag="ETag")),
    ],
)
def test_find_known_columns__names__show_the_meaning(names, known):
    assert find_known_columns(names.split(",")) == known


@pytest.mark.parametrize(
    ("uri", "row", "version"),
    [
        ("gs://b/a", {"g": 17}, "17"),
        ("GS://b/a", {"g": " 17 "}, "17"),
        ("gs://b/a", {"g": 17.0}, None),
        ("gs://b/a", {"g": True}, None),
        ("gs://b/a", {"g": "v17"}, None),
        ("gs://b/a", {"g": None, "e": "x"}, None),
        ("gs://b/a", {"g": "1" * 21}, None),
        ("https://h/a", {"g": "17"}, None),
        ("https://h/a", {"e": MD5}, f'"{MD5}"'),
        ("http://h/a", {"e": f'"{MD5}"'}, f'"{MD5}"'),
        ("http://h/a", {"e": 'W/"x"'}, 'W/"x"'),
        ("http://h/a", {"e": 'x"y'}, None),
        ("http://h/a", {"e": "two words"}, None),
        ("/photos/a", {"g": "17", "e": "x"}, None),
    ],
)
def test_listed_version__value__is_a_version_only_in_the_form_of_the_source(uri, row, version):
    assert listed_version(uri, row, KnownColumns(generation="g", etag="e")) == version


@pytest.mark.parametrize(
    ("md5", "size", "digest"),
    [
        ("1B2M2Y8AsgTpgAmY7PhCfg==", "5", f"{MD5}/5"),
        (MD5.upper(), 5, f"{MD5}/5"),
        (MD5, "05", f"{MD5}/5"),
        (MD5, "", None),
        (MD5, None, None),
        (MD5, "-5", None),
        (MD5, 5.0, None),
        (MD5[:-1], 5, None),
        ("AAAAAA==", 5, None),
        ("", 5, None),
        (None, 5, None),
        ("of the name", 5, None),
    ],
)
def test_listed_digest__value__is_a_digest_only_if_it_is_an_md5_with_a_length(md5, size, digest):
    assert listed_digest({"m": md5, "s": size}, KnownColumns(md5="m", size="s")) == digest
    assert listed_digest({"m": md5, "s": size}, KnownColumns()) is None


@pytest.mark.parametrize("missing", ["generation", "size", "md5Hash"])
def test_find_known_columns__digest__needs_generation_and_size(missing):
    names = [
        name for name in ("bucket", "name", "crc32c", "md5Hash", "size", "generation") if name != missing
    ]
    assert find_known_columns(names).md5 == ""
