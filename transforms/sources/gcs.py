"""Images and models in Google Cloud Storage."""

from __future__ import annotations

import functools
import io
import time
from typing import Final

import google.auth.exceptions
import requests
from google.api_core import exceptions as api
from google.cloud import storage
from google.cloud.storage.exceptions import DataCorruption
from google.cloud.storage.retry import DEFAULT_RETRY
from requests.adapters import HTTPAdapter

from labelbeam.transforms.errors import ImageError, Reason, UserError, describe_error
from labelbeam.transforms.sources.addresses import split_gcs
from labelbeam.transforms.sources.limits import Fetched, Limits, timed_out, too_large

_FEW_CONNECTIONS = 4
# Errors of the client for a refusal or no response. RetryError, of the last retry, is no GoogleAPICallError.
_REFUSED = (
    api.GoogleAPICallError,
    api.RetryError,
    google.auth.exceptions.GoogleAuthError,
    requests.RequestException,
)
# Reasons by types of errors. The first that fits counts, because later types include earlier ones.
_REASONS = (
    (DataCorruption, Reason.TRUNCATED),
    ((google.auth.exceptions.GoogleAuthError, api.Forbidden, api.Unauthorized), Reason.FORBIDDEN),
    (api.ServerError, Reason.HTTP_5XX),
    (api.GoogleAPICallError, Reason.HTTP_4XX),
    (ValueError, Reason.BAD_URI),
)
CHECK_NETWORK: Final = "Check the network."
# Longest time of retries before a run. The client's own 120 s are a long silence where there is no network.
_RETRY = DEFAULT_RETRY.with_timeout(20.0)


# Longest wait for a connection, and for a response, in the check that Cloud Storage responds.
_TIMEOUTS_SEC = (10.0, 10.0)


def check_network() -> None:
    """Check once per process that Cloud Storage responds.

    Raises:
      OSError: Nothing responds.
    """
    _check_endpoint(storage.Client.create_anonymous_client()._connection.API_BASE_URL)


# Cached, because a server that has responded is not asked again; errors are not cached.
@functools.cache
def _check_endpoint(url: str) -> None:
    try:
        # Any status will do. By `requests`, because it uses the same proxies as the client.
        _RETRY(requests.head)(url, timeout=_TIMEOUTS_SEC)
    except (api.RetryError, requests.RequestException) as e:
        raise ConnectionError(f"{url} does not respond") from e


def is_unreachable(error: Exception) -> bool:
    """Return whether an error shows that no server responded, rather than that it refused."""
    return isinstance(error, (api.RetryError, requests.ConnectionError, requests.Timeout, ConnectionError))


def make_client(connections: int) -> storage.Client:
    """Return a client with a pool of connections, anonymous where there are no credentials."""
    try:
        client = storage.Client(project=None)
    except google.auth.exceptions.DefaultCredentialsError:
        client = storage.Client.create_anonymous_client()
    adapter = HTTPAdapter(pool_connections=connections, pool_maxsize=connections)
    for prefix in ("https://", "http://"):  # http is the emulator's
        client._http.mount(prefix, adapter)
    # The cache names buckets' regions in traces. It is switched off, because it sends more requests where a
    # bucket can't be read.
    client._bucket_metadata_cache = None
    return client


def list_objects(prefix: str) -> list[storage.Blob]:
    """List the objects below a folder, by name.

    Raises:
      UserError: The bucket can't be listed.
    """
    bucket, name = split_gcs(prefix)
    try:
        return list(make_client(_FEW_CONNECTIONS).list_blobs(bucket, prefix=name, retry=_RETRY))
    except _REFUSED as e:
        remedy = CHECK_NETWORK if is_unreachable(e) else "Check the name and your credentials."
        raise UserError(f"{prefix!r} cannot be listed: {describe_error(e)}. {remedy}") from e


def read_object(uri: str) -> bytes:
    """Read a whole object.

    Raises:
      OSError: The object can't be read.
    """
    bucket, name = split_gcs(uri)
    try:
        return make_client(_FEW_CONNECTIONS).bucket(bucket).blob(name).download_as_bytes(retry=_RETRY)
    except _REFUSED as e:
        hint = "; check the network" if is_unreachable(e) else ""
        raise OSError(f"{describe_error(e)}{hint}") from e


class GcsSource:
    """The source of `gs://`: one request an image; the version is the generation."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._client = make_client(limits.connections)

    def fetch(self, uri: str, known_version: str | None = None) -> Fetched | None:
        """Fetch one object."""
        bucket, name = split_gcs(uri)
        if not bucket or not name:
            raise ImageError(Reason.BAD_URI, f"{uri!r:.300} should be gs://BUCKET/OBJECT")
        sink, generation = _Sink(self._limits), known_version or ""
        try:
            blob = self._client.bucket(bucket).blob(name)
            blob.download_to_file(
                sink,
                retry=None,  # because retries would exceed the image's time limit
                timeout=self._limits.timeouts_sec,
                checksum="crc32c",
                # Without another source's version, because only numbers are generations.
                if_generation_not_match=int(generation) if generation.isdecimal() else None,
            )
        except api.NotModified:
            return None
        except (*_REFUSED, DataCorruption, ConnectionError, ValueError) as e:
            raise _image_error(e, uri, self._limits) from e
        version = str(blob.generation) if blob.generation else None
        # Compared here, too, because servers other than Google's may ignore the condition.
        return None if known_version and version == known_version else Fetched(sink.getvalue(), version)


class _Sink(io.BytesIO):
    """A buffer for a download that raises `ImageError` when the download exceeds a limit."""

    def __init__(self, limits: Limits) -> None:
        super().__init__()
        self._limits = limits
        self._deadline = time.monotonic() + limits.total_timeout_sec

    def write(self, data) -> int:  # type: ignore[no-untyped-def]
        if self.tell() + len(data) > self._limits.max_bytes:
            raise too_large(self._limits)
        if time.monotonic() > self._deadline:
            raise timed_out(self._limits)
        return super().write(data)


def _image_error(error: Exception, uri: str, limits: Limits) -> ImageError:
    """Map an error of the client library."""
    if isinstance(error, requests.Timeout):
        return timed_out(limits)
    if isinstance(error, api.NotFound):
        return ImageError(Reason.NOT_FOUND, f"{uri:.300}: no such object")
    reason = next((reason for kinds, reason in _REASONS if isinstance(error, kinds)), Reason.UNREACHABLE)
    remedy = ". The worker needs storage.objects.get." if reason is Reason.FORBIDDEN else ""
    return ImageError(reason, f"{uri:.200}: {error}"[:500] + remedy)
