"""HTTP requests through libcurl, which takes half of urllib3's processor time and releases the GIL."""

from __future__ import annotations

import os
import re
import ssl
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import certifi

from labelbeam.transforms.errors import ImageError, Reason
from labelbeam.transforms.sources.libcurl import pycurl
from labelbeam.transforms.sources.limits import Limits, timed_out, too_large

NOT_MODIFIED: Final = 304
_OK = 200
_USER_AGENT = "labelbeam"
_MAX_REDIRECTS = 5
# libcurl's own 16 KB cost three times as much processor time for an image of 400 KB.
_BUFFER_BYTES = 512 << 10
# Longest body of a refusal that is read. Short ones are read, because the connection can be used again then.
_MAX_REFUSAL_BYTES = 64 << 10
_HTTP = pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS

# Reasons of libcurl's errors. All others are `unreachable`.
_REASON_OF_ERROR = {
    # A redirect to file:, ftp: and the like. Addresses of other schemes don't reach libcurl.
    pycurl.E_UNSUPPORTED_PROTOCOL: Reason.BAD_URI,
    pycurl.E_URL_MALFORMAT: Reason.BAD_URI,
    pycurl.E_OPERATION_TIMEDOUT: Reason.TIMEOUT,
    pycurl.E_PARTIAL_FILE: Reason.TRUNCATED,
    # Refused by its Content-Length, and by `_Transfer.write`.
    pycurl.E_FILESIZE_EXCEEDED: Reason.TOO_LARGE_BYTES,
    pycurl.E_WRITE_ERROR: Reason.TOO_LARGE_BYTES,
}
# Reasons of statuses. Of all others the first digit decides.
_REASON_OF_STATUS = {
    401: Reason.FORBIDDEN,
    403: Reason.FORBIDDEN,
    404: Reason.NOT_FOUND,
    408: Reason.TIMEOUT,
    410: Reason.NOT_FOUND,
    504: Reason.TIMEOUT,
}
_STATUS_LINE = re.compile(r"HTTP/[0-9.]+ ([0-9]{3})\b")
_NUMBER = re.compile("[0-9]{1,18}")
# Formats of zlib, tried in this order. Some servers send deflate without zlib's header.
_ZLIB_BITS = {"gzip": (31,), "x-gzip": (31,), "deflate": (15, -15)}


class Response(NamedTuple):
    """The last response of a chain of redirects.

    Attributes:
      status: Status; 304 also for an image whose version is known, because some servers ignore conditions.
      headers: Values by names in lower case; values of a repeated name are joined by commas.
      body: Body as it was transferred, perhaps compressed.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


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
          from_environment: Whether proxies and CA bundles of the environment are used, as by requests.
        """
        self.limits = limits
        self._version_of = version_of
        connect_sec, total_sec = limits.timeouts_sec
        self._options = {
            # Signals would interrupt other threads' system calls.
            pycurl.NOSIGNAL: 1,
            pycurl.BUFFERSIZE: _BUFFER_BYTES,
            pycurl.USERAGENT: _USER_AGENT,
            pycurl.TIMEOUT_MS: _milliseconds(total_sec),
            pycurl.CONNECTTIMEOUT_MS: _milliseconds(connect_sec),
            # Refuses a long Content-Length before the body.
            pycurl.MAXFILESIZE_LARGE: limits.max_bytes,
            pycurl.FOLLOWLOCATION: 1,
            pycurl.MAXREDIRS: _MAX_REDIRECTS,
            # A redirect must not read files of the worker.
            pycurl.PROTOCOLS: _HTTP,
            pycurl.REDIR_PROTOCOLS: _HTTP,
            # Not HTTP/2, because a handle has one request at a time: over TLS it took 0.24 ms of a processor
            # against 0.16, and some requests hung after a server had closed the connection.
            pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_1_1,
            **_authorities(from_environment),
            **({} if from_environment else {pycurl.PROXY: ""}),
        }
        # A handle must not be used by two threads at once.
        self._local = threading.local()

    def get(self, url: str, headers: Sequence[bytes], known_version: str | None) -> Response:
        """Send one request and follow redirects.

        Raises:
          ImageError: There is no whole response within the limits.
        """
        curl = self._handle()
        transfer = _Transfer(self.limits, self._version_of, known_version)
        fault = None
        try:
            curl.setopt(pycurl.URL, url)
            curl.setopt(pycurl.HTTPHEADER, headers)
            curl.setopt(pycurl.HEADERFUNCTION, transfer.lines.append)
            curl.setopt(pycurl.WRITEFUNCTION, transfer.write)
            curl.perform()
        except pycurl.error as e:
            fault = e
        response = transfer.take()
        # A status counts more than what becomes of its body.
        if fault and response.status < 400 and response.status != NOT_MODIFIED:
            raise self._image_error(fault, response, curl) from fault
        if not response.status:
            raise ImageError(Reason.UNREACHABLE, "the connection was closed within the response's headers")
        return response

    def _handle(self) -> pycurl.Curl:
        if not hasattr(self._local, "curl"):
            curl = pycurl.Curl()
            for option, value in self._options.items():
                if value is None:
                    curl.unsetopt(option)
                else:
                    curl.setopt(option, value)
            self._local.curl = curl
        return self._local.curl

    def _image_error(self, fault: pycurl.error, response: Response, curl: pycurl.Curl) -> ImageError:
        """Map an error of libcurl."""
        code, message = fault.args
        reason = _REASON_OF_ERROR.get(code, Reason.UNREACHABLE)
        if code == pycurl.E_UNSUPPORTED_PROTOCOL and not response.status:
            reason = Reason.UNREACHABLE  # the server sent something else than HTTP
        elif reason is Reason.UNREACHABLE and response.status == _OK:
            reason = Reason.TRUNCATED  # the connection broke within the body
        if reason is Reason.TIMEOUT:
            return timed_out(self.limits)
        if reason is Reason.TOO_LARGE_BYTES:
            return too_large(self.limits, _length(response.headers))
        if errno := curl.getinfo(pycurl.OS_ERRNO) if code == pycurl.E_COULDNT_CONNECT else 0:
            message = f"{message}: {os.strerror(errno)}"
        return ImageError(reason, f"{message[:300]} (libcurl's error {code})")


