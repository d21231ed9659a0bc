"""Compressed lists: which compression a file has, and its end checked."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

import zstandard

from transforms.errors import RunError

# What the decoders raise for damaged bytes.
_DAMAGED = (zlib.error, lzma.LZMAError, zstandard.ZstdError, OSError, EOFError)
# zlib's window size, plus 16 for gzip's header and checksum.
_GZIP_WBITS = 16 + zlib.MAX_WBITS


class Compression(NamedTuple):
    """A compression format.

    Attributes:
      name: For messages.
      suffix: Ending of file names.
      magic: First bytes of every file.
      make_decoder: Returns a decoder with `decompress`, `eof` and `unused_data`.
    """

    name: str
    suffix: str
    magic: bytes
    make_decoder: Callable[[], Any]


FORMATS: Final = (
    Compression("gzip", ".gz", b"\x1f\x8b", lambda: zlib.decompressobj(_GZIP_WBITS)),
    Compression("bzip2", ".bz2", b"BZh", bz2.BZ2Decompressor),
    Compression("xz", ".xz", b"\xfd7zXZ\0", lzma.LZMADecompressor),
    Compression(
        "Zstandard", ".zst", b"\x28\xb5\x2f\xfd", lambda: zstandard.ZstdDecompressor().decompressobj()
    ),
)
MAGIC_BYTES: Final = max(len(one.magic) for one in FORMATS)


def compression_of(start: bytes, path: str) -> Compression | None:
    """Return the compression of a file by its first bytes.

    Raises:
      RunError: The name promises a compression that the bytes do not have, as after a download that was
        cut or decompressed on the way.
    """
    named = next((one for one in FORMATS if path.lower().endswith(one.suffix)), None)
    actual = next((one for one in FORMATS if start.startswith(one.magic)), None)
    if named and actual != named:
        raise RunError(
            f"{path} is named {named.suffix}, and its first bytes {start[:4]!r} are not those of "
            f"{named.name}. Copy the file again, or rename it."
        )
    return actual


def decompress(chunks: Iterable[bytes], compression: Compression, path: str) -> Iterator[bytes]:
    """Decompress a file of one or several members.

    The standard readers take a file that ends within a member as whole, or pass over what follows the
    last one. A list would lose lines that way without a word.

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
                data = decoder.decompress(chunk)
            except _DAMAGED as e:
                raise RunError(
                    f"{path} is damaged: {compression.name} reports {str(e) or type(e).__name__!r}. Put a "
                    "whole copy in its place."
                ) from e
            if data:
                yield data
            chunk = decoder.unused_data if decoder.eof else b""
    if not decoder.eof:
        raise RunError(
            f"{path} is cut: its {compression.name} data ends too early. Put a whole copy in its place."
        )
