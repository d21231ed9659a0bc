"""Documents: values of each kind at their edges, and messages about those that are wrong."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from labelbeam.transforms.table.documents import (
    DocumentError,
    parse_document,
    read_document,
    write_document,
)


@dataclass(frozen=True)
class Inner:
    name: str
    size: int = 3


@dataclass(frozen=True)
class Outer:
    count: int
    share: float
    whole: bool
    inner: Inner
    many: tuple[Inner, ...]
    by_name: Mapping[str, int]
    free: Mapping[str, Any]
    maybe: Mapping[str, Inner] | None = None


WHOLE = Outer(0, 0.5, True, Inner("é"), (Inner("b", 0),), {"x": 1}, {"y": [None, -1]}, {"z": Inner("c")})
WITHOUT_MAYBE = dataclasses.replace(WHOLE, many=(), maybe=None)
CONTENT = json.loads(json.dumps(dataclasses.asdict(WHOLE)))


@pytest.mark.parametrize("value", [WHOLE, WITHOUT_MAYBE])
def test_write_document__any_value__is_read_again_with_and_without_its_checksum(value):
    document = read_document(write_document(value))
    assert parse_document(Outer, document) == value
    assert parse_document(Outer, {k: v for k, v in document.items() if k != "checksum"}) == value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": -1}, "the key 'count' holds -1; it must be a whole number from 0"),
        ({"count": True}, "the key 'count' holds true; it must be a whole number from 0"),
        ({"count": 1.0}, "the key 'count' holds 1.0; it must be a whole number from 0"),
        ({"count": None}, "the key 'count' holds null; it must be a whole number from 0"),
        ({"share": "1"}, "the key 'share' holds \"1\"; it must be a number"),
        ({"whole": 1}, "the key 'whole' holds 1; it must be true or false"),
        ({"inner": []}, "the key 'inner' holds []; it must be an object"),
        ({"inner": {}}, "the key 'inner.name' is missing"),
        ({"inner": {"name": 1}}, "the key 'inner.name' holds 1; it must be text"),
        ({"many": {}}, "the key 'many' holds {}; it must be a list"),
        ({"many": [{"name": "a"}, 1]}, "the key 'many[1]' holds 1; it must be an object"),
        ({"many": [{"name": "a"}, {}]}, "the key 'many[1].name' is missing"),
        ({"by_name": {"x": "y"}}, "the key 'by_name.x' holds \"y\"; it must be a whole number from 0"),
        ({"maybe": 1}, "the key 'maybe' holds 1; it must be an object"),
        ({"maybe": {"z": {"name": "a", "size": -1}}}, "the key 'maybe.z.size' holds -1; it must be"),
        ({"whole": "x" * 58}, f'holds "{"x" * 58}"; it must'),
        ({"whole": "x" * 59}, f'holds "{"x" * 59}…; it must'),
        ({"count": 1}, None),
        ({"inner": {"name": "", "more": 1}, "more": 2}, None),
    ],
)
def test_parse_document__a_value_of_another_kind__is_named_by_its_key(change, message):
    if message is None:
        assert parse_document(Outer, CONTENT | change) is not None
    else:
        with pytest.raises(DocumentError) as e:
            parse_document(Outer, CONTENT | change)
        assert message in str(e.value)


@pytest.mark.parametrize("key", [field.name for field in dataclasses.fields(Outer)])
def test_parse_document__a_key_removed__is_named_or_has_its_default(key):
    content = {k: v for k, v in CONTENT.items() if k != key}
    if key == "maybe":
        assert parse_document(Outer, content).maybe is None
    else:
        with pytest.raises(DocumentError, match=f"^the key '{key}' is missing$"):
            parse_document(Outer, content)


@pytest.mark.parametrize("change", [{"count": 1}, {"more": 1}, {"checksum": ""}, {"checksum": 7}])
def test_parse_document__changed_after_it_was_written__does_not_fit_its_checksum(change):
    with pytest.raises(DocumentError, match="its checksum does not fit"):
        parse_document(Outer, json.loads(write_document(WHOLE)) | change)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b" \n", "the file is empty"),
        (b"{", "the file is not JSON: "),
        (b"\xff", "the file is not JSON: "),
        (b"[" * 100_000, "the file is not JSON: "),
        (b"[1]", "the file holds [1]; it must hold a JSON object"),
        (b"null", "the file holds null; it must hold a JSON object"),
    ],
)
def test_read_document__no_object__is_refused(data, message):
    with pytest.raises(DocumentError) as e:
        read_document(data)
    assert str(e.value).startswith(message)
