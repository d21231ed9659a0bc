"""A web server of files on loopback, with a few faults. `tests/sources/fault_server.py` has all faults."""

from __future__ import annotations

import contextlib
import gzip
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, unquote, urlsplit

from tests.engines.service import Service

# Value of `Limits.allow_hosts` for servers of tests.
LOOPBACK = ("127.0.0.0/8", "::1")


class WebServer(Service):
    """A web server of `files` by path, and of the faults that `_FAULTS` names.

    Attributes:
      files: Bytes by path, such as `/a.jpg`.
      versions: Headers with a file's version, by path; by default an ETag.
      redirects: Values of the header `Location` by path, one character a byte.
      conditional: Whether the response to a request with the file's version is 304.
      requests: Number of requests by path.
      targets: Targets of all requests as they arrived, in order.
      hosts: Values of the header `Host` of all requests, in order.
      connections: Number of connections.
      statuses: Statuses of the responses to requests for files, in order.
      last_headers: Headers of the last request for a file.
      authorization: The header without which a file is refused; None for none.
    """

    def __init__(self) -> None:
        super().__init__(_handler_of(self))
        self.files: dict[str, bytes] = {}
        self.versions: dict[str, dict[str, str]] = {}
        self.conditional = True
        self.authorization: str | None = None
        self.statuses: list[int] = []
        self.last_headers: dict[str, str] = {}
        self.redirects: dict[str, str] = {}
        self.requests: Counter[str] = Counter()
        self.targets: list[str] = []
        self.hosts: list[str] = []
        self.connections = 0

    def uri(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"


def _handler_of(server: WebServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 10

        def setup(self) -> None:
            server.connections += 1
            super().setup()

        def handle(self) -> None:
            # Python's handler would print a traceback among the results of the tests, hence the suppression.
            with contextlib.suppress(ConnectionError):  # clients leave in the middle of a body
                super().handle()

        def do_GET(self) -> None:
            server.requests[self.path] += 1
            # From the line, because the handler changes a target that begins with two slashes.
            server.targets.append(self.requestline.split(" ")[1])
            server.hosts.append(self.headers.get("Host", ""))
            fault, _, argument = self.path.removeprefix("/").partition("/")
            path = urlsplit(self.path).path
            if path in server.files:
                version = server.versions.get(path, {"ETag": '"v1"'})
                status = 304 if server.conditional and self.has_version(version) else 200
                if server.authorization not in (None, self.headers.get("Authorization")):
                    status = 401
                server.statuses.append(status)
                server.last_headers = dict(self.headers)
                self.answer(status, server.files[path], **(version if status == 200 else {}))
            elif path in server.redirects:
                self.answer(302, b"", Location=server.redirects[path])
            elif fault in _FAULTS:
                _FAULTS[fault](self, argument)
            else:
                self.answer(404, b"no such file")

        def has_version(self, version: dict[str, str]) -> bool:
            """Return whether the request's condition names the version, over HTTP or to GCS."""
            conditions = {
                "ETag": self.headers.get("If-None-Match"),
                "Last-Modified": self.headers.get("If-Modified-Since"),
                "X-Goog-Generation": "".join(
                    parse_qs(urlsplit(self.path).query).get("ifGenerationNotMatch", [])
                ),
            }
            return any(value == conditions.get(name) for name, value in version.items())

        def answer(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if status != 304:
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def _status(handler, argument: str) -> None:
    handler.answer(int(argument.partition("/")[0]), b"refused")


def _echo(handler, _argument: str) -> None:
    """Refuse a request with a page that quotes it, as S3 does."""
    page = f"<Error>{handler.path} {handler.headers.get('Authorization')} {unquote(handler.path)}</Error>"
    handler.answer(403, page.encode())


def _redirect(handler, argument: str) -> None:
    handler.answer(302, b"", Location=f"/{argument}")


def _silent(handler, _argument: str) -> None:
    time.sleep(600)  # longer than any test waits, because a client that waits for it must fail
    handler.close_connection = True


def _short(handler, _argument: str) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"x" * 10)
    handler.close_connection = True


def _bomb(handler, argument: str) -> None:
    handler.answer(200, gzip.compress(bytes(int(argument))), Content_Encoding="gzip")


_FAULTS: dict[str, Callable] = {
    "status": _status,
    "echo": _echo,
    "redirect": _redirect,
    "silent": _silent,
    "short": _short,
    "bomb": _bomb,
}
