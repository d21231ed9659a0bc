"""Lists with columns: the same rows in every format, and faults in words."""

import dataclasses
import datetime
import decimal
import gzip
import io
import itertools
import json
import tracemalloc

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labelbeam.pipeline.commands.rerun import rerun
from labelbeam.pipeline.commands.verify import verify
from labelbeam.pipeline.config import ReadConfig
from labelbeam.pipeline.corpus import find_corpus
from labelbeam.transforms.coders import decode_row, encode_row
from labelbeam.transforms.elements import Failure, ImageRef, id_of_uri
from labelbeam.transforms.errors import RunError, UserError
from labelbeam.transforms.inputs import files, lists, parquet, quotes
from labelbeam.transforms.inputs.files import MAX_LINE_BYTES
from labelbeam.transforms.inputs.first_bytes import START_BYTES
from labelbeam.transforms.inputs.formats import format_of
from labelbeam.transforms.inputs.json import split_array
from labelbeam.transforms.notes import Notes
from labelbeam.transforms.photos import PHOTOS, photo_paths
from labelbeam.transforms.read import list_rows, read_rows
from labelbeam.transforms.select import select_unlabelled
from labelbeam.transforms.shards import read_members
from labelbeam.transforms.table.column_types import table_type, type_from_text, type_to_text
from labelbeam.transforms.table.rows import FAILURES, PREDICTIONS, RowMetadata, failure_row, schema_of
from tests.doctor import case_of, find
from tests.graphs import read_tables, run_pipeline
from tests.list_files import COMPRESSIONS, WRITERS


def read(path, data, **options):
    """Write a list, and return its corpus, its rows and its notes."""
    path.write_bytes(data)
    corpus = find_corpus(ReadConfig(input=str(path), **options))
    notes = Notes()
    pieces = format_of(corpus).split(corpus)
    return corpus, [row for piece in pieces for row in read_rows(piece, corpus, notes)], notes.to_json()


def table_bytes(table, **options):
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    return buffer.getvalue()


# Not carriage returns, because a line break in quotes becomes a line feed.
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=12)
# Not addresses beside line breaks, because a line of a value must be no row by itself, nor tabs.
CELLS = TEXT.filter(lambda text: "\n" not in text or set(text).isdisjoint("\t/."))
URIS = st.from_regex(r"[a-zé/,;|\"' ]{0,8}\.jpg", fullmatch=True)
TABLES = st.lists(
    st.fixed_dictionaries({"uri": URIS, "note": CELLS, "a|b;c, d": CELLS}), min_size=1, max_size=9
)


@given(rows=TABLES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_list_rows__table_of_text__is_the_same_in_every_format(tmp_path, rows):
    expected = [
        ImageRef(id_of_uri(uri := row["uri"].strip()), uri, (row["note"], row["a|b;c, d"])) for row in rows
    ]
    rows = [{name: row[name] for name in ("uri", "note", "a|b;c, d")} for row in rows]
    for form, write in WRITERS.items():
        corpus, listed, notes = read(tmp_path / f"list.{form}", write(rows))
        assert listed == expected, form
        assert notes == {} and dict(corpus.columns) == {"note": pa.string(), "a|b;c, d": pa.string()}


VALUES = {
    "n": st.integers(-(2**63), 2**63 - 1),
    "x": st.floats(allow_nan=False, allow_infinity=False),
    "yes": st.booleans(),
    "text": TEXT,
}


@given(
    rows=st.lists(
        st.fixed_dictionaries({"url": URIS, **{name: st.none() | values for name, values in VALUES.items()}}),
        max_size=9,
    )
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_list_rows__table_of_types__is_the_same_in_formats_with_types(tmp_path, rows):
    rows = [{"url": "first.jpg", "n": 1, "x": 0.5, "yes": True, "text": "t"}, *rows]
    listed = {
        form: read(tmp_path / f"list.{form}", WRITERS[form](rows)) for form in ("parquet", "jsonl", "json")
    }
    for corpus, refs, notes in listed.values():
        assert corpus.columns == (
            ("n", pa.int64()),
            ("x", pa.float64()),
            ("yes", pa.bool_()),
            ("text", pa.string()),
        )
        assert [ref.columns for ref in refs] == [tuple(row[name] for name in VALUES) for row in rows]
        assert corpus.remarks == ("The column 'url' holds the URIs, by its name.",) and notes == {}


@pytest.mark.parametrize("packed", COMPRESSIONS)
@pytest.mark.parametrize("form", [form for form in WRITERS if form != "parquet"])
def test_list_rows__compressed__gives_the_rows_of_the_plain_list(tmp_path, form, packed):
    data = WRITERS[form]([{"uri": f"{n}.jpg", "note": "two\nlines"} for n in range(20)])
    _, plain, _ = read(tmp_path / f"plain.{form}", data)
    _, rows, _ = read(tmp_path / f"list.{form}.{packed}", COMPRESSIONS[packed](data))
    assert rows == plain and len(rows) == 20 and plain[0].columns == ("two\nlines",)


@pytest.mark.parametrize("name", ["list", "list.csv", "list.txt", "part-*", "*.list"])
@pytest.mark.parametrize("form", ["parquet", "jsonl", "json"])
def test_find_corpus__content_of_a_format__is_stronger_than_the_name(tmp_path, form, name):
    (tmp_path / name.replace("*", "0")).write_bytes(WRITERS[form]([{"uri": "a.jpg"}]))
    assert find_corpus(ReadConfig(input=f"{tmp_path}/{name}")).format == form


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("a.jpg", "images"),
        ("a.tsv", "csv"),
        ("a", "csv"),
        ("a.jsonl", "begins with b'uri', which is no object in JSON. Put an object in each line"),
        (
            "a.json",
            r"begins with b'uri\\na.jpg\\n', which is no array of objects in JSON. Set --input_format",
        ),
        ("a.pq", r"begins with b'uri\\na.*', so it is no Parquet file"),
    ],
)
def test_find_corpus__text_that_no_format_recognises__is_of_the_names_format(tmp_path, name, outcome):
    (tmp_path / name).write_bytes(b"uri\na.jpg\n")
    config = ReadConfig(input=f"{tmp_path}/{name}")
    if " " not in outcome:
        assert find_corpus(config).format == outcome
        return
    with pytest.raises(UserError, match=f"{name} {outcome}"):
        find_corpus(config)


