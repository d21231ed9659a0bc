import datetime
import gzip
import hashlib

import pyarrow as pa
import pytest

from tests.eager import RUNNERS, eagerly
from tests.results import list_published
from transforms.elements import Failure, ImageRef, id_of_uri
from transforms.errors import ImageError
from transforms.read import Corpus, ReadImageRefs, list_rows, name_file, parse_line, parse_row
from transforms.rows import FAILURES, RowFacts, failure_row, failures_schema, to_record_batch
from transforms.stage import write_staged

HEADER = ("uri", "price", "day")
CORPUS = Corpus(
    "list.csv",
    "csv",
    header=HEADER,
    uri_column="uri",
    columns=(("price", pa.float64()), ("day", pa.date32())),
)


def test_id_of_uri__any__is_its_sha256_shortened():
    assert id_of_uri("gs://b/ä.jpg") == hashlib.sha256("gs://b/ä.jpg".encode()).hexdigest()[:32]


def test_parse_row__good_line__gives_typed_values():
    ref = parse_row('"gs://b/a,b.jpg",2.5,2026-01-02', CORPUS)
    assert ref == ImageRef(id_of_uri("gs://b/a,b.jpg"), "gs://b/a,b.jpg", (2.5, datetime.date(2026, 1, 2)))


def test_parse_row__empty_values__are_null():
    assert parse_row("a.jpg,,", CORPUS).columns == (None, None)


def test_parse_row__id_column__is_the_id():
    corpus = Corpus("l", "csv", header=("key", "uri"), uri_column="uri", id_column="key")
    assert parse_row("k1,a.jpg", corpus) == ImageRef("k1", "a.jpg")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a.jpg,1", "has 2 fields where the header has 3"),
        ("a.jpg,1,2026-01-01,x", "has 4 fields"),
        (",1,2026-01-01", "has no uri"),
        ('"a.jpg,1,2026-01-01', "quoted line breaks can't be read"),
        ("a.jpg,cheap,2026-01-01", "price='cheap' is no double"),
        ("a.jpg,1,yesterday", "--column_types day=string"),
    ],
)
def test_parse_row__bad_line__says_what_is_wrong(line, said):
    with pytest.raises(ImageError) as e:
        parse_row(line, CORPUS)
    assert said in str(e.value) and e.value.reason == "bad_row"


@pytest.mark.parametrize("line", [b"", b"  \t"])
@pytest.mark.parametrize("corpus", [CORPUS, Corpus("list.txt", "lines")], ids=["csv", "lines"])
def test_parse_line__blank__is_no_row(line, corpus):
    assert list(parse_line(line, corpus)) == []


@pytest.mark.parametrize(
    ("line", "corpus", "columns", "said"),
    [
        (b"\xff.jpg", Corpus("list.txt", "lines"), (), "is not UTF-8"),
        (b"\xff.jpg,1,", CORPUS, (None, None), "is not UTF-8"),
        (b"a.jpg,1", CORPUS, (None, None), "has 2 fields"),
    ],
)
def test_parse_line__unreadable__is_a_failure_under_an_id_of_its_own(line, corpus, columns, said):
    ((row,), (other,)) = (list(parse_line(one, corpus)) for one in (line, b"\xfe" + line))
    assert (row.stage, row.reason, row.ref.columns) == ("read", "bad_row", columns)
    assert row.ref.uri == line.decode("utf-8", "backslashreplace") and said in row.message
    assert len({row.ref.id, other.ref.id, id_of_uri(row.ref.uri)}) == 3


@pytest.mark.parametrize(
    ("name", "suffixes", "taken"),
    [("a.JPG", (".jpg",), True), ("a.jpg.txt", (".jpg", ".png"), False), ("a.txt", (), True)],
)
def test_name_file__suffix__decides(name, suffixes, taken):
    rows = list(name_file(f"/images/{name}", Corpus("/images/**", "images", suffixes=suffixes)))
    assert [row.uri for row in rows] == ([f"/images/{name}"] if taken else [])


def test_name_file__undecodable_name__is_a_failure():
    (row,) = name_file("/images/\udcff.jpg", Corpus("/images/**", "images"))
    assert (row.reason, row.ref.uri) == ("bad_row", "/images/\\xff.jpg")


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
    corpus = Corpus(f"{tmp_path}/{pattern}", kind, *csv, suffixes=suffixes)
    rows = list(list_rows(corpus))
    refs, failures = eagerly(ReadImageRefs(corpus))
    assert (len(refs), len(failures)) == (good, bad)
    assert sorted(rows, key=repr) == sorted([*refs, *failures], key=repr)


