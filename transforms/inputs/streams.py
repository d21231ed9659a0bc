"""Streams: the bytes of a file with images inside, in one pass."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Final

from labelbeam.transforms.errors import ImageError, Reason, RunError, describe_error
from labelbeam.transforms.files import is_local
from labelbeam.transforms.inputs.compression import Compression, compression_of, decompress
from labelbeam.transforms.inputs.files import ListFile, check_planned, read_errors_explained
from labelbeam.transforms.sources.gcs_stream import ObjectFile, ObjectReader

_CHUNK_BYTES: Final = 1 << 20
# Bytes that show the compression.
_FIRST_BYTES: Final = 64


class RestError(ImageError):
    """The rest of a file, whose images can't be read."""

    def __init__(self, message: str, reason: Reason = Reason.BAD_ROW) -> None:
        super().__init__(reason, message)


class Stream:
    """The content of a file, decompressed, in one pass.

    Attributes:
      version: Version of the file: GCS generation, or mtime and size; None if unknown.
      position: Number of bytes so far.
      size_bytes: Number of bytes in all; None if unknown, as of a compressed file.
    """

    def __init__(
        self, f: BinaryIO, path: str, size_bytes: int | None = None, version: str | None = None
    ) -> None:
        self.version = version
        self.position = 0
        self.size_bytes = size_bytes
        self._f = f
        self._path = path
        # Bytes behind the end are an error where bytes are skipped, too.
        self._can_seek = size_bytes is not None and f.seekable()

    def read_some(self, size: int) -> bytes:
        """Read bytes, fewer than `size` only at the end."""
        if self.size_bytes is not None:
            size = min(size, self.size_bytes - self.position)
        with errors_explained(self._path):
            data = self._f.read(size)
        self.position += len(data)
        return data

    def read(self, size: int) -> bytes:
        """Read exactly `size` bytes.

        Raises:
          RestError: The stream ends before.
        """
        # In chunks, because a damaged length may be more than there is memory.
        data = self.read_some(min(size, _CHUNK_BYTES))
        if len(data) == size:
            return data
        chunks = [data]
        while (missing := size - sum(map(len, chunks))) > 0:
            if not (data := self.read_some(min(missing, 16 * _CHUNK_BYTES))):
                raise self._cut(missing)
            chunks.append(data)
        return b"".join(chunks)

    def skip(self, size: int) -> None:
        """Pass over bytes, without reading where the file allows that.

        Raises:
          RestError: The stream ends before.
        """
        if self._can_seek:
            assert self.size_bytes is not None
            if self.position + size > self.size_bytes:
                raise self._cut(self.position + size - self.size_bytes)
            self._f.seek(size, os.SEEK_CUR)
            self.position += size
            return
        end = self.position + size
        while self.position < end:
            if not self.read_some(min(end - self.position, _CHUNK_BYTES)):
                raise self._cut(end - self.position)

    def _cut(self, missing: int) -> RestError:
        return RestError(f"the file is cut: at its end, {missing:,} bytes are missing")


@contextmanager
def open_stream(
    file: ListFile,
    start: int = 0,
    end: int | None = None,
    compression_of: Callable[[bytes, str], Compression | None] = compression_of,
) -> Iterator[Stream]:
    """Open a range of a planned file.

    Args:
      file: The file.
      start: First byte.
      end: Byte behind the last one; by default the end of the file.
      compression_of: Function from the first bytes of a whole file, and its name, to its compression.

    Raises:
      RunError: The file can't be opened, or is not the one that was planned.
      RestError: A connection or a disk fails, or the compressed data is damaged.
    """
    end = file.size_bytes if end is None else end
    is_whole = (start, end) == (0, file.size_bytes)
    check_planned(file)
    with read_errors_explained(file.path):
        raw = _open(file, start, end)
    with io.BufferedReader(raw, _CHUNK_BYTES) as f:
        with errors_explained(file.path):
            first_bytes = f.peek(_FIRST_BYTES)[:_FIRST_BYTES]
            version = raw.generation if isinstance(raw, ObjectReader) else _version_of(raw)
        compression = _detect(compression_of, first_bytes, file.path) if is_whole else None
        if compression:
            pieces = decompress(iter(lambda: f.read(_CHUNK_BYTES), b""), compression, file.path)
            with io.BufferedReader(_Pieces(pieces), _CHUNK_BYTES) as content:
                yield Stream(content, file.path, None, version)
        else:
            yield Stream(f, file.path, end - start, version)


@contextmanager
def open_seekable(file: ListFile) -> Iterator[tuple[Any, Callable[[], str | None]]]:
    """Open a planned file for a reader that seeks.

    Returns:
      The file, and a function that returns its version, which is known behind the first byte.

    Raises:
      RunError: The file can't be opened, or is not the one that was planned.
    """
    check_planned(file)
    with read_errors_explained(file.path):
        f = io.FileIO(file.path) if is_local(file.path) else ObjectFile(file.path, file.size_bytes)
    with contextlib.closing(f):
        yield f, lambda: f.generation if isinstance(f, ObjectFile) else _version_of(f)


@contextmanager
def errors_explained(path: str) -> Iterator[None]:
    """Map errors of connections and disks to `RestError`, and those of a file that is gone to `RunError`."""
    with read_errors_explained(path):
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as e:
            raise RestError(describe_error(e), Reason.UNREACHABLE) from e


def _open(file: ListFile, start: int, end: int) -> Any:
    if not is_local(file.path):
        return ObjectReader(file.path, start, end)
    raw = io.FileIO(file.path)
    raw.seek(start)
    return raw


def _version_of(raw: io.FileIO) -> str:
    status = os.fstat(raw.fileno())
    return f"{status.st_mtime_ns}-{status.st_size}"  # as of images


def _detect(
    compression_of: Callable[[bytes, str], Compression | None], first_bytes: bytes, path: str
) -> Compression | None:
    try:
        return compression_of(first_bytes, path)
    except RunError as e:
        raise RestError(str(e)) from e


class _Pieces(io.RawIOBase):
    """Pieces of bytes as a file."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        # Without empty pieces, because these would end the file.
        self._pieces = filter(None, pieces)
        self._piece = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            while not self._piece:
                self._piece = memoryview(next(self._pieces, b""))
                if not self._piece:
                    return 0
        except RunError as e:  # of `decompress`
            raise RestError(str(e)) from e
        taken = self._piece[: len(buffer)]
        buffer[: len(taken)] = taken
        self._piece = self._piece[len(taken) :]
        return len(taken)
