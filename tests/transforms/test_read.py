import dataclasses
import datetime
import gzip
import hashlib
import os

import apache_beam as beam
import pyarrow as pa
import pytest

from labelbeam.transforms.coders import decode_row, encode_row
from labelbeam.transforms.elements import Failure, ImageRef, id_of_uri
from labelbeam.transforms.errors import ImageError, RunError
from labelbeam.transforms.images.formats import IMAGE_SUFFIXES
from labelbeam.transforms.inputs import files
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.inputs.files import ListFile, LongLine, match_files
from labelbeam.transforms.inputs.formats import format_of
from labelbeam.transforms.inputs.globs import list_paths
from labelbeam.transforms.inputs.images import name_file
from labelbeam.transforms.inputs.lists import MOST_FILES
from labelbeam.transforms.notes import Notes
from labelbeam.transforms.read import ReadImageRefs, hide_in_row, list_rows
from labelbeam.transforms.sources import Limits, Sources
from labelbeam.transforms.stage import write_staged
from labelbeam.transforms.table.rows import (
    FAILURES,
    RowMetadata,
    failure_row,
    failures_schema,
    to_record_batch,
)
from tests.eager import RUNNERS, eagerly
from tests.results import list_published

HEADER = ("uri", "price", "day")
CORPUS = Corpus(
    "list.csv",
    "csv",
    header=HEADER,
    uri_column="uri",
    columns=(("price", pa.float64()), ("day", pa.date32())),
)


def parse_row(line, corpus, notes):
    return format_of(corpus).parse(line, corpus, notes)


def parse_line(line, corpus, notes):
    return format_of(corpus).parse_line(line, corpus, notes)


def planned(corpus: Corpus) -> Corpus:
    """Return the corpus as planning completes it."""
    is_list = corpus.format in ("lines", "csv")
    return dataclasses.replace(corpus, files=match_files(corpus.pattern) if is_list else ())


def test_id_of_uri__any__is_its_sha256_shortened():
    assert id_of_uri("gs://b/ä.jpg") == hashlib.sha256("gs://b/ä.jpg".encode()).hexdigest()[:32]


@pytest.mark.parametrize(
    "uri", ["https://h/a.jpg?w=1", "/a?sig=1", "gs://b/a?token=1", "a b.jpg", "file:///a@b", "HTTP://h:80/ü"]
)
def test_hide_in_row__uri_without_secrets__is_the_same_row(uri):
    row = ImageRef(hashlib.sha256(uri.encode()).hexdigest()[:32], uri, (1,), "v1")
    assert hide_in_row(row, CORPUS) is row and row.id == id_of_uri(uri) and row.address == uri


SIGNED, PUBLIC = "https://u:p@h/a.jpg?w=1&sig=S&s=T", "https://…@h/a.jpg?w=1&sig=…&s=…"


@pytest.mark.parametrize(
    ("changes", "image_id"),
    [
        ({}, id_of_uri(PUBLIC)),
        ({"id_column": "n"}, "1"),
        # Rows of failures from before, whose addresses have secrets, are replaced under their ids.
        ({"format": "failures"}, "1"),
    ],
)
def test_hide_in_row__uri_with_secrets__has_its_public_form_and_id(changes, image_id):
    corpus = dataclasses.replace(CORPUS, secret_params=("s",), **changes)
    row = hide_in_row(ImageRef("1", SIGNED, (2,), "v1"), corpus)
    assert row == ImageRef(image_id, PUBLIC, (2,), "v1", signed=SIGNED) and row.address == SIGNED
    assert hide_in_row(ImageRef("1", SIGNED.replace("S", "Z"), (2,)), corpus).id == row.id
    assert decode_row(encode_row(row)) == row and "sig=S" not in repr(row)
    assert id_of_uri(SIGNED, ("s",)) == id_of_uri(PUBLIC)


def test_parse_row__good_line__gives_typed_values():
    ref = parse_row('"gs://b/a,b.jpg",2.5,2026-01-02', CORPUS, Notes())
    assert ref == ImageRef(id_of_uri("gs://b/a,b.jpg"), "gs://b/a,b.jpg", (2.5, 20_455))


def test_parse_row__empty_values__are_null():
    assert parse_row("a.jpg,,", CORPUS, Notes()).columns == (None, None)


