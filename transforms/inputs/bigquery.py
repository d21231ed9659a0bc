"""BigQuery: a table or the result of a query, one image a row.

In a run, Beam's own `ReadFromBigQuery` reads the rows. In one process the client of BigQuery lists them. Each
row is a piece of the corpus.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import apache_beam as beam
import pyarrow as pa
from google.api_core.exceptions import GoogleAPIError
from google.auth.exceptions import GoogleAuthError

from labelbeam.transforms.elements import Failure, ImageRef
from labelbeam.transforms.errors import UserError
from labelbeam.transforms.inputs.columns import add_columns, make_ref, readable_id
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.inputs.files import MAX_LINE_BYTES
from labelbeam.transforms.inputs.formats import Location, ReadOptions
from labelbeam.transforms.inputs.lists import bad_row, row_failure
from labelbeam.transforms.inputs.templates import RowFault
from labelbeam.transforms.notes import Notes
from labelbeam.transforms.table.column_types import fit_one, to_values

PREFIX: Final = "bigquery:"
# Characters of a bad row that are kept.
_MOST_CHARS = 10_000
# Of a request to BigQuery, which its client would repeat for 10 minutes.
_TIMEOUT_SEC = 60.0
_TABLE = re.compile(r"//([\w.:-]+)\.([\w-]+)\.([^\s.`]+)")
# Types of columns by the names of BigQuery, in both of its dialects. Others are kept as text.
_TYPES: Final = {
    **dict.fromkeys(("INTEGER", "INT64"), pa.int64()),
    **dict.fromkeys(("FLOAT", "FLOAT64"), pa.float64()),
    **dict.fromkeys(("BOOLEAN", "BOOL"), pa.bool_()),
    "BYTES": pa.binary(),
    "DATE": pa.date32(),
    "TIME": pa.time64("us"),
    "DATETIME": pa.timestamp("us"),
    "TIMESTAMP": pa.timestamp("us", "UTC"),
    "NUMERIC": pa.decimal128(38, 9),
    "BIGNUMERIC": pa.decimal256(76, 38),
}


class _BigQuery:
    def find(
        self, location: Location, options: ReadOptions, known_types: Mapping[str, pa.DataType]
    ) -> Corpus:
        """Describe the rows of a table or query, which is not run."""
        with _errors_explained(location.name):
            fields, remarks = _describe(location.name)
        types = {field.name: _type_of(field) for field in fields}
        corpus = Corpus(location.name, "bigquery", header=tuple(types), remarks=remarks)
        return add_columns(corpus, list(types), location.name, options, known_types, types)

    def split(self, corpus: Corpus) -> Iterator[dict[str, Any]]:
        """Yield the rows, through the client of BigQuery."""
        with _errors_explained(corpus.pattern):
            client, table = _client_of(corpus.pattern)
            rows = client.list_rows(table) if table else client.query(_query_of(corpus.pattern)).result()
            yield from (dict(row.items()) for row in rows)

    def source(self, corpus: Corpus) -> beam.PTransform:
        """Return the step that reads the rows on many workers."""
        # Imported here, because it takes a second and few runs need it.
        from apache_beam.io.gcp.bigquery import ReadFromBigQuery

        if match := _table_of(corpus.pattern):
            source = {"table": f"{match[1]}:{match[2]}.{match[3]}"}
        else:
            source = {"query": _query_of(corpus.pattern)}
        # By the Storage API and not by an export, because it needs no folder in a bucket.
        return ReadFromBigQuery(method=ReadFromBigQuery.Method.DIRECT_READ, use_standard_sql=True, **source)

    def read(self, piece: dict[str, Any], corpus: Corpus, notes: Notes) -> Iterator[ImageRef | Failure]:
        """Make the reference of a row."""
        columns = [fit_one(_plain(piece.get(name), kind), name, kind, notes) for name, kind in corpus.columns]
        try:
            if (size_bytes := sum(column.nbytes for column in columns)) > MAX_LINE_BYTES:
                raise RowFault(f"has {size_bytes:,} bytes; the most are {MAX_LINE_BYTES:,}")
            values = tuple(to_values(column)[0] for column in columns)
            yield make_ref(piece, values, corpus)
        except RowFault as e:
            text = json.dumps(piece, ensure_ascii=False, default=str)
            identity = f"line {hashlib.sha256(text.encode()).hexdigest()}" if len(text) > _MOST_CHARS else ""
            line = text[:_MOST_CHARS].encode("utf-8", "backslashreplace")
            yield row_failure(line, corpus, bad_row(line, str(e)), readable_id(piece, corpus), identity)


def _table_of(name: str) -> re.Match[str] | None:
    """Return the parts of a table's name; None for a query.

    Raises:
      UserError: The name is not that of a table.
    """
    if not name.startswith(f"{PREFIX}//"):
        return None
    match = _TABLE.fullmatch(name.removeprefix(PREFIX))
    if not match:
        raise UserError(
            f"input={name!r} names no table. Write {PREFIX}//PROJECT.DATASET.TABLE, or '{PREFIX}SELECT …' "
            "for a query."
        )
    return match


def _query_of(name: str) -> str:
    return name.removeprefix(PREFIX).strip()


def _client_of(name: str) -> tuple[Any, str]:
    """Return a client, and the table's name; empty for a query."""
    from google.cloud import bigquery

    match = _table_of(name)
    if not match:
        return bigquery.Client(), ""
    return bigquery.Client(project=match[1]), f"{match[1]}.{match[2]}.{match[3]}"


