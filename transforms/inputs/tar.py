"""Tar archives and WebDataset: images between headers, read in one pass.

`tarfile` reads headers only, because its streams take a damaged header, a cut file and data behind the end
for the end of the archive, so that images would be lost unnoticed.
"""

from __future__ import annotations

import itertools
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

import pyarrow as pa

from labelbeam.transforms.elements import Failure, ImageRef
from labelbeam.transforms.errors import ImageError, Reason
from labelbeam.transforms.images.formats import IMAGE_SUFFIXES
from labelbeam.transforms.inputs.columns import output_name, parse_value
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.inputs.formats import ReadOptions, Shard, ShardFormat
from labelbeam.transforms.inputs.lists import list_suffixes
from labelbeam.transforms.inputs.shards import LINK, Reading, Row, ShardFiles
from labelbeam.transforms.inputs.streams import RestError, Stream, open_stream
from labelbeam.transforms.notes import LEFT_OUT, UNPARSED, Notes

# Endings of WebDataset's files beside an image that become columns.
SIDECARS: Final = ("cls", "json", "txt")
KEY: Final = "key"

_BLOCK_BYTES = tarfile.BLOCKSIZE
# Longest block of extended headers and longest text beside an image, because they are held in memory.
_MAX_TEXT_BYTES = 1 << 20
# Largest size that a header's octal digits can have. Larger ones stand in an extended header.
_MAX_OCTAL_BYTES = 8 << 30
# Members of the first archive whose names and texts decide about columns, and the bytes up to there.
_MEMBERS_LOOKED_AT = 500
_BYTES_LOOKED_AT = 64 << 20
_WHOLE_NUMBER = re.compile(r"\s*[+-]?[0-9]{1,18}\s*")
# Bytes of images of one sample that are held at least, whatever the largest image is.
_HELD_BYTES = 64 << 20
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
    cut, because members may be missing.

    Raises:
      RestError: The archive is damaged or cut, in the iteration and in `read`.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._unread_bytes = 0
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
        is_end = False
        while block := self._stream.read_some(_BLOCK_BYTES):
            if block.strip(b"\0"):
                return self._parse(block)
            is_end = True
        if is_end:
            return None
        raise RestError("the archive has no end, so that the file is cut, and images may be missing")

    def _parse(self, block: bytes) -> _Header:
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.HeaderError, ValueError) as e:
            if len(block) < _BLOCK_BYTES:
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
            header = self._parse(self._stream.read(_BLOCK_BYTES))
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
        if info.size > _MAX_TEXT_BYTES:
            raise RestError(f"a header has {info.size:,} bytes; the most are {_MAX_TEXT_BYTES:,}")
        data = self._stream.read(_padded(info.size))[: info.size]
        if info.type == tarfile.XGLTYPE:
            self._global |= _parse_records(data)
        elif info.type == tarfile.GNUTYPE_LONGNAME:
            values["path"] = data.partition(b"\0")[0].decode("utf-8", "surrogateescape")
        elif info.type != tarfile.GNUTYPE_LONGLINK:
            values |= _parse_records(data)

    def _skip_map(self, block: bytes) -> None:
        """Skip the blocks that list the data of a file with holes."""
        has_more = block[_MORE_IN_HEADER]
        while has_more:
            has_more = self._stream.read(_BLOCK_BYTES)[_MORE_IN_BLOCK]


