"""TFRecord files of `tf.train.Example`: records with checksums, read in one pass without TensorFlow."""

from __future__ import annotations

import itertools
import re
import struct
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Final

import google_crc32c
import pyarrow as pa

from labelbeam.transforms.errors import ImageError, Reason, UserError
from labelbeam.transforms.inputs.columns import output_name
from labelbeam.transforms.inputs.compression import Compression, compression_of, decode_by_input
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.inputs.examples import Feature, parse_example
from labelbeam.transforms.inputs.files import ListFile
from labelbeam.transforms.inputs.formats import ReadOptions, Shard, ShardFormat
from labelbeam.transforms.inputs.lists import STARTS_LOOKED_AT, list_suffixes
from labelbeam.transforms.inputs.shards import (
    Reading,
    Row,
    ShardFiles,
    describe_choice,
    is_no,
    look_for_columns,
)
from labelbeam.transforms.inputs.streams import RestError, Stream, open_stream
from labelbeam.transforms.notes import UNPARSED, Notes
from labelbeam.transforms.table.column_types import fit_value

# A record: the length, its checksum, the data, and the checksum of the data.
_LENGTH = struct.Struct("<QL")
_CHECKSUM = struct.Struct("<L")
# Bytes of a record beside the image.
_OTHER_BYTES = 16 << 20
# Records of a file that decide about columns, and the bytes up to there.
_RECORDS_LOOKED_AT = 100
_BYTES_LOOKED_AT = 64 << 20
# The same of further files, of which there can be a thousand.
_RECORDS_GLANCED_AT = 3
_BYTES_GLANCED_AT = 16 << 20
# TensorFlow's other compression, beside gzip. Only here, because text may begin with these bytes.
_ZLIB: Final = Compression(
    "zlib", ".zlib", re.compile(rb"\x78[\x01\x5e\x9c\xda]"), zlib.decompressobj, decode_by_input
)
# Usual names of the feature with the bytes of an image.
IMAGE_NAMES: Final = (
    *("image/encoded", "image", "image_raw", "image/raw", "image_bytes", "image/bytes", "encoded_image"),
    *("encoded", "jpeg", "jpg", "png", "img"),
)
_TYPES = {"bytes": pa.string(), "float": pa.float32(), "int64": pa.int64()}


class RecordReader:
    """The lengths of records in order; iteration skips data that was not read.

    Raises:
      RestError: A length is damaged, or the file is cut.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._unread_bytes = 0

    def __iter__(self) -> Iterator[int]:
        while header := self._stream.read_some(_LENGTH.size):
            at = self._stream.position - len(header)
            if len(header) < _LENGTH.size:
                raise RestError(f"the file is cut within the length of a record at byte {at:,}")
            length = _length_of(header)
            if length is None:
                raise RestError(f"the length of the record at byte {at:,} has a wrong checksum")
            self._unread_bytes = length + _CHECKSUM.size
            yield length
            self._stream.skip(self._unread_bytes)

    def read(self) -> bytes:
        """Read the data of the current record.

        Raises:
          ImageError: `truncated`: the checksum is wrong.
        """
        data = self._stream.read(self._unread_bytes)
        self._unread_bytes = 0
        (checksum,) = _CHECKSUM.unpack(data[-_CHECKSUM.size :])
        data = data[: -_CHECKSUM.size]
        if _masked(data) != checksum:
            raise ImageError(
                Reason.TRUNCATED, f"the record has {len(data):,} bytes, and their checksum is wrong"
            )
        return data


def _length_of(header: bytes) -> int | None:
    """Return the length of a record; None if its checksum is wrong."""
    length, checksum = _LENGTH.unpack(header)
    return length if _masked(header[:8]) == checksum else None


def _masked(data: bytes) -> int:
    """Return the CRC32C of bytes as TFRecord stores it."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read_images(records: RecordReader, reading: Reading) -> Iterator[Row]:
    """Read the images of records. References of images that are done have no columns."""
    for number, length in enumerate(records):
        ref = reading.ref(str(number))
        if reading.is_done(ref.id):
            yield ref
            continue
        try:
            if length > reading.max_bytes + _OTHER_BYTES:
                raise reading.too_large(length)
            features = _parse(records.read())
            ref = replace(ref, columns=_columns_of(features, reading))
            yield reading.image(ref, _image_of(features, reading))
        except RestError:
            raise
        except ImageError as e:
            yield reading.failure(ref, e)


