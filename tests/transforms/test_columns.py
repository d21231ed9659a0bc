"""The user's own columns: names, declared types, and values of each type at their edges."""

import pyarrow as pa
import pytest

from labelbeam.pipeline.config import ReadConfig
from labelbeam.transforms.errors import UserError
from labelbeam.transforms.inputs.columns import COLUMN_TYPES, add_columns, output_columns
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.notes import Notes
from labelbeam.transforms.table.column_types import fit_text

LIST = Corpus("list.csv", "csv")


def columns_of(names, types=(), id_column=None):
    options = ReadConfig(id_column=id_column, column_types=types)
    return output_columns(add_columns(LIST, names, "list.csv", options, {}))


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("string", " 00123 ", " 00123 "),
        ("string", "", ""),
        ("int64", " 7 ", 7),
        ("int64", str(2**63 - 1), 2**63 - 1),
        ("int64", str(2**63), None),
        ("int64", str(-(2**63)), -(2**63)),
        ("int64", "1.0", None),
        ("float64", "1e308", 1e308),
        ("float64", "1e309", None),
        ("float64", "-1e309", None),
        ("float64", "Infinity", float("inf")),
        ("float64", "-INF", float("-inf")),
        ("float64", "1,5", None),
        ("bool", "true", True),
        ("bool", "0", False),
        ("bool", "yes", None),
        ("date", "0001-01-01", -719_162),
        ("date", "9999-12-31", 2_932_896),
        ("date", "2026-02-29", None),
        ("timestamp", "2026-01-02 03:04:05.000006", 1_767_323_045_000_006),
        ("timestamp", "soon", None),
    ],
)
def test_fit_text__text_of_each_type_at_its_edges__is_a_value_or_noted(kind, text, value):
    notes = Notes()
    assert fit_text(text, "c", COLUMN_TYPES[kind], notes) == value
    assert bool(notes.to_json()) == (value is None)
    assert fit_text(" ", "c", COLUMN_TYPES[kind], Notes()) == (" " if kind == "string" else None)


@pytest.mark.parametrize(
    ("names", "renamed"),
    [
        (("uri", "price", "Day"), ("price", "Day")),
        (("uri", "label", "SCORE", "x_label"), ("input_label", "input_SCORE", "x_label")),
        (("uri", "id", "run_id"), ("input_id", "input_run_id")),
        (("uri", "logits", "embedding"), ("input_logits", "input_embedding")),
        (("uri",), ()),
    ],
)
def test_output_columns__names_of_the_tables__get_a_prefix_and_others_stay(names, renamed):
    assert columns_of(names) == tuple((name, pa.string()) for name in renamed)


@pytest.mark.parametrize("names", [("input_label", "label"), ("label", "INPUT_LABEL"), ("a", "b", "A")])
def test_output_columns__two_of_one_name__are_refused(names):
    with pytest.raises(UserError, match="two columns '(input_label|a)'. Rename one"):
        columns_of(("uri", *names))


@pytest.mark.parametrize(
    ("names", "types", "id_column", "message"),
    [
        (
            ("uri", "Id"),
            (),
            "id",
            "id_column='id' is no column of list.csv; its columns are uri, Id\\. Name one",
        ),
        (("uri", "n"), (("m", "int64"),), None, "column_types names 'm'; the columns of list.csv are n.$"),
        (("uri", "n"), (("uri", "string"),), None, "column_types names 'uri'"),
        (("uri", "n"), (("n", "int32"),), None, "n='int32' is not allowed: one of string, int64"),
    ],
)
def test_add_columns__option_that_names_nothing__is_refused_with_what_there_is(
    names, types, id_column, message
):
    with pytest.raises(UserError, match=message):
        columns_of(names, types, id_column)
