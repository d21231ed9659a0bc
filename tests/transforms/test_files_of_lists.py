"""Files of lists: lines, pieces, and checks of their ends."""

import bz2
import gzip
import lzma
import random

import pytest
import zstandard

from labelbeam.transforms.errors import RunError
from labelbeam.transforms.inputs import files
from labelbeam.transforms.inputs.compression import FORMATS, MAGIC_BYTES, compression_of, decompress
from labelbeam.transforms.inputs.files import (
    LongLine,
    Piece,
    match_files,
    read_piece,
    read_start,
    split_files,
    split_lines,
)

LINES = [f"gs://bucket/{random.Random(n).getrandbits(200):x}/{n}.jpg".encode() for n in range(2000)]
TEXT = b"\n".join(LINES) + b"\n"
PACK = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}
PACKED = {suffix: pack(TEXT) for suffix, pack in PACK.items()}


def lines_of(path) -> list:
    (file,) = match_files(str(path))
    return [line for piece in split_files([file]) for line in read_piece(piece)]


@pytest.fixture(params=PACKED)
def packed(request, tmp_path):
    """Return a path and the whole bytes of the file."""
    return tmp_path / f"list.txt{request.param}", PACKED[request.param]


def test_read_piece__compressed_in_one_or_several_members_or_padded__gives_all_lines(packed):
    path, data = packed
    padded = data + bytes(512)
    for whole, times in ((data, 1), (data + data, 2), (padded, 1), (padded + padded, 2)):
        path.write_bytes(whole)
        assert lines_of(path) == LINES * times
    assert read_start(str(path), 1000) == TEXT[:1000]


def test_read_piece__cut_anywhere__is_refused_by_name(packed):
    path, data = packed
    for at in [0, 1, 2, len(data) - 1, *random.Random(1).sample(range(3, len(data) - 1), 50)]:
        path.write_bytes(data[:at])
        with pytest.raises(RunError, match=path.name):
            lines_of(path)


def test_read_piece__junk_behind__is_refused_by_name(packed):
    path, data = packed
    for junk in (b"x", b"\n", data[:10], TEXT[:100], bytes(10) + b"x"):
        path.write_bytes(data + junk)
        with pytest.raises(RunError, match=path.name):
            lines_of(path)


def test_read_piece__flipped_bits__are_refused_or_change_no_line(packed):
    path, data = packed
    chance = random.Random(2)
    for _ in range(50):
        flipped = bytearray(data)
        flipped[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        try:
            assert lines_of(path) == LINES
        except RunError as e:
            assert path.name in str(e)


def test_decompress__zstandard_with_skipped_frames__gives_all_lines(tmp_path):
    skipped = b"\x5a\x2a\x4d\x18\4\0\0\0abcd"
    (tmp_path / "list.zst").write_bytes(skipped + PACKED[".zst"] + skipped + PACKED[".zst"] + skipped)
    assert lines_of(tmp_path / "list.zst") == LINES * 2


def test_decompress__large_window__has_a_remedy_that_works(tmp_path):
    parameters = zstandard.ZstdCompressionParameters(window_log=28, write_content_size=False)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    (tmp_path / "list.zst").write_bytes(packer.compress(TEXT) + packer.flush())
    with pytest.raises(RunError, match="Compress it again without --long"):
        lines_of(tmp_path / "list.zst")


@pytest.mark.parametrize("suffix", PACKED)
def test_decompress__equal_lines__come_in_pieces_of_bounded_size(suffix):
    (compression,) = (one for one in FORMATS if one.suffix == suffix)
    data = PACK[suffix](b"\n" * (96 << 20))
    pieces = [len(piece) for piece in decompress([data], compression, "list")]
    assert sum(pieces) == 96 << 20 and max(pieces) <= 32 << 20


def test_compression_of__text_that_begins_like_bzip2__is_text():
    for text in (b"BZh\n", b"BZh9.jpg\n", b"BZh91.jpg"):
        assert compression_of(text[:MAGIC_BYTES], "list.txt") is None
    for data in (b"", b"x"):
        assert compression_of(bz2.compress(data)[:MAGIC_BYTES], "list.txt").name == "bzip2"


def test_read_piece__compressed_without_a_suffix__is_decompressed(packed, tmp_path):
    (tmp_path / "list").write_bytes(packed[1])
    assert lines_of(tmp_path / "list") == LINES


@pytest.mark.parametrize("seed", range(20))
def test_split_files__pieces_of_any_size__give_each_line_once(tmp_path, monkeypatch, seed):
    chance = random.Random(seed)
    monkeypatch.setattr(files, "PIECE_BYTES", chance.randint(1, 40))
    monkeypatch.setattr(files, "MAX_LINE_BYTES", 30)
    monkeypatch.setattr(files, "_CHUNK_BYTES", chance.randint(1, 20))
    text = b"".join(
        chance.choice([b"\n", b"\r\n", b"a", b"bc", b"d" * chance.randint(1, 50)]) for _ in range(60)
    )
    (tmp_path / "list.txt").write_bytes(text)
    whole = text.removesuffix(b"\n").split(b"\n")
    lines = lines_of(tmp_path / "list.txt")
    assert len(lines) == len(whole)
    for line, expected in zip(lines, whole, strict=True):
        if isinstance(line, LongLine):
            assert line.size_bytes == len(expected) > 30 and line.head == expected[: len(line.head)]
        else:
            assert line == expected.removesuffix(b"\r")


def test_split_lines__line_of_40_mb__is_held_in_little_memory():
    chunks = [b"x" * (1 << 18)] * 160
    ((line, size_bytes), (last, _)) = split_lines([*chunks, b"\nend"])
    assert (line.size_bytes, size_bytes, last) == (40 << 20, (40 << 20) + 1, b"end")
    assert len(line.head) == 1000


def test_split_files__large_compressed_file__is_one_piece(packed, monkeypatch):
    path, data = packed
    monkeypatch.setattr(files, "PIECE_BYTES", 100)
    path.write_bytes(data)
    (file,) = match_files(str(path))
    assert list(split_files([file])) == [Piece(file, 0, len(data))]
