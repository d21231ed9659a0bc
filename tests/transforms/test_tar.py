"""Tar archives and WebDataset: members, columns, and what is left of damaged archives."""

import gzip
import io
import os
import tarfile

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from labelbeam.transforms.elements import Failure, ImageRef, InlineImage, id_of_member
from labelbeam.transforms.errors import RunError, UserError
from labelbeam.transforms.inputs.compression import FORMATS as COMPRESSIONS
from labelbeam.transforms.inputs.formats import Location
from labelbeam.transforms.inputs.streams import RestError, Stream
from labelbeam.transforms.inputs.tar import FORMAT, read_images
from labelbeam.transforms.inputs.tar_members import TarReader
from labelbeam.transforms.notes import Notes
from tests.shards import (
    PACK,
    PLAIN,
    damage,
    find,
    images_of,
    payloads,
    read_all,
    reading_of,
    summary,
    zero,
)


def tar(members, end=True, **options) -> bytes:
    """Return an archive of names and bytes; of names and `TarInfo` types in place of bytes."""
    f = io.BytesIO()
    with tarfile.open(fileobj=f, mode="w", **options) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            if isinstance(data, bytes):
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
            else:
                info.type, info.linkname = getattr(tarfile, data), "elsewhere"
                archive.addfile(info)
        size = archive.offset
    return f.getvalue() if end else f.getvalue()[:size]


def read(data: bytes, **options) -> tuple[list, Notes]:
    """Read an archive from memory; `RestError` becomes the last element."""
    reading = reading_of(**options)
    rows: list = []
    try:
        rows.extend(read_images(TarReader(Stream(io.BytesIO(data), "a.tar", len(data))), reading))
    except RestError as e:
        rows.append(e)
    return rows, reading.notes


LONG = "folder/" * 40 + "ü.jpg"
NAMES = [
    "a.jpg", "b/c.PNG", "50% #1?.webp", "line\nbreak.jpg", "\udcff\udce9.jpg", LONG, "./d.gif", "x.y.z.tiff"
]  # fmt: skip


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_read_images__any_name_and_format__are_named_and_whole(form):
    names = [name for name in NAMES if form != tarfile.USTAR_FORMAT or name != LONG]
    options = {"format": form, "errors": "surrogateescape"}
    rows, notes = read(tar([(name, name.encode("utf-8", "replace")) for name in names], **options))
    assert [row.data for row in rows] == [name.encode("utf-8", "replace") for name in names]
    assert [row.ref.id for row in rows] == [id_of_member("/a", name) for name in names]
    assert [row.ref.uri for row in rows][:5] == [
        "/a#a.jpg", "/a#b/c.PNG", "/a#50%25 %231?.webp", "/a#line%0Abreak.jpg", "/a#%FF%E9.jpg"
    ]  # fmt: skip
    assert not notes


def test_read_images__members_that_are_no_images__are_counted():
    members = [
        ("folder", "DIRTYPE"), ("old/", b""), ("a.jpg", b"1"), ("b.jpg", "SYMTYPE"), ("c.jpg", "LNKTYPE"),
        ("README", b""), ("x.txt", b"text"), ("._a.jpg", b"resource fork"), ("p.jpg", "FIFOTYPE"),
        ("device", "CHRTYPE"), ("big.jpg", b"x" * 99), ("empty.jpg", b""), ("a.jpg", b"2"), ("a.jpg", b"3"),
    ]  # fmt: skip
    rows, notes = read(tar(members), max_bytes=98)
    assert summary(rows) == [
        ("/a#a.jpg", b"1"), ("/a#p.jpg", "unsupported"), ("/a#big.jpg", "too_large_bytes"),
        ("/a#empty.jpg", b""),
        ("/a#a.jpg", "ambiguous_id"), ("/a#a.jpg", "ambiguous_id"),
    ]  # fmt: skip
    assert len({(row.ref if not isinstance(row, ImageRef) else row).id for row in rows}) == len(rows)
    left_out = {"(link)": 2, "(none)": 2, ".txt": 1, "(hidden)": 1}
    assert notes.to_json() == {"left_out": left_out}


