"""Pieces of files that end exactly with their data, or one byte earlier."""

import struct

import pytest

from labelbeam.transforms.images.containers import (
    JP2_SIGNATURE,
    PNG_SIGNATURE,
    boxes,
    gif_blocks,
    jpeg_segments,
    png_chunks,
    tiff_header,
    webp_chunks,
)
from tests import image_files as files

EXIF = files.exif_of(6)


def webp_chunk(payload: bytes) -> bytes:
    return b"EXIF" + struct.pack("<I", len(payload)) + payload


def boxes_of(data):
    return boxes(data, 0, len(data))


FILES = {
    "PNG, empty chunk": (png_chunks, PNG_SIGNATURE + files.chunk(b"IDAT", b"x"), files.chunk(b"IEND")),
    "PNG": (png_chunks, PNG_SIGNATURE + files.chunk(b"IDAT", b"x"), files.chunk(b"eXIf", EXIF)),
    "WebP, empty chunk": (webp_chunks, b"RIFF\0\0\0\0WEBP" + webp_chunk(b"xx"), webp_chunk(b"")),
    "WebP": (webp_chunks, b"RIFF\0\0\0\0WEBP" + webp_chunk(b"xx"), webp_chunk(b"xx")),
    "WebP, padding left out": (webp_chunks, b"RIFF\0\0\0\0WEBP" + webp_chunk(b"xx"), webp_chunk(b"x")),
    "boxes, empty": (boxes_of, JP2_SIGNATURE, files.box(b"free", b"")),
    "boxes": (boxes_of, JP2_SIGNATURE, files.box(b"uuid", b"x")),
    "boxes, long": (boxes_of, JP2_SIGNATURE, struct.pack(">I4sQ", 1, b"uuid", 17) + b"x"),
    "boxes, long and empty": (boxes_of, JP2_SIGNATURE, struct.pack(">I4sQ", 1, b"uuid", 16)),
}


@pytest.mark.parametrize("name", FILES)
def test_pieces__the_last_one_ends_with_the_data__is_complete_only_then(name):
    pieces, start, last = FILES[name]
    (*before, piece) = pieces(start + last)
    assert (piece.start, piece.end) == (len(start), len(start) + len(last))
    assert list(pieces(start + last[:-1])) == before == list(pieces(start)) != []


@pytest.mark.parametrize(("size", "segments"), [(3, 0), (4, 1), (5, 1)])
def test_jpeg_segments__header_at_the_end__is_a_segment(size, segments):
    assert len(list(jpeg_segments(b"\xff\xd8" + b"\xff\xe1\0\2x"[:size]))) == segments


@pytest.mark.parametrize(("size", "header"), [(15, False), (16, True), (17, True)])
def test_tiff_header__shortest_block__is_read(size, header):
    assert (tiff_header(EXIF[:size]) is not None) == header


@pytest.mark.parametrize(("version", "kind"), [(41, None), (42, "I"), (43, "Q"), (44, None)])
def test_tiff_header__versions__set_the_type_of_offsets(version, kind):
    header = tiff_header(struct.pack("<2sHI", b"II", version, 8).ljust(16, b"\0"))
    assert (header and header.offset) == kind


@pytest.mark.parametrize("size", [0, 13, 14, 24])
def test_gif_blocks__without_an_image__end(size):
    assert [block.kind for block in gif_blocks(b"GIF89a".ljust(size, b"\0"))] == [b";"]
