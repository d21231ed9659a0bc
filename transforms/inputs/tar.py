"""Tar archives and WebDataset: images inside, and the texts beside them as columns."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import pyarrow as pa

from labelbeam.transforms.elements import Failure, ImageRef
from labelbeam.transforms.errors import ImageError, Reason
from labelbeam.transforms.images.formats import IMAGE_SUFFIXES
from labelbeam.transforms.inputs.columns import output_name
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.inputs.files import ListFile
from labelbeam.transforms.inputs.formats import ReadOptions, Shard, ShardFormat
from labelbeam.transforms.inputs.lists import list_suffixes
from labelbeam.transforms.inputs.shards import LINK, Reading, Row, ShardFiles, is_no, look_for_columns
from labelbeam.transforms.inputs.streams import RestError, Stream, open_stream
from labelbeam.transforms.inputs.tar_members import BLOCK_BYTES, MAX_TEXT_BYTES, Member, TarReader, is_header
from labelbeam.transforms.notes import LEFT_OUT, UNPARSED, Notes
from labelbeam.transforms.table.column_types import fit_text

# Endings of WebDataset's files beside an image that become columns.
SIDECARS: Final = ("cls", "json", "txt")
KEY: Final = "key"

# Members of an archive whose names and texts decide about columns, and the bytes up to there.
_MEMBERS_LOOKED_AT = 500
_BYTES_LOOKED_AT = 64 << 20
# The same of further archives, of which there can be a thousand.
_MEMBERS_GLANCED_AT = 50
_BYTES_GLANCED_AT = 4 << 20
_WHOLE_NUMBER = re.compile(r"\s*[+-]?[0-9]{1,18}\s*")
# Bytes of images of one sample that are held at least, whatever the largest image is.
_HELD_BYTES = 64 << 20


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
    if member.size_bytes > MAX_TEXT_BYTES:
        notes.add(UNPARSED, name, f"{member.name}, {member.size_bytes:,} bytes")
        return None
    try:
        text = tar.read(member).decode("utf-8")
    except UnicodeDecodeError:
        notes.add(UNPARSED, name, member.name)
        return None
    return fit_text(text.strip() if name == "cls" else text, name, kind, notes)


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
        return is_header(start)

    def explain(self, start: bytes) -> str | None:
        # Zeros alone are an archive only by name, because a damaged file of any format can begin with them.
        if self.recognises(start) or (start and not start[:BLOCK_BYTES].strip(b"\0")):
            return None
        return is_no("tar archive", start)

    def describe(
        self, corpus: Corpus, options: ReadOptions, known_types: Mapping[str, pa.DataType]
    ) -> Corpus:
        """Return the corpus with columns, if archives have texts beside images."""
        sight = look_for_columns(corpus.files, _look, _glance)
        if not sight:
            return corpus
        texts: dict[str, pa.DataType] = sight.content
        types = {name: known_types.get(output_name(name), kind) for name, kind in texts.items()}
        remarks = (*corpus.remarks, *sight.remarks(types, "texts beside images"))
        return replace(corpus, columns=tuple(types.items()), remarks=remarks)

    def read_images(self, shard: Shard, reading: Reading) -> Iterator[Row]:
        with open_stream(shard.file) as stream:
            reading.version = stream.version
            yield from read_images(TarReader(stream), reading)


def _look(file: ListFile) -> dict[str, pa.DataType]:
    with open_stream(file) as stream:
        return find_texts(stream)


def _glance(file: ListFile) -> dict[str, pa.DataType]:
    with open_stream(file) as stream:
        return find_texts(stream, _MEMBERS_GLANCED_AT, _BYTES_GLANCED_AT)


def find_texts(
    stream: Stream, most_members: int = _MEMBERS_LOOKED_AT, most_bytes: int = _BYTES_LOOKED_AT
) -> dict[str, pa.DataType]:
    """Return the columns of an archive by its first members: none, or the key and texts beside images."""
    tar = TarReader(stream)
    samples: dict[str, set[str]] = {}
    classes: list[str] = []
    try:
        for member in itertools.islice(tar, most_members):
            key, ending = _split_name(member.name)
            samples.setdefault(key, set()).add(
                "image" if member.name.lower().endswith(IMAGE_SUFFIXES) else ending
            )
            if ending == "cls" and member.size_bytes <= MAX_TEXT_BYTES:
                classes.append(tar.read(member).decode("utf-8", "replace"))
            if stream.position + member.size_bytes > most_bytes:
                break
    except RestError:
        pass  # reported when the archive is read
    parts = set().union(*(endings for endings in samples.values() if "image" in endings))
    columns = {name: pa.string() for name in (KEY, *SIDECARS) if name in parts}
    if not columns:
        return {}
    if "cls" in columns and all(map(_WHOLE_NUMBER.fullmatch, classes)):
        columns["cls"] = pa.int64()
    return {KEY: pa.string()} | columns


FORMAT: Final[ShardFormat] = _Tar()
