"""Columns whose meaning their names show: those of inventories, and versions of images in any list."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from labelbeam.transforms.inputs.first_bytes import plain_name
from labelbeam.transforms.sources.addresses import is_gcs

# Columns of which an inventory has one beside bucket and name, in the plain form of `plain_name`. Several
# spellings of a name are one, because S3's CSV files have none, and tools name them `VersionId` or
# `version_id`.
_OF_GOOGLE = {
    "generation",
    "metageneration",
    "timecreated",
    "timedeleted",
    "storageclass",
    "md5hash",
    "crc32c",
}
_OF_S3 = {"versionid", "islatest", "isdeletemarker", "lastmodifieddate", "etag", "storageclass"}

_GENERATION = re.compile("[0-9]{1,20}")
# An ETag as servers send it, and without its quotes.
_QUOTED = re.compile(r'(W/)?"[\x21\x23-\x7e]*"')
_UNQUOTED = re.compile(r"[\x21\x23-\x7e]+")


@dataclass(frozen=True, slots=True)
class KnownColumns:
    """Columns whose meaning their names show; "" for those that a list lacks.

    Attributes:
      inventory: Maker of the inventory, if the list is one.
      bucket: Name of the bucket.
      name: Name of the object.
      generation: Generation of the object.
      etag: ETag of the object.
      md5: MD5 of the object of `generation`; "" if the list lacks its generation or its length.
      size: Length of the object.
      deleted: Time from which the version of the object is not the current one.
      latest: Whether the version of the object is the current one.
      delete_marker: Whether the row stands for a deletion, and there is no object.
      content_type: Media type of the object.
    """

    inventory: Literal["", "google", "s3"] = ""
    bucket: str = ""
    name: str = ""
    generation: str = ""
    etag: str = ""
    md5: str = ""
    size: str = ""
    deleted: str = ""
    latest: str = ""
    delete_marker: str = ""
    content_type: str = ""


def find_known_columns(names: Sequence[str]) -> KnownColumns:
    """Return the columns whose meaning their names show."""
    # Reversed, because the first of several names that are equal in their plain form must remain.
    by_name = {plain_name(name): name for name in reversed(names)}
    generation, etag = by_name.get("generation", ""), by_name.get("etag", "")
    if {"bucket", "name"} <= by_name.keys() and _OF_GOOGLE & by_name.keys():
        return KnownColumns(
            "google",
            by_name["bucket"],
            by_name["name"],
            deleted=by_name.get("timedeleted", ""),
            # Not the ETag, because the reports have another one than servers send.
            generation=generation,
            md5=by_name.get("md5hash", "") if generation and "size" in by_name else "",
            size=by_name.get("size", ""),
            content_type=by_name.get("contenttype", ""),
        )
    if {"bucket", "key"} <= by_name.keys() and _OF_S3 & by_name.keys():
        return KnownColumns(
            "s3",
            by_name["bucket"],
            by_name["key"],
            latest=by_name.get("islatest", ""),
            delete_marker=by_name.get("isdeletemarker", ""),
            etag=etag,
        )
    return KnownColumns(generation=generation, etag=etag)


def listed_version(uri: str, row: Mapping[str, Any], known: KnownColumns) -> str | None:
    """Return the version of an image in a list, in the form that its source gives the image.

    A value in another form is no version, because an image whose listed version equals that of its labels is
    not requested.
    """
    if known.generation and is_gcs(uri):
        text = text_of(row.get(known.generation))
        return text if _GENERATION.fullmatch(text) else None
    if known.etag and uri[:8].lower().startswith(("http://", "https://")):
        text = text_of(row.get(known.etag))
        if _QUOTED.fullmatch(text):
            return text
        return f'"{text}"' if _UNQUOTED.fullmatch(text) else None
    return None


def listed_digest(row: Mapping[str, Any], known: KnownColumns) -> str | None:
    """Return the digest of an object in a list, as `ImageRef.listed_digest` has it."""
    size = text_of(row.get(known.size))
    if not known.md5 or not size.isdecimal():
        return None
    text = text_of(row.get(known.md5))
    try:
        md5 = bytes.fromhex(text) if len(text) == 32 else base64.b64decode(text, validate=True)
    except ValueError:
        return None
    return f"{md5.hex()}/{int(size)}" if len(md5) == 16 else None


def text_of(value: Any) -> str:
    """Return a value as text without space around it; "" for a missing one."""
    return "" if value is None else str(value).strip()


def describe_known_columns(known: KnownColumns, template: str) -> Iterator[str]:
    """Yield sentences about the meaning that columns get by their names, for the run's output."""
    if known.inventory:
        kind = {"google": "Cloud Storage", "s3": "Amazon S3"}[known.inventory]
        yield f"The list is an inventory of {kind}; the URIs are {template}."
        columns = [column for column in (known.delete_marker, known.deleted, known.latest) if column]
        old = f"old versions and deletions ({', '.join(columns)}), " if columns else ""
        yield f"Left out of it are {old}folders, and files whose names end otherwise than images' names."
    for column, scheme in ((known.generation, "gs://"), (known.etag, "http(s)://")):
        if column and (not template or template.lower().startswith(scheme[:4])):
            yield f"The column {column} has the versions of {scheme} images."
    if known.md5:
        yield f"With --dedupe content, images of equal {known.md5} and {known.size} share one request."
