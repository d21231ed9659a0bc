"""A web server on loopback, by raw sockets, whose paths choose what it does.

    http://127.0.0.1:PORT/FAULT/ARGUMENT?OPTION=VALUE&…

The faults are the functions of `FAULTS`. Options go with each of them:

| option | meaning |
|---|---|
| `first=N` | the fault befalls the first N requests of the path; later ones get the image |
| `slow=SEC` | time before the response |
| `retry_after=VALUE` | the header, as it is |
| `retry_in=SEC` | the header with the date that is SEC seconds away |
| `header=NAME:VALUE` | a further header; may be repeated |
| any other | no meaning; makes another path, with its own count of requests |
"""

from __future__ import annotations

import contextlib
import enum
import gzip
import socket
import ssl
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Self
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

IMAGE = b"image"


class End(enum.Enum):
    """What becomes of a connection after a response."""

    KEEP = "keep"
    CLOSE = "close"
    RESET = "reset"
    HOLD = "hold"  # silent until the client leaves


class FaultServer:
    """The server, which runs while it is entered.

    Attributes:
      image: Bytes of the image.
      raw: Bytes of the responses of `/raw/NAME`, and what follows them, by name.
      requests: Number of requests by path, query included.
      headers: Headers of the last request by path, names in lower case.
      connections: Number of connections.
      port: The port.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.image = IMAGE
        self.raw: dict[str, tuple[bytes, End]] = {}
        self.requests: Counter[str] = Counter()
        self.headers: dict[str, dict[str, str]] = {}
        self.connections = 0
        self.stopped = threading.Event()
        self.lock = threading.Lock()
        self.served: deque[float] = deque()
        self._tls = tls
        # A long queue, because many clients connect at once.
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self._listener.getsockname()[1]

    def uri(self, fault: str, *header: str, host: str = "127.0.0.1", **options: object) -> str:
        """Return the address of a fault, such as `status/429`, with options."""
        query = urlencode([*options.items(), *(("header", one) for one in header)])
        scheme = "https" if self._tls else "http"
        return f"{scheme}://{host}:{self.port}/{fault}{'?' if query else ''}{query}"

    def count(self, uri: str) -> int:
        """Return the number of requests of an address."""
        parts = urlsplit(uri)
        return self.requests[parts.path + (f"?{parts.query}" if parts.query else "")]

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        # Shut down, because closing alone leaves a thread in `accept`.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection = self._listener.accept()[0]
                # Without a delay, because responses go out in several pieces.
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.connections += 1
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        end = End.CLOSE
        try:
            if self._tls:
                connection = self._tls.wrap_socket(connection, server_side=True)
            with connection.makefile("rb") as stream:
                while request := _read(self, connection, stream):
                    end = self._respond(request)
                    if end is not End.KEEP:
                        break
            if end is End.HOLD:
                connection.recv(1)
        except OSError:
            pass
        finally:
            if end is End.RESET:
                # Later, so that the client has the bytes before.
                self.stopped.wait(0.02)
                linger = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            connection.close()

    def _respond(self, request: Request) -> End:
        with self.lock:
            self.requests[request.path] += 1
            number = self.requests[request.path]
        self.headers[request.path] = request.headers
        if slow := request.option("slow"):
            self.stopped.wait(float(slow))
        if (first := request.option("first")) and number > int(first):
            return request.respond()
        fault, _, argument = urlsplit(request.path).path.removeprefix("/").partition("/")
        return FAULTS.get(fault, _none)(request, argument)


@dataclass(eq=False, slots=True)
class Request:
    """A request, and the connection for its response.

    Attributes:
      path: Path and query as they were sent.
      headers: Values by names in lower case.
      query: Values of the options by name.
    """

    server: FaultServer
    connection: socket.socket
    path: str
    headers: dict[str, str]
    query: dict[str, list[str]] = field(default_factory=dict)

    def option(self, name: str) -> str:
        """Return the value of an option; empty without."""
        return self.query.get(name, [""])[0]

    def send(self, *pieces: bytes) -> None:
        """Send bytes."""
        self.connection.sendall(b"".join(pieces))

    def drip(self, data: bytes) -> None:
        """Send bytes one by one, again and again, until the client leaves."""
        for byte in _endless(self, data):
            self.send(byte)
            self.server.stopped.wait(0.02)

    def head(self, status: int = 200, version: str = "1.1", **headers: object) -> bytes:
        """Return a status line and headers, those of the options included; None leaves a header out."""
        lines = [f"HTTP/{version} {status} Some words"]
        lines += [f"{n.replace('_', '-')}: {v}" for n, v in headers.items() if v is not None]
        lines += self.query.get("header", [])
        if value := self.option("retry_after"):
            lines.append(f"Retry-After: {value}")
        if seconds := self.option("retry_in"):
            lines.append(f"Retry-After: {formatdate(time.time() + float(seconds), usegmt=True)}")
        return "\r\n".join([*lines, "", ""]).encode()

    def respond(self, status: int = 200, body: bytes | None = None, **headers: object) -> End:
        """Send a whole response, by default the image."""
        body = self.server.image if body is None else body
        self.send(self.head(status, **{"Content_Length": len(body), **headers}), body)
        return End.KEEP


def _read(server: FaultServer, connection: socket.socket, stream) -> Request | None:
    """Read a request; None at the end of the connection."""
    _, _, rest = stream.readline().decode("latin-1").partition(" ")
    path = rest.rpartition(" ")[0]
    headers = {}
    while (line := stream.readline().decode("latin-1")) not in ("", "\r\n"):
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    query = parse_qs(urlsplit(path).query)
    return Request(server, connection, path, headers, query) if path else None


def _endless(request: Request, data: bytes) -> Iterator[bytes]:
    while not request.server.stopped.is_set():
        for start in range(len(data)):
            yield data[start : start + 1]


def _forever(request: Request, piece: bytes) -> End:
    """Send a piece again and again until the client leaves."""
    while not request.server.stopped.is_set():
        request.send(piece * (1 + 65536 // len(piece)))
    return End.CLOSE


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _none(request: Request, _: str) -> End:
    return request.respond(404, b"no such file")


def _image(request: Request, _: str) -> End:
    return request.respond()


def _status(request: Request, argument: str) -> End:
    """Refuse by a status, with the rest of the argument as the server's words."""
    status, _, words = argument.partition("/")
    if status in ("204", "304"):
        request.send(request.head(int(status)))
        return End.KEEP
    return request.respond(int(status), unquote(words).encode() or b"refused")


