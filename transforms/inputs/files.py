"""Files of lists: listed at planning, read in pieces, and compared with their planned size and time."""

from __future__ import annotations

import hashlib
import itertools
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, Final, NamedTuple, TypeVar

from labelbeam.transforms.errors import RunError
from labelbeam.transforms.files import file_errors_as, file_metadata, is_local, open_file
from labelbeam.transforms.inputs.compression import MAGIC_BYTES, compression_of, decompress
from labelbeam.transforms.inputs.globs import list_paths
from labelbeam.transforms.inputs.objects import list_objects
from labelbeam.transforms.inputs.patterns import ObjectGlob
from labelbeam.transforms.notes import Notes

# Longer lines are one bad row each: no URI is that long, and a row must fit into memory.
MAX_LINE_BYTES: Final = 1 << 20
# A file that is not compressed is read in pieces of this size, so that workers share it.
PIECE_BYTES: Final = 64 << 20
# Bytes of images that one worker reads. Larger parts would leave workers idle, smaller ones cost requests.
PART_BYTES: Final = 256 << 20
_CHUNK_BYTES = 1 << 18
_LONG_LINE_HEAD_BYTES = 1000
# Files that are opened at once, because each takes a round trip to a bucket.
_OPENED_AT_ONCE = 32

T = TypeVar("T")


class ListFile(NamedTuple):
    """A file of a list, as it was when the run was planned."""

    path: str
    size_bytes: int
    updated_sec: float


class Piece(NamedTuple):
    """The lines of a file that begin at a byte from `start` up to `end`."""

    file: ListFile
    start: int
    end: int


class LongLine(NamedTuple):
    """A line that is too long to be read: its first bytes, and the SHA-256 of the whole line."""

    head: bytes
    sha256: str
    size_bytes: int


Line = bytes | LongLine


def match_files(pattern: str, most: int | None = None) -> tuple[ListFile, ...]:
    """List the files of a pattern, by path; any `most` of them if there are more.

    Raises:
      RunError: One of them is no ordinary file, such as a pipe, which could be read only once.
      OSError: One of them is a link that leads nowhere, or the bucket can't be listed.
    """
    files: Iterator[ListFile]
    if is_local(pattern):
        files = map(_local_file, list_paths(pattern, Notes()))
    else:
        glob = ObjectGlob(pattern)
        files = (
            ListFile(glob.root + one.name, one.size_bytes, one.updated_sec) for one in list_objects(glob)
        )
    return tuple(sorted(itertools.islice(files, most)))


def _local_file(path: str) -> ListFile:
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise RunError(f"{path} is no ordinary file. Copy its content to a file, and use the file.")
    return ListFile(path, status.st_size, status.st_mtime)


def split_files(files: Iterable[ListFile]) -> Iterator[Piece]:
    """Split large files that are not compressed into pieces.

    Raises:
      RunError: A file is not the one that was planned.
    """
    return split_large(files, PIECE_BYTES, lambda file: Piece(file, 0, file.size_bytes), _pieces_of)


def split_large(
    files: Iterable[ListFile],
    most_bytes: int,
    whole: Callable[[ListFile], T],
    split: Callable[[ListFile], Iterable[T]],
) -> Iterator[T]:
    """Yield each small file as one part, and then the parts of large files.

    Args:
      files: The files.
      most_bytes: Largest small file.
      whole: Returns a file as one part.
      split: Returns the parts of a file; called on several files at once.
    """
    large = []
    for file in files:
        if file.size_bytes > most_bytes:
            # Only large files are opened here, because a small one is one part in any case.
            large.append(file)
        else:
            yield whole(file)
    for parts in map_files(split, large):
        yield from parts


def map_files(call: Callable[[ListFile], T], files: Iterable[ListFile]) -> Iterator[T]:
    """Call a function on files, many at once, because each opens its file; yield the results in order."""
    with ThreadPoolExecutor(_OPENED_AT_ONCE) as pool:
        yield from pool.map(call, files)


def _pieces_of(file: ListFile) -> list[Piece]:
    with read_errors_explained(file.path), open_file(file.path) as f:
        is_compressed = compression_of(f.read(MAGIC_BYTES), file.path) is not None
    step = file.size_bytes if is_compressed else PIECE_BYTES
    return [
        Piece(file, start, min(start + step, file.size_bytes)) for start in range(0, file.size_bytes, step)
    ]


def read_piece(piece: Piece) -> Iterator[Line]:
    """Yield the lines of a piece, without their ends.

    Raises:
      RunError: As `read_lines` does.
    """
    return (line for _, line in read_lines(piece))


