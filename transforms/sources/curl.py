"""HTTP requests through libcurl, which takes half of urllib3's processor time and releases the GIL."""

from __future__ import annotations

import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

import certifi

from labelbeam import __version__
from labelbeam.transforms.errors import ImageError, Reason
from labelbeam.transforms.sources.libcurl import pycurl
from labelbeam.transforms.sources.limits import Limits, timed_out, too_large
from labelbeam.transforms.sources.public import AllowedHosts
from labelbeam.transforms.sources.responses import (
    MAX_REFUSAL_BYTES,
    NOT_MODIFIED,
    Response,
    parse_head,
    printable,
)
from labelbeam.transforms.sources.sockets import Sockets
from labelbeam.transforms.sources.urls import is_unknown, may_share_login, redirected

USER_AGENT: Final = f"labelbeam/{__version__}"
_MAX_REDIRECTS = 5
# libcurl's own 16 KB cost three times as much processor time for an image of 400 KB.
_BUFFER_BYTES = 512 << 10
# Connections that a handle keeps; libcurl's own number.
_KEPT_CONNECTIONS = 5
# Longest headers of a request's responses, 1xx and trailers included, as browsers have it. Real ones have a
# few KB.
_MAX_HEAD_BYTES = 256 << 10
_HTTP = pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS

# Time without a byte after which the transfer to a sink ends.
_SILENCE_SEC = 60

# Takes a piece of a body.
Sink = Callable[[bytes], object]

# Numbers of curl.h that pycurl does not name.
_SUPPRESS_CONNECT_HEADERS = 265
_E_TOO_LARGE = 100

# Reasons of libcurl's errors. All others are `unreachable`.
_REASON_OF_ERROR = {
    pycurl.E_URL_MALFORMAT: Reason.BAD_URI,
    pycurl.E_OPERATION_TIMEDOUT: Reason.TIMEOUT,
    pycurl.E_PARTIAL_FILE: Reason.TRUNCATED,
    # Refused by its Content-Length.
    pycurl.E_FILESIZE_EXCEEDED: Reason.TOO_LARGE_BYTES,
    pycurl.E_PEER_FAILED_VERIFICATION: Reason.TLS_ERROR,
    # Something else than HTTP, or HTTP/0.9.
    pycurl.E_UNSUPPORTED_PROTOCOL: Reason.BAD_RESPONSE,
    pycurl.E_FTP_WEIRD_SERVER_REPLY: Reason.BAD_RESPONSE,
    pycurl.E_BAD_CONTENT_ENCODING: Reason.BAD_RESPONSE,
    # A header that is too long, or too many.
    _E_TOO_LARGE: Reason.BAD_RESPONSE,
}
# Words of OpenSSL for an error of the protocol, rather than a connection that breaks within the handshake.
_TLS_FAULT, _TLS_BROKEN = "SSL routines", "unexpected eof"


