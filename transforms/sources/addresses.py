"""Addresses: the scheme of a URI, and faults of URIs that have none."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final
from urllib.parse import urlsplit

from labelbeam.transforms.errors import ImageError, Reason

LOCAL: Final = ""
GCS: Final = "gs"

# RFC 3986, 3.1. A relative path whose first part has a colon must be written ./a:b for the same reason.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_GCS_PREFIX = f"{GCS}://"
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# Cloud Storage allows other control characters in objects' names; other object stores may, too.
_NOT_IN_OBJECTS = re.compile(r"[\x00\r\n]")

# URIs without a scheme that are no paths, though a file of that name could exist. They are refused before a
# file is opened, because the reason `not_found` would hide the mistake.
_NO_PATHS = (
    (re.compile(r"//[^/]"), "has no scheme: write https://{0}", 2),
    (re.compile(r"www\.", re.I), "has no scheme: write https://{0}", 0),
    (re.compile(r"~"), "begins with ~, which only a shell replaces: write the whole path", 0),
    (re.compile(r"[A-Za-z]:\\"), "is a path of Windows", 0),
    (re.compile(r"\\\\"), "is a path of Windows", 0),
    (
        re.compile(r"""(["']).*\1$"""),
        "is in quotes: remove them, or name the list .csv and give it a header",
        0,
    ),
    (re.compile(r"#\s"), "begins with #, and lists have no comments: remove the line, or write ./{0}", 0),
)


def scheme_of(uri: str, schemes: Collection[str]) -> str:
    """Return the scheme of a URI, one of those that are read, in lower case; `LOCAL` for a path.

    Raises:
      ImageError: `bad_uri`: no source reads it.
    """
    if not uri:
        raise _bad_uri(uri, "is empty")
    for pattern, fault, skipped in _NO_PATHS:
        if pattern.match(uri):
            raise _bad_uri(uri, fault.format(uri[skipped:][:200]))
    match = _SCHEME.match(uri)
    # In any case, because RFC 3986 compares schemes without case.
    scheme = match.group(1).lower() if match else LOCAL
    if (_NOT_IN_OBJECTS if scheme == GCS else _CONTROL).search(uri):
        raise _bad_uri(uri, "has control characters")
    if not match:
        return LOCAL
    if scheme not in schemes:
        supported = ", ".join(f"{s}:" for s in schemes if s)
        raise _bad_uri(uri, f"has the scheme {scheme!r}, which is not read; {supported} and paths are")
    if scheme != "file" and not uri[match.end() :].startswith("//"):
        raise _bad_uri(uri, f"must begin with {scheme}://")
    try:
        urlsplit(uri)
    except ValueError as e:
        raise _bad_uri(uri, f"is no URI: {e}") from e
    return scheme


def is_gcs(uri: str) -> bool:
    """Return whether a URI is in Google Cloud Storage."""
    return uri[: len(_GCS_PREFIX)].lower() == _GCS_PREFIX


def split_gcs(uri: str) -> tuple[str, str]:
    """Return the bucket and the object's name of a URI. Names are not percent-encoded."""
    bucket, _, name = uri[len(_GCS_PREFIX) :].partition("/")
    return bucket, name


def host_and_path(uri: str) -> tuple[str, str]:
    """Split a `file:` URI into its host and its path, which is still percent-encoded.

    `file:/path`, as Spark and Java write it, is the same as `file:///path` (RFC 8089, appendix B).
    """
    rest = uri.partition(":")[2]
    if not rest.startswith("//"):
        return "", rest
    host, slash, path = rest[2:].partition("/")
    return host, slash + path


def _bad_uri(uri: str, fault: str) -> ImageError:
    return ImageError(Reason.BAD_URI, f"{uri!r:.300} {fault}")
