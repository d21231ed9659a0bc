"""Addresses on the web: their form in a request, redirects, logins, and hosts that do not exist."""

from __future__ import annotations

import base64
import contextlib
import queue
import re
import socket
import threading
from typing import Final
from urllib.parse import SplitResult, quote, unquote_to_bytes, urljoin, urlsplit

import idna

from labelbeam.transforms.errors import ImageError, Reason

_PORTS: Final = {"http": 80, "https": 443}
# Characters that stand for themselves in a path (RFC 3986, 3.3), and in a query.
_IN_PATHS = "/:@!$&'()*+,;=~"
_IN_QUERIES = f"{_IN_PATHS}?"
_ESCAPE = re.compile("%[0-9A-Fa-f]{2}")
# Longest address of a redirect. Servers take 8 KB and more.
_MAX_LOCATION = 32 << 10
# Results of name lookups that mean that a host has no address. EAI_NODATA is not on all systems.
_NO_SUCH_HOST = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}


def to_ascii(uri: str) -> str:
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


def redirected(url: str, location: str) -> str:
    """Return the address to which a response redirects.

    Args:
      url: Address of the request, as `to_ascii` returns it.
      location: Value of the header `Location`, decoded as Latin-1.

    Raises:
      ImageError: `bad_uri`: the address can't be read, or must not be followed.
    """
    with contextlib.suppress(UnicodeDecodeError):  # left as it is, most likely Latin-1
        location = location.encode("latin-1").decode()
    if len(location) > _MAX_LOCATION:
        raise ImageError(Reason.BAD_URI, f"a redirect to an address of {len(location):,} characters")
    # Without query and user, because both may hold secrets of the server that redirects.
    shown = re.sub(r"//[^/]*@", "//", location.partition("?")[0])
    try:
        target = urljoin(url, location)
        scheme = urlsplit(target).scheme
    except ValueError as e:
        raise ImageError(Reason.BAD_URI, f"a redirect to {shown!r:.300}, which is no URI: {e}") from e
    if scheme not in _PORTS:
        message = f"a redirect to {shown!r:.300}; only http: and https: are followed"
        raise ImageError(Reason.BAD_URI, message)
    if url.startswith("https:") and scheme == "http":
        raise ImageError(Reason.BAD_URI, f"a redirect from https: to {shown!r:.300}, which is not encrypted")
    try:
        return to_ascii(target)
    except ImageError as e:
        raise ImageError(e.reason, f"a redirect to {shown!r:.300}, which has no valid host") from e


def may_share_login(first: str, target: str) -> bool:
    """Return whether headers that authorise a request may be sent to the target of its redirects.

    True for the same server, and for its https: on the usual ports. A redirect to another server would hand
    the login to that one.
    """
    one, other = urlsplit(first), urlsplit(target)
    if one.hostname != other.hostname:
        return False
    ports = (one.scheme, _port(one)), (other.scheme, _port(other))
    return ports[0] == ports[1] or ports == (("http", 80), ("https", 443))


def _port(parts: SplitResult) -> int | None:
    return parts.port or _PORTS.get(parts.scheme)


def basic_login(uri: str) -> list[bytes]:
    """Return the header `Authorization` (RFC 7617) for the user and password in a URI, none without."""
    user_info = urlsplit(uri).netloc.rpartition("@")[0]
    if not user_info:
        return []
    user, _, password = user_info.encode("utf-8", "surrogatepass").partition(b":")
    login = b":".join((unquote_to_bytes(user), unquote_to_bytes(password)))
    return [b"Authorization: Basic " + base64.b64encode(login)]


def is_unknown(host: str, wait_sec: float) -> bool:
    """Return whether the name service is sure that a host does not exist.

    Args:
      host: Name of a host that libcurl could not resolve; it does not report why.
      wait_sec: Longest time of the lookup.
    """
    result: queue.SimpleQueue[bool] = queue.SimpleQueue()
    # On a thread, because a lookup can't be stopped, and may take longer than an image has.
    threading.Thread(target=_look_up, args=(host, result), daemon=True).start()
    try:
        return result.get(timeout=max(0.0, wait_sec))
    except queue.Empty:
        return False


def _look_up(host: str, result: queue.SimpleQueue[bool]) -> None:
    try:
        socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as e:
        result.put(isinstance(e, socket.gaierror) and e.errno in _NO_SUCH_HOST)
    else:
        result.put(False)