def read_lines(piece: Piece) -> Iterator[tuple[int, Line]]:
    """Yield the lines of a piece, without their ends, each behind the position where it begins.

    Raises:
      RunError: The file cannot be read, is cut or damaged, or is not the one that was planned. Lines up
        to there have been yielded.
    """
    file, start, end = piece
    check_planned(file)
    with read_errors_explained(file.path), open_file(file.path) as f:
        compression = compression_of(f.read(MAGIC_BYTES), file.path)
        # From the byte before `start`, because a line begins at `start` only if a line end lies before it.
        position = max(start - 1, 0)
        f.seek(position)
        chunks = _chunks(f, file, position)
        if compression:
            chunks = decompress(chunks, compression, file.path)
        for line, size_bytes in split_lines(chunks):
            # Compressed files are one piece, because decompression can't begin in the middle.
            if position >= end and not compression:
                break
            if position >= start:
                yield position, line
            position += size_bytes
    # A second time, because the file may have changed while it was read.
    check_planned(file)


def read_chunks(file: ListFile) -> Iterator[bytes]:
    """Yield the content of a whole file, decompressed, in bounded pieces.

    Raises:
      RunError: As `read_piece` does.
    """
    check_planned(file)
    with read_errors_explained(file.path), open_file(file.path) as f:
        compression = compression_of(f.read(MAGIC_BYTES), file.path)
        f.seek(0)
        chunks = _chunks(f, file, 0)
        yield from decompress(chunks, compression, file.path) if compression else chunks
    check_planned(file)


def _chunks(f: Any, file: ListFile, position: int) -> Iterator[bytes]:
    """Read a file up to its planned size. Bytes that were appended since are refused by `check_planned`."""
    while position < file.size_bytes:
        chunk = f.read(min(_CHUNK_BYTES, file.size_bytes - position))
        if not chunk:
            raise _change_error(file)
        position += len(chunk)
        yield chunk


def split_lines(chunks: Iterable[bytes]) -> Iterator[tuple[Line, int]]:
    """Split bytes into lines.

    Yields:
      Each line without its end, and its length with it. Time is linear and memory bounded for a line of
      any length.
    """
    opened = OpenLine()
    for chunk in chunks:
        *whole, last = chunk.split(b"\n")
        for line in whole:
            # Whole lines of a chunk, nearly all, take the short way below.
            if opened.size_bytes or len(line) > MAX_LINE_BYTES:
                opened.add(line)
                yield opened.close(), opened.size_bytes + 1
                opened = OpenLine()
            else:
                yield line.removesuffix(b"\r"), len(line) + 1
        opened.add(last)
    if opened.size_bytes:
        yield opened.close(), opened.size_bytes


class OpenLine:
    """A line of which more may follow, in bounded memory."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self._kept = bytearray()
        self._digest = hashlib.sha256()

    def add(self, part: bytes) -> None:
        # A digest in place of further bytes, because a binary file can be one line of many GB.
        if self.size_bytes <= MAX_LINE_BYTES:
            self._kept += part
        self._digest.update(part)
        self.size_bytes += len(part)

    def close(self) -> Line:
        if self.size_bytes > MAX_LINE_BYTES:
            head = bytes(self._kept[:_LONG_LINE_HEAD_BYTES])
            return LongLine(head, self._digest.hexdigest(), self.size_bytes)
        return bytes(self._kept).removesuffix(b"\r")


def check_planned(file: ListFile) -> None:
    """Check that a file is still of the size and time that the run was planned with.

    Raises:
      RunError: The file was changed or deleted, so that the run would read another list than was checked.
    """
    with read_errors_explained(file.path):
        now = file_metadata(file.path)
    if (now.size_in_bytes, now.last_updated_in_seconds) != (file.size_bytes, file.updated_sec):
        raise _change_error(file)


def _change_error(file: ListFile) -> RunError:
    return RunError(
        f"{file.path} has changed since the run was planned. Run the same command again, while nothing "
        "writes the file."
    )


def read_errors_explained(path: str) -> AbstractContextManager[None]:
    """Return a context that maps errors of a planned file to `RunError`."""
    remedy = "Check it, and run the same command again."
    return file_errors_as(RunError, f"{path} cannot be read any more", remedy)


def read_start(path: str, size_bytes: int) -> bytes:
    """Read the first bytes of a file, decompressed.

    Raises:
      RunError: The file is damaged right there.
    """
    with open_file(path) as f:
        start = f.read(size_bytes)
        compression = compression_of(start, path)
        if not compression:
            return start
        data = b""
        chunks = iter(lambda: f.read(_CHUNK_BYTES), b"")
        for chunk in decompress(itertools.chain([start], chunks), compression, path):
            data += chunk
            if len(data) >= size_bytes:
                break
        return data[:size_bytes]
