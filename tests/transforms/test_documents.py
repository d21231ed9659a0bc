"""Documents: values of each kind, and bytes that are not a document or have changed."""

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


@pytest.mark.parametrize("value", [WHOLE, WITHOUT_MAYBE])
def test_write_document__any_value__is_read_again(value):
    assert parse_document(Outer, read_document(write_document(value))) == value


@pytest.mark.parametrize(
    "change",
    [{"count": 1}, {"more": 1}, {"checksum": ""}, {"checksum": None}, {"inner": {"name": "é", "size": 4}}],
)
def test_parse_document__changed_after_it_was_written__does_not_fit_its_checksum(change):
    with pytest.raises(DocumentError, match="its checksum does not fit"):
        parse_document(Outer, json.loads(write_document(WHOLE)) | change)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is not JSON: "),
        (b" \n", "the file is not JSON: "),
        (b"{", "the file is not JSON: "),
        (b"\xff", "the file is not JSON: "),
        (b"[" * 100_000, "the file is not JSON: "),
        (b"[1]", "the file holds no JSON object"),
        (b"null", "the file holds no JSON object"),
    ],
)
def test_read_document__no_object__is_refused(data, message):
    with pytest.raises(DocumentError) as e:
        read_document(data)
    assert str(e.value).startswith(message)
