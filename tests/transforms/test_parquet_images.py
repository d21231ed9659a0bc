"""Parquet with images inside: columns, parts, and what is left of damaged files."""

import io
import random
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelbeam.transforms.elements import Failure, ImageRef, id_of_member
from labelbeam.transforms.errors import RunError, UserError
from labelbeam.transforms.inputs import parquet_images
from labelbeam.transforms.inputs.files import match_files
from labelbeam.transforms.inputs.parquet_images import FORMAT
from labelbeam.transforms.sources import gcs_stream
from tests.shards import damage, find, images_of, payloads, read_all, summary

HF = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def parquet(columns: dict, rows_per_group: int = 10, **options) -> bytes:
    f = io.BytesIO()
    pq.write_table(pa.table(columns), f, row_group_size=rows_per_group, **options)
    return f.getvalue()


def noise(n: int, size: int = 1000) -> bytes:
    return random.Random(n).randbytes(size)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.parquet"


def test_read__hugging_face__gives_images_and_columns(path):
    data = parquet(
        {
            "image": pa.array([{"bytes": noise(n), "path": f"{n}.jpg"} for n in range(25)] + [None], HF),
            "label": pa.array([*range(25), None], pa.int64()),
            "tags": pa.array([["a", "b"]] * 26),
            "split": pa.array(["train"] * 26).dictionary_encode(),
            "mask": pa.array([b"x"] * 26),
        }
    )
    corpus = find(FORMAT, path, data)
    assert corpus.image_feature == "image"
    assert [str(kind) for _, kind in corpus.columns] == ["int64", "list<item: string>", "string", "string"]
    assert [name for name, _ in corpus.columns] == ["label", "tags", "split", "image_path"]
    rows, notes = read_all(FORMAT, corpus)
    assert summary(rows) == [*((f"{path}#{n}", noise(n)) for n in range(25)), (f"{path}#25", "bad_row")]
    assert [row.ref.columns for row in rows[:2]] == [(n, ["a", "b"], "train", f"{n}.jpg") for n in range(2)]
    assert [row.ref.id for row in rows] == [id_of_member(str(path), str(n)) for n in range(26)]
    assert not notes


def test_read__rows_that_cannot_be_read__fail_alone(path):
    images = [{"bytes": b"a"}, {"bytes": None, "path": "b.jpg"}, {"bytes": bytes(101)}, {"bytes": b""}]
    rows, _ = read_all(FORMAT, find(FORMAT, path, parquet({"x": pa.array(images, HF)})), max_bytes=100)
    assert [value for _, value in summary(rows)] == [b"a", "bad_row", "too_large_bytes", b""]
    assert "only the path 'b.jpg'" in rows[1].message


@pytest.mark.parametrize(
    ("columns", "options", "result"),
    [
        ({"image": pa.binary()}, {}, "image"),
        ({"any": pa.large_binary(), "n": pa.int64()}, {}, "any"),
        ({"hash": pa.binary(), "jpg": pa.binary()}, {}, "jpg"),
        ({"jpg": pa.binary(), "x": HF}, {}, "x"),
        ({"jpg": pa.binary(), "x": HF}, {"image_feature": "jpg"}, "jpg"),
        ({"a": HF, "b": HF}, {}, "has 2 columns that can hold images. Give one with --image_feature: a, b"),
        ({"url": pa.string()}, {}, "has 0 columns that can hold images. It has no column of bytes. Remove"),
        (
            {"url": pa.string(), "b": HF},
            {"image_feature": "url"},
            "'url' is no column of bytes in .* Give one",
        ),
    ],
)
def test_find__column_with_the_images__is_found_or_an_error(columns, options, result, path):
    data = parquet({name: pa.array([None], kind) for name, kind in columns.items()})
    if " " in result:
        with pytest.raises(UserError, match=result):
            find(FORMAT, path, data, **options)
    else:
        assert find(FORMAT, path, data, **options).image_feature == result


def test_find__files_of_other_columns__are_refused_by_name(tmp_path):
    (tmp_path / "a.parquet").write_bytes(parquet({"image": [b"a"], "n": [1]}))
    for columns, fault in (({"image": [b"a"], "n": ["1"]}, r"n \(string\)"), ({"image": [b"a"]}, "no n")):
        (tmp_path / "b.parquet").write_bytes(parquet(columns))
        with pytest.raises(UserError, match=rf"b\.parquet has other columns than .*a\.parquet: {fault}"):
            find(FORMAT, tmp_path / "*.parquet")
    for data in (b"", b"{}", b"PAR1", parquet({"image": [b"a"]})[:-9]):
        (tmp_path / "b.parquet").write_bytes(data)
        with pytest.raises(UserError, match=r"b\.parquet"):
            find(FORMAT, tmp_path / "b.parquet")


def test_read__file_with_other_columns_than_planned__ends_the_run(path):
    corpus = find(FORMAT, path, parquet({"image": [b"a"], "n": [1]}))
    path.write_bytes(parquet({"image": [b"a"]}))
    with pytest.raises(RunError, match=r"a\.parquet has changed"):
        read_all(FORMAT, corpus)
    with pytest.raises(RunError, match=r"a\.parquet has no column n"):
        read_all(FORMAT, find(FORMAT, path), columns=corpus.columns)


def test_read__types_of_the_table__are_kept(path):
    data = parquet({"image": [b"a", b"b"], "n": ["1", "x"], "m": [1, 2]})
    corpus = find(FORMAT, path, data, {"n": pa.int64(), "m": pa.string()})
    rows, notes = read_all(FORMAT, corpus)
    assert [row.ref.columns for row in rows] == [(1, "1"), (None, "2")]
    assert list(notes.to_json()["unparsed"]) == ["n"]