def _describe(name: str) -> tuple[Any, tuple[str, ...]]:
    """Return the schema of a table or query, and remarks about it."""
    from google.cloud import bigquery

    client, table = _client_of(name)
    if table:
        return client.get_table(table, timeout=_TIMEOUT_SEC, retry=None).schema, ()
    dry = bigquery.QueryJobConfig(dry_run=True, use_query_cache=False)
    job = client.query(_query_of(name), job_config=dry, timeout=_TIMEOUT_SEC, retry=None)
    size = (
        f"{job.total_bytes_processed / 1e9:,.3f} GB"
        if job.total_bytes_processed is not None
        else "an unknown size"
    )
    return job.schema, (f"The query reads {size} of tables, which BigQuery charges for each run.",)


@contextmanager
def _errors_explained(name: str) -> Iterator[None]:
    try:
        yield
    # OSError, because the client raises it where there is no project; requests' errors are OSErrors, too.
    except (GoogleAPIError, GoogleAuthError, OSError, ValueError) as e:
        why = " ".join(str(e).split()).rstrip(".")
        raise UserError(
            f"input={name!r:.300} cannot be read: {why:.500}. Check its name, your login (gcloud auth "
            "application-default login), and the project in GOOGLE_CLOUD_PROJECT."
        ) from e


def _type_of(field: Any) -> pa.DataType:
    """Return the type of a column; `field` is a `SchemaField` of BigQuery."""
    if field.field_type in ("RECORD", "STRUCT"):
        kind: pa.DataType = pa.struct([(inner.name, _type_of(inner)) for inner in field.fields])
    else:
        kind = _TYPES.get(field.field_type, pa.string())
    return pa.list_(kind) if field.mode == "REPEATED" else kind


def _plain(value: Any, kind: pa.DataType) -> Any:
    """Return a value with JSON and intervals as text, because the client parses them, and Beam does not."""
    if value is None or isinstance(value, str):
        return value
    if pa.types.is_list(kind) and isinstance(value, list):
        return [_plain(one, kind.value_type) for one in value]
    if pa.types.is_struct(kind) and isinstance(value, dict):
        types = {field.name: field.type for field in kind}
        return {name: _plain(one, types.get(name, pa.null())) for name, one in value.items()}
    if pa.types.is_string(kind):
        return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list | bool) else str(value)
    return value


FORMAT: Final = _BigQuery()