def test_parse_row__id_column__is_the_id():
    corpus = Corpus("l", "csv", header=("key", "uri"), uri_column="uri", id_column="key")
    assert parse_row("k1,a.jpg", corpus, Notes()) == ImageRef("k1", "a.jpg")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.jpg,1", "has 2 fields where the header has 3"),
        ("a.jpg,1,2026-01-01,x", "has 4 fields"),
        (",1,2026-01-01", "has no uri"),
        ('"a.jpg,1,2026-01-01', "line breaks in quotes are read in rows of up to 1 MiB"),
    ],
)
def test_parse_row__bad_line__names_the_fault(line, message):
    with pytest.raises(ImageError) as e:
        parse_row(line, CORPUS, Notes())
    assert message in str(e.value) and e.value.reason == "bad_row"


@pytest.mark.parametrize("size", [1 << 17, (1 << 17) + 1, files.MAX_LINE_BYTES - 10])
def test_parse_row__field_as_long_as_a_line__is_read(size):
    corpus = Corpus("l", "csv", header=("uri", "note"), uri_column="uri", columns=(("note", pa.string()),))
    assert parse_row(f'a.jpg,"{"x" * size}"', corpus, Notes()).columns == ("x" * size,)


@pytest.mark.parametrize("line", [b"", b"  \t"])
@pytest.mark.parametrize("corpus", [CORPUS, Corpus("list.txt", "lines")], ids=["csv", "lines"])
def test_parse_line__blank__is_no_row(line, corpus):
    assert list(parse_line(line, corpus, Notes())) == []


@pytest.mark.parametrize(
    ("line", "corpus", "columns", "message"),
    [
        (b"\xff.jpg", Corpus("list.txt", "lines"), (), "is not UTF-8"),
        (b"\xff.jpg,1,", CORPUS, (None, None), "is not UTF-8"),
        (b"a.jpg,1", CORPUS, (None, None), "has 2 fields"),
    ],
)
def test_parse_line__unreadable__is_a_failure_under_an_id_of_its_own(line, corpus, columns, message):
    ((row,), (other,)) = (list(parse_line(one, corpus, Notes())) for one in (line, b"\xfe" + line))
    assert (row.stage, row.reason, row.ref.columns) == ("read", "bad_row", columns)
    assert row.ref.uri == line.decode("utf-8", "backslashreplace") and message in row.message
    assert len({row.ref.id, other.ref.id, id_of_uri(row.ref.uri)}) == 3


@pytest.mark.parametrize(
    ("name", "suffixes", "taken"),
    [("a.JPG", (".jpg",), True), ("a.jpg.txt", (".jpg", ".png"), False), ("a.txt", (), True)],
)
def test_name_file__suffix__decides(name, suffixes, taken):
    rows = list(name_file(f"/images/{name}", Corpus("/images/**", "images", suffixes=suffixes), Notes()))
    assert [row.uri for row in rows] == ([f"/images/{name}"] if taken else [])


# Bytes of file names, and their URIs in the folder /f.
NAMES = {
    b"a.jpg": "/f/a.jpg",
    b"a#b?c%20 d[1].jpg": "/f/a#b?c%20 d[1].jpg",
    " ä .JFIF".encode(): "/f/ ä .JFIF",
    b"\xff%.jpe": "file:///f/%FF%25.jpe",
    b"new\nline.dng": "file:///f/new%0Aline.dng",
    b"x.heic": "/f/x.heic",
}


@pytest.mark.parametrize(("name", "uri"), NAMES.items())
def test_name_file__any_name__is_a_uri_of_plain_text_that_fetches_the_file(tmp_path, name, uri):
    (row,) = name_file(
        os.fsdecode(b"/f/" + name), Corpus("/f/**", "images", suffixes=IMAGE_SUFFIXES), Notes()
    )
    assert row == ImageRef(id_of_uri(uri), uri) and row.uri.isprintable()
    path = os.fsencode(tmp_path) + b"/" + name
    with open(path, "wb") as f:
        f.write(b"image")
    (row,) = list_rows(Corpus(f"{tmp_path}/**", "images"))
    assert Sources(Limits(1, 100, 1)).fetch(row.uri).data == b"image"