def test_split__large_file__has_parts_that_give_each_row_once(path, monkeypatch):
    data = parquet({"image": [noise(n) for n in range(95)], "n": range(95)})
    for part_bytes, parts in ((1, 10), (15_000, 5), (1 << 20, 1)):
        monkeypatch.setattr(parquet_images, "PART_BYTES", part_bytes)
        corpus = find(FORMAT, path, data)
        assert len(list(FORMAT.split(corpus))) == parts
        rows, _ = read_all(FORMAT, corpus)
        assert images_of(rows) == [(f"{path}#{n}", noise(n)) for n in range(95)]
        assert [row.ref.columns for row in rows] == [(n,) for n in range(95)]


def test_read__rows_that_are_done__are_not_read(path):
    corpus = find(FORMAT, path, parquet({"image": [noise(n) for n in range(20)]}, compression="none"))
    done = {id_of_member(str(path), str(n)) for n in range(12)}
    damaged = bytearray(path.read_bytes())
    damaged[:100] = bytes(100)  # of the first row group, all of which is done
    path.write_bytes(damaged)
    rows, _ = read_all(FORMAT, find_again(corpus), is_done=done.__contains__)
    assert [isinstance(row, ImageRef) for row in rows] == [True] * 12 + [False] * 8
    assert images_of(rows[12:]) == [(f"{path}#{n}", noise(n)) for n in range(12, 20)]


def find_again(corpus):
    return replace(corpus, files=match_files(corpus.pattern))


def test_read__damaged_row_groups__are_one_failure_each_that_names_the_rows(path):
    corpus = find(FORMAT, path, parquet({"image": [noise(n) for n in range(40)]}))
    damaged = bytearray(path.read_bytes())
    metadata = pq.ParquetFile(path).metadata
    for group in (1, 3):
        place = metadata.row_group(group).column(0).data_page_offset
        damaged[place : place + 40] = b"\xff" * 40
    path.write_bytes(damaged)
    rows, _ = read_all(FORMAT, find_again(corpus))
    failures = [row for row in rows if isinstance(row, Failure)]
    images = [(f"{path}#{n}", noise(n)) for n in range(40) if n // 10 in (0, 2)]
    assert images_of([row for row in rows if row not in failures]) == images
    assert [(row.ref.uri, row.reason) for row in failures] == [(str(path), "bad_row")] * 2
    assert [
        f"10 rows from {first} on are not read" in failures[n].message for n, first in enumerate((10, 30))
    ]
    assert failures[0].ref.id != failures[1].ref.id


def test_read__object_of_a_bucket__is_a_request_a_place(gcs, monkeypatch):
    requests = []
    send = gcs_stream.ObjectReader._request
    monkeypatch.setattr(
        gcs_stream.ObjectReader, "_request", lambda self: (requests.append(self._position), send(self))[1]
    )
    monkeypatch.setattr(parquet_images, "_BUFFER_BYTES", 100_000)
    data = parquet({"image": [noise(n, 10_000) for n in range(300)], "n": range(300)}, 300)
    gcs.put("gs://bucket/a.parquet", data)
    corpus = find(FORMAT, "gs://bucket/a.parquet")
    requests.clear()
    rows, _ = read_all(FORMAT, corpus)
    assert [row.data for row in rows] == [noise(n, 10_000) for n in range(300)]
    # The end, two requests for the images, and one for the other column.
    assert len(requests) <= 6


def test_read__connection_that_breaks__is_unreachable(gcs, monkeypatch):
    monkeypatch.setattr(parquet_images, "_BUFFER_BYTES", 10_000)
    monkeypatch.setattr(gcs_stream, "_PAUSE_SEC", 0.001)
    data = parquet({"image": [noise(n) for n in range(300)]}, 100)
    gcs.put("gs://bucket/a.parquet", data)
    corpus = find(FORMAT, "gs://bucket/a.parquet")
    send = gcs_stream.ObjectReader._request

    def break_off(self):
        if 10_000 < self._position < 100_000:  # within the first row group
            raise ConnectionError("broken")
        return send(self)

    monkeypatch.setattr(gcs_stream.ObjectReader, "_request", break_off)
    rows, _ = read_all(FORMAT, corpus)
    (failure,) = [row for row in rows if isinstance(row, Failure)]
    assert failure.reason == "unreachable"
    assert "100 rows from 0 on are not read" in failure.message
    assert len(rows) == 201


IMAGES = st.lists(st.none() | payloads(), min_size=1, max_size=8)


@given(IMAGES, st.sampled_from(["none", "snappy", "zstd"]), st.integers(1, 4), st.data())
def test_read__any_flipped_byte_zeros_or_cut__loses_no_row_silently(
    tmp_path_factory, images, packing, rows, draw
):
    path = tmp_path_factory.getbasetemp() / "fuzz.parquet"
    sums = {"write_page_checksum": draw.draw(st.booleans())}
    data = parquet({"image": pa.array(images, pa.binary())}, rows, compression=packing, **sums)
    corpus = find(FORMAT, path, data)
    whole = [(f"{path}#{n}", "bad_row" if data is None else data) for n, data in enumerate(images)]
    assert summary(read_all(FORMAT, corpus)[0]) == whole
    path.write_bytes(damage(data, draw))
    try:
        rows, _ = read_all(FORMAT, find_again(corpus))
    except RunError as e:
        assert "no column image" in str(e)
        return
    rest = [row for row in rows if isinstance(row, Failure) and row.ref.uri == str(path)]
    if not rest:
        assert [uri for uri, _ in summary(rows)] == [uri for uri, _ in whole]