class HttpClient:
    """A client with one handle of libcurl per thread, which keeps connections and DNS answers.

    Attributes:
      limits: Limits of one request.
    """

    def __init__(
        self,
        limits: Limits,
        version_of: Callable[[Mapping[str, str]], str | None],
        from_environment: bool = False,
    ) -> None:
        """Make a client.

        Args:
          limits: Limits of one request.
          version_of: Function from a response's headers to the image's version.
          from_environment: Whether proxies and CA bundles of the environment are used, as by requests, and
            addresses that are not public are allowed.
        """
        self.limits = limits
        self._version_of = version_of
        # Not beside the environment's proxies, because the addresses would be theirs. The user has named the
        # server then, too.
        self._allowed = None if from_environment else AllowedHosts(limits.allow_hosts)
        connect_sec, _ = limits.timeouts_sec
        self._options = {
            # Signals would interrupt other threads' system calls.
            pycurl.NOSIGNAL: 1,
            pycurl.BUFFERSIZE: _BUFFER_BYTES,
            pycurl.USERAGENT: (limits.http.user_agent or USER_AGENT).encode(),
            pycurl.CONNECTTIMEOUT_MS: _milliseconds(connect_sec),
            pycurl.MAXCONNECTS: _KEPT_CONNECTIONS,
            # Refuses a long Content-Length before the body.
            pycurl.MAXFILESIZE_LARGE: limits.max_bytes,
            # Redirects are followed by `get`, because libcurl would send private headers to other hosts,
            # wait for the end of a redirect's body, and connect before it reports the redirect's host.
            pycurl.FOLLOWLOCATION: 0,
            # A proxy's own responses are no responses of the server.
            _SUPPRESS_CONNECT_HEADERS: 1,
            pycurl.PROTOCOLS: _HTTP,
            # libcurl would remove /./ and /../.
            pycurl.PATH_AS_IS: 1,
            # Not HTTP/2, because a handle has one request at a time: over TLS it took 0.24 ms of a processor
            # against 0.16, and some requests hung after a server had closed the connection.
            pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_1_1,
            **_authorities(from_environment),
            **({} if from_environment else {pycurl.PROXY: ""}),
        }
        # A handle must not be used by two threads at once.
        self._local = threading.local()

    def get(
        self,
        url: str,
        headers: Sequence[bytes],
        known_version: str | None,
        private: Sequence[bytes] = (),
        deadline: float | None = None,
        sink: Sink | None = None,
    ) -> Response:
        """Send one request and follow redirects.

        Args:
          url: Address in ASCII.
          headers: Headers of all requests.
          known_version: Version that is not transferred again.
          private: Headers that other hosts, to which a redirect leads, do not get.
          deadline: End of the time limit, as `time.monotonic` counts; by default the limit starts now.
          sink: Takes the body of a success piece by piece; the response is then without.

        Returns:
          The last response.

        Raises:
          ImageError: There is no whole response within the limits, or the server opts out.
          OSError: The sink has raised it.
        """
        deadline = deadline or time.monotonic() + self.limits.total_timeout_sec
        target = url
        for _ in range(_MAX_REDIRECTS + 1):
            own = private if target is url or may_share_login(url, target) else ()
            response = self._send(target, [*headers, *own], known_version, deadline, sink)
            if not response.location:
                return response
            target = redirected(target, response.location)
        raise ImageError(Reason.BAD_RESPONSE, f"more than {_MAX_REDIRECTS} redirects")

    def _send(
        self,
        url: str,
        headers: Sequence[bytes],
        known_version: str | None,
        deadline: float,
        sink: Sink | None,
    ) -> Response:
        rest_sec = deadline - time.monotonic()
        if rest_sec <= 0:
            raise timed_out(self.limits)
        path = url.index("/", len("https://"))
        origin = url[:path]
        curl = self._handle(origin)
        transfer = _Transfer(self.limits, self._version_of, known_version, sink)
        sockets = Sockets(self._allowed, url)
        fault = None
        try:
            curl.setopt(pycurl.URL, url)
            if self._allowed:
                # Because libcurl would write %2f as %2F. Not beside proxies, because they need the whole URL.
                curl.setopt(pycurl.REQUEST_TARGET, url[path:])
            curl.setopt(pycurl.HTTPHEADER, headers)
            # For each request anew, because a request and its redirects have one limit.
            curl.setopt(pycurl.TIMEOUT_MS, _milliseconds(rest_sec))
            # Because the time limit of a long file would let a server that has fallen silent wait for hours.
            curl.setopt(pycurl.LOW_SPEED_LIMIT, 1)
            curl.setopt(pycurl.LOW_SPEED_TIME, _SILENCE_SEC if sink else 0)
            curl.setopt(pycurl.OPENSOCKETFUNCTION, sockets.open)
            curl.setopt(pycurl.HEADERFUNCTION, transfer.header)
            curl.setopt(pycurl.WRITEFUNCTION, transfer.write)
            curl.perform()
        except pycurl.error as e:
            fault = e
        finally:
            sockets.close()
        self._note_socket(curl, origin)
        response = transfer.take()
        if transfer.fault:
            raise transfer.fault from fault
        if sockets.refused and fault and fault.args[0] == pycurl.E_COULDNT_CONNECT:
            raise ImageError(Reason.FORBIDDEN_ADDRESS, sockets.refused) from fault
        # Without a fault of the response, pycurl had no memory for a piece of the body.
        no_memory = (pycurl.E_OUT_OF_MEMORY, pycurl.E_WRITE_ERROR)
        if fault and fault.args[0] in no_memory and response.is_success:
            raise MemoryError from fault
        # Redirects and refusals count more than what becomes of their bodies.
        if fault and (response.status == 0 or response.is_success):
            if sink and fault.args[0] == pycurl.E_OPERATION_TIMEDOUT:
                message = (
                    f"no connection within {self.limits.timeouts_sec[0]:g} s, or no byte for {_SILENCE_SEC} s"
                )
                raise ImageError(Reason.TIMEOUT, message) from fault
            raise self._image_error(fault, response, curl, url, deadline) from fault
        if not response.status:
            raise ImageError(Reason.UNREACHABLE, "the connection was closed within the response's headers")
        return response

    def _handle(self, origin: str) -> pycurl.Curl:
        """Return the thread's handle, without connections to an origin that have unread bytes."""
        local = self._local
        fd = local.sockets.get(origin, -1) if hasattr(local, "curl") else -1
        # libcurl looks for such bytes once a second at most. A server that sends more than it declares would
        # otherwise have them read as the next image.
        if fd >= 0 and _has_input(fd):
            local.curl.close()
            del local.curl
        if not hasattr(local, "curl"):
            local.curl, local.sockets = self._new_handle(), {}
        return local.curl

    def _new_handle(self) -> pycurl.Curl:
        try:
            curl = pycurl.Curl()
            for option, value in self._options.items():
                if value is None:
                    curl.unsetopt(option)
                else:
                    curl.setopt(option, value)
        except pycurl.error as e:  # all options are known to be valid
            raise MemoryError from e
        return curl

    def _note_socket(self, curl: pycurl.Curl, origin: str) -> None:
        """Note the connection that is kept to an origin, the last ones only, because libcurl keeps few."""
        sockets = self._local.sockets
        sockets.pop(origin, None)
        sockets[origin] = curl.getinfo(pycurl.ACTIVESOCKET)
        if len(sockets) > _KEPT_CONNECTIONS:
            del sockets[next(iter(sockets))]

    def _image_error(
        self, fault: pycurl.error, response: Response, curl: pycurl.Curl, url: str, deadline: float
    ) -> ImageError:
        """Map an error of libcurl."""
        code, message = fault.args[0], printable(fault.args[1])  # some quote headers
        reason = _REASON_OF_ERROR.get(code, Reason.UNREACHABLE)
        if reason is Reason.UNREACHABLE and response.status:
            reason = Reason.TRUNCATED  # the connection broke within the body
        elif code == pycurl.E_COULDNT_RESOLVE_HOST:
            host = urlsplit(url).hostname or ""
            if is_unknown(host, deadline - time.monotonic()):
                reason, message = Reason.UNKNOWN_HOST, f"there is no host {host!r:.300}"
        elif code == pycurl.E_SSL_CONNECT_ERROR and _TLS_FAULT in message and _TLS_BROKEN not in message:
            reason = Reason.TLS_ERROR
        if reason is Reason.TIMEOUT:
            return timed_out(self.limits)
        if reason is Reason.TOO_LARGE_BYTES:
            return too_large(self.limits, response.content_length)
        if errno := curl.getinfo(pycurl.OS_ERRNO) if code == pycurl.E_COULDNT_CONNECT else 0:
            message = f"{message}: {os.strerror(errno)}"
        return ImageError(reason, f"{message[:300]} (libcurl's error {code})")