def test_name_file__files_left_out__are_counted_by_suffix_without_case():
    notes, corpus = Notes(), Corpus("/f/**", "images", suffixes=IMAGE_SUFFIXES)
    names = [".DS_Store", "._x.jpg", "a.txt", "B.TXT", "c", "d.", "e.\udcff", "f." + 20 * "x", "g.jpg.gz"]
    assert [row for name in names for row in name_file(f"/f/{name}", corpus, notes)] == []
    assert notes.to_json() == {"left_out": {"(hidden)": 2, "(none)": 2, ".txt": 2, ".gz": 1, "(other)": 2}}


CSV = b'uri,price,day\r\n"a,1.jpg",2.5,2026-01-02\r\n\r\nb.jpg\r\n\xff\xfe,1,\r\nc.jpg,,'
LINES = "a.jpg\r\n\n  gs://b/ö.png \na.jpg\n\t\nlast.jpg".encode()


@pytest.mark.parametrize(
    ("kind", "files", "pattern", "good", "bad"),
    [
        ("lines", {"list.txt": LINES}, "list.txt", 4, 0),
        ("lines", {f"{n}.txt.gz": gzip.compress(LINES) for n in range(3)}, "*.txt.gz", 12, 0),
        ("csv", {"list.csv": CSV}, "list.csv", 2, 2),
        ("csv", {f"{n}.csv": CSV.replace(b"\r", b"") for n in range(3)}, "*.csv", 6, 6),
        ("csv", {"list.csv.gz": gzip.compress(CSV)}, "list.csv.gz", 2, 2),
        ("images", {"a.jpg": b"", "deep/b.PNG": b"", "deep/c.txt": b""}, "**", 2, 0),
    ],
)
def test_list_rows__any_kind__gives_what_the_pipeline_gives(tmp_path, kind, files, pattern, good, bad):
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    csv = (HEADER, "uri", None, CORPUS.columns) if kind == "csv" else ()
    suffixes = (".jpg", ".png") if kind == "images" else ()
    corpus = planned(Corpus(f"{tmp_path}/{pattern}", kind, *csv, suffixes=suffixes))
    rows = list(list_rows(corpus))
    refs, failures, _ = eagerly(ReadImageRefs(corpus))
    assert (len(refs), len(failures)) == (good, bad)
    assert sorted(rows, key=repr) == sorted([*refs, *failures], key=repr)


@pytest.mark.parametrize("runner", RUNNERS)
def test_read_image_refs__lines__one_ref_each(tmp_path, runner):
    path = tmp_path / "list.txt"
    path.write_bytes("a.jpg\r\n\n  gs://b/ö.png \na.jpg".encode())
    refs, failures, _ = eagerly(ReadImageRefs(planned(Corpus(str(path), "lines"))), None, runner)
    assert sorted(ref.uri for ref in refs) == ["a.jpg", "a.jpg", "gs://b/ö.png"]
    assert failures == []


