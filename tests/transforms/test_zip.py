"""ZIP archives: parts, members, and what is left of damaged archives."""

import io
import random
import struct
import zipfile
import zlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelbeam.transforms.elements import Failure, ImageRef, id_of_member
from labelbeam.transforms.errors import UserError
from labelbeam.transforms.inputs import zip as zip_module
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.inputs.files import match_files
from labelbeam.transforms.inputs.zip import FORMAT
from tests.shards import damage, find, images_of, payloads, read_all, summary, zero

LONG = "folder/" * 20 + "ü.jpg"


def archive(members, **options) -> bytes:
    """Return an archive of pairs of a name, or a `ZipInfo`, and bytes."""
    f = io.BytesIO()
    with zipfile.ZipFile(f, "w", **options) as writer:
        for name, data in members:
            writer.writestr(name, data)
    return f.getvalue()


def read(path, data: bytes, **changes) -> list[tuple]:
    """Read an archive and return a summary of its rows, without the path."""
    rows, _ = read_all(FORMAT, find(FORMAT, path, data), **changes)
    return [(uri.removeprefix(str(path)), value) for uri, value in summary(rows)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.zip"


def info(name: str, **values) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    for key, value in values.items():
        setattr(entry, key, value)
    return entry


def test_read__any_name_and_method__gives_the_images(path):
    noise = random.Random(1).randbytes(9999)
    members = [("a.jpg", b"a" * 5000), (LONG, b""), ("50% #1?.webp", b"x"), ("b/c.PNG", noise)]
    link = info("l.jpg", external_attr=0o120777 << 16)
    others = [("b/", b""), ("README", b""), (link, b"a.jpg"), ("._a.jpg", b"")]
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        corpus = find(FORMAT, path, archive([*members, *others], compression=method))
        rows, notes = read_all(FORMAT, corpus)
        assert images_of(rows) == [
            (f"{path}#{name.replace('%', '%25').replace('#', '%23')}", data) for name, data in members
        ]
        assert [row.ref.id for row in rows] == [id_of_member(str(path), name) for name, _ in members]
        assert notes.to_json() == {"left_out": {"(none)": 1, "(link)": 1, "(hidden)": 1}}


def test_read__members_that_cannot_be_read__fail_alone(path):
    unsupported = [("b.jpg", zipfile.ZIP_BZIP2), ("l.jpg", zipfile.ZIP_LZMA)]
    members = [
        ("a.jpg", b"a"), *((info(name, compress_type=method), b"x" * 50) for name, method in unsupported),
        ("big.jpg", bytes(5001)), ("z.jpg", b"z"),
    ]  # fmt: skip
    assert read(path, archive(members), max_bytes=5000) == [
        ("#a.jpg", b"a"), ("#b.jpg", "unsupported"), ("#l.jpg", "unsupported"),
        ("#big.jpg", "too_large_bytes"), ("#z.jpg", b"z"),
    ]  # fmt: skip
    data = bytearray(archive([("a.jpg", b"a"), ("z.jpg", b"z")]))
    data[data.index(b"PK\1\2") + 8] |= 1
    assert read(path, bytes(data)) == [("#a.jpg", "unsupported"), ("#z.jpg", b"z")]


def test_read__bomb__is_not_unpacked(path):
    data = bytearray(archive([("a.jpg", bytes(10_000_000))], compression=zipfile.ZIP_DEFLATED))
    entry = data.index(b"PK\1\2")
    data[entry + 24 : entry + 28] = struct.pack("<L", 1000)
    assert read(path, bytes(data)) == [("#a.jpg", "truncated")]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_read__name_that_occurs_twice__is_a_failure_and_in_one_part(path, monkeypatch):
    monkeypatch.setattr(zip_module, "PART_BYTES", 100)
    corpus = find(FORMAT, path, archive([("a.jpg", b"1" * 99), ("b.jpg", b"2"), ("a.jpg", b"3")]))
    assert len(list(FORMAT.split(corpus))) == 1
    rows, _ = read_all(FORMAT, corpus)
    assert [value for _, value in summary(rows)] == [b"1" * 99, b"2", "ambiguous_id"]


def test_split__large_archive__has_parts_that_give_each_image_once(path, monkeypatch):
    members = [(f"{n:03}.jpg", random.Random(n).randbytes(n * 50)) for n in range(100)]
    data = archive(members)
    for part_bytes in (1, 300, 10_000, 1 << 20):
        monkeypatch.setattr(zip_module, "PART_BYTES", part_bytes)
        corpus = find(FORMAT, path, data)
        shards = list(FORMAT.split(corpus))
        assert {1: 100, 300: 90, 10_000: 23, 1 << 20: 1}[part_bytes] == pytest.approx(len(shards), abs=10)
        assert all(one.end == two.start for one, two in pairwise(shards))
        rows, _ = read_all(FORMAT, corpus)
        assert images_of(rows) == [(f"{path}#{name}", data) for name, data in members]


def test_read__large_files_and_programs_in_front__are_read(path):
    f = io.BytesIO()
    with zipfile.ZipFile(f, "w") as writer:
        with writer.open("a.jpg", "w", force_zip64=True) as member:
            member.write(b"a")
        writer.writestr("b.jpg", b"b")
    data = f.getvalue()
    assert read(path, data) == [("#a.jpg", b"a"), ("#b.jpg", b"b")]
    assert read(path, as_zip64(data)) == [("#a.jpg", b"a"), ("#b.jpg", b"b")]


def as_zip64(data: bytes) -> bytes:
    """Return an archive with the end and the entries of one of more than 4 GiB."""
    end = data.rindex(b"PK\5\6")
    *_, entries, _length, offset, _ = struct.unpack("<4s4H2LH", data[end:])
    directory, wide = data[offset:end], b""
    while directory:
        values = list(struct.unpack("<4s6H3L5H2L", directory[:46]))
        name_end = 46 + values[10]
        extra = struct.pack("<2H3Q", 1, 24, values[9], values[8], values[16])
        values[8] = values[9] = values[16] = 0xFFFFFFFF
        rest = directory[name_end + values[11] + values[12] :]
        values[11], values[12] = len(extra), 0
        wide += struct.pack("<4s6H3L5H2L", *values) + directory[46:name_end] + extra
        directory = rest
    end_64 = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, entries, entries, len(wide), offset)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, offset + len(wide), 1)
    end_32 = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return data[:offset] + wide + end_64 + locator + end_32