def _parse(data: bytes) -> dict[str, Feature]:
    try:
        return parse_example(data)
    except ValueError as e:
        raise ImageError(Reason.BAD_ROW, f"the record {e}") from e


def _image_of(features: Mapping[str, Feature], reading: Reading) -> bytes:
    name = reading.corpus.image_feature
    feature = features.get(name, Feature(None, ()))
    values = feature.values
    if feature.kind != "bytes" or len(values) != 1:
        if not name:
            fault = "has features, and no file had records when the run was planned"
            raise ImageError(
                Reason.BAD_ROW, f"the record {fault}. Name the feature with the image with --image_feature"
            )
        has = f"{len(values):,} values of {feature.kind or 'no type'}"
        fault = f"feature {name!r} has {has}; an image is one of bytes"
        raise ImageError(
            Reason.BAD_ROW, f"the record's {fault}. Name the feature with the image with --image_feature"
        )
    if len(values[0]) > reading.max_bytes:
        raise reading.too_large(len(values[0]))
    return values[0]


def _columns_of(features: Mapping[str, Feature], reading: Reading) -> tuple[Any, ...]:
    return tuple(
        _value(features[name], name, kind, reading.notes) if name in features else None
        for name, kind in reading.corpus.columns
    )


def _value(feature: Feature, name: str, kind: pa.DataType, notes: Notes) -> Any:
    """Return the value of a feature; None, and a note, if it is not one value of the column's type."""
    if not feature.values:
        return None
    value = feature.values[0]
    is_one = len(feature.values) == 1 and (not isinstance(value, bytes) or _is_text(value))
    if not is_one:
        notes.add(UNPARSED, name, repr(feature.values[:2]))
        return None
    return fit_value(value.decode() if isinstance(value, bytes) else value, name, kind, notes)


class _TFRecord(ShardFiles):
    name = "tfrecord"
    suffixes = list_suffixes(".tfrecord", ".tfrecords", ".tfrec")

    def open(self, file: ListFile) -> AbstractContextManager[Stream]:
        return open_stream(file, compression_of=_compression_of)

    def recognises(self, start: bytes) -> bool:
        """Return whether the first bytes of a file are those of a record, also compressed by zlib."""
        return _is_record(start) or (_compression_of(start, "") is _ZLIB and _is_record(_inflate(start)))

    def explain(self, start: bytes) -> str | None:
        # A file without records is empty.
        if not start or self.recognises(start):
            return None
        return is_no("TFRecord file", start)

    def describe(
        self, corpus: Corpus, options: ReadOptions, known_types: Mapping[str, pa.DataType]
    ) -> Corpus:
        """Return the corpus with columns, by the first records."""
        sight = look_for_columns(corpus.files, self._look, self._glance)
        if not sight:
            if not options.image_feature and len(corpus.files) > STARTS_LOOKED_AT:
                raise UserError(
                    f"The first {STARTS_LOOKED_AT:,} files of {corpus.pattern} have no records. Name the "
                    "feature with the images with --image_feature."
                )
            return replace(corpus, image_feature=options.image_feature or "")
        records: list[dict[str, Feature]] = sight.content
        name = choose_image(records, options.image_feature, sight.path)
        types = {
            feature: known_types.get(output_name(feature), kind)
            for feature, kind in find_columns(records).items()
            if feature != name
        }
        choice = () if options.image_feature else (describe_choice("feature", name),)
        remarks = (*corpus.remarks, *choice, *sight.remarks(set().union(*records), "features"))
        return replace(corpus, image_feature=name, columns=tuple(types.items()), remarks=remarks)

    def _look(self, file: ListFile) -> list[dict[str, Feature]]:
        with self.open(file) as stream:
            return read_first(stream, file.path)

    def _glance(self, file: ListFile) -> set[str]:
        try:
            with self.open(file) as stream:
                records = read_first(stream, file.path, _RECORDS_GLANCED_AT, _BYTES_GLANCED_AT)
        except UserError:
            return set()  # its records fail one by one
        return set().union(*records)

    def read_images(self, shard: Shard, reading: Reading) -> Iterator[Row]:
        with self.open(shard.file) as stream:
            reading.version = stream.version
            yield from read_images(RecordReader(stream), reading)


