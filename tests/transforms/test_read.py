import datetime
import gzip
import hashlib

import pyarrow as pa
import pytest

from tests.eager import RUNNERS, eagerly
from transforms.elements import ImageRef, id_of_uri
from transforms.errors import ImageError
from transforms.read import Corpus, ReadImageRefs, parse_row

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
