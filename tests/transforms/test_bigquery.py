"""BigQuery with fakes of its clients, because no test reaches the service."""

import datetime
import io
import json
from decimal import Decimal
from types import SimpleNamespace

import fastavro
import pyarrow as pa
import pytest
from apache_beam.io.gcp import bigquery as beam_bigquery
from google.api_core.exceptions import NotFound
from google.cloud import bigquery
from google.cloud.bigquery import SchemaField

from labelbeam.pipeline import extras
from labelbeam.pipeline.config import ReadConfig
from labelbeam.pipeline.corpus import find_corpus
from labelbeam.transforms.errors import UserError
from labelbeam.transforms.read import ReadImageRefs, list_rows
from tests.eager import eagerly

TABLE, QUERY = "bigquery://my-project.photos.all", "bigquery:SELECT * FROM photos.all"
NOON = datetime.datetime(2026, 1, 31, 12)
PARTS = (SchemaField("part", "STRING"), SchemaField("at", "DATETIME"))
# Columns with their Arrow types, and with a value as the client, as Beam, and as the tables have it.
COLUMNS = {
    "n": (SchemaField("n", "INTEGER"), pa.int64(), 7, 7, 7),
    "share": (SchemaField("share", "FLOAT64"), pa.float64(), 0.5, 0.5, 0.5),
    "ok": (SchemaField("ok", "BOOL"), pa.bool_(), True, True, True),
    "raw": (SchemaField("raw", "BYTES"), pa.binary(), b"\xff", b"\xff", b"\xff"),
    "day": (SchemaField("day", "DATE"), pa.date32(), NOON.date(), NOON.date(), 20484),
    "hour": (SchemaField("hour", "TIME"), pa.time64("us"), NOON.time(), NOON.time(), 43_200_000_000),
    "taken": (SchemaField("taken", "DATETIME"), pa.timestamp("us"), NOON, NOON.isoformat(), 1769860800000000),
    "seen": (
        SchemaField("seen", "TIMESTAMP"),
        pa.timestamp("us", "UTC"),
        *(NOON.replace(tzinfo=datetime.UTC), NOON.replace(tzinfo=datetime.UTC), 1769860800000000),
    ),
    "price": (SchemaField("price", "NUMERIC"), pa.decimal128(38, 9), *[Decimal("1.100000000")] * 3),
    "tags": (SchemaField("tags", "STRING", mode="REPEATED"), pa.list_(pa.string()), *[["a", "b"]] * 3),
    "parts": (
        SchemaField("parts", "RECORD", mode="REPEATED", fields=PARTS),
        pa.list_(pa.struct([("part", pa.string()), ("at", pa.timestamp("us"))])),
        [{"part": "a", "at": NOON}],
        [{"part": "a", "at": NOON.isoformat()}],
        [{"part": "a", "at": 1769860800000000}],
    ),
    "more": (SchemaField("more", "JSON"), pa.string(), {"a": 1}, '{"a": 1}', '{"a": 1}'),
    "place": (SchemaField("place", "GEOGRAPHY"), pa.string(), *["POINT(1 2)"] * 3),
    "none": (SchemaField("none", "INT64"), pa.int64(), None, None, None),
}
SCHEMA = [SchemaField("image_url", "STRING"), *(column[0] for column in COLUMNS.values())]
CLIENT_ROWS = [
    {"image_url": uri, **{name: column[2] for name, column in COLUMNS.items()}} for uri in ("/a.jpg", None)
]
BEAM_ROWS = [
    {"image_url": uri, **{name: column[3] for name, column in COLUMNS.items()}} for uri in ("/a.jpg", None)
]
# As the Storage API writes it.
_AVRO_TYPES = {
    "INTEGER": "long",
    "INT64": "long",
    "FLOAT64": "double",
    "BOOL": "boolean",
    "BYTES": "bytes",
    "DATE": {"type": "int", "logicalType": "date"},
    "TIME": {"type": "long", "logicalType": "time-micros"},
    "DATETIME": {"type": "string", "logicalType": "datetime"},
    "TIMESTAMP": {"type": "long", "logicalType": "timestamp-micros"},
    "NUMERIC": {"type": "bytes", "logicalType": "decimal", "precision": 38, "scale": 9},
}


def avro_field(field):
    kind = _AVRO_TYPES.get(field.field_type, "string")
    if field.fields:
        kind = {"type": "record", "name": field.name, "fields": list(map(avro_field, field.fields))}
    is_list = field.mode == "REPEATED"
    return {"name": field.name, "type": {"type": "array", "items": kind} if is_list else ["null", kind]}


AVRO_SCHEMA = {"type": "record", "name": "root", "fields": list(map(avro_field, SCHEMA))}


