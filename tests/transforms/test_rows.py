"""Rows with fixed-size lists, through a file and back."""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labelbeam.transforms.elements import Label
from labelbeam.transforms.stage import write_staged
from labelbeam.transforms.table.rows import (
    FAILURES,
    PREDICTIONS,
    RESERVED_COLUMNS,
    RowMetadata,
    parquet_options,
    prediction_row,
    predictions_schema,
    schema_of,
    to_record_batch,
)
from tests.results import prediction, row_metadata_of

LIMITS = np.finfo(np.float32)
NUMBERS = [0.0, -1.5, LIMITS.max, LIMITS.tiny, np.inf, LIMITS.eps]


def metadata_with(outputs: tuple[str, int] | None) -> RowMetadata:
    return dataclasses.replace(row_metadata_of("run"), outputs=outputs)


@pytest.mark.parametrize("rows", [1, 2, 5])
@pytest.mark.parametrize("length", [1, 2, 1000])
@pytest.mark.parametrize("column", ["logits", "probabilities", "embedding"])
def test_to_record_batch__fixed_size_list__each_row_has_its_own_numbers(tmp_path, column, length, rows):
    metadata = metadata_with((column, length))
    lists = [[NUMBERS[(row + n) % len(NUMBERS)] for n in range(length)] for row in range(rows)]
    results = [
        dataclasses.replace(prediction(row), outputs=np.array(numbers, "<f4").tobytes())
        for row, numbers in enumerate(lists)
    ]
    schema = predictions_schema(metadata)
    batch = to_record_batch([prediction_row(result, metadata) for result in results], schema)
    table = pq.read_table(write_staged(PREDICTIONS, batch, str(tmp_path)).path)
    assert table.schema.field(column).type == pa.list_(pa.float32(), length)
    assert not table.schema.field(column).nullable
    assert table[column].to_pylist() == [np.array(numbers, "<f4").tolist() for numbers in lists]
    assert table["id"].to_pylist() == [f"id{row}" for row in range(rows)]
    assert ("labels" in table.schema.names) == metadata.labelled == (column != "embedding")


@pytest.mark.parametrize(("outputs", "size_bytes"), [(None, 0), (("logits", 1), 4), (("logits", 1000), 4000)])
def test_outputs_bytes__numbers_of_a_row__are_four_bytes_each(outputs, size_bytes):
    assert metadata_with(outputs).outputs_bytes == size_bytes


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_prediction_row__any_number_of_labels__the_first_is_the_label_and_no_label_is_null(count):
    labels = tuple(Label(n, f"label {n}", 1 / 2**n) for n in range(count))
    result = dataclasses.replace(prediction(1), labels=labels)
    schema = predictions_schema(metadata_with(None))
    batch = to_record_batch([prediction_row(result, metadata_with(None))], schema)
    batch.validate(full=True)
    (row,) = batch.to_pylist()
    assert (row["label"], row["score"]) == (("label 0", 1.0) if count else (None, None))
    assert row["labels"] == [dataclasses.asdict(label) for label in labels]


@pytest.mark.parametrize(
    ("table", "may_be_null"),
    [(PREDICTIONS, {"label", "score", "frames", "version", "price"}), (FAILURES, {"price"})],
)
def test_schema_of__each_table__only_facts_that_an_image_may_lack_are_null(table, may_be_null):
    for outputs in (None, ("logits", 3)):
        schema = schema_of(table, metadata_with(outputs))
        assert {field.name for field in schema if field.nullable} == may_be_null


def test_predictions_schema__without_outputs__has_no_list_of_numbers():
    schema = predictions_schema(metadata_with(None))
    assert not any(pa.types.is_fixed_size_list(field.type) for field in schema)
    assert schema.names == [
        f.name for f in predictions_schema(metadata_with(("logits", 3))) if f.name != "logits"
    ]


def test_reserved_columns__every_column_of_the_tables__is_one():
    for outputs in (None, ("logits", 1), ("probabilities", 1), ("embedding", 1)):
        metadata = dataclasses.replace(metadata_with(outputs), columns=())
        assert set(predictions_schema(metadata).names) <= RESERVED_COLUMNS


def test_parquet_options__columns_of_other_tables__are_left_out():
    names = parquet_options(predictions_schema(metadata_with(("embedding", 2))))["use_dictionary"]
    assert "format" in names and not {"label", "labels.list.element.label", "reason", "host"} & set(names)
