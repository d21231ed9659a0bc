"""URI templates: their syntax, and the URIs that they make of rows."""

from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelbeam.transforms.errors import UserError
from labelbeam.transforms.inputs.templates import RowFault, check_template, parse_template

ROW = {"bucket": "b", "name": "a é#1?.jpg", "n": 7, "a.b": "x", "done": "a%20b", "f": 7.0, "yes": True}


@pytest.mark.parametrize(
    ("template", "uri"),
    [
        ("gs://{bucket}/{name}", "gs://b/a é#1?.jpg"),
        ("{bucket}", "b"),
        ("/photos/{n}.jpg", "/photos/7.jpg"),
        ("gs://b/{{{n}}}/{{}}{n}", "gs://b/{7}/{}7"),
        ("{a.b}/{n}", "x/7"),
        ("https://{bucket}.h/{name}", "https://b.h/a%20%C3%A9%231%3F.jpg"),
        ("HTTP://h/{done}", "HTTP://h/a%2520b"),
        ("https://h/{done:raw}?n={n}", "https://h/a%20b?n=7"),
        ("file:///{name}", "file:///a%20%C3%A9%231%3F.jpg"),
        # A template that begins with a column has no scheme of its own, so that values stay.
        ("{done}/{name}", "a%20b/a é#1?.jpg"),
    ],
)
def test_fill__template__makes_the_uri(template, uri):
    assert parse_template(template).fill(ROW) == uri


@pytest.mark.parametrize(
    ("value", "uri"),
    [("a+b%2B%C3%A9.jpg", "https://h/a%20b%2B%C3%A9.jpg"), ("%252F/x", "https://h/%252F/x")],
)
def test_fill__form_encoded_column__is_decoded_first(value, uri):
    assert parse_template("https://h/{key}", ("key",)).fill({"key": value}) == uri
    assert parse_template("gs://h/{key}", ("key",)).fill({"key": value}) == f"gs://h/{unquote(uri[10:])}"
    assert parse_template("https://h/{key:raw}", ("key",)).fill({"key": value}) == f"https://h/{value}"


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({}, "has no name"),
        ({"name": None}, "has no name"),
        ({"name": " "}, "has no name"),
        ({"name": 7.0}, "has a number in name, which is neither text nor a whole number$"),
        ({"name": True}, "has true or false in name"),
        (
            {"name": {"sig": "S"}},
            "has an object in name, which is neither text nor a whole number$",
        ),
        ({"name": ["a"]}, "has an array in name"),
        ({"name": "%FF"}, "has '%FF' in name, which is not UTF-8"),
        ({"name": "\ud800"}, "has .* in name, which is not UTF-8"),
    ],
)
def test_fill__value_that_is_no_part_of_a_uri__is_a_fault_of_the_row(row, fault):
    with pytest.raises(RowFault, match=f"^{fault}"):
        parse_template("https://h/{name}", ("name",)).fill(row)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("gs://{bucket/{name}", "has a { without its partner. Write {{ or }} for a brace."),
        ("gs://{bucket}}/{name}", "has a } without its partner"),
        ("gs://b/{name", "has a { without its partner"),
        ("gs://b/{}", "has {} without a name"),
        ("gs://b/{:raw}", "has {:raw} without a name"),
        ("gs://b/a.jpg", "names no column, so all rows would be one image"),
        ("gs://b/{{name}}", "names no column"),
        ("gs://{bucket}/{Name}", "names 'Name', which is no column of l.csv; its columns are bucket, name."),
        ("s3://{bucket}/{name}", "makes URIs that are not read: 's3://x/x' has the scheme 's3'"),
        ("//{bucket}/{name}", "makes URIs that are not read: '//x/x' has no scheme"),
        ("https:/{bucket}/{name}", "must begin with https://"),
        ("https://h/{name}?sig=…", "lacks its secrets, which no manifest has. Give --uri_template again."),
    ],
)
def test_check_template__no_template_of_the_input__is_refused_in_one_line(template, message):
    with pytest.raises(UserError) as e:
        check_template(template, ("bucket", "name"), "l.csv")
    assert message in str(e.value) and repr(template) in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize("fault", ["{", "{}", "{other}", ":{name}", ""])
def test_check_template__secrets__are_in_no_message(fault):
    template = f"https{fault}://h/{'' if fault == '' else '{name}'}?sig=SECRET&ticket=TICKET"
    with pytest.raises(UserError) as e:
        check_template(template, ("name",), "l.csv", ("ticket",))
    assert "SECRET" not in str(e.value)


NAMES = st.text(st.characters(exclude_characters="{}", exclude_categories=["Cs"]), min_size=1).filter(
    lambda name: name.strip() and not name.endswith(":raw")
)
VALUES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@given(st.lists(st.tuples(st.text(), NAMES, VALUES), min_size=1), st.text())
def test_fill__any_text_and_values__are_in_the_uri_as_they_are(parts, end):
    row = {name: value for _, name, value in parts}
    # In front, because a template of the web encodes its values.
    parts = [("gs://", *parts[0][1:]), *parts[1:]]
    escaped = [text.replace("{", "{{").replace("}", "}}") for text in (*(part[0] for part in parts), end)]
    template = (
        "".join(f"{text}{{{part[1]}}}" for text, part in zip(escaped, parts, strict=False)) + escaped[-1]
    )
    expected = "".join(f"{text}{row[name]}" for text, name, _ in parts) + end
    assert parse_template(template).fill(row) == expected


@given(VALUES)
def test_fill__any_value_in_a_web_address__is_one_path_that_decodes_to_it(value):
    parts = urlsplit(parse_template("https://h/{name}").fill({"name": value}))
    assert (parts.netloc, parts.query, parts.fragment) == ("h", "", "")
    assert unquote(parts.path) == f"/{value}" and parts.path.isascii()


@given(st.text())
def test_parse_template__any_text__is_a_template_or_refused(text):
    try:
        parsed = parse_template(text)
    except UserError:
        return
    assert parsed.columns and parsed.fill(dict.fromkeys(parsed.columns, "x"))