class _Transfer:
    """One request's headers and body, as libcurl hands them over.

    Attributes:
      lines: Lines of the headers of all responses.
    """

    def __init__(
        self,
        limits: Limits,
        version_of: Callable[[Mapping[str, str]], str | None],
        known_version: str | None,
    ) -> None:
        self.lines: list[bytes] = []
        self._limits = limits
        self._version_of = version_of
        self._known_version = known_version
        self._chunks: list[bytes] = []
        self._room_bytes = 0

    def write(self, chunk: bytes) -> int:
        """Take a piece of the body; 0 ends the transfer, because pycurl would print an exception."""
        if not self._chunks:
            self._room_bytes = self._longest_body()
        self._room_bytes -= len(chunk)
        if self._room_bytes < 0:
            return 0
        self._chunks.append(chunk)
        return len(chunk)

    def take(self) -> Response:
        """Return the response so far, and let its bytes go, because the thread's handle keeps this object."""
        status, headers = self._head()
        body = b"".join(self._chunks)
        self._chunks.clear()
        return Response(status, headers, body)

    def _head(self) -> tuple[int, dict[str, str]]:
        status, headers = _parse(self.lines)
        is_known = self._known_version and self._version_of(headers) == self._known_version
        return NOT_MODIFIED if is_known and status == _OK else status, headers

    def _longest_body(self) -> int:
        status, _ = self._head()
        if status == _OK:
            return self._limits.max_bytes
        return 0 if status == NOT_MODIFIED else _MAX_REFUSAL_BYTES  # nothing of a known image


def status_error(status: int, details: str = "") -> ImageError:
    """Return the error for a status other than 200."""
    other = Reason.HTTP_5XX if status >= 500 else Reason.HTTP_4XX
    return ImageError(_REASON_OF_STATUS.get(status, other), details or f"the server returned status {status}")


def image_of(response: Response, limits: Limits) -> bytes:
    """Return a response's body without its content encodings.

    Encodings other than gzip and deflate are left as they are, because some servers name encodings that
    they don't apply, such as `aws-chunked`.

    Raises:
      ImageError: The body is damaged, or too large.
    """
    data = response.body
    encodings = response.headers.get("content-encoding", "").lower().replace(" ", "").split(",")
    for encoding in reversed(encodings):
        if encoding in _ZLIB_BITS:
            data = _inflate(data, _ZLIB_BITS[encoding], limits)
    return data


def _inflate(data: bytes, formats: Sequence[int], limits: Limits) -> bytes:
    parts, length = [], 0
    while data:
        try:
            decoder = zlib.decompressobj(formats[0])
            # At most one byte too many, because a few KB may stand for terabytes.
            part = decoder.decompress(data, limits.max_bytes + 1 - length)
        except zlib.error as e:
            if length:  # bytes behind a whole stream are ignored, as browsers do
                break
            if len(formats) > 1:
                return _inflate(data, formats[1:], limits)
            raise ImageError(Reason.DECODE_ERROR, f"the response's content encoding is damaged: {e}") from e
        parts.append(part)
        length += len(part)
        if length > limits.max_bytes:
            raise too_large(limits)
        if not decoder.eof:
            raise ImageError(Reason.TRUNCATED, "the response's content encoding ends too early")
        data = decoder.unused_data
    return b"".join(parts)


def _parse(lines: Sequence[bytes]) -> tuple[int, dict[str, str]]:
    """Return status and headers of the last response; 0 for a status without the end of its headers."""
    status, headers = 0, dict[str, str]()
    coming = 0
    for line in lines:
        text = line.decode("latin-1").rstrip()
        name, colon, value = text.partition(":")
        if match := _STATUS_LINE.match(text):
            # Each redirect, and each 1xx, begins anew.
            status, coming, headers = 0, int(match[1]), {}
        elif not text:
            status = coming
        elif colon:
            name, value = name.lower(), value.strip()
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return status, headers


def _length(headers: Mapping[str, str]) -> int | None:
    text = headers.get("content-length", "")
    return int(text) if _NUMBER.fullmatch(text) else None


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