FORMAT_OF_WRITER = {"tsv": "csv", "psv": "csv"}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (first, second)
        for first in WRITERS
        for second in ("parquet", "jsonl", "json", "csv")
        if FORMAT_OF_WRITER.get(first, first) != second
    ],
)
def test_find_corpus__files_of_two_formats__are_refused_in_one_line(tmp_path, first, second):
    rows = [{"uri": "a.jpg", "note": "x"}]
    (tmp_path / "list-0").write_bytes(WRITERS[first](rows))
    (tmp_path / "list-1").write_bytes(WRITERS[second](rows))
    form = "csv" if first in ("csv", "tsv", "psv") else "auto"
    with pytest.raises(UserError, match=r"list-1 (is|begins|has)") as e:
        find_corpus(ReadConfig(input=f"{tmp_path}/list-*", input_format=form))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize(
    ("names", "options", "found"),
    [
        (["n", "URL"], {}, "URL"),
        (["uri", "url"], {}, "uri"),
        (["Image-URI", "n"], {}, "Image-URI"),
        (["n", "where"], {"uri_column": "where"}, "where"),
        (["n", "url", "file_name"], {}, "several columns that may hold the URIs: url, file_name. Name one"),
        (["n", "m"], {}, "no column of text with a usual name for URIs"),
        (["n", "url"], {"uri_column": "uri"}, "uri_column='uri' is no column of .*Add --uri_column='url'"),
        (["url", "n"], {"id_column": "id"}, "id_column='id' is no column of"),
        (["url", "n", "N"], {}, "(two columns|take for one|distinct)"),
    ],
)
def test_find_corpus__uri_column__is_found_by_its_name_if_one_fits(tmp_path, form, names, options, found):
    data = WRITERS[form]([dict.fromkeys(names, "a.jpg")])
    if found in names:
        corpus, (ref,), _ = read(tmp_path / f"list.{form}", data, **options)
        assert (corpus.uri_column, ref.uri) == (found, "a.jpg")
        assert bool(corpus.remarks) == (not options and found != "uri")
    else:
        with pytest.raises(UserError, match=found) as e:
            read(tmp_path / f"list.{form}", data, **options)
        assert "\n" not in str(e.value)


GOOD = [{"uri": f"{n}.jpg", "note": "x" * 50} for n in range(60)]
DAMAGED = {
    "csv.gz": "is (cut|damaged)",
    "jsonl.zst": "is (cut|damaged)",
    "json": "its array in JSON has no end",
    "json.gz": "is (cut|damaged)",
    "parquet": "is damaged",
}


