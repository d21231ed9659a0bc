"""TFRecord files: records, features, columns, and what is left of damaged files."""

import gzip
import io
import random
import zlib
from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelbeam.transforms.elements import Failure, ImageRef, InlineImage, id_of_member
from labelbeam.transforms.errors import UserError
from labelbeam.transforms.inputs.examples import parse_example
from labelbeam.transforms.inputs.files import match_files
from labelbeam.transforms.inputs.streams import RestError, Stream
from labelbeam.transforms.inputs.tfrecord import FORMAT, RecordReader, read_images
from labelbeam.transforms.notes import Notes
from tests.shards import damage, example, find, payloads, read_all, reading_of, record, summary

COLUMNS = (("label", pa.int64()),)


def read(data: bytes, columns=(), **options) -> tuple[list, Notes]:
    """Read records from memory; `RestError` becomes the last element."""
    reading = reading_of(columns, image_feature="image", **options)
    rows: list = []
    try:
        rows.extend(read_images(RecordReader(Stream(io.BytesIO(data), "a", len(data))), reading))
    except RestError as e:
        rows.append(e)
    return rows, reading.notes


def image(n: int, **features) -> bytes:
    return record(example(image=f"image {n}".encode(), **features))


def noise(n: int) -> bytes:
    return random.Random(n).randbytes(1000)


@pytest.mark.parametrize("compression", ["", "GZIP", "ZLIB"])
def test_read__files_of_tensorflow__give_images_and_columns(compression, tmp_path):
    tf = pytest.importorskip("tensorflow")
    path = tmp_path / "a.tfrecord"

    def feature(**value):
        return tf.train.Feature(**value)

    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for n in range(200):
            features = {
                "image/encoded": feature(bytes_list=tf.train.BytesList(value=[noise(n)])),
                "image/class/label": feature(int64_list=tf.train.Int64List(value=[n - 100])),
                "image/class/text": feature(bytes_list=tf.train.BytesList(value=["Tür".encode()])),
                "score": feature(float_list=tf.train.FloatList(value=[n / 4] if n % 2 else [])),
                "box": feature(float_list=tf.train.FloatList(value=[0, 1])),
                "binary": feature(bytes_list=tf.train.BytesList(value=[b"\xff"])),
            }
            example = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(example.SerializeToString())
    corpus = find(FORMAT, path)
    assert dict(corpus.columns) == {
        "image/class/label": pa.int64(), "image/class/text": pa.string(), "score": pa.float32()
    }  # fmt: skip
    rows, notes = read_all(FORMAT, corpus)
    assert [row.data for row in rows] == [noise(n) for n in range(200)]
    assert [row.ref.columns for row in rows] == [
        (n - 100, "Tür", n / 4 if n % 2 else None) for n in range(200)
    ]
    assert [row.ref.id for row in rows[:2]] == [id_of_member(str(path), str(n)) for n in range(2)]
    assert rows[-1].ref.uri == f"{path}#199"
    assert not notes


def test_read_images__records_that_cannot_be_read__fail_alone():
    damaged = bytearray(image(0))
    damaged[20] ^= 1
    records = [
        image(0, label=7), bytes(damaged), record(b"\xff"), record(b""), record(example(image=[b"a", b"b"])),
        record(example(image=3)), image(1, label=[1, 2]), image(2, label=b"x"),
        record(example(image=bytes(101), label=8)), record(bytes(17 << 20)), image(3),
    ]  # fmt: skip
    rows, notes = read(b"".join(records), COLUMNS, max_bytes=100)
    assert [value for _, value in summary(rows)] == [
        b"image 0", "truncated", "bad_row", "bad_row", "bad_row", "bad_row", b"image 1", b"image 2",
        "too_large_bytes", "too_large_bytes", b"image 3",
    ]  # fmt: skip
    assert [uri for uri, _ in summary(rows)] == [f"/a#{n}" for n in range(len(records))]
    columns = [row.ref.columns for row in rows]
    assert [columns[0], columns[6], columns[8]] == [(7,), (None,), (8,)]
    assert notes.to_json()["unparsed"]["label"]["count"] == 2


