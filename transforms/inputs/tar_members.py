"""Members of tar archives, read in one pass.

`tarfile` reads headers only, because its streams take a damaged header, a cut file and data behind the end
for the end of the archive, so that images would be lost unnoticed.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from labelbeam.transforms.inputs.streams import RestError, Stream

BLOCK_BYTES: Final = tarfile.BLOCKSIZE
# Longest block of extended headers and longest text beside an image, because they are held in memory.
MAX_TEXT_BYTES: Final = 1 << 20
# Largest size that a header's octal digits can have. Larger ones stand in an extended header.
_MAX_OCTAL_BYTES = 8 << 30
# Lengths of the records that programs fill up with zeros behind an archive: that of tar, and those of tapes.
_RECORD_BYTES: Final = (10_240, *(1 << n for n in range(14, 21)))
# Bytes that show whether a map of holes goes on in another block.
_MORE_IN_HEADER, _MORE_IN_BLOCK = 482, 504

_EXTENDED = frozenset(
    (
        *(tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE),
        *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    )
)
_KINDS = {
    **dict.fromkeys((tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE), "file"),
    **dict.fromkeys((tarfile.LNKTYPE, tarfile.SYMTYPE), "link"),
    tarfile.DIRTYPE: "folder",
    tarfile.GNUTYPE_SPARSE: "sparse",
}
# Types without data, whatever their size.
_WITHOUT_DATA = frozenset(
    (
        *(tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE),
        *(tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE),
    )
)


class Member(NamedTuple):
    """A member of an archive.

    Attributes:
      name: Name, in which bytes that are not UTF-8 are lone surrogates.
      size_bytes: Length of its data.
      kind: `file`, `folder`, `link`, `sparse` (a file with holes) or `other`.
    """

    name: str
    size_bytes: int
    kind: str


class _Header(NamedTuple):
    info: tarfile.TarInfo
    block: bytes


class TarReader:
    """The members of an archive in order; iteration skips data that was not read.

    Archives that were joined are read as one. An archive without the blocks of zeros at its end counts as
    cut, and one with more zeros than programs write there as damaged, because members may be missing.

    Raises:
      RestError: The archive is damaged or cut, in the iteration and in `read`.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._unread_bytes = 0
        self._archive_start = 0
        self._global: dict[str, str] = {}

    def __iter__(self) -> Iterator[Member]:
        while header := self._next_header():
            yield self._member(header)
            self._stream.skip(self._unread_bytes)

    def read(self, member: Member) -> bytes:
        """Read the data of the current member."""
        data = self._stream.read(member.size_bytes)
        self._unread_bytes -= len(data)
        return data

    def _next_header(self) -> _Header | None:
        """Read a header, behind zeros that end an archive; None at the end of the file."""
        start = self._stream.position
        while block := self._stream.read_some(BLOCK_BYTES):
            if block.strip(b"\0"):
                end = self._stream.position - len(block)
                if end > start:
                    self._end_archive(start, end, is_last=False)
                return self._parse(block)
            # Here, too, because a file can have many GB of zeros.
            if self._stream.position - start > max(_RECORD_BYTES) + BLOCK_BYTES:
                break
        if start == self._stream.position:
            raise RestError("the archive has no end, so that the file is cut, and images may be missing")
        self._end_archive(start, self._stream.position, is_last=True)
        return None

    def _end_archive(self, start: int, end: int, is_last: bool) -> None:
        """Check that zeros can be the end of an archive.

        Other zeros are a hole, as in a file that got its full length before its bytes. A hole that is no
        longer than an archive's end, and in its place, looks like one.
        """
        zeros, archive_bytes = end - start, end - self._archive_start
        is_end = zeros == 2 * BLOCK_BYTES or any(
            2 * BLOCK_BYTES <= zeros <= record + BLOCK_BYTES and archive_bytes % record == 0
            for record in _RECORD_BYTES
        )
        # At the end of the file fewer zeros, and zeros that were appended, are no sign of missing members.
        if not is_end and not (is_last and zeros <= _RECORD_BYTES[0] + BLOCK_BYTES):
            raise RestError(
                f"there are {zeros:,} zeros or more from byte {start:,} on, where no archive ends, so that "
                "images may be missing"
            )
        self._archive_start = end

    def _parse(self, block: bytes) -> _Header:
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.HeaderError, ValueError) as e:
            if len(block) < BLOCK_BYTES:
                raise RestError("the file is cut within a header, or has other data at its end") from e
            at, size = self._stream.position - len(block), self._stream.size_bytes
            rest = "" if size is None else f", where {size - at:,} bytes are left"
            raise RestError(f"there is no header of a member at byte {at:,} ({e}){rest}") from e
        if info.size < 0:
            raise RestError(f"{info.name!r:.300} has a size of {info.size:,} bytes")
        return _Header(info, block)

    def _member(self, header: _Header) -> Member:
        """Return the member of a header, with the extended headers in front of it."""
        extended: dict[str, str] = {}
        while header.info.type in _EXTENDED:
            self._read_extended(header.info, extended)
            # Directly behind, because zeros would be the end.
            header = self._parse(self._stream.read(BLOCK_BYTES))
        info, values = header.info, self._global | extended
        name, kind = values.get("path") or info.name, _KINDS.get(info.type, "other")
        if info.type == tarfile.GNUTYPE_SPARSE:
            self._skip_map(header.block)
        elif any(key.startswith("GNU.sparse.") for key in values):
            name, kind = values.get("GNU.sparse.name") or name, "sparse"
        if kind == "file" and name.endswith("/"):  # of programs that have no type for folders
            kind = "folder"
        size = _size_of(info, values)
        self._unread_bytes = _padded(size)
        return Member(name, size, kind)

    def _read_extended(self, info: tarfile.TarInfo, values: dict[str, str]) -> None:
        if info.size > MAX_TEXT_BYTES:
            raise RestError(f"a header has {info.size:,} bytes; the most are {MAX_TEXT_BYTES:,}")
        data = self._stream.read(_padded(info.size))[: info.size]
        if info.type == tarfile.XGLTYPE:
            self._global |= _parse_records(data)
        elif info.type == tarfile.GNUTYPE_LONGNAME:
            values["path"] = _parse_name(data)
        elif info.type != tarfile.GNUTYPE_LONGLINK:
            values |= _parse_records(data)

    def _skip_map(self, block: bytes) -> None:
        """Skip the blocks that list the data of a file with holes."""
        has_more = block[_MORE_IN_HEADER]
        while has_more:
            has_more = self._stream.read(BLOCK_BYTES)[_MORE_IN_BLOCK]


