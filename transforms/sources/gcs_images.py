"""Images in Google Cloud Storage, and the client of all frequent requests.

Google's client library is not imported here, because it takes 0.4 s and 25 MB more in each process, and ten
times the processor time for an image.
"""

from __future__ import annotations

import base64
import os
import re
import threading
import time
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import quote

import google.auth
import google.auth.exceptions
import google_crc32c

from labelbeam.transforms.errors import ImageError, Reason
from labelbeam.transforms.sources.addresses import split_gcs
from labelbeam.transforms.sources.curl import HttpClient
from labelbeam.transforms.sources.limits import Fetched, Limits
from labelbeam.transforms.sources.responses import NOT_MODIFIED, Response, image_of, refusal_of, secrets_in
from labelbeam.transforms.sources.urls import server_of

# The variables, the address and the scopes of google-cloud-storage.
_EMULATOR = "STORAGE_EMULATOR_HOST"
_ENDPOINT = "API_ENDPOINT_OVERRIDE"
_GOOGLE = "https://storage.googleapis.com"
_SCOPES = tuple(
    f"https://www.googleapis.com/auth/devstorage.{right}"
    for right in ("full_control", "read_only", "read_write")
)
_CRC32C = re.compile(r"\bcrc32c=([A-Za-z0-9+/=]+)")
_GENERATION = re.compile("[0-9]{1,20}")
# gzip, because an object that is stored compressed comes with its checksum only as it is stored.
_HEADERS = (b"Accept-Encoding: gzip",)


def endpoint() -> str:
    """Return the address of Cloud Storage, or of the server that the environment names instead.

    Raises:
      ImageError: `bad_uri`: the environment names no address.
    """
    for name in (_EMULATOR, _ENDPOINT):
        if value := os.environ.get(name):
            if not server_of(value):
                example = "such as http://localhost:9000"
                raise ImageError(Reason.BAD_URI, f"{name}={value!r:.300} should be an address {example}")
            return value.rstrip("/")
    return _GOOGLE


class GcsSource:
    """The source of `gs://`: one request an image; the version is the generation."""

    def __init__(self, limits: Limits) -> None:
        self._client = GcsClient(limits)

    def fetch(self, uri: str, known_version: str | None = None) -> Fetched | None:
        """Fetch one object."""
        response = self._client.get(_path_of(uri, known_version or ""), uri, known_version)
        if response.status == NOT_MODIFIED and known_version:
            return None
        if not response.is_success:
            raise _refusal(uri, response, self._client.secrets())
        _check_sum(uri, response)
        return Fetched(image_of(response, self._client.limits), _version_of(response.headers))


def _path_of(uri: str, generation: str) -> str:
    bucket, name = split_gcs(uri)
    if not bucket or not name:
        raise ImageError(Reason.BAD_URI, f"{uri!r:.300} should be gs://BUCKET/OBJECT")
    try:
        path = f"/download/storage/v1/b/{quote(bucket, safe='')}/o/{quote(name, safe='')}"
    except UnicodeError as e:
        raise ImageError(Reason.BAD_URI, f"{uri!r:.300}: {e}") from e
    # Another source's version is no condition.
    condition = f"&ifGenerationNotMatch={generation}" if _GENERATION.fullmatch(generation) else ""
    return f"{path}?alt=media{condition}"


