"""Images on the web."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote, urlsplit

import idna

from labelbeam.transforms.errors import ImageError, Reason
from labelbeam.transforms.sources.curl import NOT_MODIFIED, HttpClient, image_of, status_error
from labelbeam.transforms.sources.limits import Fetched, Limits

# "identity", because images are compressed already.
_HEADERS = (b"Accept: image/*", b"Accept-Encoding: identity")
# Characters that stand for themselves in a path (RFC 3986, 3.3), and in a query.
_IN_PATHS = "/:@!$&'()*+,;=~"
_IN_QUERIES = f"{_IN_PATHS}?"
_ESCAPE = re.compile("%[0-9A-Fa-f]{2}")


class HttpSource:
    """The source of `http://` and `https://`; the version is the ETag, else Last-Modified."""

    def __init__(self, limits: Limits) -> None:
        self._client = HttpClient(limits, _version_of)

    def fetch(self, uri: str, known_version: str | None = None) -> Fetched | None:
        """Fetch one image."""
        response = self._client.get(_escape(uri), [*_HEADERS, *_unless(known_version)], known_version)
        if response.status == NOT_MODIFIED and known_version:
            return None
        if response.status != 200:
            raise status_error(response.status)
        return Fetched(image_of(response, self._client.limits), _version_of(response.headers))


def _version_of(headers: Mapping[str, str]) -> str | None:
    return headers.get("etag") or headers.get("last-modified")


def _unless(known_version: str | None) -> list[bytes]:
    """Return the header that requests an image only if its version differs (RFC 9110, 13.1)."""
    if known_version is None:
        return []
    is_etag = known_version.startswith(('"', "W/"))
    name = "If-None-Match" if is_etag else "If-Modified-Since"
    return [f"{name}: {known_version}".encode("latin-1", "replace")]


def _escape(uri: str) -> str:
    """Return a URI in ASCII: the host by IDNA, the rest percent-encoded, without user and fragment.

    Raises:
      ImageError: `bad_uri`.
    """
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname or "", parts.port
        if not host:
            raise ImageError(Reason.BAD_URI, f"{uri!r:.300} names no host")
        if not host.isascii():
            host = idna.encode(host, strict=True, std3_rules=True).decode()
        host.encode("idna")  # refuses labels that are empty or too long for DNS
    except ValueError as e:
        raise ImageError(Reason.BAD_URI, f"{uri!r:.300} has no valid host: {e}") from e
    host = f"[{host}]" if ":" in host else host
    query = f"?{_quote(parts.query, _IN_QUERIES)}" if parts.query else ""
    return (
        f"{parts.scheme}://{host}{'' if port is None else f':{port}'}"
        f"{_quote(parts.path, _IN_PATHS) or '/'}{query}"
    )


def _quote(text: str, safe: str) -> str:
    # Escapes stay as they are, unless a percent sign without two digits shows that nothing is escaped.
    escaped = len(_ESCAPE.findall(text)) == text.count("%")
    return quote(text, safe=f"{safe}%" if escaped else safe, errors="surrogatepass")
