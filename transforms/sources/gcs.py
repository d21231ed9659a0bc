"""Listings and models in Google Cloud Storage. Images are fetched by `gcs_images`."""

from __future__ import annotations

import functools
from typing import Final

import google.auth.exceptions
import requests
from google.api_core import exceptions as api
from google.cloud import storage
from google.cloud.storage.retry import DEFAULT_RETRY

from labelbeam.transforms.errors import ImageError, UserError, describe_error
from labelbeam.transforms.sources.addresses import split_gcs
from labelbeam.transforms.sources.gcs_images import endpoint

# Errors of the client for a refusal or no response. RetryError, of the last retry, is no GoogleAPICallError.
_REFUSED = (
    api.GoogleAPICallError,
    api.RetryError,
    google.auth.exceptions.GoogleAuthError,
    requests.RequestException,
)
CHECK_NETWORK: Final = "Check the network."
# Longest time of retries before a run. The client's own 120 s are a long silence where there is no network.
_RETRY = DEFAULT_RETRY.with_timeout(20.0)
# Longest wait for a connection, and for a response, in the check that Cloud Storage responds.
_TIMEOUTS_SEC = (10.0, 10.0)


def check_network() -> None:
    """Check once per process that Cloud Storage responds.

    Raises:
      OSError: Nothing responds, or the environment names no address.
    """
    try:
        url = endpoint()
    except ImageError as e:
        raise OSError(str(e)) from e
    _check_endpoint(url)


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


def make_client() -> storage.Client:
    """Return a client, anonymous where there are no credentials."""
    try:
        client = storage.Client(project=None)
    except google.auth.exceptions.DefaultCredentialsError:
        client = storage.Client.create_anonymous_client()
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
        return list(make_client().list_blobs(bucket, prefix=name, retry=_RETRY))
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
        return make_client().bucket(bucket).blob(name).download_as_bytes(retry=_RETRY)
    except _REFUSED as e:
        hint = "; check the network" if is_unreachable(e) else ""
        raise OSError(f"{describe_error(e)}{hint}") from e