class _Transfer:
    """One request's headers and body, as libcurl hands them over.

    Its callbacks end a transfer by a length of 0, because pycurl would print an exception.

    Attributes:
      fault: Error of the response, which counts more than libcurl's; None if there is none.
    """

    def __init__(
        self,
        limits: Limits,
        version_of: Callable[[Mapping[str, str]], str | None],
        known_version: str | None,
        sink: Sink | None = None,
    ) -> None:
        self.fault: ImageError | OSError | None = None
        self._sink = sink
        self._limits = limits
        self._version_of = version_of
        self._known_version = known_version
        self._lines: list[bytes] = []
        self._chunks: list[bytes] = []
        self._head_room_bytes = _MAX_HEAD_BYTES
        # Parsed at the first piece of the body, behind which only trailers come.
        self._head: Response | None = None
        self._room_bytes = 0

    def header(self, line: bytes) -> int:
        """Take a line of headers or trailers."""
        self._head_room_bytes -= len(line)
        if self._head_room_bytes < 0:
            message = f"the response's headers are longer than {_MAX_HEAD_BYTES >> 10} KB"
            self.fault = ImageError(Reason.BAD_RESPONSE, message)
            return 0
        self._lines.append(line)
        return len(line)

    def write(self, chunk: bytes) -> int:
        """Take a piece of the body."""
        if not self._head:
            self._head = self._parse_head()
            self._room_bytes = self._longest_body(self._head)
        self._room_bytes -= len(chunk)
        if self._room_bytes < 0:
            if self._is_image(self._head):
                self.fault = too_large(self._limits)
            return 0
        if not self._sink or not self._is_image(self._head):
            self._chunks.append(chunk)
            return len(chunk)
        try:
            self._sink(chunk)
        except OSError as e:  # the disk is full
            self.fault = e
            return 0
        return len(chunk)

    def take(self) -> Response:
        """Return the response so far, and let its bytes go, because the thread's handle keeps this object."""
        head = self._head or self._parse_head()
        if self._is_opted_out(head):
            message = f"the server opts out: its header X-Robots-Tag has {head.opt_out}"
            self.fault = ImageError(Reason.OPTED_OUT, message)
        body = b"".join(self._chunks)
        self._chunks.clear()
        return Response(head.status, head.headers, body)

    def _parse_head(self) -> Response:
        head = parse_head(self._lines)
        is_known = self._known_version and self._version_of(head.headers) == self._known_version
        return head._replace(status=NOT_MODIFIED) if is_known and head.status == 200 else head

    def _is_image(self, head: Response) -> bool:
        return head.is_success and not self._is_opted_out(head)

    def _is_opted_out(self, head: Response) -> bool:
        return bool(head.opt_out) and not self._limits.http.ignore_opt_out

    def _longest_body(self, head: Response) -> int:
        if self._is_image(head):
            return self._limits.max_bytes
        # Nothing of a known image, of one that is opted out, and of a redirect that may go on for ever.
        is_short = (head.content_length or MAX_REFUSAL_BYTES + 1) <= MAX_REFUSAL_BYTES
        skipped = head.status == NOT_MODIFIED or head.is_success or (head.location and not is_short)
        return 0 if skipped else MAX_REFUSAL_BYTES


