"""Images on the web."""

from __future__ import annotations

import time
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import (
    DecodeError,
    HTTPError,
    IncompleteRead,
    LocationValueError,
    MaxRetryError,
    NewConnectionError,
    ProtocolError,
    TimeoutError,
)

from labelbeam.transforms.errors import ImageError, Reason
from labelbeam.transforms.sources.limits import Fetched, Limits, timed_out, too_large

_MAX_REDIRECTS = 5
# Length of one read; the limits of bytes and time are checked between two reads.
_CHUNK_BYTES = 1 << 16

# Reasons of statuses; of all others the hundred decides.
_REASONS = {
    401: Reason.FORBIDDEN,
    403: Reason.FORBIDDEN,
    404: Reason.NOT_FOUND,
    408: Reason.TIMEOUT,
    410: Reason.NOT_FOUND,
    504: Reason.TIMEOUT,
}


class HttpSource:
    """The source of `http://` and `https://`; the version is the ETag, else Last-Modified."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        # No retries, because they would exceed the image's time limit.
        self._pool = urllib3.PoolManager(
            num_pools=limits.connections,
            maxsize=limits.connections,
            retries=urllib3.Retry(total=None, connect=0, read=0, other=0, status=0, redirect=_MAX_REDIRECTS),
            timeout=urllib3.Timeout(*limits.timeouts_sec),
            # "identity", because images are compressed already.
            headers={"User-Agent": "labelbeam", "Accept": "image/*", "Accept-Encoding": "identity"},
        )

    def fetch(self, uri: str, known_version: str | None = None) -> Fetched | None:
        """Fetch one image."""
        if not urlsplit(uri).hostname:
            raise ImageError(Reason.BAD_URI, f"{uri!r:.300} names no host")
        deadline = time.monotonic() + self._limits.total_timeout_sec
        try:
            response = self._pool.request(
                "GET", uri, preload_content=False, headers={**self._pool.headers, **_unless(known_version)}
            )
            try:
                return self._read(response, deadline, known_version)
            finally:
                # After a whole body the connection is in the pool already. Otherwise it is closed, because
                # the rest of the body would be read as the next response.
                response.close()
        except HTTPError as e:
            raise _image_error(e, self._limits) from e

    def _read(
        self, response: urllib3.BaseHTTPResponse, deadline: float, known_version: str | None
    ) -> Fetched | None:
        version = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if known_version and response.status == 304:
            response.drain_conn()  # it has no body: the connection can be used again
            return None
        # Compared here, too, because some servers ignore the condition and send the image again.
        if known_version and (response.status, version) == (200, known_version):
            return None
        if response.status != 200:
            other = Reason.HTTP_5XX if response.status >= 500 else Reason.HTTP_4XX
            reason = _REASONS.get(response.status, other)
            raise ImageError(reason, f"the server returned status {response.status}")
        length = response.headers.get("Content-Length", "")
        if length.isdecimal() and int(length) > self._limits.max_bytes:
            raise too_large(self._limits, int(length))
        data = bytearray()
        # One read of the socket at a time, because a server that drips must not outlast the time limit.
        while chunk := response.read1(_CHUNK_BYTES, decode_content=True):
            data += chunk
            if len(data) > self._limits.max_bytes:
                raise too_large(self._limits)
            if time.monotonic() > deadline:
                raise timed_out(self._limits)
        return Fetched(bytes(data), version)


def _unless(known_version: str | None) -> dict[str, str]:
    """Return the header that requests an image only if its version differs (RFC 9110, 13.1)."""
    if known_version is None:
        return {}
    is_etag = known_version.startswith(('"', "W/"))
    return {"If-None-Match" if is_etag else "If-Modified-Since": known_version}


def _image_error(error: HTTPError, limits: Limits) -> ImageError:
    """Map an error of urllib3."""
    # The cause, because urllib3 reports every fault before the response as a MaxRetryError.
    cause = error.reason if isinstance(error, MaxRetryError) and error.reason else error
    message = f"{type(cause).__name__}: {cause}"[:300]
    # Without NewConnectionError, because urllib3 derives it from its errors of time.
    if isinstance(cause, TimeoutError) and not isinstance(cause, NewConnectionError):
        return timed_out(limits)
    if isinstance(cause, LocationValueError):
        return ImageError(Reason.BAD_URI, message)
    if isinstance(cause, DecodeError):
        return ImageError(Reason.DECODE_ERROR, message)
    if isinstance(cause, IncompleteRead) or (
        isinstance(cause, ProtocolError) and any(isinstance(a, IncompleteRead) for a in cause.args)
    ):
        return ImageError(Reason.TRUNCATED, message)
    return ImageError(Reason.UNREACHABLE, message)