@pytest.mark.parametrize(
    ("data", "images", "message"),
    [
        (image(0)[:-1], 0, "cut"),
        (image(0) + image(1)[:20], 1, "cut"),
        (image(0) + image(1)[:5], 1, "within the length of a record"),
        (image(0) + b"garbage garbage", 1, "wrong checksum"),
    ],
)
def test_read_images__damaged_file__ends_with_the_reason(data, images, message):
    *rows, error = read(data)[0]
    assert len(rows) == images
    assert isinstance(error, RestError)
    assert message in str(error)


def test_read_images__images_that_are_done__are_not_read():
    rows, _ = read(image(0) + image(1), is_done=lambda image_id: image_id == id_of_member("/a", "0"))
    assert [type(row) for row in rows] == [ImageRef, InlineImage]


@pytest.mark.parametrize(
    ("records", "options", "result"),
    [
        ([{"image": b"1"}], {}, "image"),
        ([{"image/encoded": b"1", "x": b"2"}], {}, "image/encoded"),
        ([{"pic": b"1", "image": b"2"}], {"image_feature": "pic"}, "pic"),
        ([], {}, ""),
        ([], {"image_feature": "pic"}, "pic"),
        ([{"pic": b"1", "n": 1}], {}, "no feature of a usual name, .*--image_feature: pic"),
        ([{"image": 1}], {}, "there is none of bytes"),
        ([{"image": b"1", "jpeg": b"2"}], {}, "several features that can be images: image, jpeg"),
        ([{"image": b"1"}], {"image_feature": "pic"}, "image_feature='pic' is no feature of bytes"),
    ],
)
def test_find__feature_with_the_images__is_found_or_an_error(records, options, result, tmp_path):
    data = b"".join(record(example(**features)) for features in records)
    path = tmp_path / "a.tfrecord"
    if " " in result:
        with pytest.raises(UserError, match=result):
            find(FORMAT, path, data, **options)
    else:
        assert find(FORMAT, path, data, **options).image_feature == result


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zlib.compress])
def test_find__many_empty_files_in_front__the_first_record_decides(tmp_path, pack):
    for n in range(30):
        (tmp_path / f"{n:02}.tfrecord").write_bytes(pack(b""))
    (tmp_path / "30.tfrecord").write_bytes(pack(record(example(jpeg=b"a", n=1))))
    corpus = find(FORMAT, tmp_path / "*.tfrecord")
    assert (corpus.image_feature, dict(corpus.columns)) == ("jpeg", {"n": pa.int64()})
    (remark,) = corpus.remarks
    assert remark.startswith("The feature 'jpeg' holds the images")
    assert summary(read_all(FORMAT, corpus)[0]) == [(f"{tmp_path}/30.tfrecord#0", b"a")]


def test_find__later_file_with_further_features__is_a_remark(tmp_path):
    for n, features in enumerate(({}, {"box": [1, 2]}, {"text": b"photo", "box": 3, "n": 7})):
        data = record(example(image=b"a", **({"box": [3, 4]} | features)))
        (tmp_path / f"{n}.tfrecord").write_bytes(data)
    corpus = find(FORMAT, tmp_path / "*.tfrecord")
    assert not corpus.columns
    choice, remark = corpus.remarks
    assert choice.startswith("The feature 'image' holds the images")
    assert remark.startswith(
        f"{tmp_path}/2.tfrecord has features that {tmp_path}/0.tfrecord lacks, and that are left out of the "
        "tables: n, text. "
    )


def test_find__more_empty_files_than_are_looked_at__needs_the_feature(tmp_path, monkeypatch):
    for module in ("lists", "tfrecord"):
        monkeypatch.setattr(f"labelbeam.transforms.inputs.{module}.STARTS_LOOKED_AT", 2)
    for n in range(4):
        (tmp_path / f"{n}.tfrecord").write_bytes(gzip.compress(b""))
    (tmp_path / "4.tfrecord").write_bytes(image(4))
    with pytest.raises(UserError, match="first 2 files .* have no records. Name the feature with the images"):
        find(FORMAT, tmp_path / "*.tfrecord")
    corpus = find(FORMAT, tmp_path / "*.tfrecord", image_feature="image")
    assert [row.data for row in read_all(FORMAT, corpus)[0]] == [b"image 4"]


