"""Values that fit the types of columns, and values that do not, in every format."""

import datetime
import io
import json
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labelbeam.pipeline.config import ReadConfig
from labelbeam.pipeline.corpus import find_corpus
from labelbeam.transforms.inputs import bigquery, parquet_images, tar, tfrecord
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.inputs.formats import format_of
from labelbeam.transforms.notes import Notes
from labelbeam.transforms.read import read_rows
from labelbeam.transforms.table.column_types import fit_values
from tests.list_files import WRITERS
from tests.shards import example, read_all, record, tar_of
from tests.shards import find as find_shards

INT, FLOAT, BOOL, TEXT = pa.int64(), pa.float64(), pa.bool_(), pa.string()
DAY, TIME, MICROS = pa.date32(), pa.time64("us"), pa.timestamp("us")
UTC, NEW_YORK = pa.timestamp("us", "UTC"), datetime.timezone(datetime.timedelta(hours=-5))
NOON = datetime.datetime(2026, 1, 31, 12)
MIDNIGHT = datetime.datetime(2026, 1, 31)
DAYS, DAY_USEC = 20_484, 86_400_000_000


def a_struct(**types):
    return pa.struct(list(types.items()))


# Texts with the type of their column, and the values in the tables; None where the text does not fit.
TEXTS = [
    ("1.10", TEXT, "1.10"),
    (" 7 ", INT, 7),
    ("1.5", INT, None),
    (str(2**64 - 1), pa.uint64(), 2**64 - 1),
    (str(2**63), INT, None),
    ("300", pa.int8(), None),
    ("1.1", pa.float32(), pa.scalar(1.1, pa.float32()).as_py()),
    ("1e400", FLOAT, None),
    ("-inf", FLOAT, float("-inf")),
    ("true", BOOL, True),
    ("0", BOOL, False),
    ("2", BOOL, None),
    ("0.5", BOOL, None),
    ("true", INT, None),
    ("1.10", pa.decimal128(9, 2), Decimal("1.10")),
    ("1.105", pa.decimal128(9, 2), None),
    ("2026-01-31", DAY, DAYS),
    ("2026-01-31 23:59:00", DAY, None),
    ("0000-01-01", DAY, None),
    ("2026-01-31T00:00:00", MICROS, DAYS * DAY_USEC),
    ("2026-01-31 00:00:00-05:00", MICROS, None),
    ("2026-01-31 00:00:00-05:00", UTC, DAYS * DAY_USEC + 5 * 3_600_000_000),
    ("2026-01-31 00:00:00", UTC, None),
    ("12:00:00.5", TIME, 43_200_500_000),
    ("25:00:00", TIME, None),
    ("5", pa.duration("us"), None),
    ("ab", pa.binary(), b"ab"),
    ("ab", pa.binary(3), None),
    ("abc", pa.list_(TEXT), None),
    ("abc", a_struct(a=TEXT), None),
    ("abc", pa.map_(TEXT, TEXT), None),
]
# Other values, for formats with types.
VALUES = [
    (None, INT, None),
    (1, INT, 1),
    (1.0, INT, 1),
    (19.99, INT, None),
    (2**63, INT, None),
    (-1, pa.uint64(), None),
    (300, pa.int8(), None),
    (2**60, FLOAT, 2.0**60),
    (2**60 + 1, FLOAT, None),
    (2**63 - 1, FLOAT, None),
    (1.1, pa.float32(), pa.scalar(1.1, pa.float32()).as_py()),
    (1e300, pa.float32(), None),
    (1, BOOL, True),
    (0.0, BOOL, False),
    (2, BOOL, None),
    (0.5, BOOL, None),
    (True, INT, None),
    (True, FLOAT, None),
    (True, TEXT, "true"),
    (0.25, pa.decimal128(9, 2), Decimal("0.25")),
    (0.125, pa.decimal128(9, 2), None),
    (Decimal("1.10"), pa.decimal128(9, 1), Decimal("1.1")),
    (Decimal("1.11"), pa.decimal128(9, 1), None),
    (Decimal("1.5"), INT, None),
    (Decimal("1.5"), FLOAT, 1.5),
    (1, MICROS, None),
    (1, DAY, None),
    (NOON.date(), INT, None),
    (NOON.date(), MICROS, DAYS * DAY_USEC),
    (NOON.date(), UTC, None),
    (NOON, MICROS, DAYS * DAY_USEC + DAY_USEC // 2),
    (NOON, DAY, None),
    (MIDNIGHT, DAY, DAYS),
    (NOON, TIME, None),
    (NOON, UTC, None),
    (NOON.replace(tzinfo=datetime.UTC), UTC, DAYS * DAY_USEC + DAY_USEC // 2),
    (MIDNIGHT.replace(tzinfo=datetime.UTC), MICROS, None),
    (MIDNIGHT.replace(tzinfo=datetime.UTC), DAY, None),
    (MIDNIGHT.replace(tzinfo=NEW_YORK), UTC, DAYS * DAY_USEC + 5 * 3_600_000_000),
    (NOON.replace(microsecond=1), pa.timestamp("ms"), None),
    (b"ab", pa.binary(2), b"ab"),
    (b"ab", pa.binary(3), None),
    (b"12", INT, 12),
    ([1.0, None], pa.list_(INT), [1, None]),
    ([1.5], pa.list_(INT), None),
    ([[1], []], pa.list_(pa.list_(pa.int8())), [[1], []]),
    ([300], pa.list_(pa.int8()), None),
    (["1", "2"], pa.list_(INT), [1, 2]),
    (["2026-01-31"], pa.list_(DAY), [DAYS]),
    (["12:00:00"], pa.list_(TIME), [43_200_000_000]),
    ([NOON], pa.list_(DAY), None),
    (["1e400"], pa.list_(FLOAT), None),
    ([2], pa.list_(BOOL), None),
    ([1], INT, None),
    (1, pa.list_(INT), None),
    ({"a": 1.0}, a_struct(a=INT, b=TEXT), {"a": 1, "b": None}),
    ({"a": 1.5}, a_struct(a=INT), None),
    ({"a": 1, "z": 2}, a_struct(a=INT), None),
    ({"a": 1, "z": None}, a_struct(a=INT), {"a": 1}),
    ({"a": {"b": [NOON]}}, a_struct(a=a_struct(b=pa.list_(DAY))), None),
    ({"a": {"b": [MIDNIGHT]}}, a_struct(a=a_struct(b=pa.list_(DAY))), {"a": {"b": [DAYS]}}),
    ([{"a": 1}, None], pa.list_(a_struct(a=FLOAT)), [{"a": 1.0}, None]),
    ([{"a.b": 1}], pa.list_(a_struct(**{"a.b": FLOAT})), [{"a.b": 1.0}]),
    ({"a": 1}, pa.map_(TEXT, INT), None),
]


def read_list(tmp_path, form, value, kind):
    """Return the column's value, and notes, of a list whose table has the column's type already."""
    path = tmp_path / f"list.{form}"
    path.write_bytes(WRITERS[form]([{"uri": "a.jpg", "c": value}]))
    corpus = find_corpus(ReadConfig(input=str(path)), {"c": kind})
    notes = Notes()
    (ref,) = (row for piece in format_of(corpus).split(corpus) for row in read_rows(piece, corpus, notes))
    return ref.columns, notes.to_json()


def read_bigquery(_, value, kind):
    corpus = Corpus("bigquery://p.d.t", "bigquery", uri_column="uri", columns=(("c", kind),))
    notes = Notes()
    (ref,) = bigquery.FORMAT.read({"uri": "a.jpg", "c": value}, corpus, notes)
    return ref.columns, notes.to_json()


def read_shard(tmp_path, form, data, name, kind):
    (rows, notes) = read_all(form, find_shards(form, tmp_path / "file", data, {name: kind}))
    # The last one, because a tar archive has the sample's key as its first column.
    return rows[0].ref.columns[-1:], notes.to_json()


def read_parquet_images(tmp_path, value, kind):
    buffer = io.BytesIO()
    pq.write_table(pa.table({"image": [b"x"], "c": [value]}), buffer)
    return read_shard(tmp_path, parquet_images.FORMAT, buffer.getvalue(), "c", kind)


def read_tar(tmp_path, value, kind):
    return read_shard(tmp_path, tar.FORMAT, tar_of({"a.jpg": b"x", "a.txt": value.encode()}), "txt", kind)


def read_tfrecord(tmp_path, value, kind):
    data = record(example(image=b"x", c=value.encode()))
    return read_shard(tmp_path, tfrecord.FORMAT, data, "c", kind)


TYPED = {
    "parquet": lambda *args: read_list(args[0], "parquet", *args[1:]),
    "jsonl": lambda *args: read_list(args[0], "jsonl", *args[1:]),
    "json": lambda *args: read_list(args[0], "json", *args[1:]),
    "bigquery": read_bigquery,
    "parquet_images": read_parquet_images,
}
PLAIN = {
    "csv": lambda *args: read_list(args[0], "csv", *args[1:]),
    "tsv": lambda *args: read_list(args[0], "tsv", *args[1:]),
    "tar": read_tar,
    "tfrecord": read_tfrecord,
}


def can_write(form, value):
    """Return whether a format has a form for a value."""
    if form.startswith("parquet") and value == 2**63:
        return False  # Arrow infers no type of it
    if form == "parquet_images":
        return not isinstance(value, bytes)  # columns of bytes are left out
    try:
        return not form.startswith("json") or bool(json.dumps(value))
    except TypeError:
        return False


CASES = [
    *((form, *case) for form in TYPED | PLAIN for case in TEXTS),
    *((form, *case) for form in TYPED for case in VALUES if can_write(form, case[0])),
]


@pytest.mark.parametrize(("form", "value", "kind", "expected"), CASES, ids=lambda value: str(value)[:40])
def test_fit__value_in_every_format__is_kept_whole_or_null_and_noted(tmp_path, form, value, kind, expected):
    columns, notes = (TYPED | PLAIN)[form](tmp_path, value, kind)
    assert columns == (expected,) and type(columns[0]) is type(expected)
    is_misfit = value is not None and expected is None
    assert sum(tally["count"] for tally in notes.get("unparsed", {}).values()) == is_misfit


@pytest.mark.parametrize(
    ("array", "kind", "expected"),
    [
        (
            pa.array([[1], None, [], [2, 3]], pa.large_list(INT)),
            pa.list_(FLOAT),
            [[1.0], None, [], [2.0, 3.0]],
        ),
        (pa.array([{"a": 1}, None, {"a": None}]), a_struct(a=FLOAT), [{"a": 1.0}, None, {"a": None}]),
        (
            pa.array([[("k", 1)], None, [], [("j", 2), ("i", 300)]], pa.map_(TEXT, INT)),
            pa.map_(TEXT, pa.int16()),
            [[("k", 1)], None, [], [("j", 2), ("i", 300)]],
        ),
        (
            pa.array([[("k", 1)], None, [], [("j", 2), ("i", 300)]], pa.map_(TEXT, INT)),
            pa.map_(TEXT, pa.int8()),
            [[("k", 1)], None, [], None],
        ),
        (pa.array([None, 2, 1]), BOOL, [None, None, True]),
        (pa.array([2**60, 2**40], MICROS), pa.timestamp("ns"), [None, 2**40 * 1000]),
        (pa.array([123_456_789, None], pa.timestamp("ns")), MICROS, [None, None]),
        (pa.array(["1", "x"]).dictionary_encode(), INT, [1, None]),
    ],
    ids=lambda value: str(value)[:40],
)
@pytest.mark.parametrize("start", [0, 1])
def test_fit_values__slice_of_an_array__is_that_of_the_values(array, kind, expected, start):
    notes = Notes()
    assert fit_values(array[start:], "c", kind, notes) == expected[start:]
    is_misfit = [value is None and given.is_valid for value, given in zip(expected, array, strict=True)]
    assert notes.to_json().get("unparsed", {}).get("c", {"count": 0})["count"] == sum(is_misfit[start:])