@pytest.mark.parametrize(("form", "message"), DAMAGED.items())
def test_list_rows__cut_file__ends_with_one_line_that_names_it(tmp_path, form, message):
    kind, _, packed = form.partition(".")
    data = COMPRESSIONS.get(packed, bytes)(WRITERS[kind](GOOD))
    with pytest.raises((RunError, UserError), match=message) as e:
        read(tmp_path / f"list.{form}", data[: len(data) * 9 // 10])
    assert f"list.{form}" in str(e.value) and "\n" not in str(e.value)


def test_list_rows__parquet_with_a_flipped_bit__is_damaged(tmp_path):
    table = pa.Table.from_pylist(GOOD)
    options = {"write_page_checksum": True, "compression": "none", "write_statistics": False}
    data = bytearray(table_bytes(table, **options))
    data[data.index(b"xxxxx") + 2] ^= 1
    with pytest.raises(RunError, match="list.parquet is damaged"):
        read(tmp_path / "list.parquet", bytes(data))


# Lists without rows in every format: contents, by the ending of the name.
WITHOUT_ROWS = [
    ("txt", b""),
    ("txt", b"\n \n"),
    ("csv", b"uri,n"),
    ("tsv", b"uri\tn\r\n\r\n"),
    ("jsonl", b""),
    ("jsonl", b"\xef\xbb\xbf\n\n"),
    ("json", b"[]"),
    ("json", b"\xef\xbb\xbf[\n]\n"),
    ("parquet", table_bytes(pa.table({"uri": pa.array([], pa.string())}))),
]


@pytest.mark.parametrize(("form", "data"), WITHOUT_ROWS, ids=lambda value: str(value)[:20])
def test_list_rows__list_without_rows__is_read(tmp_path, form, data):
    corpus, rows, notes = read(tmp_path / f"list.{form}", data)
    assert (rows, notes, corpus.has_files) == ([], {}, True)
    if form != "parquet":
        assert read(tmp_path / f"list.{form}.gz", gzip.compress(data))[1] == []


# An empty file is a list without rows only where a list has no header, brackets or footer.
@pytest.mark.parametrize("form", ["csv", "tsv", "json", "parquet"])
def test_find_corpus__empty_file__is_explained(tmp_path, form):
    for data in (b"", b"\xef\xbb\xbf \n")[: 1 if form == "parquet" else 2]:
        with pytest.raises(UserError, match=f"list.{form} is empty. Put "):
            read(tmp_path / f"list.{form}", data)


@pytest.mark.parametrize("form", ["jsonl", "json"])
def test_find_corpus__json_without_rows__has_the_columns_of_the_table(tmp_path, form):
    (tmp_path / f"list.{form}").write_bytes(b"[]" if form == "json" else b"")
    options = {"uri_column": "where", "id_column": "key", "column_types": (("n", "float64"),)}
    known = {"n": pa.int64(), "note": pa.string()}
    corpus = find_corpus(ReadConfig(input=f"{tmp_path}/list.{form}", **options), known)
    assert corpus.columns == (("n", pa.float64()), ("note", pa.string()))
    assert (corpus.uri_column, corpus.id_column) == ("where", "key")


def test_graph__list_without_rows__changes_no_table_and_binds_no_column(tmp_path, tiny):
    (tmp_path / "full.jsonl").write_bytes(WRITERS["jsonl"]([{"uri": str(photo_paths()[0]), "n": "1"}]))
    for name, data in (("empty.csv", b"uri,n\n"), ("empty.jsonl", b""), ("empty.json", b"[]")):
        (tmp_path / name).write_bytes(data)
    listed = ["empty.jsonl", "full.jsonl", "empty.csv", "empty.jsonl", "empty.json"]
    tables = []
    for name in listed:
        counts = run_pipeline(input=tmp_path / name, output=tmp_path / "out", model=tiny)["counts"]
        tables.append((counts["listed"], [row["n"] for row in read_tables(tmp_path / "out")[0]]))
    assert tables == [(0, []), (1, ["1"]), *[(0, ["1"])] * 3]


@pytest.mark.parametrize("form", ["jsonl", "json"])
@pytest.mark.parametrize("end", [b"", b"\n"])
@pytest.mark.parametrize("size", [START_BYTES - 2, START_BYTES - 1, START_BYTES, 3 * START_BYTES])
def test_list_rows__one_large_object__is_read_with_and_without_a_line_break_behind(tmp_path, form, end, size):
    data = b'{"uri": "a.jpg", "note": ""}'
    data = data.replace(b'""', b'"%s"' % (b"x" * (size - len(data))))
    data = b"[" + data + b"]" if form == "json" else data
    _, (row,), _ = read(tmp_path / f"list.{form}", data + end)
    assert row.uri == "a.jpg" and set(row.columns[0]) == {"x"}


@pytest.mark.parametrize("form", WRITERS)
def test_list_rows__huge_row__is_one_bad_row_among_good_ones(tmp_path, form):
    rows = [dict(row) for row in GOOD]
    rows[30]["note"] = "y" * (MAX_LINE_BYTES + 1)
    _, listed, _ = read(tmp_path / f"list.{form}", WRITERS[form](rows))
    (failure,) = [row for row in listed if isinstance(row, Failure)]
    assert failure.reason == "bad_row" and "the most are 1,048,576" in failure.message
    assert len(failure.ref.uri) <= 1000 and len(listed) == 60
    assert [row.uri for row in listed if isinstance(row, ImageRef)] == [
        row["uri"] for n, row in enumerate(rows) if n != 30
    ]


# Formats in which the id of a huge row can be read: it stands in front of the large text, or in its column.
READABLE = {"csv": True, "tsv": True, "psv": True, "parquet": True, "jsonl": False, "json": False}


@pytest.mark.parametrize(("form", "is_readable"), READABLE.items())
def test_list_rows__huge_row__is_under_its_own_id_if_that_can_be_read(tmp_path, form, is_readable):
    rows = [{"key": f"{n}", "uri": f"{n}.jpg", "note": "x"} for n in range(3)]
    huge = "y" * (MAX_LINE_BYTES + 1)
    ids = []
    for note in (huge, huge + "z"):
        rows[1]["note"] = note
        _, listed, _ = read(tmp_path / f"list.{form}", WRITERS[form](rows), id_column="key")
        assert [row.id for row in listed if isinstance(row, ImageRef)] == ["0", "2"]
        ids += [row.ref.id for row in listed if isinstance(row, Failure)]
    # An id that is made from a row depends on all of the row.
    assert len(ids) == 2 and (ids == ["1", "1"] if is_readable else ids[0] != ids[1] and "1" not in ids)


@pytest.mark.parametrize("form", WRITERS)
def test_list_rows__row_without_uri__is_a_bad_row_under_its_own_id(tmp_path, form):
    rows = [{"uri": "a.jpg", "key": "1"}, {"uri": "", "key": "2"}]
    _, (good, bad), _ = read(tmp_path / f"list.{form}", WRITERS[form](rows), id_column="key")
    assert (good.id, bad.ref.id, bad.reason) == ("1", "2", "bad_row") and "has no uri" in bad.message


@pytest.mark.parametrize("form", WRITERS)
def test_list_rows__row_without_uri_and_id__has_an_id_of_its_own_in_any_order(tmp_path, form):
    rows = [{"uri": "a.jpg", "key": "1"}, {"uri": "", "key": "2"}, {"uri": "", "key": "3"}]
    listed = [
        {
            row.ref.id
            for row in read(tmp_path / f"list.{form}", WRITERS[form](some))[1]
            if isinstance(row, Failure)
        }
        for some in (rows, rows[::-1])
    ]
    assert listed[0] == listed[1] and len(listed[0]) == 2


def test_list_rows__secrets_in_bad_rows__are_in_no_message(tmp_path):
    uri = "https://u:hidden@h/a.jpg?sig=hidden"
    for form, write in WRITERS.items():
        _, rows, _ = read(
            tmp_path / f"list.{form}", write([{"uri": uri, "k": "1"}, {"uri": uri, "k": ""}]), id_column="k"
        )
        assert rows[0].signed == uri and "hidden" not in repr(rows) and rows[1].reason == "bad_row", form


# JSON lines: text of a line, and its values or its fault.
LINES = [
    (b'{"uri": "a.jpg", "n": 2.5}', {"n": "2.5"}),
    (b'{"uri": "a.jpg", "n": 9007199254740993.5}', {"n": "9007199254740993.5"}),
    (b'{"uri": "a.jpg", "n": true}', {"n": "true"}),
    (b'{"uri": "a.jpg", "n": {"a": 1}}', {"n": '{"a": 1}'}),
    (b'{"uri": "a.jpg", "n": ""}', {"n": ""}),
    (b'{"uri": "a.jpg", "n": 9223372036854775808}', {"n": "9223372036854775808"}),
    (b'{"uri": "a.jpg", "x": 1e400}', {"x": "1e400"}),
    (b'{"uri": "a.jpg", "x": ' + b"9" * 5000 + b"}", {"x": "9" * 100}),
    (b'{"uri": "a.jpg", "new": [1, {"a": null}]}', {"new (no column)": '[1, {"a": null}]'}),
    (b'{"uri": "a.jpg", "uri": "b.jpg"}', "has the key 'uri' twice"),
    (b'{"uri": "a.jpg", "t": {"k": 1, "k": 2}}', "has the key 'k' twice"),
    (b'{"uri": "a.jpg", "t": "\\ud800"}', "half of a surrogate pair"),
    (b'{"uri": 5}', "has a number in uri, which is no text"),
    (b'{"uri": ["a.jpg"]}', "has an array in uri"),
    (b'{"uri": null}', "has no uri"),
    (b'{"n": 1}', "has no uri"),
    (b'["a.jpg"]', "is no object in JSON"),
    (b'{"uri": "a.jpg"', "is not JSON"),
    (b'{"uri": "a.jpg"} {"uri": "b.jpg"}', "is not JSON"),
    (b'{"uri": "\xff.jpg"}', "is not UTF-8"),
    *(
        (b'{"uri": "a.jpg", "t": ' + b"[" * depth + b"]" * depth + b"}", "too many levels")
        for depth in (990, 980)
    ),
    (b'{"uri": "a.jpg", "t": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "too many levels"),
]


@pytest.mark.parametrize("number", ["1.10", "1e3", "0.1234567890123456789", "-0.0", "9007199254740993.0"])
def test_list_rows__number_in_json__keeps_its_digits_where_the_column_can_hold_them(tmp_path, number):
    first = b'{"uri": "first.jpg", "n": 1, "x": 0.5, "t": "t", "deep": {}}\n'
    row = f'{{"uri": "a.jpg", "n": {number}, "x": {number}, "t": {number}, "deep": {{"k": [{number}]}}}}'
    corpus, rows, _ = read(tmp_path / "list.jsonl", first * 1500 + row.encode())
    exact = decimal.Decimal(number)
    whole = int(exact) if exact == exact.to_integral_value() else None
    values = dict(zip((name for name, _ in corpus.columns), rows[-1].columns, strict=True))
    assert values == {"n": whole, "x": float(number), "t": number, "deep": f'{{"k": [{number}]}}'}
    assert type(values["x"]) is float


# More rows than decide about columns and types.
FIRST = [b'{"uri": "first.jpg", "n": 1, "x": 0.5, "t": "t"}'] * 1500


@pytest.mark.parametrize(("line", "outcome"), LINES, ids=lambda value: str(value)[:40])
def test_list_rows__json_line__is_noted_or_a_bad_row(tmp_path, line, outcome):
    for form, data in (
        ("jsonl", b"\n".join([*FIRST, line]) + b"\n\n"),
        ("json", b"[" + b",\n".join([*FIRST, line]) + b"]"),
    ):
        if form == "json" and not isinstance(outcome, dict) and outcome.startswith("is not JSON"):
            continue  # a fault of the whole array
        _, (first, *_, row), notes = read(tmp_path / f"list.{form}", data)
        assert first.columns == (1, 0.5, "t")
        if isinstance(outcome, dict):
            ((name, example),) = outcome.items()
            assert row.uri == "a.jpg" and row.columns == (None, None, None)
            assert notes == {"unparsed": {name: {"count": 1, "examples": [example]}}}
        else:
            assert row.reason == "bad_row" and outcome in row.message and notes == {}


def test_list_rows__json_line_of_odd_text__keeps_every_character(tmp_path):
    text = '\u2028\u2029\x85 \\ " \ufeff \x7f é'
    data = (
        b"\xef\xbb\xbf"
        + f'{{"uri": "a.jpg", "t": {json.dumps(text, ensure_ascii=False)}}}\r\n\n \t\r\n'.encode()
    )
    _, (ref,), _ = read(tmp_path / "list.jsonl", data)
    assert ref.columns == (text,)


@pytest.mark.parametrize(
    ("values", "kind", "kept"),
    [
        ([1, 2.5], pa.float64(), [1.0, 2.5]),
        ([1, "2"], pa.string(), ["1", "2"]),
        ([2**70, 1], pa.string(), [str(2**70), "1"]),
        ([True, 1], pa.string(), ["true", "1"]),
        ([None, None], pa.string(), [None, None]),
        ([float("inf"), 1], pa.float64(), [float("inf"), 1.0]),
        ([{"a": [1.10, None]}, ["ä"]], pa.string(), ['{"a": [1.1, null]}', '["ä"]']),
    ],
)
def test_list_rows__json_values__decide_the_type(tmp_path, values, kind, kept):
    data = WRITERS["jsonl"]([{"uri": "a.jpg", "v": value} for value in values])
    corpus, refs, notes = read(tmp_path / "list.jsonl", data)
    assert corpus.columns == (("v", kind),) and [ref.columns[0] for ref in refs] == kept and notes == {}


def test_list_rows__path_in_json__names_uri_and_id_which_are_left_out_of_the_columns(tmp_path):
    task = {
        "id": 3,
        "data": {"image": "https://h/a.jpg?sig=S", "meta": {"key": "k", "by": "me"}},
        "data.x": 1,
    }
    data = WRITERS["json"]([task])
    options = {"uri_column": "data.image", "id_column": "data.meta.key"}
    corpus, (ref,), _ = read(tmp_path / "tasks.json", data, **options)
    assert ref == ImageRef("k", "https://h/a.jpg?sig=…", (3, '{"meta": {"by": "me"}}', 1), signed=ref.signed)
    corpus, (ref,), _ = read(tmp_path / "tasks.json", WRITERS["json"]([{"data": {"image": "a.jpg"}}]))
    assert (corpus.uri_column, corpus.columns, ref.uri) == ("data.image", (), "a.jpg")


@given(
    values=st.lists(
        st.recursive(
            st.none() | st.booleans() | st.integers() | TEXT,
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
            max_leaves=8,
        ),
        max_size=6,
    ),
    indent=st.sampled_from([None, 1]),
    step=st.integers(1, 40),
    is_ascii=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_split_array__any_values_in_any_chunks__are_the_elements(values, indent, step, is_ascii):
    data = json.dumps(values, indent=indent, ensure_ascii=is_ascii).encode()
    chunks = [data[n : n + step] for n in range(0, len(data), step)]
    assert [json.loads(element) for element in split_array(chunks, "l.json")] == values
    for cut in (data[:-1], data + b"1"):
        with pytest.raises(RunError, match="l.json (is cut or damaged|has b'1' behind)"):
            list(split_array([cut], "l.json"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"images": [{"file_name": "a.jpg"}],\n "x": 1}', "jq -c '.images"),
        (b"[1, 2]", "no array of objects"),
        (b'["a.jpg"]', "no objects among its first rows"),
        (b'{"uri": "a.jpg", "URI": "b.jpg"}', "readers take for one"),
        (b'{"": 1, "uri": "a.jpg"}', "a column without a name"),
        (b"<html>", "no array of objects"),
        ('[{"uri": "a.jpg"}]'.encode("utf-16"), "iconv -f UTF-16"),
    ],
)
def test_find_corpus__json_that_is_no_list__is_explained(tmp_path, data, message):
    with pytest.raises(UserError, match=message) as e:
        read(tmp_path / "list.json", data)
    assert "\n" not in str(e.value)


# Rows of a CSV behind its header, the fields that they are, and the lines that are bad rows.
QUOTED = [
    ('a.jpg,"one\ntwo"\nb.jpg,x\n', [("a.jpg", "one\ntwo"), ("b.jpg", "x")], []),
    ('a.jpg,"one\n\n""two"""\n', [("a.jpg", 'one\n\n"two"')], []),
    ('a.jpg,"one\nb.jpg,x\nc.jpg,y\n', [("b.jpg", "x"), ("c.jpg", "y")], ['a.jpg,"one']),
    ('a.jpg,"one\nb.jpg,"two"\nc.jpg,y\n', [("b.jpg", "two"), ("c.jpg", "y")], ['a.jpg,"one']),
    ('a.jpg,"one\nb.jpg,"x\ny"\nc.jpg,z', [("b.jpg", "x\ny"), ("c.jpg", "z")], ['a.jpg,"one']),
    ('a.jpg,"one\nb.jpg,x\nc.jpg,y"\n', [("b.jpg", "x"), ("c.jpg", 'y"')], ['a.jpg,"one']),
    ('a.jpg,"one\nb.jpg,""\nc.jpg,y"\n', [("b.jpg", ""), ("c.jpg", 'y"')], ['a.jpg,"one']),
    ('a.jpg,"one\n""two"", x\ny"\n', [("a.jpg", 'one\n"two", x\ny')], []),
    ('a.jpg,"\n' + "b.jpg,x\n" * 200_000 + 'c.jpg,"y"\n', None, ['a.jpg,"']),
]


@pytest.mark.parametrize(("text", "fields", "bad"), QUOTED, ids=range(len(QUOTED)))
def test_list_rows__quotes_in_csv__take_only_rows_that_are_theirs(tmp_path, text, fields, bad):
    _, rows, _ = read(tmp_path / "list.csv", f"uri,note\n{text}".encode())
    refs = [(row.uri, *row.columns) for row in rows if isinstance(row, ImageRef)]
    assert refs == (fields or [*[("b.jpg", "x")] * 200_000, ("c.jpg", "y")])
    assert [row.ref.uri for row in rows if isinstance(row, Failure)] == bad


# Captions and URLs in tables of tabs that are written without quoting, as CC3M is: the fields, and bad rows.
UNQUOTED = [
    ('" hello there\th/1\na cat\th/2\na dog\th/3\nas he said "\th/4\n', [*"234"], ["1"]),
    ('" hello\th/1\nas he said "\th/2\n', [*"2"], ["1"]),
    ('" hello "\th/1\nsay "x" twice\th/2\n"all"\th/3\n', [*"123"], []),
    ('"one\ntwo"\th/1\n', [*"1"], []),
]


@pytest.mark.parametrize(("text", "good", "bad"), UNQUOTED, ids=range(len(UNQUOTED)))
def test_list_rows__quotes_in_a_table_of_tabs__take_no_other_row(tmp_path, text, good, bad):
    _, rows, notes = read(tmp_path / "list.tsv", f"caption\turl\n{text}".encode())
    assert [row.uri for row in rows if isinstance(row, ImageRef)] == [f"h/{n}" for n in good]
    assert [row.ref.uri[-3:] for row in rows if isinstance(row, Failure)] == [f"h/{n}" for n in bad]
    assert notes == {}


PLAIN_LINES = st.tuples(st.just(True), st.text("ab' ", max_size=4))
ODD_LINES = st.tuples(st.just(False), st.text('""",,\t\t;ab \r', max_size=9))


@given(
    delimiter=st.sampled_from(",\t;|"),
    lines=st.lists(PLAIN_LINES | ODD_LINES, max_size=30),
    piece_bytes=st.integers(80, 400),
    most_bytes=st.sampled_from([30, MAX_LINE_BYTES]),
    is_first=st.booleans(),
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_list_rows__plain_lines_among_any_quotes__are_one_row_each(
    tmp_path, delimiter, lines, piece_bytes, most_bytes, is_first
):
    order = 1 if is_first else -1
    plain = {f"{n}.jpg": text for n, (is_plain, text) in enumerate(lines) if is_plain}
    texts = [
        delimiter.join([f"{n}.jpg", text][::order]) if is_plain else text.replace(",", delimiter)
        for n, (is_plain, text) in enumerate(lines)
    ]
    header = delimiter.join(["uri", "note"][::order])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "PIECE_BYTES", piece_bytes)
        patch.setattr(quotes, "MAX_LINE_BYTES", most_bytes)
        _, rows, _ = read(tmp_path / "list.csv", "\n".join([header, *texts]).encode())
    found = [row for row in rows if isinstance(row, ImageRef) and row.uri in plain]
    assert [(row.uri, row.columns) for row in found] == [(uri, (text,)) for uri, text in plain.items()]


def test_list_rows__caption_with_a_line_of_as_many_delimiters__is_one_value(tmp_path):
    caption = "A cat\nand more, of it\nend"
    _, rows, _ = read(tmp_path / "list.csv", f'caption,url\n"{caption}",h/1.jpg\nplain,h/2.jpg\n'.encode())
    assert [(row.uri, row.columns) for row in rows] == [("h/1.jpg", (caption,)), ("h/2.jpg", ("plain",))]


@given(
    rows=st.lists(st.tuples(st.text('a",\n\t', max_size=30), st.text("b \n", max_size=9)), max_size=30),
    piece_bytes=st.integers(1, 300),
    form=st.sampled_from(["csv", "tsv", "psv"]),
)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_list_rows__csv_that_is_split_anywhere__gives_the_rows_of_the_whole_file(
    tmp_path, rows, piece_bytes, form
):
    named = [{"caption": one, "uri": f"{n}.jpg", "note": two} for n, (one, two) in enumerate(rows)]
    data = WRITERS[form]([{"caption": "first", "uri": "first.jpg", "note": ""}, *named])
    whole = read(tmp_path / f"list.{form}", data)[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "PIECE_BYTES", piece_bytes)
        assert read(tmp_path / f"list.{form}", data)[1] == whole


def test_list_rows__quoted_line_breaks_in_a_split_file__are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PIECE_BYTES", 100)
    rows = [{"note": "A cat\nOn a mat" if n % 3 else "x", "uri": f"{n}.jpg"} for n in range(40)]
    corpus, listed, _ = read(tmp_path / "list.csv", WRITERS["csv"](rows))
    assert [(row.uri, *row.columns) for row in listed] == [(row["uri"], row["note"]) for row in rows]
    assert len(list(format_of(corpus).split(corpus))) > 5


@pytest.mark.parametrize(
    ("text", "options", "outcome"),
    [
        ("uri\tn, m\na.jpg\t1\n", {}, "\t"),
        ("uri;n\na.jpg;1\n", {}, ";"),
        ("n|uri\n1|a.jpg\n", {}, "|"),
        ("uri:n\na.jpg:1\n", {"delimiter": ":"}, ":"),
        ("uri\na.jpg\n", {}, ","),
        ('"uri;x",n\n', {"uri_column": "uri;x"}, ","),
        ("where;a,b\n", {"uri_column": "where"}, ";"),
        ("a;b,c\n", {}, "may be separated by commas or semicolons. Set --delimiter"),
        ("uri,a;url\n", {}, "may be separated by commas or semicolons"),
        ("a.jpg;1,5\n", {"header": ("uri", "n")}, "may be separated"),
        ("a.jpg;1,5;2\n", {"header": ("uri", "n", "m")}, ";"),
    ],
)
def test_find_corpus__delimiter__is_that_of_the_first_line_or_asked_for(tmp_path, text, options, outcome):
    if len(outcome) > 1:
        with pytest.raises(UserError, match=outcome):
            read(tmp_path / "list.csv", text.encode(), **options)
    else:
        assert read(tmp_path / "list.csv", text.encode(), **options)[0].delimiter == outcome


BERLIN = pa.timestamp("us", "Europe/Berlin")
POINT = pa.struct([("x", pa.float32()), ("label", pa.dictionary(pa.int8(), pa.string()))])
# Columns of every kind of type: an array each, with the type in the tables.
ARRAYS = {
    "int8": (pa.array([1, None], pa.int8()), pa.int8()),
    "uint64": (pa.array([2**64 - 1, None], pa.uint64()), pa.uint64()),
    "half": (pa.array([0.5, None], pa.float16()), pa.float16()),
    "decimal": (pa.array([decimal.Decimal("1.10"), None], pa.decimal128(9, 2)), pa.decimal128(9, 2)),
    "large": (pa.array(["ä", None], pa.large_string()), pa.string()),
    "bytes": (pa.array([b"\xff", None], pa.binary()), pa.binary()),
    "fixed": (pa.array([b"ab", None], pa.binary(2)), pa.binary(2)),
    "dictionary": (pa.array(["a", None]).dictionary_encode(), pa.string()),
    "none": (pa.nulls(2), pa.string()),
    "day": (pa.array([datetime.date(2026, 1, 2), None]), pa.date32()),
    "time": (pa.array([123_456_789, None], pa.time64("ns")), pa.time64("ns")),
    "zone": (pa.array([1_700_000_000_123_456, None], BERLIN), BERLIN),
    "nanoseconds": (pa.array([1_700_000_000_123_456_789, None], pa.timestamp("ns")), pa.timestamp("ns")),
    "year 40000": (pa.array([2**60, None], pa.timestamp("us")), pa.timestamp("us")),
    "duration": (pa.array([5, None], pa.duration("ns")), pa.duration("ns")),
    "list": (pa.array([[1, None], None], pa.large_list(pa.int32())), pa.list_(pa.int32())),
    "vector": (pa.array([[1, 2], [3, 4]], pa.list_(pa.float32(), 2)), pa.list_(pa.float32())),
    "map": (pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int8())), pa.map_(pa.string(), pa.int8())),
    "struct": (
        pa.array(
            [{"a, b: <c>": [1_700_000_000_000_000], "d": {"e": None}}, None],
            pa.struct([("a, b: <c>", pa.list_(BERLIN)), ("d", pa.struct([("e", pa.date32())]))]),
        ),
        pa.struct([("a, b: <c>", pa.list_(BERLIN)), ("d", pa.struct([("e", pa.date32())]))]),
    ),
}


def test_parquet__columns_of_every_type__come_through_shuffle_tables_and_manifest(tmp_path):
    arrays = {name: array for name, (array, _) in ARRAYS.items()}
    data = table_bytes(pa.table({"uri": ["a.jpg", "b.jpg"], **arrays}))
    corpus, refs, notes = read(tmp_path / "list.parquet", data)
    assert dict(corpus.columns) == {name: kind for name, (_, kind) in ARRAYS.items()} and notes == {}
    assert [decode_row(encode_row(ref)) for ref in refs] == refs
    assert all(type_from_text(type_to_text(kind)) == kind for _, kind in corpus.columns)
    for name, (_, kind) in ARRAYS.items():
        values = [ref.columns[list(ARRAYS).index(name)] for ref in refs]
        assert pa.array(values, kind).equals(
            pq.read_table(tmp_path / "list.parquet")[name].combine_chunks().cast(kind)
        ), name
    # The choice between two rows of one id does not depend on their order.
    rows = [dataclasses.replace(refs[n % 2], id="1", uri="a.jpg") for n in range(4)]
    chosen = {
        repr(select_unlabelled(map(decode_row, map(encode_row, order)))[0])
        for order in itertools.permutations(rows)
    }
    assert len(chosen) == 1


def test_parquet__columns_beside_images__are_those_of_a_list(tmp_path):
    arrays = {name: array for name, (array, _) in ARRAYS.items() if name != "bytes"}
    _, refs, _ = read(tmp_path / "list.parquet", table_bytes(pa.table({"uri": ["a.jpg", "b.jpg"], **arrays})))
    path = tmp_path / "images.parquet"
    path.write_bytes(table_bytes(pa.table({"image": [JPEG, JPEG], **arrays})))
    corpus = find_corpus(ReadConfig(input=str(path)))
    assert dict(corpus.columns) == {name: ARRAYS[name][1] for name in arrays}
    assert [image.ref.columns for image in read_members(corpus, 10)] == [ref.columns for ref in refs]


def test_parquet__long_values_in_a_dictionary__are_not_taken_for_those_of_each_row(tmp_path):
    names = [f"{n:0600}" for n in range(2000)]
    table = pa.table(
        {
            "uri": [f"{n}.jpg" for n in range(len(names))],
            "name": pa.array(names).dictionary_encode(),
            "struct": pa.StructArray.from_arrays([pa.array(names).dictionary_encode()], ["inner"]),
        }
    )
    _, rows, _ = read(tmp_path / "list.parquet", table_bytes(table))
    assert [row.columns for row in rows] == [(name, {"inner": name}) for name in names]


@pytest.mark.parametrize("declared", [{}, {"column_types": (("n", "float64"), ("day", "timestamp"))}])
def test_parquet__column_of_another_type_in_the_table__is_converted_or_null_and_noted(tmp_path, declared):
    table = pa.table(
        {"uri": ["a.jpg", "b.jpg"], "n": ["1.5", "few"], "day": [datetime.date(2026, 1, 2), None]}
    )
    path = tmp_path / "list.parquet"
    path.write_bytes(table_bytes(table))
    known = {} if declared else {"n": pa.float64(), "day": pa.timestamp("us")}
    corpus = find_corpus(ReadConfig(input=str(path), **declared), known)
    notes = Notes()
    (piece,) = format_of(corpus).split(corpus)
    rows = list(read_rows(piece, corpus, notes))
    midnight = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
    assert [row.columns for row in rows] == [(1.5, int(midnight.timestamp()) * 10**6), (None, None)]
    assert notes.to_json() == {"unparsed": {"n": {"count": 1, "examples": ["few"]}}}


def test_parquet__large_file__is_split_by_row_groups_and_gives_each_row_once(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "PIECE_BYTES", 1000)
    table = pa.table({"uri": [f"{n}.jpg" for n in range(5000)], "note": [str(n) * 5 for n in range(5000)]})
    corpus, rows, _ = read(tmp_path / "list.parquet", table_bytes(table, row_group_size=500))
    assert len(list(format_of(corpus).split(corpus))) == 10
    assert [(row.uri, row.columns[0]) for row in rows] == [(f"{n}.jpg", str(n) * 5) for n in range(5000)]


def test_parquet__large_row_group__is_not_held_whole(tmp_path):
    path = tmp_path / "list.parquet"
    notes = [f"{n:08}" * 100 for n in range(20_000)]
    table = pa.table({"uri": [f"{n}.jpg" for n in range(len(notes))], "note": notes})
    path.write_bytes(table_bytes(table, compression="none", use_dictionary=False, row_group_size=len(notes)))
    corpus = find_corpus(ReadConfig(input=str(path)))
    (piece,) = format_of(corpus).split(corpus)
    # By Python's memory, because Arrow reads the bytes of a file object of Python into it, not into its pool.
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_rows(piece, corpus, Notes())) == len(notes)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < path.stat().st_size / 4


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        ({"url": [1]}, {}, "no column of text with a usual name"),
        ({"url": [1]}, {"uri_column": "url"}, "uri_column='url' of .* holds no text"),
        (
            {"uri": ["a.jpg"], "n": [1]},
            {"column_types": (("n", "int"),)},
            "column_types: n='int' is not allowed",
        ),
        (
            {"uri": ["a.jpg"]},
            {"delimiter": ";"},
            "delimiter=';': .* is read as parquet, which has no such option",
        ),
    ],
)
def test_find_corpus__parquet_that_is_no_list__is_explained(tmp_path, table, options, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path / "list.parquet", table_bytes(pa.table(table)), **options)