def test_read_image_refs__folder__takes_its_images_in_depth(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name in ("a.jpg", "deep/b.PNG", "deep/er/c.webp", "notes.txt", "deep/labels.csv"):
        (tmp_path / name).touch()
    corpus = Corpus(f"{tmp_path}/**", "images", suffixes=(".jpg", ".png", ".webp"))
    refs, failures, (notes,) = eagerly(ReadImageRefs(corpus))
    names = sorted(ref.uri.removeprefix(f"{tmp_path}/") for ref in refs)
    assert names == ["a.jpg", "deep/b.PNG", "deep/er/c.webp"] and failures == []
    assert notes.to_json() == {"left_out": {".csv": 1, ".txt": 1}}


@pytest.fixture
def linked(tmp_path):
    """Make a folder with links to files, nothing, itself, folders inside and outside, and in a circle."""
    for name in ("in/deep/a.jpg", "out/b.jpg", "out/deep/c.jpg", "out/d.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"image")
    targets = {"in/file.jpg": "../out/b.jpg", "in/gone.jpg": "nowhere.jpg", "in/self.jpg": "self.jpg"}
    targets |= {
        "in/again": "deep",
        "in/linked": "../out",
        "in/up": "..",
        "out/circle": ".",
        "out/in": "../in",
    }
    for link, target in targets.items():
        (tmp_path / link).symlink_to(target)
    return tmp_path / "in"


def test_list_rows__links__each_folder_is_listed_once_and_broken_ones_are_images(linked):
    corpus = Corpus(f"{linked}/**", "images", suffixes=IMAGE_SUFFIXES)
    listed = eagerly(ReadImageRefs(corpus))
    rows = list(list_rows(corpus))
    names = [row.uri.removeprefix(f"{linked}/") for row in rows]
    files = ["deep/a.jpg", "file.jpg", "gone.jpg", "linked/b.jpg", "linked/deep/c.jpg", "self.jpg"]
    assert sorted(names) == files and sorted(listed.ok, key=repr) == sorted(rows, key=repr)
    sources = Sources(Limits(1, 100, 1))
    for row in rows:
        if row.uri.endswith(("gone.jpg", "self.jpg")):
            with pytest.raises(ImageError) as e:
                sources.fetch(row.uri)
            assert e.value.reason == ("not_found" if "gone" in row.uri else "unreachable")
        else:
            assert sources.fetch(row.uri).data == b"image"


@pytest.mark.parametrize("pattern", ["*", "*.jpg", "**", "**/*.jpg", "a*"])
@pytest.mark.parametrize("name", ["a\\b.jpg", "a\nb.jpg", "a[b].jpg", "a b.jpg", "a*.jpg"])
def test_list_paths__odd_name__is_matched_by_every_wildcard(tmp_path, pattern, name):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).touch()
    folder = tmp_path if pattern == "**/*.jpg" else tmp_path / "in"
    assert list(list_paths(f"{folder}/{pattern}", Notes())) == [str(tmp_path / "in" / name)]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [("*.jpg", ["file.jpg", "gone.jpg", "self.jpg"]), ("[dl]*/*.jpg", ["deep/a.jpg", "linked/b.jpg"])],
)
def test_list_rows__glob__enters_no_folder_that_cannot_match(linked, pattern, names):
    (linked / "deep" / "a" / "b").mkdir(parents=True)
    rows = list_rows(Corpus(f"{linked}/{pattern}", "images"))
    assert sorted(row.uri.removeprefix(f"{linked}/") for row in rows) == names


@pytest.mark.parametrize("folder", ["in/store", "store"])
@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("**", ["x.jpg", "y/z.jpg"]),
        ("*/y/*.jpg", ["y/z.jpg"]),
        ("**/y/*.jpg", ["y/z.jpg"]),
        ("**/*.jpg", ["x.jpg", "y/z.jpg"]),
        ("**/train/*.jpg", ["train/x.jpg"]),
        ("**/train/**.jpg", ["train/x.jpg", "train/y/z.jpg"]),
        ("tr*/*/*.jpg", ["train/y/z.jpg"]),
        ("[at]*/*.jpg", ["also/x.jpg"]),
    ],
)
def test_list_rows__folder_with_links_to_it__is_listed_once_under_a_name_that_matches(
    tmp_path, folder, pattern, names
):
    root = tmp_path / "in"
    for name in ("x.jpg", "y/z.jpg"):
        (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / name).touch()
    root.mkdir(exist_ok=True)
    for link in ("also", "train"):
        (root / link).symlink_to(tmp_path / folder)
    rows = list_rows(Corpus(f"{root}/{pattern}", "images"))
    first = "store" if folder == "in/store" else "also"
    expected = [name if name[:1] in "at" else f"{first}/{name}" for name in names]
    assert sorted(row.uri.removeprefix(f"{root}/") for row in rows) == expected


def test_list_rows__bucket__gives_what_the_pipeline_gives(gcs):
    names = ["a.jpg", "b#c?d%20 é[1].JPE", "notes.txt", "folder/", "folder/.x.jpg"]
    for name in names:
        gcs.put(f"gs://listed/f/{name}", b"image")
    corpus = Corpus("gs://listed/f/**", "images", suffixes=IMAGE_SUFFIXES)
    listed = eagerly(ReadImageRefs(corpus))
    assert sorted(row.uri for row in listed.ok) == [f"gs://listed/f/{name}" for name in names[:2]]
    assert listed.notes[0].to_json() == {"left_out": {"(hidden)": 1, ".txt": 1}}
    assert sorted(list_rows(corpus), key=repr) == sorted(listed.ok, key=repr)
    assert {Sources(Limits(5, 100, 1)).fetch(row.uri).data for row in listed.ok} == {b"image"}


