"""A web service on loopback with JSON responses, the base of the stubs of Google's services."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qs, urlsplit


class Request(NamedTuple):
    """A request to a service, its address taken apart."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: Mapping[str, str]
    body: bytes


class Service:
    """A service that runs while it is entered. Subclasses define `respond`, or give a handler."""

    def __init__(self, handler: type[BaseHTTPRequestHandler] | None = None) -> None:
        # The server is bound here, because tests hand the address out before they enter the service.
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler or _handler_of(self))
        # Daemon threads, because the end of a test would wait for clients that keep their connections.
        self._server.daemon_threads = True
        self.port = self._server.server_port

    def respond(self, request: Request) -> tuple[int, Any]:
        """Return the status and the JSON document of a response."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        # The server polls every 10 ms, because `shutdown` waits for the next poll, by default half a second.
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler_of(service: Service) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30
        # Because a body behind its headers would wait 40 ms for the client's confirmation of these.
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            address = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            request = Request(self.command, address.path, parse_qs(address.query), self.headers, body)
            status, document = service.respond(request)
            data = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_PUT = do_GET

        def log_message(self, *_: object) -> None:
            pass

    return Handler
