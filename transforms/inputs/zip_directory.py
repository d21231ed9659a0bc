"""Directories of ZIP archives.

`zipfile` is not used, because it reads the whole directory into memory for each part, and seeks to each
member, which would be a request per image in a bucket.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from labelbeam.transforms.inputs.streams import RestError, Stream

# Header in front of a member, and magic bytes of archives with members and without.
LOCAL: Final = struct.Struct("<4s5H3L2H")
LOCAL_MAGIC: Final = b"PK\x03\x04"
END_MAGIC: Final = b"PK\x05\x06"
_ENTRY_MAGIC = b"PK\x01\x02"
_ENTRY = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_LOCATOR_64 = struct.Struct("<4sLQL")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64_MAGIC, _END_64_MAGIC = b"PK\x06\x07", b"PK\x06\x06"
# The end of an archive, with the longest comment.
TAIL_BYTES: Final = _LOCATOR_64.size + _END.size + 0xFFFF
_FULL_32, _FULL_16 = 0xFFFFFFFF, 0xFFFF
_IS_UTF_8 = 0x800


class Directory(NamedTuple):
    """The place of an archive's directory.

    Attributes:
      start: First byte in the file.
      end: Byte behind the last one.
      entries: Number of entries.
      shift: Bytes in front of the archive, such as a program that unpacks it.
    """

    start: int
    end: int
    entries: int
    shift: int


class Entry(NamedTuple):
    """An entry of the directory.

    Attributes:
      name: Name of the member.
      flags: Bits for encryption and the encoding of names.
      method: Number of the compression.
      crc: CRC-32 of the data.
      packed_bytes: Length of the compressed data.
      size_bytes: Length of the data.
      offset: First byte of the member in the file.
      at: First byte of the entry in the file.
      is_link: Whether the data is the path of another file.
    """

    name: str
    flags: int
    method: int
    crc: int
    packed_bytes: int
    size_bytes: int
    offset: int
    at: int
    is_link: bool


def find_directory(tail: bytes, size_bytes: int, read: Callable[[int, int], bytes]) -> Directory:
    """Find the directory of an archive.

    Args:
      tail: Last bytes of the file, up to `TAIL_BYTES`.
      size_bytes: Length of the file.
      read: Function that reads a range of the file.

    Raises:
      RestError: There is none.
    """
    at = tail.rfind(END_MAGIC)
    if at < 0 or len(tail) - at < _END.size:
        raise RestError("the archive's directory, which stands at the end, is missing: the file is cut")
    _, disk, first_disk, _, entries, length, offset, _ = _END.unpack_from(tail, at)
    end = size_bytes - len(tail) + at
    locator = at - _LOCATOR_64.size
    if locator >= 0 and tail.startswith(_LOCATOR_64_MAGIC, locator):
        _, disk, _position, _ = _LOCATOR_64.unpack_from(tail, locator)
        # Directly in front of the locator, because the position is wrong behind a program that unpacks.
        end = end - _LOCATOR_64.size - _END_64.size
        record = read(end, end + _END_64.size) if end >= 0 else b""
        if not record.startswith(_END_64_MAGIC):
            raise RestError(f"the end of the archive's directory at byte {end:,} is damaged")
        *_, first_disk, _, entries, length, offset = _END_64.unpack(record)
    start = end - length
    if disk or first_disk:
        raise RestError(
            "the archive is one part of several. Join them first: zip -s 0 a.zip --out joined.zip"
        )
    if start < 0 or offset > start:
        raise RestError(
            f"the archive's directory has {length:,} bytes and starts at {offset:,}: the file is cut"
        )
    return Directory(start, end, entries, start - offset)


def read_entries(stream: Stream, directory: Directory, start: int) -> Iterator[Entry]:
    """Read the entries of a directory, or of a part of it.

    Args:
      stream: The bytes of the part.
      directory: The directory.
      start: Position of the part in the file.

    Raises:
      RestError: An entry is damaged.
    """
    while fixed := stream.read_some(_ENTRY.size):
        at = start + stream.position - len(fixed)
        if len(fixed) < _ENTRY.size or not fixed.startswith(_ENTRY_MAGIC):
            raise RestError(f"the archive's directory is damaged at byte {at:,}")
        values = _ENTRY.unpack(fixed)
        flags, method, crc, packed_bytes, size_bytes = *values[3:5], *values[7:10]
        name_length, extra_length, comment_length, *_, attributes, offset = values[10:]
        name = decode_name(stream.read(name_length), flags)
        extra = stream.read(extra_length)
        stream.skip(comment_length)
        size_bytes, packed_bytes, offset = _wide(extra, (size_bytes, packed_bytes, offset))
        offset += directory.shift
        is_link = stat.S_ISLNK(attributes >> 16)
        yield Entry(name, flags, method, crc, packed_bytes, size_bytes, offset, at, is_link)


def decode_name(name: bytes, flags: int) -> str:
    """Decode the name of a member."""
    return name.decode("utf-8", "surrogateescape") if flags & _IS_UTF_8 else name.decode("cp437")


def _wide(extra: bytes, values: Sequence[int]) -> list[int]:
    """Return sizes and the offset of an entry, from its field for large files where they are too large."""
    missing = values.count(_FULL_32)
    while missing and len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        field, extra = extra[4 : 4 + length], extra[4 + length :]
        if kind == 1 and len(field) >= 8 * missing:
            wide = iter(struct.unpack_from(f"<{missing}Q", field))
            return [next(wide) if value == _FULL_32 else value for value in values]
    return list(values)


def check_number(entries: int, directory: Directory) -> None:
    """Check that all entries of a directory have been read.

    Raises:
      RestError: There are more or fewer.
    """
    # The number has 16 bits, and some programs write larger archives nevertheless.
    if (entries - directory.entries) % (_FULL_16 + 1):
        raise RestError(f"the archive's directory has {entries:,} entries of {directory.entries:,}")