JPEG = b"\xff\xd8"
IMAGES = [
    pa.array([JPEG]),
    pa.array([JPEG], pa.large_binary()),
    pa.array([JPEG], pa.binary_view()),
    pa.array([JPEG]).dictionary_encode(),
    pa.array([{"bytes": JPEG}]),
    pa.array([{"bytes": JPEG, "path": "a.jpg"}]),
    pa.array([{"width": 3, "bytes": JPEG}], pa.struct([("width", pa.int8()), ("bytes", pa.large_binary())])),
]
NO_IMAGES = [
    pa.array(["a.jpg"]),
    pa.array([b"ab"], pa.binary(2)),
    pa.array([{"bytes": "a"}]),
    pa.array([{"data": JPEG}]),
    pa.array([[JPEG]]),
    pa.array([{"bytes": {"bytes": JPEG}}]),
]


@pytest.mark.parametrize("image", IMAGES, ids=lambda array: str(array.type))
def test_find_corpus__parquet_of_images_without_uris__has_images_inside(tmp_path, image):
    path = tmp_path / "list.parquet"
    path.write_bytes(table_bytes(pa.table({"x": image, "n": [1]})))
    corpus = find_corpus(ReadConfig(input=str(path)))
    assert (corpus.format, corpus.holds_images, corpus.image_feature) == ("parquet_images", True, "x")
    assert [image.data for image in read_members(corpus, 10)] == [JPEG]
    with pytest.raises(UserError, match="id_column='n': .* is read as parquet_images"):
        find_corpus(ReadConfig(input=str(path), id_column="n"))