def sparse_tar(extended: int) -> bytes:
    """Return an archive with a file with holes, whose map has further blocks, and an image behind."""
    info = tarfile.TarInfo("holes.jpg")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 600
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[482] = extended > 0
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    maps = b"".join(bytes(504) + bytes([n < extended - 1]) + bytes(7) for n in range(extended))
    return bytes(header) + maps + b"x" * 1024 + tar([("b.jpg", b"b")])


@pytest.mark.parametrize("extended", [0, 1, 3])
def test_read_images__file_with_holes__fails_alone(extended):
    assert summary(read(sparse_tar(extended))[0]) == [("/a#holes.jpg", "unsupported"), ("/a#b.jpg", b"b")]


def test_read_images__file_with_holes_in_pax__fails_alone():
    info = tarfile.TarInfo("GNUSparseFile.0/holes.jpg")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.name": "holes.jpg", "GNU.sparse.realsize": "9"}
    rows, _ = read(info.tobuf(tarfile.PAX_FORMAT) + tar([("b.jpg", b"b")]))
    assert summary(rows) == [("/a#holes.jpg", "unsupported"), ("/a#b.jpg", b"b")]


def test_read_images__archives_that_were_joined_or_padded__are_one():
    one, two = tar([("a.jpg", b"a")]), tar([("b.jpg", b"b")])
    for data in (one + two, one + two + bytes(100)):
        assert summary(read(data)[0]) == [("/a#a.jpg", b"a"), ("/a#b.jpg", b"b")]
    assert read(tar([]))[0] == []


def test_read_images__images_that_are_done__are_not_read():
    data = tar([("a.jpg", b"a" * 4000), ("b.jpg", b"b")])
    rows, _ = read(data, is_done=lambda image_id: image_id == id_of_member("/a", "a.jpg"))
    assert isinstance(rows[0], ImageRef)
    assert summary(rows[1:]) == [("/a#b.jpg", b"b")]


def pax_size(size: str, data: bytes) -> bytes:
    info = tarfile.TarInfo("a.jpg")
    info.size, info.pax_headers = len(data), {"size": size}
    return info.tobuf(tarfile.PAX_FORMAT) + data


GOOD = tar([("a.jpg", b"a"), ("b.jpg", b"b" * 600)], end=False)
NEGATIVE = tarfile.TarInfo("a.jpg")
NEGATIVE.size = -512


@pytest.mark.parametrize(
    ("data", "images", "message"),
    [
        (GOOD, 2, "no end"),
        (GOOD[:1300], 1, "cut"),
        (GOOD[:1600], 1, "cut"),
        (GOOD[:700], 1, "cut"),
        (b"", 0, "no end"),
        (GOOD + b"garbage" * 100, 2, "no header of a member at byte 2,560"),
        (GOOD + bytes(1024) + b"garbage", 2, "other data at its end"),
        (NEGATIVE.tobuf(tarfile.GNU_FORMAT) + GOOD, 0, "size of -512"),
        (pax_size("99", b"x" * 512) + GOOD, 0, "99 bytes in one header"),
        (pax_size("x", b"x" * 512) + GOOD, 0, "in one header"),
        (tar([("a" * 200 + ".jpg", b"a")], format=tarfile.GNU_FORMAT)[:1024] + bytes(2048), 0, "header"),
    ],
)
def test_read_images__damaged_archive__ends_with_the_reason(data, images, message):
    rows, _ = read(data)
    *rows, error = rows
    assert len(rows) == images
    assert isinstance(error, RestError)
    assert message in str(error)


MEMBERS = st.lists(
    st.tuples(
        st.from_regex(r"[a-c]{1,3}(\.[a-z]{1,3})?\.(jpg|png|txt|JPEG)", fullmatch=True) | st.just(LONG),
        payloads(),
    ),
    max_size=6,
    unique_by=lambda member: member[0],
)
FORMS = st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])