class FakeClient:
    """A client of BigQuery with one table."""

    def __init__(self, project=None):
        self.project = project

    def get_table(self, table, **_):
        if table != "my-project.photos.all":
            raise NotFound(f"Not found: Table {table}\n\nLocation: None")
        return SimpleNamespace(schema=SCHEMA)

    def list_rows(self, table):
        return CLIENT_ROWS

    def query(self, query, job_config=None, **_):
        assert query == "SELECT * FROM photos.all"
        is_dry = job_config is not None and job_config.dry_run
        result = None if is_dry else lambda: CLIENT_ROWS
        return SimpleNamespace(schema=SCHEMA, total_bytes_processed=2_500_000_000, result=result)


class FakeStorage:
    """A client of the Storage API with one stream of the table's rows."""

    def create_read_session(self, parent, read_session, max_stream_count):
        assert read_session.table == "projects/my-project/datasets/photos/tables/all"
        return SimpleNamespace(
            streams=[SimpleNamespace(name="stream")],
            **dict.fromkeys(("avro_schema", "data_format", "estimated_total_bytes_scanned")),
        )

    def read_rows(self, stream, **_):
        rows = io.BytesIO()
        for row in BEAM_ROWS:
            fastavro.schemaless_writer(rows, AVRO_SCHEMA, row)
        blocks = SimpleNamespace(serialized_binary_rows=rows.getvalue())
        schema = SimpleNamespace(schema=json.dumps(AVRO_SCHEMA))
        yield SimpleNamespace(avro_schema=schema, avro_rows=blocks)


@pytest.fixture(autouse=True)
def fakes(monkeypatch):
    monkeypatch.setattr(bigquery, "Client", FakeClient)
    monkeypatch.setattr(beam_bigquery.bq_storage, "BigQueryReadClient", FakeStorage)
    wrapper = beam_bigquery.bigquery_tools.BigQueryWrapper
    monkeypatch.setattr(wrapper, "_bigquery_client", staticmethod(lambda options: SimpleNamespace()))
    monkeypatch.setattr(wrapper, "get_table", lambda *_: SimpleNamespace(numBytes=100))
    monkeypatch.setattr(wrapper, "_clean_up_beam_labelled_temporary_datasets", lambda *_, **__: None)


@pytest.mark.parametrize("name", [TABLE, QUERY])
def test_find__table_or_query__has_the_types_of_its_schema_and_lists_its_rows(name):
    corpus = find_corpus(ReadConfig(input=name))
    assert dict(corpus.columns) == {name: column[1] for name, column in COLUMNS.items()}
    assert ("2.500 GB" in str(corpus.remarks)) == (name == QUERY)
    ref, failure = list_rows(corpus)
    assert (ref.uri, ref.columns) == ("/a.jpg", tuple(column[4] for column in COLUMNS.values()))
    assert failure.reason == "bad_row" and "has no image_url" in failure.message


def test_read__table__gives_the_rows_that_the_client_lists():
    corpus = find_corpus(ReadConfig(input=TABLE))
    read = eagerly(ReadImageRefs(corpus), None, "FnApiRunner", "--project=mine")
    ref, failure = list_rows(corpus)
    assert read.ok == [ref]
    (of_beam,) = read.failures
    assert of_beam.reason == failure.reason and of_beam.ref.uri.startswith('{"image_url": null')


def test_read__table_beside_lists__gives_the_rows_of_all(tmp_path):
    (tmp_path / "list.csv").write_text("image_url,n\n/b.jpg,1\n")
    (tmp_path / "list.txt").write_text("/c.jpg\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeClient, "get_table", lambda *_, **__: SimpleNamespace(schema=SCHEMA[:1]))
        corpus = find_corpus(ReadConfig(input=(TABLE, str(tmp_path / "list.txt"))))
    read = eagerly(ReadImageRefs(corpus), None, "FnApiRunner", "--project=mine")
    assert {ref.uri for ref in read.ok} == {"/a.jpg", "/c.jpg"}
    with pytest.raises(UserError, match="'share' is missing in the former and double in the latter"):
        find_corpus(
            ReadConfig(input=(TABLE, str(tmp_path / "list.csv")), column_types=(("n", "int64"),)),
        )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bigquery://my-project.photos.none", "Not found: Table .*none Location: None. Check its name"),
        ("bigquery://photos.all", "names no table. Write bigquery://PROJECT.DATASET.TABLE"),
    ],
)
def test_find__no_such_table__is_one_line(name, message):
    with pytest.raises(UserError, match=message) as raised:
        find_corpus(ReadConfig(input=name))
    assert "\n" not in str(raised.value)


def test_find__extra_is_missing__names_it(monkeypatch):
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install 'labelbeam\[bigquery\]'"):
        find_corpus(ReadConfig(input=TABLE))