@pytest.mark.parametrize("column", NO_IMAGES, ids=lambda array: str(array.type))
def test_find_corpus__parquet_without_images__has_none_inside(tmp_path, column):
    path = tmp_path / "list.parquet"
    path.write_bytes(table_bytes(pa.table({"x": column})))
    with pytest.raises(UserError, match="has no column of text"):
        find_corpus(ReadConfig(input=str(path)))
    with pytest.raises(UserError, match="has 0 columns that can hold images"):
        find_corpus(ReadConfig(input=str(path), input_format="parquet_images"))


@pytest.mark.parametrize("image", IMAGES, ids=lambda array: str(array.type))
def test_parquet__images_beside_uris__are_left_out_with_a_remark(tmp_path, image):
    table = pa.table({"url": ["a.jpg"], "image": image, "sha": [b"\xff"]})
    corpus, (ref,), _ = read(tmp_path / "list.parquet", table_bytes(table))
    assert corpus.columns == (("sha", pa.binary()),) and ref.columns == (b"\xff",)
    assert corpus.remarks[0].startswith("The column 'image' has images inside the file")


TASK = {"image": "https://h/a.jpg?sig=S", "meta": {"key": "k", "by": "me"}, "size": 7}


def test_parquet__path_in_structs__names_uri_and_id_which_are_left_out_of_the_columns(tmp_path):
    # None, an object without a URI, and one without an id.
    tasks = [TASK, None, {"meta": {"key": "j"}}, {"image": "b.jpg", "meta": None}]
    table = pa.table({"n": range(4), "data": tasks, "data.size": range(4)})
    options = {"uri_column": "data.image", "id_column": "data.meta.key"}
    corpus, rows, notes = read(tmp_path / "tasks.parquet", table_bytes(table), **options)
    rest = pa.struct([("meta", pa.struct([("by", pa.string())])), ("size", pa.int64())])
    columns = {"n": pa.int64(), "data": rest, "data.size": pa.int64()}
    assert dict(corpus.columns) == columns and notes == {}
    columns = (0, {"meta": {"by": "me"}, "size": 7}, 0)
    assert rows[0] == ImageRef("k", "https://h/a.jpg?sig=…", columns, signed=rows[0].signed)
    assert [(row.reason, row.ref.columns) for row in rows[1:]] == [("bad_row", (None,) * 3)] * 3
    assert rows[2].ref.id == "j" and "has no data.image" in rows[2].message
    # A column has precedence over a path of its name.
    named = options | {"id_column": "data.size"}
    _, rows, _ = read(tmp_path / "tasks.parquet", table_bytes(table), **named)
    assert [row.ref.id if isinstance(row, Failure) else row.id for row in rows] == ["0", "1", "2", "3"]
    # A table that has rows already has the type without the URI.
    again = find_corpus(ReadConfig(input=str(tmp_path / "tasks.parquet"), **options), {"data": rest})
    assert dict(again.columns)["data"] == rest