@given(MEMBERS, FORMS)
def test_read_images__any_archive__gives_its_images_in_order(members, form):
    rows, notes = read(tar(members, format=form))
    assert [(row.ref.uri, row.data) for row in rows] == [
        (f"/a#{n}", d) for n, d in members if not n.endswith(".txt")
    ]
    assert sum(notes.to_json().get("left_out", {}).values()) == len(members) - len(rows)


@given(MEMBERS, FORMS, st.data())
def test_read_images__any_flipped_byte_zeros_or_cut__loses_no_image_silently(members, form, draw):
    # With a last member that is longer than the zeros at an archive's end.
    members = [*members, ("last.jpg", b"x" * 12_000)]
    whole = tar(members, format=form)
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        starts = [info.offset for info in archive]
    damaged = damage(whole, draw)
    rows, notes = read(damaged)
    is_whole = not (rows and isinstance(rows[-1], RestError))
    left_out = sum(notes.to_json().get("left_out", {}).values())
    if is_whole and not any(looks_like_an_end(damaged, start) for start in starts):
        # Damage of a name may make an image a file that is left out, and counted.
        assert len(rows) + left_out == len(members)


def looks_like_an_end(data: bytes, start: int) -> bool:
    """Return whether zeros in front of a header are exactly as many as programs write behind an archive."""
    rest = data[start:]
    zeros = len(rest) - len(rest.lstrip(b"\0"))
    return zeros == 1024 or (1024 <= zeros <= 10_752 and (start + zeros) % 10_240 == 0)


