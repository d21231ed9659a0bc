"""A fast server of objects on loopback, with the headers of Cloud Storage, in a process of its own.

python -m benchmarks.object_server FOLDER

It serves the folder's files as `http://127.0.0.1:PORT/NAME` and as `gs://any/NAME`, over HTTP/1.1, and prints
its port.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import google_crc32c

_NONE = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve a folder from another process, and yield the address."""
    command = [sys.executable, "-m", "benchmarks.object_server", str(folder)]
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
    def __init__(self, responses: dict[str, bytes]) -> None:
        self._responses = responses
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *heads, self._head = (self._head + data).split(b"\r\n\r\n")
        for head in heads:
            path = head.split(b" ", 2)[1].decode().partition("?")[0]
            self._transport.write(self._responses.get(unquote(path.rpartition("/")[2]), _NONE))


async def serve(folder: Path) -> None:
    """Serve a folder until the process is killed."""
    responses = {path.name: response_of(path.read_bytes()) for path in folder.iterdir()}
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Protocol(responses), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
