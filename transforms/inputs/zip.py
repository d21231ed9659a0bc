"""ZIP archives: the directory first, then images in one pass over a part of the file."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from operator import attrgetter
from typing import Final

from labelbeam.transforms.elements import Failure
from labelbeam.transforms.errors import ImageError, Reason
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.inputs.files import PART_BYTES, ListFile, split_large
from labelbeam.transforms.inputs.formats import Shard, ShardFormat
from labelbeam.transforms.inputs.shards import LINK, Reading, Row, ShardFiles, is_no
from labelbeam.transforms.inputs.streams import RestError, Stream, open_stream
from labelbeam.transforms.inputs.zip_directory import (
    END_MAGIC,
    LOCAL,
    LOCAL_MAGIC,
    TAIL_BYTES,
    Directory,
    Entry,
    check_number,
    decode_name,
    find_directory,
    read_entries,
)
from labelbeam.transforms.notes import LEFT_OUT

_STORED, _DEFLATED = 0, 8
_METHODS = {9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "xz", 99: "AES encryption"}
_ENCRYPTED = 0x1
# Deflate makes incompressible data larger by 5 bytes in 16 KB.
_MOST_OVERHEAD = 1.01


def read_members(
    stream: Stream, start: int, end: int, entries: Sequence[Entry], reading: Reading
) -> Iterator[Row]:
    """Read the images of entries, in the order of their data, in one pass.

    Args:
      stream: The bytes of the file behind `start`.
      start: Position of the first byte of `stream`.
      end: Byte behind the last one that can be data.
      entries: Entries of images, by offset.
      reading: The reading.
    """
    for entry in entries:
        ref = reading.name_image(entry.name)
        if isinstance(ref, Failure) or reading.is_done(ref.id):
            yield ref
            continue
        try:
            _check(entry, end, reading)
            yield reading.image(ref, _read_member(stream, start, entry))
        except RestError:
            raise
        except ImageError as e:
            yield reading.failure(ref, e)


def _check(entry: Entry, end: int, reading: Reading) -> None:
    """Refuse members that can't be read, before they are read."""
    if entry.flags & _ENCRYPTED:
        raise ImageError(
            Reason.UNSUPPORTED, f"{entry.name!r:.300} is encrypted; extract it, and label the files"
        )
    if entry.method not in (_STORED, _DEFLATED):
        method = _METHODS.get(entry.method, f"method {entry.method}")
        raise ImageError(
            Reason.UNSUPPORTED,
            f"{entry.name!r:.300} is compressed by {method}, which is not read; extract it, or pack it anew",
        )
    if entry.size_bytes > reading.max_bytes:
        raise reading.too_large(entry.size_bytes)
    if entry.packed_bytes > entry.size_bytes * _MOST_OVERHEAD + 1000:
        fault = f"has {entry.size_bytes:,} bytes, and {entry.packed_bytes:,} when it is compressed"
        raise _damaged(entry, fault)
    # Here, because the stream would end in the middle of a member whose length or place is damaged.
    if entry.offset + LOCAL.size + entry.packed_bytes > end:
        raise _damaged(entry, f"reaches into the directory from byte {entry.offset:,}")


def _read_member(stream: Stream, start: int, entry: Entry) -> bytes:
    gap = entry.offset - start - stream.position
    if gap < 0:
        raise _damaged(entry, f"overlaps the member in front of it, at byte {entry.offset:,}")
    stream.skip(gap)
    header = stream.read(LOCAL.size)
    magic, *_, crc, _, _, name_length, extra_length = LOCAL.unpack(header)
    if magic != LOCAL_MAGIC:
        raise _damaged(entry, f"has no header at byte {entry.offset:,}")
    name = decode_name(stream.read(name_length), entry.flags)
    if name != entry.name:
        raise _damaged(entry, f"has another name at byte {entry.offset:,}: {name!r:.300}")
    # Because zeros in the directory describe an empty member. The header has no checksum if it was written
    # before the data.
    if crc not in (0, entry.crc):
        raise _damaged(entry, f"has another checksum at byte {entry.offset:,}")
    stream.skip(extra_length)
    packed = stream.read(entry.packed_bytes)
    data = packed if entry.method == _STORED else _inflate(packed, entry)
    if len(data) != entry.size_bytes or zlib.crc32(data) != entry.crc:
        raise _damaged(entry, f"has {len(data):,} bytes of {entry.size_bytes:,}, or its checksum is wrong")
    return data


def _inflate(packed: bytes, entry: Entry) -> bytes:
    decoder = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        # One byte more than expected, because damage shows in it, and a bomb is not unpacked.
        return decoder.decompress(packed, entry.size_bytes + 1)
    except zlib.error as e:
        raise _damaged(entry, f"can't be decompressed: {e}") from e