@pytest.mark.parametrize("runner", RUNNERS)
def test_read_image_refs__lines__one_ref_each(tmp_path, runner):
    path = tmp_path / "list.txt"
    path.write_bytes("a.jpg\r\n\n  gs://b/ö.png \na.jpg".encode())
    refs, failures = eagerly(ReadImageRefs(Corpus(str(path), "lines")), None, runner)
    assert sorted(ref.uri for ref in refs) == ["a.jpg", "a.jpg", "gs://b/ö.png"]
    assert failures == []


def test_read_image_refs__compressed_shards__reads_all(tmp_path):
    for n in range(3):
        (tmp_path / f"part-{n}.txt.gz").write_bytes(gzip.compress(f"{n}.jpg\n".encode()))
    refs, _ = eagerly(ReadImageRefs(Corpus(str(tmp_path / "part-*.txt.gz"), "lines")))
    assert sorted(ref.uri for ref in refs) == ["0.jpg", "1.jpg", "2.jpg"]


def test_read_image_refs__csv_with_bad_lines__accounts_for_each(tmp_path):
    path = tmp_path / "list.csv"
    path.write_bytes(b"uri,price,day\na.jpg,1,2026-01-01\nb.jpg\n\xff\xfe,1,\nc.jpg,,\n")
    corpus = Corpus(str(path), "csv", HEADER, "uri", None, CORPUS.columns)
    refs, failures = eagerly(ReadImageRefs(corpus))
    assert sorted(ref.uri for ref in refs) == ["a.jpg", "c.jpg"]
    assert sorted(f.ref.uri for f in failures) == ["\\xff\\xfe,1,", "b.jpg"]
    assert {f.reason for f in failures} == {"bad_row"} and len({f.ref.id for f in failures}) == 2
    assert all(f.ref.columns == (None, None) for f in failures)


def test_read_image_refs__folder__takes_its_images_in_depth(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name in ("a.jpg", "deep/b.PNG", "deep/er/c.webp", "notes.txt", "deep/labels.csv"):
        (tmp_path / name).touch()
    corpus = Corpus(f"{tmp_path}/**", "images", suffixes=(".jpg", ".png", ".webp"))
    refs, failures = eagerly(ReadImageRefs(corpus))
    names = sorted(ref.uri.removeprefix(f"{tmp_path}/") for ref in refs)
    assert names == ["a.jpg", "deep/b.PNG", "deep/er/c.webp"] and failures == []


COLUMNS = (("price", pa.float64()), ("day", pa.date32()))


def publish_failures(output, *files: list[Failure]) -> None:
    """An output folder whose manifest lists files of failures, and predictions that are not there."""
    schema = failures_schema(facts := RowFacts("r", "m", "p", COLUMNS))
    written = [
        write_staged(FAILURES, to_record_batch([failure_row(f, facts) for f in file], schema), str(output))
        for file in files
    ]
    list_published(output, written)


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
    expected = [ref for ref, failure in seen.items() if failure.reason in reasons]
    assert sorted(read.ok, key=repr) == sorted(expected, key=repr) and read.failures == []


def test_read_image_refs__failures_of_nothing_published__is_empty(tmp_path):
    read = eagerly(ReadImageRefs(Corpus(str(tmp_path), "failures", reasons=frozenset({"timeout"}))))
    assert read == ([], [])


def test_list_rows__carriage_return_of_its_own__gives_what_the_pipeline_gives(tmp_path):
    (tmp_path / "list.csv").write_bytes(b"uri,price,day\nb.jpg\r\r\n")
    corpus = Corpus(f"{tmp_path}/list.csv", "csv", HEADER, "uri", None, CORPUS.columns)
    assert list(list_rows(corpus)) == eagerly(ReadImageRefs(corpus)).failures


def test_parse_line__byte_order_mark__is_no_part_of_the_uri():
    (ref,) = parse_line("\ufeffgs://b/a.jpg".encode(), Corpus("list.txt", "lines"))
    assert ref.uri == "gs://b/a.jpg"


def test_parse_row__date_that_no_calendar_has__is_a_bad_row():
    with pytest.raises(ImageError, match="day='0000-01-01' is no date32"):
        parse_row("a.jpg,1,0000-01-01", CORPUS)