GOOD = archive([("a.jpg", b"a"), ("b.jpg", b"b" * 600)])
END = GOOD.rindex(b"PK\5\6")


@pytest.mark.parametrize(
    ("data", "images", "message"),
    [
        (GOOD[:-30], 0, "directory, which stands at the end, is missing"),
        (GOOD + b"x" * 100, 2, None),
        (GOOD + GOOD, 0, "another archive stands in front of byte"),
        (GOOD[: END + 10] + b"\3\0" + GOOD[END + 12 :], 2, "has 2 entries of 3"),
        (GOOD[: END + 4] + b"\1\0" + GOOD[END + 6 :], 0, "one part of several"),
        (GOOD.replace(b"PK\1\2", b"PK\1\3", 1), 0, "directory is damaged at byte"),
        (GOOD[:10] + GOOD, 0, "another archive"),
    ],
)
def test_read__damaged_archive__has_one_failure_for_the_rest(data, images, message, path):
    rows, _ = read_all(FORMAT, find(FORMAT, path, data))
    failures = [row for row in rows if isinstance(row, Failure)]
    assert len(rows) - len(failures) == images
    assert [(row.ref.uri, row.reason) for row in failures] == ([(str(path), "bad_row")] if message else [])
    assert all(message in row.message for row in failures)


DIRECTORY = GOOD.index(b"PK\1\2")


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (16, 28),  # checksum and sizes
        (46, 51),  # the name
        (49, 51),
    ],
)
def test_read__zeros_in_an_entry_of_the_directory__are_a_failure_of_the_image(start, end, path):
    data = zero(GOOD, DIRECTORY + start, DIRECTORY + end)
    assert [value for _, value in read(path, data)] == ["truncated", b"b" * 600]


def test_find__no_archive__is_refused_by_name(path):
    for data in (b"", b"{}", zlib.compress(b"")):
        with pytest.raises(UserError, match=r"a\.zip is (no ZIP archive|empty)"):
            find(FORMAT, path, data)
    for name in ("[Content_Types].xml", "mimetype"):
        with pytest.raises(UserError, match=r"a\.zip is an Excel workbook or another document"):
            find(FORMAT, path, archive([(name, b"application/vnd.oasis.opendocument.spreadsheet")]))


def test_read__images_that_are_done__are_not_read(path):
    data = bytearray(archive([("a.jpg", b"a" * 99), ("b.jpg", b"b")]))
    data[60] ^= 1
    done = id_of_member(str(path), "a.jpg")
    rows = read(path, bytes(data), is_done=lambda image_id: image_id == done)
    assert rows == [("#a.jpg", None), ("#b.jpg", b"b")]


MEMBERS = st.lists(
    st.tuples(st.from_regex(r"[a-c]{1,3}\.(jpg|png|txt|JPEG)", fullmatch=True) | st.just(LONG), payloads()),
    max_size=6,
    unique_by=lambda member: member[0],
)
METHODS = st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])


@given(MEMBERS, METHODS, st.data())
def test_read__any_flipped_byte_zeros_or_cut__loses_no_image_silently(
    tmp_path_factory, members, method, draw
):
    path = tmp_path_factory.getbasetemp() / "fuzz.zip"
    whole = archive(members, compression=method)
    path.write_bytes(whole)
    images = {f"{path}#{name}": data for name, data in members if not name.endswith(".txt")}
    assert images_of(read_all(FORMAT, find(FORMAT, path))[0]) == list(images.items())
    path.write_bytes(damage(whole, draw))
    # Without `find`, which refuses other first bytes.
    corpus = Corpus(str(path), "zip", files=match_files(str(path)), holds_images=True)
    rows, notes = read_all(FORMAT, corpus)
    assert not any(isinstance(row, ImageRef) for row in rows)
    if not any(isinstance(row, Failure) and row.ref.uri == str(path) for row in rows):
        left_out = sum(notes.to_json().get("left_out", {}).values())
        assert len(rows) + left_out == len(members)
    # Data has a checksum, so that no image is another one.
    for uri, data in summary(rows):
        if isinstance(data, bytes) and uri in images:
            assert data == images[uri]