def _empty(request: Request, argument: str) -> End:
    """Return a status with an empty body."""
    return request.respond(int(argument), b"")


def _limited(request: Request, argument: str) -> End:
    """Serve so many images in any second, and refuse the rest, with 429 or the status behind the number."""
    rate, _, status = argument.partition("/")
    with request.server.lock:
        now, served = time.monotonic(), request.server.served
        while served and served[0] <= now - 1:
            served.popleft()
        is_free = len(served) < int(rate)
        if is_free:
            served.append(now)
    return request.respond() if is_free else request.respond(int(status or 429), b"too many requests")


def _login(request: Request, argument: str) -> End:
    """Serve requests with the header Authorization that the argument has, percent-encoded."""
    sent = quote(request.headers.get("authorization", ""), safe="")
    return request.respond() if sent == argument else request.respond(401, b"no login")


def _partial(request: Request, argument: str) -> End:
    """Return status 206 and the image, as a part of the argument's range."""
    return request.respond(206, Content_Range=f"bytes {argument}" if argument else None)


def _reset(request: Request, argument: str) -> End:
    """Reset the connection; with an argument, within the body."""
    if argument:
        request.send(request.head(Content_Length=len(request.server.image) + 1), request.server.image)
    return End.RESET


def _closed(request: Request, argument: str) -> End:
    """Close the connection; with an argument, within the headers."""
    if argument:
        request.send(b"HTTP/1.1 200 OK\r\nContent-Le")
    return End.CLOSE


def _unannounced(request: Request, _: str) -> End:
    """Serve an image and close the connection as if it were kept."""
    request.respond()
    return End.CLOSE


def _once_a_connection(request: Request, _: str) -> End:
    """Serve an image, and reset the connection only when a further request comes."""
    request.respond()
    request.connection.recv(1 << 16)
    return End.RESET


def _drip_head(request: Request, _: str) -> End:
    request.send(b"HTTP/1.1 200 OK\r\n")
    request.drip(b"X-Drip: drop\r\n")
    return End.CLOSE


def _drip_body(request: Request, _: str) -> End:
    request.send(request.head(Content_Length=50_000))
    request.drip(b"drop")
    return End.CLOSE


def _silent(request: Request, _: str) -> End:
    return End.HOLD


def _continue(request: Request, argument: str) -> End:
    """Send `100 Continue` so often before the image, by default for ever."""
    if not argument:
        return _forever(request, b"HTTP/1.1 100 Continue\r\n\r\n")
    request.send(b"HTTP/1.1 100 Continue\r\n\r\n" * int(argument))
    return request.respond()


