"""A fast server of objects on loopback, with the headers of Cloud Storage, in a process of its own.

python -m benchmarks.object_server FOLDER LATENCY RATE

It serves the folder's files as `http://127.0.0.1:PORT/NAME` and as `gs://any/NAME`, over HTTP/1.1, and prints
its port. Each response comes after LATENCY seconds, and never if that is `inf`. Requests beyond RATE within a
second get status 429 and `Retry-After: 1`; 0 is no bound.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import math
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import google_crc32c

_NONE = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
_REFUSAL = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"


@contextlib.contextmanager
def serving(folder: Path, latency_sec: float = 0.0, rate: int = 0) -> Iterator[str]:
    """Serve a folder from another process, and yield the address."""
    command = [sys.executable, "-m", "benchmarks.object_server", str(folder), str(latency_sec), str(rate)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.kill()


def response_of(data: bytes) -> bytes:
    """Return the response that Cloud Storage gives for an object's bytes."""
    crc32c = base64.b64encode(google_crc32c.value(data).to_bytes(4, "big")).decode()
    md5 = base64.b64encode(hashlib.md5(data).digest()).decode()
    head = f"""HTTP/1.1 200 OK
X-GUploader-UploadID: {"A" * 100}
Expires: Sat, 28 Nov 2026 00:00:00 GMT
Date: Sat, 28 Nov 2026 00:00:00 GMT
Cache-Control: private, max-age=0
Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT
ETag: "{hashlib.md5(data).hexdigest()}"
X-Goog-Generation: 1767225600000000
X-Goog-Metageneration: 1
X-Goog-Stored-Content-Encoding: identity
X-Goog-Stored-Content-Length: {len(data)}
X-Goog-Hash: crc32c={crc32c}
X-Goog-Hash: md5={md5}
X-Goog-Storage-Class: STANDARD
Content-Disposition: attachment
Content-Type: image/jpeg
Accept-Ranges: bytes
Content-Length: {len(data)}
Server: UploadServer

"""
    return head.replace("\n", "\r\n").encode() + data


class _Protocol(asyncio.Protocol):
    def __init__(self, responses: dict[str, bytes], latency_sec: float, ration: _Ration) -> None:
        self._responses = responses
        self._latency_sec = latency_sec
        self._ration = ration
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *heads, self._head = (self._head + data).split(b"\r\n\r\n")
        for head in heads:
            path = head.split(b" ", 2)[1].decode().partition("?")[0]
            response = self._responses.get(unquote(path.rpartition("/")[2]), _NONE)
            if not self._ration.allows():
                self._transport.write(_REFUSAL)
            elif not self._latency_sec:
                self._transport.write(response)
            elif self._latency_sec < math.inf:
                asyncio.get_running_loop().call_later(self._latency_sec, self._transport.write, response)


class _Ration:
    """Requests that are served within a second."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._times: deque[float] = deque()

    def allows(self) -> bool:
        """Return whether a request is served now."""
        now = time.monotonic()
        while self._times and self._times[0] < now - 1:
            self._times.popleft()
        if self._rate and len(self._times) >= self._rate:
            return False
        self._times.append(now)
        return True


async def serve(folder: Path, latency_sec: float, rate: int) -> None:
    """Serve a folder until the process is killed."""
    responses = {path.name: response_of(path.read_bytes()) for path in folder.iterdir()}
    loop = asyncio.get_running_loop()
    ration = _Ration(rate)
    server = await loop.create_server(lambda: _Protocol(responses, latency_sec, ration), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])))