def is_header(block: bytes) -> bool:
    """Return whether bytes begin with a header."""
    try:
        tarfile.TarInfo.frombuf(block[:BLOCK_BYTES], "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        return False
    return True


def _padded(size: int) -> int:
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES


def _size_of(info: tarfile.TarInfo, values: Mapping[str, str]) -> int:
    if info.type in _WITHOUT_DATA:
        return 0
    text = values.get("size", str(info.size))
    size = int(text) if text.isascii() and text.isdecimal() else -1
    # Compared, because the header has a checksum and the extended header has none.
    if size < 0 or (info.size != size < _MAX_OCTAL_BYTES and info.size):
        raise RestError(
            f"{info.name!r:.300} has a size of {text:.100} bytes in one header, {info.size} in another"
        )
    return size


def _parse_name(data: bytes) -> str:
    """Parse the long name of a member, with zeros behind it."""
    name = data.rstrip(b"\0")
    if not name or b"\0" in name:
        raise RestError(f"an extended header is damaged: {data[:50]!r}")
    return name.decode("utf-8", "surrogateescape")


def _parse_records(data: bytes) -> dict[str, str]:
    """Parse the records of an extended header, `LENGTH NAME=VALUE` and a line end each."""
    records, at = {}, 0
    # At least one record, because zeros alone are a hole in the file.
    if data and not data.strip(b"\0"):
        raise RestError(f"an extended header is damaged: {data[:50]!r}")
    # Zeros behind the last record, because some programs pad them.
    while data[at:].strip(b"\0"):
        digits, space, _ = data[at : at + 20].partition(b" ")
        end = at + int(digits) if space and digits.isdigit() else at
        name, equals, value = data[at + len(digits) + 1 : end - 1].partition(b"=")
        if not equals or data[end - 1 : end] != b"\n" or (name == b"path" and b"\0" in value):
            raise RestError(f"an extended header is damaged: {data[at : at + 50]!r}")
        records[name.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        at = end
    return records