def test_read_image_refs__files_gone_since_the_start__end_the_run(tmp_path):
    with pytest.raises((RunError, RuntimeError), match="matches no file"):
        eagerly(ReadImageRefs(Corpus(f"{tmp_path}/**", "images", suffixes=IMAGE_SUFFIXES)))


COLUMNS = (("price", pa.float64()), ("day", pa.date32()))


def publish_failures(output, *files: list[Failure]) -> None:
    """Make a table folder whose manifest lists files of failures, and of predictions that do not exist."""
    schema = failures_schema(metadata := RowMetadata("r", "m", "p", COLUMNS))
    written = [
        write_staged(FAILURES, to_record_batch([failure_row(f, metadata) for f in file], schema), str(output))
        for file in files
    ]
    list_published(output, written)


def _days(day: datetime.date | None) -> int | None:
    return day and (day - datetime.date(1970, 1, 1)).days


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("reasons", [{"timeout"}, {"timeout", "http_5xx"}, {"empty"}])
def test_read_image_refs__failures__takes_those_of_the_reasons_with_their_columns(tmp_path, runner, reasons):
    seen = {}
    for n, reason in enumerate(["timeout", "not_found", "http_5xx"] * 4):
        columns = (n / 2, datetime.date(2026, 1, 1 + n)) if n % 2 else (None, None)
        ref = ImageRef(f"id{n}", f"http://h/{n}.jpg", columns)
        seen[ref] = Failure(ref, "fetch", reason, "m", 1, "h")
    failures = list(seen.values())
    publish_failures(tmp_path, failures[:5], failures[5:])
    corpus = Corpus(str(tmp_path), "failures", columns=COLUMNS, reasons=frozenset(reasons))
    read = eagerly(ReadImageRefs(corpus), None, runner)
    # Dates travel as numbers.
    expected = [
        dataclasses.replace(ref, columns=(ref.columns[0], _days(ref.columns[1])))
        for ref, failure in seen.items()
        if failure.reason in reasons
    ]
    assert sorted(read.ok, key=repr) == sorted(expected, key=repr) and read.failures == []


def test_read_image_refs__failures_of_nothing_published__is_empty(tmp_path):
    read = eagerly(ReadImageRefs(Corpus(str(tmp_path), "failures", reasons=frozenset({"timeout"}))))
    assert read == ([], [], [])


def test_list_rows__carriage_return_of_its_own__gives_what_the_pipeline_gives(tmp_path):
    (tmp_path / "list.csv").write_bytes(b"uri,price,day\nb.jpg\r\r\n")
    corpus = planned(Corpus(f"{tmp_path}/list.csv", "csv", HEADER, "uri", None, CORPUS.columns))
    assert list(list_rows(corpus)) == eagerly(ReadImageRefs(corpus)).failures


def test_parse_line__byte_order_mark__is_no_part_of_the_uri():
    (ref,) = parse_line("\ufeffgs://b/a.jpg".encode(), Corpus("list.txt", "lines"), Notes())
    assert ref.uri == "gs://b/a.jpg"


@pytest.mark.parametrize(
    ("line", "columns", "unparsed"),
    [
        ("a.jpg,cheap,2026-01-01", (None, 20_454), {"price": "cheap"}),
        ("a.jpg,1,yesterday", (1.0, None), {"day": "yesterday"}),
        ("a.jpg,1e400,0000-01-01", (None, None), {"price": "1e400", "day": "0000-01-01"}),
        ("a.jpg,-inf,2026-01-01", (float("-inf"), 20_454), {}),
        ("a.jpg, ,", (None, None), {}),
    ],
)
def test_parse_row__value_of_another_type__is_null_and_noted(line, columns, unparsed):
    notes = Notes()
    assert parse_row(line, CORPUS, notes).columns == columns
    expected = {name: {"count": 1, "examples": [text]} for name, text in unparsed.items()}
    assert notes.to_json() == ({"unparsed": expected} if expected else {})


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.unlink(), "cannot be read any more"),
        (lambda path: path.write_bytes(b""), "has changed since"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "has changed since"),
        (lambda path: path.write_bytes(path.read_bytes() + b"x.jpg"), "has changed since"),
        (lambda path: os.utime(path, (1, 1)), "has changed since"),
    ],
)
def test_read_image_refs__one_of_three_lists_changed_since_planning__ends_with_its_name(
    tmp_path, runner, change, message
):
    for n in range(3):
        (tmp_path / f"{n}.txt").write_bytes(b"a.jpg\nb.jpg\n")
    corpus = planned(Corpus(f"{tmp_path}/*.txt", "lines"))
    change(tmp_path / "1.txt")
    with pytest.raises((RunError, RuntimeError), match=rf"1\.txt.*{message}"):
        eagerly(ReadImageRefs(corpus), None, runner)
    with pytest.raises(RunError, match=rf"1\.txt.*{message}"):
        list(list_rows(corpus))


