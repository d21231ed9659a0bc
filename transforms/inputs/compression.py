"""Compressed lists: detection of the compression, and decompression that checks the end."""

from __future__ import annotations

import bz2
import lzma
import re
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, Final, NamedTuple

import zstandard

from labelbeam.transforms.errors import RunError

# Errors that decoders raise for damaged bytes.
_DAMAGED = (zlib.error, lzma.LZMAError, zstandard.ZstdError, OSError, EOFError)
# zlib's window size, plus 16 for gzip's header and checksum.
_GZIP_WBITS = 16 + zlib.MAX_WBITS
# Bounds of memory, because 800 bytes of bzip2 can hold 1 GiB of equal lines. Decoders that cannot stop at a
# size of their output get so little input that it becomes 1 MiB (gzip) or 32 MiB (Zstandard) at most.
_PIECE_BYTES = 1 << 20
_SLICE_BYTES = 1 << 10


def _decode_by_output(decoder: Any, chunk: bytes) -> Generator[bytes, None, bytes]:
    """Decode by a decoder that can stop at a size of its output."""
    yield decoder.decompress(chunk, _PIECE_BYTES)
    while not (decoder.eof or decoder.needs_input):
        yield decoder.decompress(b"", _PIECE_BYTES)
    return decoder.unused_data if decoder.eof else b""


def decode_by_input(decoder: Any, chunk: bytes) -> Generator[bytes, None, bytes]:
    """Decode by a decoder that cannot limit its output."""
    for end in range(_SLICE_BYTES, len(chunk) + _SLICE_BYTES, _SLICE_BYTES):
        yield decoder.decompress(chunk[end - _SLICE_BYTES : end])
        if decoder.eof:
            return decoder.unused_data + chunk[end:]
    return b""


class Compression(NamedTuple):
    """A compression format.

    Attributes:
      name: For messages.
      suffix: Ending of file names.
      first_bytes: Pattern of the bytes that every file begins with.
      make_decoder: Returns a decoder with `decompress`, `eof` and `unused_data`.
      decode: Yields the content of a chunk in bounded pieces, and returns the bytes behind the member.
    """

    name: str
    suffix: str
    first_bytes: re.Pattern[bytes]
    make_decoder: Callable[[], Any]
    decode: Callable[[Any, bytes], Generator[bytes, None, bytes]]


FORMATS: Final = (
    Compression(
        "gzip",
        ".gz",
        re.compile(rb"\x1f\x8b\x08"),
        lambda: zlib.decompressobj(_GZIP_WBITS),
        decode_by_input,
    ),
    # Followed by a block or by the end of an empty file, because text may begin with BZh too.
    Compression(
        "bzip2",
        ".bz2",
        re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"),
        bz2.BZ2Decompressor,
        _decode_by_output,
    ),
    Compression("xz", ".xz", re.compile(rb"\xfd7zXZ\0"), lzma.LZMADecompressor, _decode_by_output),
    Compression(
        "Zstandard",  # its files may begin with a frame that is skipped, as those of pzstd do
        ".zst",
        re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),
        lambda: zstandard.ZstdDecompressor().decompressobj(),
        decode_by_input,
    ),
)
# Of the longest beginning, bzip2's.
MAGIC_BYTES: Final = 10


def compression_of(start: bytes, path: str) -> Compression | None:
    """Return the compression of a file by its first bytes.

    Raises:
      RunError: The name promises a compression that the bytes do not have, as after a download that was
        cut or decompressed on the way.
    """
    by_name = next((one for one in FORMATS if path.lower().endswith(one.suffix)), None)
    by_bytes = next((one for one in FORMATS if one.first_bytes.match(start)), None)
    if by_name and by_bytes != by_name:
        raise RunError(
            f"{path} is named {by_name.suffix}, and its first bytes {start[:4]!r} are not those of "
            f"{by_name.name}. Copy the file again, or rename it."
        )
    return by_bytes


def decompress(chunks: Iterable[bytes], compression: Compression, path: str) -> Iterator[bytes]:
    """Decompress a file of one or several members.

    Python's own readers are not used, because they take a file that ends within a member as whole, or skip
    bytes behind the last member, so that a list would lose lines unnoticed.

    Raises:
      RunError: The file is cut, damaged, or goes on with something else. Bytes that were right up to
        there have been yielded.
    """
    decoder = compression.make_decoder()
    for chunk in chunks:
        while chunk:
            if decoder.eof:
                chunk = chunk.lstrip(b"\0")  # padding, as tapes and xz have it
                if not chunk:
                    break
                decoder = compression.make_decoder()
            try:
                chunk = yield from compression.decode(decoder, chunk)
            except _DAMAGED as e:
                if "too much memory" in str(e):
                    raise RunError(
                        f"{path} needs more memory than decoders give it. Compress it again without --long."
                    ) from e
                raise RunError(
                    f"{path} is damaged: {compression.name} reports {str(e) or type(e).__name__!r}. Put a "
                    "whole copy in its place."
                ) from e
    if not decoder.eof:
        raise RunError(
            f"{path} is cut: its {compression.name} data ends too early. Put a whole copy in its place."
        )