def _padded(size: int) -> int:
    return -(-size // _BLOCK_BYTES) * _BLOCK_BYTES


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


def _parse_records(data: bytes) -> dict[str, str]:
    """Parse the records of an extended header, `LENGTH NAME=VALUE` and a line end each."""
    records, at = {}, 0
    # Zeros behind the last record, because some programs pad them.
    while data[at:].strip(b"\0"):
        digits, space, _ = data[at : at + 20].partition(b" ")
        end = at + int(digits) if space and digits.isdigit() else at
        name, equals, value = data[at + len(digits) + 1 : end - 1].partition(b"=")
        if not equals or data[end - 1 : end] != b"\n":
            raise RestError(f"an extended header is damaged: {data[at : at + 50]!r}")
        records[name.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        at = end
    return records


@dataclass
class _Sample:
    """The members of one key that follow each other, the images of which share columns."""

    key: str | None = None
    images: list[Row] = field(default_factory=list)
    size_bytes: int = 0
    texts: dict[str, Any] = field(default_factory=dict)

    def rows(self, reading: Reading) -> Iterator[Row]:
        """Yield the images with their columns; texts without an image are left out."""
        if not self.images:
            for name in self.texts:
                reading.notes.add(LEFT_OUT, f".{name}")
        values = self.texts | {
            KEY: (self.key or "").encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        }
        columns = tuple(values.get(name) for name, _ in reading.corpus.columns)
        for image in self.images:
            if isinstance(image, ImageRef):
                yield replace(image, columns=columns)
            else:
                yield replace(image, ref=replace(image.ref, columns=columns))


def read_images(tar: TarReader, reading: Reading) -> Iterator[Row]:
    """Read the images of an archive, with the texts beside them as columns."""
    types = dict(reading.corpus.columns)
    sample = _Sample()
    for member in tar:
        key, ending = _split_name(member.name)
        if key != sample.key:
            yield from sample.rows(reading)
            sample = _Sample(key)
        if member.kind == "link":
            reading.notes.add(LEFT_OUT, LINK)
        elif member.kind == "file" and ending in types and ending in SIDECARS:
            sample.texts[ending] = _read_text(tar, member, ending, types[ending], reading.notes)
        elif member.kind != "folder" and reading.is_image(member.name):
            image = _read_image(tar, member, reading, sample)
            # Texts may follow an image. Without columns, images are not held.
            if types:
                sample.images.append(image)
            else:
                yield image
    yield from sample.rows(reading)


def _read_image(tar: TarReader, member: Member, reading: Reading, sample: _Sample) -> Row:
    ref = reading.name_image(member.name)
    if isinstance(ref, Failure) or reading.is_done(ref.id):
        return ref
    if member.kind != "file":
        fault = "with holes" if member.kind == "sparse" else "of an unknown type"
        return reading.failure(ref, ImageError(Reason.UNSUPPORTED, f"{member.name!r:.300} is a file {fault}"))
    if member.size_bytes > reading.max_bytes:
        return reading.failure(ref, reading.too_large(member.size_bytes))
    if reading.corpus.columns:
        # Bounded, because all images of a sample are held.
        sample.size_bytes += member.size_bytes
        if sample.size_bytes > max(reading.max_bytes, _HELD_BYTES):
            fault = (
                f"the images of {sample.key!r:.300}, which share a name up to its first dot, have more in all"
            )
            return reading.failure(ref, ImageError(Reason.TOO_LARGE_BYTES, fault))
    return reading.image(ref, tar.read(member))


def _read_text(tar: TarReader, member: Member, name: str, kind: pa.DataType, notes: Notes) -> Any:
    if member.size_bytes > _MAX_TEXT_BYTES:
        notes.add(UNPARSED, name, f"{member.name}, {member.size_bytes:,} bytes")
        return None
    try:
        text = tar.read(member).decode("utf-8")
    except UnicodeDecodeError:
        notes.add(UNPARSED, name, member.name)
        return None
    return parse_value(text.strip() if name == "cls" else text, name, kind, notes)


def _split_name(name: str) -> tuple[str, str]:
    """Split a name into WebDataset's key and ending: at the first dot behind the folder."""
    folder, slash, base = name.rpartition("/")
    stem, _, ending = base.partition(".")
    return f"{folder}{slash}{stem}", ending.lower()


class _Tar(ShardFiles):
    name = "tar"
    suffixes = (*list_suffixes(".tar"), ".tgz", ".tbz2", ".txz", ".tzst")

    def recognises(self, start: bytes) -> bool:
        """Return whether the first bytes of a file, decompressed, are an archive's."""
        block = start[:_BLOCK_BYTES]
        if block == bytes(_BLOCK_BYTES):  # an archive without members
            return True
        try:
            tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.HeaderError, ValueError):
            return False
        return True

    def explain(self, start: bytes) -> str | None:
        return (
            None
            if self.recognises(start)
            else f"is no tar archive: it begins with {start[:20]!r}. Check the file"
        )

    def describe(
        self, corpus: Corpus, options: ReadOptions, known_types: Mapping[str, pa.DataType]
    ) -> Corpus:
        """Return the corpus with columns, if the first archive has texts beside images."""
        with open_stream(corpus.files[0]) as stream:
            found = find_texts(TarReader(stream), stream)
        types = {name: known_types.get(output_name(name), kind) for name, kind in found.items()}
        return replace(corpus, columns=tuple(types.items()))

    def read_images(self, shard: Shard, reading: Reading) -> Iterator[Row]:
        with open_stream(shard.file) as stream:
            reading.version = stream.version
            yield from read_images(TarReader(stream), reading)


def find_texts(tar: TarReader, stream: Stream) -> dict[str, pa.DataType]:
    """Return the columns of an archive by its first members: none, or the key and texts beside images."""
    samples: dict[str, set[str]] = {}
    classes: list[str] = []
    try:
        for member in itertools.islice(tar, _MEMBERS_LOOKED_AT):
            key, ending = _split_name(member.name)
            samples.setdefault(key, set()).add(
                "image" if member.name.lower().endswith(IMAGE_SUFFIXES) else ending
            )
            if ending == "cls" and member.size_bytes <= _MAX_TEXT_BYTES:
                classes.append(tar.read(member).decode("utf-8", "replace"))
            if stream.position + member.size_bytes > _BYTES_LOOKED_AT:
                break
    except RestError:
        pass  # reported when the archive is read
    beside = set().union(*(endings for endings in samples.values() if "image" in endings))
    columns = {name: pa.string() for name in (KEY, *SIDECARS) if name in beside}
    if not columns:
        return {}
    if "cls" in columns and all(map(_WHOLE_NUMBER.fullmatch, classes)):
        columns["cls"] = pa.int64()
    return {KEY: pa.string()} | columns


FORMAT: Final[ShardFormat] = _Tar()
