"""Images on the web."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

from labelbeam.transforms.sources.curl import HttpClient
from labelbeam.transforms.sources.limits import Fetched, Limits
from labelbeam.transforms.sources.responses import NOT_MODIFIED, image_of, secrets_in
from labelbeam.transforms.sources.urls import basic_login, to_ascii

# "identity", because images are compressed already.
_HEADERS = {"accept": b"Accept: image/*", "accept-encoding": b"Accept-Encoding: identity"}


class HttpSource:
    """The source of `http://` and `https://`; the version is the ETag, else Last-Modified."""

    def __init__(self, limits: Limits) -> None:
        self._client = HttpClient(limits, _version_of)
        own = limits.http.headers
        # The user's own header takes the place of ours, because servers may take either of two.
        self._headers = [line for name, line in _HEADERS.items() if name not in {n.lower() for n, _ in own}]
        self._private = [f"{name}: {value.strip()}".encode() for name, value in own]
        self._secrets = frozenset(part for _, value in own for part in secrets_in(value))

    def fetch(self, uri: str, known_version: str | None = None) -> Fetched | None:
        """Fetch one image."""
        login = basic_login(uri)
        private = [line for line in self._private if not (login and _is_login(line))] + login
        headers = [*self._headers, *_unless(known_version)]
        response = self._client.get(to_ascii(uri), headers, known_version, private)
        if response.status == NOT_MODIFIED and known_version:
            return None
        user_info = unquote(urlsplit(uri).netloc.rpartition("@")[0])
        secrets = self._secrets.union(secrets_in(user_info)) if user_info else self._secrets
        image = image_of(response, self._client.limits, secrets)
        return Fetched(image, _version_of(response.headers))


def _is_login(line: bytes) -> bool:
    return line.lower().startswith(b"authorization:")


def _version_of(headers: Mapping[str, str]) -> str | None:
    return headers.get("etag") or headers.get("last-modified")


def _unless(known_version: str | None) -> list[bytes]:
    """Return the header that requests an image only if its version differs (RFC 9110, 13.1)."""
    if known_version is None:
        return []
    is_etag = known_version.startswith(('"', "W/"))
    name = "If-None-Match" if is_etag else "If-Modified-Since"
    return [f"{name}: {known_version}".encode("latin-1", "replace")]