@pytest.mark.parametrize(
    ("row", "options", "found"),
    [
        ({"data": {"image": "a.jpg"}}, {}, "data.image"),
        ({"data": {"image": "a.jpg", "n": 1}, "url": "b.jpg"}, {}, "url"),
        ({"a": {"b": {"Image-URL": "a.jpg"}}, "n": 1}, {}, "a.b.Image-URL"),
        ({"data": {"a.b": "a.jpg"}}, {"uri_column": "data.a.b"}, "data.a.b"),
        ({"image": {"bytes": b"x", "path": "a.jpg"}}, {"uri_column": "image.path"}, "image.path"),
        ({"data": {"image": "a.jpg", "file": "b.jpg"}}, {}, "several columns .*: data.image, data.file"),
        ({"data": {"image": 1}}, {"uri_column": "data.image"}, "uri_column='data.image' of .* holds no text"),
        (
            {"data": {"n": 1}},
            {"uri_column": "data.image"},
            "'data.image' is no column .* are data, data.n",
        ),
        ({"data": [{"image": "a.jpg"}]}, {"uri_column": "data.image"}, "'data.image' is no column of"),
    ],
)
def test_find_corpus__path_in_parquet__is_found_as_a_column_is(tmp_path, row, options, found):
    data = table_bytes(pa.table({name: [value] for name, value in row.items()}))
    if " " in found or ".*" in found:
        with pytest.raises(UserError, match=found):
            read(tmp_path / "list.parquet", data, **options)
        return
    corpus, (ref,), _ = read(tmp_path / "list.parquet", data, **options)
    assert corpus.uri_column == found and ref.uri == ("b.jpg" if found == "url" else "a.jpg")
    assert (f"The column {found!r} holds the URIs, by its name." in corpus.remarks) == (not options)
    assert "a.jpg" not in str(ref.columns) or found == "url"


