"""Objects in Google Cloud Storage as streams: one request for an object of any size.

Beam's files are not used, because they send a request for each 16 MB. Google's client isn't either, because
its files do the same, and its downloads write to a file instead of being read.
"""

from __future__ import annotations

import functools
import io
import time
from typing import Any, Final
from urllib.parse import quote

import google.auth.exceptions
import requests
import urllib3
from google.api_core.exceptions import from_http_response

from labelbeam.transforms.sources.addresses import split_gcs
from labelbeam.transforms.sources.gcs import make_client
from labelbeam.transforms.sources.gcs_images import endpoint

# Errors of a connection. `ConnectionError` is Python's own, of a socket.
_BROKEN: Final = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    google.auth.exceptions.TransportError,
    ConnectionError,
    TimeoutError,
)
_MAY_HEAL: Final = frozenset((408, 429, 500, 502, 503, 504))
# Requests after which a stream ends if none of them brought _PROGRESS_BYTES, and the pauses between them.
_ATTEMPTS = 5
_PAUSE_SEC = 1.0
_PROGRESS_BYTES = 16 << 20
# Longest wait for a connection, and for the next bytes.
_TIMEOUTS_SEC = (10.0, 60.0)
# Places of one object that are read at the same time.
_PLACES = 16


class ObjectReader(io.RawIOBase):
    """A range of an object, read in one pass.

    A connection that breaks is replaced by one that continues at the next byte, of the same generation.

    Attributes:
      generation: Generation of the object; None before the first byte, and from servers without generations.

    Raises:
      ConnectionError: Connections break again and again, or the server can't be reached.
      FileNotFoundError: The object or its generation is gone.
      GoogleAPICallError: The server refuses.
    """

    def __init__(self, uri: str, start: int, end: int, generation: str | None = None) -> None:
        """Make a reader of the bytes from `start` up to `end`, of any generation by default."""
        self.generation = generation
        self._uri = uri
        self._position = start
        self._end = end
        self._response: Any = None
        self._failed = 0
        self._sure = start + _PROGRESS_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Read some bytes; 0 at the end."""
        size = min(len(buffer), self._end - self._position)
        if size <= 0:
            return 0
        data = self._read(size)
        buffer[: len(data)] = data
        self._position += len(data)
        if self._position >= self._sure:
            self._failed, self._sure = 0, self._position + _PROGRESS_BYTES
        return len(data)

    def close(self) -> None:
        """Close the connection, so that the rest of the range is not transferred."""
        self._disconnect()
        super().close()

    def _read(self, size: int) -> bytes:
        while True:
            try:
                if self._response is None:
                    self._response = self._request()
                if data := self._response.raw.read(size, decode_content=False):
                    return data
                raise ConnectionError(f"the response ended at byte {self._position:,} of {self._end:,}")
            except _BROKEN as e:
                self._disconnect()
                self._failed += 1
                if self._failed >= _ATTEMPTS:
                    raise ConnectionError(f"{self._uri}: {str(e)[:300]}, in {self._failed} requests") from e
                time.sleep(_PAUSE_SEC * 2 ** (self._failed - 1))

    def _request(self) -> requests.Response:
        # gzip, because an object that is stored compressed would be sent decompressed, without its length.
        headers = {"Accept-Encoding": "gzip", "Range": f"bytes={self._position}-{self._end - 1}"}
        session = _session(endpoint())
        response = session.get(self._url(), headers=headers, stream=True, timeout=_TIMEOUTS_SEC)
        try:
            self._check(response)
        except BaseException:
            response.close()
            raise
        self.generation = self.generation or response.headers.get("x-goog-generation")
        return response

    def _check(self, response: requests.Response) -> None:
        if response.status_code in _MAY_HEAL:
            raise ConnectionError(f"status {response.status_code} {response.reason}")
        if response.status_code == 404:
            raise FileNotFoundError(2, "no such object, or it has changed", self._uri)
        if response.status_code not in (200, 206):
            raise from_http_response(response)
        begins = response.headers.get("Content-Range", "bytes 0-" if response.status_code == 200 else "")
        if not begins.startswith(f"bytes {self._position}-"):
            raise ConnectionError(f"the response begins with {begins!r:.50}, not at byte {self._position:,}")

    def _url(self) -> str:
        bucket, name = split_gcs(self._uri)
        path = f"/download/storage/v1/b/{quote(bucket, safe='')}/o/{quote(name, safe='')}?alt=media"
        # Of one generation, because bytes of two objects would be mixed if it were replaced meanwhile.
        return f"{endpoint()}{path}" + (f"&generation={self.generation}" if self.generation else "")

    def _disconnect(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None


class ObjectFile:
    """An object as a file for readers that seek, such as Arrow's. All bytes are of one generation.

    A reader that goes on where it has read before gets one request for all further bytes, up to its next
    seek. Several places are read at the same time, because Parquet keeps each column in its own place.

    Attributes:
      generation: As of `ObjectReader`.
    """

    def __init__(self, uri: str, size_bytes: int) -> None:
        self.generation: str | None = None
        self.closed = False
        self._uri = uri
        self._size_bytes = size_bytes
        self._position = 0
        # Places where a read has ended, and the streams that go on there.
        self._streams: dict[int, ObjectReader | None] = {}

    def read(self, size: int = -1) -> bytes:
        """Read exactly `size` bytes, fewer only at the end of the file."""
        start = self._position
        end = min(start + size, self._size_bytes) if size >= 0 else self._size_bytes
        if end <= start:
            return b""
        is_next = start in self._streams
        # Only these bytes at first, because most places are read once.
        last = self._size_bytes if is_next else end
        reader = self._streams.pop(start, None) or ObjectReader(self._uri, start, last, self.generation)
        try:
            data = _read(reader, end - start)
        except BaseException:
            reader.close()
            raise
        self.generation = reader.generation
        self._position = end
        self._keep(end, reader if is_next else None)
        if not is_next:
            reader.close()
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = offset + (0, self._position, self._size_bytes)[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        """Close all connections."""
        for reader in self._streams.values():
            if reader:
                reader.close()
        self.closed = True

    def _keep(self, place: int, reader: ObjectReader | None) -> None:
        self._streams[place] = reader
        if len(self._streams) > _PLACES:
            oldest = self._streams.pop(next(iter(self._streams)))
            if oldest:
                oldest.close()


def _read(reader: ObjectReader, size: int) -> bytes:
    chunks = []
    while size:
        chunks.append(reader.read(size))
        size -= len(chunks[-1])
    return b"".join(chunks)


# Cached, because a session keeps connections and the token. By server, because tests have several.
@functools.cache
def _session(_server: str) -> requests.Session:
    return make_client()._http
