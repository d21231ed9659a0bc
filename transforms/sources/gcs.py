"""Listings and models in Google Cloud Storage. Images are fetched by `gcs_images`."""

from __future__ import annotations

import google.auth.exceptions
import requests
from google.api_core import exceptions as api
from google.cloud import storage
from google.cloud.storage.retry import DEFAULT_RETRY

from labelbeam.transforms.errors import UserError, describe_error
from labelbeam.transforms.sources.addresses import split_gcs

# Errors of the client for a refusal or no response. RetryError, of the last retry, is no GoogleAPICallError.
_REFUSED = (
    api.GoogleAPICallError,
    api.RetryError,
    google.auth.exceptions.GoogleAuthError,
    requests.RequestException,
)
# Longest time of retries before a run. The client's own 120 s are a long silence where there is no network.
_RETRY = DEFAULT_RETRY.with_timeout(20.0)


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
        raise UserError(
            f"{prefix!r} cannot be listed: {describe_error(e)}. Check the name and your credentials."
        ) from e


def read_object(uri: str) -> bytes:
    """Read a whole object.

    Raises:
      OSError: The object can't be read.
    """
    bucket, name = split_gcs(uri)
    try:
        return make_client().bucket(bucket).blob(name).download_as_bytes(retry=_RETRY)
    except _REFUSED as e:
        raise OSError(str(e)) from e