@pytest.mark.parametrize("looked_at", [2, 1])
def test_parquet__lists_of_different_columns__are_refused_at_planning_or_while_reading(
    tmp_path, monkeypatch, looked_at
):
    monkeypatch.setattr(lists, "STARTS_LOOKED_AT", looked_at)
    (tmp_path / "0.parquet").write_bytes(table_bytes(pa.table({"uri": ["a.jpg"], "n": [1]})))
    (tmp_path / "1.parquet").write_bytes(table_bytes(pa.table({"n": ["1"], "uri": ["a.jpg"]})))
    with pytest.raises(
        (UserError, RunError), match="1.parquet has 'n' of the type string, and there is 'n' of"
    ):
        list(list_rows(find_corpus(ReadConfig(input=f"{tmp_path}/*.parquet"))))


@pytest.mark.parametrize("form", WRITERS)
def test_list_rows__list_that_changed_since_the_plan__ends_the_run(tmp_path, form):
    path = tmp_path / f"list.{form}"
    path.write_bytes(WRITERS[form](GOOD))
    corpus = find_corpus(ReadConfig(input=str(path)))
    path.write_bytes(WRITERS[form](GOOD[1:]))
    with pytest.raises(RunError, match="has changed since the run was planned"):
        list(list_rows(corpus))


