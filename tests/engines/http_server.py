"""A web server on loopback that misbehaves on request."""

from __future__ import annotations

import contextlib
import gzip
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


class FaultServer:
    """Serves `files` by path, and faults by the names in `_FAULTS`.

    Attributes:
      files: Bytes by path, such as `/a.jpg`.
      versions: The headers that tell a file's version, by path; by default an ETag.
      conditional: Whether a file of the version that a request knows is answered with 304.
      requests: How often each path was asked for.
      connections: How many were opened.
      statuses: What requests for files were answered with, in order.
      last_headers: What came with the last of them.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.versions: dict[str, dict[str, str]] = {}
        self.conditional = True
        self.statuses: list[int] = []
        self.last_headers: dict[str, str] = {}
        self.requests: Counter[str] = Counter()
        self.connections = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self._server.daemon_threads = True

    def __enter__(self) -> FaultServer:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def uri(self, path: str) -> str:
        return f"http://127.0.0.1:{self._server.server_port}{path}"


def _handler_of(server: FaultServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 10

        def setup(self) -> None:
            server.connections += 1
            super().setup()

        def handle(self) -> None:
            with contextlib.suppress(ConnectionError):  # a client that does not want the rest
                super().handle()

        def do_GET(self) -> None:
            server.requests[self.path] += 1
            fault, _, argument = self.path.removeprefix("/").partition("/")
            path = urlsplit(self.path).path
            if path in server.files:
                version = server.versions.get(path, {"ETag": '"v1"'})
                status = 304 if server.conditional and self.knows(version) else 200
                server.statuses.append(status)
                server.last_headers = dict(self.headers)
                self.answer(status, server.files[path], **(version if status == 200 else {}))
            elif fault in _FAULTS:
                _FAULTS[fault](self, argument)
            else:
                self.answer(404, b"no such file")

        def knows(self, version: dict[str, str]) -> bool:
            """Whether the request's condition names the version, over HTTP or to GCS."""
            known = {
                "ETag": self.headers.get("If-None-Match"),
                "Last-Modified": self.headers.get("If-Modified-Since"),
                "X-Goog-Generation": "".join(
                    parse_qs(urlsplit(self.path).query).get("ifGenerationNotMatch", [])
                ),
            }
            return any(value == known[name] for name, value in version.items())

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


def _redirect(handler, argument: str) -> None:
    handler.answer(302, b"", Location=f"/{argument}")


def _loop(handler, _argument: str) -> None:
    handler.answer(302, b"", Location="/loop")


def _endless(handler, _argument: str) -> None:
    """A body without a length that does not end."""
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.close_connection = True
    try:
        while True:
            handler.wfile.write(bytes(1 << 16))
    except OSError:
        pass


def _drip(handler, _argument: str) -> None:
    """A byte now and then: each read is quick, the whole is not."""
    handler.send_response(200)
    handler.send_header("Content-Length", "50000")
    handler.end_headers()
    try:
        for _ in range(100):
            handler.wfile.write(b"x")
            handler.wfile.flush()
            time.sleep(0.05)
    except OSError:
        pass


def _silent(handler, _argument: str) -> None:
    time.sleep(600)  # longer than any test waits, so that a client that waits for it is noticed
    handler.close_connection = True


def _short(handler, _argument: str) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"x" * 10)
    handler.close_connection = True


def _reset(handler, _argument: str) -> None:
    handler.close_connection = True


def _bomb(handler, argument: str) -> None:
    handler.answer(200, gzip.compress(bytes(int(argument))), Content_Encoding="gzip")


def _garbage(handler, _argument: str) -> None:
    handler.wfile.write(b"this is not HTTP\r\n\r\n")
    handler.close_connection = True


_FAULTS: dict[str, Callable] = {
    "status": _status,
    "redirect": _redirect,
    "loop": _loop,
    "endless": _endless,
    "drip": _drip,
    "silent": _silent,
    "short": _short,
    "reset": _reset,
    "bomb": _bomb,
    "garbage": _garbage,
}
