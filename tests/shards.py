"""Shards for tests: reading them, and damage to them."""

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import google_crc32c
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from hypothesis import strategies as st

from labelbeam.pipeline.config import ReadConfig
from labelbeam.transforms.elements import Failure, ImageRef, InlineImage
from labelbeam.transforms.inputs.corpus import Corpus
from labelbeam.transforms.inputs.formats import Location
from labelbeam.transforms.inputs.shards import Reading
from labelbeam.transforms.notes import Notes

PACK = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}
PLAIN = b"plain text" * 100
_MAX_BYTES = 1 << 20


def reading_of(
    columns: tuple = (),
    max_bytes: int = _MAX_BYTES,
    is_done: Callable[[str], bool] = lambda _: False,
    **corpus: Any,
) -> Reading:
    """Return the reading of the file `/a`."""
    found = Corpus("/a", "any", columns=columns, holds_images=True, **corpus)
    return Reading("/a", found, Notes(), max_bytes, is_done)


def find(form: Any, path: Path, data: bytes | None = None, known: Any = None, **options: Any) -> Corpus:
    """Describe a file of a format, after writing its bytes."""
    if data is not None:
        path.write_bytes(data)
    name = str(path)
    return form.find(Location(name, name, name, False), replace(ReadConfig(), **options), known or {})


def read_all(form: Any, corpus: Corpus, **changes: Any) -> tuple[list, Notes]:
    """Read all shards of a corpus."""
    notes = Notes()
    is_done = changes.pop("is_done", lambda _: False)
    max_bytes = changes.pop("max_bytes", _MAX_BYTES)
    files, corpus = corpus.files, replace(corpus, **changes)
    shards = list(form.split(replace(corpus, files=files)))
    read = replace(corpus, files=())
    return [row for shard in shards for row in form.read(shard, read, notes, max_bytes, is_done)], notes


def tar_of(members: dict[str, bytes]) -> bytes:
    """Return an archive of files."""
    f = io.BytesIO()
    with tarfile.open(fileobj=f, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return f.getvalue()


def zip_of(members: dict[str, bytes]) -> bytes:
    """Return an archive of files."""
    f = io.BytesIO()
    with zipfile.ZipFile(f, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return f.getvalue()


def varint(value: int) -> bytes:
    """Return a number as protocol buffers have it."""
    value &= (1 << 64) - 1
    data = b""
    while value > 0x7F:
        data += bytes([value & 0x7F | 0x80])
        value >>= 7
    return data + bytes([value])


def _field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def example(**features: Any) -> bytes:
    """Return a `tf.train.Example` of features: bytes or whole numbers, one or a list of them."""
    entries = b""
    for name, values in features.items():
        values = values if isinstance(values, list) else [values]
        if isinstance(values[0], bytes):
            feature = _field(1, b"".join(_field(1, value) for value in values))
        else:
            feature = _field(3, _field(1, b"".join(map(varint, values))))
        entries += _field(1, _field(1, name.encode()) + _field(2, feature))
    return _field(1, entries)


def record(data: bytes) -> bytes:
    """Return a record of a TFRecord file."""
    length = struct.pack("<Q", len(data))
    return length + _masked_crc(length) + data + _masked_crc(data)


def _masked_crc(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<L", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def tfrecord_of(members: dict[str, bytes]) -> bytes:
    """Return a file of examples."""
    return b"".join(record(example(image=data)) for data in members.values())


def parquet_of(members: dict[str, bytes]) -> bytes:
    """Return a file with a column of bytes."""
    f = io.BytesIO()
    pq.write_table(pa.table({"image": list(members.values())}), f)
    return f.getvalue()


def summary(rows: list) -> list[tuple[str, Any]]:
    """Return the URI of each row, with the bytes of an image, the reason of a failure, or None."""
    return [_summary(row) for row in rows]


def _summary(row: InlineImage | ImageRef | Failure) -> tuple[str, Any]:
    if isinstance(row, ImageRef):
        return row.uri, None
    return row.ref.uri, row.data if isinstance(row, InlineImage) else row.reason


def images_of(rows: list) -> list[tuple[str, bytes]]:
    """Return URI and bytes of rows that are all images."""
    assert all(isinstance(row, InlineImage) for row in rows)
    return [(row.ref.uri, row.data) for row in rows]


def payloads() -> st.SearchStrategy[bytes]:
    """Return bytes of images, with lengths around those of blocks."""
    return st.one_of(st.binary(max_size=20), st.builds(bytes, st.sampled_from([511, 512, 513, 1024, 3000])))


def damage(whole: bytes, draw: Any) -> bytes:
    """Return bytes with one of them changed, with a range of zeros, or cut."""
    at = draw.draw(st.integers(0, len(whole) - 1))
    kind = draw.draw(st.sampled_from(["flip", "zero", "cut"]))
    if kind == "cut":
        return whole[:at]
    if kind == "zero":
        return zero(whole, *draw.draw(holes(len(whole))))
    damaged = bytearray(whole)
    damaged[at] ^= draw.draw(st.integers(1, 255))
    return bytes(damaged)


def holes(size: int) -> st.SearchStrategy[tuple[int, int]]:
    """Return the bounds of ranges in a file: any, those of blocks, and those up to the end of the file."""
    blocks = st.integers(0, size // 512).map(lambda n: n * 512)
    places = st.integers(0, size) | blocks
    bounds = st.tuples(places, places | st.just(size)).map(lambda pair: (min(pair), max(pair)))
    return bounds.filter(lambda pair: pair[0] < pair[1])


def zero(whole: bytes, start: int, end: int) -> bytes:
    """Return bytes with zeros in a range, as a download leaves them in a file of the full length."""
    return whole[:start] + bytes(end - start) + whole[end:]