def _has_input(fd: int) -> bool:
    """Return whether a connection has bytes that nobody has read, and not only its end."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    if not poll.poll(0):
        return False
    try:
        # A copy, because the object closes its descriptor.
        with socket.socket(fileno=os.dup(fd)) as connection:
            return bool(connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except OSError:
        return False


def _authorities(from_environment: bool) -> dict[int, str | None]:
    """Return options that name the certificate authorities.

    libcurl in pycurl's wheels only looks where Red Hat keeps them. Python's `ssl` finds the system's, and
    those of SSL_CERT_FILE and SSL_CERT_DIR.
    """
    names = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE") if from_environment else ()
    path = next((os.environ[name] for name in names if os.environ.get(name)), None)
    if path:
        return _ca_options(None, path) if os.path.isdir(path) else _ca_options(path, None)
    paths = ssl.get_default_verify_paths()
    if paths.cafile or (paths.capath and os.listdir(paths.capath)):
        return _ca_options(paths.cafile, paths.capath)
    return _ca_options(certifi.where(), None)


def _ca_options(file: str | None, folder: str | None) -> dict[int, str | None]:
    return {pycurl.CAINFO: file, pycurl.CAPATH: folder}


def _milliseconds(seconds: float) -> int:
    return max(1, round(1000 * seconds))  # 0 would be no limit