def test_read__record_whose_feature_is_unknown__has_the_remedy(tmp_path):
    corpus = find(FORMAT, tmp_path / "a.tfrecord", b"")
    (tmp_path / "a.tfrecord").write_bytes(image(0))
    (failure,), _ = read_all(FORMAT, replace(corpus, files=match_files(str(tmp_path / "a.tfrecord"))))
    assert failure.reason == "bad_row" and "Name the feature with the image with --image" in failure.message


def test_find__no_records_of_images__is_refused_by_name(tmp_path):
    for data, fault in ((b"{}", "is no TFRecord file"), (record(b"\xff" * 9), "no tf.train.Example")):
        with pytest.raises(UserError, match=f"a.tfrecord.*{fault}"):
            find(FORMAT, tmp_path / "a.tfrecord", data)


@pytest.mark.parametrize("start", [b"\x1f\x8b\x08", b"\x78\x9c", b"\x28\xb5\x2f\xfd", b"BZ"])
def test_find__length_that_looks_like_a_compression__is_a_length(start, tmp_path):
    length = int.from_bytes(start, "little")
    if length > 1 << 24:
        length = int.from_bytes(start[:2], "little")
    data = example(image=bytes(length))
    data = example(image=bytes(2 * length - len(data)))
    assert len(data) == length
    rows, _ = read_all(FORMAT, find(FORMAT, tmp_path / "a.tfrecord", record(data)))
    assert len(rows) == 1


RECORDS = st.lists(payloads(), max_size=5)


@given(RECORDS)
def test_read_images__any_records__give_their_images_in_order(images):
    rows, _ = read(b"".join(record(example(image=data)) for data in images))
    assert [row.data for row in rows] == images


@given(RECORDS.filter(len), st.sampled_from([bytes, gzip.compress, zlib.compress]), st.data())
def test_read__any_flipped_byte_zeros_or_cut__loses_no_image_silently(tmp_path_factory, images, pack, draw):
    path = tmp_path_factory.getbasetemp() / "fuzz.tfrecord"
    parts = [record(example(image=data)) for data in images]
    corpus = find(FORMAT, path, pack(b"".join(parts)))
    damaged = damage(path.read_bytes(), draw)
    path.write_bytes(damaged)
    try:
        corpus = find(FORMAT, path, image_feature="image")
    except UserError:
        return
    rows, _ = read_all(FORMAT, corpus)
    good = {uri: data for uri, data in summary(rows) if isinstance(data, bytes)}
    assert good == {f"{path}#{n}": data for n, data in enumerate(images) if f"{path}#{n}" in good}
    rest = any(isinstance(row, Failure) and row.ref.uri == str(path) for row in rows)
    # A file that is empty or cut between two records is as good as a whole one.
    ends = [sum(map(len, parts[:n])) for n in range(len(parts) if pack is bytes else 1)]
    assert rest or len(rows) == len(images) or len(damaged) in ends


@given(st.binary(max_size=200))
def test_parse_example__any_bytes__are_features_or_an_error(data):
    try:
        parse_example(data)
    except ValueError as e:
        assert str(e) == "is no tf.train.Example"


def test_parse_example__packed_or_not__gives_all_values():
    # Field 3 of a feature, with numbers in one field and in several.
    packed, single = b"\x0a\x02\x05\x06", b"\x08\x05\x08\x06"
    for numbers in (packed, single):
        feature = b"\x1a" + bytes([len(numbers)]) + numbers
        entry = b"\x0a\x01n\x12" + bytes([len(feature)]) + feature
        features = b"\x0a" + bytes([len(entry)]) + entry
        data = b"\x0a" + bytes([len(features)]) + features
        assert list(parse_example(data)["n"].values) == [5, 6]
