"""Listings of buckets, page by page.

Google's client library is not used, because it makes a large object of each name and has no bound on threads.
"""

from __future__ import annotations

import functools
import json
import random
import threading
import time
from datetime import datetime
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlencode

from labelbeam.transforms.errors import ImageError, Reason, may_heal
from labelbeam.transforms.sources.gcs import check_network
from labelbeam.transforms.sources.gcs_images import GcsClient, endpoint
from labelbeam.transforms.sources.limits import HttpSettings, Limits
from labelbeam.transforms.sources.responses import image_of

# Objects of a page, which is the service's own limit.
PAGE_OBJECTS: Final = 1000
_FIELDS = "items(name,size,generation,updated),prefixes,nextPageToken"
# A page of Cloud Storage has less than 1 MB. An emulator sends a bucket as one page.
_LIMITS = Limits(total_timeout_sec=60.0, max_bytes=1 << 30, http=HttpSettings(ignore_opt_out=True))
# Longest time of retries, and the first and the longest pause between two; all are those of Google's client.
_RETRY_SEC, _FIRST_PAUSE_SEC, _MAX_PAUSE_SEC = 120.0, 1.0, 60.0
_NO_CONNECTION = (Reason.UNREACHABLE, Reason.TIMEOUT, Reason.UNKNOWN_HOST)


class BucketObject(NamedTuple):
    """An object as a listing describes it.

    Attributes:
      name: The name, without the bucket.
      size_bytes: The length.
      generation: Number of the object's content, which is the version of an image.
      updated: Time of the last change, as RFC 3339 writes it.
    """

    name: str
    size_bytes: int
    generation: str | None
    updated: str

    @property
    def updated_sec(self) -> float:
        """Time of the last change since 1970, rounded as Beam's filesystems round it."""
        updated = datetime.fromisoformat(self.updated)
        return updated.replace(microsecond=0).timestamp() + updated.microsecond / 1e6


class ObjectPage(NamedTuple):
    """A page of a listing, in the order of the names.

    Attributes:
      objects: The objects.
      folders: Beginnings of names up to the delimiter that stand for the names behind.
      token: Token of the next page; empty behind the last.
    """

    objects: list[BucketObject]
    folders: list[str]
    token: str


class BucketLister:
    """A client that lists one bucket, for any number of threads."""

    def __init__(self, bucket: str) -> None:
        """Make a client.

        Raises:
          ValueError: The name is empty.
          OSError: Cloud Storage does not respond.
        """
        if not bucket:
            raise ValueError("a bucket's name is missing: gs://BUCKET/NAME")
        check_network()
        self._bucket = bucket
        self._client = _client(endpoint())
        self._closed = threading.Event()

    def page(
        self,
        prefix: str,
        delimiter: str = "",
        start: str = "",
        end: str = "",
        token: str = "",
        most: int = PAGE_OBJECTS,
    ) -> ObjectPage:
        """List a page of objects.

        Args:
          prefix: Beginning of the names.
          delimiter: Character up to which names behind the prefix are folders; none if empty.
          start: First name.
          end: Name behind the last; no bound if empty.
          token: Token of the page before.
          most: Largest number of objects and folders.

        Raises:
          OSError: The bucket can't be listed, also when the request is repeated.
        """
        query = {"prefix": prefix, "delimiter": delimiter, "startOffset": start, "endOffset": end}
        query |= {"pageToken": token, "maxResults": str(most), "fields": _FIELDS}
        query = {name: value for name, value in query.items() if value}
        listed = self._get(f"/storage/v1/b/{quote(self._bucket, safe='')}/o?{urlencode(query)}")
        objects = [
            BucketObject(item["name"], int(item["size"]), item.get("generation"), item["updated"])
            for item in listed.get("items") or ()
        ]
        return ObjectPage(objects, listed.get("prefixes") or [], listed.get("nextPageToken") or "")

    def has_any(self, prefix: str) -> bool:
        """Return whether an object's name begins with a prefix.

        Raises:
          OSError: As in `page`.
        """
        page = self.page(prefix, most=1)
        # More than one page, because pages without objects are allowed.
        while page.token and not page.objects:
            page = self.page(prefix, token=page.token, most=1)
        return bool(page.objects)

    def close(self) -> None:
        """End all requests that wait to be repeated."""
        self._closed.set()

    def _get(self, path: str) -> dict[str, Any]:
        give_up_at = time.monotonic() + _RETRY_SEC
        pause_sec = _FIRST_PAUSE_SEC
        while True:
            try:
                return self._get_once(path)
            except ImageError as e:
                # At random, because all threads and workers would otherwise come back at once.
                pause = max(random.uniform(pause_sec / 2, pause_sec), e.retry_after_sec or 0.0)
                if not may_heal(e.reason) or time.monotonic() + pause > give_up_at:
                    raise _error_of(e, self._bucket) from e
            if self._closed.wait(pause):
                raise OSError(f"the listing of gs://{self._bucket} was given up")
            pause_sec = min(2 * pause_sec, _MAX_PAUSE_SEC)

    def _get_once(self, path: str) -> dict[str, Any]:
        response = self._client.get(path, f"gs://{self._bucket}")
        body = image_of(response, _LIMITS, self._client.secrets())
        try:
            listed = json.loads(body)
        except ValueError as e:
            raise ImageError(Reason.TRUNCATED, f"the server returned no JSON: {e}") from e
        if not isinstance(listed, dict):
            raise ImageError(Reason.BAD_RESPONSE, "the server returned no listing")
        return listed


def _error_of(error: ImageError, bucket: str) -> OSError:
    message = str(error)
    if error.reason is Reason.TIMEOUT:
        message = f"the server sent no page within {_LIMITS.total_timeout_sec:g} s"
    elif error.reason is Reason.NOT_FOUND:
        message = f"there is no bucket {bucket!r}: {message}"
    elif error.reason is Reason.FORBIDDEN:
        message = f"{message}. The account needs storage.objects.list"
    return ConnectionError(message) if error.reason in _NO_CONNECTION else OSError(message)


# One for each server, because threads of all listings share the login.
@functools.cache
def _client(_endpoint: str) -> GcsClient:
    return GcsClient(_LIMITS)
