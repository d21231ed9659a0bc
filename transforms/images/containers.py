"""Containers: the chunks of a file of each format, listed without decoding pixels."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

# Most chunks that are listed, because hostile files consist of millions of empty ones.
MOST_PIECES = 100_000

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JP2_SIGNATURE = b"\x00\x00\x00\x0cjP  \r\n\x87\n"
_START_OF_SCAN = 0xDA


class Chunk(NamedTuple):
    """A named part of a file.

    Attributes:
      kind: Name of a chunk or box; second byte of a JPEG marker.
      start: Offset of the chunk with its header.
      body: Offset of the payload.
      end: Offset of the next chunk.
    """

    kind: bytes
    start: int
    body: int
    end: int


def jpeg_segments(data: bytes) -> Iterator[Chunk]:
    """Yield the segments of a JPEG up to and including its first scan."""
    at = 2
    # Not beyond the first scan, because a scan has no length: its end would have to be searched for.
    while len(data) >= at + 4 and data[at] == 0xFF:
        if data[at + 1] == 0xFF:  # a fill byte
            at += 1
            continue
        marker = data[at + 1]
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        yield Chunk(bytes((marker,)), at, at + 4, end)
        if marker == _START_OF_SCAN or end < at + 4:
            return
        at = end


def png_chunks(data: bytes) -> Iterator[Chunk]:
    """Yield the complete chunks of a PNG, with their checksums."""
    at = len(PNG_SIGNATURE)
    for _ in range(MOST_PIECES):
        if at + 12 > len(data):
            return
        length, kind = struct.unpack_from(">I4s", data, at)
        chunk = Chunk(kind, at, at + 8, at + 12 + length)
        if chunk.end > len(data):
            return
        yield chunk
        at = chunk.end


def png_chunk_is_intact(data: bytes, chunk: Chunk) -> bool:
    """Return whether a chunk's checksum is right."""
    return zlib.crc32(data[chunk.body - 4 : chunk.end - 4]) == int.from_bytes(data[chunk.end - 4 : chunk.end])


def webp_chunks(data: bytes) -> Iterator[Chunk]:
    """Yield the complete chunks of a WebP, without their padding to an even length."""
    at = 12
    for _ in range(MOST_PIECES):
        if at + 8 > len(data):
            return
        kind, length = struct.unpack_from("<4sI", data, at)
        chunk = Chunk(kind, at, at + 8, at + 8 + length)
        if chunk.end > len(data):
            return
        yield chunk
        at = chunk.end + length % 2


def boxes(data: bytes, at: int, end: int) -> Iterator[Chunk]:
    """Yield the boxes of an ISO file (JPEG 2000, AVIF) or of one of its boxes."""
    for _ in range(MOST_PIECES):
        if at + 8 > end:
            return
        length, kind = struct.unpack_from(">I4s", data, at)
        body = at + 8
        if length == 1 and at + 16 <= end:
            length, body = int.from_bytes(data[at + 8 : at + 16]), at + 16
        elif length == 0:  # the last box, up to the end
            length = end - at
        if at + length > end or at + length < body:
            return
        yield Chunk(kind, at, body, at + length)
        at += length


GIF_IMAGE, _GIF_EXTENSION, _GIF_END = 0x2C, 0x21, 0x3B


def gif_blocks(data: bytes) -> Iterator[Chunk]:
    """Yield the blocks of a GIF; the last one has kind b";", unless there are too many blocks."""
    at = 13 + _palette_bytes(data[10]) if len(data) > 13 else len(data)
    # Counted with the sub-blocks, because a single extension can consist of millions of them.
    left = MOST_PIECES
    while left > 0:
        kind = data[at] if at < len(data) - 10 else _GIF_END
        if kind not in (GIF_IMAGE, _GIF_EXTENSION):
            yield Chunk(b";", at, at, len(data))
            return
        body = at + (11 + _palette_bytes(data[at + 9]) if kind == GIF_IMAGE else 2)
        end, left = _after_sub_blocks(data, body, left - 1)
        yield Chunk(data[at : at + 1], at, body, end)
        at = end


def _after_sub_blocks(data: bytes, at: int, left: int) -> tuple[int, int]:
    while left > 0 and at < len(data) and data[at]:
        at += 1 + data[at]
        left -= 1
    return at + 1, left


def _palette_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


class Entry(NamedTuple):
    """A tag of a TIFF directory: number, type, and offsets of the entry, its value and its end."""

    tag: int
    type: int
    start: int
    value: int
    end: int


class TiffHeader(NamedTuple):
    """The number formats of a TIFF or an EXIF block, and the offset of its first directory.

    Attributes:
      order: Byte order, in `struct`'s notation.
      length: Type of a directory's length.
      offset: Type of an offset, which BigTIFF doubles.
      first: Offset of the first directory.
    """

    order: str
    length: str
    offset: str
    first: int

    @property
    def offset_bytes(self) -> int:
        """Size of an offset and of an entry's value."""
        return struct.calcsize(self.order + self.offset)

    def entries(self, data: bytes, at: int) -> Iterator[Entry]:
        """Yield the entries of the directory at an offset.

        Raises:
          struct.error: The directory leaves the data.
        """
        size = 4 + 2 * self.offset_bytes
        for start in islice(self._entry_offsets(data, at), MOST_PIECES):
            tag, kind = self._unpack("HH", data, start)
            yield Entry(tag, kind, start, start + size - self.offset_bytes, start + size)

    def following(self, data: bytes, at: int) -> int:
        """Return the offset of the directory after the one at an offset; 0 after the last.

        Raises:
          struct.error: The directory leaves the data.
        """
        return self._unpack(self.offset, data, self._entry_offsets(data, at).stop)[0]

    def _entry_offsets(self, data: bytes, at: int) -> range:
        (number,) = self._unpack(self.length, data, at)
        size = 4 + 2 * self.offset_bytes
        start = at + struct.calcsize(self.order + self.length)
        return range(start, start + number * size, size)

    def number(self, data: bytes, entry: Entry) -> int | None:
        """Return the first or only value of an entry; None for values that are not whole numbers."""
        kind = {1: "B", 3: "H", 4: "I", 16: "Q"}.get(entry.type)
        return self._unpack(kind, data, entry.value)[0] if kind else None

    def _unpack(self, kinds: str, data: bytes, at: int) -> tuple[int, ...]:
        if at > len(data):  # because `struct` refuses offsets as large as BigTIFF's with another error
            raise struct.error(f"offset {at} in {len(data)} bytes")
        return struct.unpack_from(self.order + kinds, data, at)


def tiff_header(data: bytes) -> TiffHeader | None:
    """Read the header of a TIFF or an EXIF block; return None for other bytes."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 16:
        return None
    version, first = struct.unpack_from(order + "HI", data, 2)
    if version == 43:
        return TiffHeader(order, "Q", "Q", struct.unpack_from(order + "Q", data, 8)[0])
    return TiffHeader(order, "H", "I", first) if version == 42 else None
