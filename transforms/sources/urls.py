"""Addresses on the web: their form in a request, redirects, logins, and hosts that do not exist."""

from __future__ import annotations

import base64
import functools
import ipaddress
import queue
import re
import socket
import threading
from typing import Final
from urllib.parse import SplitResult, quote, unquote, unquote_to_bytes, urljoin, urlsplit

import idna

from labelbeam.transforms.errors import ImageError, Reason

_PORTS: Final = {"http": 80, "https": 443}
# Longest address of a redirect. Servers take 8 KB and more.
_MAX_LOCATION = 32 << 10
# Results of name lookups that mean that a host has no address. EAI_NODATA is not on all systems.
_NO_SUCH_HOST = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}
_URL = re.compile(r"(https?)://([^/?#]*)([^#]*)", re.I | re.S)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
# Characters that requests can't have. All others are sent as they are, because some servers compare a
# signature with the address byte by byte.
_NOT_SENT = re.compile(r"[^\x21-\x7e]+")
# Names that mean the same to every parser of URLs, this one and libcurl's.
_NAME = re.compile(r"[a-z0-9._-]+")


def to_ascii(uri: str) -> str:
    """Return a URI in ASCII: the host by IDNA, the rest as it is, without user and fragment.

    Raises:
      ImageError: `bad_uri`.
    """
    try:
        return _in_ascii(uri)
    except ValueError as e:
        raise ImageError(Reason.BAD_URI, f"{uri!r:.300} {e}") from e


def redirected(url: str, location: str) -> str:
    """Return the URL that a redirect leads to.

    Args:
      url: URL of the request.
      location: Value of the header `Location`, one character a byte.

    Raises:
      ImageError: `bad_uri`: the redirect leads to no address that may be fetched.
    """
    # Bytes beyond ASCII are most often UTF-8, and are sent back as they came in any case.
    location = _NOT_SENT.sub(lambda match: quote(match[0].encode("latin-1")), location)
    if len(location) > _MAX_LOCATION:
        raise ImageError(Reason.BAD_URI, f"a redirect to an address of {len(location):,} characters")
    try:
        # Only relative ones are joined, because `urljoin` changes others, too.
        target = _in_ascii(location if _SCHEME.match(location) else urljoin(url, location))
    except ValueError as e:
        raise _bad_redirect("a redirect to", location, str(e)) from e
    if url.startswith("https:") and target.startswith("http:"):
        raise _bad_redirect("a redirect from https: to", location, "is not encrypted")
    return target


def server_of(uri: str) -> str:
    """Return a name for the server of an address, the same for all its spellings; empty if it has none.

    In lower case, by IDNA, without the point at its end, and without the scheme's own port.
    """
    try:
        scheme, server, _ = _parts_of(uri)
    except ValueError:
        return ""
    return server.removesuffix(f":{_PORTS[scheme]}").removesuffix(".").replace(".:", ":")


def _in_ascii(uri: str) -> str:
    scheme, host, target = _parts_of(uri)
    target = _NOT_SENT.sub(lambda odd: quote(odd[0], safe="", errors="surrogatepass"), target)
    return f"{scheme}://{host}{'' if target.startswith('/') else '/'}{target}"


def _parts_of(uri: str) -> tuple[str, str, str]:
    """Return the scheme, the host with its port in ASCII, and the rest as it is."""
    match = _URL.match(uri)
    if not match:
        raise ValueError("is no address of http:// or https://")
    scheme, authority, target = match.groups()
    try:
        # Without the user, because errors of `urlsplit` quote passwords.
        return scheme.lower(), _host_and_port(authority.rpartition("@")[2]), target
    except ValueError as e:
        raise ValueError(f"has no valid host: {e}") from e


# Cached, because a list has few hosts, and this takes longer than all else.
@functools.lru_cache(1024)
def _host_and_port(authority: str) -> str:
    parts = urlsplit(f"//{authority}")
    host = parts.hostname or ""
    port = "" if parts.port is None else f":{parts.port}"
    if "[" in parts.netloc:
        ipaddress.IPv6Address(host)
        return f"[{host}]{port}"
    # Decoded as libcurl does, because hosts are allowed by these names.
    name = unquote(host, errors="strict").lower()
    if not name.isascii():
        name = idna.encode(name, strict=True, std3_rules=True).decode()
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r:.100} is no name")
    name.encode("idna")  # refuses labels that are empty or too long for DNS
    return f"{name}{port}"


def _bad_redirect(redirect: str, location: str, fault: str) -> ImageError:
    # Without user and query, because both may hold secrets of the server that redirects.
    shown = re.sub(r"//[^/]*@", "//", location.partition("?")[0])
    return ImageError(Reason.BAD_URI, f"{redirect} {shown!r:.300}, which {fault}")


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
    try:
        # On a thread, because a lookup can't be stopped, and may take longer than an image has.
        threading.Thread(target=_look_up, args=(host, result), daemon=True).start()
        return result.get(timeout=max(0.0, wait_sec))
    except (queue.Empty, RuntimeError):  # no answer in time, or no thread
        return False


def _look_up(host: str, result: queue.SimpleQueue[bool]) -> None:
    try:
        socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as e:
        result.put(isinstance(e, socket.gaierror) and e.errno in _NO_SUCH_HOST)
    else:
        result.put(False)