def _is_record(start: bytes) -> bool:
    return len(start) >= _LENGTH.size and _length_of(start[: _LENGTH.size]) is not None


def _compression_of(start: bytes, path: str) -> Compression | None:
    # First, because lengths of records can be the first bytes of any compression.
    if _is_record(start):
        return None
    return compression_of(start, path) or (_ZLIB if _ZLIB.first_bytes.match(start) else None)


def _inflate(start: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(start, _LENGTH.size)
    except zlib.error:
        return b""


def read_first(
    stream: Stream,
    path: str,
    most_records: int = _RECORDS_LOOKED_AT,
    most_bytes: int = _BYTES_LOOKED_AT,
) -> list[dict[str, Feature]]:
    """Return the features of the first records that can be read.

    Raises:
      UserError: None of the first records is a `tf.train.Example`.
    """
    examples, error = [], None
    records = RecordReader(stream)
    try:
        for length in itertools.islice(records, most_records):
            if stream.position + length > most_bytes:
                break
            try:
                examples.append(_parse(records.read()))
            except RestError:
                raise
            except ImageError as e:
                error = e
    except RestError:
        pass  # reported when the file is read
    if error and not examples:
        raise UserError(f"{path}: {error}. Only records of tf.train.Example are read.")
    return examples


def choose_image(records: Sequence[Mapping[str, Feature]], wanted: str | None, path: str) -> str:
    """Return the name of the feature with the images.

    Raises:
      UserError: No feature has the name that is wanted, or not exactly one has a usual name.
    """
    names = sorted({name for record in records for name in record if record[name].kind == "bytes"})
    usual = [name for name in names if name in IMAGE_NAMES]
    if wanted in names or (not wanted and len(usual) == 1):
        return wanted or usual[0]
    fault = (
        f"image_feature={wanted!r} is no feature of bytes in {path}"
        if wanted
        else (
            f"{path} has several features that can be images: {', '.join(usual)}"
            if usual
            else f"{path} has no feature of a usual name, such as {', '.join(IMAGE_NAMES[:2])}"
        )
    )
    raise UserError(
        f"{fault}. Give one with --image_feature: {', '.join(names) or 'there is none of bytes'}."
    )


def find_columns(records: Sequence[Mapping[str, Feature]]) -> dict[str, pa.DataType]:
    """Return features that become columns: those of one kind, with one value at most, and of text."""
    kinds: dict[str, set[str]] = defaultdict(set)
    left_out = set()
    for record in records:
        for name, (kind, values) in record.items():
            if kind and len(values):
                kinds[name].add(kind)
                if len(values) > 1 or (kind == "bytes" and not _is_text(values[0])):
                    left_out.add(name)
    return {
        name: _TYPES[min(kinds[name])] for name in sorted(kinds.keys() - left_out) if len(kinds[name]) == 1
    }


def _is_text(value: bytes) -> bool:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return b"\0" not in value


FORMAT: Final[ShardFormat] = _TFRecord()