def test_read_image_refs__list_in_a_bucket__is_read_and_checked(gcs):
    gcs.put("gs://lists/a.txt", b"a.jpg\nb.jpg")
    corpus = planned(Corpus("gs://lists/*.txt", "lines"))
    assert [row.uri for row in list_rows(corpus)] == ["a.jpg", "b.jpg"]
    gcs.put("gs://lists/a.txt", b"a.jpg\nc.jpg")
    with pytest.raises(RunError, match="has changed since"):
        list(list_rows(corpus))


def test_read_image_refs__pieces_of_a_file__give_its_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PIECE_BYTES", 7)
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf" + LINES)
    corpus = planned(Corpus(f"{tmp_path}/list.txt", "lines"))
    listed = eagerly(ReadImageRefs(corpus))
    assert sorted(listed.ok, key=repr) == sorted(list_rows(corpus), key=repr) and len(listed.ok) == 4


def test_read_image_refs__other_header_than_planned__ends_the_run(tmp_path):
    (tmp_path / "list.csv").write_bytes(b"uri,day,price\n")
    corpus = planned(Corpus(f"{tmp_path}/list.csv", "csv", HEADER, "uri", None, CORPUS.columns))
    with pytest.raises(RunError, match="has the columns uri, day, price, and the first list has uri, price"):
        list(list_rows(corpus))


def test_parse_line__long_line__is_one_bad_row_of_its_own():
    lines = [LongLine(b"x" * 1000, digest, 5_000_000) for digest in ("a", "b")]
    rows = [row for line in lines for row in parse_line(line, CORPUS, Notes())]
    assert {row.reason for row in rows} == {"bad_row"} and len({row.ref.id for row in rows}) == 2
    assert "has 5,000,000 bytes" in rows[0].message


def test_read_image_refs__most_lists_of_a_job__fit_into_its_graph():
    names = (hashlib.sha256(str(n).encode()).hexdigest() for n in range(MOST_FILES))
    lists = tuple(
        ListFile(f"gs://bucket/lists/{name}.csv", int(name[:6], 16), 1e9 + n / 7)
        for n, name in enumerate(names)
    )
    pipeline = beam.Pipeline()
    pipeline | ReadImageRefs(Corpus("gs://bucket/lists/*", "lines", files=lists))
    assert len(pipeline.to_runner_api().SerializeToString()) < 7e6


@pytest.mark.parametrize(
    ("header", "line", "image_id"),
    [
        (("key", "uri", "n"), b"A,,1", "A"),
        (("key", "uri", "n"), b"A,a.jpg", "A"),
        (("key", "uri", "n"), b"A,a.jpg,1,2", "A"),
        (("key", "uri", "n"), b"A,a.jpg,\xff", "A"),
        (("uri", "n", "key"), b"\xff.jpg,1,A", "A"),
        (("uri", "n", "key"), b"a,b.jpg,1,A", None),
        (("key", "uri", "n"), b"\xff,a.jpg,1", None),
        (("key", "uri", "n"), b",a.jpg,1", None),
        (("key", "uri", "n"), b"A", None),
        (("key", "uri", "n"), b'A,"a.jpg,1', None),
    ],
)
def test_parse_line__bad_row_whose_id_can_be_read__has_that_id(header, line, image_id):
    (row,) = parse_line(line, Corpus("l", "csv", header=header, uri_column="uri", id_column="key"), Notes())
    assert row.reason == "bad_row"
    assert row.ref.id == image_id if image_id else len(row.ref.id) == 32