class GcsClient:
    """A client of Cloud Storage with the environment's credentials, for any number of threads.

    Attributes:
      limits: Limits of one request.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._endpoint = endpoint()
        self._client = HttpClient(limits, _version_of, from_environment=True)
        self._login = _Login(limits)

    def get(self, path: str, uri: str, known_version: str | None = None) -> Response:
        """Send a request for a path and query of the endpoint.

        Args:
          path: The path and the query.
          uri: Address of the object or bucket, for messages.
          known_version: Version that is not transferred again.

        Raises:
          ImageError: There is no whole response within the limits, or no token.
        """
        url = f"{self._endpoint}{path}"
        deadline = time.monotonic() + self.limits.total_timeout_sec
        try:
            login = self._login.headers()
            response = self._client.get(url, _HEADERS, known_version, _lines(login), deadline)
            # Once more, because tokens can be revoked before they expire.
            if response.status == 401 and login:
                login = self._login.headers(refused=login)
                response = self._client.get(url, _HEADERS, known_version, _lines(login), deadline)
        except google.auth.exceptions.GoogleAuthError as e:
            # A server of tokens that is not reached, or overloaded, is there again later.
            is_temporary = isinstance(e, google.auth.exceptions.TransportError) or e.retryable
            reason = Reason.UNREACHABLE if is_temporary else Reason.FORBIDDEN
            raise ImageError(reason, f"{uri:.200}: {e!s:.300}. Check the credentials.") from e
        return response

    def secrets(self) -> set[str]:
        """Return the texts of the last login that no message may have."""
        return self._login.secrets()


class _Login:
    """The environment's credentials, shared by threads; none for an emulator."""

    def __init__(self, limits: Limits) -> None:
        self._timeout_sec = limits.total_timeout_sec
        self._credentials = _credentials()
        self._lock = threading.Lock()

    def headers(self, refused: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return headers that authorize a request, none where there are no credentials.

        Args:
          refused: Headers that the server did not accept.

        Raises:
          GoogleAuthError: There is no token.
        """
        if not self._credentials:
            return {}
        if refused or not self._credentials.valid:
            # Under a lock, and only if no other thread has a new token by now, because all threads come here
            # at the same time.
            with self._lock:
                if not self._credentials.valid or self._apply() == refused:
                    self._credentials.refresh(self._send)
        return self._apply()

    def secrets(self) -> set[str]:
        """Return the texts of the last headers that no message may have."""
        return {text for value in self._apply().values() for text in secrets_in(value)}

    def _apply(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        if self._credentials:
            self._credentials.apply(headers)
        return headers

    def _send(self, *args: Any, **kwargs: Any) -> Any:
        """Send a request for a token within the time limit of an image, because images wait for it."""
        # Not imported above, because most processes need no token, or one an hour.
        from google.auth.transport.requests import Request

        timeout_sec = min(kwargs.pop("timeout", None) or self._timeout_sec, self._timeout_sec)
        return Request()(*args, timeout=timeout_sec, **kwargs)


def _credentials() -> Any:
    if os.environ.get(_EMULATOR):
        return None
    try:
        return google.auth.default(scopes=_SCOPES)[0]
    except google.auth.exceptions.DefaultCredentialsError:
        return None


def _version_of(headers: Mapping[str, str]) -> str | None:
    return headers.get("x-goog-generation")


def _lines(login: Mapping[str, str]) -> list[bytes]:
    return [f"{name}: {value}".encode() for name, value in login.items()]


def _check_sum(uri: str, response: Response) -> None:
    """Compare a body with the object's CRC32C.

    Raises:
      ImageError: `truncated`.
    """
    stored = response.headers.get("x-goog-stored-content-encoding", "identity")
    if stored != response.headers.get("content-encoding", "identity"):
        return  # the checksum is of the object as it is stored, not as it was sent
    value = base64.b64encode(google_crc32c.value(response.body).to_bytes(4, "big")).decode()
    expected = _CRC32C.search(response.headers.get("x-goog-hash", ""))
    if expected and expected[1] != value:
        message = f"{uri:.200}: {len(response.body):,} bytes arrived, and their checksum is wrong"
        raise ImageError(Reason.TRUNCATED, message)


def _refusal(uri: str, response: Response, secrets: Collection[str]) -> ImageError:
    if response.status == 404:
        return ImageError(Reason.NOT_FOUND, f"{uri:.300}: no such object")
    remedy = ". The worker needs storage.objects.get." if response.status in (401, 403) else ""
    return refusal_of(response, f"{uri:.200}: ", remedy, secrets)