def _long_head(request: Request, argument: str) -> End:
    """Send headers of so many bytes in all, of 100 bytes each."""
    request.send(b"HTTP/1.1 200 OK\r\n", b"X-Many: %s\r\n" % (b"y" * 90) * (int(argument) // 100))
    request.send(f"Content-Length: {len(request.server.image)}\r\n\r\n".encode(), request.server.image)
    return End.KEEP


def _long_header(request: Request, argument: str) -> End:
    """Send one header of so many bytes."""
    return request.respond(X_Long="y" * int(argument))


def _trailers(request: Request, argument: str) -> End:
    """Send trailers behind the body, for ever or as many as the argument."""
    request.send(request.head(Transfer_Encoding="chunked"), _chunk(request.server.image), b"0\r\n")
    if not argument:
        return _forever(request, b"ETag: trailer\r\n")
    request.send(b"ETag: trailer\r\n" * int(argument), b"\r\n")
    return End.KEEP


def _truncated(request: Request, argument: str) -> End:
    """End the body before its length, or, with the argument `chunked`, before its last chunk."""
    image = request.server.image
    if argument == "chunked":
        request.send(request.head(Transfer_Encoding="chunked"), _chunk(image))
    else:
        request.send(request.head(Content_Length=2 * len(image)), image)
    return End.CLOSE


def _content_length(request: Request, argument: str) -> End:
    """Send a header Content-Length with any value, the image, and close; `none` leaves the header out."""
    length = None if argument == "none" else argument
    request.send(request.head(Content_Length=length), request.server.image)
    return End.CLOSE


def _excess(request: Request, argument: str) -> End:
    """Send another response behind the image: at once, `soon` by itself, or `late` after a moment."""
    more = request.head(Content_Length=5) + b"wrong"
    if not argument:
        image = request.server.image
        request.send(request.head(Content_Length=len(image)), image, more)
        return End.KEEP
    request.respond()
    if argument == "late":
        request.server.stopped.wait(0.02)
    request.send(more)
    return End.KEEP


def _endless_body(request: Request, argument: str) -> End:
    """Send a body without an end; `chunked`: in chunks."""
    if argument == "chunked":
        request.send(request.head(Transfer_Encoding="chunked"))
        return _forever(request, _chunk(bytes(1000)))
    request.send(request.head())
    return _forever(request, bytes(1000))


def _gzip(request: Request, argument: str) -> End:
    """Send so many zeros in gzip; `cut`: the image's gzip without its end; empty: the image in gzip."""
    body = gzip.compress(bytes(int(argument)) if argument.isdecimal() else request.server.image)
    return request.respond(200, body[:-9] if argument == "cut" else body, Content_Encoding="gzip")


def _gzip_parts(request: Request, argument: str) -> End:
    """Send so many empty parts of gzip."""
    return request.respond(200, gzip.compress(b"") * int(argument), Content_Encoding="gzip")


def _encodings(request: Request, argument: str) -> End:
    """Name gzip so many times as the encoding."""
    return request.respond(Content_Encoding=", ".join(["gzip"] * int(argument)))


def _redirect(request: Request, argument: str) -> End:
    """Redirect to the path or address that is the percent-encoded argument."""
    return request.respond(302, b"", Location=_target(argument))


def _redirects(request: Request, argument: str) -> End:
    """Redirect so many times before the image."""
    if argument == "0":
        return request.respond()
    return request.respond(302, b"", Location=f"/redirects/{int(argument) - 1}")


def _loop(request: Request, _: str) -> End:
    return request.respond(302, b"", Location=request.path)


def _endless_redirect(request: Request, argument: str) -> End:
    """Redirect with a body without an end."""
    request.send(request.head(302, Location=_target(argument), Transfer_Encoding="chunked"))
    return _forever(request, _chunk(bytes(1000)))


def _raw_redirect(request: Request, _: str) -> End:
    """Redirect to a path in raw UTF-8."""
    request.send("HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: /image/ä b.jpg\r\n\r\n".encode())
    return End.KEEP


def _target(argument: str) -> str:
    """Return the address in an argument: whole if it has a colon, else a path."""
    target = unquote(argument)
    return target if ":" in target else f"/{target}"


def _http10(request: Request, _: str) -> End:
    """Respond by HTTP/1.0, without a length."""
    request.send(request.head(version="1.0"), request.server.image)
    return End.CLOSE


def _http09(request: Request, _: str) -> End:
    """Respond by HTTP/0.9, which is a body alone."""
    request.send(request.server.image)
    return End.CLOSE


def _garbage(request: Request, _: str) -> End:
    request.send(b"HTTP/1.1 two hundred\r\nContent-Length: 5\r\n\r\n", request.server.image)
    return End.CLOSE


def _raw(request: Request, argument: str) -> End:
    data, end = request.server.raw.get(argument, (b"", End.CLOSE))
    request.send(data)
    return end


FAULTS: dict[str, Callable[[Request, str], End]] = {
    "image": _image,
    "status": _status,
    "empty": _empty,
    "limited": _limited,
    "login": _login,
    "partial": _partial,
    "reset": _reset,
    "closed": _closed,
    "unannounced": _unannounced,
    "once_a_connection": _once_a_connection,
    "drip_head": _drip_head,
    "drip_body": _drip_body,
    "silent": _silent,
    "continue": _continue,
    "long_head": _long_head,
    "long_header": _long_header,
    "trailers": _trailers,
    "truncated": _truncated,
    "content_length": _content_length,
    "excess": _excess,
    "endless_body": _endless_body,
    "gzip": _gzip,
    "gzip_parts": _gzip_parts,
    "encodings": _encodings,
    "redirect": _redirect,
    "redirects": _redirects,
    "loop": _loop,
    "endless_redirect": _endless_redirect,
    "raw_redirect": _raw_redirect,
    "http10": _http10,
    "http09": _http09,
    "garbage": _garbage,
    "raw": _raw,
}
