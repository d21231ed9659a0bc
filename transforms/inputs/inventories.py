"""Rows of inventories that are no images."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

from labelbeam.transforms.images.formats import IMAGE_SUFFIXES
from labelbeam.transforms.inputs.images import note_of_suffix
from labelbeam.transforms.inputs.known_columns import KnownColumns, text_of
from labelbeam.transforms.notes import LEFT_OUT, Notes

# Names, in the notes, of rows that are left out.
NONCURRENT: Final = "(noncurrent version)"
DELETE_MARKER: Final = "(delete marker)"
FOLDER: Final = "(folder)"


def is_left_out(row: Mapping[str, Any], known: KnownColumns, notes: Notes) -> bool:
    """Return whether a row of an inventory is no image, and count it in the notes."""
    reason = _why_left_out(row, known) if known.inventory else None
    if reason:
        notes.add(LEFT_OUT, reason)
    return reason is not None


def _why_left_out(row: Mapping[str, Any], known: KnownColumns) -> str | None:
    if text_of(row.get(known.delete_marker)).lower() == "true":
        return DELETE_MARKER
    if text_of(row.get(known.deleted)) or text_of(row.get(known.latest)).lower() == "false":
        return NONCURRENT
    name = text_of(row.get(known.name))
    if name.endswith("/"):
        return FOLDER
    # Names without an ending are taken, because names of objects are often digests.
    suffix = os.path.splitext(name)[1].lower()
    is_image = suffix in ("", ".", *IMAGE_SUFFIXES) or text_of(row.get(known.content_type)).startswith(
        "image/"
    )
    return None if is_image else note_of_suffix(suffix)