def _damaged(entry: Entry, fault: str) -> ImageError:
    return ImageError(Reason.TRUNCATED, f"{entry.name!r:.300} is damaged: it {fault}")


def _is_document(start: bytes) -> bool:
    """Return whether an archive is a document of Office or OpenDocument, by its first member."""
    return start[LOCAL.size :].startswith((b"[Content_Types].xml", b"mimetypeapplication/"))


class _Zip(ShardFiles):
    name = "zip"
    suffixes = (".zip",)

    def recognises(self, start: bytes) -> bool:
        """Return whether the first bytes of a file are an archive's, and not a document's."""
        return start.startswith((LOCAL_MAGIC, END_MAGIC)) and not _is_document(start)

    def explain(self, start: bytes) -> str | None:
        if _is_document(start):
            return "is an Excel workbook or another document. Save its table as CSV"
        if self.recognises(start):
            return None
        return is_no("ZIP archive", start)

    def split(self, corpus: Corpus) -> Iterator[Shard]:
        """Split large archives into parts; `start` and `end` are places in the directory."""
        return split_large(corpus.files, PART_BYTES, Shard, _split)

    def members(self, shard: Shard) -> Iterator[str]:
        """Yield the names in a part of the directory."""
        file, start, end = shard
        if end is None:
            return
        try:
            with open_stream(file, start, end) as stream:
                yield from (entry.name for entry in read_entries(stream, Directory(start, end, 0, 0), start))
        except RestError:
            return  # reported when the part is read

    def read_images(self, shard: Shard, reading: Reading) -> Iterator[Row]:
        file, start, end = shard
        directory = _directory_of(file)
        is_whole = end is None
        start, end = (directory.start, directory.end) if end is None else (start, end)
        entries: list[Entry] = []
        error = None
        try:
            with open_stream(file, start, end) as stream:
                entries.extend(read_entries(stream, directory, start))
            if is_whole:
                check_number(len(entries), directory)
        except RestError as e:
            error = e
        yield from _read_part(file, directory, entries, reading)
        # Behind the images, because members that the directory names up to the damage can be read.
        if error:
            raise error


def _read_part(
    file: ListFile, directory: Directory, entries: Sequence[Entry], reading: Reading
) -> Iterator[Row]:
    images = sorted((entry for entry in entries if _takes(entry, reading)), key=attrgetter("offset"))
    if images:
        start, end = images[0].offset, directory.start
        with open_stream(file, min(start, end), end) as stream:
            reading.version = stream.version
            yield from read_members(stream, start, end, images, reading)


def _takes(entry: Entry, reading: Reading) -> bool:
    """Return whether an entry is an image; others are counted."""
    # Names never have zeros, so this one is damaged, and may be an image's. Its other name shows the damage.
    if "\0" in entry.name:
        return True
    if entry.name.endswith("/"):
        return False
    if entry.is_link:
        reading.notes.add(LEFT_OUT, LINK)
        return False
    return reading.is_image(entry.name)


def _directory_of(file: ListFile) -> Directory:
    start = max(0, file.size_bytes - TAIL_BYTES)
    directory = find_directory(_read(file, start, file.size_bytes), file.size_bytes, partial(_read, file))
    # Because tools that unpack would take the last of several archives in one file, and lose the others.
    if directory.shift and _read(file, 0, len(LOCAL_MAGIC)) == LOCAL_MAGIC:
        raise RestError(
            f"another archive stands in front of byte {directory.shift:,}. Keep each in its own file"
        )
    return directory


def _read(file: ListFile, start: int, end: int) -> bytes:
    with open_stream(file, start, end) as stream:
        return stream.read(end - start)


def _split(file: ListFile) -> list[Shard]:
    """Split an archive into parts of its directory; one part if it is damaged or has no simple order."""
    whole = [Shard(file)]
    names, number, offset = set(), 0, -1
    try:
        directory = _directory_of(file)
        bounds, begin = [directory.start], 0
        with open_stream(file, directory.start, directory.end) as stream:
            for number, entry in enumerate(read_entries(stream, directory, directory.start), 1):
                # By hash, because whole names take more memory.
                names.add(hash(entry.name))
                # Each part is checked for equal names alone, so a file with equal names stays whole.
                if entry.offset <= offset or len(names) < number:
                    return whole
                offset = entry.offset
                if offset - begin >= PART_BYTES and entry.at > bounds[-1]:
                    bounds.append(entry.at)
                    begin = offset
        check_number(number, directory)
    except RestError:
        return whole  # reported when the file is read
    return [Shard(file, *part) for part in pairwise([*bounds, directory.end])]


FORMAT: Final[ShardFormat] = _Zip()