HOLE = tar([(f"{n}.jpg", b"x" * 300_000) for n in range(6)])
START = 300_544  # of the second member


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize(
    ("start", "end", "images"),
    [
        (len(HOLE) // 2, len(HOLE), 4),  # the fourth has a whole header
        (START, len(HOLE), 1),
        (START, START + 4096, 1),
        (START, START + 512, 1),
        (START, 2 * START, 1),  # in front of a header
        (5 * START, len(HOLE), 5),
        (0, 4096, 0),
        (0, START, 0),
        (0, len(HOLE), 0),
        (START + 600, START + 300_000, 6),  # within the data, which has no checksum
    ],
)
def test_read__range_of_zeros__is_a_failure_behind_the_images_in_front(
    tmp_path, start, end, images, is_packed
):
    data = zero(HOLE, start, end)
    path = tmp_path / ("a.tar.gz" if is_packed else "a.tar")
    rows, _ = read_all(FORMAT, find(FORMAT, path, gzip.compress(data, 1) if is_packed else data))
    assert [row.ref.uri for row in rows[:images]] == [f"{path}#{n}.jpg" for n in range(images)]
    failures = rows[images:]
    assert [(row.ref.uri, row.reason) for row in failures] == ([(str(path), "bad_row")] if images < 6 else [])
    if images and failures:
        assert f"The images behind {path}#{images - 1}.jpg are not read" in failures[0].message


@pytest.mark.parametrize(
    "record_bytes", [512, 10_240, *(1 << n for n in range(14, 21))], ids=lambda n: f"{n} bytes"
)
def test_read_images__usual_lengths_of_records__are_read_alone_and_joined(record_bytes):
    def padded(name: str) -> bytes:
        # Two blocks of zeros, and zeros up to the end of the record.
        archive = tar([(name, name.encode())], end=False) + bytes(1024)
        return archive + bytes(-len(archive) % record_bytes)

    names = ["a.jpg", "b.jpg"]
    assert summary(read(b"".join(map(padded, names)))[0]) == [(f"/a#{name}", name.encode()) for name in names]


@pytest.mark.parametrize(("name", "form"), [("GNU", tarfile.GNU_FORMAT), ("pax", tarfile.PAX_FORMAT)])
def test_read_images__zeros_in_place_of_a_long_name__are_damage(name, form):
    data = tar([(LONG, b"a")], format=form)
    *rows, error = read(zero(data, 512, 1024))[0]
    assert not rows and isinstance(error, RestError) and "extended header is damaged" in str(error)
    at = data.index(b"older/")
    assert isinstance(read(zero(data, at, at + 9))[0][-1], RestError)


SAMPLES = [
    ("d/1.cls", b"7"), ("d/1.jpg", b"one"), ("d/1.json", b'{"a": 1}'), ("d/1.txt", "ü".encode()),
    ("d/2.jpg", b"two"), ("d/2.left.png", b"left"), ("d/2.cls", b" -3\n"), ("d/3.txt", b"no image"),
    ("d/4.JPG", b"four"), ("d/4.cls", b"x"), ("d/4.txt", b"\xff"),
]  # fmt: skip


def test_find__webdataset__has_the_texts_as_columns(tmp_path):
    corpus = find(FORMAT, tmp_path / "s.tar", tar([m for m in SAMPLES if m[1] != b"x"]))
    types = [("key", pa.string()), ("cls", pa.int64()), ("json", pa.string()), ("txt", pa.string())]
    assert list(corpus.columns) == types
    assert corpus.holds_images
    path = tmp_path / "t.tar"
    path.write_bytes(tar(SAMPLES))
    rows, notes = read_all(FORMAT, find(FORMAT, path), columns=tuple(types))
    assert [row.ref.columns for row in rows] == [
        ("d/1", 7, '{"a": 1}', "ü"), ("d/2", -3, None, None), ("d/2", -3, None, None),
        ("d/4", None, None, None),
    ]  # fmt: skip
    assert [row.data for row in rows] == [b"one", b"two", b"left", b"four"]
    assert {kind: list(names) for kind, names in notes.to_json().items()} == {
        "left_out": [".txt"], "unparsed": ["cls", "txt"]
    }  # fmt: skip


@pytest.mark.parametrize(
    ("members", "known", "columns"),
    [
        ([("a.jpg", b""), ("b.json", b"")], {}, {}),
        ([("a.jpg", b""), ("a.xml", b"")], {}, {}),
        ([("a.jpg", b""), ("b.jpg", b""), ("b.txt", b"")], {}, {"key": pa.string(), "txt": pa.string()}),
        ([("a.cls", b"cat"), ("a.jpg", b"")], {}, {"key": pa.string(), "cls": pa.string()}),
        ([("a.cls", b"7"), ("a.jpg", b"")], {"cls": pa.string()}, {"key": pa.string(), "cls": pa.string()}),
        ([], {}, {}),
    ],
)
def test_find__texts_of_the_first_samples__decide_about_columns(members, known, columns, tmp_path):
    assert dict(find(FORMAT, tmp_path / "a.tar", tar(members), known).columns) == columns


@pytest.mark.parametrize(
    ("archives", "columns", "remark"),
    [
        ([["a.jpg"], ["b.jpg", "b.txt"]], {"key", "txt"}, ""),
        ([[], ["b.xml"], ["b.jpg", "b.txt"]], {"key", "txt"}, ""),
        ([["a.jpg"], [], ["b.jpg", "b.txt"], ["c.jpg", "c.cls", "c.json"]], {"key", "txt"}, "cls, json"),
        ([["a.jpg", "a.txt"], ["b.jpg"], ["c.jpg", "c.cls"]], {"key", "txt"}, "cls"),
        ([["a.jpg"], ["b.jpg"]], set(), ""),
        ([["a.jpg", "a.txt"], ["b.jpg"]], {"key", "txt"}, ""),
    ],
)
@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_find__first_archives_without_texts__others_decide_about_columns(
    tmp_path, archives, columns, remark, suffix
):
    for n, names in enumerate(archives):
        data = tar([(name, b"7") for name in names])
        (tmp_path / f"{n}{suffix}").write_bytes(gzip.compress(data) if suffix == ".tar.gz" else data)
    corpus = find(FORMAT, tmp_path / f"*{suffix}")
    assert {name for name, _ in corpus.columns} == columns
    assert len(corpus.remarks) == bool(remark)
    if remark:
        (sentence,) = corpus.remarks
        with_texts = next(n for n, names in enumerate(archives) if any("txt" in name for name in names))
        paths = [f"{tmp_path}/{n}{suffix}" for n in (len(archives) - 1, with_texts)]
        assert sentence.startswith(
            f"{paths[0]} has texts beside images that {paths[1]} lacks, and that are left out of the tables: "
            f"{remark}."
        )


def test_read_images__images_of_one_sample__are_bounded(monkeypatch):
    monkeypatch.setattr("labelbeam.transforms.inputs.tar._HELD_BYTES", 10)
    data = tar([("a.1.jpg", b"1" * 6), ("a.2.jpg", b"2" * 6), ("b.jpg", b"3" * 6)])
    rows, _ = read(data, max_bytes=8, columns=(("key", pa.string()),))
    assert summary(rows) == [
        ("/a#a.1.jpg", b"1" * 6), ("/a#a.2.jpg", "too_large_bytes"), ("/a#b.jpg", b"3" * 6)
    ]  # fmt: skip


@pytest.mark.parametrize("suffix", [*(f".tar{one.suffix}" for one in COMPRESSIONS), ".tgz"])
def test_read__compressed_archive__is_read_and_its_damage_named(suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    members = [(f"{n}.jpg", os.urandom(40_000)) for n in range(30)]
    data = PACK[".gz" if suffix == ".tgz" else suffix.removeprefix(".tar")](tar(members))
    rows, _ = read_all(FORMAT, find(FORMAT, path, data))
    assert images_of(rows) == [(f"{path}#{n}", data) for n, data in members]
    path.write_bytes(data[: len(data) * 9 // 10])
    rows, _ = read_all(FORMAT, find(FORMAT, path))
    *rows, failure = rows
    assert images_of(rows) == [(f"{path}#{n}", data) for n, data in members[: len(rows)]]
    assert isinstance(failure, Failure)
    assert (failure.ref.uri, failure.stage, failure.reason) == (str(path), "read", "bad_row")
    assert f"behind {path}#{len(rows) - 1}.jpg" in failure.message
    assert failure.message.count(str(path)) == 2


def test_find__no_tar__is_refused_by_name(tmp_path):
    for name, data in (("a.tar", b"{}"), ("b.tar", b""), ("c.tar.gz", PLAIN)):
        with pytest.raises((UserError, RunError), match=name):
            find(FORMAT, tmp_path / name, data)
    with pytest.raises(UserError, match="matches nothing"):
        name = str(tmp_path / "none.tar")
        FORMAT.find(Location(name, name, name, False), None, {})


def test_read__file_that_changed_since_the_plan__ends_the_run(tmp_path):
    path = tmp_path / "a.tar"
    corpus = find(FORMAT, path, tar([("a.jpg", b"a")]))
    path.write_bytes(tar([("a.jpg", b"a"), ("b.jpg", bytes(20_000))]))
    with pytest.raises(RunError, match="has changed"):
        read_all(FORMAT, corpus)
    path.unlink()
    with pytest.raises(RunError, match=r"a\.tar"):
        read_all(FORMAT, corpus)


def test_read__images_of_a_file__have_its_version(tmp_path):
    path = tmp_path / "a.tar"
    rows, _ = read_all(FORMAT, find(FORMAT, path, tar([("a.jpg", b"a")])))
    assert isinstance(rows[0], InlineImage)
    assert rows[0].version == f"{path.stat().st_mtime_ns}-{path.stat().st_size}"


@example(b"")
@given(st.binary(max_size=2000))
def test_read_images__any_bytes__end(data):
    read(data)