def test_failure_row__values_of_every_type__fit_the_table():
    columns = tuple((name, kind) for name, (_, kind) in ARRAYS.items())
    metadata = RowMetadata("r", "m", "p", columns)
    nothing = ImageRef("1", "a.jpg", (None,) * len(columns))
    row = failure_row(Failure(nothing, "read", "bad_row", "m", 0, ""), metadata)
    assert len(row) == len(schema_of(FAILURES, metadata)) and schema_of(PREDICTIONS, metadata)
    assert [table_type(kind) for _, kind in columns] == [kind for _, kind in columns]


@pytest.fixture(scope="module")
def folder_rows(tiny, tmp_path_factory):
    """Label the photos as a folder, and return the rows."""
    output = tmp_path_factory.mktemp("folder") / "out"
    run_pipeline(input=PHOTOS, output=output, model=tiny, max_failure_rate=1)
    return read_tables(output)


def without(rows, *names):
    return sorted(
        ({name: value for name, value in row.items() if name not in names} for row in rows),
        key=lambda row: row["uri"],
    )


@pytest.mark.parametrize("form", WRITERS)
def test_graph__photos_in_a_list__give_the_rows_of_their_folder(tmp_path, tiny, folder_rows, form):
    path, output = tmp_path / f"list.{form}", tmp_path / "out"
    photos = [{"Image URL": str(photo), "key": f"{n}"} for n, photo in enumerate(photo_paths())]
    path.write_bytes(WRITERS[form](photos))
    run_pipeline(input=path, output=output, model=tiny, max_failure_rate=1, id_column="key")
    for rows, expected in zip(read_tables(output), folder_rows, strict=True):
        assert without(rows, "id", "run_id") == without(expected, "id", "run_id")
    # A rerun with the list, and a check against it, find each image under its id.
    assert verify(str(output), {"input": str(path), "id_column": "key"}) == []


def test_graph__parquet_with_columns_of_every_type__keeps_them_through_rerun(tmp_path, tiny):
    photo, late, output = photo_paths()[0], tmp_path / "late.jpg", tmp_path / "out"
    table = pa.table({"uri": [str(photo), str(late)], **{name: array for name, (array, _) in ARRAYS.items()}})
    (tmp_path / "list.parquet").write_bytes(table_bytes(table))
    options = {"input": tmp_path / "list.parquet", "output": output, "model": tiny, "max_failure_rate": 1}
    (finding,) = find("input", case_of(**options))
    assert finding.level.value == "ok" and "day=2026-01-02" in finding.details[0]
    counts = [run_pipeline(**options)["counts"]]
    late.write_bytes(photo.read_bytes())
    assert rerun(str(output), None, {}, ())
    counts += [run_pipeline(**options)["counts"]]
    assert [(count["failed"], count["kept"]) for count in counts] == [(1, 0), (0, 2)]
    names = [*ARRAYS, "uri"]
    stored = ds.dataset(output / "predictions", partitioning=None).to_table(names).sort_by("uri")
    expected = pq.read_table(tmp_path / "list.parquet", columns=names).sort_by("uri")
    for name, (_, kind) in ARRAYS.items():
        assert stored[name].type == kind, name
        assert stored[name].combine_chunks().equals(expected[name].combine_chunks().cast(kind)), name


def test_graph__images_beside_columns_of_every_type__keep_them_through_two_runs(tmp_path, tiny):
    path, output = tmp_path / "images.parquet", tmp_path / "out"
    arrays = {name: array for name, (array, _) in ARRAYS.items() if name != "bytes"}
    image = photo_paths()[0].read_bytes()
    path.write_bytes(table_bytes(pa.table({"image": [image, image], **arrays})))
    options = {"input": path, "output": output, "model": tiny}
    (finding,) = find("input", case_of(**options))
    assert finding.level.value == "ok"
    counts = [run_pipeline(**options)["counts"]]
    twice = {name: pa.concat_arrays([array, array]) for name, array in arrays.items()}
    path.write_bytes(table_bytes(pa.table({"image": [image] * 4, **twice})))
    counts.append(run_pipeline(**options)["counts"])
    assert [(count["labelled"], count["kept"]) for count in counts] == [(2, 0), (2, 2)]
    assert verify(str(output), {"input": str(path)}) == []
    stored = ds.dataset(output / "predictions", partitioning=None).to_table([*arrays, "uri"]).sort_by("uri")
    for name, array in twice.items():
        kind = ARRAYS[name][1]
        assert stored[name].type == kind, name
        assert stored[name].combine_chunks().equals(array.cast(kind)), name
